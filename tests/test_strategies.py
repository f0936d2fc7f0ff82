"""Strategies: the same answer every time, and an answer whatever the study's state."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.scores import Scores
from adapters.store import StudyDatastore
from adapters.study import Study
from conftest import make_tiny_study, save_nifti, tiny_scan
from lib.config import STRATEGIES, Settings
from strategies import Recommended, Uniform
from strategies.uniform import spread


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = make_tiny_study(tmp_path / "study", scans=5)
    return Study(str(folder), StudyDatastore(str(folder)), Settings(), tmp_path / "models")


@pytest.fixture
def label(tmp_path: Path) -> str:
    _, values, affine = tiny_scan(2)
    return str(save_nifti(tmp_path / "some.nii.gz", values, affine))


def ask(strategy: Recommended | Uniform) -> str | None:
    first = strategy({}, strategy.study.datastore)
    assert strategy({}, strategy.study.datastore) == first
    return first.get("id")


def test_first_by_name_when_nothing_is_known(study: Study) -> None:
    assert ask(Recommended(study)) == "case_2"


def test_least_confident_pseudo_label(study: Study, label: str) -> None:
    for name, confidence in (("case_2", 0.9), ("case_3", 0.4), ("case_4", 0.4), ("case_5", 0.6)):
        study.datastore.save_label(name, label, "original", {"params": {"confidence": confidence}})
    assert ask(Recommended(study)) == "case_3"


def test_propagated_labels_are_compared_by_one_measure(study: Study, label: str) -> None:
    of_a_batch = {"source": "propagation", "confidence": 0.5}
    of_round_0 = {"source": "propagation", "confidence": 0.4, "uncertainty": 0.1}
    study.datastore.save_label("case_2", label, "original", {"params": of_a_batch})
    study.datastore.save_label("case_3", label, "original", {"params": of_round_0})
    assert ask(Recommended(study)) == "case_3"


def test_scores_go_before_what_labels_say(study: Study, label: str) -> None:
    study.datastore.save_label("case_2", label, "original", {"params": {"uncertainty": 0.9}})
    Scores(study).put({"case_2": 0.1, "case_4": 0.5, "case_5": 0.2})
    assert ask(Recommended(study)) == "case_4"
    assert study.datastore.get_image_info("case_4")["uncertainty"] == 0.5
    assert Scores(study).missing() == ["case_3"]


def test_scans_that_cannot_be_scored_are_not_due_again_and_again(study: Study) -> None:
    scores = Scores(study)
    scores.put(dict.fromkeys(["case_2", "case_4", "case_5"], 0.5))
    scores.put_failed(["case_3"])
    assert scores.missing() == []
    assert scores.missing(retry=True) == ["case_3"]
    assert ask(Recommended(study)) == "case_2"
    scores.put({"case_3": 0.7})
    assert scores.missing(retry=True) == []
    assert ask(Recommended(study)) == "case_3"


def test_scores_of_another_state_are_due_again(study: Study, label: str) -> None:
    Scores(study).put(dict.fromkeys(study.unlabelled(), 0.5))
    assert Scores(study).missing() == []
    study.published.write_bytes(b"a specialist")
    assert Scores(study).missing() == study.unlabelled()


def test_nothing_left(study: Study, label: str) -> None:
    study.datastore.serving = True
    for name in study.unlabelled():
        study.datastore.save_label(name, label, "final", {})
    assert ask(Recommended(study)) is None
    assert ask(Uniform(study)) is None


def test_uniform_takes_the_study_apart(study: Study) -> None:
    assert ask(Uniform(study)) == "case_5"


@pytest.mark.parametrize("count", [0, 1, 2, 5, 8, 13])
def test_spread_names_each_once(count: int) -> None:
    assert sorted(spread(count)) == list(range(count))


def test_spread_goes_far_first() -> None:
    assert spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]


def test_default_strategies_exist() -> None:
    assert STRATEGIES == ("recommended", "uniform")

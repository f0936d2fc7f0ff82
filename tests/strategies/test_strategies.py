"""Strategies: the right scan, said why, nothing twice, and an answer whatever the study's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lib.core.errors import UserError
from lib.setup.settings import STRATEGIES, Settings
from server.requests.submitted import settle
from server.scores.descriptors import Descriptors
from server.scores.offered import SECONDS, OfferedScans
from server.scores.scores import QUALITY, REPRESENTATIVENESS, UNCERTAINTY, Scores
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from strategies import MEASURES, HighestUncertainty, Recommended, Review, StudyStrategy, Template, Uniform
from tiny_study import make_tiny_study, save_nifti, tiny_scan

SCANS = 6


def a_study(folder: Path, finals: int) -> Study:
    scans = make_tiny_study(folder / "study", scans=SCANS, finals=finals)
    return Study(str(scans), StudyDatastore(str(scans)), Settings(), folder / "models")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """case_1 is outlined, case_2 to case_6 are not."""
    return a_study(tmp_path, finals=1)


@pytest.fixture
def label(tmp_path: Path) -> str:
    _, values, affine = tiny_scan(2)
    return str(save_nifti(tmp_path / "some.nii.gz", values, affine))


def all_of(study: Study) -> list[StudyStrategy]:
    uncertainties = [HighestUncertainty(study, name, text) for name, text in MEASURES.items()]
    return [Recommended(study), Template(study), *uncertainties, Review(study), Uniform(study)]


def ask(strategy: StudyStrategy, client: str = "anna") -> dict[str, Any]:
    return strategy({"client_id": client}, strategy.study.datastore)


def first(strategy: StudyStrategy) -> str:
    """The scan it offers when nothing was offered before."""
    forget_offers(strategy.study)
    return str(ask(strategy)["id"])


def forget_offers(study: Study) -> None:
    """As if hours had passed."""
    (study.place / "served.json").unlink(missing_ok=True)


def describe_all(study: Study, directions: dict[str, list[float]]) -> None:
    values = {name: torch.nn.functional.normalize(torch.tensor(v), dim=0) for name, v in directions.items()}
    Descriptors(study).put(values)
    Scores(study).add(REPRESENTATIVENESS, {name: {REPRESENTATIVENESS: v[0]} for name, v in directions.items()})


def score(study: Study, **uncertainties: float) -> None:
    Scores(study).add(
        UNCERTAINTY, {n: {UNCERTAINTY: v, **dict.fromkeys(MEASURES, v)} for n, v in uncertainties.items()}
    )


# --- which scan -------------------------------------------------------------------------------------------------------


def test_names_are_those_that_may_be_the_default(study: Study) -> None:
    assert tuple(strategy.name for strategy in all_of(study)) == STRATEGIES


def test_first_by_name_when_nothing_is_known(study: Study) -> None:
    reply = ask(Recommended(study))
    assert reply["id"] == "case_2"
    assert "propagate" in reply["reason"]


def test_template_covers_the_study(tmp_path: Path) -> None:
    study = a_study(tmp_path, finals=0)
    # Four scans alike with case_3 in their middle, and two of another kind.
    describe_all(
        study,
        {
            "case_1": [1.0, 0.3, 0.0, 0.0],
            "case_2": [1.0, 0.0, 0.3, 0.0],
            "case_3": [1.0, 0.0, 0.0, 0.0],
            "case_4": [1.0, -0.2, -0.2, 0.0],
            "case_5": [0.0, 0.0, 0.1, 1.0],
            "case_6": [0.0, 0.0, 0.0, 1.0],
        },
    )
    recommended = ask(Recommended(study))
    assert recommended["id"] == "case_3"
    assert "No scan is outlined yet" in recommended["reason"]
    assert ask(Template(study), "ben")["id"] in ("case_5", "case_6")


def test_template_is_unlike_what_is_outlined(study: Study) -> None:
    alike = {f"case_{n}": [1.0, 0.01 * n, 0.0] for n in (1, 2, 3)}
    describe_all(study, alike | {f"case_{n}": [0.0, 0.01 * n, 1.0] for n in (4, 5, 6)})
    assert first(Template(study)) in ("case_4", "case_5", "case_6")


def test_least_confident_pseudo_label(study: Study, label: str) -> None:
    for name, confidence in (("case_2", 0.9), ("case_3", 0.4), ("case_4", 0.4), ("case_5", 0.6)):
        study.datastore.save_label(name, label, "original", {"params": {"confidence": confidence}})
    reply = ask(Recommended(study))
    assert reply["id"] == "case_3"
    assert reply["uncertainty"] == 0.6
    assert "0.60" in reply["reason"]


def test_propagated_labels_are_compared_by_one_measure(study: Study, label: str) -> None:
    of_a_batch = {"source": "propagation", "confidence": 0.5}
    of_round_0 = {"source": "propagation", "confidence": 0.4, "uncertainty": 0.1}
    study.datastore.save_label("case_2", label, "original", {"params": of_a_batch})
    study.datastore.save_label("case_3", label, "original", {"params": of_round_0})
    assert first(Recommended(study)) == "case_3"


def test_scores_go_before_what_labels_say(study: Study, label: str) -> None:
    study.datastore.save_label("case_2", label, "original", {"params": {"uncertainty": 0.9}})
    Scores(study).put({"case_2": 0.1, "case_4": 0.5, "case_5": 0.2})
    assert first(Recommended(study)) == "case_4"
    assert study.datastore.get_image_info("case_4")["uncertainty"] == 0.5


def test_of_the_uncertain_scans_one_that_stands_for_others(tmp_path: Path) -> None:
    folder = make_tiny_study(tmp_path / "study", scans=1)
    source = folder / "case_1.nii.gz"
    for number in range(2, 14):
        (folder / f"case_{number}.nii.gz").hardlink_to(source)
    study = Study(str(folder), StudyDatastore(str(folder)), Settings(), tmp_path / "models")
    names = study.unlabelled()
    score(study, **dict.fromkeys(names, 0.1) | {"case_7": 0.9, "case_8": 0.8, "case_9": 0.8})
    describe_all(
        study,
        {name: [0.0, 0.0, 1.0] for name in ["case_1", *names]}
        | {"case_7": [0.0, 1.0, 0.0], "case_8": [1.0, 0.0, 0.0], "case_9": [1.0, 0.1, 0.0]},
    )
    # case_7 is the least sure one, but like no other; 8 and 9 are alike.
    reply = ask(Recommended(study))
    assert reply["id"] in ("case_8", "case_9")
    assert reply["reason"] == (
        "The app is unsure about this scan (it is among the 3 most uncertain of 12), "
        "and it resembles the other uncertain ones most."
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_each_measure_has_its_own_order(study: Study, measure: str) -> None:
    others = dict.fromkeys((UNCERTAINTY, *MEASURES), 0.9)
    values = {"case_2": 0.1, "case_3": 0.3, "case_4": 0.7}
    Scores(study).add(UNCERTAINTY, {n: others | {measure: v} for n, v in values.items()})
    strategy = HighestUncertainty(study, measure, MEASURES[measure])
    reply = ask(strategy)
    assert (reply["id"], reply[measure]) == ("case_4", 0.7)
    assert [ask(strategy)["id"] for _ in range(3)] == ["case_3", "case_2", "case_5"]


def test_review_takes_the_worst_pseudo_label_first(study: Study, label: str) -> None:
    for name in ("case_2", "case_3", "case_4"):
        study.datastore.save_label(name, label, "original", {"params": {"confidence": 0.5}})
    before = ask(Review(study), "before")
    assert "not judged yet" in before["reason"]
    Scores(study).add(QUALITY, {"case_3": {QUALITY: 0.6}, "case_4": {QUALITY: 0.9}})
    reply = ask(Review(study))
    assert (reply["id"], reply[QUALITY]) == ("case_3", 0.6)
    assert set(reply["planes"]) == {"axial", "coronal", "sagittal"}
    assert ask(Review(study))["id"] == "case_4"
    assert "has a pseudo-label to review" in ask(Review(study))["reason"]


def test_uniform_takes_the_study_apart(study: Study) -> None:
    assert [ask(Uniform(study))["id"] for _ in range(3)] == ["case_5", "case_3", "case_2"]


def test_nearly_identical_scans_do_not_follow_each_other(study: Study) -> None:
    score(study, case_2=0.9, case_3=0.8, case_4=0.7, case_5=0.1, case_6=0.1)
    eye = torch.eye(5)
    table = {"case_1": eye[0], "case_2": eye[1], "case_3": eye[1], "case_4": eye[2], "case_5": eye[3], "case_6": eye[4]}
    Descriptors(study).put(table)
    strategy = HighestUncertainty(study, "highest_entropy", "")
    assert [ask(strategy)["id"] for _ in range(2)] == ["case_2", "case_4"]


@pytest.mark.parametrize("offered", [True, False])
def test_after_an_outline_comes_no_scan_that_looks_like_it(study: Study, label: str, offered: bool) -> None:
    eye = torch.eye(5)
    table = {"case_1": eye[0], "case_2": eye[1], "case_3": eye[1], "case_4": eye[2], "case_5": eye[3], "case_6": eye[4]}
    Descriptors(study).put(table)
    score(study, case_2=0.9, case_3=0.8, case_4=0.7, case_5=0.1, case_6=0.1)
    strategy = HighestUncertainty(study, "highest_entropy", "")
    if offered:
        assert ask(strategy)["id"] == "case_2"
    study.datastore.serving = True
    study.datastore.save_label("case_2", label, "final", {})
    settle(study, "case_2")
    assert ask(strategy)["id"] == "case_4"


# --- planes -----------------------------------------------------------------------------------------------------------


def test_planes_of_the_last_prediction_go_before_those_of_the_label(study: Study, label: str) -> None:
    study.datastore.save_label("case_2", label, "original", {"params": {"confidence": 0.1}})
    own = ask(Recommended(study))
    assert own["id"] == "case_2"
    # The ball and the rod lie around voxel (12, 15, 14) and (26, 18, 14); both are cut by a middle plane.
    assert abs(own["planes"]["axial"]["index"] - 14) <= 5
    forget_offers(study)
    planes = {"axial": {"axis": 2, "index": 3}}
    Scores(study).add(UNCERTAINTY, {"case_2": {UNCERTAINTY: 0.9, "planes": planes}})
    assert ask(Recommended(study))["planes"] == planes


# --- nobody gets what somebody else has -------------------------------------------------------------------------------


def test_what_was_offered_is_not_offered_again_at_once(study: Study) -> None:
    clients = ["anna", "ben", "anna", "ben", "anna"]
    offered = [ask(strategy, client)["id"] for strategy, client in zip(all_of(study), clients, strict=False)]
    assert sorted(offered) == study.unlabelled()


def test_when_all_were_offered_the_own_oldest_comes_again(study: Study) -> None:
    strategy = Uniform(study)
    given = [ask(strategy, client)["id"] for client in ("ben", "anna", "ben", "anna", "ben")]
    again = ask(strategy, "anna")
    assert again["id"] == given[1]
    assert "offered in the last 2 hours" in again["reason"]
    assert "ben" in ask(strategy, "carla")["reason"]


def test_an_offer_expires(study: Study) -> None:
    now = 1_000_000.0
    served = OfferedScans(study, clock=lambda: now)
    strategy = Uniform(study)
    strategy.offered = served
    name = ask(strategy)["id"]
    assert ask(strategy)["id"] != name
    now += SECONDS
    assert ask(strategy)["id"] == name


def test_damaged_marks_are_no_error(study: Study) -> None:
    study.place.mkdir(parents=True)
    for content in ("{", "[]", '{"case_5": 3, "case_3": {"client": "a"}}'):
        (study.place / "served.json").write_text(content, encoding="utf-8")
        assert ask(Uniform(study))["id"] == "case_5"


# --- bad scans, and the end -------------------------------------------------------------------------------------------


def test_scans_that_cannot_be_read_come_last(tmp_path: Path) -> None:
    study = a_study(tmp_path, finals=1)
    for name in ("case_2", "case_5"):
        (tmp_path / "study" / f"{name}.nii.gz").write_bytes(b"no scan")
    for strategy in all_of(study):
        assert first(strategy) in ("case_3", "case_4", "case_6")
    forget_offers(study)
    offered = [ask(Recommended(study))["id"] for _ in range(3)]
    assert sorted(offered) == ["case_3", "case_4", "case_6"]
    assert set(Scores(study).unusable()) == {"case_2", "case_5"}


def test_only_bad_scans_left(tmp_path: Path) -> None:
    study = a_study(tmp_path, finals=SCANS - 1)
    (tmp_path / "study" / "case_6.nii.gz").write_bytes(b"no scan")
    reply = ask(Recommended(study))
    assert reply["id"] == "case_6"
    assert "cannot be read" in reply["reason"]


def test_nothing_left(study: Study, label: str) -> None:
    study.datastore.serving = True
    for name in study.unlabelled():
        study.datastore.save_label(name, label, "final", {})
    for strategy in all_of(study):
        assert ask(strategy) == {}


def test_a_study_without_scans_is_not_a_finished_one(tmp_path: Path) -> None:
    study = Study(str(tmp_path), StudyDatastore(str(tmp_path)), Settings(), tmp_path / "models")
    for strategy in all_of(study):
        with pytest.raises(UserError, match="may be mistyped") as refused:
            ask(strategy)
        assert refused.value.status == 404


def test_files_that_are_no_scans_are_counted_where_there_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").symlink_to("/dev/zero")
    study = Study(str(tmp_path), StudyDatastore(str(tmp_path)), Settings(), tmp_path / "models")
    with pytest.raises(UserError, match="no usable scans: 1; /info/ says why"):
        ask(Recommended(study))


def test_a_saved_outline_settles_the_scan(study: Study, tmp_path: Path) -> None:
    _, values, affine = tiny_scan(3)
    file = str(save_nifti(tmp_path / "three.nii.gz", values, affine))
    study.datastore.save_label("case_3", file, "original", {"params": {"confidence": 0.2}})
    Scores(study).add(QUALITY, {"case_3": {QUALITY: 0.7, "raw": 0.65}})
    score(study, case_3=0.8, case_4=0.5)
    assert ask(Recommended(study))["id"] == "case_3"
    study.datastore.serving = True
    study.datastore.save_label("case_3", file, "final", {})
    reply = settle(study, "case_3")
    assert reply["pseudo_label_dice"] == 1.0
    assert "propagate" in reply["advice"]
    assert list(OfferedScans(study).marks()) == []
    assert Scores(study).read()["case_3"]["settled"]["raw"] == 0.65
    assert study.datastore.get_image_info("case_3")["uncertainty"] is None
    assert ask(Recommended(study))["id"] == "case_4"

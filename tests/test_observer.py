"""What a training leaves for the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.scores import Scores
from adapters.store import StudyDatastore
from adapters.study import Study
from conftest import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan
from lib.config import Settings
from lib.labels import LabelSchema
from lib.recipes import FinishedRound, Progress, PseudoLabel, RecipeOptions
from trainers.observer import TrainingObserver

NAMES = {name: value for value, name in enumerate(TINY_LABELS, start=1)}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = make_tiny_study(tmp_path / "study", scans=3)
    settings = Settings(labels=LabelSchema(tuple(TINY_LABELS)))
    return Study(str(folder), StudyDatastore(str(folder)), settings, tmp_path / "models")


def finished(folder: Path, index: int) -> FinishedRound:
    _, label, affine = tiny_scan(2)
    path = save_nifti(folder / f"label-{index}.nii.gz", label, affine)
    source = "specialist" if index else "propagation"
    params = {"label_names": NAMES, "uncertainty": 0.3, "source": source, "round": index}
    checkpoint = folder / f"specialist-{index}.pt"
    checkpoint.write_bytes(b"%d" % index)
    return FinishedRound(index, checkpoint if index else None, {"case_2": PseudoLabel(path, params)}, 0.5)


def stored(study: Study) -> object:
    return study.datastore.get_label_info("case_2", "original").get("params", {}).get("round")


def progress_bar(study: Study) -> float:
    """Percent, by the division that 3D Slicer makes at any time while a training runs."""
    stats = json.loads((study.folder / "train_stats.json").read_text(encoding="utf-8"))
    return 100 * float(stats["epoch"]) / float(stats["total_epochs"])


def test_progress_bar_can_be_drawn_from_the_start(study: Study) -> None:
    observer = TrainingObserver(study, RecipeOptions())
    assert progress_bar(study) == 0
    observer.progress(Progress(3, 12, 1, 2, "training", 0.5, 9.0, {}))
    assert progress_bar(study) == 25


def test_progress_bar_of_a_training_that_fails_at_once_is_empty(study: Study) -> None:
    TrainingObserver(study, RecipeOptions()).failed(ValueError("no outlined scan"))
    assert progress_bar(study) == 0


def test_propagation_does_not_replace_a_specialists_labels(study: Study, tmp_path: Path) -> None:
    observer = TrainingObserver(study, RecipeOptions())
    observer.round_finished(finished(tmp_path, 0))
    assert stored(study) == 0
    observer.round_finished(finished(tmp_path, 1))
    assert stored(study) == 1
    again = TrainingObserver(study, RecipeOptions())
    again.round_finished(finished(tmp_path, 0))
    assert stored(study) == 1
    again.round_finished(finished(tmp_path, 2))
    assert stored(study) == 2
    assert study.published.read_bytes() == b"2"


def test_specialist_is_published_for_the_structures_it_was_trained_on(study: Study, tmp_path: Path) -> None:
    observer = TrainingObserver(study, RecipeOptions())
    before = study.published
    study.settings = Settings(labels=LabelSchema((*TINY_LABELS, "a new one")))
    observer.round_finished(finished(tmp_path, 1))
    assert before.is_file()
    assert not study.published.exists()
    assert Scores(study).read() == {}

"""What a training leaves for the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lib.core.labels import LabelSchema
from lib.recipes import FinishedRound, Progress, PseudoLabel, RecipeOptions, RunResult
from lib.setup.settings import Settings
from lib.specialists import SpecialistSpec, build_network, load_specialist, previous_of, save_specialist
from server.scores.scores import Scores
from server.store.study import Study
from tiny_study import TINY_LABELS, save_nifti, tiny_scan
from trainers.observer import TrainingObserver

SPEC = SpecialistSpec(TINY_LABELS, (4, 8), (3.0, 3.0, 3.0), (16, 16, 16))
NAMES = {name: value for value, name in enumerate(TINY_LABELS, start=1)}


def finished(folder: Path, index: int) -> FinishedRound:
    _, label, affine = tiny_scan(2)
    path = save_nifti(folder / f"label-{index}.nii.gz", label, affine)
    source = "specialist" if index else "propagation"
    params = {"label_names": NAMES, "uncertainty": 0.3, "source": source, "round": index}
    checkpoint = folder / "run" / str(index) / "specialist.pt"
    torch.manual_seed(index)
    save_specialist(checkpoint, SPEC, [build_network(SPEC)], {"round": index})
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
    assert load_specialist(study.published).notes["round"] == 2


def test_specialist_is_published_for_the_structures_it_was_trained_on(study: Study, tmp_path: Path) -> None:
    observer = TrainingObserver(study, RecipeOptions())
    before = study.published
    study.settings = Settings(labels=LabelSchema((*TINY_LABELS, "a new one")))
    observer.round_finished(finished(tmp_path, 1))
    assert before.is_file()
    assert not study.published.exists()
    assert Scores(study).read() == {}


def message(study: Study) -> str:
    text: str = json.loads((study.folder / "train_stats.json").read_text(encoding="utf-8"))["message"]
    return text


def result(last: FinishedRound, folder: Path, note: str = "") -> RunResult:
    assert last.checkpoint is not None
    return RunResult(
        folder, last.index, 0.5, last.checkpoint, last.pseudo_labels, {"case_3": "not finite"}, None, note=note
    )


def test_a_damaged_specialist_never_takes_the_place_of_a_good_one(study: Study, tmp_path: Path) -> None:
    observer = TrainingObserver(study, RecipeOptions())
    observer.round_finished(finished(tmp_path, 1))
    bad = finished(tmp_path, 2)
    assert bad.checkpoint is not None
    for content in (bad.checkpoint.read_bytes()[:-2000], b"", b"rubbish"):
        bad.checkpoint.write_bytes(content)
        observer.round_finished(bad)
        assert load_specialist(study.published).notes["round"] == 1
        assert stored(study) == 1
    observer.finished(result(bad, tmp_path))
    assert "The specialist of round 2 could not be used; the one before stays in service." in message(study)
    observer.round_finished(finished(tmp_path, 3))
    assert load_specialist(study.published).notes["round"] == 3
    assert stored(study) == 3


def test_the_specialist_before_the_training_is_kept_for_a_way_back(study: Study, tmp_path: Path) -> None:
    save_specialist(study.published, SPEC, [build_network(SPEC)], {"round": 77})
    observer = TrainingObserver(study, RecipeOptions())
    for index in (1, 2):
        observer.round_finished(finished(tmp_path, index))
    assert load_specialist(study.published).notes["round"] == 2
    assert load_specialist(previous_of(study.published)).notes["round"] == 77
    study.published.write_bytes(b"damaged")
    observer.round_finished(finished(tmp_path, 3))
    assert load_specialist(previous_of(study.published)).notes["round"] == 77  # the last one that was good


def test_the_label_of_a_scan_that_was_replaced_meanwhile_is_not_stored(study: Study, tmp_path: Path) -> None:
    observer = TrainingObserver(study, RecipeOptions())
    image, _, affine = tiny_scan(9)
    save_nifti(Path(study.location) / "case_2.nii.gz", image, affine)
    last = finished(tmp_path, 1)
    observer.round_finished(last)
    assert stored(study) is None
    assert Scores(study).read() == {}
    observer.finished(result(last, tmp_path))
    assert "case_2: the scan was replaced by another one during the training" in message(study)


def test_the_end_says_where_it_went_on_and_names_all_that_was_left_out(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = TrainingObserver(study, RecipeOptions())
    observer.progress(Progress(1, 2, 2, 2, "training", 0.5, 9.0, note="Training continued after round 1."))
    assert message(study) == "Training continued after round 1."
    monkeypatch.setattr(study.datastore, "unsent", lambda: {"case_2": "the server is away"}, raising=False)
    last = finished(tmp_path, 2)
    observer.round_finished(last)
    observer.finished(result(last, tmp_path, "Training continued after round 1."))
    text = message(study)
    assert "Training continued after round 1." in text
    assert "1 scan was left out: case_3: not finite" in text
    assert "1 label is not on the DICOM server yet: case_2: the server is away" in text

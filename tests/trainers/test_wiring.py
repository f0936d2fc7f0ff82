"""What a training needs before it begins, and how a finished round goes into service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.core.errors import UserError
from lib.recipes import FinishedRound, PseudoLabel, RecipeOptions
from lib.specialists import SpecialistSpec, build_network, load_specialist, save_specialist
from server.store.folder_store import FINAL, ORIGINAL, StudyDatastore
from server.store.study import Study
from tiny_study import TINY_LABELS, save_nifti, tiny_scan
from trainers.observer import TrainingObserver
from trainers.semisam import SemiSamTrainer

SPEC = SpecialistSpec(TINY_LABELS, (4, 8), (3.0, 3.0, 3.0), (16, 16, 16))


def finished(folder: Path, index: int) -> FinishedRound:
    """A round with a specialist and a pseudo-label of the second scan."""
    _, label, affine = tiny_scan(2)
    path = save_nifti(folder / "label.nii.gz", label, affine)
    checkpoint = folder / "run" / str(index) / "specialist.pt"
    torch.manual_seed(index)
    save_specialist(checkpoint, SPEC, [build_network(SPEC)], {"round": index})
    names = {name: value for value, name in enumerate(TINY_LABELS, start=1)}
    params = {"label_names": names, "uncertainty": 0.3, "source": "specialist", "round": index}
    return FinishedRound(index, checkpoint, {"case_2": PseudoLabel(path, params)}, 0.5)


def test_the_specialist_is_in_service_before_its_labels_are_shown(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sees a label of a round can ask the network that made it; a kill in between leaves no label without one."""
    in_service: list[object] = []
    plain = StudyDatastore.save_labels

    def watched(self: StudyDatastore, *given: Any, **more: Any) -> None:
        in_service.append(load_specialist(study.published).notes["round"] if study.published.is_file() else None)
        plain(self, *given, **more)

    monkeypatch.setattr(StudyDatastore, "save_labels", watched)
    observer = TrainingObserver(study, RecipeOptions())
    for index in (1, 2):
        observer.round_finished(finished(tmp_path, index))
    assert in_service == [1, 2]


def test_a_scan_that_was_outlined_during_the_training_gets_no_pseudo_label(study: Study, tmp_path: Path) -> None:
    observer = TrainingObserver(study, RecipeOptions())
    _, label, affine = tiny_scan(2)
    server = StudyDatastore(study.location)
    server.serving = True
    server.save_label("case_2", str(save_nifti(tmp_path / "outline.nii.gz", label, affine)), FINAL, {})
    observer.round_finished(finished(tmp_path, 1))
    assert study.published.is_file()
    assert study.datastore.get_label_by_image_id("case_2", ORIGINAL) == ""


def test_a_training_needs_the_weights_of_those_that_it_asks(study: Study, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "mobile_sam.pt").touch()
    study.settings = replace(study.settings, generalists=("mobile_sam", "lite_medsam"), weights=weights)
    trainer = SemiSamTrainer(study)
    for recipe in ("semisam_o1", "fm_abs", "sc_sam"):
        trainer.check({"recipe": recipe, "device": "cpu"})
    with pytest.raises(UserError, match="The weights of lite_medsam are not in") as refused:
        trainer.check({"recipe": "semisam_plus", "device": "cpu"})
    assert refused.value.status == 409
    # Features are not all that is needed: of one that takes prompts, too, there has to be a file.
    study.settings = replace(study.settings, generalists=("mind", "lite_medsam"))
    trainer.check({"recipe": "semisam_o1", "device": "cpu"})
    with pytest.raises(UserError, match="lite_medsam"):
        trainer.check({"recipe": "fm_abs", "device": "cpu"})


def test_the_servers_foundation_model_decides_which_network_sc_sam_puts_into_service(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "check_generalist", lambda *names: None)  # its weights are not here
    for generalist, network in (("mobile_sam", "sam"), ("mind", "unet2d")):
        monkeypatch.setattr(study, "settings", replace(study.settings, generalists=(generalist,)))
        assert SemiSamTrainer(study).check({"recipe": "sc_sam"}).network == network

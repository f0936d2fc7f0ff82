"""Trainings with scans that cannot be used, that vanish, or that hold none of the structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.core.resampling import resize
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.generalists import Generalist, create_generalist
from lib.propagation import Propagator, SoftLabels, Template, create_propagator
from lib.recipes import (
    PRESETS,
    Case,
    FinishedRound,
    Progress,
    RecipeOptions,
    RecipeSettings,
    RunRequest,
    RunResult,
    run_recipe,
)
from lib.recipes.engine.learned import learned_by
from lib.recipes.engine.options import Preset
from lib.recipes.engine.prepared_study import PreparedStudy
from lib.specialists import SpecialistSpec, load_specialist
from tiny_study import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMA = LabelSchema(TINY_LABELS)
OPTIONS = RecipeOptions(seed=3, rounds=1)


class Copies:
    """Puts the template's label over the scan as it lies, and tells of whom it was asked."""

    name = "copy"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        self.asked.append(template.name)
        frame = frame_of(scan)
        probabilities = resize(frame_of(template.scan).one_hot(template.label, channels), frame.shape)
        return SoftLabels(frame, probabilities, torch.full(frame.shape, 0.5), (template.name,), 0.5)


class Nobody:
    """Listens to nothing, and may do something after a round."""

    def __init__(self, after: Path | None = None) -> None:
        self.after = after

    def progress(self, progress: Progress) -> None:
        pass

    def round_finished(self, finished: FinishedRound) -> None:
        if self.after is not None:
            self.after.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(1, 1, 2, 2, (4, 8, 8), 6_000, 4_000))


def cases_of(study: Path, negative: Sequence[str] = ()) -> list[Case]:
    """The scans of a folder; labels of the ``negative`` ones are empty on purpose."""
    found = []
    for image in sorted(path for path in study.iterdir() if path.is_file()):
        name = image.name.split(".")[0]
        label = study / "labels" / "final" / image.name
        found.append(Case(name, image, label if label.exists() else None, negative=name in negative))
    return found


def run(
    cases: Sequence[Case],
    folder: Path,
    propagator: Propagator | None = None,
    after: Path | None = None,
    options: RecipeOptions = OPTIONS,
) -> RunResult:
    return run_recipe(
        RunRequest(cases, SCHEMA, options, RecipeSettings(), folder),
        generalist=create_generalist("mind"),
        propagator=propagator or Copies(),
        observer=Nobody(after),
    )


def colour(path: Path) -> None:
    """A colour NIfTI of the study's size."""
    image, _, affine = tiny_scan(9)
    rgb = np.zeros(image.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["R"] = np.clip(image / 3, 0, 255)
    nibabel.save(nibabel.Nifti1Image(rgb, affine), path)


def negative(study: Path, name: str) -> None:
    """An empty final label."""
    save_nifti(
        study / "labels" / "final" / f"{name}.nii.gz", np.zeros(tiny_scan(1)[1].shape, np.uint8), tiny_scan(1)[2]
    )


@pytest.mark.slow
def test_scans_of_odd_types_and_sizes_are_left_out_and_the_rest_goes_on(study: Path, tmp_path: Path) -> None:
    colour(study / "colour.nii.gz")
    image, _, affine = tiny_scan(9)
    nibabel.save(nibabel.Nifti1Image((image + 1j * image).astype(np.complex64), affine), study / "raw.nii.gz")
    save_nifti(study / "series.nii.gz", np.stack([image] * 2, -1), affine)
    save_nifti(study / "line.nii.gz", image[:2, :2], affine)
    one = np.zeros_like(image)
    one[5, 5, 5] = 7
    save_nifti(study / "voxel.nii.gz", one, affine)
    result = run(cases_of(study), tmp_path / "runs", create_propagator("registration", "cpu"))
    assert {"case_2", "case_3", "case_4"} <= set(result.pseudo_labels)
    assert {"colour", "raw", "series"} <= set(result.skipped)
    assert "in colour" in result.skipped["colour"]
    assert {*result.skipped, *result.pseudo_labels} == {case.name for case in cases_of(study)} - {"case_1"}


@pytest.mark.slow
def test_an_error_that_nobody_foresaw_leaves_its_scan_out(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Stumbles(Copies):
        def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
            if len(self.asked) == 1:
                self.asked.append("stumbled")
                raise IndexError("index 7 is out of bounds")
            return super().propagate(template, scan, channels, generalist)

    result = run(cases_of(study), tmp_path / "runs", Stumbles())
    assert set(result.skipped) == {"case_3"}
    assert "the log has" in result.skipped["case_3"]
    assert "index 7" not in result.skipped["case_3"]
    assert "index 7" in caplog.text
    assert set(result.pseudo_labels) == {"case_2", "case_4"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["semisam_plus", "semisam_o1", "fm_abs"])
def test_a_file_that_vanishes_after_round_0_does_not_end_the_training(study: Path, tmp_path: Path, recipe: str) -> None:
    options = replace(OPTIONS, recipe=recipe)
    result = run(cases_of(study), tmp_path / "runs", after=study / "case_3.nii.gz", options=options)
    assert not (study / "case_3.nii.gz").exists()
    assert {"case_2", "case_4"} <= set(result.pseudo_labels)
    assert {*result.pseudo_labels, *result.skipped} == {"case_2", "case_3", "case_4"}


@pytest.mark.slow
def test_an_outlined_scan_that_has_gone_is_not_carried_over_and_the_others_are(study: Path, tmp_path: Path) -> None:
    save_nifti(study / "labels" / "final" / "case_2.nii.gz", *tiny_scan(2)[1:])

    from lib.recipes.engine import round_zero

    read = round_zero.read_templates
    with pytest.MonkeyPatch.context() as patch:

        def and_remove(run: object) -> None:
            read(run)  # type: ignore[arg-type]
            (study / "case_2.nii.gz").unlink()

        patch.setattr(round_zero, "read_templates", and_remove)
        propagator = Copies()
        result = run(cases_of(study), tmp_path / "runs", propagator)
    assert set(propagator.asked) == {"case_1"}
    assert set(result.pseudo_labels) == {"case_3", "case_4"}


@pytest.mark.slow
def test_pseudo_labels_that_look_wrong_say_so(study: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(100, 20, tiny_scan(1)[0].shape)
    save_nifti(study / "noise.nii.gz", noise.astype(np.float32), tiny_scan(1)[2])
    warned: dict[str, object] = {}

    class Looks(Nobody):
        def round_finished(self, finished: FinishedRound) -> None:
            if finished.index == 0:
                warned.update({name: label.params.get("warnings") for name, label in finished.pseudo_labels.items()})

    run_recipe(
        RunRequest(cases_of(study), SCHEMA, OPTIONS, RecipeSettings(), tmp_path / "runs"),
        generalist=create_generalist("mind"),
        propagator=Copies(),
        observer=Looks(),
    )
    assert warned["case_2"] is None
    assert "looks unlike what is outlined in case_1" in str(warned["noise"])


@pytest.mark.slow
def test_a_scan_without_the_structures_is_learned_from_and_never_carried_over(study: Path, tmp_path: Path) -> None:
    negative(study, "case_2")
    propagator = Copies()
    result = run(cases_of(study, ["case_2"]), tmp_path / "runs", propagator)
    assert set(propagator.asked) == {"case_1"}
    assert set(result.pseudo_labels) == {"case_3", "case_4"}
    assert result.skipped == {}
    specialist = load_specialist(result.checkpoint)
    assert learned_by(specialist) == list(TINY_LABELS)
    case = cases_of(study, ["case_2"])[1]
    kept = PreparedStudy(cases_of(study, ["case_2"]), SCHEMA, specialist.spec, result.folder / "prepared")
    target = kept.target("case_2")
    assert float(target.probabilities[0].min()) == 1
    assert float(target.confidence.min()) == 1
    assert not kept.template("case_2").label.any()
    assert kept.need_dense() == ["case_1"]
    assert case.negative


@pytest.mark.slow
def test_what_nobody_outlined_is_not_learned(study: Path, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(1)
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", np.where(label == 2, 0, label).astype(np.uint8), affine)
    result = run(cases_of(study), tmp_path / "runs")
    assert learned_by(load_specialist(result.checkpoint)) == ["ball"]
    assert all("rod" not in str(label.params.get("warnings")) for label in result.pseudo_labels.values())


def test_only_scans_without_structures_are_refused(study: Path, tmp_path: Path) -> None:
    negative(study, "case_1")
    with pytest.raises(UserError, match="hold none of the structures") as error:
        run(cases_of(study, ["case_1"]), tmp_path / "runs")
    assert error.value.status == 409
    # Without a word that it is meant, an empty label is a mistake.
    with pytest.raises(UserError, match="is empty"):
        run(cases_of(study), tmp_path / "runs")


def test_a_scan_without_structures_is_cut_where_they_would_lie(tmp_path: Path) -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    from lib.recipes.engine.round_zero import _keep_negative

    image, label, affine = tiny_scan(1)
    study = make_tiny_study(tmp_path / "study", scans=2)
    negative(study, "case_2")
    spec = SpecialistSpec(TINY_LABELS, (4, 8), (3.0, 3.0, 3.0), (16, 16, 16), part=(60.0, 60.0, 60.0))
    kept = PreparedStudy(cases_of(study, ["case_2"]), SCHEMA, spec, tmp_path)
    context = SimpleNamespace(study=kept, options=SimpleNamespace(device="cpu"))
    _keep_negative(cast("Any", context), "case_2")
    frame = kept.prepared("case_2").frame
    assert max(frame.extent) < 100
    scan = read_volume(study / "case_2.nii.gz")
    truth = tiny_scan(2)[1]
    assert frame.crop(truth).astype(bool).sum() > 0.5 * np.count_nonzero(truth)
    assert scan.shape == image.shape == label.shape
    assert float(kept.target("case_2").probabilities[0].min()) == 1
    assert read_label(study / "labels" / "final" / "case_2.nii.gz", scan, SCHEMA, may_be_empty=True).max() == 0
    assert affine.shape == (4, 4)

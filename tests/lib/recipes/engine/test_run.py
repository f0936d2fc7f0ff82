"""The recipe from end to end on a tiny study, its resumption after a kill, and bad input."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.generalists import Generalist, create_generalist
from lib.propagation import SoftLabels, Template, create_propagator
from lib.propagation.registration import RegistrationPropagator
from lib.recipes import PRESETS, Case, FinishedRound, Progress, RecipeOptions, RecipeSettings, RunRequest, run_recipe
from lib.recipes.engine import round_zero
from lib.recipes.engine import stages as stages_module
from lib.recipes.engine.context import Context
from lib.recipes.engine.kept_training import TrainingNumber
from lib.recipes.engine.options import Preset
from lib.recipes.engine.prepared_study import SoftTarget
from lib.recipes.semisam_o1.earlier_rounds import with_earlier
from lib.specialists import SpecialistSpec, load_specialist, predict
from lib.specialists.networks.base import SpecialistNetwork
from lib.training import loop as training_module
from lib.training.loop import TrainingPlan
from phantoms import dice, texture
from recipe_runs import OPTIONS, SCHEMA, CopyPropagator, KilledError, Listener, cases_of, run
from tiny_study import TINY_LABELS, save_nifti, tiny_scan

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(2, 2, 4, 2, (4, 8, 8), 120_000, 14_000))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.suffix != ".npz"}


@pytest.mark.slow
def test_from_one_label_to_a_specialist(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    with caplog.at_level(logging.INFO, logger="semisam.train"):
        result = run(cases_of(study), tmp_path / "runs", listener, propagator=create_propagator("registration"))

    assert [r.index for r in listener.rounds] == [0, 1, 2]
    assert result.rounds == 2
    assert result.resumed_at is None
    assert result.skipped == {}
    assert set(result.pseudo_labels) == {"case_2", "case_3", "case_4"}
    for source, finished in zip(("propagation", "specialist", "specialist"), listener.rounds, strict=True):
        for name, label in finished.pseudo_labels.items():
            scan = read_volume(study / f"{name}.nii.gz")
            labels = read_label(label.path, scan, SCHEMA)
            params: Any = label.params
            assert list(params["label_names"].items()) == [("ball", 1), ("rod", 2)]
            assert params["volume_ml"]["ball"] == pytest.approx((labels == 1).sum() * 0.027, rel=1e-3)
            assert params["templates"] == ["case_1"]
            assert (params["round"], params["source"]) == (finished.index, source)
            assert 0 <= params["confidence"] <= 1
            assert 0 <= params["uncertainty"] <= 1

    last = listener.steps[-1]
    assert (last.epoch, last.total_epochs, last.round, last.rounds) == (4, 4, 2, 2)
    assert {s.stage for s in listener.steps} == {"propagation", "training", "prediction", "refinement"}
    assert [s.epoch for s in listener.steps] == sorted(s.epoch for s in listener.steps)
    assert all(isinstance(s.best_metric, float) and 0 <= s.best_metric <= 1 for s in listener.steps)
    assert result.best_metric == listener.rounds[-1].best_metric > 0
    assert "left" in caplog.text

    specialist = load_specialist(result.checkpoint)
    assert specialist.notes["round"] == 2
    assert specialist.spec.label_names == TINY_LABELS
    assert predict(specialist, read_volume(study / "case_2.nii.gz")).labels().shape == (36, 32, 28)


@pytest.mark.slow
def test_same_seed_same_pseudo_labels(study: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, rounds=1)
    first = run(cases_of(study), tmp_path / "a", options=options)
    second = run(cases_of(study), tmp_path / "b", options=options)
    for name, label in first.pseudo_labels.items():
        assert label.path.read_bytes()[10:] == second.pseudo_labels[name].path.read_bytes()[10:]
    other = run(cases_of(study), tmp_path / "c", options=replace(options, seed=4))
    a, b = (torch.load(r.checkpoint, weights_only=True)["members"][0] for r in (first, other))
    assert any(not torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_a_killed_training_goes_on_at_the_round(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.round == 2 and progress.stage == "prediction":
                raise KilledError

    with pytest.raises(KilledError):
        run(cases_of(study), tmp_path / "runs", Fragile())
    (folder,) = (tmp_path / "runs").glob("run-*")
    before = [digests(folder / "rounds" / n) for n in "01"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the propagation was finished")

    monkeypatch.setattr(round_zero, "propagate_from", never)
    listener = Listener()
    result = run(cases_of(study), tmp_path / "runs", listener)
    assert result.folder == folder
    assert result.resumed_at == 2
    assert [r.index for r in listener.rounds] == [1, 2]
    assert [digests(folder / "rounds" / n) for n in "01"] == before
    assert min(s.epoch for s in listener.steps) == 2
    assert not list(folder.glob("rounds/.part-*"))

    monkeypatch.undo()
    monkeypatch.setitem(PRESETS, "quick", Preset(1, 1, 2, 2, (4, 8, 8), 120_000, 14_000))
    assert run(cases_of(study), tmp_path / "runs").resumed_at is None


@pytest.mark.slow
def test_a_damaged_round_is_made_again(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            if progress.round == 2:
                raise KilledError

    with pytest.raises(KilledError):
        run(cases_of(study), tmp_path / "runs", Fragile())
    (folder,) = (tmp_path / "runs").glob("run-*")
    (folder / "rounds" / "1" / "round.json").write_text("")
    with caplog.at_level(logging.WARNING, "semisam.train"):
        result = run(cases_of(study), tmp_path / "runs")
    assert "round 1" in caplog.text
    assert "damaged" in caplog.text
    assert result.resumed_at == 1
    assert result.folder == folder
    assert len(result.pseudo_labels) == 3
    assert result.checkpoint.is_file()


@pytest.mark.slow
def test_a_kill_in_round_0_keeps_the_scans_that_are_done(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = round_zero.propagate_from

    def counting(*args: Any, **kwargs: Any) -> Any:
        if len(asked) == 2:
            asked.append("killed")
            raise KilledError
        asked.append("scan")
        return original(*args, **kwargs)

    monkeypatch.setattr(round_zero, "propagate_from", counting)
    with pytest.raises(KilledError):
        run(cases_of(study), tmp_path / "runs")
    result = run(cases_of(study), tmp_path / "runs", options=OPTIONS)
    assert asked == ["scan", "scan", "killed", "scan"]
    assert result.resumed_at is None  # no round was finished
    assert len(list((tmp_path / "runs").glob("run-*"))) == 1


@pytest.mark.slow
def test_changed_input_starts_a_new_run_and_says_so(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fragile(Listener):
        def round_finished(self, finished: FinishedRound) -> None:
            raise KilledError

    with pytest.raises(KilledError):
        run(cases_of(study), tmp_path / "runs", Fragile())
    label, affine = tiny_scan(1)[1:]
    label[0, 0, 0] = 1
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", label, affine)
    with caplog.at_level(logging.INFO, "semisam.train"):
        again = run(cases_of(study), tmp_path / "runs", options=replace(OPTIONS, rounds=1))
    assert again.resumed_at is None
    assert "cases (case_1), options (rounds) changed" in caplog.text
    assert len(list((tmp_path / "runs").glob("run-*"))) == 2


@pytest.mark.slow
def test_scans_that_cannot_be_read_are_left_out(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = study / "case_3.nii.gz"
    broken.write_bytes(broken.read_bytes()[:3000])
    result = run(cases_of(study), tmp_path / "runs", options=replace(OPTIONS, rounds=1))
    assert set(result.pseudo_labels) == {"case_2", "case_4"}
    assert set(result.skipped) == {"case_3"}
    assert "case_3" in caplog.text
    for name in ("case_2", "case_4"):
        (study / f"{name}.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match="None of the scans without a label can be used"):
        run(cases_of(study), tmp_path / "runs")


def test_without_a_usable_label_nothing_starts(study: Path, tmp_path: Path) -> None:
    nothing = [replace(case, label=None) for case in cases_of(study)]
    with pytest.raises(UserError, match="has a 'final' label yet") as error:
        run(nothing, tmp_path / "runs")
    assert error.value.status == 409
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", np.zeros((36, 32, 28), np.uint8), tiny_scan(1)[2])
    with pytest.raises(UserError, match="is empty"):
        run(cases_of(study), tmp_path / "runs")


@pytest.mark.slow
def test_human_labels_only(study: Path, tmp_path: Path) -> None:
    listener = Listener()
    result = run(cases_of(study)[:1], tmp_path / "runs", listener)
    assert result.rounds == 1
    assert result.pseudo_labels == {}
    assert listener.steps[-1].total_epochs == 2
    assert load_specialist(result.checkpoint).spec.label_names == TINY_LABELS


@pytest.mark.slow
def test_a_template_that_lacks_a_class(study: Path, tmp_path: Path) -> None:
    label, affine = tiny_scan(1)[1:]
    save_nifti(study / "labels" / "final" / "case_1.nii.gz", (label == 1).astype(np.uint8), affine)
    result = run(cases_of(study), tmp_path / "runs", options=replace(OPTIONS, rounds=1))
    assert len(result.pseudo_labels) == 3


@pytest.mark.slow
def test_settings_decide_spacing_and_window(study: Path, tmp_path: Path) -> None:
    settings = RecipeSettings(spacing=(4.0, 4.0, 5.0), roi_size=(48, 32, 32))
    result = run(cases_of(study)[:2], tmp_path / "runs", options=replace(OPTIONS, rounds=1), settings=settings)
    spec = load_specialist(result.checkpoint).spec
    assert (spec.spacing, spec.roi_size) == ((4.0, 4.0, 5.0), (48, 32, 32))
    with pytest.raises(UserError, match="roi_size"):
        run(cases_of(study)[:2], tmp_path / "runs", settings=replace(settings, roi_size=(4, 4, 4)))


@pytest.mark.slow
def test_a_specialist_that_misses_a_structure_is_trained_again(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built: list[Tensor] = []
    build = training_module.build_network

    def first_one_is_blind(spec: SpecialistSpec) -> SpecialistNetwork:
        network = build(spec)
        head = cast(nn.Conv3d, network.head)
        built.append(head.weight.detach().clone())
        if len(built) == 1 and head.bias is not None:
            with torch.no_grad():
                head.bias[2] = -1e4
        return network

    monkeypatch.setattr(training_module, "build_network", first_one_is_blind)
    monkeypatch.setattr(stages_module, "ENOUGH_STEPS", 8)
    monkeypatch.setattr(stages_module, "MOST_TRAININGS", 2)
    listener = Listener()
    with caplog.at_level(logging.INFO, logger="semisam.train"):
        options = replace(OPTIONS, rounds=1, regulariser="supervised")
        run(cases_of(study), tmp_path / "runs", listener, options=options)
    assert "training 8/8" in caplog.text  # the second training counts in place of the first one
    assert "training 9/8" not in caplog.text
    caplog.records[:] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "the specialist of round 1 finds nothing of" in caplog.records[0].getMessage()
    assert "rod" in caplog.records[0].getMessage()
    assert "it is trained again" in caplog.records[0].getMessage()
    assert len(built) == 2
    assert not torch.equal(*built)


@pytest.mark.slow
def test_rounds_end_when_the_labels_no_longer_change(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.recipes.semisam_o1.earlier_rounds.SETTLED", 0.0)  # any agreement will do
    result = run(cases_of(study), tmp_path / "runs")
    assert result.rounds == 1
    assert load_specialist(result.checkpoint).notes["round"] == 1
    assert all("agreement" in label.params for label in result.pseudo_labels.values())


@pytest.mark.slow
def test_a_finished_run_has_a_report_with_its_curves_and_cases(study: Path, tmp_path: Path) -> None:
    result = run(cases_of(study), tmp_path / "runs")
    assert result.report is not None
    page = result.report.read_text(encoding="utf-8")
    assert "<svg" in page
    assert page.count("data:image/png;base64,") == 4  # the outlined scan and three others
    for text in ("Most confident", "Least confident", "round 2", "human_loss", "case_1", "mind"):
        assert text in page
    assert (result.folder / "environment.json").is_file()


@pytest.mark.slow
def test_a_run_whose_report_cannot_be_written_is_finished_all_the_same(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no picture today")

    monkeypatch.setattr("lib.recipes.engine.summary.montage", fail)
    result = run(cases_of(study), tmp_path / "runs", options=replace(OPTIONS, rounds=1))
    assert result.report is None
    assert result.checkpoint.is_file()
    assert "The report could not be written" in caplog.text


def test_pseudo_labels_keep_a_share_of_the_round_before() -> None:
    old = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(2, 2, 1, 1)
    new = old.flip(0)

    def at(target: SoftTarget | None) -> Any:
        return SimpleNamespace(study=SimpleNamespace(current=lambda _: target))

    joined = with_earlier(at(SoftTarget(old.half(), torch.ones(2, 1, 1).half())), "case", new)
    torch.testing.assert_close(joined.sum(0), torch.ones(2, 1, 1))
    assert torch.equal(joined.argmax(0), new.argmax(0))
    assert 0.2 < float(joined[1, 0]) < 0.5  # where both differ, the label is unsure
    assert with_earlier(at(None), "case", new) is new


def large_scans(folder: Path) -> list[Case]:
    """Three patients with a small structure, the first one outlined; each has its truth beside it."""
    cases = []
    for seed in (1, 2, 3):
        scan, label = texture(seed)
        nib.save(nib.Nifti1Image(scan.array, scan.affine), folder / f"{seed}.nii.gz")
        nib.save(nib.Nifti1Image(label, scan.affine), folder / f"{seed}-label.nii.gz")
        cases.append(Case(str(seed), folder / f"{seed}.nii.gz", folder / "1-label.nii.gz" if seed == 1 else None))
    return cases


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["semisam_o1", "semisam_plus", "ssl_medsam2"])
def test_of_large_scans_a_part_is_learned_and_labelled(tmp_path: Path, recipe: str) -> None:
    listener = Listener()
    result = run_recipe(
        RunRequest(
            large_scans(tmp_path),
            LabelSchema(("nodule",)),
            RecipeOptions(recipe=recipe, rounds=1, max_epochs=1),
            RecipeSettings(),
            tmp_path / "runs",
        ),
        generalist=create_generalist("mind"),
        propagator=RegistrationPropagator(voxels=16_000, device="cpu"),
        observer=listener,
    )
    assert load_specialist(result.checkpoint, "cpu").spec.part is not None
    assert result.report is not None
    assert set(result.pseudo_labels) == {"2", "3"}
    for name in ("2", "3"):
        truth = np.asarray(nib.load(tmp_path / f"{name}-label.nii.gz").dataobj)
        found = [np.asarray(nib.load(each.pseudo_labels[name].path).dataobj) for each in listener.rounds]
        assert dice(found[0], truth, 1) > 0.8
        where = np.argwhere(found[1] > 0)
        assert found[1].shape == truth.shape
        assert len(where) == 0 or ((where.max(0) - where.min(0) + 1) * 1.5 < 100).all()


@pytest.mark.slow
def test_a_large_scan_without_any_trace_of_the_structure_is_left_out(tmp_path: Path) -> None:
    class Finds2(CopyPropagator):
        """Finds nothing but in patient 2."""

        def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
            soft = super().propagate(template, scan, channels, generalist)
            if not np.array_equal(scan.array, texture(2)[0].array):
                soft.probabilities[0], soft.probabilities[1:] = 1, 0
            return soft

    result = run_recipe(
        RunRequest(
            large_scans(tmp_path),
            LabelSchema(("nodule",)),
            RecipeOptions(rounds=1, max_epochs=1),
            RecipeSettings(),
            tmp_path / "runs",
        ),
        generalist=create_generalist("mind"),
        propagator=Finds2(),
        observer=Listener(),
    )
    assert set(result.pseudo_labels) == {"2"}
    assert "outline it" in result.skipped["3"]


@pytest.mark.slow
def test_the_specialist_is_the_best_network_of_each_round(study: Path, tmp_path: Path) -> None:
    listener = Listener()
    run(cases_of(study), tmp_path / "runs", listener, replace(OPTIONS, rounds=3))
    members = [
        [parameters_of(member) for member in load_specialist(finished.checkpoint, "cpu").members]
        for finished in listener.rounds
        if finished.checkpoint is not None
    ]
    assert [len(each) for each in members] == [2, 2, 3]  # a teacher and its student; then the teachers
    assert torch.equal(members[1][1], members[0][0])
    assert torch.equal(members[2][1], members[1][0])
    assert torch.equal(members[2][2], members[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["semisam_o1", "semisam_plus"])
def test_a_preset_may_have_several_networks_a_round(
    recipe: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], networks=3))
    listener = Listener()
    result = run(cases_of(study), tmp_path / "runs", listener, replace(OPTIONS, recipe=recipe))
    assert (listener.steps[-1].epoch, listener.steps[-1].total_epochs) == (12, 12)
    first, second = (
        [parameters_of(member) for member in load_specialist(finished.checkpoint, "cpu").members]
        for finished in listener.rounds
        if finished.checkpoint is not None
    )
    assert len(first) == len(second) == 6
    assert not any(torch.equal(a, b) for a, b in combinations(first, 2))
    if recipe == "semisam_o1":  # the teachers of both rounds
        assert all(torch.equal(a, b) for a, b in zip(second[3:], first[:3], strict=True))
    assert result.report is not None
    assert "3 of them in a round" in result.report.read_text(encoding="utf-8")


def test_of_several_networks_the_best_of_each_training_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_round(run: object, number: TrainingNumber, *_: object) -> SimpleNamespace:
        return SimpleNamespace(members=(f"teacher {number.number} of {number.count}", f"student {number.number}"))

    monkeypatch.setattr(stages_module, "train_round", train_round)
    run = cast("Context", SimpleNamespace(budget=SimpleNamespace(networks=2)))
    found = stages_module.train_networks(run, 1, TrainingPlan(1, 1))
    assert list(found) == ["teacher 0 of 2", "teacher 1 of 2", "student 0", "student 1"]


@pytest.mark.slow
def test_what_a_preset_stands_for_may_change_between_versions(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.round == 2:
                raise KilledError

    with pytest.raises(KilledError):
        run(cases_of(study), tmp_path / "runs", Fragile())
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], epochs=3))
    assert run(cases_of(study), tmp_path / "runs").resumed_at is None


def parameters_of(network: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten() for each in network.parameters()])

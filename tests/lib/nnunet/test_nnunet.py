"""nnU-Net as a back end: its data set, folds, training and prediction; with the real package where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.formats.channels import set_channels
from lib.formats.volumes import read_volume
from lib.nnunet import NnunetPlan, stock_trainer, write_case, write_dataset
from lib.nnunet import install as install_module
from lib.nnunet.install import seeded
from lib.recipes import PRESETS, Progress, RecipeOptions, registry, resolve
from lib.recipes.engine.options import Preset
from lib.recipes.ssl_medsam2 import nnunet_folds as back_end_module
from lib.recipes.ssl_medsam2.nnunet_folds import NnunetBackEnd
from lib.recipes.ssl_medsam2.recipe import run_ssl_medsam2
from lib.specialists import load_specialist, predict
from lib.specialists.check import check_checkpoint
from lib.upstream.nnunet_environment import PATHS, nnunet_environment
from recipe_runs import KilledError, Listener, cases_of, run
from tiny_study import TINY_LABELS, add_second_channel, make_tiny_study, tiny_scan

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = RecipeOptions(recipe="ssl_medsam2", network="nnunetv2", rounds=1, max_epochs=1, seed=1)
SHORT = NnunetPlan("nnUNetTrainer_1epoch", epochs=1, steps=2)
"""nnU-Net's own one-epoch trainer, whose epoch has two steps in place of 250."""

needs_nnunet = pytest.mark.skipif(
    importlib.util.find_spec("nnunetv2") is None,
    reason="nnU-Net is not installed: pip install -r requirements-nnunet.txt",
)


@pytest.fixture
def short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folds of two steps, with a network an eighth as wide."""
    if importlib.util.find_spec("nnunetv2") is not None:
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

        plain = ExperimentPlanner.__init__

        def narrow(self: Any, *given: Any, **more: Any) -> None:
            plain(self, *given, **more)
            self.UNet_base_num_features = 4

        monkeypatch.setattr(ExperimentPlanner, "__init__", narrow)
    monkeypatch.setitem(PRESETS, "quick", Preset(1, 1, 4, 2, (4, 8, 8), 120_000, 14_000))
    recipe = registry.RECIPES["ssl_medsam2"]
    short = partial(run_ssl_medsam2, folds=2, nnunet=NnunetBackEnd(SHORT))
    monkeypatch.setitem(registry.RECIPES, "ssl_medsam2", replace(recipe, run=short, trainings=2))


@pytest.mark.parametrize(
    ("epochs", "name", "length"),
    [
        (1, "nnUNetTrainer_1epoch", 1),
        (4, "nnUNetTrainer_1epoch", 1),
        (25, "nnUNetTrainer_20epochs", 20),
        (1000, "nnUNetTrainer", 1000),
        (9999, "nnUNetTrainer_8000epochs", 8000),
    ],
)
def test_the_longest_trainer_within_the_epochs(epochs: int, name: str, length: int) -> None:
    assert stock_trainer(epochs) == NnunetPlan(name, length)


def test_without_the_package_the_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-nnunet\.txt") as error:
        resolve(OPTIONS)
    assert error.value.status == 409
    assert resolve(replace(OPTIONS, network="auto")).network == "dynunet"


def test_a_loss_that_nnunet_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_end_module, "need_nnunet", lambda: None)
    with pytest.raises(UserError, match="cannot use 'mean_teacher'"):
        resolve(replace(OPTIONS, regulariser="mean_teacher"))


def test_scans_are_written_upright_and_cropped(tmp_path: Path) -> None:
    array, label, affine = tiny_scan(1)
    whole = Volume(array.astype(np.float32), affine)
    turned = np.array(affine)
    turned[:, 0] *= -1
    turned[0, 3] = affine[0, 3] + affine[0, 0] * (array.shape[0] - 1)
    mirrored = Volume(np.ascontiguousarray(whole.array[::-1]), turned)
    write_case(tmp_path, "a", (whole.array,), label, frame_of(whole))
    write_case(tmp_path, "b", (mirrored.array,), label[::-1], frame_of(mirrored))
    base = tmp_path / "raw" / "Dataset001_semisam"
    for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        one, other = (nibabel.load(base / kind / f"{case}{ending}") for case in "ab")
        assert np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
        assert np.allclose(one.header.get_zooms(), 3.0)
        assert np.allclose(one.affine, np.diag([3.0, 3.0, 3.0, 1.0]))
    write_dataset(tmp_path, ("ball", "rod"), 2, [(["a"], ["b"]), (["b"], ["a"])])
    described = json.loads((base / "dataset.json").read_text(encoding="utf-8"))
    assert described["labels"] == {"background": 0, "ball": 1, "rod": 2}
    assert (described["numTraining"], described["file_ending"]) == (2, ".nii.gz")
    splits = json.loads((tmp_path / "preprocessed" / base.name / "splits_final.json").read_text(encoding="utf-8"))
    assert splits == [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]


def test_nothing_of_its_environment_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "theirs")
    monkeypatch.delenv("nnUNet_results", raising=False)
    before = dict(os.environ)
    inside: dict[str, str] = {}

    def fail() -> None:
        with nnunet_environment(tmp_path):
            inside.update(os.environ)
            raise KilledError

    with pytest.raises(KilledError):
        fail()
    assert {key: inside[key] for key in PATHS} == {key: str(tmp_path / name) for key, name in PATHS.items()}
    assert inside["nnUNet_compile"] == "f"
    assert dict(os.environ) == before


def test_random_numbers_go_on_as_if_nothing_had_been_drawn() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), np.random.rand(), float(torch.rand(1))
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    with seeded(1, "cpu"):
        drawn = random.random(), np.random.rand(), float(torch.rand(1))
    with seeded(1, "cpu"):
        assert drawn == (random.random(), np.random.rand(), float(torch.rand(1)))
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected != drawn


@needs_nnunet
@pytest.mark.slow
@pytest.mark.usefixtures("short_trainings")
def test_nnunet_trains_in_folds_goes_on_after_a_kill_and_is_served(tmp_path: Path) -> None:
    study = make_tiny_study(tmp_path / "study", scans=3)

    class Fragile(Listener):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if [step.epoch for step in self.steps].count(1) == 2:  # the second of two folds begins
                raise KilledError

    with pytest.raises(KilledError):
        run(cases_of(study), tmp_path / "runs", Fragile(), OPTIONS)
    listener = Listener()
    trained: list[int] = []
    original = back_end_module.train_fold

    def counting(folder: Path, configuration: str, fold: int, *rest: Any, **more: Any) -> Any:
        trained.append(fold)
        return original(folder, configuration, fold, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(back_end_module, "train_fold", counting)
        result = run(cases_of(study), tmp_path / "runs", listener, OPTIONS)
    assert trained == [1]
    assert set(result.pseudo_labels) == {"case_2", "case_3"}
    assert (listener.steps[-1].epoch, listener.steps[-1].total_epochs) == (2, 2)

    part = result.folder / "rounds" / "1"
    folds = json.loads((part / "folds.json").read_text(encoding="utf-8"))["folds"]
    splits = json.loads((part / "nnunet" / "splits_final.json").read_text(encoding="utf-8"))
    assert sorted(name for fold in folds for name in fold["held_out"]) == ["case_2", "case_3"]
    for fold, split in zip(folds, splits, strict=True):
        # nnU-Net was given exactly the scans that are noted, under the numbers of their files.
        assert [case[6:] for case in split["train"]] == [*fold["human"], *fold["pseudo"]]
        assert [case[6:] for case in split["val"]] == fold["held_out"]
        assert not set(split["train"]) & set(split["val"])
    logs = sorted((part / "nnunet").glob("fold_*-training_log*.txt"))
    assert {log.name[:6] for log in logs} == {"fold_0", "fold_1"}
    assert not list((part / "nnunet").glob("*/"))
    assert not any(key.startswith("nnUNet_") for key in os.environ)

    specialist = load_specialist(result.checkpoint)
    assert len(specialist.members) == 2
    scan = read_volume(study / "case_2.nii.gz")
    found = predict(specialist, scan)
    assert found.labels().shape == scan.shape
    assert found.uncertainty_map().shape == scan.shape
    assert torch.allclose(found.probabilities.sum(0), torch.ones(found.probabilities.shape[1:]), atol=1e-4)
    # The same scan stored the other way round gets the same answer.
    affine = np.array(scan.affine)
    affine[:, 0] *= -1
    affine[:3, 3] = scan.affine[:3, 3] + scan.affine[:3, 0] * (scan.shape[0] - 1)
    mirrored = predict(specialist, Volume(np.ascontiguousarray(scan.array[::-1]), affine))
    assert torch.allclose(mirrored.probabilities, found.probabilities, atol=1e-4)


@needs_nnunet
@pytest.mark.slow
@pytest.mark.usefixtures("short_trainings")
def test_nnunet_learns_from_all_channels(tmp_path: Path) -> None:
    study = make_tiny_study(tmp_path / "study", scans=2)
    add_second_channel(study)
    set_channels(("CT", "T2"))
    try:
        checkpoint = run(cases_of(study), tmp_path / "runs", Listener(), OPTIONS).checkpoint
        scan = read_volume(study / "case_2.nii.gz")
    finally:
        set_channels(())
    check_checkpoint(checkpoint, TINY_LABELS)
    specialist = load_specialist(checkpoint)
    assert specialist.nnunet is not None
    assert specialist.spec.inputs == len(specialist.nnunet.dataset["channel_names"]) == 2
    assert "CT" not in specialist.nnunet.dataset["channel_names"].values()  # nnU-Net would normalise it as such
    found = predict(specialist, scan).probabilities
    blind = replace(scan, further=(np.random.default_rng(0).normal(size=scan.shape).astype(np.float32),))
    assert not torch.allclose(found, predict(specialist, blind).probabilities, atol=1e-3)
    with pytest.raises(UserError, match="knows scans with 2 channels; this one has 1"):
        predict(specialist, scan.channel(0))

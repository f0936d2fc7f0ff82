"""How a run is put together: what it asks of the disk before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.generalists import Generalist
from lib.propagation import SoftLabels, Template
from lib.recipes import PRESETS, RecipeOptions
from lib.recipes.engine.options import Preset
from recipe_runs import CopyPropagator, cases_of, run
from tiny_study import make_tiny_study

MEBIBYTE = 2**20


class Never(CopyPropagator):
    """Must not be reached."""

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        raise AssertionError("the training has begun")


@pytest.mark.parametrize(
    ("free", "voxels"),
    [
        pytest.param(90, 20_000, id="next to nothing is free"),
        pytest.param(103, 30_000_000, id="too little for the labels of this study"),
    ],
)
def test_a_training_that_will_not_fit_on_the_disk_does_not_begin(
    free: int, voxels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "quick", Preset(1, 1, 2, 2, (4, 8), voxels, 8_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free * MEBIBYTE))
    study = make_tiny_study(tmp_path / "study", scans=8)
    with pytest.raises(UserError, match=r"Free some space there") as error:
        run(cases_of(study), tmp_path / "runs", options=RecipeOptions(), propagator=Never())
    assert error.value.status == 507

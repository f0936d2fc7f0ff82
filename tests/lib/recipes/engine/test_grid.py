"""The specialist's working grid follows what is outlined."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lib.core.labels import LabelSchema
from lib.recipes import Case, RecipeOptions, RecipeSettings
from lib.recipes.engine.grid import choose_grid
from phantoms import texture

SCHEMA = LabelSchema(("nodule",))


def cases_of(folder: Path, label: np.ndarray | None) -> list[Case]:
    """An outlined scan and one without a label; None leaves the label's file damaged."""
    scan, _ = texture(1)
    cases = []
    for name in ("outlined", "other"):
        nib.save(nib.Nifti1Image(scan.array, scan.affine), folder / f"{name}.nii.gz")
        cases.append(Case(name, folder / f"{name}.nii.gz", folder / "label.nii.gz" if name == "outlined" else None))
    if label is None:
        (folder / "label.nii.gz").write_bytes(b"broken")
    else:
        nib.save(nib.Nifti1Image(label, scan.affine), folder / "label.nii.gz")
    return cases


@pytest.mark.parametrize("kind", ["small", "large", "damaged"])
@pytest.mark.slow
def test_a_small_structure_gets_a_finer_grid(tmp_path: Path, kind: str) -> None:
    _, small = texture(1)
    large = np.zeros_like(small)
    large[5:-5, 5:-5, 5:-5] = 1
    cases = cases_of(tmp_path, {"small": small, "large": large, "damaged": None}[kind])
    spec, voxels = choose_grid(cases, SCHEMA, RecipeOptions(preset="quick"), RecipeSettings(), tmp_path)
    window = [n * s for n, s in zip(spec.roi_size, spec.spacing, strict=True)]
    assert voxels < 70_000
    if kind == "small":
        assert max(spec.spacing) < 2.1
        assert spec.part is not None
        assert window == pytest.approx(spec.part, rel=0.1)  # the structure and 30 mm around it
    else:
        assert spec.part is None
        assert min(spec.spacing) > 3.0
        assert min(window) > 100


@pytest.mark.slow
def test_recipes_that_carry_nothing_over_see_whole_scans(tmp_path: Path) -> None:
    _, small = texture(1)
    options = RecipeOptions(recipe="fm_abs", preset="quick", network="unet3d")
    spec, _ = choose_grid(cases_of(tmp_path, small), SCHEMA, options, RecipeSettings(), tmp_path)
    assert spec.part is None


@pytest.mark.slow
def test_the_grid_is_kept_for_a_resumed_run(tmp_path: Path) -> None:
    _, label = texture(1)
    options, settings = RecipeOptions(preset="quick"), RecipeSettings()
    first = choose_grid(cases_of(tmp_path, label), SCHEMA, options, settings, tmp_path)
    assert choose_grid([], SCHEMA, options, settings, tmp_path) == first

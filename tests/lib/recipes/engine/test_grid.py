"""The specialist's working grid follows what is outlined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lib.core.frames import frame_of
from lib.core.labels import LabelSchema
from lib.recipes import PRESETS, Case, RecipeOptions, RecipeSettings
from lib.recipes.engine.grid import choose_grid
from lib.specialists import choose_spacing
from lib.specialists.prepare import grid_of, label_map
from phantoms import sheet, texture

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
def test_thin_structures_of_a_large_scan_survive_the_grid_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As adrenals in a CT of the abdomen: on a grid chosen by the scan's size alone nothing of them is left."""
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], scan_voxels=15_000))
    schema = LabelSchema(("organ", "gland"))
    label = np.zeros_like(texture(1)[1])
    label[5:40, 5:-5, 5:-5] = 1
    label[sheet((96, 88, 80), 2.0)] = 2  # 3 mm
    (image, _), settings = (texture(1), RecipeSettings())
    cases = cases_of(tmp_path, label)
    spec, voxels = choose_grid(cases, schema, RecipeOptions(preset="quick"), settings, tmp_path)
    assert voxels < 2 * 15_000 * 1.05
    frame = frame_of(image)
    by_size = frame.with_spacing(choose_spacing([frame.extent], [frame.spacing], 15_000))
    before = by_size.labels_back(by_size.one_hot(label, 3))
    assert np.count_nonzero(before == 2) < 0.3 * np.count_nonzero(label == 2)
    grid = grid_of(frame, spec)
    now = label_map(grid, grid.one_hot(label, 3), spec.volume_weights)
    assert np.count_nonzero(now == 2) > 0.8 * np.count_nonzero(label == 2)
    assert choose_grid([], schema, RecipeOptions(preset="quick"), settings, tmp_path)[0] == spec  # a resumed run


@pytest.mark.slow
def test_a_spacing_in_the_settings_is_taken_as_it_is(tmp_path: Path) -> None:
    _, small = texture(1)
    settings = RecipeSettings(spacing=(7.0, 7.0, 7.0))
    spec, _ = choose_grid(cases_of(tmp_path, small), SCHEMA, RecipeOptions(preset="quick"), settings, tmp_path)
    assert spec.spacing == (7.0, 7.0, 7.0)


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

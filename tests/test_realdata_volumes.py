"""Real files are read where they lie."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image

from lib.frames import frame_of
from lib.labels import LabelSchema
from lib.metrics import mean_dice
from lib.volumes import read_label, read_volume, write_label
from realdata import folder_of, scans_of

pytestmark = pytest.mark.realdata


def test_dicom_series_with_a_wrong_thickness() -> None:
    folder = folder_of("chaos_ct_dicom")
    scan = read_volume(folder / "dicom")
    assert scan.shape == (512, 512, 78)
    # SliceThickness says 3.2.
    assert scan.spacing[2] == pytest.approx(2.0, abs=1e-3)
    # Masks are numbered like the files; which end of the series that is, the intensities tell: liver is 0 to 200 HU.
    masks = np.stack([np.asarray(Image.open(p)).T > 0 for p in sorted((folder / "ground").glob("*.png"))], -1)
    assert masks.shape == scan.shape
    spreads = [scan.array[m].std() for m in (masks, masks[..., ::-1])]
    liver = masks if spreads[0] < spreads[1] else masks[..., ::-1]
    assert 0 < np.median(scan.array[liver]) < 200
    assert min(spreads) < 0.6 * max(spreads)
    # In RAS, the liver lies to the right (larger x) and in the upper part of an abdominal series (larger z).
    centre = (scan.affine @ [*np.argwhere(liver).mean(0), 1])[:3]
    body = (scan.affine @ [*np.argwhere(scan.array > -300).mean(0), 1])[:3]
    assert centre[0] > body[0]
    assert centre[2] > body[2]


@pytest.mark.parametrize(("name", "labels"), [("la", ["atrium"]), ("hippocampus", ["anterior", "posterior"])])
def test_labels_survive_a_coarser_grid_and_a_file(name: str, labels: list[str], tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder = folder_of(name)
    schema = LabelSchema(tuple(labels))
    first = scans_of(folder)["val"][0]
    scan = read_volume(folder / "images" / f"{first}.nii.gz")
    label = read_label(folder / "labels" / f"{first}.nii.gz", scan, schema)
    frame = frame_of(scan).with_spacing([2 * s for s in frame_of(scan).spacing])
    back = frame.labels_back(frame.one_hot(label, schema.channels))
    assert mean_dice(back, label, schema.count) > 0.9
    write_label(tmp_path / "back.nii.gz", back, scan.affine)
    stored = nibabel.load(tmp_path / "back.nii.gz")
    np.testing.assert_allclose(stored.affine, scan.affine, atol=1e-4)
    np.testing.assert_array_equal(read_label(tmp_path / "back.nii.gz", scan, schema), back)

"""Real files are read where they lie."""

from __future__ import annotations

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.core.labels import LabelSchema
from lib.core.metrics import mean_dice
from lib.dicom_seg import read_seg
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume, write_label
from realdata import folder_of, scans_of

pytestmark = pytest.mark.realdata


@pytest.mark.slow
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


DICOM = {
    "dcmqi/24x38x3/image": ((24, 38, 3), (0.7, 0.7, 2.5)),
    "dcmqi/24x38x3/multiframe/mf.dcm": ((24, 38, 3), (0.7, 0.7, 2.5)),
    "dcmqi/ct-3slice": ((512, 512, 3), (0.810547, 0.810547, 1.0)),
    "dcmjs/cine-test.dcm": ((256, 256, 8), (1.0, 1.0, 1.3)),
    "pydicom-data/eCT_Supplemental.dcm": ((512, 512, 2), (0.388672, 0.388672, 10.0)),
    "rt-utils/mock_data": ((512, 512, 2), (0.488281, 0.488281, 5.0)),
    "rt-utils/oriented_data": ((100, 50, 3), (2.5, 3.5, 4.5)),
}
NO_VOLUMES = {
    "dcmqi/24x38x3": "holds 2 series",
    "highdicom": "single slice",
    "rt-utils/one_slice_data": "single slice",
    "pydicom-data/emri_small.dcm": "film of 10 frames",
    "dcmqi/sr-example": "no DICOM image",
    "dcmqi/liver.dcm": "no DICOM image",
    "rt-utils/mock_data/rt.dcm": "no DICOM image",
}


@pytest.mark.parametrize("name", DICOM)
def test_public_dicom_objects_are_read(name: str) -> None:
    shape, spacing = DICOM[name]
    scan = read_volume(folder_of("dicom") / name)
    assert scan.shape == shape
    assert scan.spacing == pytest.approx(spacing, abs=1e-3)


@pytest.mark.parametrize("name", NO_VOLUMES)
def test_public_dicom_objects_that_are_no_volume(name: str) -> None:
    with pytest.raises(UserError, match=NO_VOLUMES[name]):
        read_volume(folder_of("dicom") / name)


@pytest.mark.parametrize(
    "name",
    [
        *("dcmqi/liver", "pydicom-data/liver_rle", "pydicom-data/liver_nonbyte_aligned_rle"),
        "pydicom-data/liver_deflate",
    ],
)
def test_public_segs_lie_on_their_scan(name: str) -> None:
    scan = read_volume(folder_of("dicom") / "dcmqi" / "ct-3slice")
    seg = pydicom.dcmread(folder_of("dicom") / f"{name}.dcm")
    found = read_seg(seg, scan)
    assert int((found == 1).sum()) == 107098
    assert 0 < np.median(scan.array[found == 1]) < 200

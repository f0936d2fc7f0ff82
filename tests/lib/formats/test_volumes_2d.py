"""2D images: every kind of file gives the right pixels, labels of viewers fit, and all methods work on one slice."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from lib.core.errors import UserError
from lib.core.frames import PICTURE_SIDE, frame_of
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.core.metrics import overlap
from lib.dicom_series import is_dicom_image
from lib.formats.label_files import largest_label, read_label
from lib.formats.volumes import read_volume, write_label
from lib.generalists import create_generalist
from lib.generalists.slices import View, choose_views
from lib.prompting import Clicks, GraphCut, OpenScan
from lib.propagation import Template, create_propagator, propagate_from
from lib.specialists import SpecialistSpec, build_network, predict_prepared, prepare
from lib.specialists.augment import Augmentation
from picturefiles import PICTURE_LABELS, save_dicom_image, save_picture, tiny_picture
from scanfiles import save_dicom

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEMA = LabelSchema(PICTURE_LABELS)
ONE = LabelSchema(("disc",))


@pytest.fixture
def colours() -> np.ndarray:
    """``[rows, columns, 3]``, no two rows or columns alike."""
    return np.random.default_rng(3).integers(0, 255, (20, 30, 3)).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_grey_picture_is_one_slice_of_columns_and_rows(tmp_path: Path, colours: np.ndarray) -> None:
    scan = read_volume(save_picture(tmp_path / "a.PNG", colours[..., 0]))
    assert scan.shape == (30, 20, 1)
    assert scan.flat
    assert scan.colour is None
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array[:, :, 0], colours[..., 0].T)


def test_colours_are_kept_and_the_scan_is_their_brightness(tmp_path: Path, colours: np.ndarray) -> None:
    scan = read_volume(save_picture(tmp_path / "a.png", colours))
    assert scan.colour is not None
    np.testing.assert_array_equal(scan.colour[..., 0], colours.transpose(2, 1, 0))
    expected = colours @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(scan.array[..., 0], expected.T, rtol=1e-5)


def test_grey_stored_as_colour_is_grey(tmp_path: Path, colours: np.ndarray) -> None:
    grey = np.repeat(colours[..., :1], 3, axis=2)
    scan = read_volume(save_picture(tmp_path / "a.png", grey))
    assert scan.colour is None
    np.testing.assert_array_equal(scan.array[..., 0], grey[..., 0].T)


def test_sixteen_bits_stay(tmp_path: Path, colours: np.ndarray) -> None:
    deep = colours[..., 0].astype(np.uint16) * 200 + 7
    scan = read_volume(save_picture(tmp_path / "a.png", deep))
    np.testing.assert_array_equal(scan.array[..., 0], deep.T)


def test_palette_and_cmyk_become_colours(tmp_path: Path, colours: np.ndarray) -> None:
    palette = Image.fromarray(colours).quantize(16)
    scan = read_volume(save(tmp_path / "a.png", palette))
    assert scan.colour is not None
    np.testing.assert_array_equal(scan.colour[..., 0], np.asarray(palette.convert("RGB")).transpose(2, 1, 0))
    smooth = np.zeros((32, 48, 3), np.uint8)
    smooth[:, :24], smooth[:, 24:] = (200, 40, 40), (40, 40, 200)
    cmyk = read_volume(save(tmp_path / "b.jpg", Image.fromarray(smooth).convert("CMYK"), quality=95))
    assert cmyk.colour is not None
    assert np.abs(cmyk.colour[..., 0] - smooth.transpose(2, 1, 0)).mean() < 6


def test_transparent_pixels_are_black(tmp_path: Path, colours: np.ndarray) -> None:
    alpha = np.full((20, 30, 1), 255, np.uint8)
    alpha[:10] = 0
    scan = read_volume(save_picture(tmp_path / "a.png", np.concatenate([colours, alpha], axis=2)))
    assert scan.colour is not None
    np.testing.assert_array_equal(scan.colour[:, :, 10:, 0], colours[10:].transpose(2, 1, 0))
    assert not scan.array[:, :10].any()


def test_pixels_lie_as_stored_whatever_exif_says(tmp_path: Path, colours: np.ndarray) -> None:
    # 3D Slicer and ITK do not turn the photo either: labels drawn there have to fit.
    exif = Image.Exif()
    exif[0x0112] = 6
    scan = read_volume(save(tmp_path / "a.jpg", Image.fromarray(colours), exif=exif))
    assert scan.shape == (30, 20, 1)
    assert tuple(itk.size(itk.imread(str(tmp_path / "a.jpg")))) == (30, 20)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_place_is_that_of_itk(tmp_path: Path, colours: np.ndarray, name: str) -> None:
    path = save(tmp_path / name, Image.fromarray(colours), dpi=(96, 96))  # ITK believes this of a JPEG only
    scan, image = read_volume(path), itk.imread(str(path))
    for pixel in ((0, 0), (29, 19), (4, 11)):
        left, back = image.TransformIndexToPhysicalPoint(pixel)
        np.testing.assert_allclose(scan.affine @ [*pixel, 0, 1], [-left, -back, 0, 1], atol=1e-4)


def png_of_two_frames(colours: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(colours).save(content, "PNG", save_all=True, append_images=[Image.fromarray(255 - colours)])
    return content.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_damaged_picture_is_refused(tmp_path: Path, colours: np.ndarray, name: str) -> None:
    path = save_picture(tmp_path / name, np.tile(colours, (8, 8, 1)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cut short") as caught:
        read_volume(path)
    assert caught.value.status == 422


def test_other_content_than_the_name_says_is_refused(tmp_path: Path, colours: np.ndarray) -> None:
    for content in (b"no picture", png_that_claims(60_000, 60_000), png_of_two_frames(colours), b""):
        path = tmp_path / "a.png"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.png cannot be read") as caught:
            read_volume(path)
        assert caught.value.status == 422


def test_one_coloured_and_tiny_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every voxel"):
        read_volume(save_picture(tmp_path / "a.png", np.full((9, 9), 4, np.uint8)))
    with pytest.raises(UserError, match="pixels only"):
        read_volume(save_picture(tmp_path / "b.png", np.arange(9, dtype=np.uint8)[None]))


# --- DICOM ------------------------------------------------------------------------------------------------------------


def test_radiograph_has_its_pixel_size(tmp_path: Path, colours: np.ndarray) -> None:
    pixels = colours[..., 0].astype(np.uint16) * 16
    path = save_dicom_image(tmp_path / "x" / "1.dcm", pixels, "DX")
    for scan in (read_volume(path), read_volume(path.parent)):
        assert scan.shape == (30, 20, 1)
        assert scan.spacing[:2] == pytest.approx((0.25, 0.5))
        np.testing.assert_array_equal(scan.array[..., 0], pixels.T)
    assert is_dicom_image(path)


def test_radiograph_that_is_stored_inverted_is_turned(tmp_path: Path, colours: np.ndarray) -> None:
    pixels = colours[..., 0].astype(np.uint16)
    scan = read_volume(save_dicom_image(tmp_path / "1.dcm", pixels, "CR", photometric="MONOCHROME1"))
    np.testing.assert_array_equal(scan.array[..., 0] - scan.array.min(), (pixels.max() - pixels).T)


def test_ultrasound_in_colour(tmp_path: Path, colours: np.ndarray) -> None:
    scan = read_volume(save_dicom_image(tmp_path / "1.dcm", colours, "US"))
    assert scan.colour is not None
    np.testing.assert_array_equal(scan.colour[..., 0], colours.transpose(2, 1, 0))


def test_slice_of_a_volume_is_no_image_of_its_own(tmp_path: Path, colours: np.ndarray) -> None:
    slice_ = save_dicom(tmp_path / "ct", colours.astype(np.int16), np.eye(4), thickness=1.0) / "001.dcm"
    assert not is_dicom_image(slice_)
    with pytest.raises(UserError, match="three-dimensional"):
        read_volume(slice_)


def test_several_radiographs_in_one_folder_are_refused(tmp_path: Path, colours: np.ndarray) -> None:
    for n in (1, 2):
        save_dicom_image(tmp_path / "x" / f"{n}.dcm", colours[..., n].astype(np.uint16), "DX")
    with pytest.raises(UserError, match="folder of its own"):
        read_volume(tmp_path / "x")


# --- labels -----------------------------------------------------------------------------------------------------------


def as_slicer_saves(path: Path, scan_file: Path, label: np.ndarray) -> Path:
    """Write ``[rows, columns]`` as a volume of one slice on the grid on which ITK has read the scan."""
    image = itk.image_from_array(label[None])
    if scan_file.suffix == ".dcm":
        image.CopyInformation(itk.imread(str(scan_file)))
    else:
        image.SetSpacing([*itk.imread(str(scan_file)).GetSpacing(), 1.0])
    itk.imwrite(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
@pytest.mark.parametrize("kind", ["a.png", "a.jpg", "a.dcm"])
def test_label_saved_by_a_viewer_fits(tmp_path: Path, suffix: str, kind: str) -> None:
    pixels, label = tiny_picture(1)
    if kind == "a.dcm":
        file = save_dicom_image(tmp_path / kind, pixels, "US")
    else:
        file = save(tmp_path / kind, Image.fromarray(pixels), dpi=(120, 120))
    found = read_label(as_slicer_saves(tmp_path / f"l{suffix}", file, label), read_volume(file), SCHEMA)
    np.testing.assert_array_equal(found[..., 0], label.T)


@pytest.mark.parametrize("suffix", [".nii.gz", ".png"])
def test_written_label_comes_back_and_lies_on_the_picture(tmp_path: Path, suffix: str) -> None:
    pixels, label = tiny_picture(1)
    file = save_picture(tmp_path / "a.png", pixels)
    scan = read_volume(file)
    path = tmp_path / f"l{suffix}"
    write_label(path, label.T[..., None], scan.affine)
    np.testing.assert_array_equal(read_label(path, scan, SCHEMA)[..., 0], label.T)
    image, shown = itk.imread(str(path)), itk.imread(str(file))
    np.testing.assert_array_equal(np.asarray(itk.array_from_image(image)).squeeze(), label)
    corner = [71, 55]
    at = image.TransformIndexToPhysicalPoint([*corner, 0][: image.GetImageDimension()])
    np.testing.assert_allclose([at[0], at[1]], list(shown.TransformIndexToPhysicalPoint(corner)), atol=1e-4)


def test_png_labels_of_image_programs(tmp_path: Path) -> None:
    pixels, label = tiny_picture(1)
    scan = read_volume(save_picture(tmp_path / "a.png", pixels))
    palette = Image.fromarray(label, "P")
    palette.putpalette([0, 0, 0, 200, 20, 20, 20, 200, 20])
    same = {"grey": Image.fromarray(label), "palette": palette, "colour": Image.fromarray(np.dstack([label] * 3))}
    for name, image in same.items():
        found = read_label(save(tmp_path / f"{name}.png", image), scan, SCHEMA)
        np.testing.assert_array_equal(found[..., 0], label.T, err_msg=name)
    disc = (label == 1).astype(np.uint8)
    for image in (Image.fromarray(disc * 255), Image.fromarray(disc.astype(bool))):
        path = save(tmp_path / "mask.png", image)
        np.testing.assert_array_equal(read_label(path, scan, ONE)[..., 0], disc.T)
        assert largest_label(path) == 1


def test_labels_that_do_not_fit_say_why(tmp_path: Path) -> None:
    pixels, label = tiny_picture(1)
    scan = read_volume(save_picture(tmp_path / "a.png", pixels))
    cases = {
        "in colour": save_picture(tmp_path / "1.png", pixels),
        "does not keep values": save_picture(tmp_path / "2.jpg", label),
        "has 56 x 72 x 1 voxels, but its scan has 72 x 56 x 1": save_picture(tmp_path / "3.png", label.T.copy()),
        r"255.*this server knows 1 to 2": save_picture(tmp_path / "4.png", (label > 0).astype(np.uint8) * 255),
        "empty": save_picture(tmp_path / "5.png", label * 0),
    }
    for text, path in cases.items():
        with pytest.raises(UserError, match=text) as caught:
            read_label(path, scan, SCHEMA)
        assert caught.value.status == 422
    elsewhere = tmp_path / "6.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label.T[..., None], np.eye(4)), elsewhere)
    with pytest.raises(UserError, match="lies elsewhere"):
        read_label(elsewhere, scan, SCHEMA)
    volume = Volume(np.zeros((72, 56, 4), np.float32), np.eye(4))
    with pytest.raises(UserError, match="2D picture"):
        read_label(save_picture(tmp_path / "7.png", label), volume, SCHEMA)
    with pytest.raises(UserError, match="only for a 2D image"):
        write_label(tmp_path / "8.png", np.zeros((4, 4, 4), np.uint8), np.eye(4))


# --- methods ----------------------------------------------------------------------------------------------------------


def scan_and_label(folder: Path, number: int, **size: int) -> tuple[Volume, np.ndarray]:
    pixels, label = tiny_picture(number, **size)
    return read_volume(save_picture(folder / f"{number}.png", pixels)), label.T[..., None]


def test_working_grid_is_one_slice_and_does_not_depend_on_the_resolution(tmp_path: Path) -> None:
    frames = [frame_of(scan_and_label(tmp_path, 1, width=w, height=h)[0]) for w, h in ((72, 56), (144, 112))]
    for frame in frames:
        assert frame.flat
        assert max(frame.extent) == PICTURE_SIDE
        assert frame.with_spacing((4.0, 4.0, 4.0)).shape == (64, 50, 1)
        # Models for slices look at the picture itself, not at lines across it.
        assert choose_views(frame.spacing, "auto") == (View(2),)
    scan, label = scan_and_label(tmp_path, 1)
    frame = frame_of(scan)
    np.testing.assert_array_equal(frame.labels_back(frame.one_hot(label, 3)), label)
    # As in an axial slice, the patient's right and front have the higher indices.
    np.testing.assert_array_equal(frame.image(scan.array)[0].numpy(), scan.array[::-1, ::-1])


def spec_for(inputs: int, *, flat: bool = True) -> SpecialistSpec:
    roi = (40, 32, 1) if flat else (16, 16, 16)
    return SpecialistSpec(PICTURE_LABELS, (4, 8), (4.0, 4.0, 256.0), roi, "unet2d", inputs=inputs, flat=flat)


def test_specialist_sees_colours_and_only_what_it_knows(tmp_path: Path) -> None:
    scan, _ = scan_and_label(tmp_path, 1)
    for inputs in (1, 3):
        frame, image = prepare(scan, spec_for(inputs))
        assert image.shape == (inputs, 64, 50, 1)
        assert float(image.mean()) == pytest.approx(0, abs=1e-4)
        assert float(image.std()) == pytest.approx(1, abs=1e-3)
        found = predict_prepared([build_network(spec_for(inputs))], spec_for(inputs), image)
        assert frame.labels_back(found).shape == scan.shape
    assert not torch.equal(image[0], image[2])
    grey = Volume(scan.array, scan.affine)
    _, image = prepare(grey, spec_for(3))
    torch.testing.assert_close(image[0], image[2])
    with pytest.raises(UserError, match="This is a 2D image, but the outlined scans of this study are 3D scans"):
        prepare(scan, spec_for(1, flat=False))
    with pytest.raises(UserError, match="This is a 3D scan"):
        prepare(Volume(np.repeat(scan.array, 4, axis=2), scan.affine), spec_for(1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_window_of_one_slice_is_changed_in_its_plane_only(axis: int) -> None:
    shape = [1, 1, 1, 1]
    shape[axis + 1] = 9
    image = torch.arange(9.0).reshape(shape).expand(1, *[9 if n == axis else 32 for n in range(3)])
    size = [1 if n == axis else 24 for n in range(3)]
    centre = [4.0 if n == axis else 15.5 for n in range(3)]
    strong = Augmentation(rotation=1.0, elastic=3.0, contrast=0, brightness=0, noise=0, bias=0, undeformed=0)
    generator = torch.Generator().manual_seed(1)
    place = next(n for n in range(3) if n != axis)
    across = torch.arange(32.0).reshape([32 if n == place + 1 else 1 for n in range(4)]).expand(image.shape)
    cut, moved = strong.window(image, across, centre, size, generator)
    torch.testing.assert_close(cut, torch.full_like(cut, 4.0))
    still = across.narrow(place + 1, 4, 24).narrow(axis + 1, 4, 1)
    assert float((moved - still[tuple(slice(0, n) for n in moved.shape)]).abs().max()) > 2


@pytest.mark.parametrize("propagator", ["registration", "prototype", "ensemble"])
@pytest.mark.slow
def test_propagation_labels_a_picture_after_one_of_another_size(tmp_path: Path, propagator: str) -> None:
    template, label = scan_and_label(tmp_path, 1)
    scan, truth = scan_and_label(tmp_path, 2, width=144, height=112)
    found = propagate_from(
        [Template("first", template, label)],
        scan,
        3,
        generalist=create_generalist("mind"),
        propagator=create_propagator(propagator),
    ).labels()
    assert found.shape == scan.shape
    least = 0.5 if propagator == "prototype" else 0.85
    assert np.mean([overlap(found == v, truth == v)[0] for v in (1, 2)]) > least


def test_propagation_between_2d_and_3d_is_refused(tmp_path: Path) -> None:
    scan, label = scan_and_label(tmp_path, 1)
    volume = Volume(np.random.default_rng(0).random((24, 24, 24), dtype=np.float32), np.eye(4))
    outlined = [Template("deep", volume, np.ones((24, 24, 24), np.uint8))]
    parts = {"generalist": create_generalist("mind"), "propagator": create_propagator("prototype")}
    with pytest.raises(UserError, match=r"This is a 2D image, but the outlined ones \(deep\) are 3D scans"):
        propagate_from(outlined, scan, 3, **parts)  # type: ignore[arg-type]
    both = [*outlined, Template("flat", scan, label)]
    assert propagate_from(both, scan, 3, **parts).templates == ("flat",)  # type: ignore[arg-type]


def test_clicks_without_weights(tmp_path: Path) -> None:
    scan, truth = scan_and_label(tmp_path, 1)
    inside = np.argwhere(truth == 1).mean(0, keepdims=True)
    found = OpenScan(scan, GraphCut(), use_mask=False).segment(Clicks(inside, np.zeros((0, 3))))
    assert overlap(found, truth == 1)[0] > 0.9

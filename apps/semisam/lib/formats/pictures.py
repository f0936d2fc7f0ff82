"""Pixels of PNG and JPEG files, as scans and as label maps.

Pixels stay in the order in which the file stores them, also where a photo says that it should be shown turned (EXIF):
3D Slicer and ITK do the same, and labels drawn there have to fit. The size of a pixel is what ITK reads from the file,
as that is what Slicer will show and save.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import itk
import numpy as np
from PIL import Image

from lib.core.errors import UserError

from .limits import check_voxels

PICTURES = (".png", ".jpg", ".jpeg")
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What a file shows.

    Args:
        grey: brightness ``[W, H]`` float32, in the file's range (0..255, or 0..65535 where it has 16 bits).
        colour: red, green and blue ``[3, W, H]`` float32 in 0..255; None where all pixels are grey.
        spacing: size of a pixel along W and H in mm; 1 where the file says nothing.
    """

    grey: np.ndarray
    colour: np.ndarray | None
    spacing: tuple[float, float]


def is_picture(path: Path) -> bool:
    """Whether a file is a PNG or JPEG by its name."""
    return path.name.lower().endswith(PICTURES) and not path.is_dir()


def luminance(colour: np.ndarray) -> np.ndarray:
    """Brightness of red, green and blue ``[3, ...]``."""
    return np.tensordot(np.asarray(LUMINANCE, dtype=np.float32), colour, axes=1)


def split_colour(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Brightness, and the colours ``[3, ...]`` float32 unless all pixels are grey."""
    rgb = rgb.astype(np.float32)
    if np.array_equal(rgb[0], rgb[1]) and np.array_equal(rgb[0], rgb[2]):
        return rgb[0], None
    return luminance(rgb), rgb


def read_picture(path: Path) -> Picture:
    """Read a picture to segment: grey, palette, colour, with alpha (laid on black) or CMYK; 8 or 16 bits.

    Raises:
        OSError, ValueError, SyntaxError, RuntimeError: when the file is damaged.
        UserError: (413) when it is too large; (422) when it holds several pictures.
    """
    with _opened(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise _refused(path, f"it holds {image.n_frames} pictures, one is needed")
        image.load()
        if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
            grey, colour = np.asarray(image).astype(np.float32), None
        else:
            if image.has_transparency_data:
                opaque = image.convert("RGBA")
                image_rgb = Image.alpha_composite(Image.new("RGBA", opaque.size, (0, 0, 0, 255)), opaque).convert("RGB")
            else:
                image_rgb = image.convert("RGB")
            grey, colour = split_colour(np.asarray(image_rgb).transpose(2, 0, 1))
    columns_first = None if colour is None else np.ascontiguousarray(colour.transpose(0, 2, 1))
    return Picture(np.ascontiguousarray(grey.T), columns_first, _pixel_size(path))


def read_picture_label(path: Path) -> np.ndarray:
    """Read a label map ``[W, H]``: the grey values, or the palette's numbers.

    Raises:
        OSError, ValueError, SyntaxError: when the file is damaged.
        UserError: (413) when it is too large; (422) for colours, and for JPEG, which does not keep values.
    """
    with _opened(path) as image:
        if image.format != "PNG":
            raise _refused(path, "JPEG does not keep values exactly: save labels as PNG, NIfTI or NRRD")
        image.load()
        if image.mode in ("RGB", "RGBA", "LA"):
            values = np.asarray(image)
            if image.mode != "LA" and (values[..., :3] != values[..., :1]).any():
                raise _refused(path, "it is in colour: save the label as grey values or palette numbers 1, 2, ...")
            values = values[..., 0]
        else:
            values = np.asarray(image)
    return np.ascontiguousarray(values.T)


def write_picture_label(path: str, label: np.ndarray) -> None:
    """Write a label map ``[W, H]`` as a grey PNG; uint8 or uint16."""
    Image.fromarray(np.ascontiguousarray(label.T)).save(path, format="PNG")


def _refused(path: Path, reason: str) -> UserError:
    return UserError(f"{path.name} cannot be read: {reason}.", status=422)


def _opened(path: Path) -> Image.Image:
    """A picture whose size is looked at before its pixels are unpacked."""
    try:
        image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path.name} has more pixels by its header than can be read as a picture. Save it smaller, or as NIfTI.",
            status=413,
        ) from error
    try:
        # Brightness and three colours, each as float32.
        check_voxels(image.size, path.name, 4 if len(image.getbands()) == 1 else 16)
    except UserError:
        image.close()
        raise
    return image


def _pixel_size(path: Path) -> tuple[float, float]:
    reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:
        raise OSError("not recognised as PNG or JPEG by its content")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return float(reader.GetSpacing(0)), float(reader.GetSpacing(1))

"""NRRD and MetaImage files, read and written by ITK (SimpleITK), which 3D Slicer reads them with."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK

from lib.core.errors import UserError
from lib.core.files import unreadable
from lib.core.geometry import spacing_of

from .limits import check_voxels

ENDINGS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From ITK's axes (left, posterior, superior) to those of NIfTI (right, anterior, superior), and back."""
_MOST_HEADER = 16 * 2**20
"""Bytes; a file whose header does not end before that is none."""
_BLOCK = 2**20
_MOST_BEHIND = 64 * 2**20
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
_TEXT = ("ascii", "text", "txt", "hex")
"""Encodings of NRRD that write numbers for people."""
DENSEST = 1032
"""Bytes that deflate can make of one, at most."""
_DATA_FILE = ("data file", "datafile", "elementdatafile")
"""Fields of NRRD and MetaImage that say where the values are."""
_SKIPS = ("byte skip", "byteskip", "line skip", "lineskip")
_KNOWN = {
    name.lower(): name
    for name in (
        *("dimension", "sizes", "type", "encoding", "kinds", *_SKIPS),
        *("data file", "datafile", "files"),
        *("NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "ElementDataFile", "BinaryData"),
        *("CompressedData", "CompressedDataSize"),
    )
}
"""Fields that are looked at below, by their names in small letters: what ITK reads must be what was checked."""
_PATTERN = re.compile(r"[^%]*%(0?\d{1,2})?d[^%]*")
"""A name with a running number, as ``slice%03d.raw 1 20 1``."""
_LINE = re.compile(r"([^:=]*?)\s*(:=|[:=])\s*(.*)")


@dataclass(frozen=True, eq=False)
class ItkFile:
    """What a file's header says.

    Args:
        path: the file.
        reader: ready to read the values.
        shape: voxels along each axis.
        affine: ``[4, 4]`` in RAS and mm.
        layers: numbers that each voxel has, None for plain images.
        fields: the header's texts by name.
    """

    path: Path
    reader: SimpleITK.ImageFileReader
    shape: tuple[int, ...]
    affine: np.ndarray
    layers: int | None
    fields: Mapping[str, str] = field(default_factory=dict)


def place_of(image: SimpleITK.ImageFileReader | SimpleITK.Image) -> np.ndarray:
    """The affine ``[4, 4]`` in RAS and mm of an image; a plane lies at the origin and has slices 1 mm apart."""
    n = image.GetDimension()
    used = min(n, 3)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(n, n)[:used, :used]
    affine[:used, :used] = direction * np.array(image.GetSpacing())[:used]
    affine[:used, 3] = image.GetOrigin()[:used]
    return np.asarray(LPS @ affine)


def open_itk(path: Path) -> ItkFile:
    """Look at a header; no values are read or unpacked.

    Raises:
        UserError: (422) when it is none, or promises more than the file holds, or its values are in a file that is
            missing or lies in another folder; (413) when the scan is too large, see ``lib.formats.limits``.
    """
    fields = read_fields(path)
    written = fields.get("sizes", fields.get("dimsize", "")).split()
    check_voxels([int(n) for n in written if n.isdecimal()], path.name, 1)
    values = _file_of_values(path, fields)
    _check(path, values, fields)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(ENDINGS[path.suffix.lower()])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    kind, layers = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()), reader.GetNumberOfComponents()
    bits = re.search(r"(\d+)-bit", kind)
    shape = tuple(int(n) for n in reader.GetSize())
    each = int(bits.group(1)) // 8 if bits else 4
    check_voxels((*shape, layers) if layers > 1 else shape, path.name, each)
    text = fields.get("encoding", "").lower() in _TEXT or fields.get("binarydata", "").lower() == "false"
    _check_enough(path, values, fields, math.prod(shape) * layers * (1 if text else each))
    return ItkFile(path, reader, shape, place_of(reader), layers if "vector" in kind else None, fields)


def read_values(file: ItkFile) -> np.ndarray:
    """The values ``[*shape]``, or ``[*shape, layers]`` where voxels have several numbers.

    Raises:
        RuntimeError, EOFError, zlib.error: when the file is damaged or cut short.
    """
    image = file.reader.Execute()
    array = np.asarray(SimpleITK.GetArrayFromImage(image))
    if _packed(file.fields):
        _check_packed(file, array.nbytes)
    if file.layers is not None:
        array = array.reshape(*file.shape[::-1], file.layers)  # SimpleITK leaves out a single layer's axis
    axes = list(range(len(file.shape)))[::-1]
    return array.transpose([*axes, len(axes)] if file.layers is not None else axes)


def write_nrrd(path: str, array: np.ndarray, affine: np.ndarray, *, compress: bool = True) -> None:
    """Write ``[D, H, W]`` as NRRD.

    Args:
        path: the file.
        array: of any type of number.
        affine: ``[4, 4]`` in RAS and mm; its axes need not be at right angles.
        compress: pack the values.
    """
    image = SimpleITK.GetImageFromArray(array.transpose())
    lps, spacing = LPS @ affine, spacing_of(affine)
    image.SetSpacing(spacing)
    image.SetOrigin([float(v) for v in lps[:3, 3]])
    image.SetDirection([float(v) for v in (lps[:3, :3] / spacing).ravel()])
    SimpleITK.WriteImage(image, path, useCompression=compress)


def read_fields(path: Path) -> dict[str, str]:
    """The texts in the header of an NRRD or MetaImage file, by name: as written for keys of NRRD, else in lower case.

    Where the values are in a list of files, ``files`` has these names, one a line.

    Raises:
        UserError: (422) when this is no such header.
    """
    nrrd = path.suffix.lower() == ".nrrd"
    fields: dict[str, str] = {}
    listed: list[str] | None = None
    for number, line in enumerate(_lines(path)):
        text = line.decode("utf-8", errors="replace").strip()
        if nrrd and number == 0 and not text.startswith("NRRD"):
            raise unreadable(path, "no NRRD header")
        if listed is not None:
            listed.append(text)
            continue
        if nrrd and number and not text:
            break
        name, value = _read_field(path, text, fields, nrrd)
        if name.lower() in _DATA_FILE and value.upper().startswith("LIST"):
            listed = []
        elif not nrrd and name == "ElementDataFile":
            break
    else:
        if listed is None and not nrrd:
            raise unreadable(path, "no MetaImage header")
    return fields if listed is None else {**fields, "files": "\n".join(listed)}


def _read_field(path: Path, text: str, fields: dict[str, str], nrrd: bool) -> tuple[str, str]:
    """Add what a line of a header says to ``fields``; its name and value, both "" when it says nothing.

    Raises:
        UserError: (422) when it is no line of such a header, or contradicts another.
    """
    found = _LINE.fullmatch(text)
    if found is None or text.startswith("#"):
        if text and not nrrd:
            raise unreadable(path, "no MetaImage header")
        return "", ""
    name, sign, value = found.groups()
    known = _KNOWN.get(name.lower())
    if nrrd and sign == ":=":
        if known is None:  # a text of its own is no field, whatever it is called
            fields[name] = value
        return "", ""
    if known is not None and (name.lower() in fields or (not nrrd and name != known)):
        raise unreadable(path, f"its header has {name} twice, or in another spelling")
    fields[name.lower()] = value
    return name, value


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a file as far as a header may reach; the caller stops where it ends."""
    left = _MOST_HEADER
    with path.open("rb") as file:
        while line := file.readline(left):
            left -= len(line)
            yield line
            if left <= 0:
                raise unreadable(path, "its header does not end")


def _file_of_values(path: Path, fields: Mapping[str, str]) -> Path | None:
    """The file with the values, the header's own as a rule; None for several.

    Raises:
        UserError: (422) when it is missing, lies in another folder, or is a pattern with more than a number in it.
    """
    named = next((fields[name] for name in _DATA_FILE if name in fields), "LOCAL")
    if named.upper() == "LOCAL":
        return path
    if any(_leads_out(name) for name in fields.get("files", named).split("\n")):
        raise UserError(
            f"{path.name} has its values in a file of another folder. Put both into one folder, or save the scan "
            "as one file (.nrrd, .mha, .nii.gz).",
            status=422,
        )
    if "%" in named and not _PATTERN.fullmatch(named):
        raise unreadable(path, "the name of its files is no pattern")  # ITK prints with it, whatever it asks for
    if "files" in fields or "%" in named:
        return None
    if not (path.parent / named).is_file():
        raise UserError(
            f"{path.name} has its values in the file {named[:80]}, which is not beside it. Bring both, or save the "
            "scan as one file (.nrrd, .mha, .nii.gz).",
            status=422,
        )
    return path.parent / named


def _packed(fields: Mapping[str, str]) -> bool:
    """Whether the values are compressed."""
    return fields.get("encoding", "").lower() in ("gzip", "gz") or fields.get("compresseddata", "").lower() == "true"


def _check_packed(file: ItkFile, needed: int) -> None:
    """Unpack compressed values once more, to their check sum: ITK takes damaged ones without a word.

    Args:
        file: with the values in one file; others are not looked at.
        needed: bytes of the values.

    Raises:
        EOFError, zlib.error: when they are damaged or cut short.
    """
    values = _file_of_values(file.path, file.fields)
    if values is None:
        return
    unpacker, left = zlib.decompressobj(_ZLIB_OR_GZIP), needed
    with values.open("rb") as content:
        content.seek(_end_of_header(file.path) if values == file.path else 0)
        block = content.read(_BLOCK)
        while not unpacker.eof:
            if not block:
                raise EOFError(f"{left} bytes are missing")
            left -= len(unpacker.decompress(block, _BLOCK))
            if left < -_MOST_BEHIND:
                return  # whatever it is, it is too much to be looked through
            block = unpacker.unconsumed_tail or content.read(_BLOCK)
    if left > 0:
        raise EOFError(f"{left} bytes are missing")


def _end_of_header(path: Path) -> int:
    """Where the values begin that follow a header in its own file."""
    place, nrrd = 0, path.suffix.lower() == ".nrrd"
    for line in _lines(path):
        place += len(line)
        if (nrrd and not line.strip()) or (not nrrd and line.lower().startswith(b"elementdatafile")):
            break
    return place


def _check_enough(path: Path, values: Path | None, fields: Mapping[str, str], needed: int) -> None:
    """Refuse a header that promises more than the file can hold, before memory is set aside for it."""
    if values is not None and values.stat().st_size * (DENSEST if _packed(fields) else 1) < needed:
        raise unreadable(path, f"{values.stat().st_size} bytes cannot hold {needed}")


def _check(path: Path, values: Path | None, fields: Mapping[str, str]) -> None:
    """Refuse what a reader would take much time or memory for, whatever its sizes."""
    if fields.get("encoding", "").lower() in ("bzip2", "bz2"):
        raise UserError(
            f"{path.name} is packed with bzip2, which 3D Slicer cannot read. Save it with the encoding gzip.",
            status=422,
        )
    if _packed(fields) and any(
        fields.get(name, "0") != "0" for name in ("byte skip", "byteskip", "line skip", "lineskip")
    ):
        raise unreadable(path, "packed values do not begin at their beginning")
    size = fields.get("compresseddatasize", "")
    if size.isdecimal() and values is not None and int(size) > values.stat().st_size:
        raise unreadable(path, f"it should hold {size} bytes")
    dims = fields.get("ndims", fields.get("dimension"))
    if dims is not None and dims not in ("2", "3", "4", "5"):  # ITK ends the process with 16
        raise unreadable(path, f"it has {dims} dimensions")


def _leads_out(name: str) -> bool:
    """Whether a file name leads out of the folder that it counts from."""
    return bool(re.match(r"[/\\~]|[A-Za-z]:", name.strip())) or ".." in re.split(r"[/\\\s]", name)

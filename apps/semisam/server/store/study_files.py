"""Which files of a study folder are scans and labels, and why others are left out; one bad one never stops the rest."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from lib.core.errors import UserError
from lib.dicom_series import is_dicom_image
from lib.formats.pictures import PICTURES

from .detached import HEADER, check_header, data_files

logger = logging.getLogger("semisam.store")

DICOM = ".dcm"
EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha", HEADER, *PICTURES, DICOM)
SEG_NRRD = ".seg.nrrd"
LABEL_EXTENSIONS = (".nii.gz", ".nii", SEG_NRRD, ".nrrd", ".mha", ".png")

NAME = re.compile(r"[^/\\\x00-\x1f\x7f\ud800-\udfff]+")
NAME_BYTES = 200
"""A file system takes 255, of which an extension and a temporary name need some."""

_OTHER_FORMATS = (
    ".nhdr",
    ".hdr",
    ".img",
    ".mgz",
    ".mgh",
    ".gipl",
    ".gipl.gz",
    ".mnc",
    ".img.gz",
    ".nii.bz2",
    ".nii.zip",
)
_SEGMENT = re.compile(rb"^segment\d+_(id|name)\s*:=", re.IGNORECASE | re.MULTILINE)
"""3D Slicer writes such lines into the header of a segmentation, whatever the file is called."""
_NRRD_HEADER = 65_536
_NO_SCANS = ("SEG", "RTDOSE", "RTSTRUCT", "PR", "SR", "KO")
"""DICOM modalities of objects that are about a scan."""


def split(file: str, extensions: Iterable[str] = EXTENSIONS) -> tuple[str, str]:
    """A file's name without its extension, and the extension as it is written; that is empty when none is known."""
    for extension in extensions:
        if file.lower().endswith(extension) and len(file) > len(extension):
            return file[: -len(extension)], file[-len(extension) :]
    return file, ""


def printable(name: str) -> str:
    """A file's name as a client can read it: bytes that are no UTF-8 as their hexadecimal numbers."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def bad_name(name: str) -> str | None:
    """Why a file's name cannot be a scan's, None when it can."""
    if not NAME.fullmatch(name):
        return "its name is no UTF-8 text that can be printed; rename it"
    if len(split(name)[0].encode()) > NAME_BYTES:
        return f"its name is longer than {NAME_BYTES} bytes; rename it"
    return None


@dataclass
class Found:
    """What a look into the study's folder has found.

    Attributes:
        scans: file or folder by the scan's id.
        left_out: reasons by the file's printable name.
    """

    scans: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class StudyFiles:
    """The files of a study folder.

    Args:
        folder: the study.
        labels: its folder of labels.
        barred: why a file or folder may not be looked into though it could be; None when it may.
    """

    def __init__(self, folder: Path, labels: Path, barred: Callable[[Path], str | None] = lambda path: None) -> None:
        self._folder = folder
        self._barred = barred
        self._labels = labels
        self._headers: dict[tuple[str, int, int], str | None] = {}

    def look(self, known: Mapping[str, str], drawn_on: Callable[[str, Path], bool]) -> Found:
        """Look for scans.

        Args:
            known: the scans' files so far, by id: where two files have one id, the known one stays.
            drawn_on: whether a scan's labels were drawn on the scan in a file, for a scan with several files.

        Raises:
            OSError: when the folder itself cannot be read.
        """
        found = Found()
        candidates: dict[str, list[str]] = {}
        loose = 0
        for name in sorted(os.listdir(self._folder)):
            if name.startswith(".") or self._is_own(name):
                continue
            try:
                reason = self.reason(name)
            except OSError as error:
                reason = f"it cannot be read ({error.strerror})"
            if reason is None:
                candidates.setdefault(self._id(name), []).append(name)
            elif reason == _SLICE:
                loose += 1
            elif reason:
                found.left_out[printable(name)] = reason
        if loose:
            found.left_out[f"*{DICOM}"] = f"{loose} file(s): {_SLICE}"
        self._segmentations(candidates, found)
        for image_id, names in candidates.items():
            self._choose(image_id, names, known.get(image_id), drawn_on, found)
        return found

    def reason(self, name: str) -> str | None:
        """Why a file or folder of the study is no scan: empty when it does not look like one, None when it is one.

        Raises:
            OSError: when it cannot be looked into.
        """
        path = self._folder / name
        extension = split(name)[1].lower()
        looks = bool(extension) or name.lower().endswith(_OTHER_FORMATS)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return "it is a link that leads nowhere" if looks and path.is_symlink() else ""
        if stat.S_ISDIR(status.st_mode):
            return self._folder_reason(name)
        if not looks:
            return ""
        if (barred := self._barred(path)) is not None:
            return barred
        if not stat.S_ISREG(status.st_mode):
            return "it is no plain file"
        reason = bad_name(name) or (None if extension else "this format is not read: save it as .nii.gz or .nrrd")
        if reason is None and not os.access(path, os.R_OK):
            reason = "this server's user may not read it"
        return reason or self._content_reason(path, extension, status)

    def upload_reason(self, path: Path) -> str | None:
        """Why a file that a client sends is no scan, None when it may be one; its voxels are not looked at."""
        extension = split(path.name)[1].lower()
        try:
            reason = self._content_reason(path, extension, os.stat(path))
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        if reason == _SLICE:
            return "it is a slice of a volume. Upload all files of the series in one zip archive"
        return reason

    def is_series(self, name: str) -> bool:
        """Whether a sub-folder holds DICOM files; looks at its first three files.

        Raises:
            OSError: when it cannot be read.
        """
        return is_dicom_folder(self._folder / name)

    def _is_own(self, name: str) -> bool:
        path = self._folder / name
        return name == "datastore_v2.json" or os.path.realpath(path) == os.path.realpath(self._labels)

    def _id(self, name: str) -> str:
        return name if (self._folder / name).is_dir() else split(name)[0]

    def _folder_reason(self, name: str) -> str | None:
        path = self._folder / name
        if not os.access(path, os.R_OK | os.X_OK):
            return "this server's user may not read the folder"
        if not self.is_series(name):
            return ""
        return bad_name(name) or self._barred(path)

    def _content_reason(self, path: Path, extension: str, status: os.stat_result) -> str | None:
        """Why a file is no scan, by its header. Looked into once: a folder may be full of such files."""
        if path.name.lower().endswith(SEG_NRRD):
            return _SEGMENTATION
        if extension == HEADER:
            try:
                check_header(path)
            except UserError as error:
                return str(error)
            return None
        if extension not in _LOOKED_INTO:
            return None
        stamp = str(path), status.st_mtime_ns, status.st_size
        if stamp not in self._headers:
            self._headers[stamp] = _LOOKED_INTO[extension](path)
        return self._headers[stamp]

    def _segmentations(self, candidates: dict[str, list[str]], found: Found) -> None:
        """Take out ``NAME.seg.EXT`` beside a scan ``NAME``."""
        for image_id in [i for i in candidates if i.lower().endswith(".seg") and i[:-4] in candidates]:
            for name in candidates.pop(image_id):
                found.left_out[printable(name)] = _SEGMENTATION

    def _choose(
        self,
        image_id: str,
        names: list[str],
        known: str | None,
        drawn_on: Callable[[str, Path], bool],
        found: Found,
    ) -> None:
        """Which of several files is the scan of this id: the one that was outlined, else the one that was known."""
        chosen = names[0]
        if len(names) > 1:
            order = {extension: n for n, extension in enumerate((*EXTENSIONS, ""))}
            names = sorted(names, key=lambda n: (n != known, order[self._extension(n)], n))
            chosen = next((n for n in names if drawn_on(image_id, self._folder / n)), names[0])
        found.scans[image_id] = chosen
        for name in names:
            if name != chosen:
                found.left_out[printable(name)] = (
                    f"{printable(chosen)} has the same name and is the scan {image_id!r}. If this is another scan, "
                    "rename it"
                )

    def _extension(self, name: str) -> str:
        return "" if (self._folder / name).is_dir() else split(name)[1].lower()

    def files_of(self, name: str) -> list[Path]:
        """What has to be deleted with a scan: a header's data first, unless another header names them, too."""
        path = self._folder / name
        others = {
            file
            for other in self._folder.iterdir()
            if other.name != name and other.name.lower().endswith(HEADER)
            for file in data_files(other)
        }
        return [*(file for file in data_files(path) if file not in others), path]


def label_files(
    folder: Path, left_out: dict[str, str], barred: Callable[[Path], str | None] = lambda path: None
) -> dict[str, list[str]]:
    """The names of the label files in a tag's folder, by the scan's id.

    Args:
        folder: of the tag.
        left_out: what is no label is added here, with the reason.
        barred: see ``StudyFiles``.

    Raises:
        OSError: when the folder cannot be read.
    """
    return _labels_among(sorted(os.listdir(folder)), folder, left_out, barred)


def formats_of(folder: Path, image_id: str, barred: Callable[[Path], str | None]) -> list[str]:
    """The names of the files of one scan's label in a tag's folder, in every format; none when it cannot be read."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.startswith(f"{image_id}."))
    except OSError:
        return []
    return _labels_among(names, folder, {}, barred).get(image_id, [])


def _labels_among(
    names: Iterable[str], folder: Path, left_out: dict[str, str], barred: Callable[[Path], str | None]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        image_id, extension = split(name, LABEL_EXTENSIONS)
        if name.startswith(".") or not extension:
            continue
        reason = bad_name(name)
        path = folder / name
        if reason is None and not path.is_file():
            reason = "it is no file, or a link that leads nowhere"
        if reason is None and not os.access(path, os.R_OK):
            reason = "this server's user may not read it"
        reason = reason or barred(path)
        if reason is not None:
            left_out[f"labels/{printable(folder.name)}/{printable(name)}"] = reason
            continue
        found.setdefault(image_id, []).append(name)
    return found


def tags(labels: Path, left_out: dict[str, str]) -> Iterator[str]:
    """The tags that have a folder of labels."""
    for name in sorted(os.listdir(labels)) if labels.is_dir() else ():
        path = labels / name
        if name.startswith(".") or not path.is_dir():
            continue
        if not NAME.fullmatch(name):
            left_out[f"labels/{printable(name)}"] = "its name is no UTF-8 text that can be printed; rename it"
        else:
            yield name


def is_dicom_folder(folder: Path) -> bool:
    """Whether a folder holds DICOM files; looks at its first three files."""
    with os.scandir(folder) as entries:
        files = sorted(e.path for e in entries if e.is_file() and not e.name.startswith("."))[:3]
    return any(file.lower().endswith(DICOM) or _has_dicom_mark(file) for file in files)


def _has_dicom_mark(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


_SLICE = "a slice of a volume: put the slices of each series into a sub-folder"
_SEGMENTATION = (
    "it is a segmentation and no scan. Save it from the viewer (Submit Label), or put it into labels/final under the "
    "name of its scan"
)


def _dicom_reason(path: Path) -> str | None:
    try:
        modality = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality")
    except Exception as error:  # pydicom raises many kinds of errors
        logger.info("%s: %s: %s", path.name, type(error).__name__, error)
        return "it is damaged or no DICOM file"
    if modality in _NO_SCANS:
        return _SEGMENTATION if modality == "SEG" else f"it is DICOM of the kind {modality} and no scan"
    return None if is_dicom_image(path) else _SLICE


def _nrrd_reason(path: Path) -> str | None:
    with path.open("rb") as file:
        header = file.read(_NRRD_HEADER).replace(b"\r\n", b"\n").split(b"\n\n")[0]
    if _SEGMENT.search(header):
        return _SEGMENTATION
    return _DETACHED if _NRRD_DATA.search(header) else None


def _mha_reason(path: Path) -> str | None:
    with path.open("rb") as file:
        found = _META_DATA.search(file.read(_NRRD_HEADER))
    return None if found is None or found[1].strip().upper() == b"LOCAL" else _DETACHED


_DETACHED = (
    "it is only the header of a scan, whose values are in another file. Save the scan as one file (.nrrd, .mha or "
    ".nii.gz)"
)
_NRRD_DATA = re.compile(rb"^data ?file: ", re.IGNORECASE | re.MULTILINE)
_META_DATA = re.compile(rb"^ElementDataFile\s*=(.*)$", re.IGNORECASE | re.MULTILINE)
_LOOKED_INTO = {DICOM: _dicom_reason, ".nrrd": _nrrd_reason, ".mha": _mha_reason}
"""What is looked into before it is taken for a scan; how, by ending."""

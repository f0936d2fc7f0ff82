"""The labels in files and folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from lib.core.errors import UserError

from .base import Incoming
from .dicom import is_object, object_in
from .exported import Exports
from .files import ENDINGS, IncomingFile, meaning_beside, nnunet_meaning, read_dataset_json

_OTHERS = (".json", ".csv", ".tsv", ".txt", ".md", ".pdf", ".png", ".jpg", ".jpeg", ".xml", ".html", ".zip", ".gz")
_NNUNET_LABELS = "labelsTr"


@dataclass
class Found:
    """What was found.

    Args:
        labels: those that may be taken.
        refused: why others cannot be read, by their files.
        passed: how many DICOM files are no labels.
        known: how many RTSTRUCT and SEG were left out unread, see ``find_labels``.
    """

    labels: list[Incoming] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    passed: int = 0
    known: int = 0


def find_labels(
    paths: Sequence[Path], study: Path | None = None, known: Callable[[Path], bool] = lambda path: False
) -> Found:
    """The labels in files and folders, and in folders below them.

    Args:
        paths: where to look.
        study: folder of the study: below it only RTSTRUCT and SEG count, as its other files are scans, and labels that
            it has already.
        known: whether a DICOM file need not be read. Label maps are read only when they are imported.

    Raises:
        UserError: (404) when a path is not there.
    """
    found, exports = Found(), Exports()
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no file or folder {path}.", status=404)
        base = path if path.is_dir() else path.parent
        for folder, files in _folders(path):
            own = study is not None and (folder.resolve() == study or study in folder.resolve().parents)
            candidates = [file for file in files if not own or not _ending(file)]
            unread = [file for file in candidates if _ending(file) or not known(file)]
            found.known += len(candidates) - len(unread)
            _look(folder, unread, base, (found, exports))
    return found


def _folders(path: Path) -> Iterator[tuple[Path, list[Path]]]:
    if path.is_file():
        yield path.parent, [path]
        return
    for root, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(root), [Path(root) / name for name in sorted(names) if not name.startswith(".")]


def _ending(file: Path) -> str:
    """The ending of a label map's file, "" for any other file."""
    return next((each for each in ENDINGS if file.name.lower().endswith(each)), "")


def _look(folder: Path, files: Sequence[Path], base: Path, to: tuple[Found, Exports]) -> None:
    """Add the labels of one folder."""
    found, exports = to
    dataset, scans = _dataset_of(folder), _holds_scans(folder)
    for file in files:
        source, ending = str(file.relative_to(base)), _ending(file)
        if not ending and (file.name.lower().endswith(_OTHERS) or not _is_object(file, found)):
            continue
        if ending and scans:
            continue
        try:
            if not ending:
                found.labels.append(object_in(source, file))
                continue
            scan, annotated = exports.said_of(file, file.name[: -len(ending)])
            if dataset is None:
                label = IncomingFile(source, file, scan, meaning_beside(file))
            else:
                meaning = nnunet_meaning(read_dataset_json(dataset) or {})
                label = IncomingFile(source, file, scan, meaning, "nnU-Net case")
            label.annotated = annotated
            found.labels.append(label)
        except UserError as error:
            found.refused[source] = str(error)


def _dataset_of(folder: Path) -> Path | None:
    """The nnU-Net data set whose labels lie in a folder."""
    data = folder.parent if folder.name == _NNUNET_LABELS else None
    return data if data is not None and read_dataset_json(data) is not None else None


def _holds_scans(folder: Path) -> bool:
    """Whether a folder holds the scans of a data set, and no labels."""
    nnunet = folder.name.startswith(("images", "labelsTs")) and read_dataset_json(folder.parent) is not None
    return nnunet or (folder.name == "scans" and (folder.parent / "structures.json").is_file())


def _is_object(file: Path, found: Found) -> bool:
    """Whether a file is a DICOM object that holds labels; other DICOM files are counted."""
    try:
        with file.open("rb") as content:
            marked = content.read(132)[128:] == b"DICM"
        if not marked and file.suffix.lower() != ".dcm":
            return False
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["Modality", "SOPClassUID"])
    except Exception:
        # pydicom raises many kinds of errors; what is no DICOM is none of our concern.
        return False
    if is_object(header):
        return True
    found.passed += 1
    return False

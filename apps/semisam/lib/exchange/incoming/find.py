"""The labels in files and folders."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from lib.core.errors import UserError

from .base import Incoming, guessed
from .dicom import is_object, object_in
from .files import ENDINGS, IncomingFile, nnunet_meaning, read_dataset_json, structures_beside

_OTHERS = (".json", ".csv", ".tsv", ".txt", ".md", ".pdf", ".png", ".jpg", ".jpeg", ".xml", ".html", ".zip", ".gz")
_NNUNET_LABELS = "labelsTr"


@dataclass
class Found:
    """What was found.

    Args:
        labels: those that may be taken.
        refused: why others cannot be read, by their files.
        passed: how many DICOM files are no labels.
    """

    labels: list[Incoming] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    passed: int = 0


def find_labels(paths: Sequence[Path], study: Path | None = None) -> Found:
    """The labels in files and folders, and in folders below them.

    Args:
        paths: where to look.
        study: folder of the study: below it only RTSTRUCT and SEG count, as its other files are scans, and labels that
            it has already.

    Raises:
        UserError: (404) when a path is not there.
    """
    found = Found()
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no file or folder {path}.", status=404)
        base = path if path.is_dir() else path.parent
        for folder, files in _folders(path):
            own = study is not None and (folder.resolve() == study or study in folder.resolve().parents)
            _look(folder, files, base, found, own=own)
    return found


def _folders(path: Path) -> Iterator[tuple[Path, list[Path]]]:
    if path.is_file():
        yield path.parent, [path]
        return
    for root, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(root), [Path(root) / name for name in sorted(names) if not name.startswith(".")]


def _look(folder: Path, files: Sequence[Path], base: Path, found: Found, *, own: bool) -> None:
    """Add the labels of one folder."""
    dataset = _dataset_of(folder)
    exported = _exported(folder) if dataset is None else {}
    for file in files:
        source = str(file.relative_to(base))
        lower = file.name.lower()
        ending = next((each for each in ENDINGS if lower.endswith(each)), "")
        if not ending and (lower.endswith(_OTHERS) or not _is_object(file, found)):
            continue
        if ending and (own or _is_scan_of_dataset(folder)):
            continue
        stem = file.name[: len(file.name) - len(ending)] if ending else ""
        try:
            if not ending:
                found.labels.append(object_in(source, file))
            elif dataset is not None:
                found.labels.append(_case_of(source, file, stem, dataset))
            else:
                scan = _scan_of(file.name, stem, exported)
                found.labels.append(IncomingFile(source, file, scan, structures_beside(file)))
        except UserError as error:
            found.refused[source] = str(error)


def _dataset_of(folder: Path) -> Path | None:
    """The nnU-Net data set whose labels lie in a folder."""
    data = folder.parent if folder.name == _NNUNET_LABELS else None
    return data if data is not None and read_dataset_json(data) is not None else None


def _is_scan_of_dataset(folder: Path) -> bool:
    """Whether a folder holds scans of an nnU-Net data set, or predictions that nobody has looked at."""
    return folder.name.startswith(("images", "labelsTs")) and read_dataset_json(folder.parent) is not None


def _case_of(source: str, file: Path, case: str, dataset: Path) -> IncomingFile:
    scan = _scan_of(f"{_NNUNET_LABELS}/{file.name}", case, _exported(dataset))
    return IncomingFile(source, file, scan, nnunet_meaning(read_dataset_json(dataset) or {}), "nnU-Net case")


def _scan_of(file: str, stem: str, exported: Mapping[str, tuple[str, str]]) -> str:
    """The name of a file's scan: as the table of our own export says, else the file's own.

    Raises:
        UserError: (422) when that table calls it a pseudo-label.
    """
    scan, kind = exported.get(file, (stem, ""))
    if kind == "pseudo-label":
        raise guessed()
    return scan


def _exported(folder: Path) -> dict[str, tuple[str, str]]:
    """Scan, and whose label it is, by file in a folder of our own export; empty for any other."""
    scans: dict[str, tuple[str, str]] = {}
    for place in (folder, folder.parent):
        try:
            with (place / "labels.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error):
            continue
        for row in rows:
            name, scan, kind = (row.get(key) or "" for key in ("file", "scan", "label"))
            if name and scan:
                scans[name] = scan, kind
                if (place / name).parent == folder:
                    scans[Path(name).name] = scan, kind
    return scans


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

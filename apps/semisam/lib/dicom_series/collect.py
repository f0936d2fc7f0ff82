"""The images of one series in a folder: other files and other objects are left aside."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID

from lib.core.errors import UserError

from .headers import NO_IMAGES, damaged, header_of, slices_of
from .slices import Slice

_MOST_FILES = 20_000
_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR, the table of contents of a disc."""


@dataclass(frozen=True)
class Collected:
    """The images of one series.

    Args:
        slices: its planes, in no order; empty when there is no DICOM image.
        notes: sentences about what was left aside.
    """

    slices: tuple[Slice, ...]
    notes: tuple[str, ...] = ()


def collect(path: Path) -> Collected:
    """The images of the one series in a folder, or of a file.

    What lies in sub-folders counts only where the folder itself has no image, as in exports with a folder for each
    patient, study and series.

    Raises:
        UserError: (422) when a DICOM file is damaged, or there are several series that could be meant.
    """
    if path.is_file():
        return _of_one_series(_slices([path])[0], Counter(), path.name)
    slices, others = _slices(sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")))
    if not slices:
        slices, more = _slices(_below(path))
        others += more
    return _of_one_series(slices, others, path.name)


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if Path(root) != folder:
            found += [Path(root) / name for name in sorted(files) if not name.startswith(".")]
        if len(found) > _MOST_FILES:
            raise UserError(f"{folder.name} holds more than {_MOST_FILES} files. Give one series only.", status=413)
    return found


def _slices(files: Iterable[Path]) -> tuple[list[Slice], Counter[str]]:
    """Planes of all images, and how many objects there are that are no images, by kind."""
    slices: list[Slice] = []
    others: Counter[str] = Counter()
    for file in files:
        found = header_of(file) if file.is_file() else None
        if found is None:
            continue
        header, offset = found
        modality = str(header.get("Modality") or "")
        kind = str(header.get("SOPClassUID") or getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID", ""))
        if kind == _DIRECTORY or "DirectoryRecordSequence" in header:
            continue
        if modality in NO_IMAGES or "Rows" not in header:
            if modality not in NO_IMAGES and (not kind or "Image Storage" in UID(kind).name):
                raise damaged(file)  # cut off before the size of the image
            others[modality or "other"] += 1
            continue
        slices += slices_of(file, header, offset)
    return slices, others


def _of_one_series(slices: Sequence[Slice], others: Counter[str], name: str) -> Collected:
    notes = []
    if others and slices:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        notes.append(f"{name}: objects beside the images were left out ({kinds}).")
    series: dict[str, list[Slice]] = {}
    for each in slices:
        series.setdefault(each.series, []).append(each)
    if len(series) > 1:
        volumes = {uid: planes for uid, planes in series.items() if _may_be_a_volume(planes)}
        if len(volumes) != 1:
            raise _several(volumes or series, name)
        (uid,) = volumes
        aside = ", ".join(_shown(planes) for other, planes in series.items() if other != uid)
        notes.append(f"{name}: images of other series that are no volume were left out: {aside}.")
        return Collected(tuple(volumes[uid]), tuple(notes))
    return Collected(tuple(slices), tuple(notes))


def _may_be_a_volume(planes: Sequence[Slice]) -> bool:
    return sum(each.placed and not each.localizer for each in planes) > 1


def _several(series: dict[str, list[Slice]], name: str) -> UserError:
    shown = "; ".join(_shown(planes) for planes in series.values())
    return UserError(
        f"{name} holds {len(series)} series, and which one is meant is not clear: {shown}. "
        "Put each series into a folder of its own.",
        status=422,
    )


def _shown(planes: Sequence[Slice]) -> str:
    count = "1 image" if len(planes) == 1 else f"{len(planes)} images"
    first = planes[0]
    described = f" {first.description!r}" if first.description else ""
    return f"{first.modality}{described} with {count}, the first is {first.text}"

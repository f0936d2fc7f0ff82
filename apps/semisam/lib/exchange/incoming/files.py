"""Label maps in files: NIfTI, NRRD, MetaImage, segmentations of 3D Slicer, and cases of an nnU-Net data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.core.errors import UserError, listed
from lib.core.labels import MAX_LABELS, LabelSchema, whole_numbers
from lib.core.sparse_labels import Annotated, find_planes
from lib.formats.images import load
from lib.formats.label_files import read_label
from lib.formats.segmentations import names_in_file

from .base import Belongs, Taken, TargetScan

ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")
_ANY = LabelSchema(tuple(f"label_{n}" for n in range(1, MAX_LABELS + 1)))
"""Any values will do: what they mean is told by their names."""


@dataclass(frozen=True)
class Meaning:
    """What the values of label maps mean.

    Args:
        values: by name; empty when nobody says it.
        ignore: value of voxels that nobody has looked at, None without one.
    """

    values: Mapping[str, int]
    ignore: int | None = None


class IncomingFile:
    """A label map in a file.

    Args:
        source: what to call it.
        path: the file.
        scan: name of the scan that it is named after, as far as its file's name tells.
        meaning: of its values; a file's own names go before it. Values without a name are called ``value 1`` and so on.
        kind: as people call its format.

    Attributes:
        annotated: what the table of an export says about what is annotated in it.

    Raises:
        UserError: (422) when it cannot be read, or is no label map.
    """

    def __init__(self, source: str, path: Path, scan: str, meaning: Meaning | None = None, kind: str = "") -> None:
        self.source, self._path = source, path
        self.kind = kind or ("segmentation of 3D Slicer" if source.lower().endswith(".seg.nrrd") else "label map")
        self.belongs, self.created = Belongs(name=scan), ""
        self.annotated: Annotated = "auto"
        own = names_in_file(path)
        twice = sorted({name for name, _ in own if [each for each, _ in own].count(name) > 1})
        if twice:
            raise UserError(f"It has several segments with the name {twice[0]!r}. Rename or join them.", status=422)
        self._meaning = Meaning(dict(own)) if own else meaning or Meaning({})
        self._values = dict(self._meaning.values) or {f"value {value}": value for value in _present(path)}
        self.names = tuple(self._values)

    def read(self, target: TargetScan, values: Mapping[str, int]) -> Taken:
        """See ``Incoming.read``."""
        ignore = self._meaning.ignore

        def meant(present: Sequence[int]) -> dict[int, int]:
            known = {value: values.get(name, 0) for name, value in self._values.items()}
            if ignore is not None:
                known[ignore] = MAX_LABELS
            strange = [value for value in present if value not in known]
            if strange:
                names = listed(list(self._values))
                raise UserError(
                    f"It holds the value(s) {listed(strange)}, for which it has no name ({names}).", status=422
                )
            return {value: known[value] for value in present}

        label = read_label(self._path, target.volume, _ANY, may_be_empty=True, values=meant)
        annotated = self.annotated
        if ignore is not None and (label == MAX_LABELS).any():
            label, annotated = _on_planes(label), "planes"
        elif annotated == "planes" and label.any():
            _check_planes(label)
        if not label.any():
            self._check_empty(values)
        here = set(np.unique(label).tolist())
        missing = tuple(name for name in self._values if name in values and values[name] not in here)
        return Taken(label, annotated, missing=missing)

    def _check_empty(self, values: Mapping[str, int]) -> None:
        """Refuse a label of which nothing is left; one that was empty from the start says that nothing is there."""
        if not values:
            raise UserError("It holds none of the study's structures.", status=422)
        if not self._meaning.values:
            raise UserError("It is empty, and names no structure that was looked for.", status=422)
        if _present(self._path):
            raise UserError("Nothing is drawn in the structures that are wanted.", status=422)


def _on_planes(label: np.ndarray) -> np.ndarray:
    """A label with ignored voxels as one with three outlined slices.

    Raises:
        UserError: (422) when what is annotated is anything else.
    """
    known = label != MAX_LABELS
    found = np.where(known, label, 0).astype(np.uint8)
    try:
        planes = find_planes(found, "planes")
    except UserError:
        planes = None
    if planes is None or not np.array_equal(planes.mask(label.shape), known):
        raise UserError(
            "It ignores part of the voxels, and those that it does not ignore are not three slices, one of each "
            "direction. Such a label cannot be used here.",
            status=422,
        )
    return found


def _check_planes(label: np.ndarray) -> None:
    """Raise UserError (422) for a label with more in it than the three slices that the export's table tells of."""
    try:
        find_planes(label, "planes")
    except UserError as error:
        raise UserError(
            "By the export's labels.csv, three slices are outlined in it, but there is more. If it was completed "
            "since, write 'all' in place of 'planes' there.",
            status=422,
        ) from error


def _present(path: Path) -> list[int]:
    """The values above 0 in a label file.

    Raises:
        UserError: (422) when it cannot be read, or is no label map.
    """
    loaded = load(path)
    array = whole_numbers(loaded.array, path.name)
    found = [int(value) for value in np.unique(array) if value]
    if len(found) > MAX_LABELS or any(value < 0 for value in found):
        raise UserError("It is no label map: it holds more values than there can be structures.", status=422)
    return found


def nnunet_meaning(content: Mapping[str, object]) -> Meaning:
    """What ``dataset.json`` says about values.

    Raises:
        UserError: (422) when its labels are regions, or it names none.
    """
    labels = content.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        raise UserError("Its dataset.json names no labels.", status=422)
    regions = [str(name) for name, value in labels.items() if not isinstance(value, int)]
    if regions:
        raise UserError(
            f"Its dataset.json has regions of several values ({listed(regions)}) in place of labels; they overlap, and "
            "a voxel can belong to one structure only.",
            status=422,
        )
    ignore = labels.get("ignore")
    values = {str(name): int(v) for name, v in labels.items() if str(name) != "ignore" and v}
    return Meaning(values, int(ignore) if ignore else None)


def read_dataset_json(folder: Path) -> Mapping[str, object] | None:
    """The content of nnU-Net's ``dataset.json`` in a folder, None when it is none."""
    try:
        content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "labels" in content else None


def meaning_beside(path: Path) -> Meaning | None:
    """What files beside a label map say about its values: BIDS's table, our ``structures.json``, or None."""
    base = path.name.partition(".")[0]
    try:
        with (path.parent / f"{base}.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return Meaning({row["name"]: int(row["index"]) for row in rows if int(row["index"])})
    except (OSError, KeyError, ValueError, TypeError):
        pass  # there is none, or it is another table
    for folder in (path.parent, path.parent.parent):
        try:
            content = json.loads((folder / "structures.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and all(isinstance(value, int) for value in content.values()):
            return Meaning({str(name): value for name, value in content.items() if value})
    return None

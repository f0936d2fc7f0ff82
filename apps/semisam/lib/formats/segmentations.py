"""What 3D Slicer's segmentation files (``.seg.nrrd``) say about themselves: names of structures, and layers.

Slicer puts segments that overlap into several layers, numbers that each voxel has, and writes of each segment in which
layer it is and by which value (https://slicer.readthedocs.io, "Segmentations", file format):
``Segment0_Name``, ``Segment0_LabelValue``, ``Segment0_Layer``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from lib.core.errors import UserError, listed
from lib.core.label_names import position
from lib.core.labels import LabelSchema

from .itk_images import read_fields

_KEY = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer)")


@dataclass(frozen=True)
class Segment:
    """A segment of a file.

    Args:
        name: as a person has given it.
        layer: in which layer it is.
        stored: its value there.
        value: its value in the label map that is made of all layers.
    """

    name: str
    layer: int
    stored: int
    value: int


def is_segmentation(fields: Mapping[str, object]) -> bool:
    """Whether a header is that of a segmentation, whose grid may be a part of the scan's."""
    return any(name.startswith("Segmentation_") or _KEY.fullmatch(name) for name in fields)


def segments_in(fields: Mapping[str, object], layers: int | None) -> list[Segment]:
    """The segments that a header names, in its order; empty when it does not say which value is which.

    Args:
        fields: the header's texts.
        layers: see ``lib.formats.images.Loaded``.
    """
    found: dict[int, dict[str, str]] = {}
    for name, text in fields.items():
        key = _KEY.fullmatch(name)
        if key is not None:
            found.setdefault(int(key.group(1)), {})[key.group(2)] = str(text).strip()
    parts = [found[number] for number in sorted(found)]
    if not parts or any(not part.get("Name") for part in parts):
        return []
    if any(not part.get(key, "0").isdecimal() for part in parts for key in ("LabelValue", "Layer")):
        return []
    if all("LabelValue" in part for part in parts):
        places = [(int(part.get("Layer", 0)), int(part["LabelValue"])) for part in parts]
    elif len(parts) == (layers or 1):  # as older versions wrote them: a layer each, with the value 1
        places = [(n, 1) for n in range(len(parts))]
    else:
        return []
    if len(set(places)) < len(places) or max(layer for layer, _ in places) >= (layers or 1):
        return []
    values = [stored for _, stored in places]
    own = len(set(values)) == len(values) and min(values) > 0
    return [
        Segment(part["Name"], layer, stored, stored if own else number)
        for number, (part, (layer, stored)) in enumerate(zip(parts, places, strict=True), start=1)
    ]


def names_in_file(path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """The names that a label file itself has for the values of its label map, as ``read_label`` gives them.

    Returns:
        name and value of each structure, background left out; empty for files that name none.

    Raises:
        UserError: (422) when the header cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() != ".nrrd" or not path.is_file():
        return []
    fields = read_fields(path)
    sizes, kinds = fields.get("sizes", "").split(), fields.get("kinds", "").split()
    layered = [int(n) for n, kind in zip(sizes, kinds, strict=False) if kind in ("list", "vector") and n.isdecimal()]
    segments = segments_in(fields, layered[0] if layered else None)
    return [(each.name, each.value) for each in segments if each.name.lower() != "background"]


def values_by_name(
    named: Sequence[tuple[str, int]], present: Sequence[int], schema: LabelSchema, what: str
) -> dict[int, int]:
    """Which of the schema's values each value of a file with names of its own means; empty when they agree.

    Args:
        named: see ``names_in_file``.
        present: the values above 0 that the label holds.
        schema: the study's structures.
        what: how to call the label in the message.

    Raises:
        UserError: (422) when the label holds structures that the schema does not know.
    """
    drawn = [(name, value) for name, value in named if value in present]
    others = [name for name, value in named if value not in present]
    if schema.count == 1 and len(drawn) == 1 and not any(position(name, schema) for name in others):
        # Whatever it was called in the viewer.
        pairs = {drawn[0][1]: 1}
    else:
        pairs = {value: position(name, schema) for name, value in drawn}
        strange = [name for name, value in drawn if not pairs[value]]
        if strange:
            raise UserError(
                f"{what} has the structure(s) {', '.join(strange)}, but this server knows {', '.join(schema.names)}. "
                "Rename them in the viewer and save again, or start the server with all names in --conf labels.",
                status=422,
            )
    return {} if all(old == new for old, new in pairs.items()) else pairs


def merge_layers(array: np.ndarray, segments: Sequence[Segment], what: str) -> np.ndarray:
    """One label map of the layers of a segmentation.

    Args:
        array: ``[D, H, W, layers]`` whole numbers.
        segments: what the header says about them. Without a word, each layer is a structure, in their order.
        what: how to call the label in the message.

    Returns:
        ``[D, H, W]``, the segments' ``value``.

    Raises:
        UserError: (422) when segments overlap, or it is not clear what a layer holds.
    """
    merged = np.zeros(array.shape[:-1], dtype=np.int32)
    count = array.shape[-1]
    if not segments and count > 1:
        segments = _by_order(array, what)
    elif not segments:
        return array[..., 0]
    _check_overlaps(array, segments, what)
    for layer in range(count):
        plane = array[..., layer]
        known = {each.stored: each.value for each in segments if each.layer == layer}
        for stored in np.unique(plane[plane != 0]).tolist():
            if stored not in known:
                raise UserError(
                    f"{what}: its layer {layer + 1} holds the value {stored}, but its header names no segment of it. "
                    "Save the segmentation again in 3D Slicer.",
                    status=422,
                )
            merged[plane == stored] = known[stored]
    return merged


def _by_order(array: np.ndarray, what: str) -> list[Segment]:
    """Segments of a file that does not name any: the first layer is the first structure, and so on."""
    values = [np.unique(plane[plane != 0]).tolist() for plane in np.moveaxis(array, -1, 0)]
    if any(len(each) > 1 for each in values):
        raise UserError(
            f"{what} has {len(values)} layers with several values each, and its header does not say which structures "
            "they are. Save it from 3D Slicer as .seg.nrrd, or as a label map without layers.",
            status=422,
        )
    found = [each[0] if each else 0 for each in values]
    own = max(found) > 1 and len({v for v in found if v}) == sum(v != 0 for v in found)
    return [Segment(f"layer {n}", n - 1, v, v if own else n) for n, v in enumerate(found, start=1) if v]


def _check_overlaps(array: np.ndarray, segments: Sequence[Segment], what: str) -> None:
    filled = np.count_nonzero(array, axis=-1) > 1
    count = int(filled.sum())
    if not count:
        return
    rows = array[filled]
    names = []
    for one, other in combinations(segments, 2):
        both = (rows[:, one.layer] == one.stored) & (rows[:, other.layer] == other.stored)
        if one.layer != other.layer and both.any():
            names.append(f"{one.name} and {other.name} ({int(both.sum())} voxels)")
    shown = listed(names) or f"layers of {count} voxels"
    raise UserError(
        f"{what}: segments overlap: {shown}. A voxel can belong to one structure only. Take the voxels from one of "
        "them in the Segment Editor of 3D Slicer (Logical operators, Subtract) and save again.",
        status=422,
    )

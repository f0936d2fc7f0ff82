"""Labels of the study as DICOM SEG, and back: names, colours, origin, and the values that segments get here."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from lib.core.geometry import Volume
from lib.core.label_names import as_label_info, knows_all, names_in, position, values_of
from lib.core.labels import MAX_LABELS, LabelSchema
from lib.core.sparse_labels import stated
from lib.dicom_seg import Origin, SegHeader, Segment, read_seg, write_seg
from lib.formats.label_files import read_label
from lib.formats.segmentations import names_in_file
from server.palette import colour_of

ANY = LabelSchema(tuple(f"label_{n}" for n in range(1, MAX_LABELS + 1)))
"""Any values will do."""


@dataclass(frozen=True)
class Source:
    """The scan that a SEG is made for.

    Args:
        scan: its voxels.
        series: folder with its DICOM files, or its only file.
    """

    scan: Volume
    series: Path


def pseudo_series(scan: str) -> str:
    """UID of the series that holds this app's own labels of a scan."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'semisam original {scan}').int}"


def seg_of(
    file: str | Path, source: Source, info: Mapping[str, Any], origin: Origin, schema: LabelSchema | None
) -> Dataset:
    """Make a SEG of a label file.

    Args:
        file: the label, on the scan's grid.
        source: the scan.
        info: what is known about the label: names and colours, see ``segments_of``.
        origin: how it came about.
        schema: the study's structures, if they are known.

    Raises:
        UserError: (422) when the label is empty or does not fit the scan, or the series cannot carry a segmentation.
    """
    label = read_label(file, source.scan, ANY, may_be_empty=True)  # what an empty one means, write_seg says
    segments = segments_of(label, info, schema, names_in_file(file))
    return write_seg(label, source.scan.affine, source.series, segments, origin)


def origin_of(info: Mapping[str, Any], *, person: bool, series: str | None) -> Origin:
    """How a label came about, as viewers and other servers are told.

    Args:
        info: what is known about it.
        person: whether a person has had the last word.
        series: UID of the series to put it into; None makes a new one.
    """
    said = stated(info)
    planes = "" if said == "auto" else f" (annotated: {said})"
    return Origin(
        description=f"semisam: {'label' if person else 'pseudo-label'}{planes}",
        algorithm=f"semisam {info['model']}" if info.get("model") else None if person else "semisam",
        person=person,
        series=series,
    )


def label_of(seg: Dataset, scan: Volume, schema: LabelSchema | None) -> np.ndarray:
    """The label in a SEG, ``[D, H, W]`` uint8; what its values mean: ``segment_values``.

    Args:
        seg: the SEG.
        scan: its scan.
        schema: the study's structures if they are set.

    Raises:
        UserError: see ``lib.dicom_seg.read_seg``.
    """
    named = as_label_info(SegHeader.of(seg).names)
    return read_seg(seg, scan, {number: value for _, number, value in segment_values(named, schema)})


def segment_values(label_info: object, schema: LabelSchema | None) -> list[tuple[str, int, int]]:
    """Which voxel value each segment of a SEG gets here: its structure's if all are known by name, else its place.

    It follows from what the SEG says and the settings, so that every process finds the same.

    Args:
        label_info: name and number (``idx``) of the segments, in the order of the SEG.
        schema: the study's structures if they are set.

    Returns:
        Name, number and value.
    """
    named = [(name, number) for name, number in names_in({"label_info": label_info})]
    if schema is not None and knows_all(schema, named):
        return [(name, number, position(name, schema)) for name, number in named]
    return [(name, number, place) for place, (name, number) in enumerate(named, start=1)]


def meaning_of(label_info: object, schema: LabelSchema | None) -> list[dict[str, Any]]:
    """Names of the values in the copy of a SEG, as ``label_info``: the study's structures if all of them are known.

    Args:
        label_info: see ``segment_values``.
        schema: the study's structures if they are set.
    """
    named = segment_values(label_info, schema)
    if schema is not None and knows_all(schema, [(name, number) for name, number, _ in named]):
        return as_label_info(schema.as_dict().items())
    return as_label_info((name, value) for name, _, value in named)


def segments_of(
    label: np.ndarray, info: Mapping[str, Any], schema: LabelSchema | None, own: Sequence[tuple[str, int]] = ()
) -> list[Segment]:
    """What the values of a label mean: by the names that came along, else by the study's structures.

    Args:
        label: ``[D, H, W]`` uint8.
        info: ``label_info`` (with colours if the viewer has sent them) or ``params.label_names``.
        schema: the study's structures, if they are known.
        own: what the file itself says, see ``lib.formats.segmentations.names_in_file``; goes before all else.
    """
    present = [int(v) for v in np.unique(label) if v]
    named = names_in(info)
    if own:
        names = {value: name for name, value in own}
    elif named and present:
        values = values_of(named, present, schema, "The label")
        names = {value: name for value, (name, _) in zip(values, named, strict=True)}
        if schema is not None and schema.count == 1 and len(named) == 1:  # whatever it was called in the viewer
            names[1] = schema.names[0]
    else:
        names = {v: k for k, v in schema.as_dict().items()} if schema is not None else {}
    given = colours_in(info.get("label_info"))
    return [Segment(v, name := names.get(v, f"label_{v}"), colour_of(name, v, given.get(name))) for v in present]


def colours_in(label_info: object) -> dict[str, object]:
    """Colours by name, as viewers send them; not checked."""
    entries = label_info if isinstance(label_info, Sequence) and not isinstance(label_info, str) else ()
    return {str(entry.get("name")): entry.get("color") for entry in entries if isinstance(entry, Mapping)}

"""``prompt``: one structure, after clicks in the viewer (3D Slicer's SmartEdit, OHIF's point prompts)."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.core.cache import stamp_of
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.formats.volumes import read_volume
from lib.generalists import unwrap
from lib.generalists.base import Promptable
from lib.prompting import Clicks, GraphCut, OpenScan, OpenScans
from server.options import is_true, shown
from server.store.study import Study

from .base import Answer, SegmentationTask

_MOST_CLICKS = 1000
_NOTHING = (
    "Nothing was found at the clicks. Place another one well inside the structure, or remove those outside that lie "
    "close to it."
)
_KEYS = ("label", "foreground", "background", "roi", "slice", "reset_state")


class Prompt(SegmentationTask):
    """Segments what is clicked on; by the generalist if it takes prompts, else by a graph cut, without weights.

    The answer is a mask of one structure, value 1, whatever the structure: viewers put it into the segment that they
    asked for. It is no label of the study, so it cannot be stored as one.
    """

    makes_labels = False

    def __init__(self, study: Study) -> None:
        super().__init__(
            study,
            "Prompt: click inside the structure, and outside of it where the answer is wrong",
            kind=InferType.DEEPGROW,
        )
        self._open = OpenScans()
        self._weights = ""

    def more_keys(self) -> Sequence[str]:
        """What clients send, and structures' names: clicks may come by name, as for the type ``deepedit``."""
        return (*_KEYS, *self.study.schema.names)

    def read(self, request: Mapping[str, Any]) -> Volume:
        """See the base class; the scan stays open for the next clicks."""
        return self._opened(request).scan

    def answer(self, scan: Volume, name: str | None, request: Mapping[str, Any]) -> Answer:
        """See the base class."""
        start = time.perf_counter()
        structure = structure_of(request, self.study.schema.names)
        clicks = clicks_of(request, structure, scan.shape)
        only = _slice_of(request, scan.shape)
        opened = self._opened(request)
        who: Hashable = (str(request.get("client_id") or ""), structure)
        if is_true(request.get("reset_state", False)):
            opened.forget(who)
        found = opened.segment(clicks, who).astype(np.uint8)
        if only is not None:
            found[:, :, :only] = 0
            found[:, :, only + 1 :] = 0
        return Answer(
            found,
            {
                "source": opened.model.name,
                "label": structure,
                "label_names": {structure: 1},
                "clicks": clicks.count,
                "seconds": round(time.perf_counter() - start, 3),
                "volume_ml": {structure: round(float(found.sum()) * scan.voxel_ml, 3)},
            },
            () if found.any() else (_NOTHING,),
        )

    def release(self) -> None:
        """Close all scans: the memory of their encodings is free for something else."""
        self._open.clear()

    def _opened(self, request: Mapping[str, Any]) -> OpenScan:
        path = Path(str(request["image"]))
        generalist = unwrap(self.study.generalist)
        model: Promptable = generalist if isinstance(generalist, Promptable) else GraphCut()

        def make() -> OpenScan:
            # The graph cut starts from all clicks anew: with its previous answer it becomes slower, not better.
            return OpenScan(read_volume(path), model, use_mask=not isinstance(model, GraphCut))

        weights = str(getattr(self.study.generalist, "weights_hash", ""))
        if weights != self._weights:
            self.release()  # other weights than before: no scan is open with these
            self._weights = weights
        return self._open.get((model.name, weights, *stamp_of(path)), make)


def structure_of(request: Mapping[str, Any], names: Sequence[str]) -> str:
    """The structure that is asked for; the first one for OHIF, which names none. New names are welcome.

    Raises:
        UserError: when the name is none.
    """
    label = request.get("label")
    if label is None:
        return names[0]
    if not isinstance(label, str) or not label.strip():
        raise UserError(f"label: {shown(label)} is no name. Choose the segment to edit, for example {names[0]!r}.")
    return label.strip()


def clicks_of(request: Mapping[str, Any], structure: str, shape: Sequence[int]) -> Clicks:
    """The clicks and the box of a request, in voxels of the stored scan.

    Args:
        request: ``foreground`` and ``background``, lists of [i, j, k]; ``roi``, [i0, i1, j0, j1, k0, k1]. Without
            ``foreground``, lists by the structures' names: those of other structures are negative.
        structure: name of the asked one.
        shape: voxels of the scan.

    Raises:
        UserError: when there is nothing to go by, something is malformed, or a click lies outside the scan.
    """
    inside, outside = [], _points(request, "background", shape)
    if request.get("foreground") is not None:
        inside = _points(request, "foreground", shape)
    elif request.get(structure) is not None:
        inside = _points(request, structure, shape)
        others = [n for n, v in request.items() if n not in _OWN_KEYS and n != structure and _looks_like_points(v)]
        outside += [p for n in others for p in _points(request, n, shape)]
    box = _box(request.get("roi"), shape)
    if not inside and box is None:
        more = " Clicks outside of it alone do not say what is meant." if outside else ""
        raise UserError(f"No click lies inside {structure!r} (foreground is empty).{more} Place at least one there.")
    for point in inside if box is not None else ():
        if box is not None and ((point < box[0] - 0.5) | (point > box[1] + 0.5)).any():
            where = ", ".join(f"{x:g}" for x in point)
            raise UserError(f"The click at voxel ({where}) lies outside the roi. Move one of them, or remove the roi.")
    if len(inside) + len(outside) > _MOST_CLICKS:
        raise UserError(f"{len(inside) + len(outside)} clicks are too many; at most {_MOST_CLICKS} are used.")
    both = sorted({tuple(p) for p in inside} & {tuple(p) for p in outside})
    if both:
        where = ", ".join(f"{x:g}" for x in both[0])
        raise UserError(f"The voxel ({where}) is clicked as inside and as outside. Remove one of the two clicks.")
    return Clicks(np.array(inside).reshape(-1, 3), np.array(outside).reshape(-1, 3), box)


_OWN_KEYS = frozenset({"foreground", "background", "roi", "points", "point_labels", "label_prompt", "labels"})
"""Keys that hold lists and are no structures' names."""


def _looks_like_points(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(point, (list, tuple)) for point in value)


def _points(request: Mapping[str, Any], key: str, shape: Sequence[int]) -> list[list[float]]:
    value = request.get(key) or []
    example = f"{key}: give voxels of the scan as [[i, j, k], ...]"
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{example}, not {str(value)[:60]!r}.")
    points = []
    for point in value:
        numbers = _numbers(point, 3)
        if numbers is None:
            raise UserError(f"{example}; {str(point)[:60]} is no such point.")
        if not all(-0.5 <= x <= n - 0.5 for x, n in zip(numbers, shape, strict=True)):
            where = ", ".join(f"{x:g}" for x in numbers)
            raise UserError(
                f"{key}: the click at voxel ({where}) lies outside the scan of {' x '.join(map(str, shape))} voxels. "
                "Remove it, or check that the viewer shows this very scan."
            )
        points.append(numbers)
    return points


def _box(value: object, shape: Sequence[int]) -> np.ndarray | None:
    """First and last voxel ``[2, 3]`` of a ROI, cut to the scan; its ends may come in either order."""
    if value is None or value in ([], ()):
        return None
    numbers = _numbers(value, 6)
    if numbers is None:
        raise UserError(f"roi: give voxels of the scan as [i0, i1, j0, j1, k0, k1], not {str(value)[:80]!r}.")
    ends = np.sort(np.array(numbers).reshape(3, 2), axis=1)
    last = np.array(shape) - 1.0
    if (ends[:, 1] < 0).any() or (ends[:, 0] > last).any():
        raise UserError("roi: the box lies outside the scan. Draw it around the structure.")
    box: np.ndarray = np.stack([np.maximum(ends[:, 0], 0), np.minimum(ends[:, 1], last)])
    return box


def _numbers(value: object, count: int) -> list[float] | None:
    """So many finite numbers, else None."""
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value):
        return None
    try:
        numbers = [float(x) for x in value]
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _slice_of(request: Mapping[str, Any], shape: Sequence[int]) -> int | None:
    """The only slice k that the viewer will take, if it says so."""
    value = request.get("slice")
    if value is None or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < shape[2] or value % 1:
        raise UserError(f"slice: {shown(value)} is not allowed. Give a whole number from 0 to {shape[2] - 1}, or none.")
    return int(value)

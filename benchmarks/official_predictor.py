"""The published way to ask MobileSAM: ``segment_anything``'s own predictor over the same weights.

A volume is asked slice by slice, which is the most that a 2D predictor can honestly give: the slices with positive
clicks by their clicks, and from these outwards each next slice by the box around its neighbour's mask; one with
negative clicks by these and its neighbour's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STEP_MM = 6.0
"""How far apart the slices are that are asked about; those between get the nearest one's mask."""
SCORE, SMALLER, LARGER = 0.5, 0.25, 3.0
"""Where a mask is carried no further: a low score, or an area that changes by more than these factors."""


def predictor(network: Any) -> Any:
    """``SamPredictor`` over our network's parts, which agree with the published ones (``tests``)."""
    from segment_anything import SamPredictor  # type: ignore[import-untyped]
    from segment_anything.modeling import Sam  # type: ignore[import-untyped]

    network.image_encoder.img_size = network.size
    return SamPredictor(Sam(network.image_encoder, network.prompt_encoder, network.mask_decoder))


@dataclass
class _Slice:
    """A slice's features, and the logits of its last answer with the clicks it was to."""

    features: Any
    clicks: int = 0
    logits: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass
class OfficialSlices:
    """One dialogue about a stack of slices.

    Args:
        predictor: see ``predictor``.
        images: ``[S, rows, columns, 3]`` uint8.
        step: slices from one that is asked about to the next.
    """

    predictor: Any
    images: np.ndarray
    step: int
    _known: dict[int, _Slice] = field(default_factory=dict)

    def by_clicks(self, clicks: Sequence[tuple[tuple[int, int, int], bool]]) -> np.ndarray:
        """Masks ``[S, rows, columns]`` after clicks as slice, row, column, and whether they lie inside."""
        anchors = sorted({place[0] for place, inside in clicks if inside})
        found: dict[int, np.ndarray] = {n: self._clicked(n, self._on(n, clicks)) for n in anchors}
        reached = dict.fromkeys(anchors, 0)
        for anchor in anchors:
            for direction in (-self.step, self.step):
                before, index = anchor, anchor + direction
                mask = found[anchor]
                while 0 <= index < len(self.images) and mask.any():
                    if index in anchors or abs(index - anchor) >= reached.get(index, 10**6):
                        break
                    mask = self._carried(index, before, mask, self._on(index, clicks))
                    if not mask.any():
                        break
                    found[index], reached[index] = mask, abs(index - anchor)
                    before, index = index, index + direction
        return self._filled(found)

    def by_box(self, first: Sequence[int], last: Sequence[int]) -> np.ndarray:
        """Masks by a box from one voxel to another, slice, row, column, both counted in."""
        box = np.array([first[2], first[1], last[2] + 1, last[1] + 1])
        keys = sorted({*range(first[0], last[0] + 1, self.step), last[0]})
        filled = self._filled({n: self._ask(n, box=box, multimask_output=False)[0] for n in keys})
        filled[: first[0]] = filled[last[0] + 1 :] = False
        return filled

    def _on(self, index: int, clicks: Sequence[tuple[tuple[int, int, int], bool]]) -> list[tuple[int, int, bool]]:
        return [(column, row, inside) for (n, row, column), inside in clicks if n == index]

    def _clicked(self, index: int, here: list[tuple[int, int, bool]]) -> np.ndarray:
        """As its notebook does: the best of three for the first click, then one mask with the logits before."""
        known = self._slice(index)
        if known.mask is None or known.clicks != len(here):
            points = np.array([[x, y] for x, y, _ in here])
            labels = np.array([int(inside) for _, _, inside in here])
            before = known.logits[None] if known.clicks and known.logits is not None else None
            mask, _, logits = self._ask(
                index, point_coords=points, point_labels=labels, mask_input=before, multimask_output=before is None
            )
            known.clicks, known.logits, known.mask = len(here), logits, mask
        return known.mask

    def _carried(self, index: int, before: int, mask: np.ndarray, here: list[tuple[int, int, bool]]) -> np.ndarray:
        known = self._slice(index)
        if here:
            points, labels = np.array([[x, y] for x, y, _ in here]), np.array([int(inside) for _, _, inside in here])
            logits = self._slice(before).logits
            question = {"point_coords": points, "point_labels": labels, "mask_input": logits[None]}  # type: ignore[index]
        else:
            rows, columns = (np.nonzero(mask.any(axis))[0] for axis in (1, 0))
            question = {"box": np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])}
        found, score, logits = self._ask(index, **question, multimask_output=False)
        known.logits, known.mask, known.clicks = logits, None, 0
        area, larger = found.sum(), mask.sum()
        same = SMALLER * larger <= area <= LARGER * larger or bool(here)
        return found if score >= SCORE and same else np.zeros_like(found)

    def _ask(self, index: int, **question: Any) -> tuple[np.ndarray, float, np.ndarray]:
        self._slice(index)
        masks, scores, logits = self.predictor.predict(**question)
        best = int(scores.argmax())
        return masks[best], float(scores[best]), logits[best]

    def _slice(self, index: int) -> _Slice:
        if index not in self._known:
            self.predictor.set_image(self.images[index])
            self._known[index] = _Slice(self.predictor.features)
        known = self._known[index]
        if self.predictor.features is not known.features:
            self.predictor.features = known.features
        return known

    def _filled(self, found: dict[int, np.ndarray]) -> np.ndarray:
        """Between slices that were asked about the nearest one's mask, where both have one."""
        result = np.zeros(self.images.shape[:3], dtype=bool)
        for index in range(len(result)):
            near = [n for n in found if abs(n - index) < self.step or n == index]
            if near:
                result[index] = found[min(near, key=lambda n: abs(n - index))]
        return result

"""Prompts on a volume, answered by a 2D model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

from ...errors import UserError
from ..base import Prompts
from ..slices import acquisition_view

if TYPE_CHECKING:
    from .adapter import SliceGeneralist

STEP_MM = 3.0
"""About how far apart the slices are that the network is asked about; those in between are interpolated."""
KEPT_SLICES = 256
"""Slices whose features a session keeps: 2 MiB each."""
AHEAD = 4
"""Slices encoded at once on a GPU when a mask is carried along."""
CLICK_MM = 40.0
"""Side of the square a click stands for when the model takes boxes only."""
LOGIT = 8.0
"""Certainty is cut off here: no voxel is more certain than 0.9997."""
SHRINKS, GROWS = 0.25, 3.0
"""A mask whose area changes by more than this from one slice to the next is another structure, or none."""
PARTS = 4
"""A mask is carried on with a point in each of this many parts at most."""
MARGIN = 0.05
"""What a box around a mask leaves free on each side for the next slice, as a share of its side."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """Prompts in the terms of the session's view.

    Args:
        places: clicks ``[P, 2]`` as row, column.
        slices: the slice of each click.
        positive: ``[P]``.
        rectangle: the box in a slice as canvas pixels ``[4]``, or None.
        first: the first slice that may be answered.
        last: the last one.
        mask: what is segmented so far ``[slices, rows, columns]``, or None.
    """

    places: Tensor
    slices: list[int]
    positive: Tensor
    rectangle: Tensor | None
    first: int
    last: int
    mask: Tensor | None

    def on(self, index: int) -> list[int]:
        """Which clicks are on a slice."""
        return [n for n, s in enumerate(self.slices) if s == index]


class SliceSession:
    """A scan that waits for prompts; its slices are encoded when they are first needed, and kept.

    Slices are those of the plane with the finest pixels. Answers become 3D so:

    1. *Anchors* are the slices with a positive click; a box without one is asked about in its middle slice; a slice
       with a negative click is an anchor where something is segmented so far. The network answers the clicks, the box
       and, as a mask prompt, what is known of the slice so far.
    2. From each anchor the mask is carried to the next slices, about ``STEP_MM`` apart and on the slices of all
       clicks: the network is given the neighbour's mask, a box around it, the points deepest inside its parts, and the
       clicks on the slice. This ends at the end of the box, at the next anchor, when the answer is empty, when the
       network gives it a low score, or when its area has changed by more than a factor of 4 down or 3 up.
    3. Between two anchors both answers are blended by distance; logits are interpolated between the slices asked about.

    What was segmented so far stays on slices that nothing is carried to, but not beyond a negative click that ended a
    carry. A mask as the only prompt is refined slice by slice, and not carried on.

    A model that takes boxes only gets the smallest box around the mask it would have been given and around squares of
    ``CLICK_MM`` about the positive clicks (the box of the prompts takes the place of both on its slices, enlarged if a
    click lies beside it), cut so that negative clicks lie outside.

    Args:
        model: answers.
        volume: ``[D, H, W]`` in 0..1.
        spacing: voxel size in mm.
        kept: how many slices' features are kept; the least recently used go first.
    """

    def __init__(
        self, model: SliceGeneralist, volume: Tensor, spacing: Sequence[float], *, kept: int = KEPT_SLICES
    ) -> None:
        self._model = model
        self._shape = tuple(volume.shape)
        self._view = acquisition_view(spacing)
        self._slices = self._view.stack(volume).contiguous()
        self._canvas = model.canvas(self._shape, spacing, self._view)
        step_mm, row_mm, _ = self._view.sizes(spacing)
        self._step = max(1, round(STEP_MM / step_mm))
        self._pixel_mm = row_mm * self._canvas.rows / self._canvas.height
        self._features: OrderedDict[int, Tensor] = OrderedDict()
        self._kept = max(1, kept)

    @torch.no_grad()
    def segment(self, prompts: Prompts) -> Tensor:
        """See ``PromptSession``."""
        asked = self._asked(prompts)
        known = self._known(asked)
        anchors = self._anchors(asked, known)
        keys = self._keys(asked)
        answers: dict[int, Tensor] = {}
        ended: set[int] = set()
        if asked.slices or asked.rectangle is not None:
            answers, ended = self._carried(asked, known, anchors, keys)
        else:
            for index in anchors:
                answers[index], _ = self._decide(index, asked, known.get(index))
        return self._volume(asked, known, answers, keys, ended)

    # --- What is asked ---

    def _asked(self, prompts: Prompts) -> _Asked:
        points = prompts.points.float().cpu().reshape(-1, 3)
        size = torch.tensor(self._shape)
        if not len(points) and prompts.box is None and prompts.mask is None:
            raise UserError("Nothing was pointed at. Click inside the structure, or draw a box around it.")
        if len(points) != len(prompts.positive):
            raise ValueError(f"{len(points)} points, but {len(prompts.positive)} say whether they are positive")
        if not bool(((points >= -0.5) & (points <= size - 0.5)).all()):  # also what is no number
            raise UserError("A click lies outside the scan. Click inside the image.")
        places = self._view.points(points, self._shape)
        slices = [min(max(round(float(p)), 0), len(self._slices) - 1) for p in places[:, 0]]
        first, last, rectangle = 0, len(self._slices) - 1, None
        if prompts.box is not None:
            corners = prompts.box.float().cpu()
            if bool((corners[0] > corners[1]).any() or (corners[1] < 0).any() or (corners[0] > size - 1).any()):
                raise UserError("The box is empty or lies outside the scan. Draw it around the structure.")
            corners = corners.clamp(torch.zeros(3), (size - 1).float())
            ends = self._view.points(corners, self._shape)
            low, high = ends.amin(0), ends.amax(0)
            first, last = round(float(low[0])), round(float(high[0]))
            rectangle = self._canvas.box(low[1:], high[1:])
        mask = None
        if prompts.mask is not None:
            if tuple(prompts.mask.shape) != self._shape:
                raise ValueError(f"mask has shape {tuple(prompts.mask.shape)}, the scan {self._shape}")
            mask = self._view.stack(prompts.mask.float().cpu())
            used = torch.nonzero((mask > 0.5).flatten(1).any(1)).flatten()
            if not len(used):
                mask = None
            elif not slices and rectangle is None:
                first, last = int(used[0]), int(used[-1])
        return _Asked(places[:, 1:], slices, prompts.positive.cpu().bool(), rectangle, first, last, mask)

    def _known(self, asked: _Asked) -> dict[int, Tensor]:
        """Logits of what is segmented so far on the slices that may be asked about."""
        if asked.mask is None:
            return {}
        known = {}
        for index in self._keys(asked):
            if bool((asked.mask[index] > 0.5).any()):
                known[index] = torch.logit(self._canvas.to_mask(asked.mask[index]), 0.01)
        return known

    def _keys(self, asked: _Asked) -> list[int]:
        """The slices that may be asked about: a fixed grid, the ends, and the slices of clicks."""
        keys = {*range(0, len(self._slices), self._step), len(self._slices) - 1, *asked.slices}
        keys |= {asked.first, asked.last}
        if asked.rectangle is not None:
            keys.add((asked.first + asked.last) // 2)
        return sorted(k for k in keys if asked.first <= k <= asked.last)

    def _anchors(self, asked: _Asked, known: dict[int, Tensor]) -> list[int]:
        """The slices to begin with, in the order of the clicks."""
        anchors = [
            s
            for s, positive in zip(asked.slices, asked.positive.tolist(), strict=True)
            if asked.first <= s <= asked.last and (positive or s in known)
        ]
        if asked.rectangle is not None and not anchors:
            anchors = [(asked.first + asked.last) // 2]
        if not asked.slices and asked.rectangle is None:
            anchors = list(known)
        return list(dict.fromkeys(anchors))

    # --- Answers of single slices ---

    def _embedding(self, index: int, ahead: Sequence[int] = ()) -> Tensor:
        """Features of a slice ``[C, g, g]``; those of ``ahead`` are encoded along on a GPU."""
        if index not in self._features:
            on_gpu = self._model.device.type == "cuda"
            new = [index, *(n for n in ahead if n not in self._features)][: AHEAD if on_gpu else 1]
            new = new[: self._kept]
            for n, features in zip(new, self._model.embed(self._slices[new], self._canvas), strict=True):
                self._features[n] = features.half()
            while len(self._features) > self._kept:
                self._features.popitem(last=False)
        self._features.move_to_end(index)
        return self._features[index].float()

    def _decide(
        self, index: int, asked: _Asked, before: Tensor | None, *, carried: bool = False, ahead: Sequence[int] = ()
    ) -> tuple[Tensor, float]:
        """Ask the network about a slice.

        Args:
            index: the slice.
            asked: the prompts.
            before: logits ``[h, w]`` at the masks' resolution: what is thought of the slice.
            carried: ``before`` is a neighbour's.
            ahead: the slices that will be asked about next.

        Returns:
            Logits ``[h, w]`` and the network's score.
        """
        clicks = asked.on(index)
        points = self._canvas.pixels(asked.places[clicks])
        positive = asked.positive[clicks]
        box = asked.rectangle
        if before is not None and not bool((before > 0).any()):
            before = None
        scale = self._canvas.patch / 4  # canvas pixels a mask's pixel
        around = None if before is None else _box_of(before, scale)
        if "points" in self._model.prompts:
            if before is not None and around is not None and (carried or not clicks):
                inside = (_deepest(before) + 0.5) * scale - 0.5
                points = torch.cat([points, inside])
                positive = torch.cat([positive, torch.ones(len(inside), dtype=torch.bool)])
                box = around if box is None else _common(around, box)
            hint = None if before is None else self._padded_mask(before)
        else:
            box, hint = self._only_box(points, positive, box, around, carried), None
            points = points[:0]
        if box is None and hint is None and not bool(positive.any()):
            return torch.full(self._canvas.mask, -LOGIT), 0.0
        several = len(points) == 1 and box is None and hint is None
        device = self._model.device
        logits, scores = self._model.network.masks(
            self._embedding(index, ahead),
            points.to(device) if len(points) else None,
            positive.to(device) if len(points) else None,
            None if box is None else box.to(device),
            None if hint is None else hint.to(device),
            several=several,
        )
        best = int(scores.argmax())
        high, wide = self._canvas.mask
        return logits[best, :high, :wide].float().cpu().clamp(-LOGIT, LOGIT), float(scores[best])

    def _padded_mask(self, logits: Tensor) -> Tensor:
        """A mask as a prompt: nothing is segmented in the padding."""
        side = 4 * self._canvas.size // self._canvas.patch
        padded = torch.full((side, side), -LOGIT)
        padded[: logits.shape[0], : logits.shape[1]] = logits
        return padded

    def _only_box(
        self, points: Tensor, positive: Tensor, box: Tensor | None, around: Tensor | None, carried: bool
    ) -> Tensor | None:
        """One box in place of all prompts of a slice, as canvas pixels ``[4]``; None if nothing is pointed at."""
        half = CLICK_MM / self._pixel_mm / 2
        inside = points[positive]
        if box is not None and not (carried and around is not None):
            parts = [box, *(torch.cat([p, p]) for p in inside)]
        else:
            limited = around if around is None or box is None else _common(around, box)
            parts = [*([] if limited is None else [limited]), *(torch.cat([p - half, p + half]) for p in inside)]
        if not parts:
            return None
        stacked = torch.stack(parts)
        whole = torch.cat([stacked[:, :2].amin(0), stacked[:, 2:].amax(0)])
        end = torch.tensor([self._canvas.width, self._canvas.height]) - 0.5
        whole = torch.cat([whole[:2].clamp(min=-0.5), torch.minimum(whole[2:], end)])
        keep = inside if len(inside) else ((whole[:2] + whole[2:]) / 2)[None]
        for place in points[~positive]:
            whole = _cut(whole, place, keep)
        return whole

    # --- From slice to slice ---

    def _carried(
        self, asked: _Asked, known: dict[int, Tensor], anchors: list[int], keys: list[int]
    ) -> tuple[dict[int, Tensor], set[int]]:
        """Answers on all slices a mask can be carried to, and the slices on which a negative click ended that."""
        found: dict[int, dict[int, Tensor]] = {}  # by slice, then by the anchor the answer came from
        own: dict[int, Tensor] = {}
        hints: dict[int, Tensor] = {}
        ended: set[int] = set()
        for anchor in anchors:
            own[anchor], _ = self._decide(anchor, asked, hints.get(anchor, known.get(anchor)))
            for path in (keys[: keys.index(anchor)][::-1], keys[keys.index(anchor) + 1 :]):
                current = own[anchor]
                for n, index in enumerate(path):
                    if not bool((current > 0).any()):
                        break
                    before = current if index not in known else (current + known[index]) / 2
                    if index in anchors and index in own:
                        break
                    logits, score = self._decide(index, asked, before, carried=True, ahead=path[n + 1 :])
                    if not self._believed(current, logits, score):
                        if not bool(asked.positive[asked.on(index)].all()):
                            ended.add(index)
                        break
                    if index in anchors:
                        hints[index] = logits
                        break
                    found.setdefault(index, {})[anchor] = logits
                    current = logits
        return {**_blended(found, sorted(own)), **own}, ended

    def _believed(self, before: Tensor, logits: Tensor, score: float) -> bool:
        """Whether an answer is the same structure as that on the slice before."""
        area, previous = int((logits > 0).sum()), int((before > 0).sum())
        return score >= self._model.model.min_score and SHRINKS * previous <= area <= GROWS * previous and area > 0

    def _volume(
        self,
        asked: _Asked,
        known: dict[int, Tensor],
        answers: dict[int, Tensor],
        keys: list[int],
        ended: set[int],
    ) -> Tensor:
        """Probabilities ``[D, H, W]`` from the answers on some slices."""
        result = torch.zeros(self._slices.shape)
        stays = self._stays(answers, ended)
        if asked.mask is not None:
            result[stays] = asked.mask[stays].clamp(0, 1)
        nothing = torch.full(self._canvas.mask, -LOGIT)
        given = {**{n: logits for n, logits in known.items() if bool(stays[n])}, **answers}
        for low, high in zip(keys, [*keys[1:], keys[-1]], strict=True):
            if low not in answers and high not in answers:
                continue
            ends = [given.get(n, nothing) for n in (low, high)]
            for index in range(low, max(high, low + 1)):
                if index == low and low not in answers:
                    continue  # nothing was found there, or what was known stays
                logits = torch.lerp(ends[0], ends[1], (index - low) / max(1, high - low))
                result[index] = self._canvas.from_mask(logits).sigmoid_()
        result[: asked.first] = 0
        result[asked.last + 1 :] = 0
        return self._view.volume(result)

    def _stays(self, answers: dict[int, Tensor], ended: set[int]) -> Tensor:
        """On which slices what was segmented so far stays, ``[slices]``."""
        stays = torch.ones(len(self._slices), dtype=torch.bool)
        for index in ended:
            upwards = any(n < index for n in answers)
            if upwards and not any(n > index for n in answers):
                stays[index:] = False
            elif any(n > index for n in answers) and not upwards:
                stays[: index + 1] = False
            else:
                stays[index] = False
        return stays


def _blended(found: dict[int, dict[int, Tensor]], anchors: list[int]) -> dict[int, Tensor]:
    """One answer a slice from those of the nearest anchors on either side, the nearer one counting more."""
    result = {}
    for index, by_anchor in found.items():
        below = max((a for a in anchors if a < index), default=None)
        above = min((a for a in anchors if a > index), default=None)
        near = [a for a in (below, above) if a is not None and a in by_anchor]
        if near:
            weights = torch.tensor([1 / abs(a - index) for a in near])
            stacked = torch.stack([by_anchor[a] for a in near])
            result[index] = (stacked * (weights / weights.sum())[:, None, None]).sum(0)
    return result


def _box_of(logits: Tensor, scale: float) -> Tensor:
    """The box around a mask with a margin, x, y, x, y ``[4]`` in canvas pixels; ``scale`` pixels a mask's pixel."""
    rows, columns = (torch.nonzero((logits > 0).any(axis)).flatten() for axis in (1, 0))
    first = torch.stack([columns[0], rows[0]]).float()
    last = torch.stack([columns[-1], rows[-1]]).float() + 1
    free = torch.clamp(MARGIN * (last - first), min=0.5)
    end = torch.tensor([logits.shape[1], logits.shape[0]]).float()
    return torch.cat([(first - free).clamp(min=0), torch.minimum(last + free, end)]) * scale - 0.5


def _deepest(logits: Tensor) -> Tensor:
    """The place deepest inside each large part of a mask: column, row ``[P, 2]`` in pixels of the mask.

    Parts are large from a tenth of the largest on; there are ``PARTS`` at most. The mask must not be empty.
    """
    inside = (logits > 0).numpy()
    # A mask that touches the edge of the slice ends there.
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    parts, _ = label(inside)
    areas = np.bincount(parts.flat)[1:]
    large = [n for n in np.argsort(-areas, kind="stable")[:PARTS] if areas[n] * 10 >= areas.max()]
    places = [np.unravel_index(np.where(parts == n + 1, depth, 0).argmax(), depth.shape) for n in large]
    return torch.tensor([[float(column), float(row)] for row, column in places])


def _common(box: Tensor, other: Tensor) -> Tensor:
    """What two boxes have in common; ``other`` if that is nothing."""
    both = torch.cat([torch.maximum(box[:2], other[:2]), torch.minimum(box[2:], other[2:])])
    return both if bool((both[:2] < both[2:]).all()) else other


def _cut(box: Tensor, place: Tensor, keep: Tensor) -> Tensor:
    """The largest part of a box that leaves ``place`` ``[2]`` out and all of ``keep`` ``[P, 2]`` in.

    The box as it is when there is none.
    """
    if not bool(((place >= box[:2]) & (place <= box[2:])).all()):
        return box
    parts = []
    for axis in (0, 1):
        if bool((keep[:, axis] < place[axis] - 1).all()):
            parts.append(box.index_fill(0, torch.tensor([axis + 2]), float(place[axis]) - 1))
        if bool((keep[:, axis] > place[axis] + 1).all()):
            parts.append(box.index_fill(0, torch.tensor([axis]), float(place[axis]) + 1))
    return max(parts, key=lambda b: float((b[2:] - b[:2]).prod()), default=box)

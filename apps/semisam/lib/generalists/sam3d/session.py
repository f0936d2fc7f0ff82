"""Clicks on one scan, answered by a 3D model that sees one cube at a time."""

from __future__ import annotations

import torch
from cachetools import LRUCache
from torch import Tensor

from lib.core.resampling import resize
from lib.generalists.base import Prompts
from lib.generalists.prompt_checks import check_prompts, within_box

from .encoder import CubeEncoder
from .intensity import normalise, statistics
from .windows import Mosaic, Start, clamp_start, cut, tile

_SURE = 1e-3
"""A mask's probabilities are kept this far from 0 and 1, so that their logits stay in the range of the model's own."""
_KEPT = 64
"""Cubes whose features are kept, 0.8 MB each."""


class Session:
    """A scan at the model's spacing, with the features of the cubes that clicks made necessary.

    **Which cubes.** The first positive click is the centre of a cube, moved so that it does not reach out of the scan
    when it need not. Later clicks that lie in it, a patch (24 mm) away from its faces, are answered in it without
    encoding anything; a positive click elsewhere opens another cube around it. With a mask so far, negative clicks
    open cubes as well. A mask without clicks is covered with overlapping cubes. The choice depends on the prompts
    alone, so the same prompts have the same answer whatever was asked before. Clicks count in every cube they lie in.
    Answers of cubes that overlap are blended; outside all of them the mask so far stays, or nothing is segmented.

    **Order of clicks.** With a mask so far, all clicks go in together with it. Without, the clicks are played back:
    the first alone, then the first two with the answer before as mask, and so on, as the model is used in its paper.

    **Boxes.** The model has no notion of one. Nothing outside the box is segmented, and if there is neither a positive
    click nor a mask, the box's centre is taken as one.

    Only negative clicks and no mask: nothing is segmented.

    Args:
        model: that answers.
        working: the scan at the model's spacing ``[1, D', H', W']``.
        shape: voxels ``D, H, W`` of the scan that was opened.
    """

    def __init__(self, model: CubeEncoder, working: Tensor, shape: tuple[int, int, int]) -> None:
        self._model = model
        self._working = working
        self._shape = shape
        self._features: LRUCache[Start, Tensor] = LRUCache(_KEPT)

    def segment(self, prompts: Prompts) -> Tensor:
        """Answer to all prompts given so far; see ``PromptSession``."""
        points, positive, mask = check_prompts(prompts, self._shape)
        if prompts.box is not None and mask is None and not bool(positive.any()):
            # The network knows no boxes: the middle counts as a click.
            points = torch.cat([prompts.box.detach().cpu().float().mean(0, keepdim=True), points])
            positive = torch.cat([torch.ones(1, dtype=torch.bool), positive])
        sizes = self._model.layout
        working = self._working.shape[1:]
        scale = torch.tensor([w / n for w, n in zip(working, self._shape, strict=True)])
        places = (points + 0.5) * scale - 0.5
        known = None if mask is None else resize(mask[None], working)
        mosaic = Mosaic(1, self._shape, working, sizes.image)
        for start in self._cubes(places, positive, known):
            offset = places - torch.tensor(start)
            inside = ((offset > -0.5) & (offset < sizes.image - 0.5)).all(1)
            before = None
            if known is not None:
                before = resize(cut(known, start, sizes.image), [sizes.mask] * 3).logit(_SURE)
            logits = self._answer(self._encoded(start), offset[inside], positive[inside], before)
            mosaic.add(logits, start, torch.sigmoid)
        answer = mosaic.result(0.0 if mask is None else mask)[0]
        return answer if prompts.box is None else within_box(answer, prompts.box)

    def _cubes(self, places: Tensor, positive: Tensor, mask: Tensor | None) -> list[Start]:
        """Where to look, for clicks ``[P, 3]`` in working voxels and the mask so far ``[1, D', H', W']``."""
        sizes = self._model.layout
        working = self._working.shape[1:]
        if not len(places):
            assert mask is not None
            return self._over(mask)
        starts: list[Start] = []
        for place, inside in zip(places.tolist(), positive.tolist(), strict=True):
            if (mask is None and not inside) or any(self._well_inside(place, start) for start in starts):
                continue
            d, h, w = (
                clamp_start(round(p + 0.5 - sizes.image / 2), n, sizes.image)
                for p, n in zip(place, working, strict=True)
            )
            # Where nothing is segmented so far, a negative click has nothing to take away.
            if inside or mask is None or bool((cut(mask, (d, h, w), sizes.image) >= 0.5).any()):
                starts.append((d, h, w))
        return starts

    def _over(self, mask: Tensor) -> list[Start]:
        """Cubes over what a mask marks."""
        sizes = self._model.layout
        # A structure thinner than the working grid's voxels may not reach one half in any of them.
        marked = torch.nonzero(mask[0] >= min(0.5, float(mask.max())))
        first, last = marked.amin(0).tolist(), marked.amax(0).tolist()
        extents = [b - a + 1 for a, b in zip(first, last, strict=True)]
        starts = set()
        for cube in tile(extents, sizes.image, sizes.image // 4):
            axes = zip(cube, first, self._working.shape[1:], strict=True)
            d, h, w = (clamp_start(c + a, n, sizes.image) for c, a, n in axes)
            starts.add((d, h, w))
        return sorted(starts)

    def _well_inside(self, place: list[float], start: Start) -> bool:
        """Whether a click is a patch away from all faces of a cube but those at the scan's end."""
        sizes = self._model.layout
        for p, s, n in zip(place, start, self._working.shape[1:], strict=True):
            low = s + sizes.patch if s > 0 else s
            high = s + sizes.image - sizes.patch if s + sizes.image < n else s + sizes.image
            if not low - 0.5 <= p <= high - 0.5:
                return False
        return True

    def _encoded(self, start: Start) -> Tensor:
        """Features of a cube, from memory if it was looked at before."""
        features = self._features.get(start)
        if features is None:
            cube = cut(self._working, start, self._model.layout.image)
            features = self._model.encode_cubes(normalise(cube, *statistics(cube))[None])[0]
            self._features[start] = features
        return features

    def _answer(self, features: Tensor, points: Tensor, positive: Tensor, mask: Tensor | None) -> Tensor:
        """Logits ``[1, m, m, m]`` in one cube."""
        if not len(points):
            return self._model.answer(features, None, None, mask)
        if mask is not None:
            return self._model.answer(features, points, positive, mask)
        # Negative clicks before the first positive one mean nothing on their own.
        first = int(positive.int().argmax())
        logits = None
        for count in range(first + 1, len(points) + 1):
            logits = self._model.answer(features, points[:count], positive[:count], logits)
        assert logits is not None
        return logits

"""What a person says, as arrays, and which part of a scan it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.core.errors import UserError
from lib.generalists.base import Prompts

from .region import Bounds


@dataclass(frozen=True, eq=False)
class Hints:
    """Prompts that fit the scan, as arrays.

    Args:
        inside: clicks inside the structure ``[n, 3]``, voxels of the scan.
        outside: clicks outside of it ``[m, 3]``.
        box: first and past-the-last voxel ``[2, 3]``, or None.
        mask: what is segmented so far ``[D, H, W]`` in 0..1, or None.
        all_over: without clicks inside, the structure is looked for all over the mask, not in the middle of the box.
    """

    inside: np.ndarray
    outside: np.ndarray
    box: np.ndarray | None
    mask: np.ndarray | None
    all_over: bool = False

    @classmethod
    def of(cls, prompts: Prompts, shape: Sequence[int]) -> Hints:
        """Check prompts for a scan of ``shape`` voxels.

        Raises:
            UserError: when nothing says what is meant, or a click or the box lies outside the scan.
        """
        points = prompts.points.detach().cpu().numpy().reshape(-1, 3).astype(np.float64)
        positive = prompts.positive.detach().cpu().numpy().astype(bool).reshape(-1)
        size = np.array(shape)
        for point in points:
            if not (np.isfinite(point).all() and (point >= -0.5).all() and (point <= size - 0.5).all()):
                where = ", ".join(f"{x:g}" for x in point)
                raise UserError(
                    f"The click at voxel ({where}) lies outside the scan of {' x '.join(map(str, shape))} voxels."
                )
        box = mask = None
        if prompts.box is not None:
            ends = np.round(prompts.box.detach().cpu().numpy().astype(np.float64))
            first, past = np.maximum(ends.min(0), 0), np.minimum(ends.max(0) + 1, size)
            if not (first < past).all():
                raise UserError("The box lies outside the scan. Draw it around the structure.")
            box = np.stack([first, past]).astype(int)
        if prompts.mask is not None and bool((prompts.mask >= 0.5).any()):
            mask = prompts.mask.detach().cpu().numpy()
        if not positive.any() and box is None and mask is None:
            raise UserError("Nothing says what is meant. Place at least one click inside the structure, or draw a box.")
        return cls(points[positive], points[~positive], box, mask)

    def places(self) -> np.ndarray:
        """Where the structure is known to be: positive clicks, else the middle of the box or mask, ``[n, 3]``."""
        if len(self.inside):
            return self.inside
        if self.box is not None:
            middle: np.ndarray = (self.box.sum(0, keepdims=True) - 1) / 2
            return middle
        assert self.mask is not None
        result: np.ndarray = np.argwhere(self.mask >= 0.5).mean(0, keepdims=True)
        return result

    def bounds(self, shape: Sequence[int], spacing: Sequence[float], margin: float) -> Bounds:
        """The box of a scan to work on.

        Args:
            shape: voxels of the scan.
            spacing: their size in mm.
            margin: how far from the positive clicks the structure may reach, in mm.
        """
        corners = []
        reach = margin / np.array(spacing)
        if len(self.outside):
            corners += [self.outside - 0.1 * reach, self.outside + 0.1 * reach]
        if self.box is not None:
            # Enough around it to see what the surroundings look like.
            around = np.maximum(2, 0.2 * (self.box[1] - self.box[0]))
            corners += [self.box[:1] - around, self.box[1:] + around]
            reach = 0.1 * reach
        if len(self.inside):
            corners += [self.inside - reach, self.inside + reach]
        if self.mask is not None:
            covered = np.argwhere(self.mask >= 0.5)
            corners += [covered.min(0, keepdims=True) - 0.25 * reach, covered.max(0, keepdims=True) + 0.25 * reach]
        every = np.concatenate(corners)
        return bounds_around(every.min(0), every.max(0) + 1, shape)


def bounds_around(first: np.ndarray, past: np.ndarray, shape: Sequence[int]) -> Bounds:
    """A box, cut to a scan of ``shape`` voxels and at least two voxels wide, where the scan is.

    Args:
        first: first voxel ``[3]``; may lie between voxels, and outside the scan.
        past: past-the-last voxel ``[3]``, likewise.
        shape: voxels of the scan.
    """
    least = np.minimum(shape, 2)  # a 2D image has one slice
    low = np.clip(np.floor(first), 0, np.array(shape) - least).astype(int)
    high = np.clip(np.ceil(past), low + least, shape).astype(int)
    (a, b), (c, d), (e, f) = np.stack([low, high], axis=1).tolist()
    return (a, b), (c, d), (e, f)

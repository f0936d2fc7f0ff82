"""Which of the masks that a network offers is an answer to the clicks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

EDGE = 0.5
"""A mask that covers more than this share of each of the four edges fills the slice: it is the background."""


NEAR = 3
"""A click this close to the border of a mask, in pixels of the mask, does not contradict it."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Masks that a network offers for one slice.

    Args:
        logits: ``[M, h, w]`` over the slice, without padding.
        scores: how good the network believes each to be, ``[M]``.
        decoded: ``[M, 4g, 4g]`` as the mask decoder gave them, with padding.
        wrong: how many clicks each contradicts, ``[M]``; filling the slice counts like a click.
    """

    logits: Tensor
    scores: Tensor
    decoded: Tensor
    wrong: Tensor

    @classmethod
    def of(cls, decoded: Tensor, scores: Tensor, size: tuple[int, int], points: Tensor, positive: Tensor) -> Candidates:
        """Look at masks as the decoder gave them.

        Args:
            decoded: ``[M, 4g, 4g]``.
            scores: ``[M]``.
            size: height and width of the slice in pixels of the mask.
            points: clicks ``[P, 2]`` as column, row in pixels of the mask.
            positive: which are inside the structure, ``[P]``.
        """
        logits = decoded[:, : size[0], : size[1]]
        inside = logits > 0
        columns, rows = (points[:, axis].round().long().clamp(0, size[1 - axis] - 1) for axis in (0, 1))
        # A click beside the border of a good mask corrects the border: it does not ask for another mask.
        near, deep = _widened(inside, NEAR), ~_widened(~inside, NEAR)
        missed = torch.where(positive, ~near[:, rows, columns], deep[:, rows, columns]).sum(1)
        edges = torch.stack([inside[:, 0], inside[:, -1]]), torch.stack([inside[..., 0], inside[..., -1]])
        fills = torch.cat([edge.float().mean(-1) for edge in edges]).amin(0) > EDGE
        return cls(logits, scores, decoded, missed + fills)

    def and_others(self, others: Candidates) -> Candidates:
        """These and more."""
        return Candidates(
            torch.cat([self.logits, others.logits]),
            torch.cat([self.scores, others.scores]),
            torch.cat([self.decoded, others.decoded]),
            torch.cat([self.wrong, others.wrong]),
        )

    def alike(self) -> Tensor:
        """Dice of every two masks, ``[M, M]``; 0 where both are empty, but 1 of a mask with itself."""
        inside = (self.logits > 0).flatten(1).float()
        both, sizes = inside @ inside.T, inside.sum(1)
        dice = 2 * both / (sizes[:, None] + sizes).clamp(min=1)
        return dice.fill_diagonal_(1)

    @property
    def best(self) -> int:
        """The candidate that contradicts the fewest clicks; of those the one with the highest score."""
        fewest = self.wrong == self.wrong.min()
        return int(torch.where(fewest, self.scores, self.scores.new_tensor(-torch.inf)).argmax())

    @property
    def contradicted(self) -> bool:
        """Whether each contradicts a click, or fills the slice."""
        return bool(self.wrong.min() > 0)


def _widened(inside: Tensor, pixels: int) -> Tensor:
    """Masks ``[M, h, w]`` with all that is at most so many pixels away along rows and columns."""
    grown = functional.max_pool2d(inside[:, None].float(), 2 * pixels + 1, stride=1, padding=pixels)
    return grown[:, 0] > 0

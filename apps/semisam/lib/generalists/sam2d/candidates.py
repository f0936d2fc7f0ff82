"""Which of the masks that a network offers is an answer to the clicks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EDGE = 0.5
"""A mask that covers more than this share of each of the four edges fills the slice: it is the background."""


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
        missed = (inside[:, rows, columns] != positive).sum(1)
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

    @property
    def best(self) -> int:
        """The candidate that contradicts the fewest clicks; of those the one with the highest score."""
        fewest = self.wrong == self.wrong.min()
        return int(torch.where(fewest, self.scores, self.scores.new_tensor(-torch.inf)).argmax())

    @property
    def contradicted(self) -> bool:
        """Whether each contradicts a click, or fills the slice."""
        return bool(self.wrong.min() > 0)

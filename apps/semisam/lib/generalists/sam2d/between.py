"""Slices that the network was not asked about: what the answers on others mean for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def faded(stack: Tensor, changes: Mapping[int, Tensor], step: int) -> Tensor:
    """A stack ``[S, rows, columns]`` with the changes of some slices, which fade to nothing ``step`` slices away.

    Between two changed slices that lie so close, both have their share.
    """
    result = stack.clone()
    for index in range(len(stack)):
        shares = {n: 1 - abs(n - index) / step for n in changes if abs(n - index) < step}
        total = max(1.0, sum(shares.values()))
        for n, share in shares.items():
            result[index] += changes[n] * (share / total)
    return result


def stays(count: int, answers: dict[int, Tensor], ended: set[int]) -> Tensor:
    """On which of ``count`` slices what was segmented so far stays, ``[count]`` boolean."""
    stays = torch.ones(count, dtype=torch.bool)
    for index in ended:
        upwards = any(n < index for n in answers)
        if upwards and not any(n > index for n in answers):
            stays[index:] = False
        elif any(n > index for n in answers) and not upwards:
            stays[: index + 1] = False
        else:
            stays[index] = False
    return stays


def blended(found: dict[int, dict[int, Tensor]], anchors: list[int]) -> dict[int, Tensor]:
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

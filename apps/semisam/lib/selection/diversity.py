"""Scans that are nearly identical are not offered one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .similarity import median_distance

_NEAR = 0.3
"""Scans nearer to each other than this share of the usual distance count as nearly identical."""
_RECENT = 5
"""Scans seen last that the next one should not look like."""


def pick(order: Sequence[str], descriptors: Mapping[str, Tensor], recent: Sequence[str]) -> str:
    """The first of the ordered scans that is not nearly identical to one seen a short while ago.

    Args:
        order: names, the most wanted first; at least one.
        descriptors: ``[F]`` of unit length by name, of the whole study: what counts as nearly identical is relative to
            its usual distances. A scan without one counts as different from all.
        recent: names of scans that were offered or outlined, the last one first; the first few count.

    Returns:
        A name of ``order``; its first when all are nearly identical to recent ones.

    Raises:
        ValueError: when ``order`` is empty.
    """
    if not order:
        raise ValueError("there is no scan to pick from")
    offered = [descriptors[name] for name in recent[:_RECENT] if name in descriptors]
    if not offered:
        return order[0]
    near = _NEAR * median_distance(torch.stack([descriptors[name] for name in sorted(descriptors)]))
    seen = torch.stack(offered)
    for name in order:
        own = descriptors.get(name)
        if own is None or float((seen - own).norm(dim=1).min()) > near:
            return name
    return order[0]

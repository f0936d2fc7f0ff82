"""Which scan comes next: the rules of the strategies, as plain functions of what is known about the scans.

Each gives all names, the most wanted first, equal ones by name; ``pick`` then passes over what looks like the scans
seen last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from .representativeness import spread

_SHARE = 0.25
"""Share of the scans, those the app is least sure about, that ``recommended`` chooses among."""


def by_value(names: Sequence[str], *values: Mapping[str, float]) -> list[str]:
    """The largest value first; scans without one come after the others, by the next values.

    Args:
        names: the scans.
        values: by name, in the order in which they count.
    """

    def wanted(name: str) -> tuple[float, ...]:
        return tuple(-known.get(name, -math.inf) for known in values)

    return sorted(names, key=lambda name: (wanted(name), name))


def by_coverage(
    names: Sequence[str], descriptors: Mapping[str, Tensor], taken: Sequence[str], typical: Mapping[str, float]
) -> list[str]:
    """First the scan that adds most to those that are taken, then the others, the typical ones first.

    Only the named scans are to be covered. Those without a descriptor come last, by name.

    Args:
        names: the scans.
        descriptors: ``[F]`` of unit length by name, see ``describe``.
        taken: scans that are outlined or in work.
        typical: ``representativeness`` by name.
    """
    found = [name for name in names if name in descriptors]
    if not found:
        return sorted(names)
    wanted = set(names)
    before = [name for name in dict.fromkeys(taken) if name in descriptors and name not in wanted]
    together = torch.stack([descriptors[name] for name in [*found, *before]])
    first = found[spread(together, range(len(found), len(together)), 1)[0]]
    rest = [name for name in names if name != first]
    looked_at = dict.fromkeys(found, 0.0)
    return [first, *by_value(rest, looked_at, typical)]


def by_uncertainty_and_coverage(
    names: Sequence[str], uncertainties: Mapping[str, float], cover: Callable[[Sequence[str]], list[str]]
) -> tuple[list[str], int]:
    """The rule of ``recommended``: among the scans the app is least sure about, the one that stands for most of them.

    The most uncertain scan alone is often an odd one that teaches little about the others; so uncertainty first narrows
    the choice, and coverage decides, as in Yang et al., "Suggestive Annotation", MICCAI 2017
    (https://doi.org/10.1007/978-3-319-66179-7_46).

    Args:
        names: the scans.
        uncertainties: how unsure the app is about a scan, as far as known; other scans come last.
        cover: orders scans by coverage.

    Returns:
        The order, and among how many of its first scans coverage decided.
    """
    order = by_value(names, uncertainties)
    known = sum(name in uncertainties for name in names)
    count = max(1, math.ceil(_SHARE * known))
    return [*cover(order[:count]), *order[count:]], count


def worst_label_first(
    names: Sequence[str], quality: Mapping[str, float], labelled: Collection[str], uncertainties: Mapping[str, float]
) -> list[str]:
    """The rule of ``review``: the lowest estimate first, then labels without one, the most uncertain first.

    Args:
        names: the scans; those without a pseudo-label come last.
        quality: estimated Dice of the pseudo-labels, as far as known.
        labelled: scans that have a pseudo-label.
        uncertainties: how unsure the app is about a scan, as far as known.
    """
    judged = {name: -quality[name] for name in names if name in quality and name in labelled}
    return by_value(names, judged, dict.fromkeys(labelled, 0.0), uncertainties)


def evenly(names: Sequence[str]) -> list[str]:
    """The rule of ``uniform``: through the list in ever finer steps (van der Corput order): first, middle, ...

    After any number of scans no part of the list is left out.
    """
    bits = max(1, len(names) - 1).bit_length()
    order = (int(f"{n:0{bits}b}"[::-1], 2) for n in range(2**bits))
    return [names[n] for n in order if n < len(names)]

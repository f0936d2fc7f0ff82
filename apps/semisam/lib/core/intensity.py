"""Outlying intensities of a scan are brought near the rest, by one rule for all that look at it.

A few voxels of a division by nearly zero, or padding far below the tissue, would take up the whole range of a scan:
whatever scales by it, its mean or its deviation sees next to nothing of the tissue. Values of tissue are never changed,
and a scan without outliers stays as it is, bit by bit.

What counts as an outlier, with *width* for the distance of the 0.5 and 99.5 percentiles of the rest:

- **Padding**: one constant value, the lowest or the highest of the scan, of one voxel in 200 at least, far from the
  rest: by three times the distance of the 5 and 95 percentiles. Where compression or resampling made it vary by a
  hundredth of the scan's range, by ten times that distance. There may be several such values, one beyond the other.
  Of padding that fills a twentieth of the scan, what lies between is an outlier, too, as resampling blurs its border:
  what is five times the distance of the 15 and 85 percentiles away from these.
- **A few voxels** more than ten widths outside. Where up to 2 % of the voxels are such that these themselves make the
  width, that of the 2 and 98 percentiles takes its place, and twenty of them.

Outliers get the most extreme value of the rest, or lie one width outside its percentiles (a quarter, for padding),
whatever is further out: so they still are darker (brighter) than everything else, and what is padded keeps its outline.

The rule is the same for a scan that is scaled, shifted, inverted, flipped or turned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_MOST_SAMPLES = 2**16
_LEAST_VALUES = 8
"""Voxels of the rest below which nothing can be said about it."""
_PADDING = 0.005
"""Share of the voxels from which on one constant, outermost value is padding."""
_UNEVEN = 0.01
"""How far the values of padding may lie apart that was compressed or resampled, as a share of the scan's range."""
_FAR_IF_UNEVEN = (0.05, 10.0)
"""The same as ``_FAR`` for padding that is uneven: the air of CT is, too, and is none."""
_FAR = (0.05, 3.0)
"""A percentile at either end, and how many of their distances outside of it padding is far from the rest."""
_MUCH = 0.05
"""Share of padding from which on it may be blurred."""
_FAR_FROM_MOST = (0.15, 5.0)
"""The same as ``_FAR`` for padding that may be blurred: of small scans the blur is a tenth."""
_FENCES = ((0.005, 10.0), (0.02, 20.0))
"""A percentile at either end, and how many of their distances outside of it an outlier begins; whichever is nearer."""
_MARGIN, _PADDING_MARGIN = 1.0, 0.25
"""Widths outside the percentiles that a few voxels, and padding, are brought to: a small bright object must stand out
from noise, while much padding must leave the tissue its contrast."""
_APART = 0.1
"""How far padding lies from the rest that stands apart, as a share of the rest's range."""
_ROUNDS = 6
_SOUND = (1e-6, 1e9)
"""Ranges of intensities that single precision has room for, also squared and summed."""


@dataclass(frozen=True)
class Limits:
    """Between which values a scan's intensities are clipped; infinite where there is no outlier.

    Args:
        low: the least value.
        high: the largest value.
    """

    low: float = -math.inf
    high: float = math.inf

    @property
    def needed(self) -> bool:
        """Whether there are outliers."""
        return self.low > -math.inf or self.high < math.inf


def limits_of(values: np.ndarray) -> Limits:
    """The limits of a scan's intensities ``[D, H, W]``, finite; see above."""
    sample = np.sort(_sample(values), axis=None).astype(np.float64)
    return _limits(sample, float(values.min()), float(values.max()))


def clipped(values: np.ndarray) -> np.ndarray:
    """A scan's intensities ``[D, H, W]`` float32 without outliers; the very array when it has none.

    A range that single precision has no room for (below 1e-6 or above 1e9) is multiplied by a power of two, which
    changes no ratio.
    """
    limits = limits_of(values)
    found = np.clip(values, np.float32(limits.low), np.float32(limits.high)) if limits.needed else values
    least, largest = float(found.min()), float(found.max())
    if _SOUND[0] <= largest - least and max(abs(least), abs(largest)) <= _SOUND[1]:
        return found
    # Shifted first: of a small range far from 0 the shift takes nothing that the format has.
    power = -math.floor(math.log2(largest - least)) if largest > least else 0
    shifted = np.ldexp(found.astype(np.float64) - least, power)
    return np.asarray(shifted, dtype=np.float32)


def padding_in(values: np.ndarray) -> tuple[float, ...]:
    """The values of a scan's padding, where nothing was measured, as far as they stand apart from the tissue.

    That is, unlike above, also padding near the tissue, such as zeros around tissue of 1000: one constant value, the
    lowest or the highest of the scan, of one voxel in 200 at least, also on the scan's faces, and a tenth of the rest's
    range away from it.

    Args:
        values: the scan's intensities ``[D, H, W]``, finite, with or without outliers.
    """
    sample, found = np.sort(_sample(values), axis=None).astype(np.float64), []
    low, high = float(values.min()), float(values.max())
    rest = sample[(sample > low) & (sample < high)]
    for value in (low, high):
        few = np.count_nonzero(sample == value) < max(1.0, _PADDING * len(sample))
        if few or len(rest) < _LEAST_VALUES or not _on_faces(values, value):
            continue
        near, far = _percentiles(rest, _FENCES[0][0])
        if (near - value if value == low else value - far) > _APART * (far - near):
            found.append(value)
    return tuple(found)


def _on_faces(values: np.ndarray, value: float) -> bool:
    """Whether the scan is bordered by a value, on one voxel in 200 at least of its (long) sides' faces."""
    faces = [np.take(values, [0, -1], axis) for axis, size in enumerate(values.shape) if size > 1]
    result: bool = sum(np.count_nonzero(face == value) for face in faces) >= _PADDING * sum(face.size for face in faces)
    return result


def without_outliers(image: Tensor) -> Tensor:
    """The same for a tensor of any shape ``[..., D, H, W]``, which stays on its device; the very one without outliers.

    For what is handed to an encoder from elsewhere than a ``Volume``.
    """
    if image.numel() < _LEAST_VALUES:
        return image
    flat = image.detach().flatten()
    step = -(-flat.numel() // _MOST_SAMPLES)
    some = flat if step == 1 else torch.cat([flat[::step], flat.flip(0)[::step]])
    sample = some.sort().values.double().cpu().numpy()
    limits = _limits(sample, float(flat.min()), float(flat.max()))
    return image.clamp(limits.low, limits.high) if limits.needed else image


def _sample(values: np.ndarray) -> np.ndarray:
    """At most so many values, evenly spread; the same ones however the scan is flipped or turned."""
    step = math.ceil((values.size / _MOST_SAMPLES) ** (1 / 3)) if values.size > _MOST_SAMPLES else 1
    result: np.ndarray = values[np.ix_(*[_symmetric(n, step) for n in values.shape])]
    return result


def _symmetric(size: int, step: int) -> np.ndarray:
    """Every ``step``-th index, counted from both ends."""
    ahead = np.arange(0, size, step)
    return np.union1d(ahead, size - 1 - ahead) if step > 1 else ahead


def _limits(values: np.ndarray, least: float, largest: float) -> Limits:
    """The limits by a sorted sample and the exact extremes."""
    first, last = 0, len(values)
    margins = [_MARGIN, _MARGIN]
    for _ in range(_ROUNDS):
        several = _without_few(values, first, last)
        inner = _without_padding(values, *several)
        margins = [_PADDING_MARGIN if inner[end] != several[end] else margins[end] for end in (0, 1)]
        if inner == (first, last):
            break
        first, last = inner
    rest = values[first:last]
    if len(rest) < _LEAST_VALUES:
        return Limits()
    low, high = _percentiles(rest, _FENCES[0][0])
    fences = _fences(rest)
    width = high - low
    if not (width > 0 and math.isfinite(width)):
        return Limits()
    near = min(float(rest[0]), low - margins[0] * width), max(float(rest[-1]), high + margins[1] * width)
    # Padding that was taken off is beyond `near` in any case; the few may lie in the scan, but not in the sample.
    outer = first > 0 or least < fences[0], last < len(values) or largest > fences[1]
    return Limits(near[0] if outer[0] and least < near[0] else -math.inf, near[1] if outer[1] else math.inf)


def _without_few(values: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """The part of a sorted sample within the fences around it."""
    rest = values[first:last]
    if len(rest) < _LEAST_VALUES:
        return first, last
    low, high = _fences(rest)
    return first + int(np.searchsorted(rest, low, "left")), first + int(np.searchsorted(rest, high, "right"))


def _without_padding(values: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """The part of a sorted sample without a constant, outermost value far from the rest, and without its blur."""
    rest = values[first:last]
    below = int(np.searchsorted(rest, rest[0], "right"))
    above = int(np.searchsorted(rest, rest[-1], "left"))
    for least, (share, widths) in ((_MUCH, _FAR_FROM_MOST), (_PADDING, _FAR)):
        fewest = max(1.0, least * len(values))
        if below >= fewest and rest[0] < (reach := _reach(rest[below:], share, widths)[0]):
            return first + (below if least < _MUCH else int(np.searchsorted(rest, reach, "left"))), last
        if len(rest) - above >= fewest and rest[-1] > (reach := _reach(rest[:above], share, widths)[1]):
            return first, first + (above if least < _MUCH else int(np.searchsorted(rest, reach, "right")))
    return _without_uneven(values, first, last)


def _without_uneven(values: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """The same for padding that is no more quite constant; less than half of the sample, or it is the scan itself."""
    rest = values[first:last]
    band, most = _UNEVEN * float(rest[-1] - rest[0]), len(rest) / 2
    below = int(np.searchsorted(rest, rest[0] + band, "right"))
    above = int(np.searchsorted(rest, rest[-1] - band, "left"))
    fewest, (share, widths) = max(1.0, _PADDING * len(values)), _FAR_IF_UNEVEN
    if fewest <= below < most and rest[below - 1] < (reach := _reach(rest[below:], share, widths)[0]):
        return first + int(np.searchsorted(rest, reach, "left")), last
    if fewest <= len(rest) - above < most and rest[above] > (reach := _reach(rest[:above], share, widths)[1]):
        return first, first + int(np.searchsorted(rest, reach, "right"))
    return first, last


def _reach(rest: np.ndarray, share: float, widths: float) -> tuple[float, float]:
    """Beyond which values padding is far from a sorted sample."""
    if len(rest) >= _LEAST_VALUES:
        for each in (share, _FENCES[0][0]):  # nearly all may have one value
            low, high = _percentiles(rest, each)
            if high > low:
                return low - widths * (high - low), high + widths * (high - low)
    return -math.inf, math.inf


def _fences(rest: np.ndarray) -> tuple[float, float]:
    """Beyond which values a few voxels are outliers, by a sorted sample."""
    lows, highs = [], []
    for share, widths in _FENCES:
        low, high = _percentiles(rest, share)
        reach = widths * (high - low)
        if reach > 0:
            lows.append(low - reach)
            highs.append(high + reach)
    return max(lows, default=-math.inf), min(highs, default=math.inf)


def _percentiles(rest: np.ndarray, share: float) -> tuple[float, float]:
    """The values that ``share`` of a sorted sample lie below and above of."""
    last = len(rest) - 1
    at = math.floor(share * last)
    return float(rest[at]), float(rest[last - at])

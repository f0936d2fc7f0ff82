"""Samples in a GPU's memory: each scan goes there once, not once for every window."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from .sample import Sample

_SHARE = 0.25
"""Share of the GPU's free memory that samples may take when a training begins: the rest is for the training itself."""
_MOST = 1_500_000_000
"""Bytes of samples at most. What is copied is held on the CPU as well, and a study must not fill its memory."""


class OnDevice:
    """Copies of samples on a device; the most recently used ones stay there.

    What a sample brings again (the same memory) is not copied again. Further maps are copied each time and never kept:
    they are made anew for most windows, such as a generalist's answer.

    Args:
        device: ``cpu`` or ``cuda[:n]``.
        most: bytes to keep; None for 1.5 GB, or a share of what is free on a GPU if that is less. What a part of a
            larger tensor holds in the CPU's memory counts whole.
    """

    def __init__(self, device: str, most: int | None = None) -> None:
        self._device = device
        self._here = device == "cpu"
        self._most = _room(device) if most is None else most
        self._kept: OrderedDict[str, dict[str, _Copy]] = OrderedDict()

    def copy(self, name: str, sample: Sample) -> Sample:
        """The sample of a scan on the device; on the CPU the sample itself. Its tensors must not change."""
        if self._here:
            return sample
        given = {"image": sample.image, "target": sample.target, "weight": sample.weight}
        kept = self._kept.pop(name, {})
        copies = {part: self._copy(value, kept.get(part)) for part, value in given.items()}
        self._kept[name] = copies
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self._most:
            self._kept.popitem(last=False)
        extra = None if sample.extra is None else sample.extra.to(self._device)
        return Sample(**{part: copy.there for part, copy in copies.items()}, extra=extra)

    def _copy(self, value: Tensor, kept: _Copy | None) -> _Copy:
        if kept is not None and _same(kept.here, value):
            return kept
        return _Copy(value, value.to(self._device))


@dataclass(frozen=True, eq=False)
class _Copy:
    """A tensor, which is held so that its memory is not used again, and its copy on the device."""

    here: Tensor
    there: Tensor


def _room(device: str) -> int:
    """Bytes to keep on a device, 0 on the CPU."""
    if device == "cpu":
        return 0
    torch.cuda.empty_cache()  # what PyTorch holds in reserve would not count as free
    return min(_MOST, round(_SHARE * torch.cuda.mem_get_info(device)[0]))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _bytes(copies: dict[str, _Copy]) -> int:
    """What copies hold, on the device or, where that is more, on the CPU."""
    return sum(max(copy.there.nbytes, copy.here.untyped_storage().nbytes()) for copy in copies.values())

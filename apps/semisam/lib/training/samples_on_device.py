"""Samples kept in a GPU's memory, so that each scan is copied there once and not for every window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .memory_cache import MemoryLimitedCache
from .sample import Sample

_SHARE = 0.25
"""Share of the GPU's free memory that samples may take when a training begins: the rest is for the training itself."""
_MOST = 1_500_000_000
"""Bytes of samples at most. What is copied is held on the CPU as well, and a study must not fill its memory."""


class OnDevice:
    """Copies of samples on a device; the most recently used ones stay there.

    A tensor is copied again only when it lies elsewhere in memory than before. Further maps are never kept: most of
    them are made for one window, such as a generalist's answer.

    Args:
        device: ``cpu`` or ``cuda[:n]``.
        most: bytes to keep; None for 1.5 GB, or for a share of a GPU's free memory if that is less. A view counts with
            the whole tensor that it keeps in the CPU's memory.
    """

    def __init__(self, device: str, most: int | None = None) -> None:
        self._device = device
        self._here = device == "cpu"
        self._kept: MemoryLimitedCache[dict[str, _Copy]]
        self._kept = MemoryLimitedCache(_room(device) if most is None else most, _bytes)

    def copy(self, name: str, sample: Sample) -> Sample:
        """The sample of a scan on the device; on the CPU the sample itself. Its tensors must not change."""
        if self._here:
            return sample
        given = {"image": sample.image, "target": sample.target, "weight": sample.weight}
        kept = self._kept.pop(name, {})
        copies = self._kept[name] = {part: self._copy(value, kept.get(part)) for part, value in given.items()}
        extra = None if sample.extra is None else sample.extra.to(self._device)
        return Sample(**{part: copy.there for part, copy in copies.items()}, extra=extra)

    def _copy(self, value: Tensor, kept: _Copy | None) -> _Copy:
        if kept is not None and _same(kept.here, value):
            return kept
        return _Copy(value, value.to(self._device))


@dataclass(frozen=True, eq=False)
class _Copy:
    """A tensor, held so that its memory is not used for another one, and its copy on the device."""

    here: Tensor
    there: Tensor


def _room(device: str) -> int:
    """How many bytes may be kept on a device, 0 on the CPU."""
    if device == "cpu":
        return 0
    torch.cuda.empty_cache()  # what PyTorch holds in reserve would not count as free
    return min(_MOST, round(_SHARE * torch.cuda.mem_get_info(device)[0]))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _bytes(copies: dict[str, _Copy]) -> int:
    """Memory that copies take on the device, or on the CPU where that is more."""
    return sum(max(copy.there.nbytes, copy.here.untyped_storage().nbytes()) for copy in copies.values())

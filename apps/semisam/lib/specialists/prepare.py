"""From a scan to what the specialist sees: the one path for training, inference and scoring."""

from __future__ import annotations

from torch import Tensor

from ..frames import Frame, frame_of
from ..volumes import Volume
from .spec import SpecialistSpec

_LOW, _HIGH = 0.005, 0.995
_MOST_SAMPLES = 1_000_000


def prepare(volume: Volume, spec: SpecialistSpec) -> tuple[Frame, Tensor]:
    """A scan on the specialist's grid with the specialist's intensities.

    Scaling or shifting the scan's intensities, flipping or permuting its axes, or padding it by a constant changes
    nothing.

    Returns:
        The frame of the working grid, and ``[1, D, H, W]`` float32 with mean 0 and standard deviation 1.
    """
    frame = frame_of(volume).with_spacing(spec.spacing)
    return frame, normalise(frame.image(volume.array))


def normalise(image: Tensor) -> Tensor:
    """Clip ``[1, D, H, W]`` to its 0.5 to 99.5 percentiles, then subtract the mean and divide by the deviation."""
    flat = image.flatten()
    sample = flat[:: 1 + flat.numel() // _MOST_SAMPLES].sort().values
    last = sample.numel() - 1
    low, high = float(sample[round(_LOW * last)]), float(sample[round(_HIGH * last)])
    if high <= low:
        low, high = float(sample[0]), float(sample[-1])
    clipped = image.clamp(low, high) - low
    deviation = clipped.std()
    return (clipped - clipped.mean()) / deviation.clamp_min(1e-6 * max(high - low, 1e-30))

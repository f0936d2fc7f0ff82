"""From a scan to what the specialist sees, and from its answer to a label map: the one path of all that use it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.formats.limits import check_grid

from .spec import SpecialistSpec

_LOW, _HIGH = 0.005, 0.995
_MOST_SAMPLES = 1_000_000


def prepare(volume: Volume, spec: SpecialistSpec, part: Frame | None = None) -> tuple[Frame, Tensor]:
    """A scan on the specialist's grid with the specialist's intensities.

    Scaling or shifting the scan's intensities, flipping or permuting its axes, or padding it by a constant changes
    nothing.

    Args:
        volume: the scan.
        spec: what the specialist is.
        part: of the scan, see ``roi_of``; None for all of it.

    Returns:
        The frame of the working grid, and ``[inputs, D, H, W]`` float32 with mean 0 and standard deviation 1 over all.

    Raises:
        UserError: see ``grid_of``.
    """
    frame = grid_of(part or frame_of(volume), spec)
    return frame, normalised(frame, volume, spec.inputs)


def grid_of(frame: Frame, spec: SpecialistSpec) -> Frame:
    """The specialist's grid over a scan.

    Raises:
        UserError: (422) for a 2D image where volumes are expected, and the other way round; (413) for a grid that is
            larger than a scan may be, see ``lib.formats.limits``.
    """
    if frame.flat != spec.flat:
        kinds = ("a 3D scan", "2D images") if spec.flat else ("a 2D image", "3D scans")
        raise UserError(
            f"This is {kinds[0]}, but the outlined scans of this study are {kinds[1]}. "
            f"Keep 2D images and 3D scans in studies of their own.",
            status=422,
        )
    grid = frame.with_spacing(spec.spacing)
    check_grid(grid.shape, spec.spacing)
    return grid


def normalised(frame: Frame, volume: Volume, inputs: int) -> Tensor:
    """A scan on a frame's grid with the specialist's intensities, ``[inputs, D, H, W]`` float32.

    Channels of a scan are normalised one by one, colours of a picture together.

    Raises:
        UserError: see ``seen``.
    """
    image = seen(frame, volume, inputs)
    if not volume.further or inputs == 1:
        return normalise(image)
    return torch.stack([normalise(channel[None])[0] for channel in image])


def seen(frame: Frame, volume: Volume, inputs: int) -> Tensor:
    """A scan's intensities on a frame's grid as a network sees them, ``[inputs, D, H, W]`` float32.

    With three inputs these are red, green and blue, which are alike for a grey image; with one, the brightness. Of a
    scan with several channels these are its channels, or the first one.

    Raises:
        UserError: (409) when a scan has other channels than the specialist knows.
    """
    if not volume.flat and inputs > 1:
        check_channels(volume, inputs)
        return torch.cat([frame.image(each) for each in volume.all_clipped])
    if inputs == 1 or volume.colour is None:
        return frame.image(volume.clipped).expand(inputs, -1, -1, -1)
    return torch.cat([frame.image(part) for part in volume.colour])


def check_channels(volume: Volume, inputs: int) -> None:
    """Raise UserError (409) when a scan has other channels than a specialist for ``inputs`` channels knows."""
    if inputs > 1 and len(volume.further) + 1 != inputs:
        raise UserError(
            f"The specialist knows scans with {inputs} channels; this one has {len(volume.further) + 1}. Train "
            "again, or start the server with the channels of that training.",
            status=409,
        )


def normalise(image: Tensor) -> Tensor:
    """Clip ``[inputs, D, H, W]`` to its 0.5 to 99.5 percentiles, subtract the mean and divide by the deviation.

    All channels alike: what tells colours apart stays.
    """
    flat = image.flatten()
    sample = flat[:: 1 + flat.numel() // _MOST_SAMPLES].sort().values
    last = sample.numel() - 1
    low, high = float(sample[round(_LOW * last)]), float(sample[round(_HIGH * last)])
    if high <= low:
        low, high = float(sample[0]), float(sample[-1])
    clipped = image.clamp(low, high) - low
    deviation = clipped.std() if clipped.numel() > 1 else clipped.new_zeros(())  # of one voxel it is no number
    return (clipped - clipped.mean()) / deviation.clamp_min(1e-6 * max(high - low, 1e-30))


def label_map(frame: Frame, probabilities: Tensor, volume_weights: Sequence[float] | None) -> np.ndarray:
    """Label map ``[D, H, W]`` uint8 on the scan's own grid.

    Args:
        frame: of the working grid.
        probabilities: ``[1 + N, D, H, W]`` on it, background first.
        volume_weights: see ``SpecialistSpec``.
    """
    if volume_weights is not None:
        probabilities = probabilities * torch.tensor(volume_weights).view(-1, 1, 1, 1)
    return frame.labels_back(probabilities)

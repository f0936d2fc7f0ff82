"""The specialist's answer for a scan, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from lib.core.frames import Frame
from lib.core.geometry import Volume
from lib.core.uncertainty import normalised_entropy
from lib.nnunet import predict_scan

from .checkpoint import Specialist
from .precision import MixedPrecision
from .prepare import check_channels, label_map, prepare
from .spec import SpecialistSpec

_SLICE_VOXELS = 250_000
"""Voxels that a network for slices gets at once: many slices of few pixels take as long as few of many."""

OVERLAP = 0.25
"""Share by which neighbouring windows overlap."""


@dataclass(frozen=True, eq=False)
class SpecialistPrediction:
    """What a specialist says about a scan.

    Args:
        frame: where its working grid lies in the scan.
        probabilities: ``[1 + N, D, H, W]`` float32 on the working grid, background first, sum 1.
        uncertainty: ``[D, H, W]`` float32 in 0..1 on the working grid: normalised entropy of the probabilities.
        volume_weights: see ``SpecialistSpec``.
    """

    frame: Frame
    probabilities: Tensor
    uncertainty: Tensor
    volume_weights: Sequence[float] | None = None

    def labels(self) -> np.ndarray:
        """Label map ``[D, H, W]`` uint8 in the scan's own grid."""
        return label_map(self.frame, self.probabilities, self.volume_weights)

    def probability_map(self, value: int) -> np.ndarray:
        """Probability of one class ``[D, H, W]`` float32 in 0..1 in the scan's own grid; 0 outside the content.

        Args:
            value: of a structure, 1..N.
        """
        return self.frame.map_back(self.probabilities[value]).clip(0, 1)

    def uncertainty_map(self) -> np.ndarray:
        """Uncertainty ``[D, H, W]`` float32 in 0..1 in the scan's own grid; 0 outside the content."""
        return self.frame.map_back(self.uncertainty)


def predict(specialist: Specialist, volume: Volume, *, part: Frame | None = None) -> SpecialistPrediction:
    """Segment a scan of any orientation, spacing, size and intensity scale.

    Args:
        specialist: the specialist.
        volume: the scan.
        part: where to look, see ``roi_of``, for a specialist that works on a part of a scan: elsewhere all is
            background. None for the whole scan.
    """
    if specialist.nnunet is not None:
        check_channels(volume, specialist.spec.inputs)
        frame, probabilities = predict_scan(specialist.nnunet, specialist.members, volume)
        return SpecialistPrediction(frame, probabilities, normalised_entropy(probabilities))
    frame, image = prepare(volume, specialist.spec, part)
    probabilities = predict_prepared(specialist.members, specialist.spec, image)
    uncertainty = normalised_entropy(probabilities)
    return SpecialistPrediction(frame, probabilities, uncertainty, specialist.spec.volume_weights)


@torch.inference_mode()
def predict_prepared(members: Sequence[nn.Module], spec: SpecialistSpec, image: Tensor) -> Tensor:
    """Mean probabilities over members, each of which sees the image as it is.

    Args:
        members: networks on one device.
        spec: what they are.
        image: ``[inputs, D, H, W]`` as ``prepare`` gives it; may be smaller than the window, it is padded then.

    Returns:
        ``[1 + N, D, H, W]`` float32 on the CPU.
    """
    device = next(members[0].parameters()).device
    window, overlap = _window(spec, image.shape[1:])
    inferer = SlidingWindowInferer(window, sw_batch_size=1, overlap=overlap, mode="gaussian", padding_mode="replicate")
    image = image[None].to(device)
    total = torch.zeros(1, spec.channels, *image.shape[2:], device=device)
    precision = MixedPrecision(device)

    def answer(windows: Tensor, member: nn.Module) -> Tensor:
        with precision():
            logits = member(windows)
        if not isinstance(logits, Tensor):
            raise TypeError("a specialist's network must answer with one tensor")
        return logits.float()

    for member in members:
        member.eval()
        total += cast("Tensor", inferer(image, answer, member=member)).softmax(dim=1)
    return (total[0] / len(members)).cpu()


def _window(spec: SpecialistSpec, extent: Sequence[int]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Voxels of the sliding window and its overlap by axis.

    Slices that are seen one by one need no overlap with their neighbours, and as many as fit go at once.
    """
    window, overlap = list(spec.roi_size), [OVERLAP] * 3
    if spec.by_slice:
        axis = spec.slice_axis
        others = math.prod(n for n in window) // window[axis]
        window[axis] = max(1, min(extent[axis], _SLICE_VOXELS // others))
        overlap[axis] = 0.0
    return tuple(window), tuple(overlap)

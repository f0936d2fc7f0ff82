"""MIND-SSC: a modality independent descriptor that needs no weights.

Heinrich et al., "Towards realtime multimodal fusion for image-guided interventions using self-similarities",
MICCAI 2013, https://doi.org/10.1007/978-3-642-40811-3_24
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.filters import box_mean
from lib.core.intensity import without_outliers


class Mind:
    """Self-similarity context descriptors: 12 values in 0..1 a voxel.

    Each value compares two of a voxel's six neighbours at ``dilation`` voxels that are a face diagonal apart, by the
    mean squared difference of the patches of ``2 * radius + 1`` voxels around them, relative to the local variation.
    The result does not depend on the scan's intensity scale or offset, nor on its outliers.

    Args:
        radius: half width of a patch in voxels.
        dilation: distance of the neighbours in voxels.
    """

    name = "mind"

    def __init__(self, radius: int = 1, dilation: int = 2) -> None:
        self.radius = radius
        self.dilation = dilation
        six = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
        pairs = [(a, b) for a, b in combinations(six, 2) if sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) == 2]
        self._pairs = pairs

    @property
    def preprocessing(self) -> str:
        """What the features depend on beside the scan, for those who keep them."""
        return f"radius {self.radius}, dilation {self.dilation}, without outliers"

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """Describe ``[1, D, H, W]`` by ``[12, D, H, W]``; the spacing plays no part."""
        reach = self.dilation
        image = without_outliers(image)
        scale = (image.max() - image.min()).clamp_min(1e-12)
        padded = functional.pad((image[None] - image.min()) / scale, [reach] * 6, mode="replicate")[0, 0]
        size = image.shape[1:]

        def shifted(offset: tuple[int, int, int]) -> Tensor:
            return padded[
                tuple(slice(reach + o * reach, reach + o * reach + n) for o, n in zip(offset, size, strict=True))
            ]

        distances = torch.stack([(shifted(a) - shifted(b)).square_() for a, b in self._pairs])
        distances = box_mean(distances, self.radius)
        distances -= distances.amin(0, keepdim=True)
        variation = distances.mean(0, keepdim=True)
        middle = float(variation.mean())
        # Homogeneous places have next to no variation: a floor keeps noise there from looking like structure.
        variation = variation.clamp(max(middle * 1e-3, 1e-12), max(middle * 1e3, 1e-12))
        return distances.div_(variation).neg_().exp_()

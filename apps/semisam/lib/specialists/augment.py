"""Random changes of a training window: place, shape and intensities, in one resampling.

Resampling blurs, and the scans that a network is asked about later are not blurred: so a share of the windows is cut
out as it is, and only its intensities change. No flips: left and right structures must stay distinguishable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .noise import normal_like


@dataclass(frozen=True)
class Augmentation:
    """How strong the random changes are.

    Args:
        rotation: largest rotation about each axis in radians.
        scale: largest relative change of size, of each axis.
        elastic: deviation in voxels of the control points of a smooth deformation.
        control: control points along each axis.
        contrast: largest relative change of contrast.
        brightness: largest shift, in standard deviations of the intensities.
        noise: largest deviation of added noise.
        bias: largest relative strength of a smooth multiplicative field.
        undeformed: share of the windows that are cut out along whole voxels, without deformation.
    """

    rotation: float = 0.26
    scale: float = 0.15
    elastic: float = 2.0
    control: int = 5
    contrast: float = 0.25
    brightness: float = 0.2
    noise: float = 0.15
    bias: float = 0.2
    undeformed: float = 0.5

    def window(
        self, image: Tensor, maps: Tensor, centre: Sequence[float], size: Sequence[int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Cut a window, deformed or not.

        Args:
            image: ``[C, D, H, W]`` of any floating type; the channels are deformed alike.
            maps: further maps ``[C, D, H, W]`` on the same grid and device (soft labels, weights); deformed alike.
            centre: voxel coordinates of the window's centre in the image.
            size: voxels of the window; parts outside the image repeat its border.
            generator: source of the random numbers (CPU).

        Returns:
            Window of the image, and of the maps, float32 on their device.
        """
        if self.undeformed and float(torch.rand(1, generator=generator)) < self.undeformed:
            plain, alike = (_crop(each, centre, size).float() for each in (image, maps))
            return self._intensities(plain, generator), alike
        coordinates = self._coordinates(centre, size, generator, image.device)
        if image.device.type == "cpu":  # a GPU would have to be waited for
            first, part = _reach(coordinates, image.shape[1:])
            coordinates = coordinates - first
            image, maps = image[part], maps[part]
        extent = torch.tensor(image.shape[1:], dtype=torch.float32, device=image.device).view(3, 1, 1, 1)
        grid = ((coordinates * 2 + 1) / extent - 1).flip(0).permute(1, 2, 3, 0)[None]
        both = torch.cat([image.float(), maps.float()])[None]
        cut = functional.grid_sample(both, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
        inputs = len(image)
        return self._intensities(cut[:inputs], generator), cut[inputs:]

    def _coordinates(
        self, centre: Sequence[float], size: Sequence[int], generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Voxel coordinates in the image, ``[3, *size]``.

        What is drawn is little, and drawn on the CPU: a scan is deformed alike on every device.
        """
        angles = _uniform(3, generator) * self.rotation
        # A window of one slice stays in its plane: it is turned about the other two axes not at all, and not bent.
        flat = torch.tensor([n == 1 for n in size])
        for axis in range(3):
            if any(bool(flat[n]) for n in range(3) if n != axis):
                angles[axis] = 0.0
        matrix = torch.eye(3)
        for axis in range(3):
            a, b = [n for n in range(3) if n != axis]
            turn = torch.eye(3)
            turn[a, a] = turn[b, b] = angles[axis].cos()
            turn[a, b], turn[b, a] = -angles[axis].sin(), angles[axis].sin()
            matrix = matrix @ turn
        matrix = matrix * (1 + _uniform(3, generator) * self.scale)
        axes = [torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in size]
        plain = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        moved = (matrix.to(device) @ plain.reshape(3, -1)).reshape(plain.shape)
        if self.elastic > 0:
            control = torch.randn(1, 3, *[self.control] * 3, generator=generator) * self.elastic
            control[:, flat] = 0.0
            bent = functional.interpolate(control.to(device), size=list(size), mode="trilinear", align_corners=True)
            moved = moved + bent[0]
        return moved + torch.tensor([float(c) for c in centre], device=device).view(3, 1, 1, 1)

    def _intensities(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Change the colours of a picture alike, and each channel of a scan by itself: each was measured by itself."""
        if image.shape[1] == 1:
            return self._changed(image, generator)
        return torch.cat([self._changed(channel[None], generator) for channel in image])

    def _changed(self, image: Tensor, generator: torch.Generator) -> Tensor:
        contrast, brightness, noise = _uniform(3, generator).tolist()
        field = _uniform(64, generator).reshape(1, 1, 4, 4, 4) * self.bias
        field = field.to(image.device)
        smooth = functional.interpolate(field, size=image.shape[1:], mode="trilinear", align_corners=True)[0]
        changed = image * (1 + contrast * self.contrast) * (1 + smooth) + brightness * self.brightness
        result: Tensor = changed + normal_like(image, generator) * (abs(noise) * self.noise)
        return result


def _reach(coordinates: Tensor, extent: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """What is seen of an image ``[C, *extent]`` at coordinates ``[3, ...]``: its first voxel ``[3, 1, 1, 1]``, and all.

    What lies beyond the image is its border, so that is in it, too.
    """
    most = torch.tensor(extent) - 1
    low = coordinates.flatten(1).amin(1).floor().long().clamp_min(0).minimum(most)
    high = coordinates.flatten(1).amax(1).ceil().long().minimum(most).maximum(low)
    part = (slice(None), *(slice(a, b + 1) for a, b in zip(low.tolist(), high.tolist(), strict=True)))
    return low.view(3, 1, 1, 1), part


def _crop(values: Tensor, centre: Sequence[float], size: Sequence[int]) -> Tensor:
    """The whole voxels of ``[C, D, H, W]`` next to a window, ``[C, *size]``; outside, the border is repeated."""
    for axis, (middle, count) in enumerate(zip(centre, size, strict=True), start=1):
        places = round(middle - (count - 1) / 2) + torch.arange(count, device=values.device)
        values = values.index_select(axis, places.clamp(0, values.shape[axis] - 1))
    return values


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    """Values in -1..1."""
    return torch.rand(count, generator=generator) * 2 - 1

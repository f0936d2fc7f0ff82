"""A template laid over a scan by any affine map: turned, scaled and moved, as directions or a search say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lib.core.frames import Frame
from lib.core.geometry import Volume

from .displacement import sample, voxel_grid

_EDGE = 0.5 + 1e-3
"""Voxels beyond the centre of the outermost one up to which a grid reaches."""


@dataclass(frozen=True, eq=False)
class AffinePlacement:
    """Where a template's grid lies on a scan's working grid, by an affine map.

    Args:
        shape: voxels of the template's working grid.
        matrix: ``[3, 4]`` from a place on the scan's grid to one on the template's, both in voxels.
    """

    shape: tuple[int, int, int]
    matrix: np.ndarray

    def place(self, values: Tensor, shape: tuple[int, int, int], fill: float = 0.0) -> Tensor:
        """``[C, *self.shape]`` on the scan's grid ``[C, *shape]``, ``fill`` where the template has nothing."""
        there = sample(values, self._places(shape, values.device))
        covered = self.covered(shape, values.device)
        return there * covered + fill * (1.0 - covered)

    def extended(self, values: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """The same, with the template's border carried on where it has nothing."""
        return sample(values, self._places(shape, values.device))

    def covered(self, shape: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
        """``[1, *shape]`` on a device: 1 where the template has something, else 0."""
        places = self._places(shape, device)
        size = torch.tensor(self.shape, dtype=torch.float32, device=places.device).view(3, 1, 1, 1)
        inside = (places >= -_EDGE) & (places <= size - 1 + _EDGE)
        return inside.all(0, keepdim=True).float()

    def _places(self, shape: tuple[int, int, int], device: torch.device | str) -> Tensor:
        matrix = torch.from_numpy(self.matrix).float().to(device)
        grid = voxel_grid(shape, device)
        return torch.einsum("ab,bdhw->adhw", matrix[:, :3], grid) + matrix[:, 3].view(3, 1, 1, 1)


@dataclass(frozen=True, eq=False)
class Start:
    """Where a template lies on a scan, whatever their grids.

    Args:
        matrix: ``[3, 4]`` from a place in the scan's frame to one in the template's, both in mm from the outer corner
            of the first canonical voxel.
    """

    matrix: np.ndarray

    def placement(self, scan: Frame, template: Frame) -> AffinePlacement:
        """The same between two working grids."""
        step, first = _voxels_to_mm(scan)
        other_step, other_first = _voxels_to_mm(template)
        linear, shift = self.matrix[:, :3], self.matrix[:, 3]
        matrix = np.empty((3, 4))
        matrix[:, :3] = linear * step / other_step[:, None]
        matrix[:, 3] = (linear @ first + shift - other_first) / other_step
        if scan.flat:
            matrix[2] = (0, 0, 1, 0)
        return AffinePlacement(template.shape, matrix)

    def moved(self, by: np.ndarray) -> Start:
        """The same, read ``by`` mm of the scan's frame further along."""
        matrix = self.matrix.copy()
        matrix[:, 3] += matrix[:, :3] @ by
        return Start(matrix)


def middle_of(frame: Frame) -> np.ndarray:
    """The middle of a frame's box in mm from the outer corner of the first canonical voxel."""
    return np.array([(low + high) / 2 * size for (low, high), size in zip(frame.box, frame.voxel, strict=True)])


def directions(scan: Volume, frame: Frame) -> np.ndarray:
    """``[3, 3]``: column n is the direction of a frame's axis n in the patient, of unit length."""
    columns = scan.affine[:3, list(frame.axes)] * np.where(frame.flips, -1.0, 1.0)
    found: np.ndarray = columns / np.linalg.norm(columns, axis=0)
    return found


def place_in_patient(scan: Volume, frame: Frame, at: np.ndarray) -> np.ndarray:
    """Scanner coordinates in mm of a place ``at`` in mm of a scan's frame."""
    index = at / np.array(frame.voxel) - 0.5
    sizes = np.array([scan.shape[axis] for axis in frame.axes])
    index = np.where(frame.flips, sizes - 1 - index, index)
    own = np.empty(3)
    own[list(frame.axes)] = index
    found: np.ndarray = scan.affine[:3, :3] @ own + scan.affine[:3, 3]
    return found


def _voxels_to_mm(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Size of a working voxel in mm, and where the centre of the first one lies."""
    step = np.array(frame.spacing)
    corner = np.array([low * size for (low, _), size in zip(frame.box, frame.voxel, strict=True)])
    return step, corner + 0.5 * step

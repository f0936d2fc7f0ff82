"""What 3D Slicer makes of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def in_viewer(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values ``[D, H, W]`` and RAS affine ``[4, 4]`` of a file as 3D Slicer shows it."""
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).transpose(), LPS @ affine

"""SAM-Med3D, SAM-Med3D-turbo and SegAnyPET: one 3D network with different weights."""

from .adapter import SamMed3d, build, random_state

__all__ = ["SamMed3d", "build", "random_state"]

"""The region of interest of a scan: about where the structures of a template are, found by a quick registration."""

from __future__ import annotations

import numpy as np

from lib.core.geometry import Volume
from lib.generalists.mind import Mind

from .base import SoftLabels, Template
from .fusion import propagate_from
from .registration import RegistrationPropagator

_VOXELS = 130_000


def find_roi(template: Template, scan: Volume, device: str) -> SoftLabels:
    """All structures of the template as one, carried over on a coarse grid over the whole scan.

    Raises:
        UserError: (422) for a 2D image with a template in 3D, and the other way round.
    """
    finder = RegistrationPropagator(voxels=_VOXELS, passes=1, refine=False, device=device)
    one = Template(template.name, template.scan, (template.label > 0).astype(np.uint8))
    return propagate_from([one], scan, 2, generalist=Mind(), propagator=finder)

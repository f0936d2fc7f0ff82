"""What every process of a study needs: its generalist and its propagator, and how large a scan may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib.core.devices import default_device
from lib.formats.limits import set_limit
from lib.generalists import (
    CachedGeneralist,
    FeatureCache,
    Generalist,
    ResidentGeneralist,
    create_generalist,
    find_entry,
)

from . import Propagator, create_propagator


@dataclass(frozen=True)
class Tools:
    """What to read and propagate with, as plain facts. All paths mean the same on every machine.

    Args:
        generalist: its name.
        weights: folder of the generalists' weights.
        features: folder of the features on disk.
        propagator: its name.
        max_voxels: the most voxels of a scan, see ``lib.formats.limits``.
    """

    generalist: str
    weights: Path
    features: Path
    propagator: str
    max_voxels: int | None = None

    def take_over_limits(self) -> None:
        """Let this process, which has no settings of its own, read what the first one reads."""
        set_limit(self.max_voxels)

    def open_generalist(self) -> Generalist:
        """The generalist, on this process's GPU if it has one; its weights are read when they are first needed."""
        cache = FeatureCache(self.features)
        if find_entry(self.generalist).weights is None:
            return CachedGeneralist(create_generalist(self.generalist), cache, own=False)
        resident = ResidentGeneralist(self.generalist, weights=self.weights, device=default_device())
        return CachedGeneralist(resident, cache)

    def open_propagator(self) -> Propagator:
        """The propagator, on this process's GPU if it has one."""
        return create_propagator(self.propagator)

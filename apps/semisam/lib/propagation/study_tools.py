"""What every process of a study needs: its generalists and its propagator, and how large a scan may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib.core.devices import default_device
from lib.formats.channels import set_channels
from lib.formats.limits import set_limit
from lib.generalists import (
    CachedGeneralist,
    FeatureCache,
    Generalist,
    ResidentGeneralist,
    create_generalist,
    find_entry,
)
from lib.generalists.mind import Mind

from . import Propagator, create_propagator


@dataclass(frozen=True)
class Tools:
    """What to read and propagate with, as plain facts. All paths mean the same on every machine.

    Args:
        generalists: their names; the first one gives features, all are prompted.
        weights: folder of the generalists' weights.
        features: folder of the features on disk.
        propagator: its name.
        max_voxels: the most voxels of a scan, see ``lib.formats.limits``.
        channels: names of the scans' channels, see ``lib.formats.channels``.
        by_kind: whether MIND gives the features of images that the first generalist does not describe well
            (``Entry.describes``); else the first generalist gives all.
    """

    generalists: tuple[str, ...]
    weights: Path
    features: Path
    propagator: str
    max_voxels: int | None = None
    by_kind: bool = True
    channels: tuple[str, ...] = ()

    def take_over_limits(self) -> None:
        """Let this process, which has no settings of its own, read what the first one reads."""
        set_limit(self.max_voxels)
        set_channels(self.channels)

    def open_generalist(self) -> Generalist:
        """The first generalist, see ``open_generalists``."""
        return self.open_generalists()[0]

    def open_generalists(self) -> tuple[Generalist, ...]:
        """The generalists, on this process's GPU if it has one; weights are read when they are first needed."""
        return tuple(self._open(name) for name in self.generalists)

    def _open(self, name: str) -> Generalist:
        cache = FeatureCache(self.features)
        if find_entry(name).weights is None:
            return CachedGeneralist(create_generalist(name), cache, own=False)
        model = ResidentGeneralist(name, weights=self.weights, device=default_device())
        instead = self.by_kind and "volume" not in find_entry(name).describes
        return CachedGeneralist(model, cache, for_volumes=self._open(Mind.name) if instead else None)

    def open_propagator(self) -> Propagator:
        """The propagator, on this process's GPU if it has one."""
        return create_propagator(self.propagator)

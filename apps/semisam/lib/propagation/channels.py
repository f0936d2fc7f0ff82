"""Labels of scans with several channels: each channel is matched by itself, and the results are fused."""

from __future__ import annotations

from dataclasses import replace

from lib.core.geometry import Volume

from .base import Template


def pairs(template: Template, scan: Volume) -> list[tuple[Template, Volume]]:
    """A template and a scan, channel by channel; the one pair that they are without further channels.

    A channel in which the two match better, or which is more certain of a voxel, counts more there, see ``fuse``.
    """
    count = min(len(template.scan.further), len(scan.further))
    return [(replace(template, scan=template.scan.channel(n)), scan.channel(n)) for n in range(count + 1)]

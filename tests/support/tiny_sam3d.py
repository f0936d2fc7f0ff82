"""A small SAM-Med3D with random weights."""

from __future__ import annotations

from lib.generalists.sam3d import SamMed3d, random_state
from lib.generalists.sam3d.network import Layout, Sam3d
from lib.generalists.states import load_strictly

TINY = Layout(
    image=32,
    patch=8,
    width=24,
    depth=2,
    heads=2,
    global_blocks=(1,),
    window=6,
    channels=48,
    decoder_heads=4,
    decoder_hidden=32,
    judge=16,
)


def tiny(*, batch: int | None = None, kind: type[SamMed3d] = SamMed3d) -> SamMed3d:
    network = Sam3d(TINY)
    load_strictly(network, "sam_med3d", random_state("sam_med3d", 0, TINY))
    return kind("sam_med3d", network, batch=batch)

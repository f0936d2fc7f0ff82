"""The options of one training, and the budget that each preset stands for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from lib.core.errors import UserError

log = logging.getLogger("semisam.train")

AUTO = "auto"
"""What is best for the recipe."""

NNUNET = "nnunetv2"
"""The network that nnU-Net plans and trains by itself."""

PROMPTS = ("both", "mask", "points")
"""How ``semisam_plus`` may ask the generalists, the default first."""
FUSIONS = ("majority", "unanimous")
"""How many of three views must agree in ``fm_abs``, the default first."""

MOST_ROUNDS = 20
MOST_EPOCHS = 10_000
MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Preset:
    """How much training a name stands for.

    Args:
        rounds: rounds after the propagation.
        epochs: epochs of each training.
        iterations: optimiser steps of an epoch.
        batch: scans in a step; the labelled and the pseudo-labelled stream share it.
        widths: channels of the specialist's levels.
        scan_voxels: most voxels of a scan at the specialist's spacing when the settings leave the spacing open.
        roi_voxels: most voxels of the specialist's window when the settings leave it open.
        networks: networks of a round, each trained from other random weights; their answers are averaged. Recipes that
            do not do that train one for as long as all of them, see ``lib.recipes.choices.budget_of``.
    """

    rounds: int
    epochs: int
    iterations: int
    batch: int
    widths: tuple[int, ...]
    scan_voxels: int
    roi_voxels: int
    networks: int = 1


PRESETS: Mapping[str, Preset] = {
    # 16 channels at full resolution: with 8 a training of a few hundred steps fails for some seeds.
    # The window covers most of a scan, at a coarser spacing if need be, and a round has 400 steps at least: a network
    # that has learned too little blurs what it is taught, and the next round learns from that. From 1000 steps on a
    # further round gives more than longer ones. What was tried: docs/explanation/what-did-not-help.md.
    "quick": Preset(1, 20, 20, 2, (16, 32, 64, 128), 65_000, 68_000),
    "standard": Preset(2, 50, 20, 2, (16, 32, 64, 128), 130_000, 130_000),
    "full": Preset(2, 50, 20, 2, (16, 32, 64, 128), 130_000, 130_000, 3),
}
GPU_FACTOR = 4
"""How many times more voxels a scan and a window have on a GPU: up to half a million, its steps take hardly longer."""


@dataclass(frozen=True)
class RecipeOptions:
    """The options of one training.

    Args:
        recipe: one of ``lib.recipes.RECIPES``.
        preset: one of ``PRESETS``.
        rounds: rounds after the propagation, None for the preset's.
        max_epochs: epochs of each training, None for the preset's.
        seed: the same seed gives the same pseudo-labels on one machine.
        device: ``cpu`` or ``cuda[:n]``.
        network: kind of specialist.
        regulariser: semi-supervised loss.
        prompts: one of ``PROMPTS``.
        fusion: one of ``FUSIONS``.
    """

    recipe: str = "semisam_o1"
    preset: str = "quick"
    rounds: int | None = None
    max_epochs: int | None = None
    seed: int = 0
    device: str = "cpu"
    network: str = AUTO
    regulariser: str = AUTO
    prompts: str = PROMPTS[0]
    fusion: str = FUSIONS[0]

    @property
    def budget(self) -> Preset:
        """The preset as it is on the device, with ``rounds`` and ``max_epochs`` in place."""
        preset = PRESETS[self.preset]
        if self.device != "cpu":
            preset = _for_gpu(preset)
        return replace(preset, rounds=self.rounds or preset.rounds, epochs=self.max_epochs or preset.epochs)


def _for_gpu(preset: Preset) -> Preset:
    """Finer grids; one more level lets the network see as far in mm as it does on the coarser ones."""
    return replace(
        preset,
        widths=(*preset.widths, 2 * preset.widths[-1]),
        scan_voxels=GPU_FACTOR * preset.scan_voxels,
        roi_voxels=GPU_FACTOR * preset.roi_voxels,
    )


def preset_names(device: str) -> list[str]:
    """The presets, the one to choose on this device first: a GPU has time for ``standard``."""
    first = "quick" if device == "cpu" else "standard"
    return sorted(PRESETS, key=lambda name: name != first)


def choose_device(text: str) -> str:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:n`` into a device this machine has.

    Clients send their own default (``cuda``) without asking, so a missing GPU is a warning, not an error.

    Raises:
        UserError: (400) for any other text.
    """
    text = text.strip().lower()
    kind, _, number = text.partition(":")
    numbered = kind == "cuda" and number.isdecimal() and len(number) < 4
    if kind not in ("auto", "cpu", "cuda") or (":" in text and not numbered):
        raise UserError(f"device: {text[:80]!r} is not known. Allowed: auto, cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        if kind == "cuda":
            log.warning("device: %s was asked for, but this machine has no usable GPU: training on the CPU.", text)
        return "cpu"
    if int(number or 0) >= torch.cuda.device_count():
        log.warning("device: there is no %s, using cuda:0.", text)
        return "cuda:0"
    return f"cuda:{int(number or 0)}"

"""What a user may choose for one training, and what the presets mean."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from lib.core.errors import UserError

log = logging.getLogger("semisam.train")

RECIPES = ("semisam_o1", "semisam_plus", "fm_abs", "ssl_medsam2", "sc_sam")
"""Names a request may give as ``recipe``; the first is the default. ``registry.py`` says what they stand for."""

AUTO = "auto"
"""What is best for the recipe."""

NNUNET = "nnunetv2"
"""The network that nnU-Net plans and trains by itself."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "network": (AUTO, "unet3d", "vnet", "dynunet", "unet2d", "sam", NNUNET),
    "regulariser": (AUTO, "mean_teacher", "ua_mt", "dan", "dtc", "ac_mt", "supervised"),
    "prompts": ("both", "mask", "points"),
    "fusion": ("majority", "unanimous"),
}
"""Further choices by option, the default first. Which recipe knows which of them stands in ``registry.py``."""

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
            do not do that train one for as long as all of them, see ``registry.amount_of``.
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
    # The window covers most of a scan, at a coarser spacing if need be, and a round has 400 steps at least. Left
    # atrium, one outlined scan, Dice on unseen scans (propagation 0.818): two rounds of 200 steps with windows of 66 mm
    # end at 0.739, with windows of most of a scan at 0.790; one round of 400 steps with these at 0.843. A network that
    # has learned too little blurs what it is taught, and the next round learns from that. From 1000 steps on a further
    # round gives more than longer ones: pseudo-labels 0.875 after one of 1000, 0.870 of 2000, 0.884 after two of 1000.
    # A third one gave nothing (0.883; hippocampus 0.803, 0.812, 0.815), nor did a grid of 1.2 mm for one of 1.6 (both
    # 0.875 after a round). Three networks of a round together: 0.879 for 0.877 (14 scans), after both rounds no more
    # (0.884); what seeds do is evened out.
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
        recipe: one of ``RECIPES``.
        preset: one of ``PRESETS``.
        rounds: rounds after the propagation, None for the preset's.
        max_epochs: epochs of each training, None for the preset's.
        seed: the same seed gives the same pseudo-labels on one machine.
        device: ``cpu`` or ``cuda[:n]``.
        network: kind of specialist.
        regulariser: semi-supervised loss.
        prompts: how ``semisam_plus`` asks the generalists.
        fusion: how many of three views must agree in ``fm_abs``.
    """

    recipe: str = RECIPES[0]
    preset: str = "quick"
    rounds: int | None = None
    max_epochs: int | None = None
    seed: int = 0
    device: str = "cpu"
    network: str = AUTO
    regulariser: str = AUTO
    prompts: str = CHOICES["prompts"][0]
    fusion: str = CHOICES["fusion"][0]

    @classmethod
    def parse(cls, request: Mapping[str, object]) -> RecipeOptions:
        """Read the options of a training request; keys that are none of ours are left to others.

        Whole numbers may come as int, float or text; 0, "" and None mean the preset's default. Clients send a list
        where the server offered a choice and nothing was chosen: its first entry counts.

        Raises:
            UserError: (400) when a value is not allowed; the text says what is.
        """
        device = choose_device(_text(request, "device") or "auto")
        return cls(
            recipe=_choice(request, "recipe", RECIPES, RECIPES[0]),
            preset=_choice(request, "preset", tuple(PRESETS), preset_names(device)[0]),
            rounds=_whole(request, "rounds", MOST_ROUNDS) or None,
            max_epochs=_whole(request, "max_epochs", MOST_EPOCHS) or None,
            seed=_whole(request, "seed", MOST_SEED),
            device=device,
            **{name: _choice(request, name, allowed, allowed[0]) for name, allowed in CHOICES.items()},
        )

    @property
    def amount(self) -> Preset:
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


def _text(request: Mapping[str, object], key: str) -> str:
    value = request.get(key)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return "" if value is None else str(value).strip()


def _choice(request: Mapping[str, object], key: str, allowed: tuple[str, ...], default: str) -> str:
    text = _text(request, key) or default
    if text not in allowed:
        raise UserError(f"{key}: {text!r} is not known. Allowed: {', '.join(allowed)}.")
    return text


def _whole(request: Mapping[str, object], key: str, most: int) -> int:
    text = _text(request, key)
    if not text:
        return 0
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if isinstance(request.get(key), bool) or not number.is_integer() or not 0 <= number <= most:
        raise UserError(f"{key}: {text!r} is not allowed. Give a whole number from 0 to {most} (0 = the default).")
    return int(number)

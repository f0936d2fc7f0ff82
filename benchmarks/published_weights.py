"""Published weights of foundation models for benchmarks: where they lie, or a message that they are not there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import common  # noqa: F401, as it puts the app on the path

if TYPE_CHECKING:
    from torch import Tensor

    from lib.generalists import Generalist


def folder() -> Path:
    """``SEMISAM_WEIGHTS_CACHE``, or the folder in the user's cache that tests use, too."""
    default = Path.home() / ".cache" / "semisam" / "weights"
    return Path(os.environ.get("SEMISAM_WEIGHTS_CACHE") or default).absolute()


def need(name: str) -> None:
    """End the program with a message (exit code 0) when the weights of ``name`` are not there."""
    from lib.core.errors import UserError
    from lib.generalists.registry import check_generalist

    try:
        check_generalist(name, folder())
    except UserError as error:
        print(f"Skipped: {error}")
        raise SystemExit(0) from error


def generalist(name: str) -> Generalist:
    """The foundation model with its published weights, or one that needs none."""
    from lib.generalists import create_generalist

    need(name)
    return create_generalist(name, weights=folder())


def state_of(name: str) -> Mapping[str, Tensor]:
    """The published state dict of a foundation model."""
    from lib.generalists import find_entry
    from lib.generalists.weights.state_dicts import load_weights

    need(name)
    return load_weights(find_entry(name), folder())

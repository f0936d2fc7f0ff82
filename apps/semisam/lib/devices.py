"""Where to compute."""

from __future__ import annotations

import torch


def default_device() -> str:
    """``cuda`` where there is a GPU, else ``cpu``.

    Without a number it is the process's current GPU: processes that share a run have one each, see ``distributed``.
    """
    return "cuda" if torch.cuda.is_available() else "cpu"

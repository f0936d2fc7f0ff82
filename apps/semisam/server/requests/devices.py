"""Devices to offer in a viewer's list."""

from __future__ import annotations

import torch


def device_choices() -> list[str]:
    """Names for an option; the first one is the default."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cuda", *(f"cuda:{n}" for n in range(count)), "cpu"] if count else ["cpu"]

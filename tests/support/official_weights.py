"""Files of weights as the authors of a model write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lib.generalists.entries import Layout


def write_official(state: Mapping[str, Tensor], file: Path, layout: Layout = "flat") -> None:
    """Write ``state`` to ``file``, where an official file of this layout has it; makes the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as opened:  # given a path, torch would write its name into the file
        torch.save(dict(state) if layout == "flat" else {layout: dict(state)}, opened)

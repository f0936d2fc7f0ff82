"""Reference arrays of the published networks, and the rule their weights were made by."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor


def parity_folder(file: str) -> Path:
    """The folder of ``file``: ``SEMISAM_PARITY`` or ``../shared/reference/parity``; skips when it is not there."""
    default = Path(__file__).resolve().parents[3] / "shared" / "reference" / "parity"
    folder = Path(os.environ.get("SEMISAM_PARITY") or default)
    if not (folder / file).is_file():
        pytest.skip(f"the reference arrays are not there ({folder}); set SEMISAM_PARITY to the folder of {file}")
    return folder


def by_rule(key: str, shape: list[int]) -> Tensor:
    """The weights that a published network had when its arrays were made."""
    if not shape:
        return torch.zeros((), dtype=torch.long)
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    if key.endswith("running_var"):
        noise = 1 + np.float32(0.1) * np.abs(noise)
    elif len(shape) > 1:
        noise /= np.float32(np.sqrt(np.prod(shape[1:])))
    elif key.endswith("weight"):
        noise = 1 + np.float32(0.1) * noise
    else:
        noise *= np.float32(0.02)
    if key == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
        noise += 10
    return torch.from_numpy(noise)

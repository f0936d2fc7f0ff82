"""SAM 2's tables of rotations, on the device where its network is.

- Package: sam2 1.1.0, ``sam2/modeling/sam/transformer.py``, ``RoPEAttention``.
- Wrong: ``freqs_cis`` is no buffer. It is put on a GPU as soon as there is one, wherever the network is to be, and
  ``Module.to`` leaves it there, so that it moves with the first answer.
- Done: it is moved with the network.
- Source: https://github.com/facebookresearch/sam2/blob/main/sam2/modeling/sam/transformer.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def move_tables(network: nn.Module, device: torch.device) -> None:
    """Put the tables of a network on ``device``."""
    for module in network.modules():
        if isinstance(getattr(module, "freqs_cis", None), Tensor):
            module.freqs_cis = module.freqs_cis.to(device)

"""MONAI's DynUNet up to its head.

- Package: MONAI 1.6.1, ``monai/networks/nets/dynunet.py``, ``DynUNet``.
- Lacks: the features before the head, which several recipes train on; ``forward`` gives the head's answer only. And
  ``skip_layers`` holds every other part once more, nested, so that each weight stands in the state twice.
- Done: ``skip_layers`` is deleted, and the levels are called one after the other as it would.
- Source: https://github.com/Project-MONAI/MONAI/blob/1.6.1/monai/networks/nets/dynunet.py
"""

from __future__ import annotations

from monai.networks.nets import DynUNet
from torch import Tensor


def drop_nested_copy(network: DynUNet) -> None:
    """Let each weight stand in the state once. Afterwards the network's own ``forward`` fails."""
    del network.skip_layers


def features_of(network: DynUNet, image: Tensor) -> Tensor:
    """What the head is given.

    Args:
        network: with or without its nested copy.
        image: ``[B, C, D, H, W]``; the strides divide its sizes.

    Returns:
        ``[B, filters, D, H, W]``.
    """
    values, skips = image, []
    for level in (network.input_block, *network.downsamples):
        values = level(values)
        skips.append(values)
    values = network.bottleneck(values)
    for level in network.upsamples:
        values = level(values, skips.pop())
    result: Tensor = values
    return result

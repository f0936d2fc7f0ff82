"""State dicts: official ones put into a network without any tolerance, and random ones for tests."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lib.core.errors import UserError


def load_strictly(network: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
    """Give a network, which may be on the meta device, its weights as float32, and freeze it.

    None may be missing or too many. The tensors may be shared afterwards.

    Raises:
        UserError: (422) when names or shapes differ.
    """
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) if isinstance(value, Tensor) else None for key, value in state.items()}
    wrong = [
        *(f"{key} is missing" for key in wanted if key not in given),
        *(f"{key} is not part of it" for key in given if key not in wanted),
        *(f"{k} is {given[k]}, not {wanted[k]}" for k in wanted if k in given and given[k] != wanted[k]),
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"The weights file does not fit {name}: {'; '.join(wrong[:3])}{more}. Import the official file of {name}.",
            status=422,
        )
    network.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    network.requires_grad_(False)


def random_like(shapes: Mapping[str, torch.Size], name: str, seed: int) -> dict[str, Tensor]:
    """Random weights of a size that keeps activations in range.

    Args:
        shapes: of the state dict.
        name: of the model; its letters are part of the seed, so that two models differ.
        seed: same seed, same weights.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    state = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            state[key] = noise.div_(shape[1:].numel() ** 0.5)
        elif key.endswith("weight"):
            state[key] = noise.mul_(0.1).add_(1)
        else:
            state[key] = noise.mul_(0.02)
    return state

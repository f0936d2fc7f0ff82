"""Half precision where the device is good at it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import Tensor, nn


class MixedPrecision:
    """Runs networks in half precision, and keeps their gradients from vanishing.

    On a GPU always; on a CPU where it multiplies bfloat16 by itself (trainings and predictions then take about two
    thirds of the time), elsewhere it does nothing.

    Args:
        device: ``cpu`` or ``cuda[:n]``.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._kind = torch.device(device).type
        cuda = self._kind == "cuda"
        # Older GPUs only imitate bfloat16, which is slow; they multiply float16.
        brain = gpu_multiplies_bfloat16(device) if cuda else cpu_multiplies_bfloat16()
        self._type = torch.bfloat16 if brain else torch.float16
        self._on = cuda or brain
        # bfloat16 has the range of float32, its gradients need no scaling.
        self._scaler = torch.amp.GradScaler(self._kind, enabled=cuda and not brain)

    def __call__(self) -> AbstractContextManager[object]:
        """The context for everything that runs a network."""
        return torch.autocast(self._kind, dtype=self._type, enabled=self._on)

    def state(self) -> dict[str, object]:
        """What ``restore`` needs: how gradients are scaled."""
        return dict(self._scaler.state_dict())

    def restore(self, state: dict[str, object]) -> None:
        """Go on where ``state`` was taken."""
        if state:  # none where nothing is scaled
            self._scaler.load_state_dict(state)

    def step(self, loss: Tensor, optimiser: torch.optim.Optimizer, clip: float) -> None:
        """Go down the gradient of ``loss`` once, its norm clipped at ``clip``."""
        self.backward(loss)
        self.descend(optimiser, clip)

    def backward(self, loss: Tensor) -> None:
        """The first half of ``step``: work the gradient out."""
        self._scaler.scale(loss).backward()

    def descend(self, optimiser: torch.optim.Optimizer, clip: float) -> None:
        """The second half of ``step``."""
        self._scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], clip)
        self._scaler.step(optimiser)
        self._scaler.update()


def repeatable_convolutions() -> AbstractContextManager[object]:
    """The context in which a GPU's convolutions give the same bits each time, there and back."""
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True)
    return cast("AbstractContextManager[object]", flags)


def gpu_multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether this GPU multiplies bfloat16 by itself; those of one machine may differ."""
    with torch.cuda.device(device):
        result: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return result


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; without them it only gets slower."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))

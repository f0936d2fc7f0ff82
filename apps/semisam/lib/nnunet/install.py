"""Whether nnU-Net is there, and the random numbers it draws."""

from __future__ import annotations

import contextlib
import importlib.util
import random
from collections.abc import Iterator

import numpy as np

from lib.core.devices import torch_seeded
from lib.core.errors import UserError


class MissingPackageError(UserError):
    """nnU-Net is asked for and not installed."""


def need_nnunet() -> None:
    """Raise MissingPackageError (409) unless nnU-Net v2 is installed; the text says how to install it."""
    if importlib.util.find_spec("nnunetv2") is None:
        raise MissingPackageError(
            "The network 'nnunetv2' needs nnU-Net v2, which is not installed on the server. In the folder of the app's "
            "project run: .venv/bin/pip install -r requirements-nnunet.txt - then start the server again.",
            status=409,
        )


@contextlib.contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Random numbers of Python, numpy and torch from ``seed``; afterwards they go on as if nothing had been drawn.

    Args:
        seed: any whole number.
        device: where torch will draw some.
    """
    states = random.getstate(), np.random.get_state()
    with torch_seeded(seed, device):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])

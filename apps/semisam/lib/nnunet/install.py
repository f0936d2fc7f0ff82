"""Whether nnU-Net is there, and the environment it works in."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lib.core.devices import torch_seeded
from lib.core.errors import UserError

PATHS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
"""Variables that nnU-Net reads its folders from, and what they are called here."""


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
def nnunet_environment(folder: Path | None = None, workers: int = 1) -> Iterator[None]:
    """Everything that touches nnU-Net, its import too, happens in here; nothing of it stays in the process.

    nnU-Net takes its folders and numbers of processes from environment variables. Its messages go to ``nnunet.log`` in
    the folder, or nowhere without one. No network is compiled: that takes minutes and needs a C compiler.

    Args:
        folder: where its data lie, None for predictions.
        workers: processes that feed a training; 0 for none.
    """
    values = {
        "nnUNet_compile": "f",
        "nnUNet_n_proc_DA": str(workers),
        "nnUNet_def_n_proc": str(torch.get_num_threads()),
        "nnUNet_wandb_enabled": "0",
        **({} if folder is None else {key: str(folder / name) for key, name in PATHS.items()}),
    }
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        with contextlib.ExitStack() as stack:
            name = os.devnull if folder is None else str(folder / "nnunet.log")
            log = stack.enter_context(open(name, "a", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(log))
            yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


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

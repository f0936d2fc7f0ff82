"""nnU-Net's settings, which it takes from the environment of the process.

- Package: nnU-Net 2.8.1 (``nnunetv2``), ``nnunetv2/paths.py``, ``nnunetv2/configuration.py`` and others.
- Lacks: arguments for its folders, its numbers of processes, and whether networks are compiled, which takes minutes and
  needs a C compiler. It prints its messages.
- Done: the variables are set while nnU-Net works, and put back; its messages go to a file.
- Source: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/setting_up_paths.md
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

PATHS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
"""Variables that nnU-Net reads its folders from, and what they are called here."""


@contextlib.contextmanager
def nnunet_environment(folder: Path | None = None, workers: int = 1) -> Iterator[None]:
    """Everything that touches nnU-Net, its import too, happens in here; nothing of it stays in the process.

    Its messages go to ``nnunet.log`` in the folder, or nowhere without one.

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

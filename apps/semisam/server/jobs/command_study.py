"""Which study a command line of ``main.py`` works on, told to MONAI Label before it is imported."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from lib.core.errors import UserError

APP = Path(__file__).resolve().parents[2]


def choose_study(chosen: argparse.Namespace) -> None:
    """Set what MONAI Label reads when it is first imported, so nothing that imports it may come before this.

    Args:
        chosen: ``studies`` (folder or address, None takes MONAI Label's own variable) and ``conf`` of the command line.

    Raises:
        UserError: when no study is named, (404) when there is no such folder.
    """
    studies = chosen.studies or os.environ.get("MONAI_LABEL_STUDIES", "")
    if not studies:
        raise UserError("Say which study: --studies DIR")
    if not studies.startswith(("http://", "https://")):
        if not Path(studies).is_dir():
            raise UserError(f"There is no folder {studies}.", status=404)
        studies = str(Path(studies).resolve())
    os.environ["MONAI_LABEL_APP_DIR"] = str(APP)
    os.environ["MONAI_LABEL_STUDIES"] = studies
    os.environ["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
    if chosen.conf:
        os.environ["MONAI_LABEL_APP_CONF"] = json.dumps(dict(chosen.conf))

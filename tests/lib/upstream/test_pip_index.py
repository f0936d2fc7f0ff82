"""pip does not say which index it asks when nobody has named one."""

from __future__ import annotations

import os
import subprocess
import sys

from lib.upstream.pip_index import index_of_pip


def test_pip_has_an_index_of_its_own() -> None:
    assert str(index_of_pip()).startswith("https://")


def test_its_settings_do_not_name_it() -> None:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    words = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(
        words, env={**plain, "PIP_CONFIG_FILE": os.devnull}, capture_output=True, text=True, check=True
    ).stdout
    assert "index" not in said

"""Programs that the tests in this folder need from the system."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def not_installed(what: str) -> NoReturn:
    """Skip the test, or let it fail where all programs have to be there (``make test-clients``)."""
    text = f"{what} is not installed: run tests/clients/setup.sh"
    if os.environ.get("SEMISAM_CLIENTS"):
        pytest.fail(text)
    pytest.skip(text)

"""MONAI Label logs what it is asked, passwords included."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from monailabel.config import settings

from server.upstream import log_secrets


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a logger of MONAI Label's writes."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("monailabel.interfaces.app")
    before = {each: each.formatter for name in (None, *logging.root.manager.loggerDict)
              for each in logging.getLogger(name).handlers}  # fmt: skip
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)
    for each, formatter in before.items():
        each.setFormatter(formatter)


def test_secrets_stand_in_logs_without_us(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "horse battery")
    logger = logging.getLogger("monailabel.interfaces.app")
    logger.warning("Using DICOM WEB: horse battery")
    log_secrets.install()
    log_secrets.install()  # the app is loaded again
    logger.warning("Using DICOM WEB: horse battery, http://me:secret@host/x")
    plain, blackened = log.getvalue().splitlines()
    assert "horse battery" in plain
    assert blackened == "Using DICOM WEB: ****, http://****@host/x"


def test_monai_label_still_has_these_settings() -> None:
    assert [name for name in log_secrets._NAMES if not hasattr(settings, name)] == []

"""Fixtures: one Orthanc for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orthanc import Orthanc


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An empty Orthanc."""
    server = Orthanc(tmp_path_factory.mktemp("orthanc") / "orthanc")
    yield server.start()
    server.stop()

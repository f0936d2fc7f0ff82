"""Fixtures: a tiny study, and a real server on a free port that works on copies of everything."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from server_process import Server

SLOW, SERVER = 30, 300
"""About how many quick tests take as long as a slow one, and as the start of a server and what it is asked."""

for _name in ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(_name, None)  # under `make test`, a make that a test calls would take itself for a part of it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a server, and begin with the files that take longest.

    A file stays on one worker; if a long one came last, all others would wait for it.
    """
    weights: Counter[Path] = Counter()
    for item in items:
        if "serve" in getattr(item, "fixturenames", ()):
            item.add_marker("server")
        weights[item.path] += SLOW if item.get_closest_marker("slow") else 1
        if item.get_closest_marker("server"):
            weights[item.path] += 1
    starts = {item.path for item in items if item.get_closest_marker("server")}
    items.sort(key=lambda item: -(weights[item.path] + SERVER * (item.path in starts)))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small arrays are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Each test sees the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Make servers that are stopped after the module's last test.

    Scoring starts by itself only where a test is about it (``SCORES_BY_ITSELF``): elsewhere it would take the cores.
    """
    servers: list[Server] = []

    def make(study: Path, env: dict[str, str] | None = None, **conf: str) -> Server:
        env = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false", **(env or {})}
        server = Server(tmp_path_factory.mktemp("server"), study, conf, env)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()

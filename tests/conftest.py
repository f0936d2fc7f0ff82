"""Fixtures: a tiny study, and a real server on a free port that works on copies of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from server_process import Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for a server is marked ``server``, so that ``make test-fast`` never starts one."""
    for item in items:
        if "serve" in getattr(item, "fixturenames", ()):
            item.add_marker("server")


@pytest.fixture
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
    """Make servers that are stopped after the module's last test."""
    servers: list[Server] = []

    def make(study: Path, env: dict[str, str] | None = None, **conf: str) -> Server:
        server = Server(tmp_path_factory.mktemp("server"), study, conf, env)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()

"""Several processes of one run, on this machine."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from lib.parallel.ranks import Ranks, start, was_launched

SECONDS = 120


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def torchrun(rank: int, world: int, port: int) -> dict[str, object]:
    """What it tells a process."""
    return {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def by(
    world: int, work: Callable[[Ranks], Any], launcher: Callable[[int, int, int], dict[str, object]] = torchrun
) -> list[Any]:
    """Call a function in ``world`` processes that are joined as a launcher does it.

    Returns:
        By rank what it gave, the exception it raised, or the negative signal that has killed it.
    """
    port = next(port for port in range(15001 + os.getpid() % 9000, 25000) if free(port))
    context = multiprocessing.get_context("fork")  # a fresh Python would spend its time importing

    def one(rank: int, answers: Any) -> None:
        torch.set_num_threads(1)
        # These have been forked: where tests before these have used a GPU, they cannot.
        torch.cuda.is_available, torch.cuda.device_count = lambda: False, lambda: 0
        names = launcher(rank, world, port)
        os.environ.update({name: str(value) for name, value in names.items()}, GLOO_SOCKET_IFNAME="lo")
        assert was_launched()
        try:
            start("cpu")
            answers.send(work(Ranks.current()))
        except Exception as error:
            answers.send(error)
        os._exit(0)

    started = []
    for rank in range(world):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=one, args=(rank, theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
    found = []
    for process, ours in started:
        assert ours.poll(SECONDS), "a process hangs"
        try:
            found.append(ours.recv())
        except EOFError:
            process.join(SECONDS)
            found.append(process.exitcode)
        process.join(SECONDS)
    return found

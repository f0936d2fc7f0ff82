"""A server started by hand beside one started by ``make serve``: seconds of a propagation, idle and beside a training.

Both serve copies of the same hippocampus scans. The one is started by the command of the README without make, with no
variable in its environment, the other with those of the Makefile. Each scan is asked of both in turn, so that both meet
the same load of the machine; the training runs in the second one. What counts is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

import common
from common import DataSet, heading, table
from startserver import Server

SCANS = 8
LABELS = "anterior,posterior"
MOST_RATIO = 1.3
BY_HAND, MAKE = "by-hand", "make-serve"
MAKE_SERVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""What the Makefile sets for the sake of speed."""
Took = tuple[float, float]
"""Seconds by the clock, and of processors."""
_OURS = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ITK_", "MONAI_LABEL_")
_TRAINING = {"preset": "quick", "rounds": 8, "max_epochs": 2000}


class PlainServer(Server):
    """A server with nothing in its environment but what is given.

    Args:
        folder: for its copy of the app, its study and its log.
        app: the app.
        variables: of the environment.
    """

    def __init__(self, folder: Path, app: Path, variables: Mapping[str, str]) -> None:
        self._poll = 1.0
        self.app = folder / "app"
        shutil.copytree(app, self.app, ignore=shutil.ignore_patterns("model", "logs", "bin", "__pycache__"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = (folder / "log.txt").open("ab")
        command = [str(Path(sys.executable).with_name("monailabel")), "start_server", "--app", str(self.app)]
        command += ["--studies", str(folder / "study"), "--host", "127.0.0.1", "--port", str(port)]
        tools = str(Path(sys.executable).parent)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
        environment |= {"PATH": tools + os.pathsep + os.environ.get("PATH", ""), **variables}
        self._process = subprocess.Popen(
            [*command, "--conf", "labels", LABELS],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def propagate(self, image: str) -> tuple[float, float]:
        """Seconds that a viewer waits for a label, and seconds of processors that the server takes for it."""
        process = psutil.Process(self._process.pid)
        before, begun = process.cpu_times(), time.perf_counter()
        self.ask_label("propagate", image, {})
        took, after = time.perf_counter() - begun, process.cpu_times()
        return took, after.user + after.system - before.user - before.system


def make_study(folder: Path, data: DataSet) -> list[str]:
    """Copies of some scans, the first of them outlined; returns the names of the others."""
    names = data.split()["train"][: SCANS + 1]
    (folder / "labels" / "final").mkdir(parents=True)
    for name in names:
        shutil.copy(data.image(name), folder)
    shutil.copy(data.label(names[0]), folder / "labels" / "final")
    return names[1:]


def ask_in_turn(servers: Mapping[str, PlainServer], names: Sequence[str], rounds: int) -> dict[str, list[Took]]:
    """Ask every server for every scan, ``rounds`` times, changing the first one each time."""
    found: dict[str, list[Took]] = {name: [] for name in servers}
    order = list(servers)
    for _ in range(rounds):
        for image in names:
            order.reverse()
            for name in order:
                found[name].append(servers[name].propagate(image))
    return found


def wait_for_training(server: PlainServer) -> None:
    """Wait until networks are trained."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        stats: dict[str, Any] = server.get("/info/").get("trainers", {}).get("semisam", {}).get("stats", {})
        try:
            status = server.get("/train/")
        except (SystemExit, urllib.error.URLError):
            status = {}
        stage = str(stats.get("stage") or "")
        if stage == "training" or any("training" in str(line) for line in status.get("details") or []):
            return
        if status.get("status") in ("ERROR", "DONE"):
            raise SystemExit(f"The training ended: {list(status['details'])[-1]}")
        time.sleep(1)
    raise SystemExit("The training does not begin.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each scan is asked for (default: 3)")
    parser.add_argument("--app", type=Path, default=common.APP, help="the app of the server started by hand")
    chosen = parser.parse_args()
    data = common.open_dataset("hippocampus", LABELS.split(","))
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        kinds = {BY_HAND: (chosen.app, {}), MAKE: (common.APP, MAKE_SERVE)}
        for name in kinds:
            scans = make_study(base / name / "study", data)
        servers = {name: PlainServer(base / name, app, env) for name, (app, env) in kinds.items()}
        try:
            for server in servers.values():
                server._wait()
            ask_in_turn(servers, scans[:1], 1)  # what is loaded once
            idle = ask_in_turn(servers, scans, 1)
            servers[MAKE].post("/train/semisam", _TRAINING)
            wait_for_training(servers[MAKE])
            busy = ask_in_turn(servers, scans, chosen.rounds)
            still = servers[MAKE].get("/train/")["status"]
        finally:
            for server in servers.values():
                server.stop()
    _show(idle, busy, still)


def _show(idle: Mapping[str, Sequence[Took]], busy: Mapping[str, Sequence[Took]], still: str) -> None:
    def median(of: Sequence[Took], number: int) -> float:
        return statistics.median(each[number] for each in of)

    rows = [[name, *(f"{median(of[name], number):.2f}" for of in (idle, busy) for number in (0, 1))] for name in idle]
    heading("A propagation, median of seconds")
    print(table(["server", "idle", "idle, of processors", "while training", "while training, of processors"], rows))
    ratio = median(busy[BY_HAND], 0) / median(busy[MAKE], 0)
    verdict = "as it should be" if ratio <= MOST_RATIO else "too slow"
    print(f"\nBeside a running training ({still}): {ratio:.2f} times make serve, at most {MOST_RATIO}: {verdict}.")
    if ratio > MOST_RATIO or still != "RUNNING":
        raise SystemExit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()

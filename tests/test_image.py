"""The container image, as it is started: read-only, killed, stopped in the middle of a training. `make test-image`.

It was made by `make image`. Needs podman or docker; SEMISAM_ENGINE_ARGS go to each `run`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]

IMAGE = os.environ.get("SEMISAM_IMAGE", "localhost/semisam:latest")
READY_SECONDS = 60
STUDY = "/var/lib/semisam/study/demo"
LABELS = "liver,spleen,left_kidney,right_kidney,aorta"
TRAINING: dict[str, Any] = {"model": "semisam", "preset": "quick", "rounds": 2, "max_epochs": 2, "seed": 3}


class Container:
    """A container that is killed and started again; its volumes stay."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.name = f"semisam-test-{uuid.uuid4().hex[:8]}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"

    def call(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.engine, *words], capture_output=True, text=True, timeout=900, check=check)

    def run(self, *words: str, more: tuple[str, ...] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a container as compose.yaml does."""
        volumes = [f"--volume={self.name}-{each}:/var/lib/semisam/{each}" for each in ("study", "models", "cache")]
        hard = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--init", *volumes]
        given = shlex.split(os.environ.get("SEMISAM_ENGINE_ARGS", ""))
        return self.call("run", *hard, *given, *more, IMAGE, *words, check=check)

    def start(self) -> float:
        """Start the server; seconds until it is ready."""
        self.call("rm", "--force", self.name, check=False)
        port = self.url.rpartition(":")[2]
        words = ["serve", "--studies", STUDY, "--host", "0.0.0.0", "--port", "8000", "--conf", "labels", LABELS]
        small = ["--conf", "spacing", "4.5", "--conf", "roi_size", "32,16,16"]
        began = time.monotonic()
        self.run(*words, *small, more=("--detach", "--name", self.name, f"--publish=127.0.0.1:{port}:8000"))
        while time.monotonic() - began < 4 * READY_SECONDS:
            try:
                if requests.get(f"{self.url}/semisam/health", timeout=10).ok:
                    return time.monotonic() - began
            except requests.RequestException:
                time.sleep(0.3)
        raise AssertionError(self.call("logs", self.name, check=False))

    def get(self, path: str) -> Any:
        return requests.get(self.url + path, timeout=600).json()

    def objects(self) -> dict[str, list[str]]:
        """Tags of the labels of each scan."""
        found = self.get("/datastore/?output=all")["objects"]
        return {name: sorted(each["labels"]) for name, each in found.items()}

    def message(self) -> str:
        """What the training has said last."""
        return str(self.get("/info/")["train_stats"]["semisam"].get("message", ""))

    def train(self) -> None:
        reply = requests.post(f"{self.url}/train/semisam", json=TRAINING, timeout=60)
        assert reply.ok, reply.text

    def wait_for(self, what: str = "", seconds: float = 1500) -> None:
        """Wait for words in what the training says, or for its end."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            job = self.get("/train/")
            if (what and what in "\n".join(job["details"])) or job["status"] not in ("SUBMITTED", "RUNNING"):
                return
            time.sleep(0.5)
        raise AssertionError(f"{what!r} was not said")


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    engine = next((each for each in ("podman", "docker") if shutil.which(each)), None)
    if engine is None:
        pytest.skip("podman or docker is not installed")
    made = Container(engine)
    made.run("demo", STUDY, "--scans", "4", more=("--rm",))
    yield made
    made.call("rm", "--force", made.name, check=False)
    made.call("volume", "rm", "--force", *(f"{made.name}-{each}" for each in ("study", "models", "cache")), check=False)


def test_nothing_but_the_volumes_can_be_written_and_nobody_is_root(container: Container) -> None:
    places = "/x /opt/semisam/x /etc/x /var/lib/semisam/x"
    script = f"id -u; for p in {places}; do touch $p && echo written $p; done; touch $HOME/x && echo home"
    told = container.run("-c", script, more=("--rm", "--entrypoint=sh"))
    print(told.stderr)
    assert told.stdout.split("\n")[:2] == ["10001", "home"]


def test_it_is_ready_within_a_minute_and_a_label_is_carried_over(container: Container) -> None:
    seconds = container.start()
    print(f"ready after {seconds:.1f} s")
    assert seconds < READY_SECONDS
    assert requests.head(f"{container.url}/semisam/health/live", timeout=10).status_code == 200
    options = {"params": json.dumps({"save_label": True})}
    reply = requests.post(f"{container.url}/infer/propagate?image=demo_02&output=json", data=options, timeout=600)
    assert reply.status_code == 200
    assert set(reply.json()["label_names"]) == set(LABELS.split(","))
    assert container.call("exec", container.name, "sh", "-c", "touch /x", check=False).returncode != 0


def test_killed_and_started_again_nothing_is_lost(container: Container) -> None:
    before = container.objects()
    assert (before["demo_01"], before["demo_02"]) == (["final"], ["original"])
    container.call("kill", "--signal", "KILL", container.name)
    print(f"ready again after {container.start():.1f} s")
    assert container.objects() == before


def test_stopped_in_a_training_it_ends_at_once_and_the_training_goes_on_later(container: Container) -> None:
    container.train()
    container.wait_for("Round 1")
    assert container.get("/train/")["status"] == "RUNNING"
    began = time.monotonic()
    container.call("stop", "--time", "60", container.name)
    print(f"stopped after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 30
    container.start()
    print(container.message())
    container.train()
    container.wait_for()
    print(container.message())
    assert "continued after round" in container.message()
    assert container.objects()["demo_01"] == ["final"]

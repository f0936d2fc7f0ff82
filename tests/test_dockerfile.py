"""How the image is made: the step that installs, run with a Python that writes down how it is called; `make image`."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tiny_study import ROOT

CPU_BUILDS = "https://download.pytorch.org/whl/cpu"


@pytest.mark.parametrize(
    ("variant", "index", "builds_for_cpu"), [("cpu", CPU_BUILDS, True), ("cpu", "", False), ("cuda", CPU_BUILDS, False)]
)
def test_the_variant_decides_where_torch_comes_from(
    variant: str, index: str, builds_for_cpu: bool, tmp_path: Path
) -> None:
    """The step is run, with a Python that writes down how it is called."""
    status, calls = _install_step(tmp_path, VARIANT=variant, TORCH_INDEX_URL=index)
    assert status == 0
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    torch, vision = (next(line for line in lines if line.startswith(f"{name}==")) for name in ("torch", "torchvision"))
    of_cpu = [call for call in calls if CPU_BUILDS in call]
    assert [f"--no-deps --index-url {CPU_BUILDS} {torch} {vision}" in call for call in of_cpu] == [
        True
    ] * builds_for_cpu
    assert calls[0] == "-m venv /opt/semisam"
    assert calls[-1].endswith("-r /opt/requirements.txt")
    assert [call.split()[-1].partition("==")[0] for call in calls if "--no-build-isolation" in call] == ["sam2"]


def test_a_variant_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    status, calls = _install_step(tmp_path, VARIANT="gpu", TORCH_INDEX_URL="")
    assert (status, calls) == (1, [])


def _install_step(folder: Path, **arguments: str) -> tuple[int, list[str]]:
    step = next(each for each in _steps() if "VARIANT" in each)
    for name in ("python", "python3"):
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n')
        (folder / name).chmod(0o755)
    step = step.replace('" /opt/requirements.txt;', f'" {shlex.quote(str(ROOT))}/requirements.txt;')
    environment = {"PATH": f"{folder}:/usr/bin:/bin", **arguments}
    done = subprocess.run(["sh", "-c", step], env=environment, capture_output=True, timeout=60, check=False)
    calls = folder / "calls"
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


def _steps() -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(r"^RUN (.*)$", text, re.MULTILINE)


@pytest.mark.parametrize(("builder", "more"), [("docker", False), ("podman", True), ("buildah", True)])
def test_make_builds_with_what_is_there(builder: str, more: bool) -> None:
    words = ["make", "-n", "image", f"BUILDER={builder}", "VARIANT=cuda", "PIP_INDEX_URL=https://mirror.example/simple"]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    command = " ".join(shown.strip().splitlines()[-1].split())
    assert command.startswith(f"{builder} build ")
    assert ("--format docker" in command) is more  # the other format has no health check
    assert "--build-arg VARIANT='cuda' --build-arg PIP_INDEX_URL='https://mirror.example/simple'" in command

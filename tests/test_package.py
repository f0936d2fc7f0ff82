"""The package: all of the app and nothing else, the versions of requirements.txt, and a command that hands over."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Mapping, Sequence
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
import requests

from lib.setup.demo import make_demo_study
from tiny_study import ROOT

APP = ROOT / "apps" / "semisam"
MADE_BY_SERVERS = ("model", "logs", "bin", "__pycache__")
START_SECONDS = 300


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built from a copy in which a server has run."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(APP, source / "apps" / "semisam", ignore=shutil.ignore_patterns(*MADE_BY_SERVERS))
    for name in ("model", "logs"):
        (source / "apps" / "semisam" / name / "semisam").mkdir(parents=True)
        (source / "apps" / "semisam" / name / "semisam" / "left.js").write_text("left by a server")
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*words, "--wheel-dir", str(target), str(source)], check=True, timeout=300)
    return next(target.glob("semisam-*.whl"))


def about(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as packed:
        name = next(name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(packed.read(name).decode())


def test_it_holds_every_file_of_the_app_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    there = {
        str(Path("semisam") / path.relative_to(APP))
        for path in APP.rglob("*")
        if path.is_file() and not set(path.relative_to(APP).parts) & set(MADE_BY_SERVERS)
    }
    assert names == there
    assert {
        "semisam/main.py",
        "semisam/server/upstream/ohif_scripts/1_mode.js",
        "semisam/server/people/login.html",
    } <= names


def test_it_asks_for_what_the_file_of_requirements_does(wheel: Path) -> None:
    lines = [line.partition(" #")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    asked = {line.replace(" ", "") for line in lines if line and not line.startswith("#")}
    told = about(wheel)
    assert {line.replace(" ", "") for line in told.get_all("Requires-Dist", [])} == asked
    assert told["Requires-Python"] == "<3.13,>=3.10"


def test_its_version_is_the_one_that_the_server_tells(wheel: Path) -> None:
    assert f'VERSION = "{about(wheel)["Version"]}"' in (APP / "main.py").read_text()


# --- the command ------------------------------------------------------------------------------------------------------


def semisam(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, as the package starts it."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(APP / "command.py"), *words]
    return subprocess.run(
        command, env={**clean, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_says_where_the_app_is_and_what_there_is() -> None:
    assert semisam("path").stdout.strip() == str(APP)
    shown = semisam("--help")
    assert shown.returncode == 0
    assert all(f"  {name}" in shown.stdout for name in ("path", "serve", "weights", "users", "export", "import"))
    assert semisam().returncode != 0


@pytest.mark.parametrize("name", ["weights", "export", "import", "users", "demo"])
def test_the_command_hands_over_to_main(name: str) -> None:
    ours = semisam(name, "--help")
    theirs = subprocess.run(
        [sys.executable, str(APP / "main.py"), name, "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert ours.stdout.startswith(f"usage: semisam {name}")
    assert (ours.returncode, ours.stdout.split()) == (0, theirs.stdout.replace("main.py", "semisam").split())


def test_a_wrong_command_is_refused_with_those_that_there_are() -> None:
    wrong = semisam("exprot")
    assert wrong.returncode == 2
    assert "weights" in wrong.stderr


def test_what_is_served_is_looked_at_first(tmp_path: Path) -> None:
    assert "Name the study" in semisam("serve").stderr
    mistyped = semisam("serve", "--studies", str(tmp_path / "mistyped"))
    assert (mistyped.returncode, "Is its name right?" in mistyped.stderr) == (2, True)
    assert not (tmp_path / "mistyped").exists()


def load_command() -> object:
    spec = importlib.util.spec_from_file_location("semisam_command", APP / "command.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("given", "expected"),
    [((), ["--host", "127.0.0.1"]), (("--host", "0.0.0.0"), []), (("--host=0.0.0.0",), []), (("-i", "::1"), [])],
)
def test_it_answers_this_machine_only_unless_told_otherwise(
    given: Sequence[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, became = load_command(), []

    def become(program: str, words: list[str], environment: Mapping[str, str]) -> None:
        became.append(words)
        raise SystemExit

    monkeypatch.setattr(os, "execve", become)
    for name in ("MONAI_LABEL_TRACKING_ENABLED", "PATH", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(command, "APP", tmp_path)
    with pytest.raises(SystemExit):
        command.main(["serve", "--studies", str(tmp_path), *given, "--conf", "labels", "liver"])  # type: ignore[attr-defined]
    start = ["-m", "monailabel.main", "start_server", "--app", str(tmp_path)]
    words = ["--studies", str(tmp_path), *given, "--conf", "labels", "liver"]
    assert became == [[sys.executable, *start, *expected, *words]]
    assert os.environ["MONAI_LABEL_TRACKING_ENABLED"] == "false"
    assert os.environ["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_an_app_that_cannot_be_written_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = load_command()
    monkeypatch.setattr(command, "APP", tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    said = command._not_servable(["--studies", str(tmp_path)])  # type: ignore[attr-defined]
    assert said.startswith(f"{tmp_path / 'model'} cannot be written")


# --- in a fresh environment: `make test-wheel` ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the package; what it requires is seen in the environment of the tests.

    Not copied: that would be 8 GB. pip still checks each requirement of the package against what is there.
    """
    wheel = Path(os.environ["SEMISAM_WHEEL"])
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "requirements.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    # Python 3.10 and 3.11 put one of their own into a new environment, which would hide the one that is required.
    subprocess.run([*pip, "uninstall", "-q", "-y", "setuptools"], check=True, timeout=300)
    words = [*pip, "install", "--no-index"]
    done = subprocess.run([*words, str(wheel)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Requirement already satisfied: monailabel==" in done.stdout
    assert "Successfully installed semisam" in done.stdout
    return folder


@pytest.mark.wheel
@pytest.mark.parametrize("how", ["semisam serve", "monailabel start_server"])
def test_a_server_starts_from_the_installed_package(fresh: Path, how: str, tmp_path: Path) -> None:
    command = fresh / "bin" / "semisam"
    app = subprocess.run([command, "path"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    assert Path(app).is_relative_to(fresh)
    study = tmp_path / "study"
    names = make_demo_study(study, scans=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = [str(command), "serve"] if how.startswith("semisam") else ["monailabel", "start_server", "--app", app]
    words = ["--studies", str(study), "--host", "127.0.0.1", "--port", str(port), "--conf", "labels", ",".join(names)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MONAI_LABEL_", "PYTHON"))}
    environment["PATH"] = os.pathsep.join([str(fresh / "bin"), str(Path(sys.executable).parent), environment["PATH"]])
    environment["MONAI_LABEL_TRACKING_ENABLED"] = "false"
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*start, *words], env=environment, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, text=True
        )
    try:
        assert ready(server, port), log.read_text()[-3000:]
        page = requests.get(f"http://127.0.0.1:{port}/semisam/", timeout=120)
        assert (page.status_code, "semisam" in page.text) == (200, True)
        assert requests.get(f"http://127.0.0.1:{port}/semisam/static/main.js", timeout=120).status_code == 200
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def ready(server: subprocess.Popen[str], port: int) -> bool:
    """Whether a server can work before long."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            if requests.get(f"http://127.0.0.1:{port}/semisam/health", timeout=30).ok:
                return True
        except requests.ConnectionError:
            time.sleep(0.3)
    return False

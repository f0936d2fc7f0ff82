"""The files for containers, systemd and Kubernetes agree with each other and with the app; nothing is started here."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from lib.setup.settings import Settings
from server.health.metrics import PATH as METRICS
from server.health.route import LIVE, PATH
from tiny_study import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICE: dict[str, Any] = COMPOSE["services"]["semisam"]
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
CLUSTER = {each["kind"]: each for each in OBJECTS}
POD = CLUSTER["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
UNIT = (ROOT / "deploy" / "semisam.service").read_text().replace("\\\n", " ")
PORT = "8000"
VARIABLES = {"SEMISAM_HOST": "labels.hospital.example", "SEMISAM_LABELS": "liver,spleen", "ORTHANC_PASSWORD": "x" * 16}
"""What has to be set for compose.yaml."""
_VARIABLE = re.compile(r"\$\{(\w+)(:[?-])?([^}]*)\}")


def _instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_image_takes_all_versions_from_the_file_of_requirements() -> None:
    pinned = (ROOT / "requirements.txt").read_text()
    for name in re.findall(r"\$\(pinned ([\w-]+)\)", DOCKERFILE):
        assert re.search(rf"^{name}==", pinned, re.MULTILINE), name
    wheel = re.findall(r"wheel==[\d.]+", (ROOT / "Makefile").read_text())
    assert re.findall(r" (wheel==[\d.]+)", DOCKERFILE) == wheel


def test_the_image_is_built_with_a_python_that_the_app_runs_on() -> None:
    base = re.findall(r"^ARG BASE=.*python:(\d+)\.(\d+)-slim", DOCKERFILE, re.MULTILINE)
    assert base == [("3", "12")]
    assert 'requires-python = ">=3.10,<3.13"' in (ROOT / "pyproject.toml").read_text()


def test_all_that_the_image_copies_gets_past_dockerignore() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = [word for line in _instructions("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert {"apps", "requirements.txt", "pyproject.toml", "README.md", "LICENSE"} == set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in rules
    for name in (".venv", ".git", "tests", "docs", ".env"):
        assert not any(rule.startswith("!") and fnmatch(name, rule[1:]) for rule in rules)


def test_no_package_index_is_built_in_but_that_of_the_cpu_builds() -> None:
    hosts = set(re.findall(r"https?://([^/\s\"')]+)", DOCKERFILE))
    assert hosts == {"download.pytorch.org", f"127.0.0.1:{PORT}"}


def test_nobody_is_root() -> None:
    user = _instructions("USER")[-1]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    security = POD["securityContext"]
    assert security["runAsNonRoot"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == user
    assert str(security["fsGroup"]) == user.split(":")[1]
    assert (SERVICE["cap_drop"], CONTAINER["securityContext"]["capabilities"]) == (["ALL"], {"drop": ["ALL"]})


def test_the_root_is_read_only_and_all_that_is_written_lies_in_volumes() -> None:
    volumes = set(json.loads(_instructions("VOLUME")[-1]))
    assert {Path(each).name for each in volumes} == {"study", "models", "cache"}
    mounted = {each.split(":")[1] for each in SERVICE["volumes"]} | set(SERVICE["tmpfs"])
    assert mounted - {"/tmp"} == volumes
    written = [each for each in CONTAINER["volumeMounts"] if not each.get("readOnly")]
    assert {each["mountPath"] for each in written} - {"/tmp"} == volumes
    assert SERVICE["read_only"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    claimed = {each["persistentVolumeClaim"]["claimName"] for each in POD["volumes"] if "persistentVolumeClaim" in each}
    assert claimed == {each["metadata"]["name"] for each in OBJECTS if each["kind"] == "PersistentVolumeClaim"}
    assert {each["name"] for each in CONTAINER["volumeMounts"]} == {each["name"] for each in POD["volumes"]}
    links = re.findall(r"ln -s (\S+) ", DOCKERFILE)
    assert links
    assert set(links) <= volumes


def test_named_volumes_are_declared() -> None:
    used = {
        each.split(":")[0]
        for service in COMPOSE["services"].values()
        for each in service["volumes"]
        if re.match(r"\w+:", each)
    }
    assert used == set(COMPOSE["volumes"])
    assert {net for service in COMPOSE["services"].values() for net in service["networks"]} == set(COMPOSE["networks"])


# --- ports, probes, ends ----------------------------------------------------------------------------------------------


def test_all_speak_of_one_port() -> None:
    assert _instructions("EXPOSE") == [PORT]
    assert f"reverse_proxy semisam:{PORT}" in (ROOT / "deploy" / "Caddyfile").read_text()
    assert [str(each["containerPort"]) for each in CONTAINER["ports"]] == [PORT]
    for words in (json.loads(_instructions("CMD")[-1]), SERVICE["command"], CONTAINER["args"]):
        assert _started(words).port == int(PORT)


def test_probes_ask_the_page_of_health() -> None:
    assert f"http://127.0.0.1:{PORT}{PATH}'" in _instructions("HEALTHCHECK")[0]
    asked = {name: CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"startupProbe": LIVE, "livenessProbe": LIVE, "readinessProbe": PATH}
    compile(json.loads(_instructions("HEALTHCHECK")[0].partition("CMD ")[2])[2], "HEALTHCHECK", "exec")


def test_all_give_the_server_the_same_time_to_end() -> None:
    seconds = {int(SERVICE["stop_grace_period"].rstrip("s")), POD["terminationGracePeriodSeconds"]}
    assert seconds == {int(re.findall(r"TimeoutStopSec=(\d+)", UNIT)[0])}
    assert _instructions("STOPSIGNAL") == ["SIGTERM"]


def test_one_server_for_a_study() -> None:
    assert CLUSTER["Deployment"]["spec"]["replicas"] == 1
    assert CLUSTER["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}


# --- what the server is started with ----------------------------------------------------------------------------------


def _started(words: Sequence[str]) -> argparse.Namespace:
    """What MONAI Label reads after ``semisam serve``."""
    from monailabel.main import Main

    assert words[0] == "serve"
    chosen: argparse.Namespace = Main().args_parser().parse_args(["start_server", "--app", "app", *words[1:]])
    return chosen


def _filled(text: str) -> str:
    """A text of compose.yaml with its variables set."""
    return _VARIABLE.sub(lambda found: VARIABLES.get(found[1], found[3] if found[2] == ":-" else ""), text)


@pytest.mark.parametrize("name", ["compose", "kubernetes", "systemd"])
def test_the_settings_are_those_that_the_server_knows(name: str, tmp_path: Path) -> None:
    unit = re.findall(r"^ExecStart=\S+ (.*)$", UNIT, re.MULTILINE)[0]
    words = {
        "compose": [_filled(word) for word in SERVICE["command"]],
        "kubernetes": CONTAINER["args"],
        "systemd": shlex.split(unit),
    }[name]
    chosen = _started(words)
    conf = {key: value for key, value in chosen.conf if key != "users"}  # its file is made first
    settings = Settings.from_conf(conf)
    assert settings.labels is not None
    assert settings.hosts in (("labels.hospital.example",), ("labels.hospital.example", "semisam"))
    # In a container the server is reached by the network of the containers; elsewhere from this machine only.
    assert ("--host" in words) == (name != "systemd")


def _people(words: Sequence[str]) -> PurePosixPath:
    """The file of those who may log in."""
    return PurePosixPath(dict(_started(words).conf)["users"])


def test_nobody_is_let_in_from_outside_without_a_log_in() -> None:
    assert _people([_filled(word) for word in SERVICE["command"]]).parent.name == "models"
    file = _people(CONTAINER["args"])
    (mount,) = (each for each in CONTAINER["volumeMounts"] if each["mountPath"] == str(file.parent))
    (secret,) = (each["secret"] for each in POD["volumes"] if each["name"] == mount["name"])
    assert mount["readOnly"]
    assert not secret.get("optional")  # without it, the pod waits
    assert secret["defaultMode"] == 0o440  # for the server's own group, fsGroup
    said = (ROOT / "docs" / "how-to" / "containers.md").read_text()
    assert f"kubectl create secret generic {secret['secretName']} --from-file={file.name}\n" in said


def test_metrics_are_closed_to_the_outside() -> None:
    assert f"respond {METRICS} 404" in (ROOT / "deploy" / "Caddyfile").read_text()
    open_ports = {name for each in CONTAINER["ports"] for name in (each["name"], each["containerPort"])}
    leads_to = {each["name"]: each["targetPort"] in open_ports for each in CLUSTER["Service"]["spec"]["ports"]}
    (rule,) = CLUSTER["Ingress"]["spec"]["rules"]
    paths = {each["path"]: each["backend"]["service"] for each in rule["http"]["paths"]}
    assert {path: leads_to[service["port"]["name"]] for path, service in paths.items()} == {METRICS: False, "/": True}
    assert {each["pathType"] for each in rule["http"]["paths"]} == {"Prefix"}  # of which the longer one counts
    assert {service["name"] for service in paths.values()} == {CLUSTER["Service"]["metadata"]["name"]}


def test_three_variables_have_to_be_set() -> None:
    text = (ROOT / "compose.yaml").read_text()
    found = {name: mark for name, mark, _ in _VARIABLE.findall(text)}
    assert {name for name, mark in found.items() if mark == ":?"} == set(VARIABLES)
    assert all(mark in (":?", ":-") for mark in found.values())
    example = (ROOT / "deploy" / "env.example").read_text()
    assert set(re.findall(r"^(\w+)=", example, re.MULTILINE)) == set(VARIABLES)


def test_what_files_of_the_others_read_is_given_to_them() -> None:
    services = COMPOSE["services"]
    for service, file in (("orthanc", "orthanc.json"), ("caddy", "Caddyfile")):
        text = (ROOT / "deploy" / file).read_text()
        read = set(re.findall(r"\{\$?([A-Z_]+)\}", text))
        assert read
        assert read <= set(services[service]["environment"])
        mounted = [each for each in services[service]["volumes"] if each.startswith(f"./deploy/{file}:")]
        assert [each.endswith(":ro") for each in mounted] == [True]


def test_the_dicom_server_lets_nobody_in_without_a_password_and_stores_of_strangers_are_refused() -> None:
    config = json.loads((ROOT / "deploy" / "orthanc.json").read_text())
    assert config["AuthenticationEnabled"]
    assert config["RegisteredUsers"] == {SERVICE["environment"]["MONAI_LABEL_DICOMWEB_USERNAME"]: "${ORTHANC_PASSWORD}"}
    assert config["DicomCheckModalityHost"]
    assert not config["DicomAlwaysAllowStore"]
    assert all(each.startswith("127.0.0.1:") for each in COMPOSE["services"]["orthanc"]["ports"])
    assert "ports" not in SERVICE  # by TLS only
    root = config["DicomWeb"]["Root"].rstrip("/")
    assert _started([_filled(word) for word in SERVICE["command"]]).studies == f"http://orthanc:8042{root}"


# --- by those who read them ------------------------------------------------------------------------------------------


def test_kubernetes_own_schemas_accept_the_example() -> None:
    why = "kubernetes-validate is not installed; it wants another jsonschema than pydicom-seg, so install it elsewhere"
    schemas = pytest.importorskip("kubernetes_validate", reason=why)
    for each in OBJECTS:
        schemas.validate(each, "1.30", strict=True)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.replace("/srv/semisam/venv/bin/semisam", shutil.which("true") or "/bin/true")
    (tmp_path / "semisam.service").write_text(re.sub(r"^User=.*$", "User=root", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "semisam.service")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_caddy_accepts_its_file() -> None:
    if shutil.which("caddy") is None:
        pytest.skip("caddy is not installed")
    done = subprocess.run(
        ["caddy", "adapt", "--config", str(ROOT / "deploy" / "Caddyfile"), "--adapter", "caddyfile"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"SEMISAM_HOST": VARIABLES["SEMISAM_HOST"], "SEMISAM_TLS": "internal", "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    assert f"semisam:{PORT}" in done.stdout


def test_make_up_asks_for_the_settings_first(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path / "Makefile")
    done = subprocess.run(
        ["make", "up", "COMPOSE=true"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "cp deploy/env.example .env" in done.stderr
    (tmp_path / ".env").touch()
    assert subprocess.run(["make", "up", "COMPOSE=true"], cwd=tmp_path, timeout=60, check=False).returncode == 0

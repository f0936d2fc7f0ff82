"""A real server with `--conf users`: what each role may do, in a browser and in 3D Slicer, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lib.people import ROLES
from people_server import GOOD, save_people, serving_people
from server_process import Server, detail
from tiny_study import make_tiny_study

pytestmark = pytest.mark.server

NAMES = {"reader": "rita", "annotator": "anna", "admin": "adam"}

ASKED = [
    ("GET", "/info/", ROLES),
    ("GET", "/ohif/", ROLES),
    ("GET", "/datastore/image/info?image=case_1", ROLES),
    ("POST", "/activelearning/random", ROLES),
    ("PUT", "/datastore/label/info?label=case_1&tag=final", ("annotator", "admin")),
    ("DELETE", "/datastore/label?id=case_1&tag=no_such_tag", ("admin",)),
    ("POST", "/train/no_such_trainer", ("admin",)),
    ("GET", "/logs/?text=true", ("admin",)),
    ("GET", "/semisam/api/scans", ROLES),
    ("POST", "/semisam/api/accept", ("annotator", "admin")),
    ("POST", "/semisam/api/score", ("annotator", "admin")),
    ("POST", "/semisam/api/train", ("admin",)),
    ("POST", "/semisam/export", ("admin",)),
    ("GET", "/semisam/export", ("admin",)),
    ("GET", "/semisam/export/some", ("admin",)),
    ("DELETE", "/semisam/export", ("admin",)),
    ("GET", "/proxy/dicom/studies", ROLES),
    ("POST", "/proxy/dicom/studies", ("annotator", "admin")),
    ("POST", "/proxy/dicom/stow/studies", ("annotator", "admin")),
]
"""What is asked, and who may."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_people(tmp_path_factory.mktemp("people"), NAMES) as running:
        yield running


def token(server: Server, role: str) -> dict[str, str]:
    reply = requests.post(f"{server.url}/auth/token", data={"username": NAMES[role], "password": GOOD}, timeout=30)
    return {"Authorization": f"Bearer {reply.json()['access_token']}"}


@pytest.mark.parametrize(("method", "path", "allowed"), ASKED)
def test_each_role_may_do_its_part_and_no_more(
    server: Server, method: str, path: str, allowed: tuple[str, ...]
) -> None:
    assert requests.request(method, server.url + path, timeout=30).status_code == 401
    for role in ROLES:
        known = token(server, role)
        mark = requests.get(f"{server.url}/semisam/api/mark", headers=known, timeout=60).json()["mark"]
        reply = requests.request(method, server.url + path, headers={**known, "X-Semisam-Mark": mark}, timeout=60)
        if role in allowed:
            assert reply.status_code not in (401, 403), (role, reply.text)
        else:
            assert f"needs the role {allowed[0]}" in detail(reply, 403)


def test_whether_the_server_is_well_is_told_without_a_log_in(server: Server) -> None:
    assert requests.get(f"{server.url}/semisam/health", timeout=30).json()
    assert requests.get(f"{server.url}/semisam/health/live", timeout=30).json() == {"status": "live"}


def test_a_browser_is_led_to_the_log_in_and_back(server: Server) -> None:
    browser = requests.Session()
    page = browser.get(f"{server.url}/ohif/?a=1", headers={"Accept": "text/html"}, timeout=30)
    assert page.url.endswith("/semisam/login?next=%2Fohif%2F%3Fa%3D1")
    assert 'value="/ohif/?a=1"' in page.text
    wrong = browser.post(f"{server.url}/semisam/login", data={"username": "anna", "password": "no"}, timeout=30)
    assert wrong.status_code == 401
    assert "is not known here" in wrong.text
    form = {"username": "anna", "password": GOOD, "next": "/info/"}
    assert browser.post(f"{server.url}/semisam/login", data=form, timeout=30).json()["name"] == "semisam"
    cookie = next(iter(browser.cookies))
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "lax"
    browser.get(f"{server.url}/semisam/logout", timeout=30)
    assert browser.get(f"{server.url}/info/", timeout=30).status_code == 401


def test_what_is_typed_as_a_name_runs_nothing(server: Server) -> None:
    reply = requests.get(f"{server.url}/semisam/login", params={"next": '/"><script>alert(1)</script>'}, timeout=30)
    assert "<script>" not in reply.text


def test_who_saved_a_label_is_kept_with_it_and_in_the_audit_log(server: Server) -> None:
    label = server.study / "labels" / "final" / "case_1.nii.gz"
    with label.open("rb") as file:
        reply = requests.put(
            f"{server.url}/datastore/label?image=case_1&tag=final",
            files={"label": (label.name, file)},
            data={"params": json.dumps({"user": "somebody else"})},
            headers=token(server, "annotator"),
            timeout=60,
        )
    assert reply.status_code == 200, reply.text
    asked = f"{server.url}/datastore/label/info?label=case_1&tag=final"
    assert requests.get(asked, headers=token(server, "reader"), timeout=30).json()["user"] == "anna"
    lines = [json.loads(line) for file in server.app.rglob("audit.log") for line in file.read_text().splitlines()]
    saved = [line for line in lines if line["did"] == "PUT /datastore/label" and line["status"] == 200]
    assert [(line["person"], line["image"], line["tag"]) for line in saved] == [("anna", "case_1", "final")]
    assert not any(GOOD in json.dumps(line) for line in lines)


def test_no_password_stands_in_the_log(server: Server) -> None:
    token(server, "reader")
    assert GOOD not in server.log.read_text()


def test_two_log_ins_are_one_too_many(tmp_path: Path) -> None:
    save_people(tmp_path / "users", {"admin": "adam"})
    study = make_tiny_study(tmp_path / "study", scans=1)
    both = Server(tmp_path, study, {"users": str(tmp_path / "users")}, {"MONAI_LABEL_AUTH_ENABLE": "true"})
    both.launch()
    assert both.process is not None
    assert both.process.wait(timeout=240) != 0
    assert "There are two log-ins" in both.log.read_text()

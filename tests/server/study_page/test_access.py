"""The page is for its own server's readers: log-in, mark, origin, and names that run nothing."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.endpoints.user.auth import User

from page_parts import HOST, open_study, opened, put_pseudo_label, with_mark
from server.study_page import access, routes


def test_the_page_and_its_files_come_from_this_server_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(open_study(tmp_path), monkeypatch) as client:
        page = client.get("/semisam/")
        assert client.get("/semisam", follow_redirects=False).headers["location"] == "/semisam/"
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        named = re.findall(r'(?:src|href)="([^"#]*)"', page.text)
        assert [address for address in named if re.match(r"[a-z]+:|//", address)] == []
        for file in (Path(routes.__file__).parent / "static").iterdir():
            answer = client.get(f"/semisam/static/{file.name}")
            assert answer.status_code == 200
            text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://", text), file.name
            assert "innerHTML" not in text
        assert client.get("/semisam/static/../routes.py").status_code == 404
        assert client.get("/semisam/static/%2e%2e%2froutes.py").status_code == 404


def test_the_mark_is_not_for_pages_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(open_study(tmp_path), monkeypatch) as client:
        mark = client.get("/semisam/api/mark").json()["mark"]
        assert mark in client.get("/semisam/").text
        assert 'name="semisam-may" content="annotate administer"' in client.get("/semisam/").text
        own = {"Origin": HOST, "Sec-Fetch-Site": "same-origin"}
        assert client.get("/semisam/api/mark", headers=own).json()["mark"] == mark
        for foreign in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
            assert client.get("/semisam/api/mark", headers=foreign).status_code == 403


def test_without_a_log_in_nothing_of_the_study_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    with opened(open_study(tmp_path), monkeypatch) as client:
        for path in ("scans", "picture?image=case_1", "mark"):
            assert client.get(f"/semisam/api/{path}").status_code == 401, path
        page = client.get("/semisam/")
        assert page.status_code == 401
        assert "Password" in page.text
        assert "semisam-mark" not in page.text


def test_unknown_scans_and_odd_questions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(open_study(tmp_path), monkeypatch) as client:
        assert client.get("/semisam/api/picture", params={"image": "../case_1"}).status_code == 404
        assert client.get("/semisam/api/scans", params={"order": "no such"}).status_code == 422
        assert client.get("/semisam/api/scans", params={"size": 10_000}).status_code == 422
        found = client.get("/semisam/api/scans", params={"search": "3"}).json()
        assert [scan["name"] for scan in found["scans"]] == ["case_3"]


def test_the_log_in_of_the_page_is_kept_in_a_cookie_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def token_of(form: Any) -> Any:
        if form.password != "right":
            raise HTTPException(401, "not known")
        return {"access_token": f"token of {form.username}"}

    def user_of(token: str) -> User:
        if not token.startswith("token of "):
            raise jwt.InvalidTokenError
        roles = [settings.MONAI_LABEL_AUTH_ROLE_USER] + [settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR] * ("anna" in token)
        return User(username=token.removeprefix("token of "), roles=roles)

    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(routes, "token_of", token_of)
    monkeypatch.setattr(access, "user_of", user_of)
    study = open_study(tmp_path)
    put_pseudo_label(study, 2)
    with opened(study, monkeypatch) as client:
        wrong = client.post("/semisam/login", data={"username": "anna", "password": "wrong"})
        assert wrong.status_code == 401
        assert "not known" in wrong.text
        foreign = {"Origin": "https://evil.example"}
        right = {"username": "anna", "password": "right"}
        assert client.post("/semisam/login", data=right, headers=foreign).status_code == 403
        entered = client.post("/semisam/login", data=right, follow_redirects=False)
        assert (entered.status_code, entered.headers["location"]) == (303, "/semisam/")
        cookie = entered.headers["set-cookie"]
        assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "semisam_login_8000="))
        assert 'name="semisam-may" content="annotate"' in client.get("/semisam/").text
        version = client.get("/semisam/api/scan", params={"image": "case_2"}).json()["version"]
        asked = {"image": "case_2", "version": version, "by": "somebody else"}
        answer = client.post("/semisam/api/accept", json=asked, headers=with_mark(client))
        assert answer.json()["words"] == "Accepted by anna"  # whoever has logged in, whatever is said
        refused = client.post("/semisam/api/train", json={}, headers=with_mark(client))
        assert refused.status_code == 403
        assert refused.json()["detail"].startswith("anna may not do this: it needs the role monailabel-admin.")
        client.post("/semisam/logout")
        assert client.get("/semisam/api/scans").status_code == 401
        uma = {"username": "uma", "password": "right"}
        client.post("/semisam/login", data=uma)
        assert client.get("/semisam/api/scans").status_code == 200
        assert 'name="semisam-may" content=""' in client.get("/semisam/").text  # her buttons are disabled
        assert client.post("/semisam/api/undo", json=asked, headers=with_mark(client)).status_code == 403


def test_the_log_says_where_the_page_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(routes, "_TOLD_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(settings, "MONAI_LABEL_SERVER_PORT", 8123)
    with caplog.at_level("INFO", "semisam"):
        routes.tell_address()
        until = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < until:
            time.sleep(0.01)
    assert caplog.messages == ["The study in a browser: http://127.0.0.1:8123/semisam/"]

"""The page is for its own server's readers: log-in, mark, origin, and names that run nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from monailabel.config import settings

from page_parts import HOST, open_study, opened
from server.study_page import routes


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

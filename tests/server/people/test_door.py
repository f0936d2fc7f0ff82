"""Where a request comes from, and where a browser goes after the log-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from monailabel.config import settings

from server.health import metrics, route
from server.people.door import LOGOUT, Door, address_of, token_in
from server.people.log_in import LogIn
from server.people.log_in_page import START, own_page


def scope(client: str = "10.0.0.5", **headers: str) -> dict[str, Any]:
    return {
        "client": (client, 1),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }


def test_only_a_proxy_on_this_machine_is_believed() -> None:
    assert address_of(scope(x_forwarded_for="1.2.3.4")) == "10.0.0.5"
    assert address_of(scope("127.0.0.1", x_forwarded_for="6.6.6.6, 1.2.3.4")) == "1.2.3.4"
    assert address_of(scope("127.0.0.1")) == "127.0.0.1"


def test_a_token_comes_in_a_header_or_a_cookie() -> None:
    assert token_in(scope(authorization="Bearer abc")) == "abc"
    assert token_in(scope(cookie="other=1; semisam_login_8000=abc")) == "abc"
    assert token_in(scope(authorization="Basic abc", cookie="x")) == ""


def test_servers_of_two_studies_on_one_machine_do_not_log_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    both = scope(cookie='semisam_login_8000=first; semisam_login_8001=second; other={"not": "by the rules"}')
    for port, expected in ((8000, "first"), (8001, "second"), (8002, "")):
        monkeypatch.setattr(settings, "MONAI_LABEL_SERVER_PORT", port)
        assert token_in(both) == expected


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "/a\r\nX: y", ""])
def test_a_log_in_never_leads_to_another_server(target: str) -> None:
    assert own_page(target) == START


def test_a_log_in_leads_back_to_the_wanted_page() -> None:
    assert own_page("/ohif/monai-label?StudyInstanceUIDs=1.2") == "/ohif/monai-label?StudyInstanceUIDs=1.2"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_whose_log_in_has_ended_can_still_log_out(method: str, tmp_path: Path) -> None:
    """Else the next log-in would lead to the log-out, or a button to an error."""
    door = Door(LogIn(tmp_path / "users", tmp_path / "login.key"))
    ended = scope(cookie="semisam_login_8000=ended", accept="text/html")
    assert door.look({**ended, "method": method, "path": LOGOUT, "query_string": b""}) is None


@pytest.mark.parametrize("path", [route.PATH, f"{route.PATH}/live", metrics.PATH])
def test_monitoring_needs_no_log_in(path: str, tmp_path: Path) -> None:
    door = Door(LogIn(tmp_path / "users", tmp_path / "login.key"))
    assert door.look({**scope(), "method": "GET", "path": path}) is None
    with pytest.raises(HTTPException):
        door.look({**scope(), "method": "GET", "path": f"{path}x"})

"""The parts that keep requests in their place, one by one; ``clients/test_security.py`` has them in a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import itk
import jwt
import numpy as np
import pytest
import requests
from fastapi import HTTPException

import dicomseries
from lib.core.errors import UserError
from lib.formats.volumes import read_volume
from lib.setup.settings import Settings
from scanfiles import save_itk
from server.errors import answer_of
from server.requests.validation import check_call
from server.store.folder_store import plain_info, plain_name
from server.upstream import log_secrets
from server.upstream.sessions import StudySessions
from server.upstream.temporary_files import TemporaryFolder
from server.web import gate, request_head
from server.web.gate import Gate
from server.web.request_head import check_host
from tiny_study import tiny_scan


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    tempfile.tempdir = None


# --- temporary files --------------------------------------------------------------------------------------------------


def test_the_temporary_folder_is_private_and_emptied(temporary: Path) -> None:
    own = TemporaryFolder()
    assert Path(tempfile.gettempdir()) == own.folder
    assert own.folder.parent == temporary
    assert own.folder.stat().st_mode & 0o777 == 0o700
    Path(tempfile.mkdtemp()).joinpath("scan.nii.gz").write_bytes(b"patient")
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"patient")
    kept = own.folder / "pymp-of-a-library"
    kept.mkdir()
    own.empty()
    assert list(own.folder.iterdir()) == [kept]


def test_the_temporary_folder_of_a_killed_server_is_removed(temporary: Path) -> None:
    gone, running, other = (temporary / name for name in ("semisam-4194399-a", "semisam-1-b", "semisam-notes"))
    for folder in (gone, running, other):
        folder.mkdir()
        (folder / "tmp1").write_bytes(b"patient")
    elsewhere = temporary.parent / "elsewhere"
    elsewhere.mkdir()
    (temporary / "semisam-4194398-c").symlink_to(elsewhere)
    TemporaryFolder()
    assert not gone.exists()
    assert running.is_dir()
    assert other.is_dir()
    assert elsewhere.is_dir()


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_old_sessions_go_although_one_is_damaged(tmp_path: Path, temporary: Path) -> None:
    sessions = StudySessions(str(tmp_path / "store"), 3600, 2**20)
    scan = temporary / "scan.nii.gz"
    names = []
    for _ in range(3):
        scan.write_bytes(b"x")
        names.append(sessions.add_session(str(scan))[0])
    old, damaged, fresh = (tmp_path / "store" / name for name in names)
    note = json.loads((old / "meta.info").read_text())
    (old / "meta.info").write_text(json.dumps({**note, "last_access_ts": int(time.time()) - 9999}))
    (damaged / "meta.info").write_text("[")
    os.utime(damaged, (1, 1))
    (tmp_path / "store" / "somebody's folder").mkdir()
    assert StudySessions(str(tmp_path / "store"), 3600, 2**20).remove_expired() == 2
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == sorted([fresh.name, "somebody's folder"])


def test_sessions_delete_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for folder in (tmp_path, tmp_path / "store" / "x"):
        folder.mkdir(exist_ok=True)
        (folder / "meta.info").write_text('{"image": "/no/such", "path": "/"}')
    sessions = StudySessions(str(tmp_path / "store"), 3600, 2**20)
    for name in ("..", "x", "", ".", "/", str(tmp_path), f"{uuid.uuid4()}/../x"):
        assert sessions.get_session(name) is None
        sessions.remove_session(name)
    assert (tmp_path / "store" / "x" / "meta.info").is_file()


@pytest.mark.slow
def test_uploads_of_several_files_are_one_scan(tmp_path: Path, temporary: Path) -> None:
    sessions = StudySessions(str(tmp_path / "store"), 3600, 2**20)
    image, _, affine = tiny_scan(1)
    dicomseries.save(dicomseries.series(), tmp_path / "disc" / "PAT" / "ST" / "SE")
    shutil.make_archive(str(temporary / "disc"), "zip", tmp_path / "disc")
    _, session = sessions.add_session(str(temporary / "disc.zip"), uncompress=True)
    assert read_volume(session.image).shape[2] == dicomseries.SLICES
    scan = itk.imread(str(save_itk(tmp_path / "scan.mha", image, affine)))
    for name in ("scan.mhd", "scan.nrrd"):
        folder = temporary / name
        folder.mkdir()
        itk.imwrite(scan, str(folder / name))
        (folder / "README").write_text("hello")
        identity, session = sessions.add_session(str(folder))
        assert session.image.endswith(name)
        np.testing.assert_array_equal(read_volume(session.image).array, image)
        known = StudySessions(str(tmp_path / "store"), 3600, 2**20).get_session(identity)
        assert known is not None
        assert known.image == session.image


def test_uploads_that_are_no_one_scan(tmp_path: Path, temporary: Path) -> None:
    sessions = StudySessions(str(tmp_path / "store"), 3600, 2**20)
    for files, part in (
        ({"a.nii.gz": b"x", "b.nrrd": b"x"}, "holds 2 scans"),
        ({"a.mhd": b"ElementDataFile = /etc/passwd\n"}, "in another folder"),
        ({"a.nhdr": b"NRRD0004\ndata file: ../other/a.raw\n", "b": b"x"}, "in another folder"),
    ):
        folder = temporary / part
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with pytest.raises(HTTPException) as caught:
            sessions.add_session(str(folder))
        assert caught.value.status_code == 400
        assert part in str(caught.value.detail)
        shutil.rmtree(folder, ignore_errors=True)
    assert list((tmp_path / "store").iterdir()) == []


# --- the gate ---------------------------------------------------------------------------------------------------------


def through(
    app: Any,
    temporary: Path,
    *pieces: bytes,
    path: str = "/x",
    kind: str = "multipart/form-data",
    headers: Any = (),
    most: int = 100,
) -> Any:
    """Status and JSON of one request whose body comes in pieces, without a length."""
    sent: list[dict[str, Any]] = []
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "PUT", "path": path, "headers": [(b"content-type", kind.encode()), *headers]}
    asyncio.run(Gate(app, most_bytes=most, temporary=TemporaryFolder())(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


async def reads(scope: Any, receive: Any, send: Any) -> None:
    got = 0
    while True:
        message = await receive()
        got += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(got).encode()})


def test_bodies_are_counted(temporary: Path) -> None:
    assert through(reads, temporary, b"a" * 60, b"b" * 40) == (200, 100)
    status, answer = through(reads, temporary, b"a" * 60, b"b" * 41, b"c" * 60, path="/datastore/image")
    assert status == 413
    assert "max_upload" in answer["detail"]
    for path in ("/activelearning/random", "/train/semisam", "/datastores"):  # takes no files, whatever it is sent
        status, answer = through(reads, temporary, b"a" * 101, path=path)
        assert (status, "longer" in answer["detail"]) == (413, True)
    status, answer = through(reads, temporary, b"a" * 101, kind="application/json")
    assert status == 413
    assert "longer" in answer["detail"]


def test_an_outline_from_a_file_may_be_as_large_as_any_upload(temporary: Path) -> None:
    outline = [b"a" * 2**20] * 5
    assert through(reads, temporary, *outline, path="/semisam/api/outline", most=8 * 2**20) == (200, 5 * 2**20)
    status, answer = through(reads, temporary, *outline, path="/semisam/api/outline", most=4 * 2**20)
    assert (status, "max_upload" in answer["detail"]) == (413, True)
    status, answer = through(reads, temporary, *outline, path="/semisam/api/accept", most=8 * 2**20)  # takes no file
    assert (status, "longer" in answer["detail"]) == (413, True)


@pytest.mark.parametrize("path", ["/a/../b", "/a/%2e%2e/b", "/a/..\\b", "/a\0"])
def test_paths_are_looked_at(temporary: Path, path: str) -> None:
    status, answer = through(reads, temporary, path=path)
    assert (status, "'..'" in answer["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("host", "server", "hosts", "welcome"),
    [
        ("localhost:8000", "127.0.0.1", (), True),
        ("127.0.0.1:8000", "127.0.0.1", (), True),
        ("[::1]:8000", "::1", (), True),
        ("", "127.0.0.1", (), True),  # no browser
        ("evil.example:8000", "127.0.0.1", (), False),
        ("evil.example", "::1", (), False),
        ("gpu7.hospital.example:8000", "10.0.0.7", (), True),  # where no names are given, any will do elsewhere
        ("gpu7.hospital.example:8000", "10.0.0.7", ("labels.hospital.example",), False),
        ("Labels.hospital.example", "127.0.0.1", ("labels.hospital.example",), True),
        ("10.0.0.7", "10.0.0.7", ("labels.hospital.example",), True),
    ],
)
def test_names_of_the_server(host: str, server: str, hosts: tuple[str, ...], welcome: bool) -> None:
    scope = {"headers": [(b"host", host.encode())] if host else [], "server": (server, 8000)}
    if welcome:
        check_host(scope, hosts)
        return
    with pytest.raises(UserError, match="--conf hosts") as caught:
        check_host(scope, hosts)
    assert caught.value.status == 403


@pytest.mark.parametrize("header", ["host", "origin"])
def test_headers_that_hold_no_address(temporary: Path, header: str) -> None:
    text = b"http://[" if header == "origin" else b"[::1"
    status, answer = through(reads, temporary, headers=[(header.encode(), text)])
    assert (status, "no address" in answer["detail"]) == (400, True)


@pytest.mark.parametrize("text", ["https://a", "a:80", "a/b", ",", "a b"])
def test_hosts_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="hosts"):
        Settings.from_conf({"hosts": text})


def test_hosts() -> None:
    assert Settings.from_conf({"hosts": "Labels.Hospital.example, gpu7"}).hosts == ("labels.hospital.example", "gpu7")
    assert Settings.from_conf({}).hosts == ()


@pytest.mark.parametrize("given", ["", "Basic YTpi", "Bearer no.token.here"])
def test_uploads_of_nobody_are_not_read(temporary: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(token: str) -> None:
        raise jwt.InvalidTokenError(token)

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the upload was read")

    monkeypatch.setattr(request_head, "user_of", unknown)
    monkeypatch.setattr(gate.settings, "MONAI_LABEL_AUTH_ENABLE", True)
    headers = [(b"authorization", given.encode())] if given else []
    status, answer = through(never, temporary, b"a" * 60, path="/datastore/image", headers=headers)
    assert (status, answer["detail"]) == (401, "Log in first.")
    assert through(reads, temporary, b"a" * 60, path="/datastore/x", kind="text/plain") == (200, 60)
    monkeypatch.setattr(request_head, "user_of", lambda token: token)
    headers = [(b"authorization", b"Bearer good")]
    assert through(reads, temporary, b"a" * 60, path="/datastore/image", headers=headers) == (200, 60)


def test_what_nobody_answers_gets_a_text(temporary: Path) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(b"patient")
        raise KeyError("\ud800")

    status, answer = through(fails, temporary)
    assert status == 500
    assert "/logs/" in answer["detail"]
    assert list(temporary.rglob("tmp*")) == []


def test_other_servers_are_told_of_without_their_address() -> None:
    asked = requests.Request("GET", "http://me:secret@dicom.example/x?key=secret").prepare()
    answer = answer_of(requests.ConnectionError("no", request=asked))
    assert answer.status_code == 502
    assert answer.detail == "The DICOM or log-in server behind this one cannot be reached. Try again later."


# --- names, notes, jobs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".x", "a/b", "a\\b", "a\0", "a\n", "\ud800", "ß" * 101, None, 5, ["a"], "../x"])
def test_names_that_are_none(name: object) -> None:
    with pytest.raises(UserError, match="tag name"):
        plain_name(name, "tag")


@pytest.mark.parametrize("name", ["a", "Müller 2 (left)", "日本", "a..b", "x" * 200])
def test_names(name: str) -> None:
    assert plain_name(name, "tag") == name


@pytest.mark.parametrize(
    "note", [[1], "a", 5, {"a": float("nan")}, {"a": [float("inf")]}, {"a": "\ud800"}, {"\udfff": 1}]
)
def test_notes_that_cannot_be_kept(note: object) -> None:
    with pytest.raises(UserError, match="notes"):
        plain_info(note)


def test_notes() -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    for note in ({}, {"a": 1.5, "b": [None, {"c": "ü\u2028"}]}, {"deep": deep}, {"big": 10**300}):
        assert plain_info(note) == note
    assert plain_info(None) == {}
    for _ in range(50):
        deep = [deep]
    with pytest.raises(UserError):
        plain_info({"deep": deep})


@pytest.mark.parametrize(
    ("request_", "in_server", "part"),
    [
        ({}, True, "run_sync"),
        ({"gpus": 0}, False, "gpus"),
        ({"gpus": "0;1"}, False, "gpus"),
        ({"images": ["scan"] * 20_000}, False, "characters"),
    ],
)
def test_jobs_that_could_not_start(request_: dict[str, Any], in_server: bool, part: str) -> None:
    with pytest.raises(UserError, match=part):
        check_call("batch_infer", request_, in_server=in_server)
    check_call("batch_infer", {"gpus": "0,1", "images": ["scan"] * 100}, in_server=False)
    check_call("scoring", {"gpus": "all"}, in_server=True)


# --- secrets and settings ---------------------------------------------------------------------------------------------


def test_logs_are_blackened(caplog: pytest.LogCaptureFixture) -> None:
    formatter = log_secrets.Redacting(logging.Formatter("%(message)s"), ["pass word", "key", "a-long-key"])
    try:
        raise ValueError("a-long-key")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.INFO, "", 0, "%s %s Authorization: Bearer abc.def-ghi http://me:mine@host/x",
            ("pass word", "monkey"), (ValueError, error, error.__traceback__),
        )  # fmt: skip
    text = formatter.format(record)
    for secret in ("pass word", "a-long-key", "abc.def-ghi", "mine"):
        assert secret not in text
    assert "monkey" in text
    assert "http://****@host/x" in text


@pytest.mark.parametrize("address", ["http://me:secret@host/dicom-web", "https://me@host/dicom-web"])
def test_no_password_in_an_address(address: str) -> None:
    with pytest.raises(UserError, match="MONAI_LABEL_DICOMWEB_PASSWORD"):
        log_secrets.check_address(address)
    log_secrets.check_address("http://host:8042/dicom-web")
    log_secrets.check_address("/data/me:you@home")


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "9" * 20, "²"])
def test_upload_limit_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="max_upload"):
        Settings.from_conf({"max_upload": text})


@pytest.mark.parametrize("text", ["viewer", "https://a/b", "ftp://a", "https://a b", ",", "https://a:b"])
def test_origins_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="origins"):
        Settings.from_conf({"origins": text})


def test_origins() -> None:
    given = "https://a.b/, http://[::1]:80,*"
    assert Settings.from_conf({"origins": given}).origins == ("https://a.b", "http://[::1]:80", "*")
    assert Settings.from_conf({}).origins == ()


def test_upload_limit() -> None:
    assert Settings.from_conf({}).most_upload == 2 * 2**30
    assert Settings.from_conf({"max_upload": "100"}).most_upload == 100 * 2**20


def test_an_answer_of_the_app_stays_as_it_is() -> None:
    answer = answer_of(HTTPException(409, "later"))
    assert (answer.status_code, answer.detail) == (409, "later")

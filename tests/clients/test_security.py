"""A server as a hospital runs it: TLS, log-in, a limit for uploads, and no secret in its logs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa

from needs import not_installed
from realm import PASSWORD, USER, Realm
from server_process import Server
from tiny_study import ROOT, TINY_LABELS, make_tiny_study

pytestmark = [pytest.mark.clients, pytest.mark.server]

SECRETS = {
    "MONAI_LABEL_DICOMWEB_PASSWORD": "s3cret-dicomweb",
    "MONAI_LABEL_DATASTORE_PASSWORD": "s3cret-datastore",
    "MONAI_LABEL_DATASTORE_API_KEY": "s3cret-api-key",
    "MONAI_ZOO_AUTH_TOKEN": "s3cret-zoo-token",
}
VIEWER = "https://viewer.hospital.example"
OPEN = {
    *("/", "/docs", "/openapi.json", "/favicon.ico", "/auth/", "/auth/token", "/auth/token/valid"),
    *("/semisam/health", "/semisam/health/live", "/semisam/metrics"),
}
"""Paths that need no log-in: the description of the interface, the log-in itself, and what names nothing."""

HIDDEN = [
    *[("POST", "/train/"), ("POST", "/scoring/"), ("PUT", "/datastore/"), ("DELETE", "/datastore/")],
    *[("PUT", "/datastore/updatelabelinfo"), ("POST", "/infer/wsi/segment"), ("GET", "/proxy/dicom/studies")],
    *[("POST", "/proxy/dicom/stow/studies"), ("GET", "/ohif/"), ("GET", "/semisam/reports/latest")],
    *[("GET", "/semisam/"), ("GET", "/semisam/api/events")],
]
"""Routes that the description leaves out, and our own."""


class SecureServer(Server):
    """A server behind TLS and a log-in; requests carry the token of ``who``."""

    def __init__(self, folder: Path, study: Path, realm: Realm, certificate: Path, key: Path) -> None:
        env = {
            **SECRETS,
            "MONAI_LABEL_AUTH_ENABLE": "true",
            "MONAI_LABEL_AUTH_REALM_URI": realm.url,
        }
        conf = {
            "labels": ",".join(TINY_LABELS),
            "max_upload": "1",
            "origins": VIEWER,
            "hosts": "labels.hospital.example",
        }
        super().__init__(folder, study, conf, env)
        self._command += ["--ssl_certfile", str(certificate), "--ssl_keyfile", str(key), "--verbose", "DEBUG"]
        self.plain, self.url = self.url, f"https://localhost:{self.port}"
        self.realm, self.certificate = realm, certificate
        self.before: set[Path] = set()

    def answers(self, asked: str) -> bool:
        """Asked by the administrator, as a stranger would not get in."""
        return self.ask("GET", asked, "adam").ok

    def ask(
        self, method: str, path: str, who: str | None = None, token: str = "", **arguments: Any
    ) -> requests.Response:
        """One request; the certificate is checked."""
        token = token or (self.realm.token(who) if who else "")
        headers = {**arguments.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        url, verify = self.url + path, str(self.certificate)
        return requests.request(method, url, headers=headers, verify=verify, timeout=120, **arguments)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    base = tmp_path_factory.mktemp("secure")
    certificate, key = base / "server.crt", base / "server.key"
    # As docs/how-to/security.md has it.
    command = [openssl, "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "365", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    realm = Realm()
    running = SecureServer(base / "server", make_tiny_study(base / "study", scans=2), realm, certificate, key)
    running.start()
    running.before = temporary_files(running)
    yield running
    running.stop()
    realm.stop()


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_only_tls_is_spoken(server: SecureServer) -> None:
    assert server.ask("GET", "/info/", "uma").json()["name"] == "semisam"
    with pytest.raises(requests.ConnectionError):
        requests.get(server.plain + "/info/", timeout=20)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(server.url + "/info/", timeout=20)  # a certificate that nobody vouches for


# --- who may do what --------------------------------------------------------------------------------------------------


def routes(server: SecureServer) -> list[tuple[str, str]]:
    """Every method and path, with something in the place of each parameter."""
    described = server.ask("GET", "/openapi.json").json()["paths"]
    known = [(method.upper(), path) for path, methods in described.items() for method in methods]
    return [(method, re.sub(r"\{.*?\}", "segment", path)) for method, path in known] + HIDDEN


def test_nothing_without_a_token(server: SecureServer) -> None:
    asked = [(method, path) for method, path in routes(server) if path not in OPEN]
    assert len(asked) > 40
    assert ("GET", "/semisam/reports/segment") in asked
    got = {(method, path): server.ask(method, path).status_code for method, path in asked}
    assert {call: status for call, status in got.items() if status != 401} == {}
    assert server.ask("POST", "/reload").status_code in (404, 405)
    for path in ("/", "/docs", "/openapi.json"):
        assert server.ask("GET", path).ok


def test_nothing_without_a_role(server: SecureServer) -> None:
    asked = [(m, p) for m, p in routes(server) if p not in OPEN]
    got = {(method, path): server.ask(method, path, "nobody").status_code for method, path in asked}
    # What has no body is answered with 422 before the role is looked at; a role alone is never enough for more.
    assert {call: status for call, status in got.items() if status not in (403, 422)} == {}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/info/", "uma anna adam"),
        ("GET", "/semisam/reports/latest", "uma anna adam"),
        ("GET", "/datastore/?output=all", "uma anna adam"),
        ("POST", "/activelearning/random", "uma anna adam"),
        ("PUT", "/datastore/image/info?image=case_2", "anna adam"),
        ("POST", "/scoring/nothing", "anna adam"),
        ("POST", "/train/nothing", "adam"),
        ("POST", "/batch/infer/nothing", "adam"),
        ("DELETE", "/datastore/image?id=nothing", "adam"),
        ("DELETE", "/datastore/label?id=nothing&tag=final", "adam"),
        ("GET", "/logs/?text=true", "adam"),
    ],
)
def test_roles(server: SecureServer, method: str, path: str, allowed: str) -> None:
    for who in ("uma", "anna", "adam"):
        status = server.ask(method, path, who).status_code
        assert (status not in (401, 403)) == (who in allowed.split()), (who, status)
        assert status < 500


def test_tokens_that_are_none(server: SecureServer) -> None:
    realm = server.realm
    good = realm.token("adam")
    head, body, _ = good.split(".")
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    bad = {
        "garbage": "garbage",
        "unsigned": jwt.encode({"preferred_username": "adam"}, "", algorithm="none"),
        "without its signature": f"{head}.{body}.",
        "of another realm": realm.token("adam", key=other),
        "signed with the public key": realm.token("adam", key="x" * 64, algorithm="HS256"),
        "expired": realm.token("adam", exp=int(time.time()) - 5),
        "never to expire": realm.token("adam", exp=None),
        "of nobody": realm.token("adam", preferred_username=None),
    }
    got = {kind: server.ask("GET", "/info/", token=token).status_code for kind, token in bad.items()}
    assert got == dict.fromkeys(bad, 401)
    assert server.ask("GET", "/info/", token=realm.token("adam", realm_access=None)).status_code == 403
    assert server.ask("GET", "/info/", token=realm.token("adam", realm_access={"roles": USER})).status_code == 403
    assert server.ask("GET", "/info/", token=good).ok


def test_log_in(server: SecureServer) -> None:
    form = {"username": "uma", "password": PASSWORD}
    token = server.ask("POST", "/auth/token", data=form).json()["access_token"]
    assert server.ask("GET", "/info/", token=token).ok
    assert server.ask("GET", "/auth/token/valid", token=token).json()["username"] == "uma"
    reply = server.ask("POST", "/auth/token", data={**form, "password": "wrong"})
    assert reply.status_code == 401
    assert "password" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        (VIEWER, True),
        ("http://localhost:3000", True),
        ("https://evil.example", False),
        (f"{VIEWER}.evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
    ],
)
def test_pages_of_others(server: SecureServer, origin: str, welcome: bool) -> None:
    reply = server.ask("GET", "/info/", "uma", headers={"Origin": origin})
    assert ("access-control-allow-origin" in reply.headers) == welcome
    reply = server.ask("POST", "/activelearning/random", "uma", headers={"Origin": origin})
    assert reply.ok if welcome else reply.status_code == 403


def test_own_pages(server: SecureServer) -> None:
    own = {"Origin": "https://labels.hospital.example", "Host": "labels.hospital.example"}
    assert server.ask("POST", "/activelearning/random", "uma", headers=own).ok


# --- uploads ----------------------------------------------------------------------------------------------------------

TOO_MUCH = 3 * 2**20
BOUNDARY = "----semisam"


def pieces(content: bytes) -> Iterator[bytes]:
    """A multipart body in pieces: sent without a length."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="new.nii.gz"\r\n\r\n'
    yield head.encode()
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def temporary_files(server: SecureServer) -> set[Path]:
    return {path for path in (server.folder / "tmp").rglob("*") if path.is_file()}


def left_over(server: SecureServer) -> set[Path]:
    """Temporary files that uploads have left; MONAI Label itself leaves the settings of its log when it starts."""
    until = time.monotonic() + 10  # the answer goes out first
    while temporary_files(server) - server.before and time.monotonic() < until:
        time.sleep(0.1)
    return temporary_files(server) - server.before


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("PUT", "/datastore/image?image=new", "file"),
        ("PUT", "/datastore/label?image=case_2&tag=final", "label"),
        ("POST", "/infer/propagate", "file"),
        ("POST", "/infer/propagate?image=case_2", "label"),
        ("PUT", "/session/", "files"),
        ("PUT", "/model/segment", "file"),
    ],
)
def test_large_uploads_are_refused(server: SecureServer, method: str, path: str, name: str) -> None:
    reply = server.ask(method, path, "adam", files={name: ("new.nii.gz", os.urandom(TOO_MUCH))})
    assert reply.status_code == 413
    assert "larger than 1 MiB" in reply.json()["detail"]
    assert "max_upload" in reply.json()["detail"]
    assert not left_over(server)


def test_large_uploads_without_a_length_are_refused(server: SecureServer) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    scan = (server.study / "case_2.nii.gz").read_bytes()
    put = "/datastore/image?image=new"
    reply = server.ask("PUT", put, "adam", data=pieces(os.urandom(TOO_MUCH)), headers=headers)
    assert reply.status_code == 413
    assert "larger than 1 MiB" in reply.json()["detail"]
    assert not (server.study / "new.nii.gz").exists()
    assert not left_over(server)
    assert server.ask("PUT", put, "adam", data=pieces(scan), headers=headers).json() == {"image": "new"}
    assert (server.study / "new.nii.gz").read_bytes() == scan
    assert not left_over(server)


def test_long_json_is_refused(server: SecureServer) -> None:
    reply = server.ask("POST", "/activelearning/random", "uma", json={"client_id": "a" * TOO_MUCH})
    assert reply.status_code == 413
    assert "longer than" in reply.json()["detail"]


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_told(server: SecureServer) -> None:
    token = server.realm.token("adam")
    server.ask("POST", "/auth/token", data={"username": "uma", "password": PASSWORD})
    server.ask("GET", f"/datastore/image?image=Bearer%20{token}", token=token)
    server.ask("POST", "/infer/propagate?image=case_2", token=token, data={"params": '{"client_id": "s3cret-api-key"}'})
    texts = {
        "printed": server.log.read_text(errors="replace"),
        "app.log": (server.app / "logs" / "app.log").read_text(errors="replace"),
        "/logs/": server.ask("GET", "/logs/?text=true&lines=100000", token=token).text,
        "/info/": server.ask("GET", "/info/", token=token).text,
        "/openapi.json": server.ask("GET", "/openapi.json").text,
    }
    assert "DEBUG" in texts["printed"]
    for where, text in texts.items():
        told = [secret for secret in (*SECRETS.values(), PASSWORD, token) if secret in text]
        assert told == [], where


# --- a proxy in front -------------------------------------------------------------------------------------------------


def test_behind_nginx_as_documented(server: SecureServer, tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if nginx is None:
        not_installed("nginx")
    text = (ROOT / "docs" / "how-to" / "security.md").read_text(encoding="utf-8")
    site = re.search(r"```nginx\n(.*?)```", text, flags=re.S)
    assert site is not None
    front, redirect = free_port(), free_port()
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{front} ssl",
        "listen 80;": f"listen 127.0.0.1:{redirect};",
        "labels.hospital.example": "localhost",
        "/etc/ssl/semisam/server.crt": str(server.certificate),
        "/etc/ssl/semisam/server.key": str(server.certificate.with_suffix(".key")),
        "http://127.0.0.1:8000": f"https://127.0.0.1:{server.port}",
        "client_max_body_size 2g": "client_max_body_size 2m",
    }
    content = site[1]
    for old, new in changes.items():
        assert old in content, old
        content = content.replace(old, new)
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; daemon off; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{content}\n}}"
    )
    process = subprocess.Popen([nginx, "-c", str(config), "-p", str(tmp_path)])
    try:
        url = f"https://localhost:{front}"
        until = time.monotonic() + 30
        while time.monotonic() < until and not (tmp_path / "pid").exists():
            time.sleep(0.1)

        def ask(method: str, path: str, **arguments: Any) -> requests.Response:
            headers = {"Authorization": f"Bearer {server.realm.token('adam')}"}
            verify = str(server.certificate)
            return requests.request(method, url + path, headers=headers, verify=verify, timeout=120, **arguments)

        assert ask("GET", "/info/").json()["name"] == "semisam"
        assert ask("GET", "/ohif/").ok
        assert ask("PUT", "/session/", files={"files": ("a.nii.gz", os.urandom(TOO_MUCH))}).status_code == 413
        scan = (server.study / "case_2.nii.gz").read_bytes()
        assert ask("PUT", "/session/", files={"files": ("a.nii.gz", scan)}).ok
        moved = requests.get(f"http://localhost:{redirect}/info/", allow_redirects=False, timeout=20)
        assert moved.status_code == 301
        assert moved.headers["Location"] == "https://localhost/info/"
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_variables(make: Callable[..., Any], *words: str) -> str:
    """What ``make serve`` would run."""
    return str(make(["make", "-n", "serve", *words], capture_output=True, text=True, check=True, cwd=ROOT).stdout)


def test_make_serve_listens_on_this_machine_only() -> None:
    assert "--host '127.0.0.1'" in make_variables(subprocess.run, "STUDIES=/data/study")
    assert "--host '0.0.0.0'" in make_variables(subprocess.run, "STUDIES=/data/study", "HOST=0.0.0.0")

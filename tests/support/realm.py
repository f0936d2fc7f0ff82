"""A log-in server as Keycloak would be: it gives its key, and tokens to those who know the password."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PASSWORD = "correct horse"
USER, ANNOTATOR, ADMIN = "monailabel-user", "monailabel-annotator", "monailabel-admin"
ROLES = {"uma": [USER], "anna": [USER, ANNOTATOR], "adam": [USER, ANNOTATOR, ADMIN], "nobody": []}


class Realm:
    """The realm ``hospital``, on a free loopback port."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        realm = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                configuration = self.path.endswith("/.well-known/openid-configuration")
                self.answer(
                    200, {"token_endpoint": f"{realm.url}/token"} if configuration else {"public_key": realm.public}
                )

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {key: value[0] for key, value in urllib.parse.parse_qs(body).items()}
                if form.get("password") == PASSWORD and form.get("username") in ROLES:
                    token = realm.token(form["username"])
                    self.answer(200, {"access_token": token, "token_type": "Bearer"})
                else:
                    self.answer(401, {"error": "invalid_grant"})

            def answer(self, status: int, content: dict[str, Any]) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/realms/hospital"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def public(self) -> str:
        """The public key as Keycloak shows it: DER in base64."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return base64.b64encode(self.key.public_key().public_bytes(serialization.Encoding.DER, form)).decode()

    def token(self, name: str, *, key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
        """A token for a user; ``changes`` go over its content, None leaves something out."""
        content = {
            "preferred_username": name,
            "email": f"{name}@hospital.example",
            "exp": int(time.time()) + 600,
            "aud": "account",
            "realm_access": {"roles": ROLES.get(name, [])},
            **changes,
        }
        kept = {k: v for k, v in content.items() if v is not None}
        return jwt.encode(kept, self.key if key is None else key, algorithm=algorithm)

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

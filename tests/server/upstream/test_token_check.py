"""MONAI Label refuses every token, because it calls PyJWT as version 1 wanted it."""

from __future__ import annotations

from collections.abc import Iterator

import jwt
import pytest
from monailabel.config import settings
from monailabel.endpoints.user import auth

from realm import ADMIN, Realm
from server.upstream import token_check
from upstream_parts import as_brought


@pytest.fixture
def realm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Realm]:
    realm = Realm()
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", realm.url)
    with as_brought((auth, "from_token")):
        yield realm


def test_a_good_token_is_refused_without_us(realm: Realm) -> None:
    token = realm.token("adam")
    with pytest.raises(jwt.InvalidTokenError):
        auth.from_token(token)
    token_check.install()
    user = auth.from_token(token)
    assert user.username == "adam"
    assert ADMIN in user.roles


def test_a_token_that_nobody_has_signed_is_refused_by_ours(realm: Realm) -> None:
    token_check.install()
    forged = jwt.encode({"preferred_username": "adam", "exp": 2**33}, "a secret of somebody's own, long enough")
    with pytest.raises(jwt.InvalidTokenError):
        auth.from_token(forged)


def test_everybody_is_the_default_user_without_log_ins() -> None:
    with as_brought((auth, "from_token")):
        token_check.install()
        assert auth.from_token("") is auth.DEFAULT_USER

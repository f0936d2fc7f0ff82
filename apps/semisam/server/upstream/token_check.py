"""Tokens of the log-in are checked as PyJWT 2 wants it; as MONAI Label checks them, all are refused.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/user/auth.py``, ``from_token``; PyJWT 2.x.
- Wrong: it checks the tokens of a Keycloak realm, but calls PyJWT as version 1 wanted it. With version 2, which MONAI
  Label requires itself, ``jwt.decode`` without ``algorithms`` refuses every token.
- Done: ``user_of`` in its place, which names the algorithms that are accepted.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/user/auth.py,
  https://pyjwt.readthedocs.io/en/stable/changelog.html (2.0.0)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import jwt
import requests
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.endpoints.user import auth
from monailabel.endpoints.user.auth import User

from .replacing import Function, replace

logger = logging.getLogger("semisam.login")

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
"""Signatures by the realm's RSA key. Nothing symmetric: the public key would do as its secret."""


def install() -> None:
    """Put ``user_of`` in the place of MONAI Label's check of tokens."""
    replace(auth, "from_token", _checked)


def _checked(own: Function) -> Function:
    def from_token(token: str) -> User:
        return user_of(token)

    return from_token


def user_of(token: str) -> User:
    """Who a token belongs to, with the roles that the realm has given them.

    Raises:
        jwt.InvalidTokenError: for a token that is not signed by the realm or has expired: answered with 401.
        HTTPException: (503) when the realm cannot be asked for its key.
    """
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        return auth.DEFAULT_USER
    try:
        key = auth.get_public_key(settings.MONAI_LABEL_AUTH_REALM_URI)
    except (requests.RequestException, KeyError, ValueError) as error:
        logger.error("The log-in server does not give its key: %s", error)
        raise HTTPException(503, "The log-in server cannot be reached. Try again later.") from error
    options = cast(Any, {"require": ["exp"], "verify_aud": False})
    payload: Mapping[str, Any] = jwt.decode(token, key, algorithms=list(_ALGORITHMS), options=options)
    name = _text(payload, settings.MONAI_LABEL_AUTH_TOKEN_USERNAME) or _text(payload, "sub")
    if not name:
        raise jwt.InvalidTokenError("the token names no user")
    return User(
        username=name,
        email=_text(payload, settings.MONAI_LABEL_AUTH_TOKEN_EMAIL),
        name=_text(payload, settings.MONAI_LABEL_AUTH_TOKEN_NAME),
        roles=_roles(payload, settings.MONAI_LABEL_AUTH_TOKEN_ROLES),
    )


def _text(payload: Mapping[str, Any], key: str) -> str | None:
    value = payload.get(key)
    return value if isinstance(value, str) else None


def _roles(payload: Mapping[str, Any], path: str) -> list[str]:
    """The list at ``realm_access#roles``; empty when there is none."""
    value: Any = payload
    for key in path.split("#"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return [role for role in value if isinstance(role, str)] if isinstance(value, list) else []

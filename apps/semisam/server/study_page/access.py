"""Who may use the page: MONAI Label's log-in, from a header or a cookie, and no page but the server's own.

A browser that opens a page sends no token of MONAI Label's log-in, so it is kept in a cookie. Cookies are sent along by
pages of others, too: whatever changes something needs a mark that only the server's own page can read.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable

import jwt
from fastapi import Depends, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import DEFAULT_USER, User

from lib.core.errors import UserError
from server.errors import http_answers
from server.people.door import lacks, token_in, user_in
from server.upstream.token_check import user_of
from server.web.request_head import check_same_origin, unknown

MARK = "X-Semisam-Mark"
"""Header with the mark."""
_MARK = secrets.token_urlsafe(24)

SignedIn = Callable[..., Awaitable[User]]


def mark() -> str:
    """The mark that requests which change something must bring; another one after each start of the server."""
    return _MARK


def needs(role: str) -> SignedIn:
    """A dependency: the user, who has this role; without a log-in anybody.

    Raises:
        HTTPException: (401) without a valid token, (403) without the role.
    """

    async def signed_in(request: Request) -> User:
        if not settings.MONAI_LABEL_AUTH_ENABLE:
            return DEFAULT_USER
        user = who(request)
        if role not in user.roles:
            raise lacks(user, role, own=user_in(request.scope) is not None)
        return user

    return signed_in


def may(user: User) -> str:
    """What a user may do besides reading, for the page's buttons: ``annotate``, ``administer``, both, or nothing."""
    words = {
        "annotate": settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
        "administer": settings.MONAI_LABEL_AUTH_ROLE_ADMIN,
    }
    return " ".join(word for word, role in words.items() if role in user.roles)


def who(request: Request) -> User:
    """The user of a request.

    Raises:
        HTTPException: (401) without a valid token.
    """
    known = user_in(request.scope)
    if known is not None:
        return known
    token = token_in(request.scope)
    try:
        if token:
            return user_of(token)
    except jwt.InvalidTokenError:
        pass
    raise unknown()


def own_page(request: Request) -> None:
    """A dependency of what changes something.

    Raises:
        HTTPException: (403) for a page of somebody else, (400) without the mark.
    """
    with http_answers():
        check_same_origin(request.scope)
        if not hmac.compare_digest(request.headers.get(MARK, ""), _MARK):
            raise UserError(
                f"The request lacks the header {MARK}, or brings that of before the server was started anew. Load the "
                "page again; a program asks GET /semisam/api/mark for it."
            )


READER = Depends(needs(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(needs(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
ADMINISTRATOR = Depends(needs(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))
OWN_PAGE = Depends(own_page)

"""Log-ins with a password, and the tokens that stand for them: JSON Web Tokens (RFC 7519), signed with HMAC-SHA256."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from pathlib import Path

import jwt
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.endpoints.user.auth import User
from starlette.concurrency import run_in_threadpool

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.people import ADMIN, ANNOTATOR, READER, Person, UsersFile
from server.web.request_head import unknown

from .throttle import Throttle

logger = logging.getLogger("semisam.login")

HOURS = 12
_ALGORITHM = "HS256"
_UNKNOWN_SECONDS = 0.3
"""About what a known name takes, so that an answer does not tell names; it costs no computing."""
_CHECKS_AT_ONCE = 2
_LOGGED_OUT = "Log in again: you were logged out."
REFUSED = "This user name with this password is not known here."


def roles_of(role: str) -> list[str]:
    """MONAI Label's roles for one of ours."""
    user, annotator = settings.MONAI_LABEL_AUTH_ROLE_USER, settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR
    reviewer, admin = settings.MONAI_LABEL_AUTH_ROLE_REVIEWER, settings.MONAI_LABEL_AUTH_ROLE_ADMIN
    known = {READER: [user], ANNOTATOR: [user, annotator], ADMIN: [user, annotator, reviewer, admin]}
    return known[role]


class LogIn:
    """Knows the users, checks passwords and tokens.

    Args:
        users: file of the users.
        key_file: where the key that signs tokens is kept, so that a restart logs nobody out.
    """

    def __init__(self, users: Path, key_file: Path) -> None:
        self._users = UsersFile(users)
        self._key = _key(key_file)
        self._throttle = Throttle()
        self._checks = asyncio.Semaphore(_CHECKS_AT_ONCE)

    async def token(self, name: str, password: str, address: str) -> str:
        """A token for who gives the right password.

        Args:
            name: of the user.
            password: given.
            address: where the request comes from.

        Raises:
            HTTPException: (401) for a wrong name or password, (429) while too many wrong ones have come.
        """
        who = (address, name)
        left = self._throttle.seconds_left(who)
        if left > 0:
            seconds = int(left) + 1
            raise HTTPException(
                429, f"Too many wrong passwords. Try again in {seconds} s.", {"Retry-After": str(seconds)}
            )
        self._throttle.failed(who)  # before the check: a hundred tries at once count, too
        person = self._users.people().get(name)
        if person is None:
            await asyncio.sleep(_UNKNOWN_SECONDS)
        else:
            async with self._checks:
                if await run_in_threadpool(person.knows, password):
                    self._throttle.passed(who)
                    logger.info("%s has logged in as %s", person.name, person.role)
                    return self._token_of(person)
        logger.warning("A wrong password, or an unknown name, from %s", address)
        raise unknown(REFUSED)

    def _token_of(self, person: Person) -> str:
        now = int(time.time())
        payload = {"sub": person.name, "mark": person.mark, "iat": now, "exp": now + HOURS * 3600}
        return jwt.encode(payload, self._key, algorithm=_ALGORITHM)

    def user(self, token: str) -> User:
        """Whose token it is, with the roles of now.

        Raises:
            HTTPException: (401) when it is no token, too old, or of somebody who may no longer log in.
        """
        try:
            payload = jwt.decode(token, self._key, algorithms=[_ALGORITHM], options={"require": ["exp", "sub"]})
        except jwt.InvalidTokenError as error:
            raise unknown(_LOGGED_OUT) from error
        person = self._users.people().get(str(payload["sub"]))
        if person is None or payload.get("mark") != person.mark:
            raise unknown(_LOGGED_OUT)
        return User(username=person.name, name=person.name, roles=roles_of(person.role))


def _key(file: Path) -> str:
    """The key, made when it is not there."""
    try:
        found = file.read_text(encoding="ascii").strip()
        if len(found) >= 32:
            return found
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The key of the log-in cannot be read from {file}: {error}.", status=500) from error
    made = secrets.token_hex(32)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda name: Path(name).write_text(made, encoding="ascii"), private=True)
    return made

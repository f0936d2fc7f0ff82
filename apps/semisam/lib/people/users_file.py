"""A file of users: one line each, ``name:role:bcrypt hash``, readable for its owner only."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bcrypt

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.program import program, to_run

READER, ANNOTATOR, ADMIN = "reader", "annotator", "admin"
ROLES = (READER, ANNOTATOR, ADMIN)
"""Each may do what those before it may, and more."""

LEAST_PASSWORD = 10
"""Characters of the shortest password."""
_MOST_BYTES = 72
"""bcrypt looks at no more."""
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_HASH = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")


@dataclass(frozen=True)
class Person:
    """Somebody who may log in.

    Args:
        name: letters, digits and ``_.@-``.
        role: see ``ROLES``.
        hashed: bcrypt hash of the password.
    """

    name: str
    role: str
    hashed: str

    @property
    def mark(self) -> str:
        """Changes with the password, and says nothing about it."""
        return hashlib.sha256(self.hashed.encode()).hexdigest()[:16]

    def knows(self, password: str) -> bool:
        """Whether this is the password; takes a quarter of a second, by design."""
        given = password.encode()
        return len(given) <= _MOST_BYTES and bcrypt.checkpw(given, self.hashed.encode())


class UsersFile:
    """A file of users, read anew whenever it has changed.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: tuple[int, int, int] | None = None
        self._people: Mapping[str, Person] = {}
        self._lock = threading.Lock()

    def people(self) -> Mapping[str, Person]:
        """All users by name.

        Raises:
            UserError: (500) when the file cannot be read or a line is no user; with the line's number.
        """
        with self._lock:
            try:
                found = os.stat(self.path)
                seen = (found.st_mtime_ns, found.st_size, found.st_ino)
                if seen != self._read_at:
                    self._people = _parse(self.path.read_text(encoding="utf-8"), self.path)
                    self._read_at = seen
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"users: {self.path} cannot be read ({error}).", status=500) from error
            return self._people

    def save(self, people: Mapping[str, Person]) -> None:
        """Write all users; the file is for its owner only."""
        text = "".join(f"{one.name}:{one.role}:{one.hashed}\n" for one in people.values())

        write_whole(
            self.path,
            lambda name: Path(name).write_text(f"# Made by: {program()} users\n{text}", encoding="utf-8"),
            private=True,
        )


def hash_password(password: str) -> str:
    """The bcrypt hash of a new password.

    Raises:
        UserError: when it is too short or too long.
    """
    if len(password) < LEAST_PASSWORD:
        raise UserError(f"The password is too short. Take at least {LEAST_PASSWORD} characters.")
    if len(password.encode()) > _MOST_BYTES:
        raise UserError(f"The password is too long. Take at most {_MOST_BYTES} bytes.")
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt()).decode()


def check_name(name: str) -> str:
    """The name, if it may be one.

    Raises:
        UserError: when it has other characters.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a user's name. Use up to 64 letters, digits and _ . @ -")
    return name


def _parse(text: str, path: Path) -> dict[str, Person]:
    people: dict[str, Person] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.strip().split(":")
        if len(parts) != 3 or not _NAME.fullmatch(parts[0]) or parts[1] not in ROLES or not _HASH.fullmatch(parts[2]):
            raise UserError(
                f"users: line {number} of {path} is no user. Write name:role:hash with a role of {', '.join(ROLES)}; "
                f"best by: {to_run('users add')}",
                status=500,
            )
        if parts[0] in people:
            raise UserError(f"users: {parts[0]} stands twice in {path} (line {number}). Remove one.", status=500)
        people[parts[0]] = Person(*parts)
    return people

"""A server with ``--conf users`` and one person for each role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lib.people import Person, UsersFile, hash_password
from server_process import Server
from tiny_study import TINY_LABELS, make_tiny_study

GOOD = "correct horse"
"""Everybody's password."""


def save_people(file: Path, names: Mapping[str, str]) -> None:
    """Write a file of users.

    Args:
        file: is written.
        names: of the people, by role.
    """
    hashed = hash_password(GOOD)
    UsersFile(file).save({name: Person(name, role, hashed) for role, name in names.items()})


@contextmanager
def serving_people(folder: Path, names: Mapping[str, str]) -> Iterator[Server]:
    """The server of a tiny study, once it answers.

    Args:
        folder: for app, study and users.
        names: of the people, by role.
    """
    save_people(folder / "users", names)
    study = make_tiny_study(folder / "study", scans=3, finals=1)
    running = Server(folder, study, {"labels": ",".join(TINY_LABELS), "users": str(folder / "users")})
    running.start("/auth/")
    yield running
    running.stop()

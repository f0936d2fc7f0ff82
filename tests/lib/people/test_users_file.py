"""A file of users: what it takes, and that it tells nobody a password."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.people import ADMIN, READER, Person, UsersFile, hash_password

GOOD = "correct horse battery"


@pytest.fixture(scope="module")
def hashed() -> str:
    return hash_password(GOOD)


def test_users_are_found_again_and_their_file_is_the_owners_only(tmp_path: Path, hashed: str) -> None:
    file = tmp_path / "users"
    UsersFile(file).save({"anna": Person("anna", ADMIN, hashed)})
    found = UsersFile(file).people()["anna"]
    assert (found.role, found.knows(GOOD), found.knows("something else")) == (ADMIN, True, False)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert GOOD not in file.read_text()


def test_a_change_of_the_file_counts_at_once(tmp_path: Path, hashed: str) -> None:
    file = UsersFile(tmp_path / "users")
    file.save({"anna": Person("anna", READER, hashed)})
    assert set(file.people()) == {"anna"}
    file.save({"anna": Person("anna", READER, hashed), "ben": Person("ben", ADMIN, hashed)})
    assert set(file.people()) == {"anna", "ben"}


def test_another_password_has_another_mark(hashed: str) -> None:
    assert Person("anna", READER, hashed).mark != Person("anna", READER, hash_password(GOOD)).mark


@pytest.mark.parametrize(
    "line", ["anna", "anna:owner:HASH", "anna:admin:secret", "an na:admin:HASH", "anna:admin:HASH\nanna:reader:HASH"]
)
def test_a_line_that_is_no_user_is_told_with_its_number(tmp_path: Path, hashed: str, line: str) -> None:
    file = tmp_path / "users"
    file.write_text("# people\n" + line.replace("HASH", hashed))
    with pytest.raises(UserError, match=r"line [23]"):
        UsersFile(file).people()


@pytest.mark.parametrize(("password", "problem"), [("short", "too short"), ("ä" * 40, "too long")])
def test_passwords_that_protect_nothing_are_refused(password: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        hash_password(password)

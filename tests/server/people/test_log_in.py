"""Passwords, and the tokens that stand for them."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path

import jwt
import pytest
from fastapi import HTTPException

from lib.people import ADMIN, READER, Person, UsersFile, hash_password
from server.people.log_in import LogIn

GOOD = "correct horse"


@pytest.fixture(scope="module")
def hashed() -> str:
    return hash_password(GOOD)


@pytest.fixture
def users(tmp_path: Path, hashed: str) -> UsersFile:
    file = UsersFile(tmp_path / "users")
    file.save({"anna": Person("anna", READER, hashed), "adam": Person("adam", ADMIN, hashed)})
    return file


@pytest.fixture
def log_in(users: UsersFile, tmp_path: Path) -> LogIn:
    return LogIn(users.path, tmp_path / "key")


def token(log_in: LogIn, name: str = "anna", password: str = GOOD, address: str = "10.0.0.1") -> str:
    return asyncio.run(log_in.token(name, password, address))


def refused(log_in: LogIn, made: str) -> bool:
    try:
        log_in.user(made)
    except HTTPException as error:
        return error.status_code == 401
    return False


def test_the_right_password_gives_a_token_with_the_role(log_in: LogIn) -> None:
    user = log_in.user(token(log_in, "adam"))
    assert user.username == "adam"
    assert "monailabel-admin" in user.roles
    assert log_in.user(token(log_in, "anna")).roles == ["monailabel-user"]


@pytest.mark.parametrize(("name", "password"), [("anna", "wrong horse"), ("nobody", GOOD), ("anna", ""), ("", "")])
def test_wrong_names_and_passwords_get_one_answer(log_in: LogIn, name: str, password: str) -> None:
    with pytest.raises(HTTPException) as error:
        token(log_in, name, password)
    assert (error.value.status_code, error.value.detail) == (
        401,
        "This user name with this password is not known here.",
    )


def test_a_restart_logs_nobody_out(log_in: LogIn, users: UsersFile, tmp_path: Path) -> None:
    made = token(log_in)
    assert LogIn(users.path, tmp_path / "key").user(made).username == "anna"
    assert stat.S_IMODE(os.stat(tmp_path / "key").st_mode) == 0o600


def test_another_password_or_a_removal_logs_out_at_once(log_in: LogIn, users: UsersFile, hashed: str) -> None:
    anna, adam = token(log_in, "anna"), token(log_in, "adam")
    users.save({"anna": Person("anna", READER, hash_password("another horse"))})
    assert refused(log_in, anna)
    assert refused(log_in, adam)


def test_tokens_of_others_and_without_a_signature_do_not_count(log_in: LogIn, users: UsersFile) -> None:
    payload = {"sub": "adam", "mark": users.people()["adam"].mark, "exp": int(time.time()) + 60}
    key = log_in._key
    assert not refused(log_in, jwt.encode(payload, key, algorithm="HS256"))
    assert refused(log_in, jwt.encode(payload, "another key of thirty-two letters", algorithm="HS256"))
    assert refused(log_in, jwt.encode(payload, None, algorithm="none"))  # type: ignore[arg-type]
    assert refused(log_in, jwt.encode({**payload, "exp": int(time.time()) - 1}, key, algorithm="HS256"))
    assert refused(log_in, jwt.encode({"sub": "adam", "mark": payload["mark"]}, key, algorithm="HS256"))


def test_ten_thousand_wrong_passwords_keep_nobody_else_out(log_in: LogIn) -> None:
    async def attack(count: int) -> list[int]:
        async def one(number: int) -> int:
            try:
                await log_in.token("anna" if number % 2 else f"guess{number}", f"wrong {number}", "10.6.6.6")
            except HTTPException as error:
                return error.status_code
            return 200

        return await asyncio.gather(*(one(number) for number in range(count)))

    async def meanwhile() -> tuple[list[int], float]:
        attacks = asyncio.ensure_future(attack(10_000))
        await asyncio.sleep(0.01)
        start = time.monotonic()
        await log_in.token("adam", GOOD, "10.0.0.1")
        await log_in.token("anna", GOOD, "10.0.0.2")
        seconds = time.monotonic() - start
        return await attacks, seconds

    statuses, seconds = asyncio.run(meanwhile())
    assert set(statuses) == {401, 429}
    assert seconds < 10

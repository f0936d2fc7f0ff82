"""The command ``main.py users``: who may log in."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from lib.core.errors import UserError
from lib.people.users_file import READER, ROLES, Person, UsersFile, check_name, hash_password


def users_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: of ``main.py``.
    """
    users = commands.add_parser("users", help="say who may log in (for --conf users FILE)")
    actions = users.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="add a user, or give one another password or role")
    add.add_argument("file", metavar="FILE", type=Path, help="file of users; made if it is not there")
    add.add_argument("name", metavar="NAME", help="letters, digits and _ . @ -")
    add.add_argument("--role", choices=ROLES, help=f"what they may do (default: {READER}, or what it was)")
    add.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    add.set_defaults(run=_add)
    remove = actions.add_parser("remove", help="remove a user; they are logged out at once")
    remove.add_argument("file", metavar="FILE", type=Path)
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(run=_remove)
    listing = actions.add_parser("list", help="show who may log in")
    listing.add_argument("file", metavar="FILE", type=Path)
    listing.set_defaults(run=_list)


def _add(chosen: argparse.Namespace) -> int:
    file = UsersFile(chosen.file)
    people = dict(file.people()) if chosen.file.exists() else {}
    before = people.get(check_name(chosen.name))
    role = chosen.role or (before.role if before else READER)
    people[chosen.name] = Person(chosen.name, role, hash_password(_password(chosen)))
    file.save(people)
    print(f"{chosen.name} may log in as {role}." + (" The former password no longer counts." if before else ""))
    return 0


def _password(chosen: argparse.Namespace) -> str:
    if chosen.password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"New password of {chosen.name}: ")
    if getpass.getpass("Again: ") != password:
        raise UserError("The two passwords differ. Nothing was changed.")
    return password


def _remove(chosen: argparse.Namespace) -> int:
    file = UsersFile(chosen.file)
    people = dict(file.people())
    if people.pop(chosen.name, None) is None:
        raise UserError(f"There is no user {chosen.name} in {chosen.file}.")
    file.save(people)
    print(f"{chosen.name} may no longer log in.")
    return 0


def _list(chosen: argparse.Namespace) -> int:
    for person in UsersFile(chosen.file).people().values():
        print(f"{person.name:<24} {person.role}")
    return 0

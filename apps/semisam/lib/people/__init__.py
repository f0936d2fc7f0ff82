"""The people who may use a server, for sites without a log-in server: a file with names, roles and hashed passwords."""

from __future__ import annotations

from .users_file import ADMIN, ANNOTATOR, READER, ROLES, Person, UsersFile, hash_password

__all__ = ["ADMIN", "ANNOTATOR", "READER", "ROLES", "Person", "UsersFile", "hash_password"]

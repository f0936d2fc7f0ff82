"""Where pip looks for packages on this machine, and how it gets there: read from pip, so that nothing is set up twice.

pip's own command lists what it has read from its files and from variables such as ``PIP_INDEX_URL``
(https://pip.pypa.io/en/stable/topics/configuration/). Passwords that it holds are never written down or shown.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

from lib.core.errors import UserError
from lib.upstream.pip_index import index_of_pip

_SECTIONS = ("global", "install", "download", ":env:")
"""Parts of pip's settings, each overruling those before it."""
_SECONDS = 60.0


def public_index() -> str:
    """The address of the index that pip asks when nobody names one, as this machine's pip knows it.

    Raises:
        UserError: (409) without pip.
    """
    index = index_of_pip()
    if index is None:
        raise UserError(
            "This Python has no pip, so it is not known which package index to ask. Name one in the variable "
            "PIP_INDEX_URL, or install pip.",
            status=409,
        )
    return index


@dataclass(frozen=True)
class PipSettings:
    """What pip is set up with.

    Args:
        indexes: addresses of package indexes, in the order they are asked; they may hold a user and a password.
        find_links: folders and pages that hold package files.
        trusted: hosts, or ``host:port``, whose certificate is not checked.
        certificate: file of the certificate authorities, None for the usual ones.
        client_certificate: file that this machine shows to a server, or None.
        proxy: address of the proxy, None for that of the environment.
        keyring: whether passwords may be asked from the program ``keyring``.
    """

    indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted: frozenset[str] = frozenset()
    certificate: str | None = None
    client_certificate: str | None = None
    proxy: str | None = field(default=None, repr=False)
    keyring: bool = False

    def login(self, url: str) -> tuple[str, str] | None:
        """User and password for an address: its own, or those of an index on the same server; None without any."""
        for known in (url, *self.indexes, *self.find_links):
            at = urlsplit(known)
            if at.username and server_of(known) == server_of(url):
                user = unquote(at.username)
                if at.password is not None or not self.keyring:
                    return user, unquote(at.password or "")
                return user, _from_keyring(without_login(known), user)
        return None


def read_pip_settings() -> PipSettings:
    """The settings of the pip beside this Python; those of the environment where there is no pip.

    Raises:
        UserError: when pip cannot tell them.
    """
    if importlib.util.find_spec("pip") is None:
        prefix = "PIP_"
        return settings_from(
            {key[len(prefix) :].lower().replace("_", "-"): v for key, v in os.environ.items() if key.startswith(prefix)}
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "config", "list"]
    try:
        # Errors of pip may show an address with a password: they are not passed on.
        listed = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError("pip does not tell its settings here: run `pip config list` and see what it says.") from error
    return settings_from(_by_name(listed))


def settings_from(values: Mapping[str, str]) -> PipSettings:
    """Settings from pip's options, by their long names without dashes in front (``extra-index-url``)."""
    asked = values.get("no-index", "").lower() not in ("1", "true", "yes", "on", "y", "t")
    more = values.get("extra-index-url", "").split()
    return PipSettings(
        (values.get("index-url") or public_index(), *more) if asked else (),
        tuple(values.get("find-links", "").split()),
        frozenset(values.get("trusted-host", "").lower().split()),
        values.get("cert") or None,
        values.get("client-cert") or None,
        values.get("proxy") or None,
        values.get("keyring-provider", "disabled") in ("import", "subprocess"),
    )


def server_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address."""
    at = urlsplit(url)
    return at.scheme.lower(), (at.hostname or "").lower(), at.port or {"http": 80, "https": 443}.get(at.scheme.lower())


def without_login(url: str) -> str:
    """An address without user and password, fit to be shown."""
    at = urlsplit(url)
    return urlunsplit(at._replace(netloc=at.netloc.rpartition("@")[2]))


def _by_name(listed: str) -> dict[str, str]:
    """The options of pip by name, from the lines ``section.name='value'`` of ``pip config list``."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listed.splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if equals and section in found:
            found[section][name] = str(ast.literal_eval(value))
    return {name: value for section in _SECTIONS for name, value in found[section].items()}


def _from_keyring(url: str, user: str) -> str:
    """The password that the program ``keyring`` holds, empty when it holds none."""
    program = shutil.which("keyring")
    if program is None:
        return ""
    try:
        asked = subprocess.run(
            [program, "get", url, user], capture_output=True, check=False, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.rstrip("\r\n") if asked.returncode == 0 else ""

"""One file found on the package indexes that pip is set up with.

The simple repository API (https://packaging.python.org/en/latest/specifications/simple-repository-api/), as HTML or
JSON, over HTTP or in a folder. Only the list of a project's files is read; nothing of a package is run or built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

import requests
from requests.adapters import HTTPAdapter

from lib.core.errors import UserError
from lib.generalists.entries import PackagedFile

from .download import reason_of
from .pip_settings import PipSettings, without_login

_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_SECONDS = (20, 60)
_LARGEST_PAGE = 2**25
"""Bytes of a list of files that are read at most."""


@dataclass(frozen=True)
class Link:
    """A file that an index names.

    Args:
        name: of the file.
        url: where it is: http, https or file.
        sha256: that the index states, empty where it states none.
    """

    name: str
    url: str
    sha256: str = ""

    @property
    def path(self) -> Path | None:
        """The file, where it lies on this machine."""
        return _path_of(self.url)


class _NoReadError(Exception):
    """A place that cannot be read; says why."""


class IndexConnection:
    """Gets addresses as pip would: its proxy, its certificates, its user and password.

    Args:
        settings: of pip.
    """

    def __init__(self, settings: PipSettings) -> None:
        self.settings = settings
        self._session = requests.Session()
        for host in settings.trusted:
            for end in ("/", ":") if ":" not in host else ("/",):
                self._session.mount(f"https://{host}{end}", _Unchecked())

    def get(self, url: str, **options: Any) -> requests.Response:
        """As ``requests.get``. Without a known password, one in ``~/.netrc`` is used."""
        settings = self.settings
        if settings.proxy:
            options["proxies"] = {"http": settings.proxy, "https": settings.proxy}
        if settings.certificate:
            options["verify"] = settings.certificate
        return self._session.get(
            without_login(url), auth=settings.login(url), cert=settings.client_certificate, **options
        )

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


class _Unchecked(HTTPAdapter):
    """For servers whose certificate is not checked (pip's ``trusted-host``)."""

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        return super().send(request, **{**options, "verify": False})


def find_file(wanted: PackagedFile, connection: IndexConnection) -> Link:
    """Where a file of a package lies: the first place that names it, and states no other hash.

    Raises:
        UserError: (404) when no place has it, (502) when a place could not be asked; with the reason of each.
    """
    reasons, status = [], 404
    for place, project in _places(wanted, connection.settings):
        try:
            links = [link for link in _links(project, connection) if link.name == wanted.file]
        except _NoReadError as error:
            reasons.append(f"{without_login(place)} {error}")
            status = 502
            continue
        good = [link for link in links if link.sha256 in ("", wanted.sha256)]
        if good:
            return good[0]
        what = "has another file of this name" if links else "does not have it"
        reasons.append(f"{without_login(place)} {what}")
    tried = "; ".join(reasons) if reasons else "pip is set up with no package index and no folder of packages"
    raise UserError(
        f"{wanted.file} was not found where pip looks for packages: {tried}. Ask those who run your package mirror for "
        f"{wanted.project} {wanted.version}, or name another index in pip's settings (PIP_INDEX_URL, or: pip config "
        "set global.index-url ADDRESS).",
        status=status,
    )


def _places(wanted: PackagedFile, settings: PipSettings) -> Iterator[tuple[str, str]]:
    """The places where pip looks, each with the page of the project, or the folder of files."""
    project = re.sub(r"[-_.]+", "-", wanted.project).lower()
    for index in settings.indexes:
        yield index, f"{index.rstrip('/')}/{project}/"
    for place in settings.find_links:
        yield place, place


def _links(place: str, connection: IndexConnection) -> list[Link]:
    """The files that a page or a folder names, none when there is no such page.

    Raises:
        _NoReadError: when it cannot be read.
    """
    folder = _path_of(place)
    if folder is None:
        return _links_of_page(place, connection)
    page = folder / "index.html" if folder.is_dir() else folder
    try:
        if page.is_file() and page.suffix in (".html", ".htm"):
            return _links_in(page.read_text(encoding="utf-8"), page.resolve().as_uri())
        return [Link(path.name, path.resolve().as_uri()) for path in folder.iterdir()] if folder.is_dir() else []
    except (OSError, ValueError) as error:
        raise _NoReadError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _links_of_page(url: str, connection: IndexConnection) -> list[Link]:
    try:
        with connection.get(url, headers={"Accept": _ACCEPT}, stream=True, timeout=_SECONDS) as reply:
            if reply.status_code in (404, 410):
                return []
            if reply.status_code in (401, 403, 407):
                raise _NoReadError(
                    f"wants a log-in (error {reply.status_code}): put user and password into its address in pip's "
                    "settings, or into ~/.netrc"
                )
            if reply.status_code != 200:
                raise _NoReadError(f"answers with the error {reply.status_code}")
            content = bytearray()
            for piece in reply.iter_content(2**16):
                content += piece
                if len(content) > _LARGEST_PAGE:
                    raise _NoReadError("sends a list of files without end")
            kind = reply.headers.get("Content-Type", "").split(";")[0].strip().lower()
            text, base = content.decode("utf-8", "replace"), reply.url
    except requests.RequestException as error:
        raise _NoReadError(f"cannot be asked ({reason_of(error)})") from error
    except OSError as error:  # a file of certificates that is not there
        raise _NoReadError(f"cannot be asked ({error})") from error
    try:
        found = _links_in_json(text, base) if kind == _JSON else _links_in(text, base)
    except (ValueError, KeyError, TypeError) as error:
        raise _NoReadError("answers with something that is no list of files") from error
    # What another machine says about files of this one does not count.
    return [link for link in found if link.path is None]


def _links_in_json(text: str, base: str) -> list[Link]:
    return [
        Link(str(file["filename"]), urljoin(base, file["url"]), str(file.get("hashes", {}).get("sha256", "")))
        for file in json.loads(text)["files"]
    ]


def _links_in(text: str, base: str) -> list[Link]:
    page = _Page(base)
    page.feed(text)
    return page.links


class _Page(HTMLParser):
    """Collects the files that a page links to."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.links: list[Link] = []
        self._base = base

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if target and tag == "base":
            self._base = urljoin(self._base, target)
        elif target and tag == "a":
            url, fragment = urldefrag(urljoin(self._base, target))
            stated = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment.lower())
            name = unquote(urlsplit(url).path.rpartition("/")[2])
            self.links.append(Link(name, url, stated[1] if stated else ""))


def _path_of(place: str) -> Path | None:
    """A place on this machine, named by its path or as ``file:``; None for an address elsewhere."""
    at = urlsplit(place)
    if at.scheme == "file":
        return Path(url2pathname(at.path))
    return None if "://" in place else Path(place)

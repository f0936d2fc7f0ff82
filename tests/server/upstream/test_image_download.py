"""MONAI Label sends one file of a scan in several, and stumbles over a checksum that it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from monailabel.endpoints import datastore

import dicomseries
from server.store.folder_store import StudyDatastore
from server.upstream import image_download
from upstream_parts import as_brought, ask, serve, web


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """A study with a DICOM folder."""
    dicomseries.save(dicomseries.series(), tmp_path / "study" / "series")
    store = StudyDatastore(str(tmp_path / "study"))
    serve(monkeypatch, datastore, image_download, datastore=lambda: store)
    with as_brought((datastore, "download_image")):
        yield web(datastore.router)


def test_a_dicom_folder_comes_as_one_file(app: FastAPI) -> None:
    assert ask(app, "GET", "/datastore/image?image=series").status_code == 404
    image_download.install()
    reply = ask(app, "GET", "/datastore/image?image=series")
    assert reply.status_code == 200
    assert reply.content[:2] == b"\x1f\x8b"
    assert ask(app, "HEAD", "/datastore/image?image=series").status_code == 200
    assert ask(app, "GET", "/datastore/image?image=none").status_code == 404


def test_a_strange_checksum_is_refused(app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_study import make_tiny_study

    store = StudyDatastore(str(make_tiny_study(tmp_path / "other", scans=1)))
    serve(monkeypatch, datastore, image_download, datastore=lambda: store)
    path = "/datastore/image?image=case_1&check_sum="
    assert ask(app, "HEAD", f"{path}CRC:1").status_code == 500
    image_download.install()
    assert ask(app, "HEAD", f"{path}CRC:1").status_code == 400
    assert ask(app, "HEAD", f"{path}SHA256:1").status_code == 404

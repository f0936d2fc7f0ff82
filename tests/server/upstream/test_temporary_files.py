"""MONAI Label forgets an upload in the system's folder for temporary files when the request is refused."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fastapi import FastAPI, HTTPException
from monailabel.endpoints import infer

from lib.formats.volumes import read_volume
from server.upstream.temporary_files import TemporaryFolder
from upstream_parts import as_brought, ask, serve, web


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    tempfile.tempdir = None


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """An app that refuses everything."""

    def refuse(request: object) -> None:
        raise HTTPException(404, "There is no such image.")

    serve(monkeypatch, infer, info=dict, infer=refuse)
    with as_brought((infer, "run_inference")):
        yield web(infer.router)


def refused(app: FastAPI) -> None:
    assert ask(app, "POST", "/infer/segment", files={"file": ("a.nii.gz", b"patient")}).status_code == 404


def test_a_refused_upload_stays_without_us(system: Path, app: FastAPI) -> None:
    refused(app)
    assert [file.read_bytes() for file in system.glob("*.nii.gz")] == [b"patient"]


def test_it_is_gone_with_ours(system: Path, app: FastAPI) -> None:
    own = TemporaryFolder()
    refused(app)
    assert list(system.glob("*.nii.gz")) == []
    assert len(list(own.folder.glob("*.nii.gz"))) == 1
    own.empty()
    assert list(own.folder.iterdir()) == []


def test_what_is_read_in_the_background_meanwhile_is_not_called_damaged(system: Path, tmp_path: Path) -> None:
    """Accepted labels were at times told to be damaged: pictures are made while no request is answered."""
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(216, dtype=np.int16).reshape(6, 6, 6), np.eye(4)), scan)
    own, done = TemporaryFolder(), threading.Event()

    def empty() -> None:
        while not done.is_set():
            own.empty()

    emptying = threading.Thread(target=empty)
    emptying.start()
    try:
        for _ in range(300):
            assert read_volume(scan).shape == (6, 6, 6)
    finally:
        done.set()
        emptying.join()
    assert list(own.folder.iterdir()) == []

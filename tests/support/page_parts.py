"""A study for the page: one outlined scan, pseudo-labels for some others, and the page's addresses without a server."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib.core.labels import LabelSchema
from lib.setup.settings import Settings
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from server.study_page import routes, scan_routes, work_routes
from tiny_study import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

HOST = "http://127.0.0.1:8000"


def open_study(folder: Path, *, scans: int = 4, finals: int = 1) -> Study:
    """A tiny study, as the process that answers clients has it."""
    make_tiny_study(folder / "study", scans=scans, finals=finals)
    study = Study(
        str(folder / "study"),
        StudyDatastore(str(folder / "study")),
        Settings(labels=LabelSchema(TINY_LABELS)),
        folder / "models",
    )
    study.datastore.serving = True
    return study


def put_pseudo_label(study: Study, number: int, **params: Any) -> np.ndarray:
    """Store the true label of a scan as its pseudo-label, carried over from case_1 unless said otherwise."""
    image, label, affine = tiny_scan(number)
    file = save_nifti(Path(study.location).parent / f"pseudo_{number}.nii.gz", label, affine)
    known = {"source": "propagation", "templates": ["case_1"], "label_names": {"ball": 1, "rod": 2}, **params}
    study.pseudo_labels.save({f"case_{number}": (str(file), {"model": "propagate", "params": known})})
    assert image.shape == label.shape
    return label


def named_label(number: int) -> bytes:
    """The true label of a scan, as 3D Slicer saves it (.seg.nrrd): with the names of its structures."""
    _, label, affine = tiny_scan(number)
    image = SimpleITK.GetImageFromArray(label.transpose(2, 1, 0))
    to_lps = np.diag([-1.0, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(to_lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_lps[:, :3] / spacing).ravel().tolist())
    image.SetOrigin(to_lps[:, 3].tolist())
    for n, name in enumerate(TINY_LABELS):
        image.SetMetaData(f"Segment{n}_Name", name)
        image.SetMetaData(f"Segment{n}_LabelValue", str(n + 1))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "label.seg.nrrd"
        SimpleITK.WriteImage(image, str(file))
        return file.read_bytes()


@contextmanager
def opened(study: Study, monkeypatch: pytest.MonkeyPatch, **parts: Any) -> Iterator[TestClient]:
    """The page of a study, in this process; a client that asks as a program does.

    Args:
        study: the study.
        monkeypatch: pytest's.
        parts: further parts of MONAI Label's app.
    """
    none: Mapping[str, Any] = {"infer": lambda asked: {}, "trainer": SimpleNamespace(), "jobs": None}
    app = SimpleNamespace(study=study, **{**none, **parts})
    for module in (scan_routes, work_routes):
        monkeypatch.setattr(module, "app_instance", lambda: app)
    web = FastAPI()
    routes.install(web)
    with TestClient(web, base_url=HOST) as client:
        yield client


def with_mark(client: TestClient, **more: str) -> Mapping[str, str]:
    """The headers of a request that changes something."""
    return {"X-Semisam-Mark": client.get("/semisam/api/mark").json()["mark"], **more}


def task_of(status: str, *lines: str, request: dict[str, Any] | None = None, number: int = 0) -> dict[str, Any]:
    """A job as MONAI Label keeps it."""
    return {
        "id": f"job-{number}",
        "status": status,
        "request": request or {},
        "start_ts": "2026-01-02 03:04:05",
        "end_ts": "",
        "details": deque(lines),
    }

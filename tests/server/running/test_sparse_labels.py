"""Three outlined slices through a running server: recognised, trained from, and never carried over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lib.core.sparse_labels import Planes
from server_process import Server, detail
from tiny_study import make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.server

INFO = [{"name": "ball", "idx": 1}, {"name": "rod", "idx": 2}]


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    study = make_tiny_study(tmp_path_factory.mktemp("study") / "study", scans=3, finals=0)
    server: Server = serve(study, propagator="prototype", labels="ball,rod")
    return server.start()


def three_planes(tmp_path: Path, number: int) -> Path:
    _, label, affine = tiny_scan(number)
    kept = np.where(Planes((12, 15, 14)).mask(label.shape), label, 0).astype(np.uint8)
    return save_nifti(tmp_path / f"case_{number}.nii.gz", kept, affine)


def test_three_outlined_slices_are_trained_from_but_not_carried_over(server: Server, tmp_path: Path) -> None:
    reply = server.put_label("case_1", three_planes(tmp_path, 1), label_info=INFO)
    assert reply.json()["warnings"] == []
    assert "three planes are annotated" in server.tail()
    for answer in (
        server.infer("propagate", "case_2"),
        server.post("/train/semisam", json={"recipe": "semisam_o1"}),
        server.post("/batch/infer/propagate", params={"images": "unlabeled"}),
    ):
        text = detail(answer, 409)
        assert "fm_abs" in text
        assert "case_1" in text
    reply = server.post(
        "/train/semisam", json={"recipe": "fm_abs", "rounds": 1, "max_epochs": 1, "device": "cpu"}, params={}
    )
    assert reply.ok, reply.text
    status = server.wait("/train/")
    assert status["status"] == "DONE", status["details"][-20:]
    assert server.infer("segment", "case_2").ok


def test_what_is_said_beside_the_label_counts(server: Server, tmp_path: Path) -> None:
    file = three_planes(tmp_path, 2)
    assert server.put_label("case_2", file, label_info=INFO, annotated="all").json()["warnings"] == []
    reply = server.client().infer("propagate", "case_3", {})
    assert reply[1]["templates"] == ["case_2"]
    (warning,) = server.put_label("case_2", file, label_info=INFO, annotated="some").json()["warnings"]
    assert "auto, all, planes" in warning
    _, label, affine = tiny_scan(2)
    whole = save_nifti(tmp_path / "case_2.nii.gz", label, affine)
    (warning,) = server.put_label("case_2", whole, label_info=INFO, annotated="planes").json()["warnings"]
    assert "no three planes" in warning
    assert server.put_label("case_2", whole, label_info=INFO).json()["warnings"] == []
    reply = server.client().infer("propagate", "case_3", {})
    assert reply[1]["templates"] == ["case_2"]

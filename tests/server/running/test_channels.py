"""A study with two channels through the server: carried over, trained on, segmented, exported."""

from __future__ import annotations

import io
from collections.abc import Callable

import nibabel
import numpy as np
import pytest
import torch

from server_process import Server, detail
from tiny_study import TINY_LABELS, dice, save_nifti, tiny_scan

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Three cases; the second channel has another contrast and larger voxels; that of case_4 is missing."""
    study = tmp_path_factory.mktemp("channels") / "study"
    for number in (1, 2, 3, 4):
        image, label, affine = tiny_scan(number)
        save_nifti(study / f"case_{number}_0000.nii.gz", image, affine)
        other = (900 - 1.5 * image)[::2]
        if number < 4:
            save_nifti(study / f"case_{number}_0001.nii.gz", other.astype(np.int16), affine @ np.diag([2, 1, 1, 1]))
        if number == 1:
            save_nifti(study / "labels" / "final" / "case_1_0000.nii.gz", label, affine)
    server: Server = serve(study, labels=",".join(TINY_LABELS), channels="T1,T2", spacing="4.5", roi_size="32,16,16")
    return server.start()


def _label(server: Server, model: str, image: str) -> np.ndarray:
    file, _ = server.client().infer(model, image, {"result_extension": ".nii.gz"})
    return np.asarray(nibabel.load(file).dataobj)


def test_a_case_is_one_scan(server: Server) -> None:
    assert sorted(server.objects()) == [f"case_{n}_0000" for n in (1, 2, 3, 4)]
    shown = server.get("/datastore/image?image=case_2_0000").content
    assert shown == (server.study / "case_2_0000.nii.gz").read_bytes()
    text = detail(server.infer("propagate", "case_4_0000"), 422)
    assert "its channel 'T2' is missing" in text
    assert "case_4_0001.nii.gz" in text


def test_both_channels_are_carried_over_trained_on_and_answered(server: Server) -> None:
    carried = _label(server, "propagate", "case_2_0000")
    assert min(dice(carried, tiny_scan(2)[1], value) for value in (1, 2)) > 0.6
    asked = {"preset": "quick", "max_epochs": 2, "device": "cpu", "client_id": "tests"}
    assert server.post("/train/semisam", json=asked).ok
    status = server.wait("/train/")
    assert status["status"] == "DONE", status["details"]
    found = _label(server, "segment", "case_3_0000")
    assert found.shape == tiny_scan(3)[0].shape
    content = torch.load(io.BytesIO(server.get("/model/segment").content), weights_only=True)
    assert content["spec"]["inputs"] == 2
    assert server.infer("review", "case_2_0000", result_extension=".nii.gz").ok

"""A study of mixed formats through the server: each scan is labelled on its own grid."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import requests

from conftest import TINY_LABELS, Server, detail, make_tiny_study, save_nifti, tiny_scan
from lib.dicom_seg import SegHeader, read_seg
from lib.metrics import overlap
from lib.volumes import read_volume
from scanfiles import save_dicom, save_itk

pytestmark = pytest.mark.server

SCANS = {"flipped": "flipped.mha", "permuted": "permuted.nrrd", "series": "series"}


def stored(number: int, axes: tuple[int, int, int], signs: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """Image, label and affine of patient ``number``, as a file in another orientation holds them."""
    image, label, affine = tiny_scan(number)
    turned = np.zeros((4, 4))
    turned[3, 3] = 1.0
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        turned[old, new] = sign
        if sign < 0:
            turned[old, 3] = image.shape[old] - 1
    flips = tuple(slice(None, None, sign) for sign in signs)
    return image.transpose(axes)[flips].copy(), label.transpose(axes)[flips].copy(), affine @ turned


@pytest.fixture(scope="module")
def truths() -> dict[str, np.ndarray]:
    return {}


@pytest.fixture(scope="module")
def server(
    serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory, truths: dict[str, np.ndarray]
) -> Server:
    study = make_tiny_study(tmp_path_factory.mktemp("base") / "study", scans=1)
    image, truths["flipped"], affine = stored(2, (0, 1, 2), (-1, 1, -1))
    save_itk(study / SCANS["flipped"], image, affine)
    image, truths["permuted"], affine = stored(3, (2, 0, 1), (1, -1, 1))
    save_itk(study / SCANS["permuted"], image, affine)
    image, truths["series"], affine = stored(4, (0, 1, 2), (-1, -1, 1))
    save_dicom(study / SCANS["series"], image, affine, thickness=3.0)
    server: Server = serve(study, labels=",".join(TINY_LABELS))
    return server.start()


@pytest.mark.parametrize("name", list(SCANS))
def test_propagate_labels_every_format_on_its_own_grid(
    server: Server, truths: dict[str, np.ndarray], tmp_path: Path, name: str
) -> None:
    file, params = server.client().infer("propagate", name, {"result_extension": ".nii.gz"})
    found = nibabel.load(file)
    scan = read_volume(server.study / SCANS[name])
    label = np.asarray(found.dataobj)
    assert label.shape == scan.shape == truths[name].shape
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-3)
    assert params["templates"] == ["case_1"]
    for value in (1, 2):
        assert overlap(label == value, truths[name] == value)[0] > 0.6


def test_files_are_sent_as_they_are(server: Server) -> None:
    for name in ("flipped", "permuted"):
        reply = server.get(f"/datastore/image?image={name}")
        assert reply.ok
        assert reply.content == (server.study / SCANS[name]).read_bytes()


def test_answer_as_dicom_seg(server: Server, truths: dict[str, np.ndarray]) -> None:
    reply = server.post("/infer/propagate?image=series&output=dicom_seg")
    assert reply.ok, reply.text
    seg = pydicom.dcmread(BytesIO(reply.content))
    scan = read_volume(server.study / SCANS["series"])
    found = read_seg(seg, scan)
    for value, name in enumerate(TINY_LABELS, start=1):
        assert seg.SegmentSequence[value - 1].SegmentLabel == name
        assert overlap(found == value, truths["series"] == value)[0] > 0.6
    header = pydicom.dcmread(next((server.study / SCANS["series"]).iterdir()), stop_before_pixels=True)
    assert SegHeader.of(seg).scan == header.SeriesInstanceUID
    assert seg.StudyInstanceUID == header.StudyInstanceUID
    assert "no DICOM scan" in detail(server.post("/infer/propagate?image=permuted&output=dicom_seg"), 422)
    assert list((server.folder / "tmp").glob("*.dcm")) == []


def test_a_series_is_sent_as_one_file_that_lies_where_the_answers_lie(server: Server, tmp_path: Path) -> None:
    reply = server.get("/datastore/image?image=series")
    assert reply.ok, reply.text
    (tmp_path / "series.nii.gz").write_bytes(reply.content)
    shown, scan = read_volume(tmp_path / "series.nii.gz"), read_volume(server.study / SCANS["series"])
    assert np.array_equal(shown.array, scan.array)
    np.testing.assert_allclose(shown.affine, scan.affine, atol=1e-3)
    assert server.get("/datastore/image/info?image=series").json()["name"] == "series.nii.gz"
    assert requests.head(f"{server.url}/datastore/image?image=series", timeout=60).ok
    assert requests.head(f"{server.url}/datastore/image?image=nobody", timeout=60).status_code == 404


def test_names_and_what_is_left_out_while_the_server_runs(server: Server, tmp_path: Path) -> None:
    """Names survive a scan that is away; a bad name is told; an upload replaces nothing unasked."""
    _, label, affine = tiny_scan(1)
    file = save_nifti(tmp_path / "l.nii.gz", np.array([0, 2, 1], np.uint8)[label], affine)
    info = [{"name": "rod", "idx": 1}, {"name": "ball", "idx": 2}]
    assert server.put_label("case_1", file, label_info=info).json()["warnings"] == []
    away = tmp_path / "away.nii.gz"
    shutil.copy(server.study / "case_1.nii.gz", away)
    (server.study / "case_1.nii.gz").unlink()
    (server.study / os.fsdecode(b"M\xfcller.nii.gz")).write_bytes(away.read_bytes())
    wait_for(lambda: "case_1" not in server.objects())
    shutil.copy(away, server.study / "case_1.nii.gz")
    wait_for(lambda: "final" in server.objects().get("case_1", {"labels": {}})["labels"])
    assert server.objects()["case_1"]["labels"]["final"]["info"]["label_info"] == info
    assert "rename it" in server.get("/info/").json()["left_out"]["M\\xfcller.nii.gz"]
    shown = server.client().infer("review", "case_1", {"result_extension": ".nii.gz"})[0]
    assert np.array_equal(np.asarray(nibabel.load(shown).dataobj), label)
    for params, status in (({}, 409), ({"replace": True}, 200)):
        with away.open("rb") as content:
            reply = requests.put(
                f"{server.url}/datastore/image?image=permuted",
                data={"params": json.dumps(params)},
                files={"file": ("permuted.nii.gz", content)},
                timeout=60,
            )
        assert reply.status_code == status, reply.text
        assert (server.study / SCANS["permuted"]).exists() == (status == 409)


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until the server has seen a change of the files."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.2)

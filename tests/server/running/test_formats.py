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
import SimpleITK

import dicomseries
from dicomseries import KINDS, TILTED
from lib.core.metrics import overlap
from lib.dicom_seg import SegHeader, read_seg
from lib.formats.volumes import read_volume
from scanfiles import save_dicom, save_itk
from server_process import Server, detail
from tiny_study import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan
from viewer import in_viewer

pytestmark = pytest.mark.server

SCANS = {
    "flipped": "flipped.mha",
    "permuted": "permuted.nrrd",
    "series": "series",
    "contradictory": "contradictory.nii.gz",
}


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


def save_contradictory(path: Path, truths: dict[str, np.ndarray]) -> None:
    """A scan whose sform is sheared by rounding and lies 12 mm from its qform."""
    array, truths["contradictory"], affine = stored(5, (0, 1, 2), (1, 1, 1))
    image = nibabel.Nifti1Image(array, affine)
    moved = affine.copy()
    moved[0, 3] += 12
    image.set_qform(moved, 1)
    affine[0, 1] += 3e-3
    image.set_sform(affine, 2)
    nibabel.save(image, path)


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
    save_contradictory(study / SCANS["contradictory"], truths)
    image, truths["series"], affine = stored(4, (0, 1, 2), (-1, -1, 1))
    save_dicom(study / SCANS["series"], image, affine, thickness=3.0)
    dicomseries.save(KINDS["a slice is missing"].make(), study / "gap")
    dicomseries.save(KINDS["two time points"].make(), study / "times")
    dicomseries.save(TILTED["tilted gantry"](), study / "tilted")
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


def test_series_in_folders_and_uploads_are_checked(server: Server, tmp_path: Path) -> None:
    for name, said in (("times", "the one of 1 was taken"), ("tilted", "tilted by 15.0 degrees")):
        shutil.make_archive(str(tmp_path / name), "zip", server.study / name)
        with (tmp_path / f"{name}.zip").open("rb") as content:
            uploaded = requests.put(
                server.url + "/session/?uncompress=true", files={"files": (f"{name}.zip", content)}, timeout=60
            ).json()
        for asked in ({"image": name}, {"session_id": uploaded["session_id"]}):
            reply = server.post("/infer/propagate", params={**asked, "output": "json"})
            assert said in reply.json()["warnings"][0]
            reply = server.post("/infer/propagate", params={**asked, "output": "dicom_seg"})
            if reply.status_code == 422:  # nothing that the outlines look like
                assert "nothing was found in this scan" in reply.json()["detail"]
            else:
                check_frames_places(pydicom.dcmread(BytesIO(reply.content)), server.study / name)
    assert "missing between image 6 " in detail(server.infer("propagate", "gap"), 422)


def check_frames_places(seg: pydicom.Dataset, folder: Path) -> None:
    """Each frame lies where the image lies that it refers to."""
    images = {each.SOPInstanceUID: each for each in map(pydicom.dcmread, folder.iterdir())}
    for groups in seg.PerFrameFunctionalGroupsSequence:
        image = images[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert groups.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient


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


def test_answer_lies_on_a_contradictory_scan_in_the_viewer_and_says_so(server: Server, tmp_path: Path) -> None:
    client, path = server.client(), server.study / SCANS["contradictory"]
    for ending in (".nii.gz", ".nrrd"):
        file, params = client.infer("propagate", "contradictory", {"result_extension": ending})
        np.testing.assert_allclose(in_viewer(Path(file))[1], in_viewer(path)[1], atol=1e-3)
        assert any("its sform puts the scan up to 12" in text for text in params["warnings"])
    assert "its sform puts the scan up to 12" in server.tail(100_000)
    # Last in this file: this label is a template from now on. It is cropped, with values and names of its own, as 3D
    # Slicer saves a segmentation.
    label = SimpleITK.ReadImage(str(path)) * 0
    label = SimpleITK.Cast(label, SimpleITK.sitkUInt8)[8:20, 10:24, 6:20]
    label[2:6, 2:6, 2:6], label[7:10, 7:10, 7:10] = 7, 3
    for n, (name, value) in enumerate((("Ball", 7), ("rod", 3))):
        label.SetMetaData(f"Segment{n}_Name", name)
        label.SetMetaData(f"Segment{n}_LabelValue", str(value))
    SimpleITK.WriteImage(label, str(tmp_path / "a.seg.nrrd"))
    reply = server.put_label("contradictory", tmp_path / "a.seg.nrrd")
    assert reply.json()["warnings"] == []
    file, _ = client.infer("review", "contradictory", {"result_extension": ".nrrd"})
    found = in_viewer(Path(file))[0]
    assert found[8 + 2 : 8 + 6, 10 + 2 : 10 + 6, 6 + 2 : 6 + 6].min() == 1
    assert found[8 + 7, 10 + 7, 6 + 7] == 2
    assert (int((found == 1).sum()), int((found == 2).sum())) == (64, 27)

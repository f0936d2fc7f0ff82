"""One scan over HTTP: its slices, its layers, what is done to it, and its label as a file."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from page_parts import named_label, open_study, opened, put_pseudo_label, with_mark
from picturefiles import save_picture, tiny_picture
from server.store.study import Study
from tiny_study import save_nifti, tiny_scan


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = open_study(tmp_path)
    put_pseudo_label(study, 2)
    return study


@pytest.fixture
def client(study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TestClient]:
    def infer(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        values = np.full(tiny_scan(1)[0].shape, 255, np.uint8)
        return {"file": str(save_nifti(tmp_path / "made.nii.gz", values, tiny_scan(1)[2]))}

    with opened(study, monkeypatch, infer=infer) as client:
        yield client


def slice_of(client: TestClient, known: Mapping[str, Any], layer: str, plane: str, index: int) -> np.ndarray:
    query: dict[str, Any] = {"image": known["name"], "plane": plane, "index": index, "layer": layer}
    answer = client.get("/semisam/api/slice", params=query)
    assert answer.status_code == 200, answer.text
    kind = "<i2" if layer == "scan" else np.uint8
    return np.frombuffer(answer.content, kind).reshape(known["planes"][plane]["size"])


def test_slices_hold_the_scans_intensities(client: TestClient) -> None:
    known = client.get("/semisam/api/scan", params={"image": "case_2"}).json()
    assert {plane: each["count"] for plane, each in known["planes"].items()} == {
        "axial": 28,
        "coronal": 32,
        "sagittal": 36,
    }
    image, label, _ = tiny_scan(2)
    shown = slice_of(client, known, "scan", "axial", 20) * known["slope"] + known["intercept"]
    np.testing.assert_allclose(shown, image[:, :, 20].T[::-1, ::-1], atol=0.01)
    np.testing.assert_array_equal(slice_of(client, known, "pseudo-label", "coronal", 15), label[:, 15].T[::-1, ::-1])
    assert "final" not in known["layers"]
    assert "prediction" not in known["layers"]  # there is no network yet
    assert known["planes"]["axial"]["middle"] == int((label > 0).sum((0, 1)).argmax())


def test_uncertainty_is_made_when_there_is_a_network(client: TestClient, study: Study) -> None:
    study.published.parent.mkdir(parents=True, exist_ok=True)
    study.published.write_bytes(b"a network")
    known = client.get("/semisam/api/scan", params={"image": "case_2"}).json()
    assert {"prediction", "uncertainty"} <= set(known["layers"])
    assert slice_of(client, known, "uncertainty", "axial", 3).min() == 255


def test_slices_that_are_not_there(client: TestClient) -> None:
    queries: tuple[dict[str, Any], ...] = (
        {"image": "case_2", "plane": "axial", "index": 28},
        {"image": "case_2", "plane": "axial", "index": -1},
        {"image": "case_2", "plane": "axial", "index": 1, "layer": "final"},
        {"image": "case_2", "plane": "axial", "index": 1, "layer": "../final"},
        {"image": "case_9", "plane": "axial", "index": 1},
    )
    for query in queries:
        answer = client.get("/semisam/api/slice", params=query)
        assert answer.status_code == 404, query
        assert answer.json()["detail"]


def test_accept_and_undo_over_http(client: TestClient, study: Study) -> None:
    version = client.get("/semisam/api/scan", params={"image": "case_2"}).json()["version"]
    asked = {"image": "case_2", "version": version, "by": "anna"}
    answer = client.post("/semisam/api/accept", json=asked, headers=with_mark(client))
    assert answer.json()["words"] == "Accepted by anna"
    known = client.get("/semisam/api/scan", params={"image": "case_2"}).json()
    assert known["can_undo"] == "anna"
    assert [(each["act"], each["by"]) for each in known["acts"]] == [("accept", "anna")]
    assert client.post("/semisam/api/undo", json=asked, headers=with_mark(client)).json()["state"] == "carried"
    assert study.final_label("case_2") is None
    back = client.post("/semisam/api/send_back", json=asked, headers=with_mark(client)).json()
    assert back["sent_back"] == "anna"
    found = client.get("/semisam/api/scans", params={"state": "sent_back"}).json()
    assert [scan["name"] for scan in found["scans"]] == ["case_2"]


def test_the_labels_that_a_scan_has_had(client: TestClient, study: Study) -> None:
    put_pseudo_label(study, 2, source="specialist", round=1)
    known = client.get("/semisam/api/scan", params={"image": "case_2"}).json()
    asked = {"image": "case_2", "version": known["version"], "by": "anna"}
    assert client.post("/semisam/api/accept", json=asked, headers=with_mark(client)).is_success
    history = client.get("/semisam/api/scan", params={"image": "case_2"}).json()["history"]
    assert {each["words"] for each in history} >= {"Accepted by anna", "Labelled by the trained network, round 1"}
    assert all(each["saved"] > 0 for each in history)


@pytest.mark.parametrize("path", ["accept", "send_back", "undo"])
def test_pages_of_others_do_nothing(client: TestClient, study: Study, path: str) -> None:
    version = client.get("/semisam/api/scan", params={"image": "case_2"}).json()["version"]
    asked = {"image": "case_2", "version": version, "by": "anna"}
    assert client.post(f"/semisam/api/{path}", json=asked).status_code == 400  # without the mark
    wrong = {"X-Semisam-Mark": "guessed"}
    assert client.post(f"/semisam/api/{path}", json=asked, headers=wrong).status_code == 400
    for foreign in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = client.post(f"/semisam/api/{path}", json=asked, headers=with_mark(client, **foreign))
        assert answer.status_code == 403
    assert study.final_label("case_2") is None
    assert client.get("/semisam/api/scan", params={"image": "case_2"}).json()["acts"] == []


def test_a_label_to_take_along(client: TestClient, tmp_path: Path) -> None:
    answer = client.get("/semisam/api/label", params={"image": "case_2", "tag": "original"})
    assert 'filename="case_2_original.nii.gz"' in answer.headers["content-disposition"]
    file = tmp_path / "taken.nii.gz"
    file.write_bytes(answer.content)
    np.testing.assert_array_equal(np.asarray(nibabel.load(file).dataobj), tiny_scan(2)[1])
    assert client.get("/semisam/api/label", params={"image": "case_2", "tag": "final"}).status_code == 404
    refused = client.get("/semisam/api/label", params={"image": "case_2", "tag": "original", "form": "seg"})
    assert (refused.status_code, "no DICOM scan" in refused.json()["detail"]) == (422, True)


def test_a_2d_image_has_one_plane_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, label = tiny_picture(1)
    save_picture(tmp_path / "study" / "photo.png", pixels)
    save_picture(tmp_path / "study" / "labels" / "final" / "photo.png", label)
    study = open_study(tmp_path, scans=0, finals=0)
    with opened(study, monkeypatch) as client:
        known = client.get("/semisam/api/scan", params={"image": "photo"}).json()
        assert {plane: each["size"] for plane, each in known["planes"].items()} == {"axial": [56, 72]}
        np.testing.assert_array_equal(slice_of(client, known, "final", "axial", 0), label)
        shown = slice_of(client, known, "scan", "axial", 0) * known["slope"] + known["intercept"]
        assert np.corrcoef(shown.ravel(), pixels.mean(-1).ravel())[0, 1] > 0.95
        until = time.monotonic() + 20
        while (answer := client.get("/semisam/api/picture", params={"image": "photo"})).status_code == 202:
            assert time.monotonic() < until
            time.sleep(0.05)
        size = Image.open(io.BytesIO(answer.content)).size
        assert size[0] == size[1]


def test_an_outline_from_a_file_becomes_final(study: Study, client: TestClient, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(3)
    file = save_nifti(tmp_path / "drawn elsewhere.nii.gz", label, affine)

    def bring(image: str, content: bytes, name: str = file.name, by: str = "anna") -> Any:
        return client.post(
            "/semisam/api/outline",
            params={"image": image},
            files={"file": (name, content)},
            data={"by": by},
            headers=with_mark(client),
        )

    assert client.post("/semisam/api/outline?image=case_3", files={"file": ("a", b"a")}).status_code == 400  # no mark
    for content, name, text in (
        (b"no label", "notes.txt", "The file is no label"),
        (b"no label", "label.nii.gz", "label.nii.gz"),
        (file.read_bytes()[:500], "label.nii.gz", "label.nii.gz"),
    ):
        refused = bring("case_3", content, name)
        assert refused.status_code == 422, refused.text
        assert text in refused.json()["detail"]
    assert bring("case_3", file.read_bytes(), by=" ").status_code == 422  # nobody
    assert study.final_label("case_3") is None
    answer = bring("case_3", file.read_bytes())
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["words"]) == ("outlined", "Outlined by anna")
    stored = np.asarray(nibabel.load(study.datastore.get_label_uri("case_3", "final")).dataobj)
    np.testing.assert_array_equal(stored, label)
    again = bring("case_3", file.read_bytes())
    assert again.status_code == 409
    assert "has a final label already, saved by anna" in again.json()["detail"]


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        ("\u5de6\u5fc3\u623f" * 29 + ".seg.NRRD", "\u5de6\u5fc3\u623f" * 29 + ".seg.NRRD"),
        ("\u5de6\u5fc3\u623f" * 90 + ".seg.nrrd", ("\u5de6\u5fc3\u623f" * 90 + ".seg.nrrd")[-200:]),
        ("C:\\\\export\\\\a\0b.seg.nrrd", "ab.seg.nrrd"),
    ],
    ids=["long", "longer than is noted", "with a NUL"],
)
def test_the_name_of_a_file_with_an_outline_may_be_any(study: Study, client: TestClient, name: str, noted: str) -> None:
    """As a browser sends it: a long name in Chinese, and one that no file can have."""
    part = f'form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    person = b'--x\r\nContent-Disposition: form-data; name="by"\r\n\r\nanna\r\n--x\r\nContent-Disposition: '
    answer = client.post(
        "/semisam/api/outline?image=case_3",
        content=person + part + named_label(3) + b"\r\n--x--\r\n",
        headers=with_mark(client, **{"Content-Type": "multipart/form-data; boundary=x"}),
    )
    assert answer.status_code == 200, answer.text
    stored = np.asarray(nibabel.load(study.datastore.get_label_uri("case_3", "final")).dataobj)
    np.testing.assert_array_equal(stored, tiny_scan(3)[1])
    assert study.datastore.get_label_info("case_3", "final")["imported"]["file"] == noted

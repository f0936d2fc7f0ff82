"""Requests over a running server: what viewers get, and what is said about what cannot be."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests

from lib.setup.settings import STRATEGIES
from server_process import Server, detail
from tiny_study import TINY_LABELS, dice, make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.server

BAD_SCANS = {
    "bad_cut": "cannot be read",
    "bad_flat": "three-dimensional",
    "bad_series": "three-dimensional",
    "bad_nan": "NaN",
    "bad_constant": "every voxel",
    "bad_thin": "",
}
"""Scans that cannot be used, and what is said about them; bad_thin is only small."""


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    study = make_tiny_study(tmp_path_factory.mktemp("study") / "study", scans=3)
    image, _, affine = tiny_scan(9)
    save_nifti(study / "bad_flat.nii.gz", image[:, :, :1], affine)
    save_nifti(study / "bad_series.nii.gz", np.stack([image] * 3, axis=-1), affine)
    save_nifti(study / "bad_nan.nii.gz", np.where(image > 400, np.nan, image).astype(np.float32), affine)
    save_nifti(study / "bad_constant.nii.gz", np.full_like(image, 7), affine)
    save_nifti(study / "bad_thin.nii.gz", image[10:15, 10:14, 12:15], affine)
    whole = save_nifti(study / "bad_cut.nii.gz", image, affine).read_bytes()
    (study / "bad_cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    server: Server = serve(study, labels=",".join(TINY_LABELS))
    return server.start()


def unchanged(server: Server) -> Callable[[], None]:
    """Call the result later: nothing in the study has changed meanwhile, and the server answers."""

    def state() -> list[tuple[str, int, int]]:
        files = [p for p in server.study.rglob("*") if p.is_file() and p.name != ".lock"]
        return sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files)

    before, objects = state(), server.objects()

    def check() -> None:
        assert state() == before
        assert server.objects() == objects
        assert server.get("/info/").ok

    return check


# --- what viewers get -------------------------------------------------------------------------------------------------


def test_info_is_as_slicer_and_ohif_need_it(server: Server) -> None:
    info = server.get("/info/").json()
    assert info["labels"] == list(TINY_LABELS)
    assert list(info["models"]) == ["propagate", "segment", "review", "uncertainty", "prompt"]
    assert list(info["trainers"]) == ["semisam"]
    assert list(info["strategies"]) == [*STRATEGIES, "random"]
    assert list(info["scoring"]) == ["representativeness", "uncertainty", "pseudo_label_quality"]
    assert "config" not in info
    for name, model in info["models"].items():
        assert model["type"] == ("deepgrow" if name == "prompt" else "segmentation")
        assert model["dimension"] == 3
        assert model["description"]
        assert model["labels"] == {"ball": 1, "rod": 2}
    parts = {**info["models"], **info["trainers"]}
    for value in [v for part in parts.values() for v in part["config"].values()]:
        assert isinstance(value, (bool, int, float, str)) or all(isinstance(v, str) for v in value)
    assert info["trainers"]["semisam"]["config"]["preset"][0] == "quick"
    assert info["datastore"]["completed"] == 1


def test_ohif_is_served(server: Server) -> None:
    assert server.get("/ohif/").ok


def test_propagate_through_the_client(server: Server) -> None:
    file, params = server.client().infer("propagate", "case_2", {"result_extension": ".nii.gz"})
    label = nibabel.load(file)
    scan = nibabel.load(server.study / "case_2.nii.gz")
    assert label.shape == scan.shape
    assert np.allclose(label.affine, scan.affine)
    values = np.asarray(label.dataobj)
    assert values.dtype == np.uint8
    _, truth, _ = tiny_scan(2)
    assert min(dice(values, truth, value) for value in (1, 2)) > 0.6
    assert list(params["label_names"].items()) == [("ball", 1), ("rod", 2)]
    assert params["templates"] == ["case_1"]
    assert 0 < params["confidence"] <= 1
    assert params["volume_ml"]["ball"] == pytest.approx((values == 1).sum() * 0.027, rel=1e-3)
    assert set(params["latencies"]) == {"read", "infer", "write", "total"}


def test_probability_of_a_structure(server: Server) -> None:
    path, asked = "/infer/propagate", {"image": "case_2", "output": "probability"}
    reply = server.post(path, params=asked, data={"params": json.dumps({"label": "ball"})})
    assert reply.ok, reply.text
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(reply.content))
    values = np.asarray(image.dataobj)
    assert (values.dtype, values.shape) == (np.float32, tiny_scan(2)[0].shape)
    assert dice(values > 0.5, tiny_scan(2)[1] == 1, True) > 0.6
    text = detail(server.post(path, params=asked, data={"params": "{}"}), 400)
    assert "Give one of ball, rod" in text
    text = detail(server.post("/infer/prompt", params=asked, data={"params": '{"foreground": [[1, 1, 1]]}'}), 400)
    assert "Ask propagate or segment" in text


def test_ohif_gets_a_raw_nrrd_in_the_scans_voxel_order(server: Server) -> None:
    params = {
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": False,
        "label_prompt": [1, 2],
    }
    reply = server.post(
        "/infer/propagate", params={"image": "case_2", "output": "image"}, data={"params": json.dumps(params)}
    )
    assert reply.ok, reply.text
    head, body = reply.content.split(b"\n\n", 1)
    assert b"encoding: raw" in head
    assert b"type: unsigned char" in head
    values = np.frombuffer(body, np.uint8).reshape(tiny_scan(2)[0].shape, order="F")
    assert dice(values, tiny_scan(2)[1], 1) > 0.6


def test_uploaded_scan_is_labelled_and_not_stored(server: Server) -> None:
    check = unchanged(server)
    client = server.client()
    session = client.create_session(str(server.study / "case_3.nii.gz"))
    file, params = client.infer("propagate", "", {}, session_id=session["session_id"])
    assert nibabel.load(file).shape == tiny_scan(3)[0].shape
    assert params["templates"] == ["case_1"]
    file, _ = client.infer("propagate", "", {}, file=str(server.study / "case_3.nii.gz"))
    assert nibabel.load(file).shape == tiny_scan(3)[0].shape
    check()


def test_path_inside_the_study_is_the_scan(server: Server) -> None:
    text = detail(server.infer("propagate", str(server.study / "case_1.nii.gz")), 409)
    assert "Only case_1 itself" in text


def test_saved_label_is_reviewed(server: Server) -> None:
    text = detail(server.infer("review", "case_3"), 404)
    assert "no pseudo-label of case_3" in text
    assert server.infer("propagate", "case_3", save_label=True).ok
    stored = server.objects()["case_3"]["labels"]["original"]["info"]
    assert stored["model"] == "propagate"
    assert list(stored["params"]["label_names"]) == ["ball", "rod"]
    reply = server.infer("review", "case_3", result_extension=".nii.gz")
    assert reply.ok, reply.text
    assert b"templates" in reply.content


def test_next_sample(server: Server) -> None:
    check_ids = [server.post(f"/activelearning/{s}", json={"client_id": "x"}).json()["id"] for s in ("random",) * 2]
    assert len({*check_ids, "case_1"}) == 3
    reply = server.post("/activelearning/uniform", json={}).json()
    assert Path(reply["path"]).is_file()
    assert reply["id"] != "case_1"


def test_batch_infer_stores_labels_and_passes_over_bad_scans(server: Server) -> None:
    reply = server.post("/batch/infer/propagate", params={"images": "unlabeled"})
    assert reply.ok, reply.text
    text = detail(server.post("/batch/infer/propagate", params={"images": "unlabeled"}), 429)
    assert "DELETE /batch/infer" in text
    slowest = 0.0
    while server.get("/batch/infer").json()["status"] in ("SUBMITTED", "RUNNING"):
        slowest = max(slowest, server.get("/info/").elapsed.total_seconds())
        time.sleep(0.2)
    assert slowest < 2
    status = server.get("/batch/infer").json()
    log = "\n".join(status["details"])
    assert status["status"] == "DONE", log
    assert "bad_cut" in log
    objects = server.objects()
    for name in ("case_2", "case_3"):
        params = objects[name]["labels"]["original"]["info"]["params"]
        assert list(params["label_names"].items()) == [("ball", 1), ("rod", 2)]
        label = nibabel.load(server.study / "labels" / "original" / f"{name}.nii.gz")
        assert label.shape == tiny_scan(2)[0].shape
    assert "original" not in objects["bad_cut"]["labels"]
    assert not list(server.study.rglob(".part-*"))
    reply = server.post("/activelearning/recommended", json={}).json()
    assert reply["id"] in ("case_2", "case_3", "bad_thin")
    assert 0 <= reply["uncertainty"] <= 1


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "part"),
    [
        ("/infer/segmnt?image=case_2", None, 404, "Did you mean 'segment'?"),
        ("/infer/propagate?image=case_99", None, 404, "no image 'case_99'"),
        ("/infer/propagate?image=/etc/hostname", None, 404, "no image"),
        ("/infer/propagate?image=../../../../../etc/hostname", None, 404, "no image"),
        ("/infer/segment?image=case_2", None, 409, "train first"),
        ("/infer/uncertainty?image=case_2", None, 409, "train first"),
        ("/activelearning/clever", {}, 404, "Known: recommended, template"),
        ("/activelearning/uniform", {"stride": 2}, 400, "no option 'stride'"),
        ("/scoring/dice", {}, 404, "Known: representativeness, uncertainty"),
        ("/scoring/uncertainty", {"top": 3}, 400, "no option 'top'"),
        ("/train/semisan", {}, 404, "Did you mean 'semisam'?"),
        ("/train/semisam", {"epochs": 3}, 400, "Did you mean 'max_epochs'?"),
        ("/train/semisam", {"recipe": "magic"}, 400, "Allowed: semisam_o1"),
        ("/train/semisam", {"preset": "fast"}, 400, "Allowed: quick"),
        ("/train/semisam", {"max_epochs": "many"}, 400, "whole number"),
        ("/train/semisam", {"rounds": -1}, 400, "whole number"),
        ("/train/semisam", {"device": "tpu"}, 400, "cpu"),
        ("/train/", {"semisam": {"rounds": 1.5}}, 400, "whole number"),
        ("/batch/infer/propagat?images=all", {}, 404, "Did you mean 'propagate'?"),
        ("/batch/infer/propagate?images=all", {"max_template": 1}, 400, "Did you mean 'max_templates'?"),
        ("/batch/infer/propagate?images=all", {"label_tag": "final"}, 409, "by people only"),
        ("/batch/infer/propagate?images=all", {"images": ["case_2", "case_77"]}, 404, "case_77"),
        ("/batch/infer/uncertainty?images=all", {}, 400, "no label"),
        ("/batch/infer/review?images=all", {}, 400, "no label"),
        ("/batch/infer/segment?images=all", {}, 409, "train first"),
    ],
)
def test_unknown_or_bad_request(server: Server, path: str, body: dict | None, status: int, part: str) -> None:
    check = unchanged(server)
    assert part in detail(server.post(path, json=body), status)
    check()


@pytest.mark.parametrize(
    ("params", "status", "part"),
    [
        ({"max_template": 2}, 400, "Did you mean 'max_templates'?"),
        ({"max_templates": 0}, 400, "whole number"),
        ({"result_extension": ".jpg"}, 400, ".nrrd"),
        ({"result_dtype": "uint9"}, 400, "uint8"),
        ({"save_label": True, "label_tag": "final"}, 409, "by people only"),
        ({"save_label": True, "label_tag": "../final"}, 400, "no valid tag"),
    ],
)
def test_bad_infer_option(server: Server, params: dict, status: int, part: str) -> None:
    check = unchanged(server)
    assert part in detail(server.infer("propagate", "case_2", **params), status)
    check()


@pytest.mark.parametrize("name", BAD_SCANS)
def test_scan_that_cannot_be_used(server: Server, name: str) -> None:
    check = unchanged(server)
    reply = server.infer("propagate", name)
    if name == "bad_thin" and reply.ok:
        pass  # small scans may be labelled; they must not break anything
    else:
        text = detail(reply, 422)
        assert BAD_SCANS[name] in text
        assert name in text
    check()


@pytest.mark.parametrize(
    ("image", "tag", "name", "status"),
    [
        ("case_77", "final", "a.nii.gz", 404),
        ("case_2", "../../outside", "a.nii.gz", 400),
        ("case_2", ".hidden", "a.nii.gz", 400),
        ("case_2", "final", "a.png", 400),
    ],
)
def test_label_that_cannot_be_saved(
    server: Server, tmp_path: Path, image: str, tag: str, name: str, status: int
) -> None:
    check = unchanged(server)
    file = tmp_path / name
    shutil.copyfile(server.study / "labels" / "final" / "case_1.nii.gz", file)
    detail(server.put_label(image, file, tag), status)
    check()


def test_image_is_uploaded_whole_and_never_over_a_labelled_one(server: Server, tmp_path: Path) -> None:
    image, _, affine = tiny_scan(20)
    file = save_nifti(tmp_path / "case_20.nii.gz", image, affine)
    assert server.client().upload_image(str(file), "case_20")["image"] == "case_20"
    assert gzip.decompress((server.study / "case_20.nii.gz").read_bytes()) == gzip.decompress(file.read_bytes())
    check = unchanged(server)
    assert "another image 'case_1'" in detail(put_image(server, "case_1", file), 409)
    detail(put_image(server, "../evil", file), 400)
    check()


def put_image(server: Server, name: str, file: Path) -> requests.Response:
    """Upload a scan under any name."""
    with file.open("rb") as content:
        files = {"file": (file.name, content)}
        return requests.put(server.url + "/datastore/image", params={"image": name}, files=files, timeout=60)


def test_files_added_by_others_are_taken_up(server: Server) -> None:
    image, _, affine = tiny_scan(21)
    save_nifti(server.study / "case_21.nii.gz", image, affine)
    until = time.monotonic() + 20
    while "case_21" not in server.objects() and time.monotonic() < until:
        time.sleep(0.2)
    assert server.infer("propagate", "case_21").ok

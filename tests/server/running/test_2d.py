"""A study of 2D images through the server: pictures and DICOM, labels as PNG and NRRD, every task and strategy."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
import requests
from PIL import Image

from lib.core.metrics import overlap
from lib.formats.volumes import read_volume
from picturefiles import PICTURE_LABELS, save_dicom_image, save_picture, tiny_picture
from server_process import Server, detail

pytestmark = pytest.mark.server

FILES = {"one": "one.png", "two": "two.JPG", "three": "three.dcm", "four": "four", "five": "five.jpeg"}


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    study = tmp_path_factory.mktemp("base") / "study"
    save_picture(study / FILES["one"], tiny_picture(1)[0])
    save_picture(study / FILES["two"], tiny_picture(2)[0])
    save_dicom_image(study / FILES["three"], tiny_picture(3)[0], "US")
    save_dicom_image(study / FILES["four"] / "image.dcm", tiny_picture(4)[0].mean(axis=2).astype(np.uint16), "DX")
    save_picture(study / FILES["five"], tiny_picture(5)[0])
    save_dicom_image(study / "slice.dcm", tiny_picture(6)[0][..., 0].astype(np.uint16), "CT")
    (study / "cut.png").write_bytes((study / FILES["one"]).read_bytes()[:300])
    return Server.start(serve(study, labels=",".join(PICTURE_LABELS), default_strategy="uniform"))


def truth(number: int) -> np.ndarray:
    return tiny_picture(number)[1].T[..., None]


def agreement(found: np.ndarray, number: int) -> float:
    return float(np.mean([overlap(found == value, truth(number) == value)[0] for value in (1, 2)]))


def test_images_are_listed_and_sent_as_they_are(server: Server) -> None:
    assert set(server.objects()) == {*FILES, "cut"}
    for name in ("one", "two", "three"):
        reply = server.get(f"/datastore/image?image={name}")
        assert reply.ok
        assert reply.content == (server.study / FILES[name]).read_bytes()


def test_image_is_uploaded(server: Server, tmp_path: Path) -> None:
    client = server.client()
    client.upload_image(str(save_picture(tmp_path / "new.png", tiny_picture(7)[0])), "new")
    assert (server.study / "new.png").is_file()
    slice_ = save_dicom_image(tmp_path / "ct.dcm", tiny_picture(6)[0][..., 0].astype(np.uint16), "CT")
    with slice_.open("rb") as content:
        reply = requests.put(f"{server.url}/datastore/image?image=ct", files={"file": ("ct.dcm", content)}, timeout=60)
    assert "it is a slice of a volume. Upload all files of the series" in detail(reply, 422)


@pytest.mark.parametrize("strategy", ["recommended", "uniform", "random"])
def test_next_sample_without_a_label(server: Server, strategy: str) -> None:
    reply = server.post(f"/activelearning/{strategy}", json={})
    assert reply.ok
    assert reply.json()["id"] in server.objects()


@pytest.mark.parametrize("task", ["segment", "uncertainty", "review", "propagate"])
def test_tasks_say_what_is_missing(server: Server, task: str) -> None:
    text = detail(server.infer(task, "two"), 404 if task == "review" else 409)
    assert "train" in text.lower() or "final" in text


def test_clicks(server: Server) -> None:
    inside = [int(n) for n in np.argwhere(truth(2) == 1).mean(0)]
    file, params = server.client().infer("prompt", "two", {"foreground": [inside], "label": "disc"})
    found = np.asarray(nibabel.load(file).dataobj)
    assert overlap(found == 1, truth(2) == 1)[0] > 0.85
    assert params["clicks"] == 1


def test_finals_as_png_and_nrrd(server: Server, tmp_path: Path) -> None:
    png = save_picture(tmp_path / "one.png", tiny_picture(1)[1])
    assert server.put_label("one", png).json()["warnings"] == []
    assert (server.study / "labels" / "final" / "one.png").read_bytes() == png.read_bytes()
    # As 3D Slicer saves it: a volume of one slice on the picture's grid.
    image = itk.image_from_array(tiny_picture(5)[1][None])
    image.SetSpacing([*itk.imread(str(server.study / FILES["five"])).GetSpacing(), 1.0])
    itk.imwrite(image, str(tmp_path / "five.nrrd"))
    assert server.put_label("five", tmp_path / "five.nrrd").json()["warnings"] == []
    assert server.get("/datastore/").json()["completed"] == 2
    assert server.get("/datastore/label?label=one&tag=final").content == png.read_bytes()
    bad = server.put_label("two", save_picture(tmp_path / "two.jpg", tiny_picture(2)[1]))
    assert "must be one of" in detail(bad, 400)


@pytest.mark.parametrize(("name", "number"), [("two", 2), ("three", 3), ("four", 4)])
def test_propagate_labels_every_kind_of_image(server: Server, name: str, number: int) -> None:
    file, params = server.client().infer("propagate", name, {})
    found = nibabel.load(file)
    scan = read_volume(server.study / FILES[name])
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-5)
    assert agreement(np.asarray(found.dataobj), number) > 0.85
    assert set(params["templates"]) == {"one", "five"}


def test_answer_as_png_and_as_viewers_ask_for_it(server: Server, tmp_path: Path) -> None:
    reply = server.post("/infer/propagate?image=two&output=image", data={"params": '{"result_extension": ".png"}'})
    assert reply.ok
    shown = np.asarray(Image.open(io.BytesIO(reply.content)))
    assert shown.shape == tiny_picture(2)[0].shape[:2]
    assert agreement(shown.T[..., None], 2) > 0.85
    file, _ = server.client().infer("propagate", "two", {"result_extension": ".nrrd", "result_dtype": "uint8"})
    image, picture = itk.imread(file), itk.imread(str(server.study / FILES["two"]))
    assert tuple(itk.size(image)) == (*itk.size(picture), 1)
    np.testing.assert_array_equal(itk.array_from_image(image)[0], shown)
    at = image.TransformIndexToPhysicalPoint([50, 40, 0])
    np.testing.assert_allclose([at[0], at[1]], list(picture.TransformIndexToPhysicalPoint([50, 40])), atol=1e-4)
    refused = server.infer("propagate", "two", result_extension=".png", result_dtype="float32")
    assert "uint8" in detail(refused, 400)


def test_bad_picture_is_refused(server: Server) -> None:
    assert "cut.png cannot be read" in detail(server.infer("propagate", "cut"), 422)


def test_batch_review_scoring_and_strategies(server: Server) -> None:
    assert server.post("/batch/infer/propagate", params={"images": "unlabeled"}, json={}).ok
    assert server.wait("/batch/infer/")["status"] == "DONE"
    stored = {name: item for name, item in server.objects().items() if "original" in item["labels"]}
    assert set(stored) == {"two", "three", "four", "new"}
    file, params = server.client().infer("review", "three", {})
    assert agreement(np.asarray(nibabel.load(file).dataobj), 3) > 0.85
    assert params["source"] == "propagation"
    assert server.post("/scoring/uncertainty", json={}).ok
    assert server.wait("/scoring/")["status"] == "DONE"
    assert server.post("/activelearning/recommended", json={}).json()["id"] in stored

"""A real server with scans that blind, mislead or cannot be used, and with scans that hold none of the structures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from server_process import Server, detail
from tiny_study import TINY_LABELS, dice, make_tiny_study, save_nifti, tiny_scan

INFO = [{"name": name, "idx": value} for value, name in enumerate(TINY_LABELS, 1)]


def odd_study(folder: Path) -> Path:
    """Two usual scans, of which one is outlined, and many that are not."""
    make_tiny_study(folder, scans=3)
    image, _, affine = tiny_scan(2)
    hot = image.astype(np.float32)
    hot.flat[np.random.default_rng(5).choice(hot.size, 8, replace=False)] = 3e6
    save_nifti(folder / "hot.nii.gz", hot, affine)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in image.shape[:2]], indexing="ij")
    padded = image.copy()
    padded[axes[0] ** 2 + axes[1] ** 2 > 1.1] = -32768
    save_nifti(folder / "padded.nii.gz", padded, affine)
    noise = np.random.default_rng(0).normal(100, 20, image.shape)
    save_nifti(folder / "noise.nii.gz", noise.astype(np.float32), affine)
    colour = np.zeros(image.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colour["R"] = np.clip(image / 3, 0, 255)
    nibabel.save(nibabel.Nifti1Image(colour, affine), folder / "colour.nii.gz")
    raw = (image + 1j * image).astype(np.complex64)
    nibabel.save(nibabel.Nifti1Image(raw, affine), folder / "raw.nii.gz")
    return folder


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    return serve(odd_study(tmp_path_factory.mktemp("odd") / "study"), labels=",".join(TINY_LABELS)).start()


def answer(server: Server, model: str, image: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Label and params."""
    file, params = server.client().infer(model, image, {"result_extension": ".nii.gz"})
    return np.asarray(nibabel.load(file).dataobj), params


@pytest.mark.parametrize("name", ["hot", "padded"])
def test_hot_voxels_and_padding_do_not_blind(server: Server, name: str) -> None:
    found, params = answer(server, "propagate", name)
    truth = tiny_scan(2)[1]
    assert min(dice(found, truth, value) for value in (1, 2)) > 0.8
    assert "warnings" not in params


def test_a_scan_of_something_else_comes_with_a_warning(server: Server) -> None:
    _, params = answer(server, "propagate", "noise")
    assert any("what is outlined in case_1" in text for text in params["warnings"])
    assert "warnings" not in answer(server, "propagate", "case_2")[1]


@pytest.mark.parametrize(("name", "part"), [("colour", "is in colour"), ("raw", "complex numbers")])
def test_odd_voxels_are_refused_in_words(server: Server, name: str, part: str) -> None:
    assert part in detail(server.infer("propagate", name), 422)
    assert part in detail(server.infer("prompt", name, foreground=[[5, 5, 5]]), 422)


def test_a_batch_goes_on_and_its_labels_carry_the_warnings_to_the_review(server: Server) -> None:
    images = ["case_2", "colour", "noise", "raw"]
    assert server.post("/batch/infer/propagate", json={"images": images}).ok
    status = server.wait("/batch/infer")
    assert status["status"] == "DONE", status["details"][-1]
    _, params = answer(server, "review", "noise")
    assert any("what is outlined in case_1" in text for text in params["warnings"])
    assert "warnings" not in answer(server, "review", "case_2")[1]
    labels = {name: set(each["labels"]) for name, each in server.objects().items()}
    assert labels["colour"] == labels["raw"] == set()
    assert labels["noise"] == {"original"}


def test_an_empty_label_counts_only_if_it_is_meant(server: Server, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(3)
    empty = save_nifti(tmp_path / "empty.nii.gz", np.zeros_like(label), affine)
    (text,) = server.put_label("case_3", empty).json()["warnings"]
    assert "is empty. Outline at least one of ball, rod" in text

    (text,) = server.put_label("case_3", empty, label_info=INFO).json()["warnings"]
    assert text == (
        "This outline is empty: the scan counts as one without ball, rod. If that is not meant, outline and submit "
        "again."
    )
    found, params = answer(server, "review", "case_3")
    assert params["source"] == "final"
    assert not found.any()
    # It is final, and yet not carried over.
    assert answer(server, "propagate", "case_2")[1]["templates"] == ["case_1"]
    assert "case_3" not in json.dumps(server.get("/activelearning/template").json())

    outlined = server.study / "labels" / "final" / "case_1.nii.gz"
    kept = outlined.read_bytes()
    assert server.put_label("case_1", empty, label_info=INFO).ok
    refused = detail(server.infer("propagate", "case_2"), 409)
    assert "(case_1, case_3) hold none of the structures" in refused
    assert "hold none of the structures" in detail(server.post("/train/semisam", json={"recipe": "fm_abs"}), 409)
    again = tmp_path / "again.nii.gz"
    again.write_bytes(kept)
    assert server.put_label("case_1", again, label_info=INFO).json()["warnings"] == []
    assert answer(server, "propagate", "case_2")[1]["templates"] == ["case_1"]

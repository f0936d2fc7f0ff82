"""The probability of one structure as an answer: of ``propagate`` and ``segment``."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from infers import Propagate, Review, Segment, Uncertainty
from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.setup.settings import Settings
from scored_study import put_specialist
from server.requests.infer_request import Task
from server.requests.inference import infer
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from tiny_study import TINY_LABELS, dice, make_tiny_study, tiny_scan


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    base = tmp_path_factory.mktemp("probability")
    folder = make_tiny_study(base / "study", scans=2)
    study = Study(str(folder), StudyDatastore(str(folder)), Settings(labels=LabelSchema(TINY_LABELS)), base / "models")
    put_specialist(study)
    return study


def _ask(study: Study, model: str, **options: Any) -> tuple[nibabel.Nifti1Image, dict[str, Any]]:
    tasks: dict[str, Task] = {
        "propagate": Propagate(study),
        "segment": Segment(study),
        "review": Review(study),
        "uncertainty": Uncertainty(study),
    }
    request = {"model": model, "image": "case_2", "result_extension": ".nii.gz", **options}
    answer = infer(request, tasks, study, "")
    file = Path(answer["file"])
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()
    return image, answer["params"]


@pytest.mark.parametrize("model", ["propagate", "segment"])
def test_the_map_lies_on_the_scan_and_agrees_with_the_label(study: Study, model: str) -> None:
    label, _ = _ask(study, model)
    values = np.asarray(label.dataobj)
    maps = {}
    for n, name in enumerate(TINY_LABELS, 1):
        image, params = _ask(study, model, output="probability", label=name)
        scan = nibabel.load(Path(study.datastore.get_image_uri("case_2")))
        assert image.shape == scan.shape
        np.testing.assert_allclose(image.affine, scan.affine)
        assert image.get_data_dtype() == np.float32
        assert (params["output"], params["scale"]) == ("probability", "0 to 1")
        maps[n] = np.asarray(image.dataobj)
        assert maps[n].min() >= 0
        assert maps[n].max() <= 1
    assert (maps[1] + maps[2]).max() <= 1 + 1e-5
    for n, found in maps.items():
        assert found[values == n].min(initial=1.0) >= 1 / 3 - 0.05
    if model == "propagate":
        assert dice(maps[1] > 0.5, tiny_scan(2)[1] == 1, True) > 0.6


def test_as_bytes_it_is_the_same_in_255_steps(study: Study) -> None:
    whole, _ = _ask(study, "propagate", output="probability", label="ball")
    image, params = _ask(study, "propagate", output="probability", label="ball", result_dtype="uint8")
    values = np.asarray(image.dataobj)
    assert values.dtype == np.uint8
    assert params["scale"] == "0 to 255"
    np.testing.assert_allclose(values / 255, np.asarray(whole.dataobj), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        ("propagate", {}, "Give one of ball, rod"),
        ("propagate", {"label": "liver"}, "'liver' is given.*Give one of ball, rod"),
        ("propagate", {"label": "ball", "result_dtype": "int16"}, "float32 .0 to 1. or uint8"),
        ("propagate", {"label": "ball", "save_label": True}, "no label that could be saved"),
        ("review", {"label": "ball"}, "'review' gives no probabilities. Ask propagate or segment"),
        ("uncertainty", {"label": "ball"}, "Ask propagate or segment"),
    ],
)
def test_what_cannot_be_is_refused(study: Study, model: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        _ask(study, model, output="probability", **options)
    assert caught.value.status == 400

"""Clicks over a running server, with the very requests of 3D Slicer and OHIF."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import requests

from server_process import Server, detail
from simulated_clicks import next_click
from tiny_study import dice, make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.server

SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz"}
"""What 3D Slicer adds to every infer request."""

OHIF = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
"""What OHIF adds to every infer request."""


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    study = make_tiny_study(tmp_path_factory.mktemp("study") / "study", scans=3, finals=0)
    image, _, _ = tiny_scan(2)
    # The anatomy of case_2 with permuted and flipped axes: LPS-like directions in another order.
    affine = np.array([[0, 0, -3.0, 31], [-3.0, 0, 0, 40], [0, 3.0, 0, -5], [0, 0, 0, 1]])
    save_nifti(study / "turned.nii.gz", np.ascontiguousarray(image.transpose(1, 2, 0)[::-1, :, ::-1]), affine)
    server: Server = serve(study, labels="ball,rod")
    return server.start()


def middle(number: int, value: int) -> list[int]:
    """The deepest voxel of a structure."""
    truth = tiny_scan(number)[1] == value
    click = next_click(np.zeros_like(truth), truth, (3, 3, 3))
    assert click is not None
    return list(click[0])


def slicer(server: Server, image: str, **params: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """SmartEdit's request through the client that 3D Slicer uses; mask and params of the reply."""
    file, reply = server.client().infer("prompt", image, {**SLICER, "result_extension": ".nii.gz", **params})
    return np.asarray(nibabel.load(file).dataobj), reply


def ohif(server: Server, image: str, **params: Any) -> requests.Response:
    """OHIF's request for point prompts."""
    return server.post(
        "/infer/prompt", params={"image": image, "output": "image"}, data={"params": json.dumps({**OHIF, **params})}
    )


def test_viewers_list_it_among_their_click_tools(server: Server) -> None:
    model = server.get("/info/").json()["models"]["prompt"]
    assert model["type"] == "deepgrow"
    assert model["dimension"] == 3
    assert model["labels"] == {"ball": 1, "rod": 2}
    assert model["config"] == {}
    assert model["description"]


def test_slicer_gets_the_segment_it_names(server: Server) -> None:
    _, truth, _ = tiny_scan(1)
    foreground = [middle(1, 2)]
    background: list[list[int]] = []
    mask, params = slicer(server, "case_1", label="rod", foreground=foreground, background=background)
    assert mask.shape == truth.shape
    assert set(np.unique(mask)) == {0, 1}
    assert params["label_names"] == {"rod": 1}
    assert params["label"] == "rod"
    assert params["clicks"] == 1
    assert params["source"] == "graph_cut"
    for _ in range(4):
        click = next_click(mask > 0, truth == 2, (3, 3, 3))
        assert click is not None
        (foreground if click[1] else background).append([int(x) for x in click[0]])
        mask, params = slicer(server, "case_1", label="rod", foreground=foreground, background=background)
        assert all(mask[tuple(p)] == 1 for p in foreground)
        assert all(mask[tuple(p)] == 0 for p in background)
    assert params["clicks"] == 5
    assert dice(mask, np.asarray(truth == 2), 1) > 0.8
    # The scan stayed open: it was not read again.
    assert params["latencies"]["total"] < 2
    assert params["latencies"]["read"] < 0.05


def test_reply_is_multipart_with_an_nrrd_as_slicer_asks_for(server: Server) -> None:
    reply = server.infer("prompt", "case_1", **SLICER, label="ball", foreground=[middle(1, 1)], background=[])
    assert reply.ok, reply.text
    assert b".nrrd" in reply.content
    assert b"NRRD" in reply.content


def test_ohif_names_no_label_and_gets_the_first_one_raw(server: Server) -> None:
    reply = ohif(server, "case_2", foreground=[middle(2, 1)], background=[[1, 1, 1]])
    assert reply.ok, reply.text
    head, body = reply.content.split(b"\n\n", 1)
    assert b"encoding: raw" in head
    values = np.frombuffer(body, np.uint8).reshape(tiny_scan(2)[0].shape, order="F")
    assert set(np.unique(values)) == {0, 1}
    assert dice(values, tiny_scan(2)[1], 1) > 0.8


def test_ohif_without_clicks_gets_a_text(server: Server) -> None:
    # A label without points: OHIF leaves the key out.
    assert "Place at least one" in detail(ohif(server, "case_2", background=[]), 400)


def test_scan_with_turned_axes(server: Server) -> None:
    plain, _ = slicer(server, "case_2", label="ball", foreground=[middle(2, 1)], background=[middle(2, 2)])
    size = tiny_scan(2)[0].shape

    def moved(point: list[int]) -> list[int]:
        i, j, k = point
        return [size[1] - 1 - j, k, size[0] - 1 - i]

    turned, _ = slicer(
        server, "turned", label="ball", foreground=[moved(middle(2, 1))], background=[moved(middle(2, 2))]
    )
    assert dice(turned, plain.transpose(1, 2, 0)[::-1, :, ::-1], 1) > 0.95
    assert dice(plain, tiny_scan(2)[1], 1) > 0.8


def test_box_alone_in_either_order(server: Server) -> None:
    truth = tiny_scan(3)[1] == 1
    corners = np.argwhere(truth)
    (i0, j0, k0), (i1, j1, k1) = corners.min(0).tolist(), corners.max(0).tolist()
    for roi in ([i0, i1, j0, j1, k0, k1], [i1, i0, j0, j1, k1, k0]):
        mask, params = slicer(server, "case_3", label="ball", foreground=[], background=[], roi=roi)
        assert params["clicks"] == 0
        assert dice(mask, np.asarray(truth), 1) > 0.8
    slicer(server, "case_3", label="ball", foreground=[], background=[], roi=[i0, i1, -9, j1, k0, k1 + 100])


def test_new_segment_one_slice_and_reset(server: Server) -> None:
    click = middle(1, 1)
    mask, params = slicer(
        server, "case_1", label="my tumour", foreground=[click], background=[], slice=click[2], reset_state=True
    )
    assert params["label_names"] == {"my tumour": 1}
    assert np.unique(np.nonzero(mask)[2]).tolist() == [click[2]]


def test_clicks_by_structure(server: Server) -> None:
    mask, params = slicer(server, "case_1", label="ball", ball=[middle(1, 1)], rod=[middle(1, 2)], background=[])
    assert params["clicks"] == 2
    assert mask[tuple(middle(1, 1))] == 1
    assert mask[tuple(middle(1, 2))] == 0


def test_changed_file_is_read_anew(server: Server) -> None:
    image, _, affine = tiny_scan(5)
    save_nifti(server.study / "case_3.nii.gz", image, affine)
    mask, _ = slicer(server, "case_3", label="ball", foreground=[middle(5, 1)], background=[middle(5, 2)])
    assert dice(mask, tiny_scan(5)[1], 1) > 0.8


@pytest.mark.parametrize(
    ("params", "part"),
    [
        ({}, "Place at least one"),
        ({"foreground": [], "background": []}, "Place at least one"),
        ({"foreground": [], "background": [[3, 3, 3]]}, "Clicks outside of it alone"),
        ({"foreground": [[36, 3, 3]]}, "outside the scan of 36 x 32 x 28"),
        ({"foreground": [[3, -1, 3]]}, "outside the scan"),
        ({"foreground": [[3, 3]]}, "[[i, j, k], ...]"),
        ({"foreground": [3, 3, 3]}, "[[i, j, k], ...]"),
        ({"foreground": "3,3,3"}, "[[i, j, k], ...]"),
        ({"foreground": [["a", 1, 2]]}, "[[i, j, k], ...]"),
        ({"foreground": [[True, 1, 2]]}, "[[i, j, k], ...]"),
        ({"foreground": [[1, 1, float("nan")]]}, "[[i, j, k], ...]"),
        ({"foreground": [[5, 5, 5]], "background": {"a": 1}}, "[[i, j, k], ...]"),
        ({"foreground": [[5, 5, 5]], "background": [[5, 5, 5]]}, "as inside and as outside"),
        ({"foreground": [[1, 1, 1]] * 1001}, "too many"),
        ({"foreground": [[5, 5, 5]], "roi": [1, 2, 3]}, "roi"),
        ({"foreground": [[5, 5, 5]], "roi": [100, 120, 0, 9, 0, 9]}, "roi: the box lies outside"),
        ({"foreground": [[5, 5, 5]], "slice": 28}, "slice"),
        ({"foreground": [[5, 5, 5]], "slice": "top"}, "slice"),
        ({"foreground": [[5, 5, 5]], "label": 3}, "label"),
        ({"foreground": [[5, 5, 5]], "label": " "}, "label"),
        ({"foreground": [[5, 5, 5]], "forground": []}, "no option 'forground'"),
        ({"foreground": [[5, 5, 5]], "save_label": True}, "no label that could be saved"),
    ],
)
def test_bad_request(server: Server, params: dict[str, Any], part: str) -> None:
    assert part in detail(server.infer("prompt", "case_1", **params), 400)


def test_it_is_no_batch_job_and_leaves_no_trace(server: Server) -> None:
    assert "no label" in detail(server.post("/batch/infer/prompt", params={"images": "all"}, json={}), 400)
    assert not list(Path(server.study).rglob("labels/*/*.nii.gz"))
    assert not list((server.folder / "tmp").glob("*.nrrd"))

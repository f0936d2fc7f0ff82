"""The benchmark with official weights: how the peer is asked, and which targets are stated."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tiny_study import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import real_weights_page as table_of
from common import Targets
from official_predictor import OfficialSlices


class Squares:
    """In place of ``SamPredictor``: finds a square wherever the slice is not empty."""

    def __init__(self) -> None:
        self.features: object = None
        self.images = 0
        self.asked: list[dict[str, Any]] = []

    def set_image(self, image: np.ndarray) -> None:
        self.images += 1
        self.features = image.copy()

    def predict(self, **question: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.asked.append(question)
        masks = np.asarray(self.features)[None, ..., 0] > 0
        return masks, np.array([0.9]), np.zeros((1, 256, 256))


def stack() -> np.ndarray:
    images = np.zeros((9, 20, 20, 3), dtype=np.uint8)
    images[2:6, 5:15, 4:12] = 200
    return images


def test_clicks_are_carried_by_boxes_until_the_structure_ends() -> None:
    model = Squares()
    slices = OfficialSlices(model, stack(), step=1)
    found = slices.by_clicks([((4, 9, 8), True)])
    assert np.array_equal(found, stack()[..., 0] > 0)
    assert model.asked[0]["multimask_output"]
    assert model.asked[0]["point_coords"].tolist() == [[8, 9]]
    assert model.asked[1]["box"].tolist() == [4, 5, 12, 15]
    assert model.images == 6  # the structure's slices, and one beyond it on either side
    slices.by_clicks([((4, 9, 8), True), ((4, 1, 1), False)])
    second = next(q for q in model.asked[6:] if q.get("point_coords") is not None)
    assert second["mask_input"] is not None
    assert second["point_labels"].tolist() == [1, 0]
    assert model.images == 6


def test_slices_that_are_not_asked_about_get_the_nearest_mask_and_a_box_ends_where_it_ends() -> None:
    slices = OfficialSlices(Squares(), stack(), step=2)
    found = slices.by_box((2, 5, 4), (5, 14, 11))
    assert [bool(f.any()) for f in found] == [False, False, True, True, True, True, False, False, False]


def results(ours: list[float], without: list[float]) -> dict[str, dict[str, Any]]:
    dice = {"official": [0.5] * 5, "ours": ours, "graph_cut": without}
    return {f"la/a/all/{m}": {"dice": d, "seconds": [3.0, 1, 1, 1, 1], "box": 0.7} for m, d in dice.items()}


def test_a_click_that_is_worse_with_weights_misses_a_target() -> None:
    good, bad = Targets(), Targets()
    text = table_of.report(results([0.8, 0.8, 0.82, 0.85, 0.87], [0.8, 0.8, 0.81, 0.84, 0.86]), ["la"], good)
    assert "la (1), ours with weights" in text
    assert not good.missed
    table_of.report(results([0.8, 0.7, 0.82, 0.85, 0.84], [0.8, 0.8, 0.81, 0.84, 0.86]), ["la"], bad)
    assert len(bad.missed) == 3


def test_the_same_clicks_without_weights_are_a_table_of_their_own() -> None:
    found = results([0.8, 0.7, 0.82, 0.85, 0.87], [0.9] * 5)
    assert table_of.same_clicks(found, ["la"]) == ""
    found["la/a/all/ours"]["same_clicks"] = [0.79, 0.71, 0.8, 0.85, 0.87]
    text = table_of.same_clicks(found, ["la"])
    assert "+0.0100" in text
    assert "1 of 5" in text
    assert "same clicks" in table_of.page("", Targets(), [], text)
    assert "same clicks" not in table_of.page("", Targets())


def test_a_page_of_some_sets_is_written_on_demand_only_and_names_those_that_were_not_measured() -> None:
    assert table_of.worth_a_page(["la", "jsrt"], ["la", "jsrt"], [], partial=False)
    assert not table_of.worth_a_page(["la"], ["la"], ["jsrt"], partial=False)
    assert table_of.worth_a_page(["la"], ["la"], ["jsrt"], partial=True)
    assert not table_of.worth_a_page(["la", "jsrt"], ["la"], ["jsrt"], partial=True)  # jsrt with fewer scans
    assert "`jsrt`" in table_of.page("", Targets(), ["jsrt"])
    assert "Not measured" not in table_of.page("", Targets())

"""The report of a run: one file, true numbers, pictures the right way up, nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.report.curves import chart
from lib.report.history import Entry, History
from lib.report.montage import CONTOURS, montage
from lib.report.page import Picture, RoundFacts, write_report


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))))


def test_history_survives_a_cut_line_and_forgets_rounds_that_are_made_again(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    assert history.read() == []
    for index in (1, 1, 2):
        history.add(Entry(index, 0, 1, {"loss": 0.5}))
    with open(tmp_path / "history.jsonl", "a", encoding="utf-8") as file:
        file.write('[2, 0, 2, {"lo')
    assert [e.round for e in history.read()] == [1, 1, 2]
    history.forget(2)
    assert [e.round for e in history.read()] == [1, 1]
    history.add(Entry(2, 0, 1, {"loss": 0.5}))
    history.add(Entry(2, 1, 1, {"loss": 0.4}))
    history.forget(2, 1)  # the second of a round's trainings begins anew, the first is done
    assert [(e.round, e.training) for e in history.read()] == [(1, 0), (1, 0), (2, 0)]
    history.add(Entry(2, 0, 1, {"loss": 0.25}))
    assert history.read()[-1] == Entry(2, 0, 1, {"loss": 0.25})


def test_a_chart_draws_higher_values_higher_and_leaves_out_what_is_no_number() -> None:
    svg = chart({"a<b": [(1, 0.0), (2, float("nan")), (3, 1.0)]}, "epoch", "loss")
    points = re.search(r'points="([^"]+)"', svg)
    assert points is not None
    (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points.group(1).split())
    assert x2 > x1
    assert y2 < y1
    assert "a&lt;b" in svg
    assert "Nothing was recorded" in chart({}, "epoch", "loss")
    assert "<svg" in chart({"one": [(1, 0.5)]}, "epoch", "loss")


def test_epochs_and_rounds_are_counted_in_whole_numbers() -> None:
    across = re.compile(r'text-anchor="middle">([\d.]+)</text>')
    assert across.findall(chart({"loss": [(1, 0.2), (4, 0.9)]}, "epoch", "loss")) == ["1", "2", "3", "4"]
    assert across.findall(chart({"loss": [(1, 0.2)]}, "epoch", "loss")) == ["1"]
    assert "0.4" in across.findall(chart({"loss": [(0.1, 0.2), (0.9, 0.9)]}, "share", "loss"))


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_agreement_is_drawn_once_there_is_a_curve(tmp_path: Path, rounds: int) -> None:
    facts = [RoundFacts(n, {"a": 0.9} if n else {}, {"a": 0.8}, {}) for n in range(rounds + 1)]
    write_report(tmp_path / "r.html", "a run", {}, [Entry(1, 0, 1, {"loss": 1.0})], facts, pictures=[], skipped={})
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("<svg") == rounds  # the loss; from two rounds on the agreement, too


def test_the_patients_right_is_on_the_left_and_the_front_is_up() -> None:
    image = torch.zeros(1, 20, 30, 10)
    label = torch.zeros(20, 30, 10)
    label[14:18, 24:28, 4:6] = 1  # right, anterior
    picture = pixels(montage(image, {"pseudo-label": label}, None, (1.0, 1.0, 1.0)))
    axial = picture[:220, : round(220 * 20 / 30)]
    rows, columns = np.nonzero((axial == CONTOURS["pseudo-label"]).all(-1))
    assert rows.mean() < axial.shape[0] / 2
    assert columns.mean() < axial.shape[1] / 2


def test_planes_keep_their_proportions_in_millimetres() -> None:
    picture = pixels(montage(torch.rand(1, 10, 10, 10), {}, torch.rand(10, 10, 10), (1.0, 1.0, 2.0)))
    # axial 220 x 220, coronal and sagittal 110 wide and 220 high, the uncertainty below
    assert picture.shape == (2 * (220 + 4), 220 + 110 + 110 + 3 * 4, 3)


def test_a_picture_in_two_dimensions_has_one_plane() -> None:
    picture = pixels(montage(torch.rand(3, 16, 8, 1), {"prediction": torch.ones(16, 8, 1)}, None, (1.0, 1.0, 1.0)))
    assert picture.shape == (110 + 4, 220 + 4, 3)


class Links(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_without_a_network_and_shows_the_least_confident_scan_first(tmp_path: Path) -> None:
    facts = RoundFacts(
        1, {"good": 0.9}, {"good": 0.95, "<bad>": 0.5}, {"good": {"liver": 1.5}, "<bad>": {"liver": 0.0}}
    )
    before = RoundFacts(0, {}, {"good": 0.8, "<bad>": 0.4}, {})
    address = montage(torch.rand(1, 8, 8, 8), {}, None, (1, 1, 1))
    history = [Entry(1, 0, 1, {"loss": 1.0}), Entry(1, 0, 2, {"loss": 0.5}), Entry(2, 0, 1, {"loss": 0.7})]
    path = tmp_path / "report.html"
    pictures = [Picture("Best", address, ["prediction"])]
    write_report(path, "a run", {"seed": 7}, history, [before, facts], pictures=pictures, skipped={"x": "torn"})
    page = Links()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.loaded
    assert all(link.startswith("data:image/png;base64,") for link in page.loaded)
    assert page.text.index("<bad>") < page.text.rindex("good")
    for text in ("seed", "7", "0.900", "torn", "liver 1.50", "propagation", "round 1"):
        assert text in page.text


@pytest.mark.parametrize("history", [[], [Entry(1, 0, 1, {"loss": float("nan")})]])
def test_a_run_without_curves_or_unlabelled_scans_still_has_a_page(tmp_path: Path, history: list[Entry]) -> None:
    write_report(tmp_path / "r.html", "a run", {}, history, [], pictures=[], skipped={})
    assert "There was no scan without a human label" in (tmp_path / "r.html").read_text(encoding="utf-8")

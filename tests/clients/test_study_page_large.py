"""The page of a study with 3,000 scans, in a real browser: how soon something is seen, and what it costs to see all."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import requests
from playwright.sync_api import Browser, expect

from server_process import Server
from study_page import StudyPage, chromium
from tiny_study import save_nifti

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(1800)]

SCANS = 3000
PAGES = SCANS // 50
PAINT_SECONDS = 1.0
MOST_HEAP, MOST_SERVER = 20 * 2**20, 150 * 2**20
"""Bytes by which the page's and the server's memory may grow from the tenth page to the last."""
_FIRST = """
new MutationObserver(() => {
  if (document.querySelector('.card') && !window.firstCard) { window.firstCard = performance.now(); }
}).observe(document, {childList: true, subtree: true});
"""


@dataclass
class Place:
    """A browser and a server with many scans."""

    browser: Browser
    server: Server

    def info(self) -> float:
        """Seconds that ``/info/`` takes."""
        begun = time.perf_counter()
        assert requests.get(self.server.url + "/info/", timeout=60).ok
        return time.perf_counter() - begun

    def memory(self) -> int:
        """Bytes of the server's process."""
        assert self.server.process is not None
        return int(psutil.Process(self.server.process.pid).memory_info().rss)


@pytest.fixture(scope="module")
def place(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    study = tmp_path_factory.mktemp("large") / "study"
    array = np.random.default_rng(0).normal(size=(20, 18, 8)).astype(np.float32)
    first = save_nifti(study / "scan_0001.nii.gz", array, np.diag([2.0, 2.0, 4.0, 1.0]))
    for number in range(2, SCANS + 1):
        shutil.copyfile(first, study / f"scan_{number:04d}.nii.gz")
    with chromium() as browser:
        yield Place(browser, serve(study, labels="organ").start())


def test_something_is_seen_within_a_second(place: Place) -> None:
    alone = [place.info() for _ in range(5)]
    paints = []
    for _ in range(5):  # the first one after the start, and others
        page = StudyPage(place.browser, place.server.url)
        page.page.add_init_script(_FIRST)
        page.page.goto(f"{place.server.url}/semisam/")
        page.page.wait_for_function("() => window.firstCard")
        told = page.page.evaluate("performance.getEntriesByType('paint').map(each => [each.name, each.startTime])")
        painted = dict(told)["first-contentful-paint"] / 1000
        scans = page.page.evaluate("window.firstCard") / 1000
        beside = [place.info() for _ in range(5)]
        print(f"first paint {painted:.2f} s, first scans {scans:.2f} s; /info/ {statistics.median(beside):.3f} s")
        paints.append(painted)
        assert page.wrong == []
        page.context.close()
    assert statistics.median(paints) < PAINT_SECONDS  # one may fall on a moment when the machine is busy
    page = StudyPage(place.browser, place.server.url).open()
    page.page.wait_for_function(
        "() => document.querySelector('img.picture')?.naturalWidth > 0"
    )  # others are not in sight
    page.picture("large")
    print(f"/info/ before: {statistics.median(alone):.3f} s")


def test_memory_stays_flat_while_all_scans_are_scrolled_through(place: Place) -> None:
    page = StudyPage(place.browser, place.server.url).open()
    session = page.context.new_cdp_session(page.page)
    session.send("Performance.enable")

    def measured() -> dict[str, Any]:
        session.send("HeapProfiler.collectGarbage")
        return {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}

    asked, early, server = [], {}, 0
    for number in range(1, PAGES + 1):
        expect(page.page.get_by_text(f"Page {number} of {PAGES}")).to_be_visible()
        page.page.mouse.move(600, 600)
        page.page.mouse.wheel(0, 20_000)  # pictures are asked for when they come into sight
        page.page.wait_for_timeout(150)
        asked.append(place.info())
        if number == 10:
            early, server = measured(), place.memory()
        if number < PAGES:
            page.press("On")
    late, grown = measured(), place.memory() - server
    heap = late["JSHeapUsedSize"] - early["JSHeapUsedSize"]
    print(
        f"heap {late['JSHeapUsedSize'] / 2**20:.1f} MiB ({heap / 2**20:+.1f}), nodes {late['Nodes']:.0f}, server "
        f"{grown / 2**20:+.0f} MiB; /info/ median {statistics.median(asked):.3f} s, longest {max(asked):.2f} s"
    )
    assert heap < MOST_HEAP
    assert late["Nodes"] < 1.5 * early["Nodes"]
    assert grown < MOST_SERVER
    assert statistics.median(asked) < 0.5
    assert page.wrong == []

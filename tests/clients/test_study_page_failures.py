"""A training that fails is told on the page in words, with what to do: for each of five causes.

The tests stand on each other, in their order. Screenshots are kept in ``.artifacts/study_page``.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
import pytest
from playwright.sync_api import Browser, Locator, expect

from lib.setup.demo import DEMO_LABELS, make_phantom
from server_process import Server
from study_page import StudyPage, chromium
from tiny_study import save_nifti

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(1800)]

SCANS = 4
SPACE = 256 * 2**20
"""Bytes of the disk with the trainings."""


@dataclass
class Place:
    """A browser and a server whose trainings lie on a small disk of their own, if this system allows one."""

    browser: Browser
    server: Server
    disk: bool

    def page(self, reader: str = "anna") -> StudyPage:
        return StudyPage(self.browser, self.server.url, reader).open("work")

    def begun(self) -> str:
        """When the last training has begun to work."""
        found = [*(self.server.app / "model" / "semisam").rglob("train_stats.json")]
        return str(json.loads(found[0].read_text())["start_ts"]) if found else ""

    def training(self) -> psutil.Process:
        """The process that trains."""
        assert self.server.process is not None
        children = psutil.Process(self.server.process.pid).children(recursive=True)
        (found,) = [child for child in children if "train" in child.cmdline() and child.num_threads() > 1]
        return found


@pytest.fixture(scope="module")
def place(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    study = tmp_path_factory.mktemp("study") / "study"
    for number in range(SCANS):
        array, _, affine = make_phantom(number)
        save_nifti(study / f"patient_{number + 1}.nii.gz", array, affine)
    server = serve(study, labels=",".join(DEMO_LABELS), spacing="6", roi_size="32,32,16")
    model = server.app / "model"
    model.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SPACE}", "tmpfs", str(model)], check=False, capture_output=True
    )
    try:
        with chromium() as browser:
            yield Place(browser, server.start(), mounted.returncode == 0)
        server.stop()
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(model)], check=True)


def card(page: StudyPage) -> Locator:
    """The part of the page about trainings."""
    return page.page.locator(".job-card", has=page.page.get_by_role("heading", name="Train", exact=True))


def start(page: StudyPage) -> None:
    """Start a training, and wait until it is at work."""
    card(page).get_by_role("button", name="Start", exact=True).click()
    expect(card(page).get_by_role("status")).to_contain_text("round", timeout=240_000)


def told(place: Place, page: StudyPage, name: str, *parts: str) -> None:
    """The failure is told in words, and stays: for whoever loads the page anew, and for others."""
    for shown in (page, place.page("bert")):
        failed = card(shown).locator(".banner.bad:visible")
        for part in parts:
            expect(failed).to_contain_text(part, timeout=120_000)
        assert "Traceback" not in failed.inner_text()
    page.page.reload()
    expect(card(page).locator(".banner.bad:visible")).to_contain_text(parts[0])
    card(page).scroll_into_view_if_needed()
    page.picture(f"failed_{name}")
    assert page.elsewhere == []


def test_without_a_label_it_is_refused_with_what_to_do(place: Place) -> None:
    page = place.page()
    card(page).get_by_role("button", name="Start", exact=True).click()
    alert = card(page).get_by_role("alert")
    expect(alert).to_contain_text("Outline one scan in the viewer")
    page.picture("failed_no_label")


def test_a_bad_option_is_named_with_what_is_allowed(place: Place) -> None:
    file = save_nifti(place.server.folder / "outline.nii.gz", *make_phantom(0)[1:])
    info = [{"name": name, "idx": value} for value, name in enumerate(DEMO_LABELS, start=1)]
    assert place.server.put_label("patient_1", file, label_info=info, client_id="slicer").ok
    page = place.page()
    card(page).get_by_text("More options").click()
    card(page).get_by_label("rounds").fill("99")
    card(page).get_by_role("button", name="Start", exact=True).click()
    alert = card(page).get_by_role("alert")
    expect(alert).to_contain_text("rounds")
    expect(alert).to_contain_text("20")  # the most
    page.picture("failed_bad_option")


def test_one_that_was_killed(place: Place) -> None:
    page = place.page()
    start(page)
    place.training().send_signal(signal.SIGKILL)
    told(place, page, "killed", "was killed", "Train again to go on")


def test_one_that_runs_out_of_memory(place: Place) -> None:
    page = place.page()
    before = place.begun()
    card(page).get_by_role("button", name="Start", exact=True).click()
    until = time.monotonic() + 240
    while place.begun() == before and time.monotonic() < until:
        time.sleep(0.1)
    process = place.training()  # before it has read a scan: later, it lives on what it has
    process.rlimit(resource.RLIMIT_AS, (process.memory_info().vms + 2**24, resource.RLIM_INFINITY))
    told(place, page, "memory", "The memory of this machine does not suffice", "choose the preset quick")


def test_one_whose_disk_is_full(place: Place) -> None:
    if not place.disk:
        pytest.skip("this system allows no disk of our own")
    page = place.page()
    start(page)
    model = place.server.app / "model"
    with (model / "filler").open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(model).free - 2**16)))
    told(place, page, "disk", "No space left", "Free some space")


def test_then_it_goes_on(place: Place) -> None:
    (place.server.app / "model" / "filler").unlink(missing_ok=True)
    page = place.page()
    start(page)
    expect(card(page).locator(".banner.bad:visible")).to_have_count(0)
    card(page).get_by_role("button", name="Cancel").click()
    expect(card(page).get_by_role("status")).to_contain_text("was stopped")

"""The study's page on a DICOM server: a real Orthanc, a real MONAI Label server, a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from dicomfiles import Labelled, write_series
from lib.setup.demo import DEMO_LABELS, make_phantom
from orthanc import Orthanc
from server_process import Server
from study_page import PICTURES, StudyPage, chromium
from tiny_study import save_nifti

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(1800)]

PATIENTS = ("demo_01", "demo_02", "<svg onload=window.hurt=1>")


@dataclass
class Place:
    """A DICOM server with three series, the server that works on it, and a browser."""

    browser: Browser
    server: Server
    orthanc: Orthanc
    series: list[tuple[str, str]]

    def page(self, part: str = "") -> StudyPage:
        return StudyPage(self.browser, self.server.url).open(part)


def card(page: StudyPage, title: str) -> Locator:
    """The card with this title: others may name the scan, too."""
    return page.cards().filter(has=page.page.get_by_role("heading", name=title, exact=True))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def place(
    browser: Browser, orthanc: Orthanc, serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """The first series is outlined, and its outline carried over to the others."""
    folder = tmp_path_factory.mktemp("dicom")
    series = []
    for number, patient in enumerate(PATIENTS):
        files = folder / str(number)
        series.append(write_series(files, Labelled(*make_phantom(number)), patient=patient))
        orthanc.upload(files)
    env = {"MONAI_LABEL_DATASTORE_CACHE_PATH": str(folder / "cache"), "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "1"}
    address: Path = orthanc.dicomweb  # type: ignore[assignment]
    server = serve(address, env=env, labels=",".join(DEMO_LABELS)).start()
    _, label, affine = make_phantom(0)
    info = [{"name": name, "idx": value} for value, name in enumerate(DEMO_LABELS, start=1)]
    file = save_nifti(folder / "outline.nii.gz", label, affine)
    assert server.put_label(series[0][1], file, label_info=info, client_id="slicer").ok
    assert server.post("/batch/infer/propagate?images=unlabeled").ok
    assert server.wait("/batch/infer")["status"] == "DONE"
    return Place(browser, server, orthanc, series)


def test_series_are_called_by_their_patients(place: Place) -> None:
    page = place.page()
    expect(page.cards()).to_have_count(3)
    for patient in PATIENTS:
        expect(page.page.get_by_role("heading", name=patient, exact=True)).to_be_visible()
    expect(card(page, "demo_01")).to_contain_text("Outlined")
    expect(card(page, "demo_02")).to_contain_text("Carried over")
    expect(card(page, "demo_02")).to_contain_text("20240102, CT")
    expect(card(page, "demo_02")).to_contain_text("Carried over from demo_01")
    page.drawn()
    page.picture("dicom")
    assert page.page.evaluate("window.hurt") is None
    assert page.wrong == []
    assert page.elsewhere == []


def test_a_dicom_server_that_is_away_is_said_and_nothing_is_accepted(place: Place) -> None:
    study, uid = place.series[1]
    page = place.page(f"scan/{uid}")
    page.drawn()
    before = len(place.orthanc.segs(uid))
    place.orthanc.stop()
    try:
        page.page.keyboard.press("a")
        refused = page.page.locator("#notices").get_by_role("alert")
        expect(refused.filter(has_text="cannot be reached")).to_be_visible()
        page.picture("dicom_away")
    finally:
        place.orthanc.start()
    assert len(place.orthanc.segs(uid)) == before
    assert "final" not in place.server.objects()[uid]["labels"]
    assert study


def test_the_dicom_server_is_away_in_the_middle_of_each_step(place: Place) -> None:
    """What happened stays on the screen, in words, until it has passed."""
    page, uid = place.page("steps"), place.series[1][1]
    banner = page.page.locator("#offline")
    place.orthanc.stop()
    try:
        expect(banner).to_contain_text("The DICOM server cannot be reached. What you see is what was known before.")
        page.picture("away_steps")
        page.open("work")
        labels = page.page.locator(".job-card").first
        labels.get_by_role("button", name="Start", exact=True).click()
        expect(labels.get_by_role("button", name="Cancel")).to_be_visible()
        expect(labels.get_by_role("status")).to_contain_text("has ended well", timeout=300_000)
        expect(banner).to_contain_text("cannot be reached")
        page.picture("away_carried")
        page.open()
        expect(page.cards()).to_have_count(3)
        page.open(f"scan/{uid}")
        page.drawn()
        page.page.keyboard.press("a")
        refused = page.page.get_by_role("alert").filter(has_text="could not be stored")
        expect(refused).to_be_visible()
        page.page.keyboard.press("r")
        expect(page.page.get_by_text("is sent back")).to_be_visible()
        page.open(f"scan/{uid}")
        page.page.keyboard.press("u")
        expect(page.page.get_by_text("is taken back")).to_be_visible()
        expect(banner).to_be_visible()
        page.picture("away_scan")
        page.open("work")
        train = page.page.locator(".job-card").nth(1)
        train.get_by_role("button", name="Start", exact=True).click()
        expect(train.get_by_role("button", name="Cancel")).to_be_visible()
        train.get_by_role("button", name="Cancel").click()
        expect(train.get_by_role("status")).to_contain_text("was stopped")
        expect(banner).to_contain_text("cannot be reached")
    finally:
        place.orthanc.start()
    expect(banner).to_be_hidden(timeout=120_000)
    assert "final" not in place.server.objects()[uid]["labels"]


def test_what_is_accepted_is_a_seg_on_the_server_and_can_be_taken_back(place: Place) -> None:
    uid = place.series[1][1]
    page = place.page(f"scan/{uid}")
    page.drawn()
    before = len(place.orthanc.segs(uid))
    page.page.keyboard.press("a")
    page.page.get_by_text("demo_02 is accepted").wait_for()
    assert len(place.orthanc.segs(uid)) == before + 1
    page.open()
    expect(card(page, "demo_02")).to_contain_text("Accepted by anna")
    page.open(f"scan/{uid}")
    with page.page.expect_download() as waiting:
        page.page.get_by_role("link", name="Label as DICOM SEG").click()
    assert waiting.value.suggested_filename == f"{uid}_final.dcm"
    page.page.get_by_role("button", name="Take back what you did last").click()
    expect(page.page.get_by_text("What was done to demo_02 is taken back. Its SEG stays")).to_be_visible()
    assert "final" not in place.server.objects()[uid]["labels"]
    expect(page.page.get_by_role("button", name="Accept")).to_be_enabled()
    page.page.keyboard.press("a")
    page.page.get_by_text("demo_02 is accepted").wait_for()
    assert len(place.orthanc.segs(uid)) == before + 2


def test_ohif_is_a_click_away_and_leads_back(place: Place) -> None:
    study, uid = place.series[2]
    page = place.page(f"scan/{uid}")
    with page.page.expect_popup() as waiting:
        page.page.get_by_role("link", name="Open in OHIF").click()
    ohif = waiting.value
    assert study in ohif.url
    link = ohif.get_by_role("link", name="All scans of the study")
    expect(link).to_be_visible(timeout=300_000)
    assert link.get_attribute("href") == f"{place.server.url}/semisam/"
    above = ohif.locator("#semisam-study")
    expect(above).to_contain_text("2 of 3 scans done, 1 with a pseudo-label.")
    assert place.server.post("/batch/infer/propagate?images=unlabeled").ok
    expect(above).to_contain_text("Batch", timeout=30_000)  # by itself
    expect(above).to_have_text("All scans of the study2 of 3 scans done, 1 with a pseudo-label.", timeout=300_000)
    ohif.screenshot(path=PICTURES / "ohif.png")
    place.server.stop()
    expect(above).to_contain_text("The server does not answer")

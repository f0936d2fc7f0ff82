"""OHIF's panel says how things stand, every failure is told in words that stay, and nothing drawn is lost unasked.

A real browser, DICOM server and MONAI Label server. The tests stand on each other, in their order. Screenshots
are kept in ``.artifacts/ohif/told``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Dialog, Locator, Page, expect

from dicomfiles import Labelled, write_series
from lib.setup.demo import DEMO_LABELS, make_phantom
from ohif import Ohif, browser
from orthanc import Orthanc
from server_process import Server
from tiny_study import save_nifti

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(1800)]

SCANS = 3


@dataclass
class Place:
    """A DICOM server with some series of which the first is outlined, the server that works on it, and a browser."""

    server: Server
    orthanc: Orthanc
    page: Page
    series: list[tuple[str, str]]
    asked: list[str] = field(default_factory=list)

    def open(self, number: int) -> Ohif:
        """OHIF with a series, connected."""
        viewer = Ohif(self.page, self.server.url, "told")
        viewer.open(self.series[number][0])
        viewer.connect()
        return viewer

    def told(self, text: str) -> Locator:
        """A box that stays, with this text."""
        box = self.page.locator("#semisam-told > div").filter(has_text=text)
        expect(box).to_be_visible()
        return box

    @contextmanager
    def without_dicom(self) -> Iterator[None]:
        """The DICOM server is away."""
        self.orthanc.stop()
        try:
            yield
        finally:
            self.orthanc.start()


@pytest.fixture(scope="module")
def place(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("told")
    orthanc = Orthanc(folder / "orthanc").start()
    series = []
    for number in range(SCANS):
        files = folder / str(number)
        series.append(write_series(files, Labelled(*make_phantom(number)), patient=f"demo_{number + 1:02d}"))
        orthanc.upload(files)
    env = {"MONAI_LABEL_DATASTORE_CACHE_PATH": str(folder / "cache"), "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "1"}
    server = serve(orthanc.dicomweb, env=env, labels=",".join(DEMO_LABELS), spacing="6", roi_size="32,32,16").start()
    outline(server, series[0][1], folder)
    with browser(folder / "browser") as page:
        found = Place(server, orthanc, page, series)
        page.context.on("request", lambda request: found.asked.append(request.url))
        yield found
    orthanc.stop()


def outline(server: Server, uid: str, folder: Path) -> None:
    """Outline the first series, as a viewer does."""
    file = save_nifti(folder / "outline.nii.gz", *make_phantom(0)[1:])
    info = [{"name": name, "idx": value} for value, name in enumerate(DEMO_LABELS, start=1)]
    assert server.put_label(uid, file, label_info=info).ok


def test_the_strategy_that_is_chosen_is_asked_and_the_next_sample_comes_with_its_reason(place: Place) -> None:
    viewer = place.open(0)
    part = viewer.unfold("Active Learning")
    part.locator("select").select_option("uniform")
    with place.page.expect_response(lambda r: "/activelearning/" in r.url) as waiting:
        part.get_by_role("button", name="Next Sample").click()
    assert waiting.value.url.endswith("/activelearning/uniform")
    form = place.page.locator(".nextSampleForm .semisam-reason").locator("..")
    expect(form).to_contain_text(waiting.value.json()["reason"])
    expect(form).to_contain_text("demo_0")
    expect(form).not_to_contain_text("Instance UID")
    viewer.picture("next_sample")


def test_bars_are_readable_and_follow_the_study(place: Place) -> None:
    viewer = place.open(0)
    assert viewer.status()["Annotated"] == ("33%", "1/3 samples annotated")
    bar = viewer.unfold("Active Learning").locator(".w3-container").first
    assert bar.evaluate("e => getComputedStyle(e).color") != bar.evaluate("e => getComputedStyle(e).backgroundColor")
    outline(place.server, place.series[0][1], place.server.folder)
    colour = viewer.colour("left_kidney").astype(int)
    shown = place.server.get("/semisam/api/structures").json()["structures"]
    (kidney,) = [each["colour"] for each in shown if each["name"] == "left_kidney"]
    assert kidney == "#{:02x}{:02x}{:02x}".format(*colour)


def test_the_button_of_the_training_says_what_it_does(place: Place) -> None:
    viewer = place.open(0)
    viewer.set_options("train", "semisam", {"preset": "quick"})
    assert viewer.press_train().ok
    viewer.train_button("Stop Training")
    text = place.page.locator("#semisam-study p")
    expect(text).to_contain_text("round")
    viewer.picture("training")
    assert "Training" in viewer.status()["Training"][1]
    assert viewer.press_train().ok  # stops it
    viewer.wait_heard("Model update task STOPPED")
    viewer.train_button("Update Model")

    assert place.server.post("/train/semisam", json={"preset": "quick"}).ok  # by somebody else
    viewer.train_button("Stop Training")
    assert place.server.get("/train/").json()["status"] == "RUNNING"
    place.server.delete("/train/")
    viewer.train_button("Update Model")
    place.page.evaluate("""() => { const late = new XMLHttpRequest(); late.open('DELETE', '/train/'); late.send(); }""")
    place.told("No training was running")  # whoever presses the button a moment too late


def test_what_is_drawn_is_not_lost_without_a_question(place: Place) -> None:
    viewer = place.open(1)
    assert viewer.run("propagate").ok
    drawn = viewer.segments().array
    assert drawn.any()
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    place.page.on("dialog", stay)
    place.page.evaluate("setTimeout(() => location.reload(), 0)")
    place.page.wait_for_timeout(2000)
    place.page.locator('[data-cy="return-to-work-list"]').click()
    place.page.wait_for_timeout(1000)
    for _ in range(2):
        place.page.evaluate("history.back()")
        place.page.wait_for_timeout(1000)
    place.page.remove_listener("dialog", stay)
    assert asked == ["beforeunload", "confirm", "confirm", "confirm"]
    np.testing.assert_array_equal(viewer.segments().array, drawn)

    assert viewer.save("checked").ok
    place.told("The segmentation is stored on the DICOM server")
    viewer.picture("stored")
    place.page.on("dialog", stay)
    place.page.reload()  # nobody asks
    viewer.loaded()
    place.page.remove_listener("dialog", stay)
    assert len(asked) == 4


def test_back_asks_each_time_a_scan_is_opened_and_then_leads_to_the_list(place: Place) -> None:
    viewer, page = Ohif(place.page, place.server.url, "told"), place.page
    page.goto(f"{place.server.url}/ohif/")
    asked: list[str] = []

    def leave(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", leave)
    for leaving in (
        "history.back()",
        "document.querySelector('[data-cy=\"return-to-work-list\"]').click()",
        "history.back()",
    ):
        viewer.choose_patient("demo_03")
        viewer.connect()
        assert viewer.run("propagate").ok
        page.evaluate(leaving)
        expect(page.get_by_text("Study list").first).to_be_visible()
    page.remove_listener("dialog", leave)
    assert asked == ["confirm"] * 3


def test_where_back_leads_nowhere_the_drawing_is_still_asked_about(place: Place) -> None:
    place.page.goto(f"{place.server.url}/semisam/")
    with place.page.context.expect_page() as opened:  # in a tab of its own, as from a link
        place.page.evaluate(f"window.open('/ohif/monai-label?StudyInstanceUIDs={place.series[2][0]}')")
    page = opened.value
    viewer = Ohif(page, place.server.url, "told")
    viewer.loaded()
    viewer.connect()
    assert viewer.run("propagate").ok
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept() if len(asked) == 1 else dialog.dismiss()

    page.on("dialog", answer)
    page.evaluate("history.back()")
    page.wait_for_timeout(3000)
    assert place.series[2][0] in page.url
    page.evaluate("setTimeout(() => location.reload(), 0)")
    page.wait_for_timeout(2000)
    assert asked == ["confirm", "beforeunload"]
    page.remove_listener("dialog", answer)
    page.on("dialog", lambda dialog: dialog.accept())
    page.close()


def test_a_refusal_stays_until_it_has_passed(place: Place) -> None:
    viewer = place.open(2)
    assert not viewer.run("segment").ok
    box = place.told("train first (Update Model)")  # OHIF's words
    place.page.wait_for_timeout(10_000)
    expect(box).to_be_visible()
    viewer.picture("refused")
    assert viewer.run("propagate").ok
    expect(box).to_have_count(0)


def test_the_dicom_server_is_away_in_the_middle_of_each_step(place: Place) -> None:
    viewer = place.open(2)
    with place.without_dicom():
        assert viewer.run("propagate").ok  # scan and label are here
        assert viewer.save("checked").status == 502
        place.told("The segmentation is NOT stored")
        viewer.picture("away_save")
        place.page.locator("[data-cy=monailabel-btn]").click()
        viewer.connect()
        assert viewer.press_train().ok  # its scans are here
        viewer.train_button("Stop Training")
        viewer.press_train()
        with place.page.expect_response(lambda r: "/activelearning/" in r.url) as waiting:
            viewer.unfold("Active Learning").get_by_role("button", name="Next Sample").click()
        assert waiting.value.ok  # by the lists of before
    place.page.keyboard.press("Escape")
    place.page.locator("#semisam-not-stored button").click()
    with place.without_dicom():
        place.page.goto(f"{place.server.url}/ohif/")
        place.told("could not be fetched from the DICOM server")
        viewer.picture("away_list")
        place.page.goto(f"{place.server.url}/ohif/monai-label?StudyInstanceUIDs={place.series[1][0]}")
        place.told("could not be fetched from the DICOM server")
        place.page.wait_for_timeout(8000)
        place.told("Load this page again when it is back")
        viewer.picture("away_exam")
    place.open(1)
    expect(place.page.locator("#semisam-told > div")).to_have_count(0)


def test_the_server_is_gone(place: Place) -> None:
    viewer = place.open(2)
    assert viewer.run("propagate").ok
    drawn = viewer.segments().array
    place.server.stop()
    part = viewer.unfold("Auto-Segmentation")
    part.get_by_role("button", name="Run").click()
    place.told("The server does not answer")
    viewer.picture("gone_run")
    viewer.unfold("Active Learning").get_by_role("button", name="Next Sample").click()
    place.told("There is no next sample")
    viewer.unfold("Active Learning").get_by_role("button", name="Update Model").click()
    place.told("The training is not started")
    place.page.locator(".settingsTable button").click()
    place.told("Not connected")
    expect(place.page.locator("#semisam-study p")).to_contain_text("The server does not answer")
    viewer.picture("gone")
    np.testing.assert_array_equal(viewer.segments().array, drawn)
    place.server.start()
    viewer.connect()
    expect(place.page.locator("#semisam-told > div")).to_have_count(0)
    expect(place.page.locator("#semisam-study p")).to_contain_text("scans done")


def test_when_all_is_done_the_panel_says_so(place: Place) -> None:
    viewer = place.open(2)
    assert viewer.run("propagate").ok
    assert viewer.save("checked").ok
    place.page.locator("[data-cy=monailabel-btn]").click()
    viewer.connect()
    place.page.wait_for_timeout(2000)  # the list of labels is a second old at most
    viewer.unfold("Active Learning").get_by_role("button", name="Next Sample").click()
    expect(place.page.locator(".semisam-reason")).to_contain_text("Every scan has a final label")
    viewer.picture("all_done")


def test_nothing_was_asked_of_the_internet(place: Place) -> None:
    own = (place.server.url, "blob:", "data:", "about:")
    assert len(place.asked) > 100
    assert [url for url in place.asked if not url.startswith(own)] == []

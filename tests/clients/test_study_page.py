"""The study's page, from an empty study to accepted scans, in a real browser with a real MONAI Label server.

The tests stand on each other, in their order. Screenshots are kept in ``.artifacts/study_page``; some of them are the
pictures of the tutorial, and are put there if ``SEMISAM_DOC_PICTURES`` is set.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Error, Route, expect

from lib.setup.demo import DEMO_LABELS, make_phantom
from server_process import Server
from study_page import PICTURES, StudyPage, chromium
from tiny_study import ROOT, save_nifti

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(1800)]

SCANS = 6
NASTY = '<img src=x onerror="window.hurt=1">'
NASTY_TOO = "'\"><svg onload=window.hurt=1>"
PICTURED = ("first-steps", "carried-over", "one-scan", "work", "accepted")
MOST_BYTES = 200_000


@dataclass
class Place:
    """A browser, a server, and its study."""

    browser: Browser
    server: Server
    study: Path

    def page(self, reader: str = "anna", **more: object) -> StudyPage:
        return StudyPage(self.browser, self.server.url, reader, **more)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def place(browser: Browser, serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Six generated patients, none of them outlined."""
    study = tmp_path_factory.mktemp("study") / "study"
    for number in range(SCANS):
        array, _, affine = make_phantom(number)
        save_nifti(study / f"patient_{number + 1}.nii.gz", array, affine)
    labels = ",".join(DEMO_LABELS)
    return Place(browser, serve(study, labels=labels, spacing="6", roi_size="32,32,16").start(), study)


def test_an_empty_study_says_where_to_begin(place: Place) -> None:
    page = place.page()
    page.open("steps")
    expect(page.page.get_by_text("None of the 6 scans is outlined yet")).to_be_visible()
    link = page.page.get_by_role("link", name="patient_1").first
    expect(link).to_be_visible()
    expect(page.page.get_by_label("Address of this server")).to_have_value(place.server.url)
    page.picture("first-steps")
    link.click()
    page.drawn()
    expect(page.page.get_by_role("button", name="Accept")).to_be_disabled()
    page.page.keyboard.press("a")  # does nothing: there is nothing to accept
    page.open("work")
    page.press("Start")
    expect(page.page.get_by_text("Outline one scan in the viewer").first).to_be_visible()
    page.picture("refused")
    assert page.wrong == ["Failed to load resource: the server responded with a status of 409 (Conflict)"]
    assert page.elsewhere == []


def test_one_outline_is_carried_over_and_two_browsers_see_it(place: Place) -> None:
    array, label, affine = make_phantom(0)
    file = save_nifti(place.server.folder / "outline.nii.gz", label, affine)
    assert array.shape == label.shape
    info = [{"name": name, "idx": value} for value, name in enumerate(DEMO_LABELS, start=1)]
    assert place.server.put_label("patient_1", file, label_info=info, client_id="slicer").ok
    anna, bert = place.page("anna").open("work"), place.page("bert").open()
    anna.press("Carry over to all")
    for page in (anna, bert):
        expect(page.page.locator("#job")).to_contain_text("Batch")
    anna.page.get_by_text("Log", exact=True).first.click()
    expect(anna.page.locator(".job-card pre").first).to_contain_text("of 5 scans", timeout=240_000)
    anna.picture("carrying")
    expect(bert.page.get_by_role("button", name="Carried over 5")).to_be_visible(timeout=300_000)
    bert.drawn()
    expect(bert.cards().first).to_contain_text("Outlined by slicer")
    expect(bert.page.locator(".card", has_text="patient_2")).to_contain_text("Carried over from patient_1")
    bert.picture("carried-over")
    expect(anna.page.get_by_text("has ended well").first).to_be_visible()
    assert anna.wrong == bert.wrong == []
    assert anna.elsewhere == bert.elsewhere == []


def test_search_sort_and_table(place: Place) -> None:
    page = place.page().open()
    page.page.get_by_role("searchbox").fill("patient_3")
    expect(page.cards()).to_have_count(1)
    page.page.get_by_role("searchbox").fill("")
    page.page.get_by_label("Sort by").select_option("volume")
    expect(page.page.get_by_label("Structure whose volume counts")).to_be_visible()
    page.press("Smallest first")
    page.press("Table")
    rows = page.page.locator("tbody tr")
    expect(rows).to_have_count(SCANS)
    page.drawn()
    page.picture("table")
    volumes = [float(row.locator(".volumes li").first.inner_text().split()[1]) for row in rows.all()[: SCANS - 1]]
    assert volumes == sorted(volumes, reverse=True)
    page.press("Carried over 5")
    expect(rows).to_have_count(SCANS - 1)


def test_names_run_nothing(place: Place) -> None:
    page = place.page().open()
    array, _, affine = make_phantom(9)
    files = [save_nifti(place.study / f"{name}.nii.gz", array, affine) for name in (NASTY, NASTY_TOO)]
    expect(page.page.get_by_role("heading", name=NASTY, exact=True)).to_be_visible()
    expect(page.page.get_by_role("heading", name=NASTY_TOO, exact=True)).to_be_visible()
    page.page.get_by_role("heading", name=NASTY, exact=True).click()
    page.drawn()
    expect(page.page.locator("main h1")).to_have_text(NASTY)
    for part in ("work", "steps"):
        page.open(part)
    assert page.page.evaluate("window.hurt") is None
    assert page.page.locator("img[onerror], svg[onload]").count() == 0
    assert page.wrong == []
    for file in files:
        file.unlink()
    page.open()
    expect(page.page.get_by_role("button", name=f"All {SCANS}", exact=True)).to_be_visible()


def test_slices_are_scrolled_by_wheel_and_keys_and_windowed(place: Place) -> None:
    page = place.page().open("scan/patient_2")
    page.drawn()
    words = page.page.locator(".plane figcaption span")
    before = [word.inner_text() for word in words.all()]
    canvas = page.page.locator(".plane canvas")
    canvas.nth(0).hover()
    page.page.mouse.wheel(0, -120)
    expect(words.nth(0)).not_to_have_text(before[0])
    canvas.nth(1).focus()
    page.page.keyboard.press("ArrowDown")
    expect(words.nth(1)).not_to_have_text(before[1])
    box = canvas.nth(2).bounding_box()
    assert box is not None
    width = page.page.get_by_text("wide at")
    told = width.inner_text()
    page.page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 150, box["y"] + 80, steps=4)
    page.page.mouse.up()
    expect(width).not_to_have_text(told)
    page.page.get_by_label("Pseudo-label").select_option("fill")
    page.page.wait_for_timeout(500)
    page.picture("one-scan")
    assert page.wrong == []


def test_scans_are_accepted_by_one_key_each_and_sent_back(place: Place) -> None:
    page = place.page().open()
    page.press("Carried over 5")
    expect(page.cards()).to_have_count(SCANS - 1)
    page.cards().first.click()
    titles = []
    for number in range(3):
        page.drawn()
        titles.append(page.page.locator("main h1").inner_text())
        page.page.keyboard.press("a" if number < 2 else "r")
        page.page.get_by_text(f"{titles[-1]} is {'accepted' if number < 2 else 'sent back'}").wait_for()
        expect(page.page.locator("main h1")).not_to_have_text(titles[-1])
    labels = {name: item["labels"] for name, item in place.server.objects().items()}
    for title in titles[:2]:
        accepted = labels[title]["final"]["info"]
        assert (accepted["user"], accepted["accepted"]["by"], accepted["client_id"]) == ("anna", "anna", "semisam page")
    assert "final" not in labels[titles[2]]
    assert place.server.post("/activelearning/recommended", json={}).json()["id"] == titles[2]

    page.open(f"scan/{titles[1]}")
    page.page.get_by_role("button", name="Take back what you did last").click()
    expect(page.page.get_by_role("button", name="Accept")).to_be_enabled()
    assert "final" not in place.server.objects()[titles[1]]["labels"]
    page.open()
    expect(page.page.get_by_role("button", name="Sent back 1")).to_be_visible()
    page.press(f"All {SCANS}")
    expect(page.page.locator("#notices > div")).to_have_count(0)  # it goes by itself
    page.drawn()
    page.picture("accepted")
    assert page.wrong == []


def test_slices_of_a_label_that_is_taken_back_are_no_longer_asked_for(place: Place) -> None:
    page = place.page()
    held: dict[str, list[Route]] = {"slice": [], "scan": []}

    def wait(part: str) -> None:
        until = time.monotonic() + 60
        while not held[part] and time.monotonic() < until:
            page.page.wait_for_timeout(100)
        assert held[part]

    page.page.route("**/api/slice?*layer=final*", lambda route: held["slice"].append(route))
    page.open("scan/patient_2")
    wait("slice")
    page.page.route("**/api/scan?image=patient_2*", lambda route: held["scan"].append(route))
    page.page.get_by_role("button", name="Take back what you did last").click()
    wait("scan")  # the label is gone, and the page does not know yet
    for route in held["slice"]:
        with suppress(Error):  # the page no longer waits for it
            route.continue_()
    page.page.wait_for_timeout(1000)
    for route in held["scan"]:
        route.continue_()
    page.page.unroute_all()
    expect(page.page.get_by_role("button", name="Accept")).to_be_enabled()
    page.drawn()
    assert page.wrong == []
    page.page.keyboard.press("a")  # as it was
    page.page.get_by_text("patient_2 is accepted").wait_for()


def test_label_that_another_has_taken_back_goes_from_the_page(place: Place) -> None:
    anna, dora = (place.page("anna").open(f"scan/patient_{number}") for number in (2, 2))
    for page in (anna, dora):
        page.drawn()
    for _ in range(12):  # no further slice of its label is at hand
        anna.page.keyboard.press("PageDown")
    dora.page.get_by_role("button", name="Take back what you did last").click()
    expect(dora.page.get_by_role("button", name="Accept")).to_be_enabled()
    for _ in range(3):
        anna.page.keyboard.press("PageUp")
    expect(anna.page.get_by_role("button", name="Accept")).to_be_enabled()
    expect(anna.page.locator("#notices > div")).to_have_count(0)
    dora.page.keyboard.press("a")
    dora.page.get_by_text("patient_2 is accepted").wait_for()


def test_what_was_taken_back_in_a_notice_is_shown_where_the_scan_was_opened_again(place: Place) -> None:
    page = place.page().open()
    page.press("All 6")
    page.open("scan/patient_5")
    page.drawn()
    page.page.keyboard.press("a")
    notice = page.page.locator("#notices > div")
    notice.get_by_role("button", name="Take it back").wait_for()
    expect(page.page.locator("main h1")).not_to_have_text("patient_5")
    page.page.keyboard.press("p")
    expect(page.page.locator("main h1")).to_have_text("patient_5")
    expect(page.page.get_by_role("button", name="Accept")).to_be_disabled()
    notice.get_by_role("button", name="Take it back").click()
    expect(page.page.get_by_role("button", name="Accept")).to_be_enabled()
    assert "final" not in place.server.objects()["patient_5"]["labels"]


def test_two_readers_do_not_accept_one_scan_twice(place: Place) -> None:
    anna, bert = (place.page(name).open("scan/patient_4") for name in ("anna", "bert"))
    for page in (anna, bert):
        page.drawn()
        expect(page.page.get_by_role("button", name="Accept")).to_be_enabled()
    anna.page.keyboard.press("a")
    anna.page.get_by_text("patient_4 is accepted").wait_for()
    bert.page.keyboard.press("a")
    bert.page.get_by_text("has a final label already, saved by anna").wait_for()
    assert place.server.objects()["patient_4"]["labels"]["final"]["info"]["user"] == "anna"


def test_whoever_has_no_name_is_asked_for_it(place: Place) -> None:
    page = place.page("").open("scan/patient_3")
    page.drawn()
    if page.page.get_by_role("button", name="Accept").is_disabled():
        pytest.skip("it was accepted before")
    page.page.keyboard.press("a")
    page.page.get_by_label("Name").fill("Carla")
    page.press("Keep")
    page.page.get_by_text("patient_3 is accepted").wait_for()
    assert place.server.objects()["patient_3"]["labels"]["final"]["info"]["user"] == "Carla"


def test_a_training_is_started_followed_and_cancelled(place: Place) -> None:
    page = place.page().open("work")
    card = page.page.locator(".job-card").nth(1)
    card.get_by_text("More options").click()
    card.get_by_label("rounds").fill("99")
    card.get_by_role("button", name="Start").click()
    expect(card.get_by_role("alert")).to_contain_text("rounds")
    card.get_by_label("rounds").fill("0")
    card.get_by_role("button", name="Start").click()
    expect(card.get_by_role("button", name="Cancel")).to_be_visible()
    expect(card.get_by_role("status")).to_contain_text("round", timeout=240_000)
    page.page.reload()
    expect(card.get_by_role("status")).to_contain_text("round")
    expect(card.get_by_label("recipe")).to_be_visible()
    page.picture("work")
    card.get_by_role("button", name="Cancel").click()
    expect(card.get_by_role("status")).to_contain_text("was stopped")
    expect(page.page.get_by_role("table")).to_contain_text("train again to go on")


def test_500_acts_of_four_readers_at_once(place: Place) -> None:
    """None is lost and none is doubled: what was confirmed is what is noted, and what stands is what is stored."""
    address, names = place.server.url + "/semisam/api/", ("patient_2", "patient_5", "patient_6")
    confirmed: list[tuple[str, str, str]] = []
    statuses: set[int] = set()

    def read(reader: str) -> None:
        session, choose = requests.Session(), random.Random(reader)
        session.headers["X-Semisam-Mark"] = session.get(address + "mark", timeout=300).json()["mark"]
        for _ in range(125):
            name, act = choose.choice(names), choose.choice(("accept", "send_back", "undo"))
            version = session.get(address + "scan", params={"image": name}, timeout=300).json()["version"]
            asked = {"image": name, "version": version, "by": reader}
            answer = session.post(address + act, json=asked, timeout=300)
            statuses.add(answer.status_code)
            if answer.ok:
                confirmed.append((name, act, reader))

    acts = Path(next((place.server.app / "model" / "semisam").glob("*/acts.jsonl")))
    before = len(acts.read_text().splitlines())
    with ThreadPoolExecutor(4) as readers:
        list(readers.map(read, ("anna", "bert", "carla", "dora")))
    assert statuses <= {200, 409}
    lines = [json.loads(line) for line in acts.read_text().splitlines()[before:]]
    assert sorted((line["scan"], line["act"], line["by"]) for line in lines) == sorted(confirmed)
    assert len(confirmed) > 50
    objects = place.server.objects()
    for name in names:
        standing: dict[str, str] = {}
        for line in (json.loads(each) for each in acts.read_text().splitlines()):
            if line["scan"] == name:
                standing = {} if line["act"] == "undo" else line
        final = objects[name]["labels"].get("final")
        assert (final is not None) == (standing.get("act") == "accept")
        if final is not None:
            assert final["info"]["accepted"]["by"] == standing["by"]


@pytest.mark.parametrize("part", ["", "scan/patient_2", "work", "steps"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(place: Place, part: str, scheme: str) -> None:
    page = place.page(color_scheme=scheme, bypass_csp=True).open(part)
    page.page.wait_for_timeout(1500)
    assert page.faults() == []


@pytest.mark.parametrize("part", ["", "scan/patient_2", "work", "steps"])
@pytest.mark.parametrize("width", [360, 1920])
def test_it_fits_narrow_and_wide_screens(place: Place, part: str, width: int) -> None:
    page = place.page(viewport={"width": width, "height": 900}).open(part)
    page.page.wait_for_timeout(1500)
    page.picture(f"{part.split('/', maxsplit=1)[0] or 'study'}_{width}")
    assert page.too_wide() <= 0


def test_a_page_of_another_origin_starts_nothing(place: Place) -> None:
    other = place.browser.new_context().new_page()
    other.route("**/*", lambda route: route.fulfill(body="<html></html>", content_type="text/html"))
    other.goto("http://evil.example/")
    other.unroute("**/*")
    tried = """async server => {
      const found = [];
      for (const path of ['carry', 'train', 'accept', 'undo']) {
        for (const mode of ['cors', 'no-cors']) {
          try {
            const body = JSON.stringify({options: {}, image: 'patient_2', by: 'evil'});
            const answer = await fetch(server + '/semisam/api/' + path, {method: 'POST', mode, body});
            found.push(answer.status);
          } catch (error) { found.push('refused'); }
        }
      }
      const mark = server + '/semisam/api/mark';
      try { found.push(await (await fetch(mark)).text()); } catch (error) { found.push('refused'); }
      return found;
    }"""
    got = other.evaluate(tried, place.server.url)
    assert set(got) <= {"refused", 0}
    assert requests.get(place.server.url + "/train/", timeout=60).json()["status"] == "STOPPED"


def test_a_server_that_is_gone_is_said_until_it_is_back(place: Place) -> None:
    page = place.page().open("work")
    page.page.locator(".job-card").first.wait_for()
    place.server.stop()
    banner = page.page.locator("#offline")
    expect(banner).to_contain_text("The server does not answer")
    page.picture("gone")
    place.server.start()
    expect(banner).to_be_hidden()


def test_pictures_of_the_tutorial_are_there() -> None:
    for name in PICTURED:
        file = ROOT / "docs" / "pictures" / f"page-{name}.png"
        if os.environ.get("SEMISAM_DOC_PICTURES"):
            with Image.open(PICTURES / f"{name}.png") as picture:
                few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, 3, dither=Image.Dither.NONE)
                few.save(file, optimize=True)
        assert 0 < file.stat().st_size <= MOST_BYTES, file

"""From an empty study to twelve accepted scans, in a real browser, with nothing but the page, and OHIF for one outline.

The outline is made by clicks in OHIF: on a DICOM server, a real Orthanc, and for a study in a folder, whose DICOM files
OHIF reads from this computer. Each screen is kept as a picture.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from playwright.sync_api import Browser, expect

from dicomfiles import Labelled, write_series
from lib.setup.demo import DEMO_LABELS, make_phantom
from ohif import Ohif, deepest, listen
from orthanc import Orthanc
from server_process import Server
from study_page import StudyPage, chromium
from tiny_study import save_nifti

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(1800)]

ACCEPTED = 12
NAMES = {name: value for value, name in enumerate(DEMO_LABELS, start=1)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def outline_by_clicks(viewer: Ohif, scan: Labelled) -> None:
    """Outline each structure: a click into its middle, one more where the answer goes farthest beyond it."""
    for name, value in NAMES.items():
        mask = scan.label == value
        viewer.choose(name)
        viewer.click(scan, deepest(mask))
        answer, _ = viewer.run_points()
        assert answer.ok, answer.text()
        viewer.clear_points()


def from_nothing_to_all(page: StudyPage, kind: str, outline: Callable[[StudyPage, str], None]) -> list[str]:
    """Outline one scan, carry it over, accept the others, take one back and accept it again; their ids in order."""
    page.open("steps")
    expect(page.page.get_by_text(f"None of the {ACCEPTED + 1} scans is outlined yet")).to_be_visible()
    first = page.page.locator("p", has_text="Begin with").get_by_role("link")
    first.wait_for()
    page.picture(f"{kind}_1_empty")
    first.click()
    page.drawn()
    page.picture(f"{kind}_2_suggested")
    outline(page, page.page.evaluate("decodeURIComponent(location.hash.split('/').at(-1))"))
    page.open("steps")
    page.press("Carry over to all")
    expect(page.page.locator(".job-card").first.get_by_role("status")).to_contain_text("%", timeout=300_000)
    page.picture(f"{kind}_5_carrying")
    page.open()
    page.page.get_by_role("button", name=f"Carried over {ACCEPTED}").click(timeout=600_000)
    expect(page.cards()).to_have_count(ACCEPTED)
    page.drawn()
    page.picture(f"{kind}_6_carried_over")
    page.cards().first.click()
    done = []
    for number in range(ACCEPTED):
        page.drawn()
        done.append(page.page.evaluate("decodeURIComponent(location.hash.split('/').at(-1))"))
        title = page.page.locator("main h1").inner_text()
        if number == 0:
            page.picture(f"{kind}_7_one_scan")
        page.page.keyboard.press("a")
        page.page.get_by_text(f"{title} is accepted.").wait_for()
        if number == 4:
            page.press("Take it back")
            page.page.get_by_text(f"What was done to {title} is taken back.").wait_for()
            expect(page.page.get_by_role("button", name="Accept")).to_be_enabled()
            page.drawn()
            page.picture(f"{kind}_8_taken_back")
            page.page.keyboard.press("a")
            page.page.get_by_text(f"{title} is accepted.").wait_for()
        if number + 1 < ACCEPTED:
            expect(page.page.locator("main h1")).not_to_have_text(title)
    expect(page.page.get_by_text("That was the last scan of this list.")).to_be_visible()
    page.picture(f"{kind}_9_last")
    page.open()
    page.press(f"All {ACCEPTED + 1}")
    expect(page.page.get_by_role("button", name=f"Accepted {ACCEPTED}")).to_be_visible()
    page.drawn()
    page.page.wait_for_timeout(6000)  # the page looks again
    page.picture(f"{kind}_10_all_accepted")
    assert page.page.get_by_role("button", name="Cannot be used").count() == 0, page.cards().all_inner_texts()
    return done


def test_on_a_dicom_server(
    browser: Browser, orthanc: Orthanc, serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("dicom")
    scans: dict[str, Labelled] = {}
    for number in range(ACCEPTED + 1):
        scan = Labelled(*make_phantom(number))
        _, uid = write_series(folder / str(number), scan, patient=f"patient_{number + 1:02d}")
        scans[uid] = scan
        orthanc.upload(folder / str(number))
    env = {"MONAI_LABEL_DATASTORE_CACHE_PATH": str(folder / "cache"), "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "1"}
    server = serve(orthanc.dicomweb, env=env, labels=",".join(DEMO_LABELS), spacing="6", roi_size="32,32,16").start()
    page = StudyPage(browser, server.url)
    listen(page.context)

    def outline(shown: StudyPage, uid: str) -> None:
        with shown.page.expect_popup() as waiting:
            shown.page.get_by_role("link", name="Open in OHIF").click()
        viewer = Ohif(waiting.value, server.url, "journey")
        viewer.loaded()
        viewer.connect()
        assert viewer.series == uid
        outline_by_clicks(viewer, scans[uid])
        found = viewer.segments().on(scans[uid])
        for name, mask in found.items():
            truth = scans[uid].label == NAMES[name]
            print(name, 2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
        viewer.picture("3_outlined")
        assert viewer.save("anna").ok
        viewer.wait_heard("The segmentation is stored")
        viewer.picture("4_saved")
        waiting.value.close()

    done = from_nothing_to_all(page, "orthanc", outline)
    objects = server.objects()
    assert sorted(objects) == sorted(scans)
    assert len(set(done)) == ACCEPTED
    for uid in done:
        assert objects[uid]["labels"]["final"]["info"]["accepted"]["by"] == "anna"
        (outlined,) = set(scans) - set(done)
        segs = [seg for seg in orthanc.segs(uid) if "pseudo" not in seg.SeriesDescription]
        assert len(segs) == (2 if uid == done[4] else 1)
    assert "accepted" not in objects[outlined]["labels"]["final"]["info"]
    notes = [each for each in orthanc.series().values() if each["MainDicomTags"]["Modality"] == "KO"]
    assert len(notes) == 1
    assert page.wrong == []
    assert page.elsewhere == []


def test_on_a_folder(browser: Browser, serve: Callable[..., Server], tmp_path: Path) -> None:
    """The first scan is a DICOM series, the others are NIfTI files."""
    study, files, scan = tmp_path / "study", tmp_path / "files", Labelled(*make_phantom(0))
    _, uid = write_series(files, scan, patient="patient_01")
    for file in files.iterdir():  # OHIF reads no file without the length of its head
        pydicom.dcmread(file).save_as(file, write_like_original=False)
    shutil.copytree(files, study / uid)
    for number in range(1, ACCEPTED + 1):
        array, _, affine = make_phantom(number)
        save_nifti(study / f"patient_{number + 1:02d}.nii.gz", array, affine)
    server = serve(study, labels=",".join(DEMO_LABELS), spacing="6", roi_size="32,32,16").start()
    page = StudyPage(browser, server.url)
    listen(page.context)

    def outline(shown: StudyPage, name: str) -> None:
        assert name == uid
        window = page.context.new_page()
        viewer = Ohif(window, server.url, "journey_folder")
        viewer.open_files(sorted(files.iterdir()), "patient_01")
        viewer.connect()
        outline_by_clicks(viewer, scan)
        viewer.picture("3_outlined")
        viewer.download(tmp_path / "anna.dcm")
        viewer.picture("4_saved")
        window.close()
        shown.page.get_by_label("Outline from a file").set_input_files(tmp_path / "anna.dcm")
        shown.press("Make it final")
        shown.page.get_by_text("is outlined.").wait_for()
        expect(shown.page.get_by_text("Outlined by anna").first).to_be_visible()
        shown.drawn()
        shown.picture("folder_4_outlined")

    done = from_nothing_to_all(page, "folder", outline)
    objects = server.objects()
    assert sorted(done) == [f"patient_{number + 1:02d}" for number in range(1, ACCEPTED + 1)]
    for name in done:
        assert objects[name]["labels"]["final"]["info"]["accepted"]["by"] == "anna"
    assert objects[uid]["labels"]["final"]["info"]["user"] == "anna"
    assert page.wrong == []
    assert page.elsewhere == []

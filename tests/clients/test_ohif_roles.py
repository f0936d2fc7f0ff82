"""OHIF in a real browser with the server's own log-in: what each role may do there, and what it is told otherwise.

Screenshots are kept in ``.artifacts/ohif/roles``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from playwright.sync_api import expect

from dicomfiles import Labelled, write_series
from lib.people import ROLES
from lib.setup.demo import DEMO_LABELS, make_phantom
from ohif import Ohif, browser
from orthanc import Orthanc
from people_server import GOOD, save_people
from server_process import Server
from tiny_study import save_nifti

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(1800)]

ALL, SOME, ADMIN = ROLES, ("annotator", "admin"), ("admin",)
MAY = {
    "see the scan": ALL,
    "see how the study stands": ALL,
    "ask a model": ALL,
    "next scan": ALL,
    "save a label on the DICOM server": SOME,
    "start a training": ADMIN,
}


@dataclass(frozen=True)
class Place:
    """A DICOM server with three series, the first outlined, and the server for people with passwords."""

    server: Server
    series: list[tuple[str, str]]
    folder: Path


@pytest.fixture(scope="module")
def place(serve: Callable[..., Server], orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("roles")
    series = []
    for number in range(3):
        files = folder / str(number)
        series.append(write_series(files, Labelled(*make_phantom(number)), patient=f"demo_{number + 1:02d}"))
        orthanc.upload(files)
    save_people(folder / "users", {role: role for role in ROLES})
    env = {"MONAI_LABEL_DATASTORE_CACHE_PATH": str(folder / "cache"), "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "1"}
    conf = {"labels": ",".join(DEMO_LABELS), "spacing": "6", "roi_size": "32,32,16", "users": str(folder / "users")}
    server = serve(orthanc.dicomweb, env=env, **conf).start("/auth/")
    client = server.client()
    client.update_auth(client.auth_token("annotator", GOOD))
    info = [{"name": name, "idx": value} for value, name in enumerate(DEMO_LABELS, start=1)]
    outline = save_nifti(folder / "outline.nii.gz", *make_phantom(0)[1:])
    client.save_label(series[0][1], str(outline), "final", {"label_info": info})
    return Place(server, series, folder)


def test_each_role_may_do_its_part_in_ohif_and_no_more(place: Place) -> None:
    table: dict[str, dict[str, bool]] = {name: {} for name in MAY}
    for role in ROLES:
        with browser(place.folder / role) as page:
            viewer = Ohif(page, place.server.url, "roles")
            page.goto(f"{place.server.url}/ohif/monai-label?StudyInstanceUIDs={place.series[1][0]}")
            page.fill("#username", role)
            page.fill("#password", GOOD)
            page.get_by_role("button", name="Log in").click()
            viewer.loaded()
            table["see the scan"][role] = viewer.series == place.series[1][1]
            viewer.connect()
            table["see how the study stands"][role] = "/3 samples annotated" in viewer.status()["Annotated"][1]
            table["ask a model"][role] = viewer.run("propagate").ok
            viewer.picture(f"{role}_asked")
            table["start a training"][role] = _may_train(viewer, role)
            table["next scan"][role] = bool(viewer.next_sample(go=False).get("id"))
            page.keyboard.press("Escape")
            table["save a label on the DICOM server"][role] = _may_save(viewer, role)
            viewer.picture(f"{role}_saved")
    assert table == {name: {role: role in allowed for role in ROLES} for name, allowed in MAY.items()}


def _may_train(viewer: Ohif, role: str) -> bool:
    answer = viewer.press_train()
    if answer.ok:
        viewer.train_button("Stop Training")
        assert viewer.press_train().ok
        return True
    assert answer.status == 403
    told = viewer.page.locator("#semisam-told > div").filter(
        has_text=f"{role} may not do this: it needs the role admin"
    )
    expect(told).to_be_visible()
    return False


def _may_save(viewer: Ohif, role: str) -> bool:
    answer = viewer.save("checked")
    if answer.ok:
        return True
    assert answer.status == 403
    expect(viewer.page.locator("#semisam-told > div").filter(has_text=role)).to_be_visible()
    return False


def test_who_is_logged_out_sees_nothing(place: Place) -> None:
    with browser(place.folder / "out") as page:
        page.goto(f"{place.server.url}/ohif/monai-label?StudyInstanceUIDs={place.series[1][0]}")
        page.fill("#username", "reader")
        page.fill("#password", GOOD)
        page.get_by_role("button", name="Log in").click()
        Ohif(page, place.server.url, "roles").loaded()
        page.goto(f"{place.server.url}/semisam/logout")
        page.goto(f"{place.server.url}/ohif/")
        expect(page.locator("#password")).to_be_visible()
    assert requests.get(f"{place.server.url}/proxy/dicom/studies", timeout=30).status_code == 401

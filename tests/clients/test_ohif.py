"""OHIF from connecting to a saved label, in a real browser, with a real DICOM server and a real MONAI Label server.

The tests of one study stand on each other, in their order. Screenshots are kept in ``.artifacts/ohif``; those of the
generated study are also the pictures of the docs, if ``SEMISAM_DOC_PICTURES`` is set.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import Page

from dicomfiles import Labelled, abdomen, write_series
from lib.setup.demo import DEMO_LABELS, make_phantom
from ohif import PICTURES, SECONDS, Ohif, Shown, browser, find_chromium, tinted
from orthanc import Orthanc
from realdata import folder_of
from server_process import Server
from tiny_study import ROOT, dice, save_nifti

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(1800)]

MOST_BYTES = 150_000
"""Of a picture in the docs."""


@dataclass(frozen=True)
class Series:
    """A series on the DICOM server, in a study of its own."""

    study: str
    uid: str
    scan: Labelled


@dataclass
class Place:
    """A DICOM server with three series, the last one numbered from the other end, and the server that works on it."""

    kind: str
    server: Server
    orthanc: Orthanc
    names: dict[str, int]
    series: list[Series]
    folder: Path
    page: Page

    def open(self, number: int) -> Ohif:
        """OHIF with a series, connected."""
        viewer = Ohif(self.page, self.server.url, self.kind)
        viewer.open(self.series[number].study)
        viewer.connect()
        return viewer

    def truth(self, number: int, name: str = "liver") -> np.ndarray:
        """The mask of a structure."""
        return self.series[number].scan.label == self.names[name]

    def stored(self, number: int, tag: str) -> dict[str, np.ndarray]:
        """A label as the server has it, each structure on the scan's grid."""
        series = self.series[number]
        return self._read(series, self.server.get("/datastore/label", params={"label": series.uid, "tag": tag}))

    def answered(self, number: int, model: str) -> dict[str, np.ndarray]:
        """What a model answers to others, each structure on the scan's grid."""
        series = self.series[number]
        where = {"image": series.uid, "output": "image"}
        params = json.dumps({"result_extension": ".nii.gz"})
        return self._read(series, self.server.post(f"/infer/{model}", params=where, data={"params": params}))

    def _read(self, series: Series, reply: requests.Response) -> dict[str, np.ndarray]:
        assert reply.ok, reply.text
        file = self.folder / "label.nii.gz"
        file.write_bytes(reply.content)
        image = nibabel.load(file)
        return Shown(np.asarray(image.dataobj), image.affine, self.names).on(series.scan)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser") / "data") as page:
        yield page


@pytest.fixture(scope="module", params=["generated", "chaos"])
def place(
    request: pytest.FixtureRequest,
    serve: Callable[..., Server],
    page: Page,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """Three patients: generated ones, or the CHAOS CT and two deformed copies of it."""
    if request.param == "chaos":
        folder_of("chaos_ct_dicom")
        scan, _ = abdomen()
        scans, names = [scan, scan.deformed(1), scan.deformed(2)], {"liver": 1}
    else:
        scans = [Labelled(*make_phantom(n)) for n in range(3)]
        names = {name: value for value, name in enumerate(DEMO_LABELS, start=1)}
    folder = tmp_path_factory.mktemp(request.param)
    orthanc = Orthanc(folder / "orthanc").start()
    series = []
    for number, scan in enumerate(scans):
        files = folder / str(number)
        series.append(Series(*write_series(files, scan, patient=f"demo_{number + 1:02d}", reverse=number == 2), scan))
        orthanc.upload(files)
    env = {"MONAI_LABEL_DATASTORE_CACHE_PATH": str(folder / "cache"), "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "1"}
    server = serve(orthanc.dicomweb, env=env, labels=",".join(names), spacing="5", roi_size="32,32,16").start()
    yield Place(request.param, server, orthanc, names, series, folder, page)
    orthanc.stop()


def test_connect_and_what_is_missing_is_said(place: Place) -> None:
    viewer = Ohif(place.page, place.server.url, place.kind)
    viewer.open(place.series[0].study)
    assert viewer.address == place.server.url + "/"  # not port 8000
    viewer.picture("opened")
    viewer.connect()
    viewer.picture("connected")
    assert viewer.series == place.series[0].uid
    assert set(viewer.segments().names) == set(place.names)
    assert viewer.status()["Annotated"] == ("0%", "0/3 samples annotated")

    reasons = {"propagate": "save it", "segment": "train first", "review": "no pseudo-label"}
    for model, reason in reasons.items():
        assert not viewer.run(model).ok
        viewer.wait_heard(reason)
    viewer.picture("refused")
    assert viewer.press_train().status == 409
    viewer.wait_heard("Failed to RUN training")
    viewer.wait_heard("'final' label")
    assert not any(mask.any() for mask in viewer.segments().on(place.series[0].scan).values())


def test_propagate_is_seen_where_the_liver_is(place: Place) -> None:
    file = save_nifti(place.folder / "label.nii.gz", place.series[0].scan.label, place.series[0].scan.affine)
    info = [{"name": name, "idx": value} for name, value in place.names.items()]
    assert place.server.put_label(place.series[0].uid, file, label_info=info).ok

    for number in (1, 2):
        viewer = place.open(number)
        assert viewer.status()["Annotated"] == ("33%", "1/3 samples annotated")
        scan, liver = place.series[number].scan, place.truth(number)
        middle = np.round(np.argwhere(liver).mean(axis=0)).astype(int)
        widest = np.argwhere(liver[:, :, middle[2]])
        inside = np.column_stack([widest, np.full(len(widest), middle[2])])
        viewer.show(scan, middle)
        spots = viewer.pixels(scan, inside).round().astype(int)
        colour = viewer.colour("liver")
        before = viewer.picture(f"plain_{number}")
        assert tinted(before[spots[:, 1], spots[:, 0]], colour).mean() == 0

        assert viewer.run("propagate").ok
        after = viewer.picture(f"propagate_{number}")
        over = tinted(after[spots[:, 1], spots[:, 0]], colour).mean()
        found = viewer.segments().on(scan)
        overlap = dice(found["liver"].astype(int), liver.astype(int), 1)
        print(f"{place.kind} {number}: liver Dice {overlap:.3f}, {over:.0%} of the liver's pixels coloured")
        assert overlap >= 0.9
        assert over >= 0.85
        for name in place.names:
            assert dice(found[name].astype(int), place.truth(number, name).astype(int), 1) > 0.4


def test_export_while_the_dicom_server_is_away_is_said_until_it_is_read(place: Place) -> None:
    if place.kind != "generated":
        pytest.skip("what is told does not depend on the scan")
    viewer = place.open(1)
    assert viewer.run("propagate").ok
    drawn = viewer.segments().array
    before = set(place.orthanc.series())
    place.orthanc.stop()
    try:
        assert viewer.save("checked").status == 502
        place.page.wait_for_timeout(10_000)
        box = place.page.get_by_role("alert").filter(has_text="NOT stored")
        assert box.is_visible()
        said = box.inner_text()
        assert "cannot be reached" in said
        assert "still on this page" in said
        assert str(place.orthanc.port) not in said
        viewer.picture("not_stored")
        np.testing.assert_array_equal(viewer.segments().array, drawn)
    finally:
        place.orthanc.start()
    assert viewer.save("checked").ok
    assert not box.is_visible()
    viewer.wait_heard("The segmentation is stored")
    for uid in set(place.orthanc.series()) - before:  # as the next tests expect it
        place.orthanc.delete_series(uid)


def test_class_prompts_replace_what_is_ticked(place: Place) -> None:
    viewer = place.open(1)
    assert not viewer.run_classes("propagate", []).ok
    viewer.wait_heard("Tick at least one")
    assert viewer.run_classes("propagate", ["liver"]).ok
    found = viewer.segments().on(place.series[1].scan)
    assert [name for name, mask in found.items() if mask.any()] == ["liver"]


def test_clicks(place: Place) -> None:
    viewer = place.open(1)
    scan, liver = place.series[1].scan, place.truth(1)
    assert viewer.run("propagate").ok
    before = viewer.segments().on(scan)
    deep = np.argwhere(liver & ~_border(liver, 4))
    inside = deep[np.abs(deep - np.argwhere(liver).mean(axis=0)).sum(axis=1).argmin()]

    viewer.choose("liver")
    viewer.click(scan, inside)
    answer, sent = viewer.run_points()
    assert answer.ok, answer.text()
    assert (len(sent["foreground"]), sent["background"]) == (1, [])
    one = viewer.segments().on(scan)
    assert one["liver"][tuple(inside)]
    assert (one["liver"] & liver).sum() > 0.8 * one["liver"].sum()
    assert not np.array_equal(one["liver"], before["liver"])
    for name in set(place.names) - {"liver"}:
        np.testing.assert_array_equal(one[name], before[name] & ~one["liver"])

    # Something that the answer holds and that is said not to belong to it.
    far = np.argwhere(one["liver"])
    away = far[np.abs((far - inside) * np.linalg.norm(scan.affine[:3, :3], axis=0)).sum(axis=1).argmax()]
    viewer.choose("background")
    viewer.click(scan, away)
    viewer.choose("liver")
    answer, sent = viewer.run_points()
    viewer.show(scan, inside)
    viewer.picture("points")
    assert answer.ok, answer.text()
    assert (len(sent["foreground"]), len(sent["background"])) == (1, 1)
    two = viewer.segments().on(scan)
    assert two["liver"][tuple(inside)]
    assert not two["liver"][tuple(away)]
    assert two["liver"].sum() < one["liver"].sum()


def _border(mask: np.ndarray, voxels: int) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return mask & ~np.asarray(binary_erosion(mask, iterations=voxels))


def test_update_model_and_the_new_model(place: Place) -> None:
    viewer = place.open(1)
    viewer.train_button("Update Model")
    viewer.set_options("train", "semisam", {"preset": "quick", "rounds": "1", "max_epochs": "1"})
    answer = viewer.press_train()
    assert answer.ok, answer.text()
    assert answer.request.post_data_json == {"semisam": {"preset": "quick", "rounds": 1, "max_epochs": 1}}
    viewer.wait_heard("Model update task STARTED")
    viewer.train_button("Stop Training")
    viewer.picture("training")
    status = place.server.wait("/train/", seconds=2 * SECONDS)
    assert status["status"] == "DONE", status["details"][-3:]

    viewer = place.open(1)
    viewer.train_button("Update Model")
    assert viewer.status()["Train Acc"][1].endswith("is current best metric")
    for model, expected in (("segment", place.answered(1, "segment")), ("review", place.stored(1, "original"))):
        answer = viewer.run(model)
        assert answer.ok, answer.text()
        shown = viewer.segments().on(place.series[1].scan)
        for name in place.names:
            np.testing.assert_array_equal(shown[name], expected[name])


def test_save_and_next_sample(place: Place) -> None:
    viewer = place.open(0)
    first = viewer.next_sample()
    assert viewer.series == first["id"] != place.series[0].uid
    order = [n for n in (1, 2) if place.series[n].uid == first["id"]]
    order += [n for n in (1, 2) if n not in order]

    for count, number in enumerate(order, start=2):
        viewer.connect()
        answer = viewer.run("propagate")
        assert answer.ok, answer.text()
        drawn = viewer.segments().on(place.series[number].scan)
        assert dice(drawn["liver"].astype(int), place.truth(number).astype(int), 1) >= 0.9
        assert viewer.save("checked").ok
        until = time.monotonic() + 15  # a new label is seen within ten seconds
        while place.server.get("/info/").json()["datastore"]["completed"] < count and time.monotonic() < until:
            place.page.wait_for_timeout(500)
        assert place.server.get("/info/").json()["datastore"]["completed"] == count
        stored = place.stored(number, "final")
        for name, mask in drawn.items():
            np.testing.assert_array_equal(mask, stored[name], err_msg=f"{name} of {number}")
        if count == 2:
            place.page.locator("[data-cy=monailabel-btn]").click()
            viewer.connect()
            assert viewer.next_sample()["id"] == place.series[order[1]].uid == viewer.series

    place.page.locator("[data-cy=monailabel-btn]").click()
    viewer.connect()
    assert viewer.status()["Annotated"] == ("100%", "3/3 samples annotated")


def test_stored_labels_can_be_opened_where_they_can_be_edited(place: Place) -> None:
    for number, description, tag in (
        (1, "semisam: pseudo-label", "original"),
        (1, "checked", "final"),
        (2, "checked", "final"),
    ):
        viewer = Ohif(place.page, place.server.url, place.kind)
        viewer.open(place.series[number].study, mode="segmentation")
        viewer.load_stored(description)
        scan, expected = place.series[number].scan, place.stored(number, tag)
        for name, mask in viewer.segments().on(scan).items():
            np.testing.assert_array_equal(mask, expected[name])
    viewer.show(scan, np.round(np.argwhere(place.truth(2)).mean(axis=0)).astype(int))
    viewer.picture("stored")


PICTURED = ("connected", "propagate_1", "refused", "options", "next_sample", "points", "export", "stored")
"""Screenshots of the generated study that the docs show."""


def test_pictures_of_the_docs() -> None:
    find_chromium()
    for name in PICTURED:
        file = ROOT / "docs" / "pictures" / f"ohif-{name.replace('_', '-').removesuffix('-1')}.png"
        if os.environ.get("SEMISAM_DOC_PICTURES"):
            file.parent.mkdir(exist_ok=True)
            with Image.open(PICTURES / "generated" / f"{name}.png") as picture:
                few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, 3, dither=Image.Dither.NONE)
                few.save(file, optimize=True)
        assert 0 < file.stat().st_size <= MOST_BYTES, file

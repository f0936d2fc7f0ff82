"""A DICOMweb server as the study: what works with a folder works with it, and labels survive as DICOM SEG."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import schemathesis
from nibabel.affines import apply_affine

from dicomfiles import Labelled, abdomen, write_series
from fuzzing import Tally, fuzz, stop_jobs
from lib.formats.volumes import read_volume
from orthanc import Orthanc
from server.dicomweb.datastore import PATIENCE_SECONDS
from server_process import Server, detail
from slicer import Slicer
from tiny_study import dice, save_nifti, tiny_scan

pytestmark = [pytest.mark.clients, pytest.mark.server]

LIST_SECONDS = 1.0
NAMES = {"liver": 1, "spleen": 2}
COLOURS = {"liver": (221, 130, 101), "spleen": (157, 108, 162)}
"""The colours of 3D Slicer's list of anatomy."""
KINDS = ("plain", "mr", "reversed", "oblique", "spare")


@dataclass(frozen=True)
class Series:
    """A series on the server: UIDs of its study and itself, its content, and its slices in the order of the array."""

    study: str
    uid: str
    scan: Labelled
    slices: tuple[pydicom.Dataset, ...]


@dataclass
class Place:
    """A server with its study on an Orthanc."""

    orthanc: Orthanc
    server: Server
    series: dict[str, Series]
    folder: Path

    def put(self, kind: str, label: np.ndarray, **params: Any) -> None:
        """Save a final label, as drawn on a series."""
        series = self.series[kind]
        file = save_nifti(self.folder / "label.nii.gz", label, series.scan.affine)
        reply = self.server.put_label(series.uid, file, **params)
        assert reply.ok, reply.text
        assert reply.json()["warnings"] == []

    def info(self) -> list[dict[str, object]]:
        """``label_info`` as Slicer sends it."""
        return [{"name": name, "idx": value} for name, value in NAMES.items()]


def upload(orthanc: Orthanc, folder: Path, scan: Labelled, **options: object) -> Series:
    """Write and upload a series."""
    study, uid = write_series(folder, scan, **options)  # type: ignore[arg-type]
    orthanc.upload(folder)
    stored = scan.flipped() if options.get("reverse") else scan
    slices = sorted((pydicom.dcmread(f) for f in folder.iterdir()), key=lambda s: int(s.InstanceNumber))
    return Series(study, uid, stored, tuple(slices))


def environment(cache: Path) -> dict[str, str]:
    return {
        "MONAI_LABEL_DATASTORE_CACHE_PATH": str(cache),
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": str(int(LIST_SECONDS)),
    }


@pytest.fixture(scope="module")
def place(serve: Callable[..., Server], orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    series = {}
    for number, kind in enumerate(KINDS, start=1):
        scan = Labelled(*tiny_scan(number))
        scan = scan.turned((20, -15, 30)) if kind == "oblique" else scan
        series[kind] = upload(
            orthanc,
            folder / kind,
            scan,
            patient=kind,
            modality="MR" if kind == "mr" else "CT",
            reverse=kind == "reversed",
        )
    server = serve(
        orthanc.dicomweb, env=environment(folder / "cache"), labels=",".join(NAMES), spacing="4.5", roi_size="32,16,16"
    )
    return Place(orthanc, server.start(), series, folder)


# --- lists ------------------------------------------------------------------------------------------------------------


def test_series_of_every_modality_are_listed_before_they_are_fetched(place: Place) -> None:
    info = place.server.get("/info/").json()
    assert info["datastore"] == {"total": len(KINDS), "completed": 0, "label_tags": {}}
    objects = place.server.objects()
    assert set(objects) == {series.uid for series in place.series.values()}
    mr = objects[place.series["mr"].uid]["image"]["info"]
    assert (mr["Modality"], mr["PatientID"], mr["StudyInstanceUID"]) == ("MR", "mr", place.series["mr"].study)
    assert not list(place.folder.glob("cache/**/*.dcm"))
    # A note at a scan that was never asked for: MONAI Label's own store raises here.
    reply = place.server.get("/datastore/image/info", params={"image": place.series["spare"].uid})
    assert reply.json()["Modality"] == "CT"


def test_without_a_final_label(place: Place) -> None:
    assert "save it" in detail(place.server.infer("propagate", place.series["mr"].uid), 409)
    assert "save it" in detail(place.server.post("/batch/infer/propagate", params={"images": "all"}), 409)


# --- labels of people -------------------------------------------------------------------------------------------------


def test_final_label_counts_at_once_and_is_a_seg(place: Place) -> None:
    template = place.series["plain"]
    place.put("plain", template.scan.label, label_info=place.info())
    assert place.server.get("/info/").json()["datastore"]["completed"] == 1
    for strategy in ("recommended", "random", "uniform"):
        for _ in range(3):
            assert place.server.post(f"/activelearning/{strategy}", json={}).json()["id"] != template.uid
    (seg,) = place.orthanc.segs(template.uid)
    assert seg.StudyInstanceUID == template.study
    assert seg.FrameOfReferenceUID == template.slices[0].FrameOfReferenceUID
    assert seg.PatientID == "plain"
    assert seg.SeriesDescription == "semisam: label"
    assert {each.SegmentAlgorithmType for each in seg.SegmentSequence} == {"MANUAL"}
    for each in seg.SegmentSequence:
        assert shown_colour(each) == pytest.approx(COLOURS[each.SegmentLabel], abs=2)
    meanings = [each.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for each in seg.SegmentSequence]
    assert meanings == ["Liver", "Spleen"]


def shown_colour(segment: pydicom.Dataset) -> tuple[float, ...]:
    """A segment's colour as red, green, blue."""
    from skimage.color import lab2rgb

    light, a, b = (float(v) for v in segment.RecommendedDisplayCIELabValue)
    lab = light / 65535 * 100, a / 65535 * 255 - 128, b / 65535 * 255 - 128
    return tuple(np.clip(lab2rgb(np.array(lab)[None, None])[0, 0] * 255, 0, 255))


@pytest.mark.parametrize("kind", ["plain", "mr", "reversed", "oblique"])
@pytest.mark.parametrize("present", [("liver", "spleen"), ("spleen",), ("liver",)], ids=lambda p: "+".join(p))
def test_round_trip(place: Place, kind: str, present: tuple[str, ...], tmp_path: Path) -> None:
    series = place.series[kind]
    label = np.where(np.isin(series.scan.label, [NAMES[n] for n in present]), series.scan.label, 0).astype(np.uint8)
    place.put(kind, label, label_info=place.info())
    seg = place.orthanc.segs(series.uid)[-1]

    assert with_highdicom(seg, series) == {name: mask(label, NAMES[name]) for name in present}
    assert with_dcmqi(seg, series, tmp_path) == {name: mask(label, NAMES[name]) for name in present}
    referenced = {
        source.ReferencedSOPInstanceUID
        for groups in seg.PerFrameFunctionalGroupsSequence
        for source in groups.DerivationImageSequence[0].SourceImageSequence
    }
    expected = {s.SOPInstanceUID for k, s in enumerate(series.slices) if label[:, :, k].any()}
    assert referenced == expected


def mask(label: np.ndarray, value: int) -> bytes:
    """A structure, comparable as a whole."""
    return bytes(np.packbits(label == value))


def with_highdicom(seg: pydicom.Dataset, series: Series) -> dict[str, bytes]:
    """Structures of a SEG by name, on the series' array, as highdicom reads them."""
    read = highdicom.seg.Segmentation.from_dataset(seg)
    found = {}
    for number in read.segment_numbers:
        pixels = read.get_pixels_by_source_instance(
            [s.SOPInstanceUID for s in series.slices],
            segment_numbers=[number],
            assert_missing_frames_are_empty=True,
            ignore_spatial_locations=True,
        )
        found[read.get_segment_description(number).segment_label] = mask(pixels[..., 0].transpose(2, 1, 0), 1)
    return found


def with_dcmqi(seg: pydicom.Dataset, series: Series, folder: Path) -> dict[str, bytes]:
    """Structures of a SEG by name, on the series' array, as dcmqi reads them: by their place in the patient."""
    tool = shutil.which("segimage2itkimage") or str(Path(sys.executable).with_name("segimage2itkimage"))
    seg.save_as(folder / "seg.dcm")
    command = [tool, "--inputDICOM", str(folder / "seg.dcm"), "--outputDirectory", str(folder), "--outputType", "nii"]
    subprocess.run([*command, "--prefix", "out"], check=True, capture_output=True)
    meta = json.loads((folder / "out-meta.json").read_text(encoding="utf-8"))
    found = {}
    for group in meta["segmentAttributes"]:
        for segment in group:
            image = nibabel.load(folder / f"out-{segment['labelID']}.nii.gz")
            at = np.argwhere(np.asarray(image.dataobj) > 0)
            voxels = apply_affine(np.linalg.inv(series.scan.affine) @ image.affine, at)
            assert np.abs(voxels - voxels.round()).max() < 0.05
            label = np.zeros(series.scan.array.shape, np.uint8)
            label[tuple(voxels.round().astype(int).T)] = 1
            found[segment["SegmentLabel"]] = mask(label, 1)
    return found


def test_bad_labels_are_refused_and_leave_nothing(place: Place) -> None:
    series = place.series["spare"]
    for label, part in ((np.zeros_like(series.scan.label), "empty"), (series.scan.label[:-2], "voxels")):
        file = save_nifti(place.folder / "bad.nii.gz", label, series.scan.affine)
        assert part in detail(place.server.put_label(series.uid, file, label_info=place.info()), 422)
    assert place.orthanc.segs(series.uid) == []
    assert "final" not in place.server.objects()[series.uid]["labels"]


def test_what_dicomweb_cannot_do_is_said(place: Place) -> None:
    series = place.series["plain"]
    url = place.server.url + "/datastore/"
    import requests

    reply = requests.delete(url + "label", params={"id": series.uid, "tag": "final"}, timeout=60)
    assert place.orthanc.segs(series.uid)[-1].SeriesInstanceUID in detail(reply, 409)
    assert "DICOM server" in detail(requests.delete(url + "image", params={"id": series.uid}, timeout=60), 409)
    file = save_nifti(place.folder / "more.nii.gz", series.scan.array, series.scan.affine)
    with file.open("rb") as content:
        reply = requests.put(url + "image", params={"image": "more"}, files={"file": content}, timeout=60)
    assert "send them there" in detail(reply, 409)


# --- the app's own labels ---------------------------------------------------------------------------------------------


def test_propagate_batch_review(place: Place, tmp_path: Path) -> None:
    for kind in KINDS[:-1]:
        place.put(kind, place.series[kind].scan.label, label_info=place.info())
    spare = place.series["spare"]
    assert place.server.post("/batch/infer/propagate", params={"images": "unlabeled"}, json={}).ok
    status = place.server.wait("/batch/infer")
    assert status["status"] == "DONE", status["details"][-3:]
    (seg,) = place.orthanc.segs(spare.uid)
    assert seg.SeriesDescription == "semisam: pseudo-label"
    assert {each.SegmentAlgorithmType for each in seg.SegmentSequence} == {"AUTOMATIC"}

    time.sleep(LIST_SECONDS * 1.5)  # its own SEG must not come back as an outline
    info = place.server.get("/info/").json()["datastore"]
    assert (info["completed"], info["label_tags"]["original"]) == (len(KINDS) - 1, 1)
    for strategy in place.server.get("/info/").json()["strategies"]:  # one scan is left, so it is everybody's choice
        reply = place.server.post(f"/activelearning/{strategy}", json={})
        assert reply.ok, reply.text
        assert reply.json()["id"] == spare.uid, strategy

    slicer = Slicer(place.server.url, tmp_path)
    slicer.fetch_info()
    slicer.next_sample("recommended")
    stored, shown = slicer.original_label(), slicer.auto_segment("review")[0]
    assert with_highdicom(seg, spare) == {name: mask(stored[name], 1) for name in NAMES}
    for name, value in NAMES.items():
        np.testing.assert_array_equal(stored[name], shown[name])
        assert dice(stored[name], spare.scan.label == value, 1) > 0.6


def test_another_server_finds_the_same_labels(place: Place, serve: Callable[..., Server], tmp_path: Path) -> None:
    other = serve(place.orthanc.dicomweb, env=environment(tmp_path / "cache")).start()
    assert other.get("/info/").json()["labels"] == list(NAMES)  # no setting: the names in the SEG objects
    assert other.get("/info/").json()["datastore"]["label_tags"] == {"final": len(KINDS) - 1, "original": 1}
    for kind, series in place.series.items():
        tag = "original" if kind == "spare" else "final"
        read = []
        for number, server in enumerate((place.server, other)):
            reply = server.get("/datastore/label", params={"label": series.uid, "tag": tag})
            assert reply.ok, reply.text
            file = tmp_path / f"{kind}-{number}.nii.gz"
            file.write_bytes(reply.content)
            read.append(nibabel.load(file))
        at = np.argwhere(np.asarray(read[0].dataobj) > 0)
        voxels = apply_affine(np.linalg.inv(read[1].affine) @ read[0].affine, at).round().astype(int)
        mine, theirs = np.asarray(read[0].dataobj), np.asarray(read[1].dataobj)
        np.testing.assert_array_equal(theirs[tuple(voxels.T)], mine[tuple(at.T)])
        assert (theirs > 0).sum() == len(at)
    assert other.infer("propagate", place.series["spare"].uid).ok
    other.stop()


def test_training(place: Place) -> None:
    spare = place.series["spare"]
    before = len(place.orthanc.segs(spare.uid))
    options = {"preset": "quick", "rounds": 2, "max_epochs": 1, "device": "cpu"}
    assert place.server.post("/train/semisam", json=options).ok
    status = place.server.wait("/train/")
    assert status["status"] == "DONE", status["details"][-3:]
    segs = place.orthanc.segs(spare.uid)
    assert len(segs) == before + 1  # of the last round only
    assert len({seg.SeriesInstanceUID for seg in segs}) == 1  # one series of pseudo-labels a scan
    stored = place.server.objects()[spare.uid]["labels"]["original"]["info"]
    assert stored["SOPInstanceUID"] == segs[-1].SOPInstanceUID
    assert stored["params"]["source"] == "specialist"
    assert place.server.infer("segment", spare.uid).ok
    assert place.server.infer("uncertainty", spare.uid).ok
    assert place.server.get("/info/").json()["datastore"]["completed"] == len(KINDS) - 1


def test_scores_are_kept_beside_the_models(place: Place) -> None:
    spare = place.series["spare"].uid
    methods = ["uncertainty", "representativeness", "pseudo_label_quality"]
    reply = place.server.post(f"/scoring/{methods[0]}", json={"then": methods[1:]})
    assert reply.ok, reply.text
    status = place.server.wait("/scoring/")
    assert status["status"] == "DONE", status["details"][-3:]
    (file,) = place.server.app.glob("model/semisam/*/scores.json")
    assert set(methods) <= set(json.loads(file.read_text(encoding="utf-8"))[spare])
    assert set(methods) <= set(place.server.objects()[spare]["image"]["info"])  # and noted in the list, too


def test_answers_as_dicom_seg(place: Place) -> None:
    spare = place.series["spare"]
    stored = place.orthanc.segs(spare.uid)[-1]
    for model in ("propagate", "segment", "review"):
        seg = answered_seg(place, model, spare.uid)
        file = place.folder / f"{model}.nii.gz"
        params = {"result_extension": ".nii.gz"}
        reply = place.server.post(f"/infer/{model}?image={spare.uid}&output=image", data={"params": json.dumps(params)})
        file.write_bytes(reply.content)
        label = np.asarray(nibabel.load(file).dataobj)
        label = label if nibabel.load(file).affine[2, 2] * spare.scan.affine[2, 2] > 0 else label[:, :, ::-1]
        assert with_highdicom(seg, spare) == {name: mask(label, NAMES[name]) for name in NAMES}
        for one, other in zip(seg.SegmentSequence, stored.SegmentSequence, strict=True):
            for key in ("SegmentLabel", "SegmentAlgorithmType", "RecommendedDisplayCIELabValue"):
                assert one[key].value == other[key].value
        for key in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "SeriesDescription"):
            assert seg[key].value == stored[key].value
    red = answered_seg(place, "review", spare.uid, label_info=[{"name": "liver", "color": [250, 5, 5]}])
    assert shown_colour(red.SegmentSequence[0]) == pytest.approx((250, 5, 5), abs=3)
    final = answered_seg(place, "review", place.series["plain"].uid)
    assert {each.SegmentAlgorithmType for each in final.SegmentSequence} != {"AUTOMATIC"}
    assert final.SeriesInstanceUID != stored.SeriesInstanceUID
    url = f"/infer/uncertainty?image={spare.uid}&output=dicom_seg"
    assert "output=image" in detail(place.server.post(url), 400)
    assert list((place.server.folder / "tmp").glob("*.dcm")) == []


def answered_seg(place: Place, model: str, image: str, **params: Any) -> pydicom.Dataset:
    """What an infer request with ``output=dicom_seg`` brings."""
    reply = place.server.post(f"/infer/{model}?image={image}&output=dicom_seg", data={"params": json.dumps(params)})
    assert reply.ok, reply.text
    assert reply.headers["content-type"] == "application/dicom"
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(reply.content))


# --- other programs and the server's own ways -------------------------------------------------------------------------


def foreign_seg(series: Series, label: np.ndarray, names: dict[str, int]) -> pydicom.Dataset:
    """A SEG as another program makes it: with highdicom, all frames of all segments."""
    from highdicom.sr.coding import CodedConcept

    code = CodedConcept("91723000", "SCT", "Anatomical structure")
    descriptions = [
        highdicom.seg.SegmentDescription(n, name, code, code, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL)
        for n, name in enumerate(names, start=1)
    ]
    pixels = np.stack([(label == value).transpose(2, 1, 0) for value in names.values()], axis=-1)
    return highdicom.seg.Segmentation(
        source_images=list(series.slices),
        pixel_array=pixels.astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    )


@pytest.mark.parametrize("kind", ["reversed", "oblique"])
def test_seg_of_another_program_is_taken_within_seconds(place: Place, kind: str, tmp_path: Path) -> None:
    series = place.series[kind]
    changed = series.scan.label.copy()
    changed[10:14, 5:9, 3:6] = 2
    # The names the other way round, and in other words.
    seg = foreign_seg(series, changed, {"Spleen": 2, "LIVER": 1})
    seg.save_as(tmp_path / "seg.dcm")
    place.orthanc.put((tmp_path / "seg.dcm").read_bytes())
    time.sleep(LIST_SECONDS * 1.5)
    place.server.get("/info/")
    reply = place.server.get("/datastore/label", params={"label": series.uid, "tag": "final"})
    assert reply.ok, reply.text
    (tmp_path / "label.nii.gz").write_bytes(reply.content)
    image = nibabel.load(tmp_path / "label.nii.gz")
    at = np.argwhere(changed > 0)
    voxels = apply_affine(np.linalg.inv(image.affine) @ series.scan.affine, at).round().astype(int)
    stored = np.asarray(image.dataobj)
    np.testing.assert_array_equal(stored[tuple(voxels.T)], changed[tuple(at.T)])
    assert (stored > 0).sum() == len(at)


def test_label_deleted_on_the_server_is_gone_here(place: Place, tmp_path: Path) -> None:
    series = place.series["mr"]
    for uid in {seg.SeriesInstanceUID for seg in place.orthanc.segs(series.uid)}:
        place.orthanc.delete_series(uid)
    time.sleep(LIST_SECONDS * 1.5)
    assert place.server.get("/info/").json()["datastore"]["completed"] == len(KINDS) - 2
    ids = {place.server.post("/activelearning/uniform", json={}).json()["id"] for _ in range(4)}
    assert ids <= {series.uid, place.series["spare"].uid}


def test_new_series_appears_and_grows(place: Place) -> None:
    folder = place.folder / "late"
    _, uid = write_series(folder, Labelled(*tiny_scan(9)), patient="late")
    files = sorted(folder.iterdir())
    for file in files[:10]:
        place.orthanc.put(file.read_bytes())
    time.sleep(LIST_SECONDS * 1.5)
    total = place.server.get("/info/").json()["datastore"]["total"]
    assert total == len(KINDS) + 1
    assert place.server.get("/datastore/image", params={"image": uid}).ok
    for file in files[10:]:
        place.orthanc.put(file.read_bytes())
    time.sleep(LIST_SECONDS * 1.5)
    place.server.get("/info/")
    reply = place.server.get("/datastore/image", params={"image": uid})
    (place.folder / "late.nii.gz").write_bytes(reply.content)
    assert read_volume(place.folder / "late.nii.gz").shape[2] == len(files)


def test_the_way_through_for_viewers(place: Place) -> None:
    """The proxy that OHIF asks: with its question, by each service's name, and all bytes of an answer."""
    series = place.series["mr"]
    found = place.server.get("/proxy/dicom/qido/studies", params={"PatientID": "mr"})
    assert found.ok, found.text
    assert [each["0020000D"]["Value"] for each in found.json()] == [[series.study]]
    assert len(place.server.get("/proxy/dicom/studies").json()) >= len(KINDS)
    metadata = place.server.get(f"/proxy/dicom/qido/studies/{series.study}/series/{series.uid}/metadata").json()
    assert len(metadata) == len(series.slices)
    slice_ = series.slices[0]
    path = f"/proxy/dicom/wado/studies/{series.study}/series/{series.uid}/instances/{slice_.SOPInstanceUID}"
    reply = place.server.get(path)
    assert slice_.PixelData in reply.content
    assert place.server.get("/proxy/dicom/wado/studies/1.2.3/series/4/instances/5").status_code == 404
    plain = place.server.get(path, headers={"Accept-Encoding": "identity", "Origin": "https://evil.example"})
    assert slice_.PixelData in plain.content
    assert "access-control-allow-origin" not in plain.headers


@pytest.mark.parametrize("path", ["servers", "changes", "../system", "studies/../../system", "http://127.0.0.1/", ""])
def test_only_dicomweb_is_handed_on(place: Place, path: str) -> None:
    assert place.server.get(f"/proxy/dicom/{path}").status_code in (400, 404)
    dicom = {"Content-Type": "application/dicom"}
    for each in (path, f"stow/{path}", "studies/1.2/reject/113001", "instances"):
        assert place.server.post(f"/proxy/dicom/{each}", data=b"x", headers=dicom).status_code in (400, 404)
    assert place.server.post("/proxy/dicom/studies", json={}).status_code == 415


def test_viewers_can_store(place: Place) -> None:
    _, uid = write_series(place.folder / "sent", Labelled(*tiny_scan(7)), patient="sent")
    content = b"".join(
        b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n"
        for file in sorted((place.folder / "sent").iterdir())
    )
    kind = 'multipart/related; type="application/dicom"; boundary=x'
    reply = place.server.post("/proxy/dicom/stow/studies", data=content + b"--x--", headers={"Content-Type": kind})
    assert reply.ok, reply.text
    assert uid in place.orthanc.series()
    place.orthanc.delete_series(uid)


def test_server_that_says_nothing_holds_nobody_up(place: Place) -> None:
    place.orthanc.pause()
    try:
        with ThreadPoolExecutor() as pool:
            waits = pool.submit(place.server.get, "/proxy/dicom/qido/studies")
            time.sleep(LIST_SECONDS * 1.5)
            began = time.monotonic()
            for _ in range(3):
                assert place.server.get("/info/").ok
                assert place.server.get("/train/").ok
            assert time.monotonic() - began < 2 * PATIENCE_SECONDS
            place.orthanc.resume()
            assert waits.result().ok
    finally:
        place.orthanc.resume()
    time.sleep(LIST_SECONDS * 1.5)
    assert place.server.get("/info/").ok


def test_server_that_is_away(place: Place) -> None:
    series = place.series["spare"]
    stop_jobs(place.server)  # a scoring under way would fetch the new scan
    _, fresh = write_series(place.folder / "fresh", Labelled(*tiny_scan(8)), patient="fresh")
    place.orthanc.upload(place.folder / "fresh")
    time.sleep(LIST_SECONDS * 1.5)
    assert place.server.get("/info/").json()["datastore"]["total"] == len(KINDS) + 2
    place.orthanc.stop()
    try:
        time.sleep(LIST_SECONDS * 1.5)
        assert place.server.get("/info/").json()["datastore"]["total"] == len(KINDS) + 2
        assert "the DICOM server cannot be reached" in detail(place.server.infer("propagate", fresh), 502)
        assert place.server.infer("propagate", series.uid).ok  # what is fetched already
        file = save_nifti(place.folder / "label.nii.gz", series.scan.label, series.scan.affine)
        text = detail(place.server.put_label(series.uid, file, label_info=place.info()), 502)
        assert "Try again later" in text
        assert "final" not in place.server.objects()[series.uid]["labels"]
    finally:
        place.orthanc.start()
    until = time.monotonic() + 30
    while not place.server.infer("propagate", fresh).ok:
        assert time.monotonic() < until, "the server is back, but its scans cannot be had"
        time.sleep(0.5)


def test_next_scan_after_the_review(place: Place) -> None:
    """The loop closes: what a person has just saved is not asked for again, and counts as a template."""
    slicer = Slicer(place.server.url, place.folder / "slicer")
    slicer.fetch_info()
    spare = place.series["spare"]
    slicer.next_sample("recommended", load=spare.uid)
    found = slicer.auto_segment("review")[0]
    assert slicer.submit([(name, found[name]) for name in reversed(NAMES)]).ok
    slicer.next_sample("recommended")
    assert slicer.sample["id"] not in ("", spare.uid)
    assert place.server.infer("propagate", slicer.sample["id"], max_templates=20).ok
    assert with_highdicom(place.orthanc.segs(spare.uid)[-1], spare).keys() == NAMES.keys()


@pytest.mark.timeout(1800)
def test_random_requests(place: Place) -> None:
    schema = schemathesis.openapi.from_url(f"{place.server.url}/openapi.json")
    found: list[Any] = list(schema.get_all_operations())
    tally = Tally()
    before = set(place.server.objects())
    for operation in (each.ok() for each in found):
        if re.match(r"/(infer|batch|activelearning|datastore|session|info)\b", operation.path):
            fuzz(place.server, operation, 6, tally)
    stop_jobs(place.server)
    assert tally.wrong == []
    assert set(place.server.objects()) == before
    assert place.server.infer("propagate", place.series["spare"].uid).ok


def test_start_without_the_server(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve("http://127.0.0.1:9/dicom-web", env=environment(tmp_path / "cache"), labels="liver")
    with pytest.raises(AssertionError, match="The DICOM server cannot be reached"):
        server.start()


# --- a real abdomen ---------------------------------------------------------------------------------------------------


def test_liver_of_deformed_copies(serve: Callable[..., Server], tmp_path: Path) -> None:
    scan, real = abdomen()
    orthanc = Orthanc(tmp_path / "orthanc").start()
    try:
        series = [upload(orthanc, tmp_path / "0", scan)]
        series += [upload(orthanc, tmp_path / str(n), scan.deformed(n), patient=f"P{n}") for n in (1, 2)]
        server = serve(orthanc.dicomweb, env=environment(tmp_path / "cache"), labels="liver").start()
        file = save_nifti(tmp_path / "label.nii.gz", scan.label, scan.affine)
        assert server.put_label(series[0].uid, file, label_info=[{"name": "liver", "idx": 1}]).ok
        slicer = Slicer(server.url, tmp_path / "slicer")
        slicer.fetch_info()
        for each in series[1:]:
            slicer.next_sample("recommended", load=each.uid)
            found = slicer.auto_segment("propagate")[0]["liver"]
            assert slicer.scan is not None
            truth = each.scan.label if slicer.scan.affine[2, 2] * scan.affine[2, 2] > 0 else each.scan.flipped().label
            overlap = dice(found, truth == 1, 1)
            print(f"liver Dice {overlap:.3f}, {'CHAOS' if real else 'generated'}")
            assert overlap >= 0.9
    finally:
        orthanc.stop()

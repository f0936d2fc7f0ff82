"""A DICOMweb server as a datastore, without MONAI Label's server around it: what is sent, kept, missed and refused."""

from __future__ import annotations

import time
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from fastapi import HTTPException

from dicomfiles import Labelled, write_series
from dicomweb_parts import NAMES, SCHEMA, text
from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.dicom_seg import Origin, Segment, write_seg
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume, write_label
from lib.setup.settings import PSEUDO_LABELS, Settings
from orthanc import Orthanc
from picturefiles import save_dicom_image, tiny_picture
from server.dicomweb.cache import Failures, retry_after
from server.dicomweb.datastore import PATIENCE_SECONDS, DicomWebStudy
from server.dicomweb.lists import Lists, scans_in
from server.dicomweb.server import DicomWebServer
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study
from tiny_study import save_nifti, tiny_scan

pytestmark = pytest.mark.clients


def open_store(
    orthanc: Orthanc, folder: Path, pseudo_labels: str = "last", schema: LabelSchema = SCHEMA, **search: str
) -> DicomWebStudy:
    """A store that looks at the lists whenever it is asked."""
    server = DicomWebServer.at(orthanc.dicomweb)
    store = DicomWebStudy(server, folder / "cache", search=search, age=0.0, labels=schema, pseudo_labels=pseudo_labels)
    store.serving = True
    return store


def put_scan(orthanc: Orthanc, folder: Path, patient: str) -> str:
    """A volume on the server; its id."""
    _, uid = write_series(folder / patient, Labelled(*tiny_scan(1)), patient=patient)
    orthanc.upload(folder / patient)
    return uid


def put_image(orthanc: Orthanc, file: Path) -> str:
    orthanc.put(file.read_bytes())
    return str(pydicom.dcmread(file).SeriesInstanceUID)


def label_file(store: DicomWebStudy, scan: str, path: Path, *, shift: int = 0) -> str:
    """A label of a scan that differs with ``shift``."""
    volume = read_volume(store.get_image_uri(scan))
    label = np.zeros(volume.shape, np.uint8)
    label[4 + shift : 12 + shift, 6:14, :: 1 if volume.flat else 2] = 1
    label[20:24, 6:14] = 2
    return str(save_nifti(path, label, volume.affine))


# --- which pseudo-labels are sent -------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", PSEUDO_LABELS)
def test_rounds_and_batches_on_the_server(orthanc: Orthanc, tmp_path: Path, choice: str) -> None:
    scan = put_scan(orthanc, tmp_path, f"sends-{choice}")
    store = open_store(orthanc, tmp_path, choice, PatientID=f"sends-{choice}")
    rounds = [label_file(store, scan, tmp_path / f"{n}.nii.gz", shift=n) for n in range(3)]
    for number, file in enumerate(rounds):
        store.save_labels(ORIGINAL, {scan: (file, NAMES)}, interim=True)
        assert len(orthanc.segs(scan)) == {"last": 0, "always": number + 1, "never": 0}[choice]
        assert Path(store.get_label_uri(scan, ORIGINAL)).read_bytes() == Path(file).read_bytes()
    before = store.label_stamp(scan, ORIGINAL)
    store.publish([scan])
    assert store.label_stamp(scan, ORIGINAL) == before  # the same label: scores of it still hold
    assert len(orthanc.segs(scan)) == {"last": 1, "always": 3, "never": 0}[choice]
    store.publish([scan])
    store.save_labels(ORIGINAL, {scan: (rounds[2], NAMES)})
    assert len(orthanc.segs(scan)) == {"last": 1, "always": 3, "never": 0}[choice]  # the server has it already
    store.save_labels(ORIGINAL, {scan: (rounds[0], NAMES)})  # as a batch does
    segs = orthanc.segs(scan)
    assert len(segs) == {"last": 2, "always": 4, "never": 0}[choice]
    assert len({seg.SeriesInstanceUID for seg in segs}) <= 1
    # Here they are all found, whatever the server has, and none is taken for an outline.
    assert Path(store.get_label_uri(scan, ORIGINAL)).read_bytes() == Path(rounds[0]).read_bytes()
    assert store.get_labeled_images() == []
    again = open_store(orthanc, tmp_path, choice, PatientID=f"sends-{choice}")
    assert Path(again.get_label_uri(scan, ORIGINAL)).read_bytes() == Path(rounds[0]).read_bytes()


def test_people_s_labels_are_sent_always(orthanc: Orthanc, tmp_path: Path) -> None:
    scan = put_scan(orthanc, tmp_path, "person")
    store = open_store(orthanc, tmp_path, "never", PatientID="person")
    store.save_label(scan, label_file(store, scan, tmp_path / "l.nii.gz"), FINAL, NAMES)
    assert [seg.SeriesDescription for seg in orthanc.segs(scan)] == ["semisam: label"]
    assert store.get_labeled_images() == [scan]


def test_unsent_label_is_sent_with_the_next_run(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = put_scan(orthanc, tmp_path, "unsent")
    store = open_store(orthanc, tmp_path, PatientID="unsent")
    file = label_file(store, scan, tmp_path / "l.nii.gz")

    def refuse(*_: object) -> None:
        raise UserError("the disk of the DICOM server is full", status=502)

    with monkeypatch.context() as patch:
        patch.setattr(DicomWebServer, "store", refuse)
        store.save_label(scan, file, ORIGINAL, dict(NAMES))
        assert "full" in store.get_label_info(scan, ORIGINAL)["only_here"]
        assert "full" in text(lambda: store.save_label(scan, file, FINAL, dict(NAMES)), 502)
    assert orthanc.segs(scan) == []
    store.publish([scan])
    assert len(orthanc.segs(scan)) == 1
    assert "only_here" not in store.get_label_info(scan, ORIGINAL)


def test_names_decide_here_and_elsewhere(orthanc: Orthanc, tmp_path: Path) -> None:
    """Segments in another order than the study's structures, as Slicer sends them after a reorder."""
    scan = put_scan(orthanc, tmp_path, "order")
    store = open_store(orthanc, tmp_path, PatientID="order")
    file = label_file(store, scan, tmp_path / "l.nii.gz")
    other_order = {"label_info": [{"name": "spleen", "idx": 1}, {"name": "liver", "idx": 2}]}
    store.save_label(scan, file, FINAL, other_order)
    assert [each.SegmentLabel for each in orthanc.segs(scan)[0].SegmentSequence] == ["spleen", "liver"]
    drawn = read_label(file, read_volume(store.get_image_uri(scan)), SCHEMA)
    other = open_store(orthanc, tmp_path / "elsewhere", PatientID="order")
    for place in (store, other):
        study = Study(orthanc.dicomweb, place, Settings(labels=SCHEMA), tmp_path / "models")
        (item,) = study.usable()
        np.testing.assert_array_equal(study.template(item).label, np.array([0, 2, 1])[drawn])


# --- deleted there, gone here -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [FINAL, ORIGINAL])
def test_deleted_seg_is_gone(orthanc: Orthanc, tmp_path: Path, tag: str) -> None:
    scan = put_scan(orthanc, tmp_path, f"deleted-{tag}")
    store = open_store(orthanc, tmp_path, PatientID=f"deleted-{tag}")
    store.save_label(scan, label_file(store, scan, tmp_path / "l.nii.gz"), tag, NAMES)
    path = Path(store.get_label_uri(scan, tag))
    assert store.get_label_by_image_id(scan, tag) == scan  # and now it is known to be listed
    assert "Delete it there" in text(lambda: store.remove_label(scan, tag), 409)
    orthanc.delete_series(str(orthanc.segs(scan)[0].SeriesInstanceUID))
    assert store.get_label_by_image_id(scan, tag) == ""
    assert not path.exists()
    assert store.get_label_uri(scan, tag) == ""


def test_label_that_was_never_sent_survives_and_can_be_deleted_here(orthanc: Orthanc, tmp_path: Path) -> None:
    scan = put_scan(orthanc, tmp_path, "local")
    store = open_store(orthanc, tmp_path, "never", PatientID="local")
    store.save_label(scan, label_file(store, scan, tmp_path / "l.nii.gz"), ORIGINAL, NAMES)
    assert store.get_label_by_image_id(scan, ORIGINAL) == scan
    store.remove_label(scan, ORIGINAL)
    assert store.get_label_by_image_id(scan, ORIGINAL) == ""


def test_newest_of_two_pseudo_labels_is_deleted(orthanc: Orthanc, tmp_path: Path) -> None:
    scan = put_scan(orthanc, tmp_path, "two")
    store = open_store(orthanc, tmp_path, PatientID="two")
    for shift in (0, 3):
        store.save_label(scan, label_file(store, scan, tmp_path / f"{shift}.nii.gz", shift=shift), ORIGINAL, NAMES)
    assert store.get_label_by_image_id(scan, ORIGINAL) == scan
    orthanc.delete_instance(str(orthanc.segs(scan)[-1].SOPInstanceUID))
    store.list_images()
    volume = read_volume(store.get_image_uri(scan))
    found = read_label(store.get_label_uri(scan, ORIGINAL), volume, SCHEMA)
    np.testing.assert_array_equal(found, read_label(tmp_path / "0.nii.gz", volume, SCHEMA))


# --- stamps -----------------------------------------------------------------------------------------------------------


def test_scan_is_scored_again_only_when_its_series_has_changed(orthanc: Orthanc, tmp_path: Path) -> None:
    _, uid = write_series(tmp_path / "grows", Labelled(*tiny_scan(1)), patient="grows")
    files = sorted((tmp_path / "grows").iterdir())
    for file in files[:10]:
        orthanc.put(file.read_bytes())
    store = open_store(orthanc, tmp_path, PatientID="grows")
    study = Study(orthanc.dicomweb, store, Settings(labels=SCHEMA), tmp_path / "models")
    stamp = study.scan_stamp(uid)
    assert study.scan_stamp(uid) == stamp
    assert not list(tmp_path.glob(f"cache/**/{uid}*"))  # nothing was fetched for it
    assert read_volume(store.get_image_uri(uid)).shape[2] == 10
    assert study.scan_stamp(uid) == stamp  # nor does a fetched scan count as another one
    again = open_store(orthanc, tmp_path / "elsewhere", PatientID="grows")
    assert again.scan_stamp(uid) == stamp
    for file in files[10:]:
        orthanc.put(file.read_bytes())
    store.list_images()
    assert study.scan_stamp(uid) != stamp
    assert read_volume(store.get_image_uri(uid)).shape[2] == len(files)


# --- the server goes away ---------------------------------------------------------------------------------------------


def test_server_goes_away_and_comes_back(tmp_path: Path) -> None:
    orthanc = Orthanc(tmp_path / "orthanc").start()
    try:
        scan = put_scan(orthanc, tmp_path, "away")
        store = open_store(orthanc, tmp_path)
        assert store.list_images() == [scan]
        orthanc.stop()
        assert store.list_images() == [scan]
        said = text(lambda: store.get_image_uri(scan), 502)
        assert said.endswith("the DICOM server cannot be reached. Try again later.")
        assert str(orthanc.port) not in said
        orthanc.start()
        until = time.monotonic() + 20  # a refused connection is found out fast, so it is soon tried again
        while time.monotonic() < until:
            try:
                assert Path(store.get_image_uri(scan)).is_file()
                break
            except HTTPException:
                time.sleep(0.2)
        else:
            pytest.fail("the server is back, but the scan cannot be fetched")
    finally:
        orthanc.stop()


def test_slow_and_bad_things_are_tried_again_later() -> None:
    assert retry_after(0.1) == pytest.approx(1)
    assert retry_after(60) == 60
    failures, calls = Failures(), []

    def attempt() -> None:
        with failures.remembered("scan"):
            calls.append(1)
            raise UserError("no", status=422)

    for _ in range(3):
        with pytest.raises(UserError):
            attempt()
    assert len(calls) == 1
    failures.forget("scan")
    with pytest.raises(UserError):
        attempt()
    assert len(calls) == 2


# --- 2D images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["DX", "US"])
def test_2d_image_and_its_label(orthanc: Orthanc, tmp_path: Path, modality: str) -> None:
    pixels = tiny_picture(1)[0] if modality == "US" else tiny_picture(1)[0][..., 0].astype(np.uint16)
    file = save_dicom_image(tmp_path / "image.dcm", pixels, modality)
    uid = put_image(orthanc, file)
    store = open_store(orthanc, tmp_path, SeriesInstanceUID=uid)
    assert store.list_images() == [uid]
    scan = read_volume(store.get_image_uri(uid))
    np.testing.assert_array_equal(scan.array, read_volume(file).array)
    stored = label_file(store, uid, tmp_path / "l.nii.gz")
    store.save_label(uid, stored, FINAL, NAMES)
    (seg,) = orthanc.segs(uid)
    image = pydicom.dcmread(file)
    np.testing.assert_array_equal(
        seg.pixel_array, [(read_label(stored, scan, SCHEMA)[:, :, 0] == value).T for value in (1, 2)]
    )
    assert [each.SegmentLabel for each in seg.SegmentSequence] == list(SCHEMA.names)
    pixels = highdicom.seg.Segmentation.from_dataset(seg).get_pixels_by_source_instance(
        [image.SOPInstanceUID], segment_numbers=[1, 2], ignore_spatial_locations=True
    )
    np.testing.assert_array_equal(np.moveaxis(pixels[0], 2, 0), seg.pixel_array)
    assert seg.StudyInstanceUID == image.StudyInstanceUID
    other = open_store(orthanc, tmp_path / "elsewhere", SeriesInstanceUID=uid)
    found = read_label(other.get_label_uri(uid, FINAL), scan, SCHEMA)
    np.testing.assert_array_equal(found, read_label(stored, scan, SCHEMA))


def test_single_slice_of_a_volume_is_refused(orthanc: Orthanc, tmp_path: Path) -> None:
    write_series(tmp_path / "one", Labelled(*tiny_scan(1)), patient="one")
    uid = put_image(orthanc, next((tmp_path / "one").iterdir()))
    store = open_store(orthanc, tmp_path, SeriesInstanceUID=uid)
    said = text(lambda: store.get_image_uri(uid), 422)
    assert "single slice (CT)" in said
    assert "SEARCH_FILTER" in said


def test_series_of_several_2d_images_is_refused(orthanc: Orthanc, tmp_path: Path) -> None:
    files = [
        save_dicom_image(tmp_path / f"{n}.dcm", tiny_picture(n)[0][..., 0].astype(np.uint16), "CR") for n in (1, 2)
    ]
    first = pydicom.dcmread(files[0])
    second = pydicom.dcmread(files[1])
    second.SeriesInstanceUID, second.StudyInstanceUID = first.SeriesInstanceUID, first.StudyInstanceUID
    second.save_as(files[1])
    uid, _ = (put_image(orthanc, file) for file in files)
    store = open_store(orthanc, tmp_path, SeriesInstanceUID=uid)
    assert "2 single 2D images (CR)" in text(lambda: store.get_image_uri(uid), 422)


def test_screenshots_are_scans_only_if_asked_for(orthanc: Orthanc, tmp_path: Path) -> None:
    uid = put_image(orthanc, save_dicom_image(tmp_path / "shot.dcm", tiny_picture(1)[0], "OT"))
    server = DicomWebServer.at(orthanc.dicomweb)
    assert uid not in Lists(server, {}).ask({}).scans
    assert uid in Lists(server, {"Modality": "OT"}).ask({}).scans


# --- labels of three planes -------------------------------------------------------------------------------------------


def test_what_is_annotated_goes_with_the_seg(orthanc: Orthanc, tmp_path: Path) -> None:
    scan = put_scan(orthanc, tmp_path, "planes")
    store = open_store(orthanc, tmp_path, PatientID="planes")
    volume = read_volume(store.get_image_uri(scan))
    label = np.zeros(volume.shape, np.uint8)
    label[10, 8:12, 8:12] = label[8:12, 10, 8:12] = label[8:12, 8:12, 10] = 1
    file = str(save_nifti(tmp_path / "l.nii.gz", label, volume.affine))
    store.save_label(scan, file, FINAL, {**NAMES, "annotated": "planes"})
    assert "annotated: planes" in orthanc.segs(scan)[0].SeriesDescription
    other = open_store(orthanc, tmp_path / "elsewhere", PatientID="planes")
    study = Study(orthanc.dicomweb, other, Settings(labels=SCHEMA), tmp_path / "models")
    (item,) = study.usable()
    assert item.annotated == "planes"
    planes = study.check(item).planes
    assert planes is not None
    assert planes.at == (10, 10, 10)


def test_what_a_slice_calls_itself_is_no_path(orthanc: Orthanc, tmp_path: Path) -> None:
    _, uid = write_series(tmp_path / "evil", Labelled(*tiny_scan(1)), patient="evil")
    for number, file in enumerate(sorted((tmp_path / "evil").iterdir())):
        slice_ = pydicom.dcmread(file)
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = f"../../../up-{number}"
        slice_.save_as(file)
    orthanc.upload(tmp_path / "evil")
    store = open_store(orthanc, tmp_path)
    assert read_volume(store.get_image_uri(uid)).shape == tiny_scan(1)[0].shape
    assert not [file for file in tmp_path.rglob("up-*") if file.parent.name != "evil"]


@pytest.mark.parametrize("key", ["SeriesInstanceUID", "StudyInstanceUID"])
def test_series_without_a_uid_are_no_scans(key: str) -> None:
    series = pydicom.Dataset()
    series.Modality = "CT"
    series.SeriesInstanceUID, series.StudyInstanceUID = "1.2.3", "1.2"
    assert set(scans_in([series], "http://pacs", None)) == {"1.2.3"}
    setattr(series, key, "../1.2")
    assert scans_in([series], "http://pacs", None) == {}


# --- whose SEG counts -------------------------------------------------------------------------------------------------


def foreign(store: DicomWebStudy, scan: str, folder: Path, name: str, **tags: str) -> bytes:
    """A SEG as another program might send it: ours, under another description, name and time."""
    volume = read_volume(store.get_image_uri(scan))
    label = np.zeros(volume.shape, np.uint8)
    label[3:6, 3:6, 3:6] = 1
    origin = Origin("drawn elsewhere", None, person=True)
    seg = write_seg(label, volume.affine, store.dicom_of(scan), [Segment(1, name, (1, 2, 3))], origin)
    del seg.TimezoneOffsetFromUTC
    for key, value in tags.items():
        setattr(seg, key, value)
    seg.save_as(folder / "foreign.dcm")
    return (folder / "foreign.dcm").read_bytes()


def final_of(store: DicomWebStudy, scan: str) -> str:
    """UID of the SEG that is the scan's final label, once the lists are new."""
    store.list_images()
    return str(store.get_label_info(scan, FINAL).get("SOPInstanceUID", ""))


def test_seg_of_other_things_is_no_label(orthanc: Orthanc, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scan = put_scan(orthanc, tmp_path, "lesions")
    store = open_store(orthanc, tmp_path)
    orthanc.put(foreign(store, scan, tmp_path, "lesion"))
    assert final_of(store, scan) == ""
    assert "lesion" in caplog.text
    store.save_label(scan, label_file(store, scan, tmp_path / "own.nii.gz"), FINAL, {})
    own = final_of(store, scan)
    orthanc.put(foreign(store, scan, tmp_path, "lesion"))  # newer than the good one
    assert final_of(store, scan) == own
    series = str(store.get_label_info(scan, FINAL)["SeriesInstanceUID"])
    orthanc.put(foreign(store, scan, tmp_path, "lesion", SeriesInstanceUID=series))  # into the same series
    assert final_of(store, scan) == own
    assert final_of(open_store(orthanc, tmp_path / "other"), scan) == own
    orthanc.put(foreign(store, scan, tmp_path, "Liver"))
    assert final_of(store, scan) not in ("", own)


def test_odd_segs_stop_nothing(orthanc: Orthanc, tmp_path: Path) -> None:
    scan = put_scan(orthanc, tmp_path, "odd")
    store = open_store(orthanc, tmp_path)
    seg = pydicom.dcmread(pydicom.filebase.DicomBytesIO(foreign(store, scan, tmp_path, "liver")))
    for what in ("SegmentNumber", "SegmentSequence"):
        delattr(seg.SegmentSequence[0] if what == "SegmentNumber" else seg, what)
        seg.file_meta.MediaStorageSOPInstanceUID = seg.SOPInstanceUID = pydicom.uid.generate_uid()
        seg.SeriesInstanceUID = pydicom.uid.generate_uid()
        seg.save_as(tmp_path / "odd.dcm")
        orthanc.put((tmp_path / "odd.dcm").read_bytes())
    assert final_of(store, scan) == ""
    late = put_scan(orthanc, tmp_path, "late")
    assert late in store.list_images()
    assert late in open_store(orthanc, tmp_path / "other").list_images()


def test_study_of_other_structures_on_the_same_server(orthanc: Orthanc, tmp_path: Path) -> None:
    scan = put_scan(orthanc, tmp_path, "shared")
    one = LabelSchema(("liver",))
    store = open_store(orthanc, tmp_path, schema=one)
    volume = read_volume(store.get_image_uri(scan))
    label = np.zeros(volume.shape, np.uint8)
    label[3:6, 3:6, 3:6] = 1
    write_label(tmp_path / "label.nii.gz", label, volume.affine)
    store.save_label(scan, str(tmp_path / "label.nii.gz"), FINAL, {"label_info": [{"name": "Segment_1"}]})
    assert final_of(open_store(orthanc, tmp_path / "same", schema=one), scan)  # under the structure's own name
    assert not final_of(open_store(orthanc, tmp_path / "other", schema=LabelSchema(("spleen",))), scan)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_newest_label_counts_in_every_time_zone(
    orthanc: Orthanc, tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OHIF writes UTC and says so nowhere; this app writes the time of its machine, and says which that is."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        scan = put_scan(orthanc, tmp_path, zone.replace("/", " "))
        store = open_store(orthanc, tmp_path)
        store.save_label(scan, label_file(store, scan, tmp_path / "own.nii.gz"), FINAL, {})
        first = final_of(store, scan)
        orthanc.put(foreign(store, scan, tmp_path, "liver", **utc_tags(5)))
        second = final_of(store, scan)
        assert second != first
        # Also when the other's clock is hours ahead.
        orthanc.put(foreign(store, scan, tmp_path, "liver", **utc_tags(7200)))
        third = final_of(store, scan)
        assert third != second
        store.save_label(scan, label_file(store, scan, tmp_path / "own.nii.gz", shift=1), FINAL, {})
        last = final_of(store, scan)
        assert last not in (first, second, third)
        assert final_of(store, scan) == last
        again = open_store(orthanc, tmp_path)  # a restart keeps the order
        assert final_of(again, scan) == last
        # What comes after that counts again, though clocks have been found wrong.
        orthanc.put(foreign(again, scan, tmp_path, "liver", **utc_tags(60)))
        fourth = final_of(again, scan)
        assert fourth not in (second, third, last)
        assert final_of(again, scan) == fourth
    finally:
        monkeypatch.undo()
        time.tzset()


def utc_tags(seconds: float) -> dict[str, str]:
    """When a SEG was made, so many seconds from now."""
    day, clock = time.strftime("%Y%m%d %H%M%S", time.gmtime(time.time() + seconds)).split()
    return {"InstanceCreationDate": day, "InstanceCreationTime": clock}


def test_names_in_any_script_come_back(orthanc: Orthanc, tmp_path: Path) -> None:
    scan = put_scan(orthanc, tmp_path, "script")
    names = ("Leber (groß)", "\u8133\u81d3")
    store = open_store(orthanc, tmp_path, schema=LabelSchema(names))
    volume = read_volume(store.get_image_uri(scan))
    label = np.zeros(volume.shape, np.uint8)
    label[3:6, 3:6, 3:6], label[8:9, 3:6, 3:6] = 1, 2
    write_label(tmp_path / "label.nii.gz", label, volume.affine)
    store.save_label(scan, str(tmp_path / "label.nii.gz"), FINAL, {})
    (seg,) = orthanc.segs(scan)
    assert [each.SegmentLabel for each in seg.SegmentSequence] == list(names)
    for file in Path(store._datastore.label_path(FINAL)).glob(f"{scan}*"):
        file.unlink()
    np.testing.assert_array_equal(read_label(store.get_label_uri(scan, FINAL), volume, LabelSchema(names)), label)


# --- a server that says nothing ---------------------------------------------------------------------------------------


def test_silent_server_holds_nobody_up(tmp_path: Path) -> None:
    silent = Orthanc(tmp_path / "orthanc").start()
    try:
        scan = put_scan(silent, tmp_path, "silent")
        store = open_store(silent, tmp_path)
        assert store.list_images() == [scan]
        silent.pause()
        began = time.monotonic()
        assert store.list_images() == [scan]
        assert store.list_images() == [scan]
        assert time.monotonic() - began < PATIENCE_SECONDS + 2
    finally:
        silent.resume()
        silent.stop()

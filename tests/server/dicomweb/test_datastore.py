"""Labels of a DICOM server: liver stays liver whoever reads it, and what could not be sent gets there later, once."""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException
from highdicom.ko import KeyObjectSelectionDocument
from pydicom.uid import generate_uid

from dicomfiles import Labelled, write_series
from dicomserver import PlayedServer
from lib.core.labels import LabelSchema
from lib.dicom_seg import Origin, Segment, write_seg
from lib.formats.volumes import read_volume
from lib.setup.settings import Settings
from server.dicomweb.copies import LabelCopies
from server.dicomweb.datastore import DicomWebStudy
from server.dicomweb.unsent import Retry
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study
from tiny_study import save_nifti, tiny_scan

LIVER_FIRST, SPLEEN_FIRST = LabelSchema(("liver", "spleen")), LabelSchema(("spleen", "liver"))
WITH_THIRD = LabelSchema(("kidney", "spleen", "liver"))
SENT_BY_SLICER = {"label_info": [{"name": "spleen", "idx": 1}, {"name": "liver", "idx": 2}]}
"""As a viewer numbers them whose list has the spleen first."""
OWN = {"params": {"label_names": {"liver": 1, "spleen": 2}}, "model": "propagate"}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series") / "scan"
    array, label, affine = tiny_scan(1)
    write_series(folder, Labelled(array[::2, ::2, ::2], label[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0])))
    return folder


@pytest.fixture
def server(series: Path) -> PlayedServer:
    played = PlayedServer()
    played.put_series(series)
    return played


def opened(server: PlayedServer, folder: Path, schema: LabelSchema | None = LIVER_FIRST, sends: str = "last") -> Any:
    """A store as a process of its own would have it, which looks at the lists whenever it is asked."""
    store = DicomWebStudy(server, folder / "cache", search={}, age=0.0, labels=schema, pseudo_labels=sends)
    store.serving = True
    return store


def drawn(store: DicomWebStudy, path: Path, shift: int = 0) -> str:
    """A label with a large 1 and a small 2."""
    volume = read_volume(store.get_image_uri(store.list_images()[0]))
    label = np.zeros(volume.shape, np.uint8)
    label[2:8, 3 + shift : 9 + shift, 2:9] = 1
    label[11:14, 3:6, 2:9] = 2
    return str(save_nifti(path, label, volume.affine))


def voxels(server: PlayedServer, store: DicomWebStudy, schema: LabelSchema, folder: Path) -> dict[str, int]:
    """How large each structure is for whoever learns from the final label."""
    study = Study(server.address, store, Settings(labels=schema), folder / "models")
    (item,) = study.usable()
    label = study.template(item).label
    return {name: int((label == value).sum()) for name, value in study.schema.as_dict().items()}


SPLEEN_IS_LARGE = {"liver": 63, "spleen": 252}


def forget_copies(folder: Path) -> None:
    shutil.rmtree(folder / "cache" / "labels")


# --- what the values mean ---------------------------------------------------------------------------------------------


def test_two_processes_read_the_same_organs_after_the_copies_were_deleted(server: PlayedServer, tmp_path: Path) -> None:
    serving = opened(server, tmp_path)
    (scan,) = serving.list_images()
    serving.save_label(scan, drawn(serving, tmp_path / "l.nii.gz"), FINAL, SENT_BY_SLICER)
    assert voxels(server, serving, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE
    forget_copies(tmp_path)
    job = opened(server, tmp_path)
    assert voxels(server, job, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE
    assert voxels(server, serving, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE  # with the file that the job has fetched
    forget_copies(tmp_path)
    assert voxels(server, serving, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE
    assert voxels(server, job, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE


@pytest.mark.parametrize("cleared", [False, True], ids=["copies kept", "copies deleted"])
def test_structures_in_another_order_after_a_restart(server: PlayedServer, tmp_path: Path, cleared: bool) -> None:
    before = opened(server, tmp_path)
    (scan,) = before.list_images()
    before.save_label(scan, drawn(before, tmp_path / "l.nii.gz"), FINAL, SENT_BY_SLICER)
    for schema in (SPLEEN_FIRST, WITH_THIRD, LIVER_FIRST):
        if cleared:
            forget_copies(tmp_path)
        found = voxels(server, opened(server, tmp_path, schema), schema, tmp_path)
        assert {name: count for name, count in found.items() if count} == SPLEEN_IS_LARGE


def test_structures_that_are_not_set_are_those_of_the_seg(server: PlayedServer, tmp_path: Path) -> None:
    """Without --conf labels; the segments of the SEG are those that were drawn, and its names come back with it."""
    store = opened(server, tmp_path, None)
    (scan,) = store.list_images()
    store.save_label(scan, drawn(store, tmp_path / "l.nii.gz"), FINAL, SENT_BY_SLICER)
    for each in (store, opened(server, tmp_path, None)):
        forget_copies(tmp_path)
        study = Study(server.address, each, Settings(), tmp_path / "models")
        (item,) = study.usable()
        label = study.template(item).label
        assert {n: int((label == v).sum()) for n, v in study.schema.as_dict().items()} == SPLEEN_IS_LARGE


def test_pseudo_labels_keep_their_organs(server: PlayedServer, tmp_path: Path) -> None:
    store = opened(server, tmp_path)
    (scan,) = store.list_images()
    store.save_label(scan, drawn(store, tmp_path / "l.nii.gz"), ORIGINAL, OWN)
    other = opened(server, tmp_path, SPLEEN_FIRST)
    assert other.get_label_info(scan, ORIGINAL)["label_info"] == [
        {"name": "spleen", "idx": 1},
        {"name": "liver", "idx": 2},
    ]
    label = read_volume(other.get_label_uri(scan, ORIGINAL)).array
    assert [int((label == value).sum()) for value in (1, 2)] == [63, 252]


def test_newer_seg_of_another_program_and_its_end(server: PlayedServer, series: Path, tmp_path: Path) -> None:
    serving, job = opened(server, tmp_path), opened(server, tmp_path)
    (scan,) = serving.list_images()
    file = drawn(serving, tmp_path / "l.nii.gz")
    serving.save_label(scan, file, FINAL, SENT_BY_SLICER)
    assert voxels(server, job, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE
    volume = read_volume(serving.get_image_uri(scan))
    label = read_volume(file).array.astype(np.uint8)
    segments = [Segment(1, "liver", (255, 0, 0)), Segment(2, "spleen", (0, 255, 0))]
    theirs = write_seg(label, volume.affine, series, segments, Origin("elsewhere", None, person=True))
    theirs.InstanceCreationDate = "21000101"  # their clock is ahead
    server.put_seg(theirs)
    for store in (serving, job):
        assert voxels(server, store, LIVER_FIRST, tmp_path) == {"liver": 252, "spleen": 63}
    server.delete_seg(str(theirs.SOPInstanceUID))
    for store in (job, serving):
        assert voxels(server, store, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE
    server.delete_seg(str(server.stored[0].SOPInstanceUID))
    for store in (serving, job):
        assert store.get_labeled_images() == []


def test_a_label_that_is_taken_back_stays_and_counts_no_longer(server: PlayedServer, tmp_path: Path) -> None:
    serving, job = opened(server, tmp_path), opened(server, tmp_path)
    (scan,) = serving.list_images()
    file = drawn(serving, tmp_path / "l.nii.gz")
    serving.save_label(scan, file, FINAL, SENT_BY_SLICER)
    assert job.get_labeled_images() == [scan]
    server.away = True
    with pytest.raises(HTTPException) as refused:
        serving.reject_label(scan, FINAL, "not good enough")
    assert refused.value.status_code == 502
    server.away = False
    assert serving.get_labeled_images() == [scan]
    serving.reject_label(scan, FINAL, "Änne has taken it back.")
    note, seg = KeyObjectSelectionDocument.from_dataset(server.notes[0]), server.stored[0]
    assert len(server.segs_there()) == 1
    assert note.content.get_references()[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID
    assert note.StudyInstanceUID == seg.StudyInstanceUID
    assert "Änne" in note.ContentSequence[0].TextValue
    anew = opened(server, tmp_path / "another server")
    for store in (serving, job, anew):
        assert store.get_labeled_images() == []
    serving.save_label(scan, file, FINAL, SENT_BY_SLICER)
    for store in (serving, job, anew):
        assert store.get_labeled_images() == [scan]


def test_the_whole_cache_is_deleted_while_the_server_runs(server: PlayedServer, tmp_path: Path) -> None:
    store = opened(server, tmp_path)
    (scan,) = store.list_images()
    store.save_label(scan, drawn(store, tmp_path / "l.nii.gz"), FINAL, SENT_BY_SLICER)
    shutil.rmtree(tmp_path / "cache")
    assert voxels(server, store, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE
    store.save_label(scan, drawn(store, tmp_path / "l.nii.gz", shift=1), FINAL, SENT_BY_SLICER)
    shutil.rmtree(tmp_path / "cache")
    assert voxels(server, opened(server, tmp_path), LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE
    assert voxels(server, store, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE


def test_labels_of_a_cache_from_before_are_fetched_anew(server: PlayedServer, tmp_path: Path) -> None:
    store = opened(server, tmp_path)
    (scan,) = store.list_images()
    file = drawn(store, tmp_path / "l.nii.gz")
    store.save_label(scan, file, FINAL, SENT_BY_SLICER)
    # As version 0.1.0 has left it: the file with the sender's values, the sender's names, and no word about either.
    (tmp_path / "cache" / ".labels-by-seg").unlink()
    shutil.copy(file, tmp_path / "cache" / "labels" / "final" / f"{scan}.nii.gz")
    again = opened(server, tmp_path)
    assert voxels(server, again, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE
    assert not (tmp_path / "cache" / "labels" / "final" / f"{scan}.nii.gz").exists()


def test_a_series_whose_number_begins_like_another_one_keeps_its_labels(tmp_path: Path) -> None:
    copies = LabelCopies(tmp_path, LIVER_FIRST)
    folder = tmp_path / "labels" / ORIGINAL
    folder.mkdir(parents=True)
    theirs = [folder / "1.2.3.4.nii.gz", folder / "1.2.3.4.nrrd", copies.path("1.2.3.4", ORIGINAL, "9")]
    own = [folder / "1.2.3.nii.gz", folder / "1.2.3.nrrd", copies.path("1.2.3", ORIGINAL, "9")]
    for path in (*theirs, *own):
        path.touch()
    copies.delete("1.2.3", ORIGINAL)
    assert [path.exists() for path in (*theirs, *own)] == [True] * 3 + [False] * 3


# --- what could not be sent -------------------------------------------------------------------------------------------


@pytest.fixture
def several(series: Path, tmp_path: Path) -> tuple[PlayedServer, DicomWebStudy, list[str]]:
    """A server with three scans, fetched already."""
    played = PlayedServer()
    for number in range(3):
        folder = Path(shutil.copytree(series, tmp_path / f"series-{number}"))
        _number_anew(folder)
        played.put_series(folder)
    store = opened(played, tmp_path)
    names = sorted(store.list_images())
    for name in names:
        assert Path(store.get_image_uri(name)).is_file()
    return played, store, names


def _number_anew(folder: Path) -> None:
    import pydicom

    uid = generate_uid()
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = uid, generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(file)


def refused(call: Callable[[], object], status: int) -> str:
    with pytest.raises(HTTPException) as found:
        call()
    assert found.value.status_code == status
    return str(found.value.detail)


def test_labels_of_a_training_are_sent_when_the_server_is_back(
    several: tuple[PlayedServer, DicomWebStudy, list[str]], tmp_path: Path
) -> None:
    server, store, names = several
    files = {name: drawn(store, tmp_path / f"{n}.nii.gz", shift=n) for n, name in enumerate(names)}
    server.away = True
    store.save_labels(ORIGINAL, {name: (file, OWN) for name, file in files.items()}, interim=True)
    assert store.unsent() == {}  # the next round's take their place
    store.publish(names)
    assert set(store.unsent()) == set(names)
    for reason in store.unsent().values():
        assert reason == "The label could not be stored: the DICOM server cannot be reached. Try again later."
    store.send_unsent()
    assert set(store.unsent()) == set(names)
    server.away = False
    serving = opened(server, tmp_path)
    assert set(serving.unsent()) == set(names)
    serving.send_unsent()
    assert serving.unsent() == store.unsent() == {}
    assert {str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID) for seg in server.stored} == set(names)
    store.send_unsent()
    store.publish(names)
    assert len(server.stored) == 3
    for name in names:
        label = read_volume(store.get_label_uri(name, ORIGINAL)).array
        np.testing.assert_array_equal(label, read_volume(files[name]).array)


def test_what_was_replaced_deleted_or_outlined_meanwhile_is_not_sent(
    several: tuple[PlayedServer, DicomWebStudy, list[str]], tmp_path: Path
) -> None:
    server, store, (replaced, deleted, outlined) = several
    old, new = drawn(store, tmp_path / "old.nii.gz"), drawn(store, tmp_path / "new.nii.gz", shift=2)
    server.away = True
    store.save_labels(ORIGINAL, dict.fromkeys((replaced, deleted, outlined), (old, OWN)))
    assert len(store.unsent()) == 3
    store.save_labels(ORIGINAL, {replaced: (new, OWN)})
    store.remove_label(deleted, ORIGINAL)
    server.away = False
    store.save_label(outlined, new, FINAL, OWN)
    store.send_unsent()
    sent = [str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID) for seg in server.stored]
    assert sorted(sent) == sorted([replaced, outlined])  # the outline itself, and the newer guess
    np.testing.assert_array_equal(read_volume(store.get_label_uri(replaced, ORIGINAL)).array, read_volume(new).array)
    assert store.get_label_by_image_id(deleted, ORIGINAL) == ""


def test_a_label_that_got_there_just_before_a_kill_is_not_sent_twice(
    several: tuple[PlayedServer, DicomWebStudy, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, store, (name, *_) = several
    server.away = True
    store.save_labels(ORIGINAL, {name: (drawn(store, tmp_path / "l.nii.gz"), OWN)})
    server.away = False

    class KilledError(BaseException):
        """What a kill looks like from inside."""

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("server.dicomweb.copies.LabelCopies.put", killed)
        with pytest.raises(KilledError):
            store.send_unsent()
    assert len(server.stored) == 1
    again = opened(server, tmp_path)
    assert set(again.unsent()) == {name}
    again.send_unsent()
    assert len(server.stored) == 1
    assert again.unsent() == {}
    assert again.get_label_info(name, ORIGINAL)["SOPInstanceUID"] == server.stored[0].SOPInstanceUID


def test_two_processes_that_send_at_the_same_time_send_once(
    several: tuple[PlayedServer, DicomWebStudy, list[str]], tmp_path: Path
) -> None:
    server, store, names = several
    server.away = True
    store.save_labels(ORIGINAL, {name: (drawn(store, tmp_path / "l.nii.gz"), OWN) for name in names})
    server.away = False
    both = [store, opened(server, tmp_path)]
    threads = [threading.Thread(target=each.publish, args=(names,)) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.stored) == 3
    assert store.unsent() == {}


def test_outline_that_does_not_get_there_is_refused_and_leaves_the_one_before(
    server: PlayedServer, tmp_path: Path
) -> None:
    store = opened(server, tmp_path)
    (scan,) = store.list_images()
    store.save_label(scan, drawn(store, tmp_path / "l.nii.gz"), FINAL, SENT_BY_SLICER)
    before = copy.deepcopy(store.json())
    server.away = True
    said = refused(lambda: store.save_label(scan, drawn(store, tmp_path / "2.nii.gz", shift=2), FINAL, OWN), 502)
    assert said == "The label could not be stored: the DICOM server cannot be reached. Try again later."
    server.away = False
    assert store.json() == before
    assert voxels(server, store, LIVER_FIRST, tmp_path) == SPLEEN_IS_LARGE
    assert len(server.segs_there()) == 1


def test_attempts_become_rarer_and_go_on(caplog: pytest.LogCaptureFixture) -> None:
    left = {"a": "away", "b": "away"}
    answers: Iterator[int | None] = iter([0, 0, None, 1, 0, 1])

    def send() -> None:
        count = next(answers)
        if not isinstance(count, int):
            raise RuntimeError("odd")
        for _ in range(count):
            left.popitem()

    pauses: list[float] = []
    retry = Retry(lambda: dict(left), send, first=1.0, most=3.0)

    class Ended:
        """Counts pauses instead of waiting."""

        def wait(self, seconds: float) -> bool:
            pauses.append(seconds)
            return len(pauses) > 8

    retry._end = Ended()  # type: ignore[assignment]
    retry._run()
    assert pauses == [1, 2, 3, 3, 1, 2, 1, 1, 1]
    assert left == {}

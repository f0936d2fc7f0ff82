"""A server that starts with outlines of another program, and with names that it does not know."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import pydicom
import pytest

from dicomfiles import Labelled, write_series
from dicomserver import Exam
from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.dicom_seg import Origin, Segment
from lib.exchange.incoming import find
from lib.exchange.rtstruct import write_rtstruct
from lib.formats.volumes import read_volume
from lib.setup.settings import Settings
from server.dicomweb.datastore import DicomWebStudy
from server.exchange.at_start import import_at_start
from server.store.folder_store import FINAL, StudyDatastore
from server.store.study import Study
from tiny_study import TINY_LABELS, dice, make_tiny_study, tiny_scan

SEGMENTS = (Segment(1, "BALL", (255, 0, 0)), Segment(2, "Stab", (0, 255, 0)))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A study with a DICOM scan P1, and a folder with its RTSTRUCT."""
    study = make_tiny_study(tmp_path / "study", scans=1, finals=0)
    write_series(study / "P1", Labelled(*tiny_scan(3)), patient="P1")
    labels = tmp_path / "rtstructs"
    labels.mkdir()
    person = Origin("drawn elsewhere", None, person=True)
    dataset = write_rtstruct(tiny_scan(3)[1], read_volume(study / "P1").affine, study / "P1", SEGMENTS, person)
    dataset.save_as(labels / "P1.dcm", write_like_original=False)
    return study, labels


def _start(folder: Path, conf: dict[str, str]) -> Study:
    settings = Settings.from_conf({"labels": ",".join(TINY_LABELS), **conf})
    study = Study(str(folder), StudyDatastore(str(folder)), settings, folder.parent / "models")
    import_at_start(study)
    return study


def test_outlines_become_final_at_the_start_and_are_kept_at_the_next(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, labels = folders
    names = tmp_path / "names.csv"
    names.write_text("name,structure,found in\nStab,rod,\n")
    conf = {"import": str(labels), "import_names": str(names)}
    (labels / "other.nii.gz").write_bytes(b"no label")
    with caplog.at_level(logging.INFO):
        study = _start(folder, conf)
    assert "1 imported, 1 refused" in caplog.text
    assert "other.nii.gz was not imported" in caplog.text
    item = study.final_label("P1")
    assert item is not None
    found = study.template(item).label
    assert min(dice(found, tiny_scan(3)[1], value) for value in (1, 2)) > 0.98
    before = study.label_stamp("P1", FINAL)
    with caplog.at_level(logging.INFO):
        study = _start(folder, conf)
    assert "1 kept" in caplog.text
    assert study.label_stamp("P1", FINAL) == before


def test_objects_of_scans_with_a_final_label_are_not_read_again(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, labels = folders
    (tmp_path / "names.csv").write_text("name,structure,found in\nStab,rod,\n")
    conf = {"import": str(labels), "import_names": str(tmp_path / "names.csv")}
    _start(folder, conf)
    read, object_in = [], find.object_in

    def seen(source: str, file: Path) -> object:
        read.append(source)
        return object_in(source, file)

    monkeypatch.setattr(find, "object_in", seen)
    with caplog.at_level(logging.INFO):
        study = _start(folder, conf)
    assert read == []
    assert "Labels from" in caplog.text
    assert "1 kept" in caplog.text
    study.datastore.remove_label("P1", FINAL)
    study = _start(folder, conf)
    assert read == ["P1.dcm"]
    assert study.final_label("P1") is not None, "one whose scan has lost its final label is imported again"
    os.utime(labels / "P1.dcm", ns=(1, 1))
    _start(folder, conf)
    assert read == ["P1.dcm", "P1.dcm"], "and one that has changed is looked at"


def test_unknown_names_ask_for_a_table(folders: tuple[Path, Path], tmp_path: Path) -> None:
    folder, labels = folders
    with pytest.raises(UserError, match=r"'Stab'.*Start again with --conf import_names names\.csv"):
        _start(folder, {"import": str(labels)})
    names = tmp_path / "names.csv"
    with pytest.raises(UserError, match="fill in the structure of each, or - to leave it out, and start the server"):
        _start(folder, {"import": str(labels), "import_names": str(names)})
    assert "Stab" in names.read_text()
    assert not list((folder / "labels").rglob("*.nii.gz"))


@pytest.mark.parametrize(
    ("conf", "text"),
    [
        ({"import_names": "names.csv"}, "it goes with import"),
        ({"import": ".", "import_names": "/no/such/names.csv"}, "cannot be a table of names"),
    ],
)
def test_settings_that_cannot_be(conf: dict[str, str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        Settings.from_conf(conf)


def test_a_folder_that_is_gone_is_a_warning_at_the_start_and_nothing_to_jobs(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each job reads the settings of the server that has started it."""
    conf = {"labels": ",".join(TINY_LABELS), "import": str(tmp_path / "gone")}
    assert Settings.from_conf(conf).import_from == str(tmp_path / "gone")
    study = _start(folders[0], conf)
    assert f"import: there is no file or folder {tmp_path / 'gone'}, so nothing is imported" in caplog.text
    assert study.final_labels() == []


def test_a_folder_study_has_no_server_to_import_from(folders: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="a study on a DICOM server"):
        _start(folders[0], {"import": "server"})


# --- from a DICOM server ----------------------------------------------------------------------------------------------


@pytest.fixture
def exam(tmp_path: Path) -> Exam:
    """A DICOM server with a scan, and an RTSTRUCT of it."""
    server = Exam()
    _add_scan(server, tmp_path / "scan", 1)
    return server


def _add_scan(server: Exam, folder: Path, number: int, like: Path | None = None) -> str:
    """Put a scan and its RTSTRUCT on the server, in an exam of their own or that of another scan; returns its UID."""
    uid = write_series(folder, Labelled(*tiny_scan(number)))[1]
    if like is not None:
        exam = pydicom.dcmread(next(like.iterdir()), stop_before_pixels=True).StudyInstanceUID
        for file in folder.iterdir():
            dataset = pydicom.dcmread(file)
            dataset.StudyInstanceUID = exam
            dataset.save_as(file)
    server.put_series(folder)
    segments = tuple(Segment(value, name, (255, 0, 0)) for value, name in enumerate(TINY_LABELS, start=1))
    person = Origin("drawn elsewhere", None, person=True)
    affine = read_volume(folder).affine
    server.structure_sets.append(write_rtstruct(tiny_scan(number)[1], affine, folder, segments, person))
    return uid


def _open(server: Exam, folder: Path) -> Study:
    """The study on a DICOM server, as a server opens it that is about to start."""
    settings = Settings.from_conf({"labels": ",".join(TINY_LABELS), "import": "server"})
    store = DicomWebStudy(server, folder / "cache", search={}, age=0.0, labels=settings.labels, pseudo_labels="never")
    return Study(server.address, store, settings, folder / "models")


def test_a_server_starts_while_the_dicom_server_is_away(
    exam: Exam, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = _open(exam, tmp_path)
    exam.away = True
    import_at_start(study)
    assert "Labels from server were not imported: The DICOM server cannot be reached" in caplog.text
    exam.away = False
    study = _open(exam, tmp_path)
    import_at_start(study)
    assert len(study.final_labels()) == 1


def test_a_series_that_cannot_be_fetched_stands_in_the_way_of_no_other(
    exam: Exam, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uid = _add_scan(exam, tmp_path / "other", 2)
    bad = str(exam.structure_sets[0].SeriesInstanceUID)
    exam.broken.add(bad)
    study = _open(exam, tmp_path)
    with caplog.at_level(logging.INFO):
        import_at_start(study)
    assert [item.name for item in study.final_labels()] == [uid]
    assert "1 imported, 1 refused" in caplog.text
    assert (
        f"{bad} was not imported: Series {bad} could not be fetched: the DICOM server cannot be reached" in caplog.text
    )


def test_only_what_is_new_is_fetched_at_the_next_start(
    exam: Exam, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import_at_start(_open(exam, tmp_path))
    assert len(exam.given) == 1
    exam.given.clear()
    exam.conditions.clear()
    import_at_start(_open(exam, tmp_path))
    assert exam.given == []
    assert not any("StudyInstanceUID" in each for each in exam.conditions), "all scans of the exam have a final label"

    other = _add_scan(exam, tmp_path / "second", 2, like=tmp_path / "scan")  # in the same exam
    exam.structure_sets.pop()
    for fetched in (1, 0):  # the SEG that the import has made; after that, nothing
        exam.given.clear()
        with caplog.at_level(logging.INFO):
            study = _open(exam, tmp_path)
            import_at_start(study)
        assert len(exam.given) == fetched
    assert "Labels from server: 2 kept" in caplog.text
    assert len(study.final_labels()) == 1
    segments = tuple(Segment(value, name, (255, 0, 0)) for value, name in enumerate(TINY_LABELS, start=1))
    origin = Origin("drawn elsewhere", None, person=True)
    second, affine = tmp_path / "second", read_volume(tmp_path / "second").affine
    exam.structure_sets.append(write_rtstruct(tiny_scan(2)[1], affine, second, segments, origin))
    exam.given.clear()
    import_at_start(study)
    assert exam.given == [str(exam.structure_sets[-1].SeriesInstanceUID)]
    assert other in {item.name for item in study.final_labels()}


def test_a_series_whose_name_is_a_path_is_not_fetched(
    exam: Exam, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    exam.structure_sets[0].SeriesInstanceUID = "../../1.2"
    (tmp_path / "1.2").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a"))
    (tmp_path / "a").mkdir()
    import_at_start(_open(exam, tmp_path))
    assert "'../../1.2' is no UID" in caplog.text
    assert exam.given == []
    assert (tmp_path / "1.2").is_dir()


def test_without_the_setting_nothing_is_imported(tmp_path: Path) -> None:
    folder = make_tiny_study(tmp_path / "study", scans=1, finals=0)
    settings = Settings(labels=LabelSchema(TINY_LABELS))
    study = Study(str(folder), StudyDatastore(str(folder)), settings, tmp_path / "models")
    import_at_start(study)
    assert study.final_labels() == []

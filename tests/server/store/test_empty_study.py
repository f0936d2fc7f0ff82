"""What is said of a study that has no scan."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomfiles import Labelled, write_series
from dicomserver import PlayedServer
from lib.core.labels import LabelSchema
from lib.setup.settings import Settings
from server.dicomweb.datastore import DicomWebStudy
from server.store.empty_study import emptiness
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from tiny_study import TINY_LABELS, make_tiny_study, tiny_scan

SETTINGS = Settings(labels=LabelSchema(TINY_LABELS))


@pytest.fixture
def on_server(tmp_path: Path) -> tuple[PlayedServer, Study]:
    """A DICOM server without series, and its study; the server is asked anew at every look."""
    server = PlayedServer()
    store = DicomWebStudy(server, tmp_path / "cache", search={}, age=0.0, labels=SETTINGS.labels, pseudo_labels="last")
    return server, Study(server.address, store, SETTINGS, tmp_path / "models")


def test_a_folder_without_scans_says_what_to_put_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = Study(str(tmp_path / "empty"), StudyDatastore(str(tmp_path / "empty")), SETTINGS, tmp_path / "models")
    assert "There are no scans in the study's folder" in emptiness(empty)
    folder = make_tiny_study(tmp_path / "full", scans=1)
    assert emptiness(Study(str(folder), StudyDatastore(str(folder)), SETTINGS, tmp_path / "models")) == ""


def test_a_dicom_server_that_lists_nothing_is_told_from_one_that_does_not_answer(
    on_server: tuple[PlayedServer, Study], tmp_path: Path
) -> None:
    server, study = on_server
    assert emptiness(study).startswith("The DICOM server lists no series that can be segmented")
    server.away = True
    text = emptiness(study)
    assert text.startswith("The DICOM server cannot be reached, so it is not known which series it has")
    assert "lists no series" not in text
    server.away = False
    study.datastore._due = 0.0  # a silent server is not asked at once again
    assert emptiness(study).startswith("The DICOM server lists no series")
    write_series(tmp_path / "scan", Labelled(*tiny_scan(1)))
    server.put_series(tmp_path / "scan")
    assert emptiness(study) == ""

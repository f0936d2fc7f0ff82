"""Series on a real DICOM server: read rightly and labelled on their own slices, or refused with image and reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

import dicomseries
from dicomseries import KINDS, TILTED, Kind, check_frames, labelled, shown_in
from dicomweb_parts import NAMES, SCHEMA, text
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from orthanc import Orthanc
from server.dicomweb.datastore import DicomWebStudy
from server.dicomweb.server import DicomWebServer
from server.store.folder_store import FINAL
from server_process import Server, detail
from tiny_study import save_nifti

pytestmark = [pytest.mark.clients, pytest.mark.server]

STORED = {name: kind for name, kind in KINDS.items() if not kind.only_files}
ALL = {**STORED, **{name: Kind(make, "lie sideways of each other, from .* to ") for name, make in TILTED.items()}}
READ = [name for name, kind in ALL.items() if not kind.refusal]


@pytest.fixture(scope="module")
def uploaded(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """Every kind of series on one server: its UID, and the folder with its files."""
    folder = tmp_path_factory.mktemp("series")
    found = {}
    for number, (name, kind) in enumerate(ALL.items()):
        images = kind.make()
        dicomseries.save(images, folder / str(number))
        orthanc.upload(folder / str(number))
        found[name] = str(images[0].SeriesInstanceUID), folder / str(number)
    return found


@pytest.fixture(scope="module")
def store(
    orthanc: Orthanc, uploaded: dict[str, tuple[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> DicomWebStudy:
    server = DicomWebServer.at(orthanc.dicomweb)
    cache = tmp_path_factory.mktemp("cache")
    found = DicomWebStudy(server, cache, search={}, age=600.0, labels=SCHEMA, pseudo_labels="never")
    found.serving = True
    return found


@pytest.mark.parametrize("name", READ)
def test_read_and_labelled_on_its_slices(
    name: str, store: DicomWebStudy, orthanc: Orthanc, uploaded: dict[str, tuple[str, Path]], tmp_path: Path
) -> None:
    uid, folder = uploaded[name]
    scan = read_volume(store.get_image_uri(uid))
    assert scan.shape == (dicomseries.COLUMNS, dicomseries.ROWS, ALL[name].slices)
    np.testing.assert_allclose(scan.array, shown_in(scan.shape, scan.affine), atol=0.6)
    if ALL[name].note:
        assert re.search(ALL[name].note, scan.notes[0]), scan.notes
        assert f"Series {uid}" in scan.notes[0]
        assert ".dcm" not in scan.notes[0]
    label = labelled(scan)
    store.save_label(uid, str(save_nifti(tmp_path / "label.nii.gz", label, scan.affine)), FINAL, NAMES)
    (seg,) = orthanc.segs(uid)
    check_frames(seg, folder, atol=1.5)
    Path(store.get_label_uri(uid, FINAL)).unlink()
    np.testing.assert_array_equal(read_label(store.get_label_uri(uid, FINAL), scan, SCHEMA), label)


# Orthanc files the images of two patients as two series, and finds neither by the UID that they share.
@pytest.mark.parametrize("name", [name for name in ALL if name not in READ and name != "two patients"])
def test_refused_with_the_image_and_the_reason(
    name: str, store: DicomWebStudy, orthanc: Orthanc, uploaded: dict[str, tuple[str, Path]]
) -> None:
    uid, _ = uploaded[name]
    for _ in range(2):  # the second time from memory
        said = text(lambda: store.get_image_uri(uid), 422)
        assert re.search(ALL[name].refusal, said), said
        assert f"Series {uid}" in said
        assert not re.search(r"\.dcm|/tmp|http", said)
    assert orthanc.segs(uid) == []


def test_scan_of_an_older_version_is_made_anew(
    store: DicomWebStudy, orthanc: Orthanc, uploaded: dict[str, tuple[str, Path]], tmp_path: Path
) -> None:
    uid, _ = uploaded["a slice is missing"]
    cache = tmp_path / "cache"
    cache.mkdir()
    save_nifti(cache / f"{uid}.nii.gz", np.zeros((4, 4, 4), np.int16), np.eye(4))
    other = DicomWebStudy(
        DicomWebServer.at(orthanc.dicomweb), cache, search={}, age=600.0, labels=SCHEMA, pseudo_labels="never"
    )
    assert "missing" in text(lambda: other.get_image_uri(uid), 422)


def test_enhanced_series_are_propagated_and_stored(
    serve: Callable[..., Server], orthanc: Orthanc, uploaded: dict[str, tuple[str, Path]], tmp_path: Path
) -> None:
    cache = {"MONAI_LABEL_DATASTORE_CACHE_PATH": str(tmp_path / "server")}
    server = serve(orthanc.dicomweb, env=cache, labels=",".join(SCHEMA.names)).start()
    template, _ = uploaded["enhanced CT"]
    uid, folder = uploaded["enhanced MR"]
    seen = tmp_path / "scan.nii.gz"
    seen.write_bytes(server.get("/datastore/image", params={"image": template}).content)
    scan = read_volume(seen)
    info = [{"name": name, "idx": value} for value, name in enumerate(SCHEMA.names, start=1)]
    reply = server.put_label(template, save_nifti(tmp_path / "l.nii.gz", labelled(scan), scan.affine), label_info=info)
    assert reply.ok, reply.text
    assert len(orthanc.segs(template)) > 0
    reply = server.post(f"/infer/propagate?image={uid}&output=dicom_seg")
    assert reply.ok, reply.text
    (tmp_path / "seg.dcm").write_bytes(reply.content)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    places = {f.PlanePositionSequence[0].ImagePositionPatient[2] for f in seg.PerFrameFunctionalGroupsSequence}
    (image,) = map(pydicom.dcmread, folder.iterdir())
    assert places <= {
        f.PlanePositionSequence[0].ImagePositionPatient[2] for f in image.PerFrameFunctionalGroupsSequence
    }

    noted, _ = uploaded["two time points"]
    reply = server.post("/infer/propagate", params={"image": noted, "output": "json"}, data={"params": json.dumps({})})
    assert "the one of 1 was taken" in reply.json()["warnings"][0]
    bad, _ = uploaded["a slice is missing"]
    assert "missing between image 6 at" in detail(server.infer("propagate", bad), 422)

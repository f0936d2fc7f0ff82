"""Structure sets of a planning system on a real DICOM server: imported as final labels, exported for other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicomfiles import Labelled, write_series
from lib.dicom_seg import Origin, Segment, read_seg
from lib.exchange.rtstruct import RtStruct, read_rtstruct, write_rtstruct
from lib.formats.volumes import read_volume
from orthanc import Orthanc
from tiny_study import ROOT, tiny_scan

pytestmark = pytest.mark.clients

SEGMENTS = (Segment(1, "Ball", (255, 0, 0)), Segment(2, "STAB", (0, 255, 0)))


def _run(orthanc: Orthanc, folder: Path, *words: str) -> str:
    app = ROOT / "apps" / "semisam" / "main.py"
    command = [
        sys.executable,
        str(app),
        words[0],
        "--studies",
        f"{orthanc.url}/dicom-web",
        "--conf",
        "labels",
        "ball,rod",
    ]
    environment = {**os.environ, "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")}
    result = subprocess.run(
        [*command, *words[1:]], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    return result.stdout + result.stderr


def test_structure_sets_become_final_and_leave_again(orthanc: Orthanc, tmp_path: Path) -> None:
    array, label, affine = tiny_scan(1)
    uid = write_series(tmp_path / "scan", Labelled(array, label, affine))[1]
    volume = read_volume(tmp_path / "scan")
    origin = Origin("planning", None, person=True)
    (tmp_path / "rt").mkdir()
    rt = write_rtstruct(label, volume.affine, tmp_path / "scan", SEGMENTS, origin)
    rt.save_as(tmp_path / "rt" / "rt.dcm", write_like_original=False)
    for folder in ("scan", "rt"):
        orthanc.upload(tmp_path / folder)
    names = tmp_path / "names.csv"
    names.write_text("name,structure,found in\nSTAB,rod,\n", encoding="utf-8")
    assert "1 label(s) imported" in _run(orthanc, tmp_path, "import", "--from-server", "--names", str(names))
    (seg,) = orthanc.segs(uid)
    np.testing.assert_array_equal(read_seg(seg, volume), label)
    again = _run(orthanc, tmp_path, "import", "--from-server", "--names", str(names))
    assert "0 label(s) imported" in again, "one that is there is left"
    said = _run(orthanc, tmp_path, "export", "--to", str(tmp_path / "out"), "--format", "rtstruct")
    assert "1 scan(s) written" in said
    found = RtStruct.of(pydicom.dcmread(tmp_path / "out" / f"{uid}.dcm"))
    for roi in found.rois:
        np.testing.assert_array_equal(read_rtstruct(found, volume, roi.number), label == roi.number)
    assert [roi.name for roi in found.rois] == ["ball", "rod"]

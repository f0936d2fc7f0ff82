"""X-rays on a DICOM server: a study of 2D images whose labels are DICOM SEG without a place in the patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from orthanc import Orthanc
from picturefiles import PICTURE_LABELS, save_dicom_image, save_picture, tiny_picture
from server_process import Server
from tiny_study import dice

pytestmark = [pytest.mark.clients, pytest.mark.server]


def test_from_one_outline_to_a_trained_network(serve: Callable[..., Server], orthanc: Orthanc, tmp_path: Path) -> None:
    truths, uids = {}, []
    for number in (1, 2, 3):
        pixels, label = tiny_picture(number)
        file = save_dicom_image(tmp_path / f"{number}.dcm", pixels.mean(axis=2).astype(np.uint16), "DX")
        orthanc.put(file.read_bytes())
        uids.append(str(pydicom.dcmread(file).SeriesInstanceUID))
        truths[uids[-1]] = label
    first, *others = uids
    cache = {"MONAI_LABEL_DATASTORE_CACHE_PATH": str(tmp_path / "cache")}
    server = serve(orthanc.dicomweb, env=cache, labels=",".join(PICTURE_LABELS)).start()
    assert set(server.objects()) == set(uids)
    info = [{"name": name, "idx": value} for value, name in enumerate(PICTURE_LABELS, start=1)]
    reply = server.put_label(first, save_picture(tmp_path / "label.png", truths[first]), label_info=info)
    assert reply.ok, reply.text
    assert reply.json()["warnings"] == []
    assert len(orthanc.segs(first)) == 1

    assert server.post("/batch/infer/propagate", params={"images": "unlabeled"}, json={}).ok
    status = server.wait("/batch/infer")
    assert status["status"] == "DONE", status["details"][-3:]
    options = {"preset": "quick", "rounds": 1, "max_epochs": 1, "device": "cpu"}
    assert server.post("/train/semisam", json=options).ok
    status = server.wait("/train/")
    assert status["status"] == "DONE", status["details"][-3:]
    objects = server.objects()
    for uid in others:
        note = objects[uid]["labels"]["original"]["info"]
        if "only_here" in note:  # a network after one epoch may have found nothing
            assert "empty" in note["only_here"]
        else:
            assert note["SOPInstanceUID"] == orthanc.segs(uid)[-1].SOPInstanceUID
    assert server.infer("segment", others[0]).ok
    assert server.infer("review", others[0]).ok

    reply = server.post(f"/infer/propagate?image={others[0]}&output=dicom_seg")
    assert reply.ok, reply.text
    seg = pydicom.dcmread(pydicom.filebase.DicomBytesIO(reply.content))
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == list(PICTURE_LABELS)
    for frame, value in zip(seg.pixel_array, (1, 2), strict=True):
        assert dice(frame, truths[others[0]] == value, 1) > 0.6
    assert server.post("/activelearning/recommended", json={}).json()["id"] in others

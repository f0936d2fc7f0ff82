"""3D Slicer over the wire: every action of its module, against a folder and against a DICOMweb server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dicomfiles import Labelled, write_series
from orthanc import Orthanc
from server_process import Server
from slicer import AUTO, SMART, Slicer
from tiny_study import save_nifti, tiny_scan

pytestmark = [pytest.mark.clients, pytest.mark.server]

# The last two are the same scan: what is learnt from one shows on the other.
PATIENTS = (1, 2, 3, 4, 4)
TINY = {"rounds": 1, "max_epochs": 2, "preset": "quick"}


@dataclass
class Desk:
    """A Slicer and its study; the ids of the scans are in the order of ``PATIENTS``."""

    slicer: Slicer
    server: Server
    ids: list[str]
    orthanc: Orthanc | None

    def truth(self, scan: str) -> dict[str, np.ndarray]:
        """True segments of a scan."""
        _, label, affine = tiny_scan(PATIENTS[self.ids.index(scan)])
        if self.slicer.scan is not None:
            np.testing.assert_allclose(self.slicer.scan.affine, affine, atol=1e-4)
        return {"ball": label == 1, "rod": label == 2}


@pytest.fixture(scope="module", params=["folder", "dicomweb"])
def desk(
    request: pytest.FixtureRequest, serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    ids, env, orthanc = [], {}, None
    if request.param == "folder":
        study = str(folder / "study")
        for number, patient in enumerate(PATIENTS, start=1):
            image, _, affine = tiny_scan(patient)
            save_nifti(folder / "study" / f"case_{number}.nii.gz", image, affine)
            ids.append(f"case_{number}")
    else:
        orthanc = request.getfixturevalue("orthanc")
        study = orthanc.dicomweb
        for number, patient in enumerate(PATIENTS, start=1):
            series = write_series(folder / str(number), Labelled(*tiny_scan(patient)), patient=f"P{number}")[1]
            orthanc.upload(folder / str(number))
            ids.append(series)
        env = {"MONAI_LABEL_DATASTORE_CACHE_PATH": str(folder / "cache"), "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "1"}
    server = serve(study, env=env, labels="ball,rod").start()
    return Desk(Slicer(server.url, folder / "slicer"), server, ids, orthanc)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two masks."""
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def test_fetch_info(desk: Desk) -> None:
    info = desk.slicer.fetch_info()
    assert info["labels"] == ["ball", "rod"]
    assert {"propagate", "segment", "review"} <= set(desk.slicer.models(AUTO))
    assert desk.slicer.models(SMART) == ["prompt"]
    assert list(info["trainers"]) == ["semisam"]
    assert "recommended" in info["strategies"]
    assert info["datastore"]["total"] == len(PATIENTS)
    assert info["datastore"]["completed"] == 0
    assert not desk.slicer.train_enabled


@pytest.mark.parametrize("same_machine", [True, False])
def test_next_sample_loads_the_scan(desk: Desk, same_machine: bool, tmp_path: Path) -> None:
    slicer = Slicer(desk.server.url, tmp_path / "slicer", same_machine=same_machine)
    slicer.fetch_info()
    sample = slicer.next_sample("recommended")
    assert sample["id"] in desk.ids
    assert slicer.scan is not None
    image, _, affine = tiny_scan(PATIENTS[desk.ids.index(sample["id"])])
    np.testing.assert_array_equal(slicer.scan.array, image)
    np.testing.assert_allclose(slicer.scan.affine, affine, atol=1e-4)
    assert slicer.original_label() == {}
    if desk.orthanc is not None:
        assert sample["PatientID"] == f"P{desk.ids.index(sample['id']) + 1}"
        assert sample["SeriesInstanceUID"] == sample["id"]
        assert sample["StudyInstanceUID"] in sample["RetrieveURL"]
        assert sample["RetrieveURL"].startswith(desk.orthanc.dicomweb)


def test_outline_and_submit(desk: Desk) -> None:
    slicer = desk.slicer
    slicer.fetch_info()
    slicer.next_sample("recommended", load=desk.ids[0])
    reply = slicer.submit(list(desk.truth(desk.ids[0]).items()))
    assert reply.ok, reply.text
    assert reply.json()["warnings"] == []
    info = slicer.fetch_info()
    assert info["datastore"]["completed"] == 1
    assert slicer.train_enabled
    assert slicer.next_sample("recommended")["id"] in desk.ids[1:]
    assert slicer.next_sample("random")["id"] in desk.ids[1:]


def test_auto_segmentation(desk: Desk) -> None:
    slicer = desk.slicer
    slicer.next_sample("recommended", load=desk.ids[1])
    segments, said = slicer.auto_segment("propagate")
    assert list(segments) == ["ball", "rod"]
    assert said["templates"] == [desk.ids[0]]
    truth = desk.truth(desk.ids[1])
    assert all(overlap(segments[name], truth[name]) > 0.7 for name in truth)


def test_smart_edit(desk: Desk) -> None:
    slicer = desk.slicer
    slicer.next_sample("recommended", load=desk.ids[1])
    ball = desk.truth(desk.ids[1])["ball"]
    centre = np.argwhere(ball).mean(axis=0).round().astype(int).tolist()
    segments, _ = slicer.smart_edit("prompt", "ball", [centre], [[2, 2, 2]])
    assert list(segments) == ["ball"]
    assert overlap(segments["ball"], ball) > 0.7
    (added,) = slicer.smart_edit("prompt", "a segment of my own", [centre])[0].items()
    assert added[0] == "a segment of my own"
    assert overlap(added[1], ball) > 0.7


def test_train_progress_and_pseudo_labels(desk: Desk) -> None:
    slicer = desk.slicer
    slicer.fetch_info()
    assert slicer.train("semisam", **TINY).ok
    assert slicer.train("semisam", **TINY).status_code in (409, 429)
    seen, status = slicer.watch()
    assert status["status"] == "DONE", status["details"][-3:]
    percents = [percent for percent, _ in seen]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert all(0 <= accuracy <= 100 for _, accuracy in seen)

    sample = slicer.next_sample("recommended")
    truth = desk.truth(sample["id"])
    segments = slicer.original_label()
    assert list(segments) == ["ball", "rod"]
    assert all(mask.shape == truth[name].shape for name, mask in segments.items())
    shown, _ = slicer.auto_segment("review")
    for name in truth:
        np.testing.assert_array_equal(shown[name], segments[name])
    assert list(slicer.auto_segment("segment")[0]) == ["ball", "rod"]
    # Progress and pseudo-labels are no outlines.
    assert slicer.fetch_info()["datastore"]["completed"] == 1


Change = Callable[[dict[str, np.ndarray]], list[tuple[str, np.ndarray]]]


def drawn(shape: tuple[int, ...]) -> np.ndarray:
    """A cube in a corner."""
    mask = np.zeros(shape, bool)
    mask[1:4, 1:4, 1:4] = True
    return mask


@pytest.mark.parametrize(
    ("change", "structures"),
    [
        (lambda t: [("ball", t["ball"]), ("rod", t["rod"])], ["ball", "rod"]),
        (lambda t: [("rod", t["rod"]), ("ball", t["ball"])], ["ball", "rod"]),
        (lambda t: [(" Ball", t["ball"]), ("ROD", t["rod"])], ["ball", "rod"]),
        (lambda t: [("rod", t["rod"])], ["rod"]),
        (lambda t: [("ball", t["ball"])], ["ball"]),
        (lambda t: [("ball", t["ball"] & False), ("rod", t["rod"])], ["rod"]),
        (lambda t: [("rod", t["rod"]), ("ball", t["ball"] & False)], ["rod"]),
        (
            lambda t: [
                ("background", drawn(t["rod"].shape)),
                ("rod", t["rod"]),
                ("foreground_scribbles", drawn(t["rod"].shape)),
                ("ball", t["ball"]),
            ],
            ["ball", "rod"],
        ),
    ],
    ids=[
        "as given",
        "reordered",
        "other case",
        "first deleted",
        "last deleted",
        "first empty",
        "last empty",
        "scribbles",
    ],
)
def test_segments_end_in_the_right_values(desk: Desk, change: Change, structures: list[str]) -> None:
    slicer, outlined, twin = desk.slicer, desk.ids[3], desk.ids[4]
    slicer.fetch_info()
    slicer.next_sample("recommended", load=outlined)
    truth = desk.truth(outlined)
    reply = slicer.submit(change(truth))
    assert reply.ok, reply.text
    assert reply.json()["warnings"] == []

    slicer.next_sample("recommended", load=twin)
    slicer.info["models"]["propagate"]["config"]["max_templates"] = 1
    segments, said = slicer.auto_segment("propagate")
    assert said["templates"] == [outlined]
    for name in ("ball", "rod"):
        if name in structures:
            assert overlap(segments[name], truth[name]) > 0.95
        else:
            assert not segments[name].any()

    if desk.orthanc is not None:
        seg = desk.orthanc.segs(outlined)[-1]
        names = [each.SegmentLabel.strip().lower() for each in seg.SegmentSequence]
        assert sorted(names) == sorted(structures)
        counts = dict.fromkeys(names, 0)
        for frame, groups in zip(np.atleast_3d(seg.pixel_array), seg.PerFrameFunctionalGroupsSequence, strict=True):
            counts[names[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]] += int(frame.sum())
        assert counts == {name: int(truth[name].sum()) for name in names}


@pytest.mark.parametrize(
    "names",
    [("Kugel", "rod"), ("ball", "rod", "cyst"), ("Segment_1", "Segment_2")],
    ids=["renamed", "added", "unnamed"],
)
def test_unknown_names_are_kept_and_told(desk: Desk, names: tuple[str, ...]) -> None:
    slicer, scan = desk.slicer, desk.ids[3]
    slicer.fetch_info()
    slicer.next_sample("recommended", load=scan)
    truth = desk.truth(scan)
    masks = [truth["ball"], truth["rod"], drawn(truth["rod"].shape)]
    reply = slicer.submit(list(zip(names, masks, strict=False)))
    assert reply.ok, reply.text
    (warning,) = reply.json()["warnings"]
    assert any(name in warning for name in names)
    assert "Rename them in the viewer" in warning
    # It is a person's work all the same: stored whole, and the scan is not offered again.
    reply = desk.server.get("/datastore/label", params={"label": scan, "tag": "final"})
    assert reply.ok
    assert slicer.next_sample("recommended").get("id") not in (scan, desk.ids[0])
    slicer.next_sample("recommended", load=desk.ids[4])
    assert slicer.auto_segment("propagate")[1]["templates"] == [desk.ids[0]]
    if desk.orthanc is not None:
        assert [each.SegmentLabel for each in desk.orthanc.segs(scan)[-1].SegmentSequence] == list(names)


def test_all_outlined(desk: Desk) -> None:
    slicer = desk.slicer
    slicer.fetch_info()
    for scan in desk.ids:
        slicer.next_sample("recommended", load=scan)
        assert slicer.submit(list(desk.truth(scan).items())).ok
    assert slicer.next_sample("recommended") == {}
    assert slicer.fetch_info()["datastore"]["completed"] == len(PATIENTS)

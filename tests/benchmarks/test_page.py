"""The page that `make bench` writes: complete, on what machine, nothing private, and never replaced by less."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from tiny_study import ROOT, dice

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench
import common
import machine
import methods
import one_outline
import page
import propagation
from common import DataSet, Store, Targets
from one_outline import Trained
from page import Part

SCORES = {"dice": 0.8, "jaccard": 0.67, "hd95_mm": 3.0, "assd_mm": 1.0}
LEAST = {"la scans": 2, "hippocampus scans": 2}


def part(name: str, scans: int) -> Part:
    table = common.table(["method", "Dice", "peak MiB"], [["registration", 0.8, "900"]])
    return Part(f"Carried over: {name}", {"scans": scans}, [table], amounts={f"{name} scans": scans})


def write(folder: Path, parts: list[Part], *, force: bool = False) -> bool:
    text = page.render(parts, {"processor": "made up, 2 cores"}, [("faster", True), ("better", False)], "2026-01-31")
    return page.write(folder / "page.md", folder / "draft" / "page.md", text, parts, LEAST, force=force)


def test_a_whole_run_becomes_the_page(tmp_path: Path) -> None:
    assert write(tmp_path, [part("la", 2), part("hippocampus", 2)])
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "2026-01-31" in text
    assert re.search(r"processor +\| +made up, 2 cores", text)
    assert re.search(r"registration +\| +0.8000 +\| +900", text)
    assert re.search(r"better +\| +\*\*no\*\*", text)
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize(
    "parts", [[part("la", 2)], [part("la", 2), part("hippocampus", 1)]], ids=["a part is missing", "fewer scans"]
)
def test_less_than_a_page_goes_elsewhere_and_says_why(
    parts: list[Part], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not write(tmp_path, parts)
    assert not (tmp_path / "page.md").exists()
    assert "registration" in (tmp_path / "draft" / "page.md").read_text(encoding="utf-8")
    assert re.search(r"hippocampus scans: [01] of 2", capsys.readouterr().out)


def test_a_page_of_more_scans_stays_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write(tmp_path, [part("la", 79), part("hippocampus", 2)])
    before = (tmp_path / "page.md").read_bytes()
    fewer = [part("la", 2), part("hippocampus", 2)]
    assert not write(tmp_path, fewer)
    assert (tmp_path / "page.md").read_bytes() == before
    assert "la scans: 2 of 79" in capsys.readouterr().out
    assert write(tmp_path, fewer, force=True)
    assert (tmp_path / "page.md").read_bytes() != before


def test_the_machine_is_described_without_its_name() -> None:
    found = machine.describe()
    assert re.fullmatch(r".+, \d+ cores", found["processor"])
    assert found["memory"].endswith("GiB")
    assert found["torch"][0].isdigit()
    assert set(machine.PACKAGES) <= set(found)
    text = " ".join(found.values())
    assert socket.gethostname() not in text
    assert "/" not in found["system"]
    assert str(Path.home()) not in text


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two data sets by name, and methods and trainings that answer at once."""
    for name in common.STRUCTURES:
        folder = tmp_path / "data" / name
        (folder / "images").mkdir(parents=True)
        split = {"train": [f"{name}_0", f"{name}_1"], "val": [f"{name}_2"]}
        (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")
    monkeypatch.setenv("SEMISAM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(bench, "DRAFT", tmp_path / "results" / "draft.md")
    monkeypatch.setattr(bench, "LEAST", {"la scans": 2, "hippocampus scans": 2, "hippocampus nnU-Net steps": 250})
    monkeypatch.setattr(methods, "package", lambda name: "1.0")
    monkeypatch.setattr(propagation, "compare", compared)
    monkeypatch.setattr(one_outline, "specialist", lambda data, options: [trained("before", 0.7), trained("ours", 0.8)])
    monkeypatch.setattr(one_outline, "nnunet", lambda data, options: [trained("nnU-Net", 0.5)])
    return tmp_path


def result(data: DataSet, value: float, seconds: float) -> dict[str, Any]:
    labels = [{**SCORES, "dice": value} for _ in data.labels]
    return {"seconds": seconds, "peak_mib": 900.0, "run": "now", "labels": labels}


def compared(data: DataSet, scans: list[str], names: list[str], **_: object) -> dict[str, dict[str, Any]]:
    speed = {"registration": 1.0, "itk-elastix": 2.0}
    return {name: {scan: result(data, 0.8, speed.get(name, 1.5)) for scan in scans} for name in names}


def trained(name: str, value: float) -> Trained:
    data = DataSet("hippocampus", Path(), ("anterior", "posterior"))
    return Trained(name, 39, 250, 4.5, 1000.0, [result(data, value, 0.1)])


def test_one_command_measures_all_parts_and_states_targets(made_up: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = made_up / "docs" / "measured.md"
    assert bench.main(["--page", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    for name in (*bench.METHODS, "ours", "nnU-Net", "left atrium", "hippocampus", "Machine", "Targets"):
        assert name in text
    for private in (str(made_up), os.sep + "results", socket.gethostname(), str(Path.home())):
        assert private not in text
    assert re.search(r"at least 3 times as fast as itk-elastix: 1.00 s against 2.00 s, 2.0 times +\| +\*\*no\*\*", text)
    assert re.search(r"as fast as convexadam: 1.00 s against 1.50 s, 1.5 times +\| +yes", text)
    capsys.readouterr()
    assert bench.main(["--page", str(file), "--check"]) == 1, "three times as fast as elastix is missed"
    assert "MISSED " in capsys.readouterr().out


def test_a_data_set_that_is_not_there_leaves_the_rest(made_up: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made_up / "data" / "la" / "split.json").unlink()
    file = made_up / "docs" / "measured.md"
    assert bench.main(["--page", str(file)]) == 0
    assert not file.exists()
    draft = (made_up / "results" / "draft.md").read_text(encoding="utf-8")
    assert "carried over: left atrium" not in draft
    assert "carried over: hippocampus" in draft
    output = capsys.readouterr().out
    assert "Skipped: the la scans are not there" in output
    assert "la scans: 0 of 2" in output
    assert "nnU-Net" in draft


def test_a_training_that_fails_leaves_the_rest(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(data: DataSet, options: object) -> list[Trained]:
        raise SystemExit("The training of nnU-Net failed.")

    monkeypatch.setattr(one_outline, "nnunet", fails)
    file = made_up / "docs" / "measured.md"
    assert bench.main(["--page", str(file)]) == 1
    assert not file.exists()
    assert "ours" in (made_up / "results" / "draft.md").read_text(encoding="utf-8")


def test_a_peer_that_is_not_installed_is_left_out(
    made_up: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(methods, "package", lambda name: None if name == "ants-syn" else "1.0")
    file = made_up / "docs" / "measured.md"
    assert bench.main(["--page", str(file), "--parts", "la"]) == 0
    assert not file.exists()
    assert "Skipped: ants-syn: not installed" in capsys.readouterr().out


def test_the_targets_of_the_older_benchmarks_hold() -> None:
    data = DataSet("la", Path(), ("left_atrium",))
    found = compared(data, ["a", "b"], ["registration", "itk-elastix", "convexadam"])
    targets = Targets()
    propagation.check_peers(found, targets)
    assert targets.exit_code(check=True) == 0
    assert sum("as fast as" in text for text, _ in targets.stated) == 1


@pytest.mark.skipif(methods.package("ants-syn") is None, reason="ANTs is not installed: make install-bench")
@pytest.mark.slow
def test_ants_carries_an_outline_over(tmp_path: Path) -> None:
    from tiny_study import save_nifti, tiny_scan

    files = []
    for number in (1, 2):
        image, label, affine = tiny_scan(number)
        files.append(
            (
                save_nifti(tmp_path / f"image_{number}.nii.gz", image, affine),
                save_nifti(tmp_path / f"label_{number}.nii.gz", label, affine),
            )
        )
    method = methods.create("ants-syn", *files[0], ["ball", "rod"], None)
    found = method.label(method.prepare(files[1][0]))
    truth = np.asarray(nibabel.load(files[1][1]).dataobj)
    assert found.shape == truth.shape
    assert found.dtype == np.uint8
    assert all(dice(found, truth, value) > 0.7 for value in (1, 2))


def test_results_survive_an_interruption(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.json")
    store.data["val"] = {"a": 1}
    store.save()
    assert Store(tmp_path / "results.json").data == {"val": {"a": 1}}
    assert Store(tmp_path / "results.json", fresh=True).data == {}

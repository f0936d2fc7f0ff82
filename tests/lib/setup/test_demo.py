"""The demo study: whole, reproducible, and with exactly one label."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.core.errors import UserError
from lib.setup import demo
from lib.setup.demo import DEMO_LABELS, make_demo_study, make_phantom
from tiny_study import ROOT


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("demo")
    names = make_demo_study(base / "study", scans=3, truth_folder=base / "truth")
    assert names == list(DEMO_LABELS)
    return base / "study", base / "truth"


def test_files(study: tuple[Path, Path]) -> None:
    folder, truth = study
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == ["demo_01.nii.gz", "demo_02.nii.gz", "demo_03.nii.gz", "labels/final/demo_01.nii.gz"]
    assert sorted(p.name for p in truth.iterdir()) == ["demo_01.nii.gz", "demo_02.nii.gz", "demo_03.nii.gz"]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["study", "truth"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_labels_are_contiguous_and_on_the_scans_grid(study: tuple[Path, Path]) -> None:
    folder, truth = study
    for path in truth.iterdir():
        label, scan = nibabel.load(path), nibabel.load(folder / path.name)
        values, counts = np.unique(np.asarray(label.dataobj), return_counts=True)
        assert values.tolist() == list(range(len(DEMO_LABELS) + 1))
        assert counts.min() > 200
        assert label.shape == scan.shape
        np.testing.assert_array_equal(label.affine, scan.affine)
    final = folder / "labels" / "final" / "demo_01.nii.gz"
    assert final.read_bytes() == (truth / "demo_01.nii.gz").read_bytes()


def test_scans_differ_in_size_spacing_and_intensity(study: tuple[Path, Path]) -> None:
    scans = [nibabel.load(p) for p in sorted(study[0].glob("*.nii.gz"))]
    assert len({s.shape for s in scans}) > 1
    assert len({s.header.get_zooms() for s in scans}) > 1
    means = [float(np.asarray(s.dataobj).mean()) for s in scans]
    assert max(means) - min(means) > 50


def test_left_is_left() -> None:
    _, label, affine = make_phantom(4)
    centre = {
        name: affine[:3, :3] @ np.argwhere(label == value).mean(axis=0) + affine[:3, 3]
        for value, name in enumerate(DEMO_LABELS, start=1)
    }
    assert centre["left_kidney"][0] < centre["aorta"][0] < centre["right_kidney"][0]
    assert centre["spleen"][0] < centre["liver"][0]
    assert centre["left_kidney"][2] < centre["spleen"][2]


@pytest.mark.slow
def test_same_seed_same_files(study: tuple[Path, Path], tmp_path: Path) -> None:
    make_demo_study(tmp_path / "again", scans=2)
    make_demo_study(tmp_path / "other", scans=1, seed=1)
    first = (study[0] / "demo_01.nii.gz").read_bytes()
    assert first == (tmp_path / "again" / "demo_01.nii.gz").read_bytes()
    assert first != (tmp_path / "other" / "demo_01.nii.gz").read_bytes()
    assert (study[0] / "demo_02.nii.gz").read_bytes() == (tmp_path / "again" / "demo_02.nii.gz").read_bytes()


def test_a_broken_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_at_the_second(index: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if index == 1:
            raise OSError(28, "No space left on device")
        return make_phantom(index, seed=seed)

    monkeypatch.setattr(demo, "make_phantom", fails_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        make_demo_study(tmp_path / "study", truth_folder=tmp_path / "truth")
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.nii.gz").write_bytes(b"patient")
    with pytest.raises(UserError, match="not empty"):
        make_demo_study(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.nii.gz"]
    with pytest.raises(UserError, match="at least one"):
        make_demo_study(tmp_path / "new", scans=0)


def test_makefile_names_the_same_labels() -> None:
    named = re.search(r"^DEMO_LABELS\s*:=\s*(\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert named
    assert named[1].split(",") == list(DEMO_LABELS)

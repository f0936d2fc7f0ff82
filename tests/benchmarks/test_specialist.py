"""The benchmark of specialists with every scan outlined: what it changes, and which scans it holds out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lib.specialists import SpecialistSpec
from lib.training.loop import TrainingPlan
from tiny_study import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from bench_specialist import changes, split
from studies import STUDIES

SPEC = SpecialistSpec(("one",), (4, 8), (1.0, 1.0, 1.0), (16, 16, 16))


def test_a_change_has_the_type_of_what_it_changes() -> None:
    texts = ["spec.network=vnet", "spec.roi_size=24,32,40", "plan.rate=0.002", "plan.batch=4", "spec.dropout=0"]
    assert changes(texts, "spec", SPEC) == {"network": "vnet", "roi_size": (24, 32, 40), "dropout": 0.0}
    assert changes(["spec.volume_weights=1,2"], "spec", SPEC) == {"volume_weights": (1, 2)}
    assert changes(texts, "plan", TrainingPlan(1, 1)) == {"rate": 0.002, "batch": 4}
    assert changes(texts, "augmentation", TrainingPlan(1, 1).augmentation) == {}


@pytest.mark.parametrize("text", ["rate=1", "plan.rate", "network.rate=1"])
def test_a_change_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(SystemExit, match=r"is not PART\.FIELD=VALUE"):
        changes([text], "plan", TrainingPlan(1, 1))


def test_what_is_held_out_is_never_what_is_chosen_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMISAM_DATA", str(tmp_path))
    for folder, names in (
        ("hippocampus", [f"h{n}" for n in range(12)]),
        ("mscmr", [f"image_{n}" for n in range(1, 13)]),
    ):
        (tmp_path / folder / "images").mkdir(parents=True)
        for name in names:
            (tmp_path / folder / "images" / f"{name}.nii.gz").touch()
    given = {"train": [f"h{n}" for n in range(9)], "val": ["h9", "h10", "h11"]}
    (tmp_path / "hippocampus" / "split.json").write_text(json.dumps(given))
    assert split(STUDIES["hippocampus"], choose=False) == (given["train"], given["val"])
    for study in (STUDIES["hippocampus"], STUDIES["mscmr"]):
        fitted, held = split(study, choose=False)
        assert study.names()[0] == fitted[0]
        assert {*fitted} | {*held} == {*study.names()}
        few, chosen_by = split(study, choose=True)
        assert few + chosen_by == fitted
        assert chosen_by

"""Batch infer: a scan that fails does not take the others with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException

from adapters.batch import BatchInfer
from adapters.store import StudyDatastore
from conftest import make_tiny_study
from lib.errors import UserError


class Task:
    """Answers for every scan but those it has an error for; counts what it was asked."""

    def __init__(self, folder: Path, errors: dict[str, int]) -> None:
        self.folder, self.errors = folder, errors
        self.asked: list[str] = []

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any]:
        name = request["image"]
        self.asked.append(name)
        if name in self.errors:
            raise HTTPException(self.errors[name], f"{name} does not work.")
        file = self.folder / f"result-{name}"
        file.touch()
        return {"label": name, "file": str(file), "params": {}}


@pytest.fixture
def store(tmp_path: Path) -> StudyDatastore:
    return StudyDatastore(str(make_tiny_study(tmp_path / "study", scans=4)))


def test_the_only_outlined_scan_does_not_stop_the_batch(store: StudyDatastore, tmp_path: Path) -> None:
    task = Task(tmp_path, {"case_1": 409})
    results = BatchInfer()({"model": "propagate", "images": "all"}, store, task)
    assert task.asked == ["case_1", "case_2", "case_3", "case_4"]
    assert [name for name, result in results.items() if "error" in result] == ["case_1"]
    assert list(tmp_path.glob("result-*")) == []


@pytest.mark.parametrize("status", [409, 507])
def test_what_hits_all_scans_stops_it(store: StudyDatastore, tmp_path: Path, status: int) -> None:
    task = Task(tmp_path, {"case_2": status})
    with pytest.raises(UserError, match="case_2 does not work"):
        BatchInfer()({"model": "segment", "images": "unlabeled"}, store, task)
    assert task.asked == ["case_2"]

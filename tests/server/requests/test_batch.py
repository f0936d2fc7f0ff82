"""Batch infer: a scan that fails does not take the others with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException

from lib.core.errors import UserError
from server.requests.batch import BatchInfer
from server.store.folder_store import StudyDatastore
from tiny_study import make_tiny_study


class Task:
    """Answers for every scan but those it has an error for, a status; counts what it was asked."""

    def __init__(self, folder: Path, errors: dict[str, int], text: str = "{name} does not work.") -> None:
        self.folder, self.errors, self.text = folder, errors, text
        self.asked: list[str] = []

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any]:
        name = request["image"]
        self.asked.append(name)
        if name in self.errors:
            raise HTTPException(self.errors[name], self.text.format(name=name))
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


def test_damaged_scans_are_passed_over(store: StudyDatastore, tmp_path: Path) -> None:
    task = Task(tmp_path, {"case_1": 422, "case_2": 422, "case_3": 422})
    results = BatchInfer()({"model": "propagate", "images": "all"}, store, task)
    assert task.asked == ["case_1", "case_2", "case_3", "case_4"]
    assert results["case_4"]["label"] == "case_4"


@pytest.mark.parametrize("status", [400, 422])
def test_the_same_refusal_twice_stops_it(store: StudyDatastore, tmp_path: Path, status: int) -> None:
    """A file of weights that does not fit is no scan's fault: it would be read anew for each of them."""
    task = Task(tmp_path, dict.fromkeys(("case_2", "case_3", "case_4"), status), "The weights do not fit.")
    results = BatchInfer()({"model": "propagate", "images": "all"}, store, task)
    assert task.asked == ["case_1", "case_2", "case_3"]
    assert [name for name, result in results.items() if "error" in result] == ["case_2", "case_3"]
    task = Task(tmp_path, dict.fromkeys(("case_2", "case_3"), 500), "unexpected error, MemoryError: ")
    BatchInfer()({"model": "propagate", "images": "all"}, store, task)
    assert task.asked == ["case_1", "case_2", "case_3", "case_4"]

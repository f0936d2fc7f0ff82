"""Trainings of a study in processes of their own, which are killed: at a moment in time, or at the n-th file."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import nibabel
import torch

from infers import Segment
from lib.core.labels import LabelSchema
from lib.recipes import PRESETS
from lib.recipes.engine.options import Preset
from lib.setup.settings import Settings
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from tiny_study import TINY_LABELS
from trainers import SemiSamTrainer

PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "apps" / "semisam")]


def open_study(folder: Path, models: Path) -> Study:
    """As the app opens it."""
    settings = Settings(labels=LabelSchema(TINY_LABELS), spacing=(6.0, 6.0, 6.0), roi_size=(16, 16, 16))
    return Study(str(folder), StudyDatastore(str(folder)), settings, models)


def train(place: Path, request: dict[str, Any], fatal: int | None) -> None:
    """A training job in the study ``place/study``; at its ``fatal``-th finished file it is killed, odd ones before."""
    torch.set_num_threads(1)
    PRESETS["quick"] = Preset(2, 2, 5, 2, (4, 8, 8), 120_000, 14_000)  # type: ignore[index]
    logging.basicConfig(filename=place / "log.txt", level=logging.INFO, format="%(message)s", force=True)
    if fatal is not None:
        count = 0
        replace = os.replace

        def counted(source: Any, target: Any, **more: Any) -> None:
            nonlocal count
            count += 1
            if count == fatal and fatal % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target, **more)
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = counted  # type: ignore[assignment]
    study = open_study(place / "study", place / "models")
    SemiSamTrainer(study)(request, study.datastore)


@dataclass
class Place:
    """A study that is trained on and asked meanwhile.

    Args:
        folder: holds ``study`` and ``models``.
        request: of all trainings.
    """

    folder: Path
    request: dict[str, Any]
    asked: int = 0
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])
        self._jobs = multiprocessing.get_context("forkserver")
        self._jobs.set_forkserver_preload(["killed_jobs"])
        self.study = open_study(self.folder / "study", self.folder / "models")
        self.finals = self.hashes()

    def start(self, fatal: int | None = None) -> ForkServerProcess:
        """Start a training."""
        process = self._jobs.Process(target=train, args=(self.folder, self.request, fatal))
        process.start()
        return process

    def killed(self, seconds: float | None = None, fatal: int | None = None) -> bool:
        """Train and kill the job after so many seconds, or at a file; False when it has ended well before that."""
        (self.folder / "log.txt").write_text("", encoding="utf-8")
        process = self.start(fatal)
        process.join(seconds)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), self.log()
        return process.exitcode != 0

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8")

    def message(self) -> str:
        """What viewers show of the training."""
        text: str = json.loads((self.study.folder / "train_stats.json").read_text(encoding="utf-8"))["message"]
        return text

    def runs(self) -> list[Path]:
        return sorted((self.study.folder / "runs").glob("run-*"))

    def finished_round(self) -> int | None:
        """The last finished round of the run that goes on next, None without one."""
        runs = self.runs()
        state = json.loads((runs[-1] / "state.json").read_text()) if runs else {"finished": True}
        rounds = [] if state["finished"] else [int(p.name) for p in (runs[-1] / "rounds").glob("[0-9]*")]
        return max(rounds, default=None)

    def hashes(self) -> dict[str, str]:
        """Of all final labels."""
        files = sorted((self.folder / "study" / "labels" / "final").iterdir())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def check(self) -> None:
        """Finals are as they were, the list is whole, and every label in it can be read."""
        assert self.hashes() == self.finals
        store = StudyDatastore(str(self.folder / "study"))  # as a new server reads it
        scans = sorted(path.name.removesuffix(".nii.gz") for path in (self.folder / "study").glob("case_*.nii.gz"))
        assert sorted(store.list_images()) == scans
        for name in scans:
            for tag in ("final", "original"):
                if store.get_label_by_image_id(name, tag):
                    label = nibabel.load(store.get_label_uri(name, tag))
                    assert label.shape == nibabel.load(store.get_image_uri(name)).shape
                    assert label.get_fdata().max() <= len(TINY_LABELS)
                    if tag == "original":
                        assert store.get_label_info(name, tag)["params"]["label_names"] == {"ball": 1, "rod": 2}
        assert sorted(store.get_labeled_images()) == [name.removesuffix(".nii.gz") for name in self.finals]

    def results(self) -> dict[str, str]:
        """The specialist in service by its numbers, and the pseudo-labels by their content."""
        content = torch.load(self.study.published, weights_only=True)
        digest = hashlib.sha256()
        for member in content["members"]:
            for name in sorted(member):
                digest.update(member[name].numpy().tobytes())
        found = {"specialist": digest.hexdigest()}
        for path in sorted((self.folder / "study" / "labels" / "original").glob("*.nii.gz")):
            found[path.name] = hashlib.sha256(nibabel.load(path).get_fdata().tobytes()).hexdigest()
        return found

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask ``segment`` again and again meanwhile; what goes wrong is among the ``faults``."""
        end = threading.Event()
        task = Segment(self.study)
        image = str(self.folder / "study" / "case_2.nii.gz")

        def ask() -> None:
            while not end.wait(0.5):
                try:
                    file, _ = task({"image": image, "image_id": "case_2", "device": "cpu"})
                    assert file is not None
                    assert nibabel.load(file).shape == nibabel.load(image).shape
                    Path(file).unlink()
                    self.asked += 1
                except Exception as error:
                    self.faults.append(f"{time.time():.1f} {type(error).__name__}: {error}")

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

"""What a training leaves for the server: statistics, the published specialist, and the round's pseudo-labels."""

from __future__ import annotations

import json
import logging
import shutil
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from adapters.answers import text_of
from adapters.reports import address
from adapters.scores import Scores
from adapters.store import FINAL, ORIGINAL, StudyDatastore
from adapters.study import Study
from lib.recipes import FinishedRound, Progress, PseudoLabel, RecipeOptions, RunResult
from lib.volumes import write_whole

logger = logging.getLogger("semisam.train")

_FILE_SECONDS = 1.0
_AT_ONCE = 25
_TIME = "%Y-%m-%d %H:%M:%S"


class TrainingObserver:
    """Listens to a run, see ``lib.recipes.Observer``.

    Args:
        study: the study that is trained on.
        options: what the user chose.
    """

    def __init__(self, study: Study, options: RecipeOptions) -> None:
        self._study = study
        # Without --conf labels the structures, and with them the study's folder, may change while the run goes on.
        self._folder = study.folder
        self._published = study.published
        self._begun = time.monotonic()
        self._stage = ""
        self._file_at = -1e9
        self._stats: dict[str, Any] = {
            "epoch": 0,
            # Until the first report: Slicer divides by it for its progress bar.
            "total_epochs": 1,
            "best_metric": 0.0,
            "start_ts": datetime.now().strftime(_TIME),
            "current_time": "0:00:00",
            "train": {},
            "eval": {},
            "round": 0,
            "rounds": 0,
            "stage": "starting",
            "seconds_left": 0.0,
            "recipe": options.recipe,
            "preset": options.preset,
            "seed": options.seed,
            "device": options.device,
            "message": "",
            "report": "",
        }
        self._write()

    def progress(self, progress: Progress) -> None:
        """Called at least every few seconds; the recipe itself writes the lines of the log."""
        now = time.monotonic()
        changed = f"{progress.stage} {progress.round}" != self._stage
        self._stage = f"{progress.stage} {progress.round}"
        self._stats.update(
            epoch=progress.epoch,
            total_epochs=progress.total_epochs,
            best_metric=float(progress.best_metric),
            current_time=_clock(now - self._begun),
            train={"metrics": {k: float(v) for k, v in progress.metrics.items()}},
            eval={"metrics": {"agreement": float(progress.best_metric)}},
            round=progress.round,
            rounds=progress.rounds,
            stage=progress.stage,
            seconds_left=round(float(progress.seconds_left), 1),
        )
        if changed or now - self._file_at >= _FILE_SECONDS:
            self._file_at = now
            self._write()

    def round_finished(self, finished: FinishedRound) -> None:
        """Put the round into service: first the specialist, then the labels."""
        store = self._study.datastore
        if finished.checkpoint is not None:
            checkpoint = finished.checkpoint
            write_whole(self._published, lambda name: shutil.copyfile(checkpoint, name))
            logger.info("Round %d: the specialist is in service", finished.index)
        saved: dict[str, float] = {}
        labels: dict[str, tuple[str, dict[str, Any]]] = {}
        for name, label in finished.pseudo_labels.items():
            if store.get_label_by_image_id(name, FINAL):
                continue  # outlined by a person meanwhile
            if str(label.path) == "" or name not in store.list_images():
                continue
            if finished.checkpoint is None and self._has_better(name, label):
                continue
            labels[name] = (str(label.path), {"model": "semisam", "params": dict(label.params)})
            if finished.checkpoint is not None and isinstance(label.params.get("uncertainty"), (int, float)):
                saved[name] = float(label.params["uncertainty"])  # type: ignore[arg-type]
        self._store(labels)
        if self._study.folder == self._folder:
            Scores(self._study).put(saved)
        logger.info("Round %d: %d pseudo-labels are stored as 'original'", finished.index, len(labels))

    def _store(self, labels: dict[str, tuple[str, dict[str, Any]]]) -> None:
        """Store labels, a few at a time: each change of the list makes the server read it anew, and blocks writers."""
        store = self._study.datastore
        if not isinstance(store, StudyDatastore):
            for name, (file, info) in labels.items():
                store.save_label(name, file, ORIGINAL, info)
            return
        names = list(labels)
        for start in range(0, len(names), _AT_ONCE):
            known = set(store.list_images())  # somebody may have taken a scan out meanwhile
            store.save_labels(
                ORIGINAL, {n: labels[n] for n in names[start : start + _AT_ONCE] if n in known}, interim=True
            )

    def _has_better(self, name: str, label: PseudoLabel) -> bool:
        """Whether a specialist of an earlier training has labelled the scan, which goes before a propagation."""
        before = self._study.datastore.get_label_info(name, ORIGINAL).get("params") or {}
        same = before.get("label_names") == label.params.get("label_names")
        return bool(same and before.get("source") == "specialist")

    def finished(self, result: RunResult) -> None:
        """The run has ended well: its last labels will stay."""
        store = self._study.datastore
        if isinstance(store, StudyDatastore):
            store.publish(result.pseudo_labels)
        took = _clock(time.monotonic() - self._begun)
        text = f"Trained {result.rounds} rounds in {took}; {len(result.pseudo_labels)} pseudo-labels to review."
        if result.skipped:
            left_out = "; ".join(f"{name}: {reason}" for name, reason in result.skipped.items())
            text += f" {len(result.skipped)} scans were left out: {left_out}"
        page = "" if result.report is None else address(result.report)
        if page:
            text += f" Report: {page} on this server."
        self._stats.update(
            stage="done",
            report=page,
            epoch=self._stats["total_epochs"],
            best_metric=float(result.best_metric),
            current_time=took,
            total_time=took,
            seconds_left=0.0,
            message=text,
        )
        self._write()
        logger.info("%s", text)

    def failed(self, error: Exception) -> None:
        """The run has ended early; what is on disk stays."""
        self._stats.update(stage="failed", seconds_left=0.0, message=text_of(error))
        try:
            self._write()
        except Exception as also:
            logger.warning("The statistics could not be written: %s", also)

    def _write(self) -> None:
        content = json.dumps(self._stats, indent=2)
        write_whole(self._folder / "train_stats.json", lambda name: Path(name).write_text(content, encoding="utf-8"))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(max(0.0, seconds))))

"""What a training leaves for the server: statistics, the published specialist, and the round's pseudo-labels."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.recipes import FinishedRound, Progress, PseudoLabel, RecipeOptions, RunResult
from lib.specialists import put_in_service
from server.errors import text_of
from server.scores.scores import Scores
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study
from server.web.reports import address

logger = logging.getLogger("semisam.train")

_FILE_SECONDS = 1.0
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
        self._names = study.schema.names
        # What is found out about a scan must not be stored for another one that takes its place meanwhile.
        self._stamps = {name: study.scan_stamp(name) for name in study.datastore.list_images()}
        self._left_out: dict[str, str] = {}
        self._refused = ""
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
            message=progress.note,
        )
        if changed or now - self._file_at >= _FILE_SECONDS:
            self._file_at = now
            self._write()

    def round_finished(self, finished: FinishedRound) -> None:
        """Put the round into service: first the specialist, then the labels. One that does not answer is not."""
        store = self._study.datastore
        if finished.checkpoint is not None and not self._publish(finished.index, finished.checkpoint):
            return
        here = set(store.list_images())
        saved: dict[str, float] = {}
        labels: dict[str, tuple[str, dict[str, Any]]] = {}
        for name, label in finished.pseudo_labels.items():
            if name not in here or store.get_label_by_image_id(name, FINAL):
                continue  # taken out, or outlined by a person meanwhile
            if self._study.scan_stamp(name) != self._stamps.get(name):
                self.leave_out(name, "the scan was replaced by another one during the training")
                continue
            if finished.checkpoint is None and self._has_better(name, label):
                continue
            labels[name] = (str(label.path), {"model": "semisam", "params": dict(label.params)})
            if finished.checkpoint is not None and isinstance(label.params.get("uncertainty"), (int, float)):
                saved[name] = float(label.params["uncertainty"])  # type: ignore[arg-type]
        self._study.pseudo_labels.save(labels)
        if self._study.folder == self._folder:
            Scores(self._study).put(saved)
        logger.info("Round %d: %d pseudo-labels are stored as 'original'", finished.index, len(labels))

    def leave_out(self, name: str, reason: str) -> None:
        """Note a scan that the run does without; the last message names it."""
        if name not in self._left_out:
            logger.warning("%s is left out: %s", name, reason)
        self._left_out[name] = reason

    def _publish(self, index: int, checkpoint: Path) -> bool:
        """Put a round's specialist into service; False when it cannot be, and the one before stays."""
        try:
            put_in_service(
                checkpoint, self._published, self._names, siblings=checkpoint.parents[1].glob(f"*/{checkpoint.name}")
            )
        except UserError as error:
            if error.status == 507:
                raise
            logger.error("Round %d: its specialist is not put into service: %s", index, error)
            self._refused = f" The specialist of round {index} could not be used; the one before stays in service."
            return False
        logger.info("Round %d: the specialist is in service", index)
        self._refused = ""
        return True

    def _has_better(self, name: str, label: PseudoLabel) -> bool:
        """Whether a specialist of an earlier training has labelled the scan, which goes before a propagation."""
        before = self._study.datastore.get_label_info(name, ORIGINAL).get("params") or {}
        same = before.get("label_names") == label.params.get("label_names")
        return bool(same and before.get("source") == "specialist")

    def finished(self, result: RunResult) -> None:
        """The run has ended well: its last labels will stay."""
        self._study.pseudo_labels.publish(result.pseudo_labels)
        took = _clock(time.monotonic() - self._begun)
        text = f"Trained {result.rounds} rounds in {took}; {len(result.pseudo_labels)} pseudo-labels to review."
        if result.note:
            text += f" {result.note}"
        text += self._refused
        unsent = self._study.pseudo_labels.unsent()
        text += _listed("scan was left out", "scans were left out", {**result.skipped, **self._left_out})
        text += _listed("label is not", "labels are not", unsent, " on the DICOM server yet")
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


def _listed(one: str, several: str, reasons: Mapping[str, str], end: str = "") -> str:
    """How many there are and which, those with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    listed = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
    return f" {len(reasons)} {one if len(reasons) == 1 else several}{end}: {listed}" if reasons else ""


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(max(0.0, seconds))))

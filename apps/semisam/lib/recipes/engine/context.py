"""What a recipe works with, and the bookkeeping of its rounds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from lib.core.errors import UserError
from lib.core.labels import LabelSchema, count_values
from lib.core.sealed import damage_in, read_sealed, sum_of, sums_of, write_sealed
from lib.formats.volumes import write_label
from lib.generalists import Generalist, weights_of
from lib.parallel.ranks import Ranks
from lib.propagation import Propagator
from lib.report.history import History
from lib.specialists.check import check_checkpoint
from lib.specialists.checkpoint import save_specialist

from .label_facts import PseudoLabelFacts
from .learned import learned
from .options import Preset, RecipeOptions
from .prepared_study import PreparedStudy
from .progress import Reporter
from .record import CHECKPOINT, KEPT_ROUNDS, LARGE, PASSING, RoundRecord, read_record, write_record
from .report import FinishedRound, Observer, PseudoLabel
from .run_folder import RunFolder

log = logging.getLogger("semisam.train")


@dataclass(eq=False)
class Context:
    """A run: its parts, and what has been finished so far.

    Args:
        study: the scans and their current labels.
        options: what the user chose.
        budget: how much training that is.
        generalist: frozen features.
        propagator: carries human labels over.
        folder: the run's files.
        reporter: progress.
        observer: told about finished rounds.
        asked: the generalists that the recipe prompts, see ``Recipe.asks``.
        skipped: why a scan was left out, by name.
        ranks: the processes that share the work of this run. All go through the same rounds and stages.
    """

    study: PreparedStudy
    options: RecipeOptions
    budget: Preset
    generalist: Generalist
    propagator: Propagator
    folder: RunFolder
    reporter: Reporter
    observer: Observer
    asked: tuple[Generalist, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)

    @cached_property
    def history(self) -> History:
        """What the trainings of this process logged, epoch by epoch."""
        return History(self._history_file(self.ranks.rank))

    def collect_history(self, index: int) -> None:
        """Take over what other processes logged of the trainings of round ``index`` that were theirs; by the first."""
        rank = 1
        while (file := self._history_file(rank)).exists():
            theirs, known = History(file), {(entry.round, entry.training) for entry in self.history.read()}
            for entry in theirs.read():
                if entry.round == index and (index, entry.training) not in known:
                    self.history.add(entry)
            theirs.forget(0)
            rank += 1

    def _history_file(self, rank: int) -> Path:
        return self.folder.path / (f"history-{rank}.jsonl" if rank else "history.jsonl")

    @property
    def schema(self) -> LabelSchema:
        """The structures."""
        return self.study.schema

    @property
    def generalists(self) -> tuple[Generalist, ...]:
        """All generalists that the results depend on: the one that gives features, and those that are asked."""
        return (self.generalist, *(one for one in self.asked if one is not self.generalist))

    def skip(self, name: str, reason: str) -> None:
        """Leave a scan out, and say so."""
        log.warning("%s is left out: %s", name, reason)
        self.skipped[name] = reason
        self.study.drop(name)

    def keep_label(
        self,
        part: Path,
        name: str,
        label: np.ndarray,
        affine: np.ndarray,
        facts: PseudoLabelFacts,
    ) -> PseudoLabelFacts:
        """Write a pseudo-label ``[D, H, W]`` uint8 on the scan's grid, and beside it what is known about it.

        Args:
            part: folder of the round.
            name: of the case.
            label: voxel values of the schema.
            affine: ``[4, 4]`` of the scan.
            facts: what is known so far.

        Returns:
            The facts with names, volumes and recipe.
        """
        file = self.study.file_name(name)
        voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0
        counts = count_values(label)
        volumes = {n: round(float(counts[v]) * voxel_ml, 4) for n, v in self.schema.as_dict().items()}
        facts = replace(facts, label_names=self.schema.as_dict(), volume_ml=volumes, recipe=self.options.recipe)
        write_label(part / f"{file}.nii.gz", label, affine)
        sums = {each: sum_of(part / each) for each in (f"{file}.nii.gz", f"{file}.npz")}
        # Last: with it the scan counts as done.
        write_sealed(part / f"{file}.json", {"params": facts.to_json(), "files": sums})
        return facts

    def kept_facts(self, part: Path, name: str, *, whole: bool = False) -> PseudoLabelFacts | None:
        """What is known about a scan's label in this folder, None without one; if ``whole``, its files are checked."""
        content = read_sealed(part / f"{self.study.file_name(name)}.json") or {}
        plain, sums = content.get("params"), content.get("files")
        if not isinstance(plain, dict) or not isinstance(sums, dict):
            return None
        damage = damage_in(part, sums) if whole else None
        if damage is not None:
            log.warning("%s is labelled anew: %s", name, damage)
            return None
        try:
            return PseudoLabelFacts.from_json(plain)
        except ValueError as error:
            log.warning("what is known about the label of %s cannot be read: %s", name, error)
            return None

    def end_round(
        self,
        index: int,
        names: Iterable[str],
        members: Sequence[nn.Module] | None,
        notes: Mapping[str, object] | None = None,
    ) -> FinishedRound:
        """Complete a round's folder, switch the study to its labels and tell the observer.

        Args:
            index: of the round.
            names: of the scans that have a pseudo-label of this round.
            members: the round's networks, the best one first; None in round 0.
            notes: what else to write into the checkpoint.
        """

        def complete() -> None:
            part = self.folder.open_round(index)
            if members is not None:
                about = {"recipe": self.options.recipe, "round": index, "seed": self.options.seed, **(notes or {})}
                about |= {"generalists": weights_of(self.generalists), **learned(self.study)}
                save_specialist(part / CHECKPOINT, self.study.spec, members, about)
            if (part / CHECKPOINT).exists():
                self._check(index, part / CHECKPOINT)
            record = RoundRecord(
                tuple(names),
                dict(self.skipped),
                self.reporter.best_metric,
                sums_of(part, PASSING),
                self.folder.digest(),
            )
            write_record(part, record)
            self.folder.end_round(index)

        self.ranks.once(complete)
        finished = self.take_up(index)
        if finished is None:
            raise RuntimeError(f"round {index} was written, but cannot be read")
        if self.ranks.first:
            self._tidy(index)
        log.info("round %d of %d is finished", index, self.budget.rounds)
        return finished

    def take_up(self, index: int | None) -> FinishedRound | None:
        """Switch to the labels of a finished round and tell the observer; None when it is missing or damaged."""
        record = None if index is None else read_record(self.folder.round(index))
        if index is None or record is None:
            return None
        folder = self.folder.round(index)
        for name, reason in record.skipped.items():
            self.skipped[name] = reason
            self.study.drop(name)
        known = {name: self.kept_facts(folder, name) for name in record.names}
        labels = {
            name: PseudoLabel(folder / f"{self.study.file_name(name)}.nii.gz", facts.to_json() if facts else {})
            for name, facts in known.items()
        }
        self.study.use_round(
            folder,
            [name for name, facts in known.items() if facts and facts.teaches],
            [name for name, facts in known.items() if facts and not facts.sound],
        )
        self.reporter.best(record.best_metric)
        checkpoint = folder / CHECKPOINT
        finished = FinishedRound(index, checkpoint if checkpoint.exists() else None, labels, self.reporter.best_metric)
        self.observer.round_finished(finished)
        return finished

    def damage_of(self, index: int) -> str | None:
        """What is wrong with the files of a finished round in a few words, None when all are as they were written."""
        folder = self.folder.round(index)
        record = read_record(folder)
        if record is None:
            return "round.json is missing or damaged"
        files = [self.study.file_name(name) for name in record.names if name in self.study.cases]
        if len(files) < len(record.names):
            return "round.json names a scan that is not there"
        return damage_in(folder, record.files)

    def _check(self, index: int, checkpoint: Path) -> None:
        """A network that cannot be used must not be what the next round, or the next training, begins with."""
        try:
            check_checkpoint(checkpoint, self.schema.names)
        except UserError as error:
            checkpoint.unlink(missing_ok=True)
            raise UserError(
                f"The network that round {index} has trained cannot be used: {error} The rounds before are kept. "
                "Try another seed; if that does not help, look for scans with extreme intensities in the study.",
                status=500,
            ) from error

    def _tidy(self, index: int) -> None:
        """Remove what was needed to finish a round, and what only the rounds before the last two need."""
        for pattern in PASSING:
            for file in self.folder.round(index).glob(pattern):
                file.unlink()
        for old in self.folder.finished_rounds():
            if old <= index - KEPT_ROUNDS:
                for pattern in LARGE:
                    for file in self.folder.round(old).glob(pattern):
                        file.unlink()

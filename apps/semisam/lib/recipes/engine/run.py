"""Run a recipe over a study."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import monai
import torch

from lib.core.errors import UserError
from lib.core.files import check_space, space_errors
from lib.core.labels import LabelSchema
from lib.core.leftovers import remove_leftovers
from lib.generalists import Generalist
from lib.parallel.ranks import Ranks
from lib.propagation import Propagator
from lib.recipes.registry import IMPLEMENTATIONS, amount_of, resolve, trainings_of
from lib.training.loop import shared_iterations

from .context import Context
from .grid import choose_grid
from .options import NNUNET, RecipeOptions
from .prepared_study import Study
from .progress import Reporter
from .record import KEPT_ROUNDS
from .repair import repair_prepared
from .report import Case, FinishedRound, Observer, RecipeSettings, RunResult, SilentObserver
from .run_folder import RunFolder, fingerprint, only_one, open_run
from .summary import write_summary

log = logging.getLogger("semisam.train")

_FORMAT = 3
"""Raised when run folders of an older version cannot be continued."""
_RESERVE = 100 * 2**20


def run_recipe(
    cases: Sequence[Case],
    schema: LabelSchema,
    options: RecipeOptions,
    settings: RecipeSettings,
    *,
    generalist: Generalist,
    propagator: Propagator,
    folder: Path,
    observer: Observer,
    ranks: Ranks | None = None,
) -> RunResult:
    """Train a specialist on the human labels and on labels that the recipe makes for all other scans.

    Args:
        cases: every scan of the study that may be used.
        schema: the structures.
        options: what the user chose.
        settings: what the administrator chose.
        generalist: frozen features for matching and refinement.
        propagator: carries human labels over to the other scans.
        folder: where run folders are kept. A run that was killed continues at its last finished round when it is
            started again with the same input, or at the one before if the last one's files are damaged; the last three
            runs are kept.
        observer: told about progress and finished rounds; only the first process's is.
        ranks: the processes that share the work, None for this one alone. Each calls this function with the same
            arguments, but for a generalist on its own device.

    Raises:
        UserError: when no human label is there or none can be used, no scan can be read, there is no space left, or
            the training diverges; the text says what to do.
    """
    if not any(case.label is not None for case in cases):
        raise UserError(
            "No scan of this study has a 'final' label yet. Outline one scan, save it as final, and train again.",
            status=409,
        )
    options = resolve(options)
    amount, trainings = amount_of(options), trainings_of(options)
    ranks = ranks or Ranks()
    if ranks.world > 1 and options.network == NNUNET:
        raise UserError("nnU-Net trains in one process: choose another network, or start one process.", status=409)
    if not ranks.first:
        observer = SilentObserver()
    recipe = IMPLEMENTATIONS[options.recipe]
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError("case names must be unique")
    with ExitStack() as held:
        held.enter_context(space_errors(folder))
        ranks.once(lambda: held.enter_context(only_one(folder)))
        ranks.once(lambda: check_space(folder, _RESERVE))
        started = time.monotonic()
        usable, skipped, prints = _check_files(cases, ranks)
        identity = {
            "format": _FORMAT,
            "versions": {"torch": torch.__version__, "monai": monai.__version__, **recipe.versions(options)},
            "options": asdict(options),
            "amount": asdict(amount),  # what the preset stands for in this version
            "settings": asdict(settings),
            "labels": list(schema.names),
            "generalist": [generalist.name, str(getattr(generalist, "weights_hash", ""))],
            "propagator": propagator.name,
            "cases": prints,
        }
        run_folder = RunFolder(ranks.once(lambda: open_run(folder, identity).path), ranks)
        ranks.once(lambda: remove_leftovers(_folders_of(run_folder)))
        spec, voxels = ranks.once(lambda: choose_grid(usable, schema, options, settings, run_folder.prepared))
        options = replace(options, device=ranks.device(options.device))
        unlabelled = sum(case.label is None for case in usable)
        if not unlabelled:
            # Without pseudo-labels a second round would repeat the first.
            amount = replace(amount, rounds=1)
        if recipe.trainings == 1:  # processes share each training; of several trainings, each process does its own
            amount = replace(amount, iterations=shared_iterations(amount.epochs, amount.iterations, ranks.world))
        ranks.once(lambda: check_space(folder, _bytes_needed(voxels, spec.channels, len(usable))))
        study = Study(usable, schema, spec, run_folder.prepared)
        rounds = amount.rounds
        work = {
            "propagation": len(usable),
            "training": rounds * trainings * amount.epochs * amount.iterations,
            "prediction": rounds * unlabelled,
            "refinement": rounds * unlabelled * recipe.refines,
        }
        reporter = Reporter(observer, rounds, amount.epochs * trainings, work)
        context = Context(
            study, options, amount, generalist, propagator, run_folder, reporter, observer, skipped, ranks
        )
        log.info(
            "%s, preset %s: %d scans with and %d without a human label, %d rounds of %d epochs in all; "
            "spacing %s mm, window %s, on %s%s",
            options.recipe,
            options.preset,
            len(usable) - unlabelled,
            unlabelled,
            rounds,
            trainings * amount.epochs,
            " x ".join(f"{s:g}" for s in spec.spacing),
            " x ".join(str(n) for n in spec.roi_size),
            options.device,
            f", {ranks.world} processes" if ranks.world > 1 else "",
        )
        with reporter:
            resumed = _go_on(context)
            last, reporter.note = resumed.last, resumed.note()
            resumed_at = None if last is None else last.index + 1
            if reporter.note:
                log.info("%s: %s", run_folder.path.name, reporter.note)
            if last is not None:
                reporter.resume(last.index, unlabelled, trainings * amount.epochs * amount.iterations)
            last = recipe.run(context, last)
            if last.checkpoint is None:
                raise RuntimeError("a recipe must end with a round that has a checkpoint")
            report = _report(context, last, time.monotonic() - started) if ranks.first else None
        ranks.once(run_folder.end_run)
        log.info("finished after %.0f s; best agreement %.3f", time.monotonic() - started, last.best_metric)
        return RunResult(
            folder=run_folder.path,
            rounds=last.index,
            best_metric=last.best_metric,
            checkpoint=last.checkpoint,
            pseudo_labels=last.pseudo_labels,
            skipped=dict(context.skipped),
            resumed_at=resumed_at,
            report=report,
            note=reporter.note,
        )


def _folders_of(run: RunFolder) -> list[Path]:
    """All folders of a run."""
    return [run.path.parent, run.path, *(path for path in sorted(run.path.rglob("*")) if path.is_dir())]


def _report(context: Context, last: FinishedRound, seconds: float) -> Path | None:
    """Write the report; a run is finished without one as well."""
    try:
        path = write_summary(context, last, seconds)
    except Exception:
        log.exception("The report could not be written; the training itself is complete")
        return None
    log.info("report: %s", path)
    return path


@dataclass(frozen=True)
class _Resumed:
    """Where a killed run goes on.

    Args:
        last: the last finished round whose files are whole, None without one.
        damaged: what is wrong with later ones, by round.
    """

    last: FinishedRound | None
    damaged: Mapping[int, str]

    def note(self) -> str:
        """In words; empty for a run from the start."""
        reasons = " and ".join(f"round {index} ({reason})" for index, reason in sorted(self.damaged.items()))
        again = f": the files of {reasons} were damaged, and what follows is made again" if reasons else ""
        if self.last is None:
            return f"Training started again{again}." if again else ""
        return f"Training continued after round {self.last.index}{again}."


def _go_on(context: Context) -> _Resumed:
    """Take up the last finished round of a killed run; those whose files are damaged are dropped and made again."""

    def whole() -> tuple[int | None, dict[int, str]]:
        damaged: dict[int, str] = {}
        for index in context.folder.finished_rounds():
            damage = context.damage_of(index)
            if damage is None:
                break
            damaged[index] = damage
            log.warning("round %d of %s is damaged and will be made again: %s", index, context.folder.path.name, damage)
        if damaged:
            context.folder.drop_rounds(min(damaged))
        return context.folder.finished_round(), damaged

    index, damaged = context.ranks.once(whole)
    last = context.take_up(index)
    if last is not None:
        repair_prepared(context)
    return _Resumed(last, damaged)


def _check_files(cases: Sequence[Case], ranks: Ranks) -> tuple[list[Case], dict[str, str], dict[str, list[str]]]:
    """The cases whose files are there, why others are not, and the fingerprints of all."""
    by_name = {case.name: case for case in cases}

    def look(name: str) -> list[str] | str:
        case = by_name[name]
        try:
            return [fingerprint(case.image), fingerprint(case.label) if case.label else "", case.annotated]
        except UserError as error:
            log.warning("%s is left out: %s", name, error)
            return str(error)

    usable, skipped, prints = [], {}, {}
    for name, found in ranks.each(list(by_name), look).items():
        if isinstance(found, str):
            skipped[name] = found
            prints[name] = ["missing", "", ""]
        else:
            prints[name] = found
            usable.append(by_name[name])
    if not any(case.label is not None for case in usable):
        raise UserError(f"No 'final' label can be used: {'; '.join(skipped.values())}", status=422)
    return usable, skipped, prints


def _bytes_needed(voxels: int, channels: int, scans: int) -> int:
    """A cautious guess at what a run writes: images of two bytes a voxel, and the soft labels of three rounds.

    Two rounds are kept while a third one is made. Soft labels and their confidence have two bytes a voxel; they are
    mostly 0 or 1, and pack to less than half of that.
    """
    return _RESERVE + scans * voxels * (2 + (1 + KEPT_ROUNDS) * (channels + 1))

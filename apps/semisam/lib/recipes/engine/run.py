"""Run a recipe over a study: open the run, plan it, drive it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from lib.core.errors import UserError
from lib.core.files import check_space, space_errors
from lib.core.leftovers import remove_leftovers
from lib.generalists import Generalist
from lib.parallel.ranks import Ranks
from lib.propagation import Propagator
from lib.recipes.choices import resolve
from lib.recipes.registry import RECIPES

from .context import Context
from .opening import check_files, identity_of
from .options import NNUNET
from .planning import RESERVE, Models, Plan, plan_run
from .recipe import asked_of
from .report import FinishedRound, Observer, RunRequest, RunResult, SilentObserver
from .resuming import resume
from .run_folder import RunFolder, only_one, open_run
from .summary import write_summary

log = logging.getLogger("semisam.train")


def run_recipe(
    request: RunRequest,
    *,
    generalist: Generalist,
    propagator: Propagator,
    observer: Observer,
    ranks: Ranks | None = None,
    further: Sequence[Generalist] = (),
) -> RunResult:
    """Train a specialist on the human labels and on labels that the recipe makes for all other scans.

    A run that was killed continues at its last finished round when it is started again with the same input, or at the
    one before if the last one's files are damaged; the last three runs are kept.

    Args:
        request: scans, options, and where run folders are kept.
        generalist: frozen features for matching and refinement.
        propagator: carries human labels over to the other scans.
        observer: told about progress and finished rounds; only the first process's is.
        ranks: the processes that share the work, None for this one alone. Each calls this function with the same
            arguments, but for generalists on its own device.
        further: generalists that are prompted as well, by recipes that do so.

    Raises:
        UserError: when no human label is there or none can be used, no scan can be read, there is no space left, or
            the training diverges; the text says what to do.
    """
    started = time.monotonic()
    ranks = ranks or Ranks()
    names = [one.name for one in (generalist, *further)]
    request = _checked(request, ranks, names)
    asked_names = asked_of(RECIPES[request.options.recipe].asks, names)
    asked = tuple(one for one in (generalist, *further) if one.name in asked_names)
    models, folder = Models(generalist, propagator, asked), request.folder
    with ExitStack() as held:
        held.enter_context(space_errors(folder))
        ranks.once(lambda: held.enter_context(only_one(folder)))
        ranks.once(lambda: check_space(folder, RESERVE))
        files = check_files(request.cases, ranks)
        identity = identity_of(request, files, generalist, propagator, asked)
        run_folder = RunFolder(ranks.once(lambda: open_run(folder, identity).path), ranks)
        ranks.once(lambda: remove_leftovers(_folders_of(run_folder)))
        run, plan = plan_run(request, files, run_folder, models, observer if ranks.first else SilentObserver())
        return _drive(run, plan, started)


def _checked(request: RunRequest, ranks: Ranks, generalists: Sequence[str]) -> RunRequest:
    """The request with the recipe's own choices in place of ``auto``.

    Raises:
        UserError: (409) without a human label, or when the network cannot be trained by several processes; (400) when
            the recipe cannot do what was chosen.
        ValueError: when two cases have the same name.
    """
    if not any(case.label is not None for case in request.cases):
        raise UserError(
            "No scan of this study has a 'final' label yet. Outline one scan, save it as final, and train again.",
            status=409,
        )
    options = resolve(request.options, generalists)
    if ranks.world > 1 and options.network == NNUNET:
        raise UserError("nnU-Net trains in one process: choose another network, or start one process.", status=409)
    if len({case.name for case in request.cases}) < len(request.cases):
        raise ValueError("case names must be unique")
    return replace(request, options=options)


def _drive(run: Context, plan: Plan, started: float) -> RunResult:
    """Go through all rounds that are not finished yet, and write the report."""
    with run.reporter as reporter:
        resumed = resume(run)
        reporter.note = resumed.note()
        if reporter.note:
            log.info("%s: %s", run.folder.path.name, reporter.note)
        if resumed.last is not None:
            reporter.resume(resumed.last.index, plan.unlabelled, plan.steps)
        last = RECIPES[run.options.recipe].run(run, resumed.last)
        if last.checkpoint is None:
            raise RuntimeError("a recipe must end with a round that has a checkpoint")
        report = _report(run, last, time.monotonic() - started) if run.ranks.first else None
    run.ranks.once(run.folder.end_run)
    log.info("finished after %.0f s; best agreement %.3f", time.monotonic() - started, last.best_metric)
    return RunResult(
        folder=run.folder.path,
        rounds=last.index,
        best_metric=last.best_metric,
        checkpoint=last.checkpoint,
        pseudo_labels=last.pseudo_labels,
        skipped=dict(run.skipped),
        resumed_at=resumed.index,
        report=report,
        note=reporter.note,
    )


def _folders_of(run: RunFolder) -> list[Path]:
    """All folders of a run."""
    return [run.path.parent, run.path, *(path for path in sorted(run.path.rglob("*")) if path.is_dir())]


def _report(run: Context, last: FinishedRound, seconds: float) -> Path | None:
    """Write the report; a run is finished without one as well."""
    try:
        path = write_summary(run, last, seconds)
    except Exception:
        log.exception("The report could not be written; the training itself is complete")
        return None
    log.info("report: %s", path)
    return path

"""Round 0 of every recipe: human labels are checked and carried over, and all scans put on the specialist's grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch

from ..errors import UserError
from ..frames import frame_of
from ..propagation import MOST_TEMPLATES, Template, propagate_from, signature
from ..specialists.part import part_of
from ..uncertainty import normalised_entropy, uncertainty_facts
from .base import FinishedRound
from .context import Context
from .stages import counter

T = TypeVar("T")


def read_templates(run: Context) -> None:
    """Check every human label and put it on the specialist's grid; unusable ones are left out.

    Raises:
        UserError: when none can be used.
    """
    refused = _over(run, list(run.study.human()), partial(read_template, run))[1]
    if not run.study.human():
        reason = next(iter(refused.values()), "Outline one scan and save it as final.")
        raise UserError(f"No 'final' label can be used. {reason}", status=422)


def read_template(run: Context, name: str) -> None:
    """Check a scan's human label and put both on the specialist's grid."""
    template = run.study.template(name)
    frame = frame_of(template.scan)
    frame = part_of(frame, torch.from_numpy(frame.crop(template.label) > 0), frame, run.study.spec)
    run.study.prepare(name, template.scan, frame)
    run.study.keep_human(name, template.label, frame)


def propagate_study(run: Context) -> FinishedRound:
    """Round 0: carry the human labels over to every other scan; what a killed run has done already is kept.

    Raises:
        UserError: when no human label can be used or all are sparse, or there are other scans and none can be read.
    """
    part = run.folder.begin_round(0, keep=True)
    run.reporter.begin("propagation", 0)
    read_templates(run)
    run.study.need_dense()
    templates: dict[str, Template] = {}

    def carry_over(name: str) -> dict[str, object]:
        kept = run.kept_params(part, name, whole=True) if run.study.is_prepared(name) else None
        return propagate_one(run, name, templates) if kept is None else kept

    def metrics(params: dict[str, object]) -> dict[str, float]:
        return {"confidence": float(str(params["confidence"]))}

    params = _over_unlabelled(run, carry_over, metrics)
    return run.end_round(0, params, None)


def _over_unlabelled(
    run: Context, work: Callable[[str], T], metrics: Callable[[T], dict[str, float]] | None = None
) -> dict[str, T]:
    """Do the work of round 0 for every scan without a human label; those it cannot be done for are left out.

    Args:
        run: the run.
        work: takes a scan's name.
        metrics: what to report of what it gives.

    Returns:
        What was given, by scan.

    Raises:
        UserError: (422) when there are such scans and it can be done for none, (507) when there is no space left.
    """
    found, refused = _over(run, run.study.unlabelled(), work, metrics)
    if refused and not found:
        last = list(refused.values())[-1]
        raise UserError(f"None of the scans without a label can be used. The last one: {last}", status=422)
    return found


def _over(
    run: Context, names: Sequence[str], work: Callable[[str], T], metrics: Callable[[T], dict[str, float]] | None = None
) -> tuple[dict[str, T], dict[str, str]]:
    """Do the work of round 0 for scans, each process for its share; those it cannot be done for are left out by all.

    Returns:
        What the work gave, and why scans are left out, by scan.

    Raises:
        UserError: (507) when there is no space left.
    """
    count = counter(run, "propagation", names)

    def attempt(name: str) -> tuple[T | None, str | None]:
        try:
            result = work(name)
        except UserError as error:
            if error.status == 507:
                raise
            run.skip(name, str(error))
            count({})
            return None, str(error)
        count(metrics(result) if metrics else {})
        return result, None

    found: dict[str, T] = {}
    refused: dict[str, str] = {}
    for name, (result, reason) in run.ranks.each(names, attempt).items():
        if reason is None:
            found[name] = result  # type: ignore[assignment]
        else:
            refused[name] = reason
            if name not in run.skipped:
                run.skip(name, reason)
    return found, refused


def propagate_one(run: Context, name: str, templates: dict[str, Template]) -> dict[str, object]:
    """Carry the human labels over to a scan, and put it on the specialist's grid; ``templates`` keeps what is read."""
    study = run.study
    scan = study.read(name)
    own = signature(scan)
    ranked = sorted(study.dense(), key=lambda t: (-float(study.prepared(t).signature @ own), t))
    chosen = ranked[:MOST_TEMPLATES]
    for template in chosen:
        if template not in templates:
            while len(templates) >= MOST_TEMPLATES:  # whole scans: keep few in memory
                templates.pop(next(t for t in templates if t not in chosen))
            templates[template] = study.template(template)
    soft = propagate_from(
        [templates[t] for t in chosen],
        scan,
        run.schema.channels,
        generalist=run.generalist,
        propagator=run.propagator,
        most=MOST_TEMPLATES,
    )
    inside = soft.traces()
    if study.spec.part is not None and not bool(inside.any()):
        raise UserError(
            "nothing of what is outlined was found in it by the propagation; outline it, or remove it from the study",
            status=422,
        )
    prepared = study.prepare(name, scan, part_of(frame_of(scan), inside, soft.frame, study.spec), own)
    target = soft.on(prepared.frame)
    part = run.folder.begin_round(0, keep=True)
    study.write_target(part, name, target.probabilities, target.confidence)
    facts = uncertainty_facts(target.probabilities, normalised_entropy(target.probabilities))
    facts |= {
        "confidence": round(soft.mean_confidence(), 4),
        "templates": list(soft.templates),
        "round": 0,
        "source": "propagation",
    }
    return run.keep_label(part, name, soft.labels(), scan.affine, facts)


def prepare_study(run: Context) -> FinishedRound:
    """Round 0 of a recipe that starts without pseudo-labels: put every scan on the specialist's grid.

    Raises:
        UserError: when no human label can be used, or there are other scans and none can be read.
    """
    run.folder.begin_round(0, keep=True)
    run.reporter.begin("propagation", 0)
    read_templates(run)

    def prepare(name: str) -> None:
        if not run.study.is_prepared(name):
            scan = run.study.read(name)
            run.study.prepare(name, scan, frame_of(scan))

    _over_unlabelled(run, prepare)
    return run.end_round(0, {}, None)

"""Round 0 of every recipe: human labels are checked and carried over, and all scans put on the specialist's grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.core.negatives import only_negative
from lib.core.uncertainty import normalised_entropy, uncertainty_facts
from lib.propagation import (
    MOST_TEMPLATES,
    Template,
    find_roi,
    propagate_from,
    signature,
    warnings_of,
)
from lib.specialists.roi import roi_of

from .context import Context
from .each_scan import each_scan, some_scans
from .label_facts import NOT_LEARNED, PseudoLabelFacts
from .labelling import counter
from .report import FinishedRound

T = TypeVar("T")

log = logging.getLogger("semisam.train")


def read_templates(run: Context) -> None:
    """Check every human label and put it on the specialist's grid; unusable ones are left out.

    Raises:
        UserError: when none can be used.
    """
    names = list(run.study.human())
    count = counter(run, "propagation", names)
    found, refused = each_scan(run, names, partial(_keep_outlined, run), lambda _: count({}))
    if not run.study.human():
        reason = next(iter(refused.values()), "Outline one scan and save it as final.")
        raise UserError(f"No 'final' label can be used. {reason}", status=422)
    if all(run.study.cases[name].negative for name in run.study.human()):
        raise UserError(only_negative(list(run.study.human())), status=409)
    each_scan(run, [name for name in names if found.get(name) is False], partial(_keep_negative, run))


def read_template(run: Context, name: str) -> None:
    """Check a scan's human label and put both on the specialist's grid."""
    if not _keep_outlined(run, name):
        _keep_negative(run, name)


def _keep_outlined(run: Context, name: str) -> bool:
    """Check a scan's human label and put both on the specialist's grid.

    Returns:
        False, with nothing done, for a scan without any structure of which only a part matters: where that lies, only
        other scans can tell.
    """
    template = run.study.template(name)
    if run.study.cases[name].negative and run.study.spec.part is not None:
        return False
    frame = frame_of(template.scan)
    frame = roi_of(frame, torch.from_numpy(frame.crop(template.label) > 0), frame, run.study.spec)
    run.study.prepare(name, template.scan, frame)
    run.study.keep_human(name, template.label, frame)
    return True


def _keep_negative(run: Context, name: str) -> None:
    """Put a scan without any structure on the grid: its part is where the structures of another one would lie."""
    study = run.study
    template = study.template(name)
    held = next(other for other in study.human() if not study.cases[other].negative)
    found = find_roi(study.template(held), template.scan, run.options.device)
    inside = found.traces()
    if not bool(inside.any()):
        inside[tuple(n // 2 for n in inside.shape)] = True
    frame = roi_of(frame_of(template.scan), inside, found.frame, study.spec)
    study.prepare(name, template.scan, frame)
    study.keep_human(name, template.label, frame)


def propagate_study(run: Context) -> FinishedRound:
    """Round 0: carry the human labels over to every other scan; what a killed run has done already is kept.

    Raises:
        UserError: when no human label can be used or all are sparse, or there are other scans and none can be read, or
            none that the labels were rightly carried over to (422).
    """
    part = run.folder.open_round(0)
    run.reporter.begin("propagation", 0)
    read_templates(run)
    run.study.need_dense()
    templates: dict[str, Template] = {}

    def carry_over(name: str) -> PseudoLabelFacts:
        kept = run.kept_facts(part, name, whole=True) if run.study.is_prepared(name) else None
        return propagate_one(run, name, templates) if kept is None else kept

    facts = _over_unlabelled(run, carry_over, lambda each: {"confidence": each.confidence})
    _need_one_sound(run, facts)
    return run.end_round(0, facts, None)


def _need_one_sound(run: Context, facts: Mapping[str, PseudoLabelFacts]) -> None:
    """Say which scans nothing is learned from.

    Raises:
        UserError: (422) when that is all of them, and few are outlined: a study that is outlined but for some odd scans
            teaches without them.
    """
    failed = [name for name, each in facts.items() if not each.sound]
    if failed and len(failed) == len(facts) and len(failed) >= len(run.study.human()):
        raise UserError(
            f"What is outlined in {', '.join(run.study.need_dense())} was rightly carried over to none of the other "
            f"{len(failed)} scans: they look unlike it. Check that all show the same part of the body in the same kind "
            "of picture, or outline one of them, too.",
            status=422,
        )
    for name in failed:
        log.warning("nothing is learned from %s: what is outlined was hardly carried over rightly", name)


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
    names = run.study.unlabelled()
    count = counter(run, "propagation", names)

    def done(result: T | None) -> None:
        count(metrics(result) if metrics and result is not None else {})

    return some_scans(run, names, work, done)


def _templates_for(run: Context, described: Tensor, templates: dict[str, Template]) -> list[Template]:
    """The outlined scans most similar to one with the signature ``described``; those whose file has gone are skipped.

    Raises:
        UserError: (422) when none can be read any more.
    """
    study = run.study
    ranked = sorted(study.need_dense(), key=lambda t: (-float(study.prepared(t).signature @ described), t))
    chosen: list[Template] = []
    for name in ranked:
        if len(chosen) == MOST_TEMPLATES:
            break
        if name not in templates:
            try:
                read = study.template(name)
            except UserError as error:
                log.warning("%s is not carried over to this scan: %s", name, error)
                continue
            while len(templates) >= MOST_TEMPLATES:  # whole scans: keep few in memory
                templates.pop(next(t for t in templates if templates[t] not in chosen))
            templates[name] = read
        chosen.append(templates[name])
    if not chosen:
        raise UserError("none of the outlined scans can be read any more", status=422)
    return chosen


def propagate_one(run: Context, name: str, templates: dict[str, Template]) -> PseudoLabelFacts:
    """Carry the human labels over to a scan, and put it on the specialist's grid; ``templates`` keeps what is read."""
    study = run.study
    scan = study.read(name)
    described = signature(scan)
    chosen = _templates_for(run, described, templates)
    soft = propagate_from(
        chosen,
        scan,
        run.schema.channels,
        generalist=run.generalist,
        propagator=run.propagator,
    )
    inside = soft.traces()
    if study.spec.part is not None and not bool(inside.any()):
        raise UserError(
            "nothing of what is outlined was found in it by the propagation; outline it, or remove it from the study",
            status=422,
        )
    prepared = study.prepare(name, scan, roi_of(frame_of(scan), inside, soft.frame, study.spec), described)
    target = soft.on(prepared.frame)
    part = run.folder.open_round(0)
    study.write_target(part, name, target.probabilities, target.confidence)
    label, sound = soft.labels(), soft.sound()
    said = [*scan.notes, *warnings_of(soft, label, scan, chosen, run.schema.names)]
    if sound is False:
        said.append(NOT_LEARNED)
    facts = PseudoLabelFacts(
        confidence=round(soft.mean_confidence(), 4),
        uncertainty=uncertainty_facts(target.probabilities, normalised_entropy(target.probabilities))["uncertainty"],
        templates=tuple(soft.templates),
        round=0,
        source="propagation",
        warnings=tuple(said),
        sound=sound is not False,
    )
    return run.keep_label(part, name, label, scan.affine, facts)


def prepare_study(run: Context) -> FinishedRound:
    """Round 0 of a recipe that starts without pseudo-labels: put every scan on the specialist's grid.

    Raises:
        UserError: when no human label can be used, or there are other scans and none can be read.
    """
    run.folder.open_round(0)
    run.reporter.begin("propagation", 0)
    read_templates(run)

    def prepare(name: str) -> None:
        if not run.study.is_prepared(name):
            scan = run.study.read(name)
            run.study.prepare(name, scan, frame_of(scan))

    _over_unlabelled(run, prepare)
    return run.end_round(0, (), None)

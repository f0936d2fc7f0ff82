"""Stages that recipes have in common: propagation over the study, training, prediction with refinement."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..frames import frame_of, resize
from ..generalists.mind import Mind
from ..propagation import Template, propagate_from
from ..specialists.predict import predict_prepared
from ..specialists.regularisers import Regulariser
from ..uncertainty import normalised_entropy, uncertainty_facts
from .base import FinishedRound
from .context import Context
from .refinement import Evidence, RefinementOptions, gather, refine, usual_distance
from .study import load_tensors, save_tensors
from .training import Trained, TrainingPlan, agreement, train

MOST_TEMPLATES = 3
"""Outlined scans that are propagated to one scan: the most similar ones."""


def read_templates(run: Context) -> None:
    """Check every human label and put it on the specialist's grid; unusable ones are left out.

    Raises:
        UserError: when none can be used.
    """
    first: UserError | None = None
    for name in list(run.study.human()):
        try:
            template = run.study.template(name)
        except UserError as error:
            first = first or error
            run.skip(name, str(error))
        else:
            frame = frame_of(template.scan)
            run.study.prepare(name, template.scan, frame)
            run.study.keep_human(name, template.label, frame)
        run.reporter.advance("propagation")
    if not run.study.human():
        reason = first or "Outline one scan and save it as final."
        raise UserError(f"No 'final' label can be used. {reason}", status=422)


def propagate_study(run: Context) -> FinishedRound:
    """Round 0: carry the human labels over to every other scan; what a killed run has done already is kept.

    Raises:
        UserError: when no human label can be used, or there are other scans and none can be read.
    """
    part = run.folder.begin_round(0, keep=True)
    run.reporter.begin("propagation", 0)
    read_templates(run)
    params: dict[str, dict[str, object]] = {}
    templates: dict[str, Template] = {}
    last: UserError | None = None
    for name in run.study.unlabelled():
        kept = run.kept_params(part, name) if run.study.is_prepared(name) else None
        if kept is None:
            try:
                kept = _propagate_one(run, name, templates)
            except UserError as error:
                if error.status == 507:
                    raise
                last = error
                run.skip(name, str(error))
                run.reporter.advance("propagation")
                continue
        params[name] = kept
        confidence = kept["confidence"]
        run.reporter.advance("propagation", {"confidence": float(str(confidence))})
    if last is not None and not params:
        raise UserError(f"None of the scans without a label can be used. The last one: {last}", status=422)
    return run.end_round(0, params, None)


def _propagate_one(run: Context, name: str, templates: dict[str, Template]) -> dict[str, object]:
    study = run.study
    scan = study.read(name)
    prepared = study.prepare(name, scan, frame_of(scan))
    ranked = sorted(study.human(), key=lambda t: (-float(study.prepared(t).signature @ prepared.signature), t))
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
    probabilities = resize(soft.probabilities, prepared.frame.shape)
    confidence = resize(soft.confidence[None], prepared.frame.shape)[0]
    part = run.folder.begin_round(0, keep=True)
    study.write_target(part, name, probabilities, confidence)
    facts = uncertainty_facts(probabilities, normalised_entropy(probabilities))
    facts |= {
        "confidence": round(soft.mean_confidence(), 4),
        "templates": list(soft.templates),
        "round": 0,
        "source": "propagation",
    }
    return run.keep_label(part, name, soft.labels(), scan.affine, facts)


def train_round(run: Context, index: int, regulariser: Regulariser, plan: TrainingPlan) -> Trained:
    """Train a specialist from scratch on the human labels and the current pseudo-labels."""
    run.reporter.begin("training", index)
    release = getattr(run.generalist, "release", None)
    if release is not None:
        release()  # its memory is the specialist's now; it is loaded again when it is needed again
    before = (index - 1) * plan.epochs
    epoch: list[float] = []

    def listen(step: int, metrics: dict[str, float]) -> None:
        epoch.append(metrics["agreement"])
        end = step % plan.iterations == 0
        if end:
            run.reporter.finished_epochs(before + step // plan.iterations)
            run.reporter.best(sum(epoch) / len(epoch))
            epoch.clear()
        run.reporter.advance("training", metrics, force=end)

    seed = run.options.seed * 1009 + index
    return train(run.study.spec, run.study, regulariser, plan, device=run.options.device, seed=seed, listener=listen)


def predict_study(run: Context, index: int, members: Sequence[nn.Module], options: RefinementOptions) -> None:
    """Predict every scan without a human label and collect the evidence for the refinement, in the round's folder.

    Args:
        run: the run.
        index: of the round; its folder must have been begun.
        members: networks whose probabilities are averaged.
        options: how to refine.
    """
    part = run.folder.begin_round(index, keep=True)
    run.reporter.begin("prediction", index)
    generator = torch.Generator().manual_seed(run.options.seed * 1009 + index)
    agreements = []
    for name in run.study.human():
        probabilities = run.study.target(name).probabilities.float()
        _collect(run, part, name, probabilities, torch.zeros(probabilities.shape[1:]), options, generator)
    for name in run.study.unlabelled():
        prepared = run.study.prepared(name)
        probabilities = predict_prepared(members, run.study.spec, prepared.image.float())
        uncertainty = normalised_entropy(probabilities)
        before = run.study.target(name).probabilities.float()
        agreements.append(agreement(probabilities[None], before[None]))
        run.study.write_target(part, name, probabilities, 1.0 - uncertainty)
        _collect(run, part, name, probabilities, uncertainty, options, generator)
        run.reporter.advance("prediction", {"agreement": agreements[-1], "uncertainty": float(uncertainty.mean())})
    if agreements:
        run.reporter.best(sum(agreements) / len(agreements))


def refine_study(run: Context, index: int, options: RefinementOptions) -> dict[str, dict[str, object]]:
    """Correct the unsure voxels of every prediction of the round and write its pseudo-labels.

    Returns:
        The params of every pseudo-label.
    """
    part = run.folder.begin_round(index, keep=True)
    run.reporter.begin("refinement", index)
    study = run.study
    names = study.unlabelled()
    everyone = [*study.human(), *names]
    signatures = torch.stack([study.prepared(name).signature for name in everyone])
    bank = {name: _load(run, part, name, wanted=False) for name in everyone}
    generator = torch.Generator().manual_seed(run.options.seed)
    usual = usual_distance(list(bank.values()), generator)
    before = run.folder.round(index - 1)
    params: dict[str, dict[str, object]] = {}
    for name in names:
        prepared = study.prepared(name)
        likeness = signatures @ prepared.signature
        order = sorted(range(len(everyone)), key=lambda n: (-float(likeness[n]), everyone[n]))
        others = [bank[everyone[n]] for n in order if everyone[n] != name][: options.scans]
        own = _load(run, part, name, wanted=True)
        probabilities = study.read_target(part, name).probabilities.float()
        refined = refine(probabilities, own, others, usual, options)
        uncertainty = normalised_entropy(refined)
        study.write_target(part, name, refined, 1.0 - uncertainty)
        facts = uncertainty_facts(refined, uncertainty)
        earlier = run.kept_params(before, name) or {}
        facts |= {"templates": earlier.get("templates", []), "round": index, "source": "specialist"}
        label = prepared.frame.labels_back(refined)
        params[name] = run.keep_label(part, name, label, prepared.affine, facts)
        run.reporter.advance("refinement", {"unsure_voxels": float(len(own.unsure))})
    shutil.rmtree(part / "evidence", ignore_errors=True)
    return params


def _collect(
    run: Context,
    part: Path,
    name: str,
    probabilities: Tensor,
    uncertainty: Tensor,
    options: RefinementOptions,
    generator: torch.Generator,
) -> None:
    """Keep a scan's evidence in ``part`` until the refinement."""
    prepared = run.study.prepared(name)
    image = prepared.image.float()
    spacing = prepared.frame.spacing
    if run.generalist.name == Mind.name:  # the same for any scale and offset of the intensities
        features = run.generalist.encode(image, spacing)
    else:  # these have been trained on scans as they are stored
        features = run.generalist.encode(prepared.frame.image(run.study.read(name).array), spacing)
    evidence = gather(image, features, probabilities, uncertainty, options, generator)
    content = {k: v.half() if v.is_floating_point() else v for k, v in vars(evidence).items()}
    save_tensors(_evidence_file(run, part, name), content)


def _load(run: Context, part: Path, name: str, *, wanted: bool) -> Evidence:
    """Read a scan's evidence; without ``wanted`` the part about its own unsure voxels is left empty."""
    content = load_tensors(_evidence_file(run, part, name))
    if not wanted:
        content["unsure"], content["wanted"] = content["unsure"][:0], content["wanted"][:0]
    return Evidence(**{k: v.float() if v.is_floating_point() else v.clone() for k, v in content.items()})


def _evidence_file(run: Context, part: Path, name: str) -> Path:
    return part / "evidence" / f"{run.study.file_name(name)}.pt"

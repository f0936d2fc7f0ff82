"""The pseudo-labels of a round of SemiSAM-O1: predictions, and their unsure voxels corrected; see ``refinement``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.core.devices import with_room
from lib.core.uncertainty import normalised_entropy, uncertainty_facts
from lib.generalists.mind import Mind
from lib.propagation import encoding_grid, features_on
from lib.recipes.engine.context import Context
from lib.recipes.engine.each_scan import each_scan, some_scans
from lib.recipes.engine.learned import missing_in
from lib.recipes.engine.prepared_study import load_tensors, save_tensors
from lib.recipes.engine.stages import change_of, counter, report_change, templates_of, with_earlier
from lib.specialists.predict import predict_prepared

from .refinement import Evidence, RefinementOptions, gather, refine, usual_distance

_KEPT = 128
"""Scans whose evidence is kept in memory."""


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
    outlined, names = run.study.dense(), run.study.unlabelled()
    seed = run.options.seed * 1009 + index
    one_after_another = torch.Generator().manual_seed(seed)
    numbers = {name: number for number, name in enumerate([*outlined, *names])}

    def random(name: str) -> torch.Generator:
        # Processes that share the scans cannot share one row of random numbers.
        if run.ranks.world == 1:
            return one_after_another
        return torch.Generator().manual_seed(seed * 1_000_003 + numbers[name])

    def outline(name: str) -> None:
        probabilities = run.study.target(name).probabilities.float()
        _collect(run, part, name, probabilities, torch.zeros(probabilities.shape[1:]), options, random(name))

    each_scan(run, outlined, outline)
    count = counter(run, "prediction", names)

    def predict(name: str) -> tuple[dict[str, object], float]:
        probabilities = predict_prepared(members, run.study.spec, run.study.prepared(name).image.float())
        uncertainty = normalised_entropy(probabilities)
        change = change_of(run, name, probabilities)
        run.study.write_target(part, name, probabilities, 1.0 - uncertainty)
        _collect(run, part, name, probabilities, uncertainty, options, random(name))
        return change, float(uncertainty.mean())

    def done(result: tuple[dict[str, object], float] | None) -> None:
        count({} if result is None else {"uncertainty": result[1]})

    report_change(run, [change for change, _ in some_scans(run, names, predict, done).values()])


def refine_study(run: Context, index: int, options: RefinementOptions) -> dict[str, dict[str, object]]:
    """Correct the unsure voxels of every prediction of the round and write its pseudo-labels.

    Returns:
        The params of every pseudo-label.
    """
    part = run.folder.begin_round(index, keep=True)
    run.reporter.begin("refinement", index)
    study = run.study
    names = study.unlabelled()
    everyone = [*study.dense(), *names]
    signatures = torch.stack([study.prepared(name).signature for name in everyone])
    # Scans ask those that are like them, which are like each other: few are read twice, and few are kept.
    evidence = lru_cache(_KEPT)(lambda name: _load(run, part, name, wanted=False))
    generator = torch.Generator().manual_seed(run.options.seed)
    usual = usual_distance((evidence(name) for name in everyone), generator)
    count = counter(run, "refinement", names)

    def correct(name: str) -> tuple[dict[str, object], float]:
        prepared = study.prepared(name)
        likeness = signatures @ prepared.signature
        order = sorted(range(len(everyone)), key=lambda n: (-float(likeness[n]), everyone[n]))
        others = [evidence(everyone[n]) for n in order[: options.scans + 1] if everyone[n] != name][: options.scans]
        own = _load(run, part, name, wanted=True)
        probabilities = study.read_target(part, name).probabilities.float()

        def compute(device: str) -> Tensor:
            asked = [other.to(device) for other in others]  # kept on the CPU: a GPU holds no study
            return refine(probabilities.to(device), own.to(device), asked, usual, options).cpu()

        refined = with_room(run.options.device, compute, "refinement")
        joined = with_earlier(run, name, refined)
        uncertainty = normalised_entropy(joined)
        study.write_target(part, name, joined, 1.0 - uncertainty)
        facts = uncertainty_facts(joined, uncertainty) | change_of(run, name, refined)
        facts |= {"templates": templates_of(run, index, name), "round": index, "source": "specialist"}
        label = prepared.frame.labels_back(joined)
        facts |= missing_in(study, label)
        params = run.keep_label(part, name, label, prepared.affine, facts)
        return params, float(len(own.unsure))

    def done(result: tuple[dict[str, object], float] | None) -> None:
        count({} if result is None else {"unsure_voxels": result[1]})

    found = {name: params for name, (params, _) in some_scans(run, names, correct, done).items()}
    if run.ranks.first:
        shutil.rmtree(part / "evidence", ignore_errors=True)
    return found


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

    begin = generator.get_state()

    def compute(device: str) -> Evidence:
        generator.set_state(begin)
        image = prepared.grey.to(device)
        if run.generalist.name == Mind.name:  # the same for any scale and offset of the intensities
            features = run.generalist.encode(image, prepared.frame.spacing)
        else:
            scan = run.study.read(name)
            grid = encoding_grid(scan, prepared.frame, run.generalist)
            features = run.generalist.encode(grid.image(scan.clipped), grid.spacing)
            if grid.box != prepared.frame.box:
                # No finer than they are: there are hundreds of them.
                coarse = grid.with_shape(features.shape[1:]).spacing
                spacing = [max(pair) for pair in zip(coarse, prepared.frame.spacing, strict=True)]
                features = features_on(prepared.frame.with_spacing(spacing), features, grid)
        return gather(image, features, probabilities.to(device), uncertainty.to(device), options, generator)

    evidence = with_room(run.options.device, compute, "evidence for the refinement")
    content = {k: v.half() if v.is_floating_point() else v for k, v in vars(evidence.to("cpu")).items()}
    save_tensors(_evidence_file(run, part, name), content)


def _load(run: Context, part: Path, name: str, *, wanted: bool) -> Evidence:
    """Read a scan's evidence; without ``wanted`` the part about its own unsure voxels is left empty."""
    content = load_tensors(_evidence_file(run, part, name))
    if not wanted:
        content["unsure"], content["wanted"] = content["unsure"][:0], content["wanted"][:0]
    return Evidence(**{k: v.float() if v.is_floating_point() else v.clone() for k, v in content.items()})


def _evidence_file(run: Context, part: Path, name: str) -> Path:
    return part / "evidence" / f"{run.study.file_name(name)}.pt"

"""The report of a finished run: what it was, how the training went, and what came out, with pictures."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import monai
import numpy as np
import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.core.json_files import write_json
from lib.core.resampling import resize
from lib.core.uncertainty import normalised_entropy
from lib.formats.label_files import read_label
from lib.generalists import Generalist, describing, weights_of
from lib.report import write_report
from lib.report.montage import montage
from lib.report.page import Picture, RoundFacts
from lib.specialists.checkpoint import Specialist, load_specialist
from lib.specialists.predict import predict
from lib.specialists.spec import SpecialistSpec

from .context import Context
from .options import NNUNET
from .record import read_record
from .report import FinishedRound

REPORT = "report.html"


def write_summary(run: Context, last: FinishedRound, seconds: float) -> Path:
    """Write ``report.html``, and ``environment.json`` with what else is needed to repeat the run, into its folder.

    Args:
        run: the run, finished.
        last: its last round.
        seconds: that this process has worked on it.

    Returns:
        The page.
    """
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "device": _device(run.options.device),
        "seconds": round(seconds, 1),
    }
    write_json(run.folder.path / "environment.json", environment)
    rounds = [facts for index in range(last.index + 1) if (facts := _facts(run, index)) is not None]
    page = run.folder.path / REPORT
    write_report(
        page,
        f"semisam: {run.options.recipe}, {run.folder.path.name}",
        _settings(run, environment),
        run.history.read(),
        rounds,
        pictures=_pictures(run, last, rounds[-1] if rounds else None),
        skipped=run.skipped,
    )
    return page


def _device(device: str) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


def _settings(run: Context, environment: dict[str, object]) -> dict[str, object]:
    options, spec = run.options, run.study.spec
    unsound = [name for name in run.study.unlabelled() if run.study.is_unsound(name)]
    grid, window = " x ".join(f"{s:g}" for s in spec.spacing), " x ".join(map(str, spec.roi_size))
    return {
        "recipe": options.recipe,
        "preset": options.preset,
        "rounds": run.budget.rounds,
        "epochs of a training": f"{run.budget.epochs} of {run.budget.iterations} steps, batch {run.budget.batch}"
        + (f", {run.budget.networks} of them in a round" if run.budget.networks > 1 else "")
        if options.network != NNUNET
        else "nnU-Net's own, see its log in the run folder",
        "seed": options.seed,
        "network": _network(options.network, spec),
        "regulariser": options.regulariser,
        "prompts": options.prompts,
        "fusion": options.fusion,
        "working grid": f"{grid} mm, window {window}",
        "structures": ", ".join(run.schema.names),
        "generalist": _models([describing(run.generalist, flat=run.study.spec.flat)]),
        **({"asked": _models(run.asked)} if len(run.generalists) > 1 else {}),
        "propagator": run.propagator.name,
        "outlined scans": ", ".join(run.study.human()),
        "scans without a label": len(run.study.unlabelled()),
        **({"of these, not learned from": ", ".join(unsound)} if unsound else {}),
        **environment,
        "run folder": run.folder.path.name,
    }


def _models(generalists: Sequence[Generalist]) -> str:
    known = weights_of(generalists).items()
    return ", ".join(f"{name} (weights {weights[:12]})" if weights else name for name, weights in known)


def _network(name: str, spec: SpecialistSpec) -> str:
    if name == NNUNET:
        return f"{name}, as it has planned it"
    return f"{spec.network}, channels {', '.join(map(str, spec.widths))}"


def _facts(run: Context, index: int) -> RoundFacts | None:
    """What is known of a finished round's pseudo-labels; None when it made none."""
    folder = run.folder.round(index)
    record = read_record(folder)
    if record is None or not record.names:
        return None
    facts = RoundFacts(index, {}, {}, {})
    agreement, confidence, volumes = dict(facts.agreement), dict(facts.confidence), dict(facts.volume_ml)
    for name in record.names:
        known = run.kept_facts(folder, name)
        if known is not None and known.agreement is not None:
            agreement[name] = known.agreement
        confidence[name] = known.confidence if known else 0.0
        volumes[name] = dict(known.volume_ml) if known else {}
    return RoundFacts(index, agreement, confidence, volumes)


def _pictures(run: Context, last: FinishedRound, facts: RoundFacts | None) -> list[Picture]:
    """An outlined scan, and the most, middling and least confident pseudo-labels."""
    if last.checkpoint is None:
        return []
    specialist = load_specialist(last.checkpoint, run.options.device)
    chosen = [(f"Outlined: {name}", name) for name in list(run.study.human())[:1]]
    if facts is not None:
        ordered = sorted(facts.confidence, key=lambda n: (-facts.confidence[n], n))
        places = {"Most confident": 0, "Middling": len(ordered) // 2, "Least confident": len(ordered) - 1}
        used: set[int] = set()
        for text, place in places.items():
            if place not in used:
                used.add(place)
                name = ordered[place]
                chosen.append((f"{text}: {name}, confidence {facts.confidence[name]:.3f}", name))
    return [_picture(run, last, title, name, specialist) for title, name in chosen]


def _label(run: Context, file: Path, name: str) -> np.ndarray | None:
    """A round's label, None when its file is not there or damaged: the page is written all the same."""
    try:
        return read_label(file, run.study.read(name), run.schema, may_be_empty=True)
    except UserError:
        return None


def _picture(run: Context, last: FinishedRound, title: str, name: str, specialist: Specialist) -> Picture:
    prepared = run.study.prepared(name)
    # As ``segment`` answers: nnU-Net has a grid of its own.
    answer = predict(specialist, run.study.read(name), part=prepared.frame)
    probabilities = resize(answer.probabilities, prepared.frame.shape)
    labels: dict[str, Tensor] = {}
    if name in run.study.human():
        labels["template"] = run.study.target(name).probabilities.float().argmax(0)
    else:
        for shown, index in (("propagation", 0), ("pseudo-label", last.index)):
            file = run.folder.round(index) / f"{run.study.file_name(name)}.nii.gz"
            label = _label(run, file, name)
            if label is not None:
                labels[shown] = prepared.frame.one_hot(label, run.schema.channels).argmax(0)
    labels["prediction"] = probabilities.argmax(0)
    address = montage(prepared.image.float(), labels, normalised_entropy(probabilities), prepared.frame.spacing)
    return Picture(title, address, list(labels))

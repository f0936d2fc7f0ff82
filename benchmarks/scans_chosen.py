"""``fm_abs`` with a foundation model: is it worth more to outline scans of the highest entropy ratio than random ones?

Two scans are outlined, and a specialist is trained. Two more are outlined: those with the highest ratio (HER), or two
that are drawn at random; and a specialist is trained anew. Scored on scans that are no part of the study.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import published_weights
from lib.formats.volumes import read_volume
from lib.generalists import Generalist
from lib.propagation import create_propagator
from lib.recipes import Case, RecipeOptions, RecipeSettings, RunRequest, SilentObserver, run_recipe
from lib.selection import by_value, threshold_at, uncertainty_of
from lib.specialists import Specialist, load_specialist, predict
from recipe_trainings import STEPS_OF_AN_EPOCH, Budget
from shared_encodings import SharedEncodings
from study_sets import StudySet

FIRST, MORE, DRAWS = 2, 2, 2
"""Scans outlined at first, and before the second training; random draws of these."""
WAYS = ("two outlined", "two more by HER", *(f"two more at random, draw {n + 1}" for n in range(DRAWS)))
Done = dict[str, list[float]]


def measure(study: StudySet, model: str, kept: dict[str, Done], save: Callable[[], None], budget: Budget) -> None:
    """Dice of each structure and processor seconds of a training, by way (``WAYS``) and held-out scan."""
    if set(WAYS) <= set(kept):
        return
    generalist = published_weights.generalist(model)
    inner: Any = getattr(generalist, "inner", generalist)
    if hasattr(inner, "network"):
        SharedEncodings.of(inner.network)
    first = study.scans[:FIRST]
    ratios = kept.setdefault("ratios", {})
    free = [scan for scan in study.scans if scan not in first]

    def more(way: str) -> list[str]:
        if way == WAYS[1]:
            return by_value(free, {scan: values[0] for scan, values in ratios.items()})[:MORE]
        return random.Random(f"{budget.seed} {way}").sample(free, MORE)

    for way in WAYS:
        if way in kept:
            continue
        outlined = first if way == WAYS[0] else [*first, *more(way)]
        begun = time.process_time()
        specialist = _trained(study, generalist, outlined, budget)
        seconds = round(time.process_time() - begun, 1)
        if way == WAYS[0]:
            beta = threshold_at(len(first) / len(study.scans))
            for scan in free:
                found = predict(specialist, read_volume(study.image(scan))).probabilities
                ratios[scan] = [uncertainty_of(found, beta).highest_entropy_ratio]
        kept[way] = {
            scan: [*study.dice(scan, predict(specialist, read_volume(study.image(scan))).labels()), seconds]
            for scan in study.held_out
        }
        print(f"{study.name}, fm_abs with {model}, seed {budget.seed}, {way}: {mean(kept[way]):.4f}", flush=True)
        save()


def _trained(study: StudySet, generalist: Generalist, outlined: Sequence[str], budget: Budget) -> Specialist:
    """What ``fm_abs`` trains with these scans outlined."""
    cases = [Case(n, study.image(n), study.label(n) if n in outlined else None) for n in study.scans]
    epochs = max(1, budget.steps // STEPS_OF_AN_EPOCH)
    options = RecipeOptions(recipe="fm_abs", preset="quick", rounds=1, max_epochs=epochs, seed=budget.seed)
    with tempfile.TemporaryDirectory() as folder:
        request = RunRequest(cases, study.schema, options, RecipeSettings(), Path(folder))
        result = run_recipe(
            request, generalist=generalist, propagator=create_propagator("registration"), observer=SilentObserver()
        )
        return load_specialist(result.checkpoint, "cpu")


def mean(done: Done) -> float:
    """Mean Dice over structures and scans."""
    return statistics.fmean(value for values in done.values() for value in values[:-1])


def rows_of(study: StudySet, model: str, kept: dict[str, Done]) -> list[list[object]]:
    """The table's rows; gains are over the mean of the random draws."""
    drawn = statistics.fmean(mean(kept[way]) for way in WAYS[2:])
    rows: list[list[object]] = []
    for way in WAYS:
        gains = [
            statistics.fmean(kept[way][scan][:-1])
            - statistics.fmean(statistics.fmean(kept[other][scan][:-1]) for other in WAYS[2:])
            for scan in study.held_out
        ]
        seconds = next(iter(kept[way].values()))[-1]
        own = mean(kept[way])
        rows.append(
            ["choice", study.name, f"{model}, {way}", own, f"{own - drawn:+.4f}", f"{min(gains):+.4f}", seconds]
        )
    return rows

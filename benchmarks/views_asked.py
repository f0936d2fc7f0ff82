"""What ``fm_abs`` asks a 2D model about labels that were carried over: in one view, in two, and in three."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

import published_weights
from common import Store
from lib.generalists.mind import Mind
from lib.recipes import FinishedRound
from lib.recipes.engine.context import Context
from lib.recipes.engine.each_scan import stored_view
from lib.recipes.engine.round_zero import propagate_study
from lib.recipes.fm_abs.answerers import answerer_of
from lib.recipes.fm_abs.assistant import VIEWS, SliceAssistant, SliceOptions
from lib.recipes.fm_abs.fusion import NOBODY, fuse
from recipe_trainings import run_instead
from study_sets import StudySet

WAYS = ("carried over", "one view", "two views agree", "two of three", "three agree")


def key_of(study: StudySet, model: str, way: str, seed: int) -> str:
    """Under which results are kept."""
    return f"views {study.name} {model}, {way} seed {seed}"


def asked_in_views(study: StudySet, model: str, store: Store, seed: int) -> None:
    """Dice of carried-over labels in which what the views agree on has taken the label's place, by way and scan.

    ``mind`` stands for the graph cut that answers without weights.
    """
    kept = {way: store.data.setdefault(key_of(study, model, way, seed), {}) for way in WAYS}
    missing = [scan for scan in study.scans[1:] if scan not in kept[WAYS[-1]]]
    if not missing:
        return

    def instead(run: Context, _: FinishedRound | None) -> FinishedRound:
        finished = propagate_study(run)
        answerer = answerer_of(published_weights.generalist(model))
        assistant = SliceAssistant(
            answerer, lambda name: stored_view(run, name), lambda name: None, run.schema.channels, SliceOptions()
        )
        assistant.start(lambda image: image, 100, torch.Generator().manual_seed(seed))
        for name in missing:
            begun = time.process_time()
            seen = run.study.sample(name).target.argmax(dim=0)
            opened = answerer.open(stored_view(run, name))
            views = torch.stack([assistant._look(opened, view, seen) for view in VIEWS])
            seconds = round(time.process_time() - begun, 1)
            for way, label in _joined(seen, views).items():
                one_hot = torch.nn.functional.one_hot(label.long(), run.schema.channels).movedim(-1, 0).float()
                found = run.study.prepared(name).frame.labels_back(one_hot)
                kept[way][name] = [*study.dice(name, found), seconds]
                print(f"{study.name}, {model}, {way}, {name}: {kept[way][name]}", flush=True)
            store.save()
        return finished

    run_instead(study, instead, Mind(), seed=seed)


def _joined(seen: Tensor, views: Tensor) -> Mapping[str, Tensor]:
    """The label ``[D, H, W]`` of each way; where there is no agreement, what was carried over stands."""
    agreed = {
        "one view": views[0],
        "two views agree": torch.where(views[0] == views[1], views[0], torch.full_like(views[0], NOBODY)),
        "two of three": fuse(views, "majority"),
        "three agree": fuse(views, "unanimous"),
    }
    joined = {way: torch.where(label == NOBODY, seen.to(label.dtype), label) for way, label in agreed.items()}
    return {"carried over": seen, **joined}

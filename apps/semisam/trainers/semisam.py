"""The trainer ``semisam``: a recipe of ``lib.recipes`` on the study, in MONAI Label's training subprocess."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from lib.core.errors import UserError
from lib.core.files import check_space, space_error, write_whole
from lib.core.leftovers import remove_leftovers
from lib.core.negatives import only_negative
from lib.formats.pictures import PICTURES
from lib.generalists import unwrap
from lib.parallel.ranks import Ranks, end_with_the_others
from lib.recipes import (
    CHOICES,
    RECIPES,
    RecipeOptions,
    RecipeSettings,
    RunRequest,
    network_2d,
    parse_options,
    resolve,
    run_recipe,
)
from lib.recipes.engine.job import Job
from lib.recipes.engine.options import NNUNET, preset_names
from lib.recipes.engine.recipe import asked_of
from server.jobs.launch import launch, processes
from server.jobs.records import true_stats
from server.options import TRAIN, check_keys
from server.requests.devices import device_choices
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study
from server.upstream.local_datastore import folder_of

from .observer import TrainingObserver

logger = logging.getLogger("semisam.train")

LEAST_SPACE = 100 * 2**20
"""Bytes that must be free before a training is accepted. The training itself looks again when it knows its size."""


class SemiSamTrainer(TrainTask):
    """Trains the specialist from the outlined scans and from labels that it makes for all others.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__("semisam: train a specialist on the whole study from the scans you have outlined")
        self.study = study

    def config(self) -> dict[str, Any]:
        """Options as viewers show them; the first entry of a list is the default, 0 means the preset's number."""
        return {
            "recipe": list(RECIPES),
            "preset": preset_names(device_choices()[0]),
            "rounds": 0,
            "max_epochs": 0,
            "seed": 0,
            "device": device_choices(),
            "multi_gpu": False,
            **{name: list(allowed) for name, allowed in CHOICES.items()},
        }

    def stats(self) -> dict[str, Any]:
        """Where the last training stands; empty before the first."""
        try:
            content = json.loads((self.study.folder / "train_stats.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        return true_stats(content if isinstance(content, dict) else {}, self.study.place, self.study.folder / "runs")

    def check(self, request: Mapping[str, Any]) -> RecipeOptions:
        """Look at a training request before anything is started.

        Raises:
            UserError: for an unknown option or a bad value, when there is no usable ``final`` label, or no space.
        """
        # The deprecated POST /train/ sends the options of each trainer under the trainer's name, and once more flat.
        flat = {k: v for k, v in request.items() if k != "semisam" or not isinstance(v, Mapping)}
        check_keys(flat, self.config(), TRAIN, "The trainer 'semisam'")
        options = resolve(parse_options(flat), self.study.settings.generalists)
        if options.network == NNUNET and processes(flat, options.device) > 1:
            raise UserError("multi_gpu: nnU-Net trains on one GPU. Switch multi_gpu off, or choose another network.")
        self.study.check_generalist(*asked_of(RECIPES[options.recipe].asks, self.study.settings.generalists))
        checks = {item.name: self.study.check(item) for item in self.study.usable()}
        usable = set(checks)
        if any(check.image.name.lower().endswith(PICTURES) for check in checks.values()):
            network_2d(options)
        if all(check.empty for check in checks.values()):
            raise UserError(only_negative(sorted(usable)), status=409)
        if RECIPES[options.recipe].propagates:
            self.study.fully_annotated()
        if not set(self.study.datastore.list_images()) - usable:
            logger.info("Every scan has a final label: the training has no pseudo-labels to make")
        _check_folder(self.study.folder)
        return options

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; returns the last statistics.

        Raises:
            UserError: when something stands in the way; finished rounds are kept.
        """
        options = self.check(request)
        study = self.study
        ranks = Ranks.current()
        observer = TrainingObserver(study, options)
        count = processes(request, options.device)
        if count > 1:
            return self._by_several(count, request, observer)
        try:
            if ranks.first:
                remove_leftovers(_folders(study))
            job = self._job(options, observer)
            if ranks.world > 1:
                end_with_the_others()
                ranks.gather(job)
            asked = asked_of(RECIPES[options.recipe].asks, study.settings.generalists)
            for generalist in study.generalists:
                if generalist is study.generalist or generalist.name in asked:
                    unwrap(generalist)  # weights that cannot be loaded are no fault of the scans
            result = run_recipe(
                job.request,
                generalist=study.generalist,
                further=study.generalists[1:],
                propagator=study.propagator,
                observer=observer,
                ranks=ranks,
            )
        except Exception as error:
            observer.failed(error)
            raise
        observer.finished(result)
        return self.stats()

    def _by_several(self, count: int, request: Mapping[str, Any], observer: TrainingObserver) -> dict[str, Any]:
        """Let several processes train; the first of them reports and publishes."""
        logger.info("Training with %d processes", count)
        status = launch(count, "train", request)
        stats = self.stats()
        if status == 0:
            return stats
        if stats.get("stage") == "failed":
            raise UserError(str(stats.get("message")), status=500)
        error = UserError(
            f"One of the {count} processes of the training has ended before its time (status {status}): it was killed, "
            "or ran out of memory. Finished rounds and scans are kept: train again to go on.",
            status=500,
        )
        observer.failed(error)
        raise error

    def _job(self, options: RecipeOptions, observer: TrainingObserver) -> Job:
        """The run, as other processes need to know it."""
        study = self.study
        cases = study.cases()
        used = {case.name for case in cases}
        for name in study.datastore.list_images():
            if name not in used:
                observer.leave_out(name, self._unusable(name))
        return Job(
            request=RunRequest(
                cases=cases,
                schema=study.schema,
                options=options,
                settings=RecipeSettings(spacing=study.settings.spacing, roi_size=study.settings.roi_size),
                folder=study.folder / "runs",
            ),
            tools=study.tools,
        )

    def _unusable(self, name: str) -> str:
        """Why a scan of the study is not among the cases of a training."""
        item = self.study.final_label(name)
        try:
            if item is not None:
                self.study.check(item)
        except UserError as error:
            return str(error)
        return "its files could not be fetched"


def _folders(study: Study) -> list[Path]:
    """Where trainings, and requests beside them, write files that others read."""
    folders = [study.folder, study.place, study.folder / "labels"]
    own = folder_of(study.datastore)
    if own is not None:
        folders += [own, *(own / "labels" / tag for tag in ("", FINAL, ORIGINAL))]
    return folders


def _check_folder(folder: Path) -> None:
    """Raise UserError (507) unless something can be written to ``folder`` and some space is left there."""
    probe = folder / ".space"
    try:
        check_space(folder, LEAST_SPACE)
        write_whole(probe, lambda name: Path(name).write_bytes(b"\0" * 4096))
        probe.unlink(missing_ok=True)
    except PermissionError as error:
        logger.error("%s cannot be written: %s", folder, error)
        raise UserError(
            "The server's folder of models cannot be written: give its user the right to. The log names the folder.",
            status=507,
        ) from error
    except OSError as error:
        raise space_error(error, folder) or error from error

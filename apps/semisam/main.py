"""semisam: one outlined scan in, a segmented study out. The MONAI Label server app.

MONAI Label runs this file and looks for the one class that extends MONAILabelApp. The app folder is on the path only
meanwhile, so everything is imported here, at the top. Run directly, this file is the command line of ``lib.setup``.
"""

# ruff: noqa: E402 (the modules of an earlier load have to go before ours are imported)

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Training, batch infer and the server share the cores. OpenMP threads that spin while they wait for each other then
# slow everything down (measured: a propagation of 3 s took 80 s beside three other jobs, 7 s with waiting threads
# asleep). OpenMP reads this when torch is loaded: it counts for the jobs the server starts. The server itself has torch
# already, however it was started: see lib/upstream/gnu_openmp.py.
SPINS = "torch" in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    # The command line does not need the server: it is there at once.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    try:
        if sys.argv[1:2] in (["train"], ["score"]):
            from server.jobs.shared_command import main as shared

            shared(sys.argv[1], sys.argv[2:])
        if sys.argv[1:2] in (["export"], ["import"]):
            from server.exchange.command import main as exchange

            exchange(sys.argv[1], sys.argv[2:])
        from lib.setup.command_line import main
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing in {sys.executable}. Run this with semisam's own Python: .venv/bin/python")

    sys.exit(main())

from server.upstream.app_loading import forget_earlier_load

forget_earlier_load()

import torch
from monailabel.config import settings as server_settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

import infers
import strategies
from lib.core.errors import UserError
from lib.formats.channels import set_channels
from lib.formats.limits import set_limit
from lib.generalists import RESIDENTS, check_generalist, describe_generalists
from lib.setup.settings import Settings
from lib.upstream.gnu_openmp import wait_asleep
from scoring import PseudoLabelQuality, Representativeness, StudyScoring, UncertaintyScoring, score_study
from server.dicomweb.datastore import open_dicomweb
from server.errors import LOG, http_answers, text_of
from server.jobs.automatic_scoring import AutomaticScoring
from server.jobs.process import Jobs
from server.jobs.records import BATCH, TRAIN
from server.jobs.records import SCORING as SCORING_JOB
from server.jobs.startup import job, stop_start
from server.jobs.system_processes import follow_server
from server.options import SAMPLE, SCORING, check_keys, check_name, check_plain
from server.people.installing import check as check_login
from server.requests.batch import BatchInfer, check_batch
from server.requests.inference import infer
from server.requests.submitted import forget, saved
from server.requests.validation import running
from server.serving import serve
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from server.study_page import routes as study_page
from server.upstream import installing
from server.upstream.sessions import OwnSessions
from trainers import SemiSamTrainer

logger = logging.getLogger("semisam")

if SPINS:
    wait_asleep()

VERSION = "0.1.0"


class SemiSam(OwnSessions, MONAILabelApp):
    """The server app: makes the parts and hands requests to them.

    Args:
        app_dir: this folder.
        studies: folder or DICOMweb address of the study.
        conf: the ``--conf`` strings, see ``lib.setup.settings``.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.serving = False
        self._jobs: Jobs | None = None
        follow_server()
        self._automatic_scoring = AutomaticScoring()
        try:
            self.settings = Settings.from_conf(conf)
            set_limit(self.settings.max_voxels)
            set_channels(self.settings.channels)
            installing.before_start(studies)
            check_login(self.settings)
            self._look_for_weights()
            super().__init__(
                app_dir=app_dir,
                studies=studies,
                conf=dict(conf),
                name="semisam",
                description=f"Outline one scan; the rest of the study follows. In a browser: {study_page.PATH}/",
                version=VERSION,
            )
        except UserError as error:
            stop_start(error)

    def _look_for_weights(self) -> None:
        """A generalist without its file is no reason not to start: labels can be outlined, and the file brought."""
        for name in self.settings.generalists:
            try:
                check_generalist(name, self.settings.weights_folder)
            except UserError as error:
                logger.warning("%s", error)

    # --- parts ----------------------------------------------------------------------------------------------------

    def init_datastore(self) -> Datastore:
        """The study's datastore: ours for a folder or a DICOMweb server, MONAI Label's own for XNAT and DSA."""
        if self.studies.startswith(("http://", "https://")) and server_settings.MONAI_LABEL_DATASTORE:
            datastore = super().init_datastore()
        elif self.studies.startswith(("http://", "https://")):
            datastore = open_dicomweb(self.studies.strip().rstrip("/"), self.settings)
        else:
            read_only, follow = server_settings.MONAI_LABEL_DATASTORE_READ_ONLY, self.settings.follow_links
            datastore = StudyDatastore(self.studies, read_only=read_only, follow_links=follow)
        self.study = Study(self.studies, datastore, self.settings, Path(self.app_dir) / "model" / "semisam")
        if isinstance(datastore, StudyDatastore):
            datastore.on_gone = lambda name: forget(self.study, name)
        return datastore

    def init_infers(self) -> dict[str, InferTask]:
        """Infer tasks by name."""
        return {
            "propagate": infers.Propagate(self.study),
            "segment": infers.Segment(self.study),
            "review": infers.Review(self.study),
            "uncertainty": infers.Uncertainty(self.study),
            "prompt": infers.Prompt(self.study),
        }

    def init_trainers(self) -> dict[str, TrainTask]:
        """The trainer."""
        return {"semisam": SemiSamTrainer(self.study)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Strategies by name; ``random`` is the default one, under the only name that OHIF asks for."""
        known: dict[str, Strategy] = {
            "recommended": strategies.Recommended(self.study),
            "template": strategies.Template(self.study),
            **{
                name: strategies.HighestUncertainty(self.study, name, text)
                for name, text in strategies.MEASURES.items()
            },
            "review": strategies.Review(self.study),
            "uniform": strategies.Uniform(self.study),
        }
        return {**known, "random": known[self.settings.default_strategy]}

    def init_scoring_methods(self) -> dict[str, StudyScoring]:
        """Scoring methods by name, in the order in which they are worked out."""
        methods = (Representativeness(self.study), UncertaintyScoring(self.study), PseudoLabelQuality(self.study))
        return {method.name: method for method in methods}

    def init_batch_infer(self) -> Callable[..., Any]:
        """Batch infer."""
        return BatchInfer()

    # --- requests -------------------------------------------------------------------------------------------------

    def server_mode(self, mode: bool) -> None:
        """Called with True in the process that answers clients; not in those of its jobs."""
        super().server_mode(mode)
        self.serving = mode
        if mode:
            self._jobs = serve(self.study, self._killed)

    def on_init_complete(self) -> None:
        """Called once clients are answered."""
        super().on_init_complete()
        study_page.tell_address()
        study_page.look_ahead()

    def info(self) -> dict[str, Any]:
        """What clients show; the structures may have changed since the start."""
        self.labels = list(self.study.schema.names)
        datastore = self.datastore()
        left_out = datastore.left_out if isinstance(datastore, StudyDatastore) else {}
        generalists = describe_generalists(self.settings.generalists, self.settings.weights_folder)
        more = {"generalists": generalists, "left_out": left_out, "killed_jobs": self._killed()}
        return {**super().info(), **{key: told for key, told in more.items() if told}}

    def check_job(self, method: str, request: Mapping[str, Any]) -> None:
        """Raise HTTPException when a job cannot be carried out, see ``server.requests.validation``."""
        with http_answers():
            if method == "train":
                self._trainer(request).check(request)
                if self._jobs is not None:
                    self._jobs.check_elsewhere(TRAIN)
                self._automatic_scoring.give_way(self._jobs)
                if torch.cuda.is_available() and not running("train"):
                    # The job loads what it needs itself; on a GPU there may not be room for both.
                    self._infers["prompt"].release()
                    RESIDENTS.release()
            elif method == "batch_infer":
                check_batch(request, self._infers, self.datastore())
                self._automatic_scoring.give_way(self._jobs)
            elif method == "scoring":
                self._scoring(request)[0].ready()
                self._automatic_scoring.give_way(self._jobs)

    @property
    def trainer(self) -> SemiSamTrainer:
        """The one trainer."""
        return self._trainer({"model": "semisam"})

    @property
    def jobs(self) -> Jobs | None:
        """The jobs of this server; None in the process of a job."""
        return self._jobs

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """One scan, one label."""
        with http_answers():
            return infer(request, self._infers, self.study, self.sessions().store_path if self.sessions() else "")

    def batch_infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> Any:
        """Many scans, in a subprocess."""
        with self._job("Batch infer", BATCH, f"Labels made so far are stored. {LOG}"):
            return super().batch_infer(request, datastore)

    def train(self, request: Mapping[str, Any]) -> Any:
        """A training, in a subprocess."""
        with self._job("Training", TRAIN, f"Finished rounds are kept: train again to go on. {LOG}"):
            return self._trainer(request)(request, self.datastore())

    def scoring(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> Any:
        """Scoring methods, in a subprocess."""
        with self._job("Scoring", SCORING_JOB, LOG):
            return score_study(self.study, self._scoring(request), request)

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The scan a person should look at next; nothing when all are done."""
        with http_answers():
            name = check_name(request.get("strategy") or "random", self._strategies, "strategy")
            check_keys(request, (), SAMPLE, f"Strategy {name!r}")
            check_plain(request, "The request")
            return dict(super().next_sample({**request, "strategy": name}))

    def suggest(self) -> dict[str, str]:
        """The scan that the default strategy would offer, without offering it."""
        strategy: strategies.StudyStrategy = self._strategies["random"]
        return strategy.suggest()

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> Any:
        """MONAI Label starts all methods at every chance; here one job for what is due, and only while nothing runs."""
        if method is not None:
            return super().async_scoring(method, params)
        if not self.serving or any(running(kind) for kind in ("train", "batch_infer", "scoring")):
            return {}
        try:
            due = [name for name, scoring in self._scoring_methods.items() if scoring.due()]
            return self._automatic_scoring.start(due) if due else {}
        except Exception as error:
            # Whoever asked for the next scan must get it.
            logger.warning("Scoring does not start by itself: %s", text_of(error))
            return {}

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """A person has saved a label: it stays, but say at once when it cannot be used, and what comes next."""
        return saved(self.study, image_id)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _killed(self) -> dict[str, str]:
        """Jobs that ended without a word, by their kind."""
        return self._jobs.killed() if self._jobs is not None else {}

    def _job(self, what: str, kind: str, advice: str) -> Any:
        return http_answers() if self.serving else job(what, kind, self.study.place, advice=advice)

    def _trainer(self, request: Mapping[str, Any]) -> SemiSamTrainer:
        trainer: SemiSamTrainer = self._trainers[check_name(request.get("model"), self._trainers, "trainer")]
        return trainer

    def _scoring(self, request: Mapping[str, Any]) -> list[StudyScoring]:
        """The methods a request names: ``method``, and those of ``then`` that are to share its pass over the study."""
        name = check_name(request.get("method"), self._scoring_methods, "scoring method")
        check_keys(request, ("then",), SCORING, f"Scoring method {name!r}")
        more = request.get("then") or []
        if not isinstance(more, list):
            raise UserError(f"then: {more!r} is not allowed. Give a list of scoring methods.")
        names = dict.fromkeys([name, *(check_name(n, self._scoring_methods, "scoring method") for n in more)])
        return [self._scoring_methods[n] for n in names]

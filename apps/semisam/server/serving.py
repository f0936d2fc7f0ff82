"""What is put in place where clients are answered, and not in the processes of jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from monailabel.config import settings as server_settings

from lib.core.errors import UserError
from server.exchange import routes as exchange
from server.exchange.at_start import import_at_start
from server.health import metrics
from server.health import route as health
from server.jobs.process import Jobs
from server.jobs.startup import stop_start
from server.people import installing as people
from server.store.empty_study import emptiness
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from server.study_page import routes as study_page
from server.upstream import installing
from server.upstream.app_loading import web_application
from server.web import reports

logger = logging.getLogger("semisam")


def serve(study: Study, killed: Callable[[], Mapping[str, str]]) -> Jobs:
    """Put the addresses and checks in place, and look after the jobs and files of a study.

    Args:
        study: the study.
        killed: gives the kinds of jobs that ended without a word.

    Returns:
        The jobs of this server.
    """
    web = web_application()
    if web is not None:
        installing.for_clients(web, study.settings)
        measured = metrics.install(web, killed)  # before the gate: what that refuses counts, too
        people.install_gate(web, study.settings, study.place)
        reports.install(web)
        study_page.install(web)
        health.install(web, killed, measured)
        exchange.install(web, study.place)
    if text := emptiness(study):
        logger.warning("%s: %s", study.location, text)
    jobs = Jobs(study.place, lambda: study.folder / "runs")
    jobs.install()
    datastore = study.datastore
    if isinstance(datastore, StudyDatastore):
        datastore.serving = True
        if server_settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD:
            datastore.watch()
    try:
        import_at_start(study)
    except UserError as error:
        stop_start(error)
    return jobs

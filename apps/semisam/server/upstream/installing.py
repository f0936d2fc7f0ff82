"""When each patch is put in place: before the app starts, and once more where it answers clients."""

from __future__ import annotations

from fastapi import FastAPI

from lib.setup.settings import Settings

from . import (
    cross_origin,
    dicom_proxy,
    endpoint_input,
    gpu_route,
    image_download,
    infer_endpoint,
    job_requests,
    log_secrets,
    login_route,
    model_files,
    ohif,
    reload_route,
    token_check,
    validation_answers,
)


def before_start(studies: str) -> None:
    """What counts in every process that loads the app.

    Args:
        studies: folder or address of the study.

    Raises:
        UserError: for an address with a password.
    """
    log_secrets.check_address(studies)
    log_secrets.install()
    job_requests.install()


def for_clients(app: FastAPI, settings: Settings) -> None:
    """What counts in the process that answers clients.

    Args:
        app: MONAI Label's web application.
        settings: what the administrator chose.
    """
    token_check.install()
    reload_route.install(app)
    cross_origin.install(app, settings.origins)
    validation_answers.install(app)
    for routes in (login_route, gpu_route, dicom_proxy, model_files, ohif):
        routes.install(app)
    endpoint_input.install(app)
    infer_endpoint.install(app)
    image_download.install()

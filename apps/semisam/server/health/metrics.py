"""``GET /semisam/metrics``: what the server does, in Prometheus' text format, without a log-in and without names.

Requests are counted by their route as it is written in the program (``/infer/{model}``), never by what was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from fastapi import APIRouter, FastAPI
from fastapi.responses import Response
from monailabel.interfaces.utils.app import app_instance
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import http_answers
from server.jobs.records import BATCH, SCORING, TRAIN
from server.requests.validation import running
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study
from server.upstream.middleware import add_innermost
from server.upstream.routes import first_time

from .checks import health_of

PATH = "/semisam/metrics"
_Values = Mapping[tuple[str, ...], float]
"""Values by the values of their labels."""
_OTHER = "other"
_METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS")
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
"""Bounds of the classes of seconds: an answer from a list takes milliseconds, a foundation model on a CPU minutes."""


def install(app: FastAPI, killed: Callable[[], Mapping[str, str]]) -> APIRouter:
    """Count requests from now on; once, however often the app is loaded.

    Args:
        app: MONAI Label's web application.
        killed: gives the kinds of jobs that ended without a word.

    Returns:
        The route. It does not belong to the application, whose answers wait for each other.
    """
    router = APIRouter(tags=["semisam"])
    if not first_time(app, "metrics"):
        return router
    registry = registry_of(lambda: app_instance().study, killed)
    add_innermost(app, Counting, registry=registry)

    @router.get(PATH, summary="What the server does, in Prometheus' text format")
    def metrics() -> Response:
        with http_answers():
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


def registry_of(study: Callable[[], Study], killed: Callable[[], Mapping[str, str]]) -> CollectorRegistry:
    """What is measured: the process (memory, CPU, files), and the study each time somebody asks.

    Args:
        study: gives the study.
        killed: gives the kinds of jobs that ended without a word.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_StudyCollector(study, killed))
    return registry


class Counting:
    """A middleware that counts requests and the seconds that they took.

    Args:
        app: what comes next.
        registry: where they are counted.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._count = Counter(
            "semisam_requests", "Requests that were answered", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "semisam_request_seconds", "Time until an answer is sent", ("route",), registry=registry, buckets=_SECONDS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request; the interface is ASGI's."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, counted = time.monotonic(), 500, False

        def count() -> None:
            nonlocal counted
            if counted:
                return
            counted = True
            route = str(getattr(scope.get("route"), "path", None) or _OTHER)
            method = scope["method"] if scope["method"] in _METHODS else _OTHER
            self._count.labels(method, route, str(status)).inc()
            self._seconds.labels(route).observe(time.monotonic() - began)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            elif not message.get("more_body", False):
                count()  # before the answer is out: what is done after it has its own time
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            count()


class _StudyCollector(Collector):
    """Looks at the study when somebody asks."""

    def __init__(self, study: Callable[[], Study], killed: Callable[[], Mapping[str, str]]) -> None:
        self._study, self._killed = study, killed

    def describe(self) -> list[Metric]:
        """Nothing is known before somebody asks."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The values of now."""
        study = self._study()
        health = health_of(study, self._killed())
        yield _gauge("semisam_ready", "Whether the server can work", {(): float(health.ready)})
        checks: _Values = {(each.name,): float(each.good) for each in health.checks}
        yield _gauge("semisam_check", "Whether a thing is as it should be", checks, "check")
        jobs: _Values = {(kind,): float(bool(running(kind))) for kind in (TRAIN, BATCH, SCORING)}
        yield _gauge("semisam_job_running", "Whether a job runs", jobs, "job")
        yield _gauge("semisam_scans", "Scans of the study by their label", _scans(study), "label")
        if study.published.is_file():
            moment = study.published.stat().st_mtime
            yield _gauge("semisam_network_timestamp_seconds", "When the network in service was made", {(): moment})
        if torch.cuda.is_available():
            memory: _Values = {
                (str(n),): float(torch.cuda.memory_reserved(n)) for n in range(torch.cuda.device_count())
            }
            yield _gauge("semisam_gpu_memory_bytes", "GPU memory that the server holds", memory, "gpu")


def _scans(study: Study) -> _Values:
    """How many scans have a final label, a pseudo-label only, or none."""
    store, found = study.datastore, dict.fromkeys(("final", "pseudo-label", "none"), 0)
    for name in store.list_images():
        final, original = (store.get_label_by_image_id(name, tag) for tag in (FINAL, ORIGINAL))
        found["final" if final else "pseudo-label" if original else "none"] += 1
    return {(label,): float(count) for label, count in found.items()}


def _gauge(name: str, text: str, values: _Values, *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family

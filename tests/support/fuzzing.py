"""Random requests to a running server, and how to see that none of them did harm."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil  # type: ignore[import-untyped]
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lib.setup.settings import STRATEGIES
from server_process import Server

SECONDS = 60.0
"""The most that one request may take; the machine may be busy with other tests."""

MONAI_LABELS_OWN = (
    ("POST", r"/infer/.*", "Neither Image nor File", "no scan is named; MONAI Label answers before the app is asked"),
    ("POST", r"/infer/wsi_v2/.*", "Neither Image nor File", "the same for whole-slide images"),
)
"""Answers with status 500 that MONAI Label gives by itself: method, path, part of the text, reason.

The same list is in docs/reference/errors.md.
"""

MODELS = ("propagate", "segment", "review", "uncertainty", "prompt")
SCORINGS = ("representativeness", "uncertainty", "pseudo_label_quality")
TEXTS = (
    *("", " ", ".", "..", "../../evil", "/etc/passwd", "..\\..\\evil", "%2e%2e%2fevil", "file:///etc/passwd"),
    *("case_2\0", "\ud800", "\u202e", "ß" * 300, "a" * 5000, "null", "NaN", "-1", "1e999", "${HOME}", "`id`", "$(id)"),
    *("case_1", "case_2", "labels", "final", "original", "datastore_v2.json", ".lock", "ball", "rod", "all", "true"),
)
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**400, -0.0, 1e308, float("nan"), float("inf"), float("-inf"), 0.5)
KEYS = (
    *("max_templates", "image", "label", "label_tag", "labels", "save_label", "result_extension", "result_dtype"),
    *("result_compress", "roi", "foreground", "background", "slice", "reset_state", "client_id", "session"),
    *("device", "gpus", "model", "images", "max_batch_size", "max_workers", "recipe", "preset", "rounds"),
    *("max_epochs", "seed", "network", "regulariser", "prompts", "fusion", "enqueue", "bundle_path", "then"),
    *("method", "strategy", "ball", "logging", "semisam", "uncertainty", "dicom_seg", "label_info", "timeout"),
    *("file", "description", "user", "name", "_id"),
)

scalars = st.one_of(st.sampled_from(TEXTS), st.sampled_from(NUMBERS), st.booleans(), st.none())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(TEXTS), inner, max_size=3)),
    max_leaves=8,
)
options = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)
documents = st.one_of(options, options, values).map(json.dumps)
"""JSON as a client may send it: NaN and infinity, too."""


# --- what must not happen ---------------------------------------------------------------------------------------------


def own_500(method: str, path: str, text: str) -> bool:
    """Whether an answer is one of those that MONAI Label gives by itself."""
    return any(m == method and re.fullmatch(p, path) and part in text for m, p, part, _ in MONAI_LABELS_OWN)


def stamps(server: Server) -> dict[str, tuple[int, int]]:
    """All files that the server might reach by mistake: around study and app, in its home and temporary folders."""
    study, app = server.study, server.app
    allowed = [study, app / "model", app / "logs", server.folder / "sessions", server.log]
    found = {}
    for base in (study.parent, server.folder):
        for path in base.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and not any(path.is_relative_to(a) for a in allowed):
                status = path.stat()
                found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found


def jobs(server: Server) -> Counter[str]:
    """How many jobs of each kind run."""
    assert server.process is not None
    kinds: Counter[str] = Counter()
    for child in psutil.Process(server.process.pid).children():
        try:
            words = child.cmdline()
        except psutil.Error:
            continue  # it has just ended
        if "-m" in words and "monailabel.interfaces.utils.app" in words:
            kinds[words[words.index("-m", words.index("monailabel.interfaces.utils.app")) + 1]] += 1
    return kinds


def stop_jobs(server: Server) -> None:
    """End what the requests have started, also what waits."""
    until = time.monotonic() + 120
    quiet = 0
    while quiet < 3 and time.monotonic() < until:
        for path in ("/train/", "/batch/infer", "/scoring/"):
            server.get(path)
            requests.delete(server.url + path, timeout=SECONDS)
        quiet = 0 if jobs(server) else quiet + 1
        time.sleep(0.3)
    assert not jobs(server)


def works(server: Server) -> None:
    """What the server is for still goes."""
    stop_jobs(server)
    reply = server.infer("propagate", "case_2", result_extension=".nii.gz")
    assert reply.ok, reply.text[:500]
    assert server.post("/activelearning/random", json={}).ok


# --- random requests --------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    own: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    most_jobs: int = 0


def spiced(case: Any, draw: Callable[[Any], Any]) -> Any:
    """Half of what schemathesis makes up becomes names and options that get past the first look."""
    deletes = case.method.upper() == "DELETE"
    texts = [t for t in TEXTS if not (deletes and t.startswith("case"))]
    names = {"model": [*MODELS, "semisam"], "strategy": [*STRATEGIES, "random"], "method": list(SCORINGS)}
    for key in list(case.path_parameters or ()):
        if draw(st.integers(0, 3)):
            case.path_parameters[key] = draw(st.sampled_from(names.get(key, ["latest", "case_2", "x"])))
    for key in list(case.query or ()):
        if draw(st.booleans()):
            case.query[key] = draw(st.sampled_from(texts))
    if case.path.startswith("/infer") and draw(st.booleans()):
        case.query = {**(case.query or {}), "image": draw(st.sampled_from(["case_2", "case_3", *texts]))}
    if isinstance(case.body, dict) and case.media_type and "json" not in case.media_type:
        for key in ("params", "info", "wsi"):
            if draw(st.integers(0, 3)):
                case.body[key] = draw(documents)
    return case


def send(server: Server, case: Any, body: str | None) -> requests.Response:
    """One request, as schemathesis would send it; ``body`` goes in place of its JSON."""
    if body is None:
        return case.call(base_url=server.url, timeout=SECONDS)
    path = case.operation.path
    for key, value in (case.path_parameters or {}).items():
        path = path.replace(f"{{{key}}}", requests.utils.quote(str(value), safe=""))
    query = {k: str(v).encode("utf-8", "surrogatepass") for k, v in (case.query or {}).items()}
    return requests.request(
        case.method,
        server.url + path,
        params=query,
        data=body.encode(),
        headers={"Content-Type": "application/json"},
        timeout=SECONDS,
    )


def fuzz(server: Server, operation: Any, count: int, tally: Tally) -> None:
    """Send ``count`` requests to one operation."""
    strategy = operation.as_strategy()

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: st.DataObject) -> None:
        case = spiced(data.draw(strategy), data.draw)
        takes_json = bool(operation.body) and case.media_type == "application/json"
        body = data.draw(documents) if takes_json and data.draw(st.integers(0, 3)) else None
        begun = time.monotonic()
        try:
            reply = send(server, case, body)
        except requests.exceptions.RequestException as error:
            tally.statuses[0] += 1
            tally.wrong.append(f"{operation.label}: no answer, {type(error).__name__}: {str(error)[:200]}")
            return
        except (ValueError, UnicodeError, TypeError):
            return  # the client's own library does not send this
        seconds = time.monotonic() - begun
        path = requests.utils.unquote(reply.request.path_url.split("?")[0])
        tally.statuses[reply.status_code] += 1
        tally.slowest = max(tally.slowest, (seconds, operation.label))
        if reply.status_code >= 500:
            if own_500(case.method.upper(), path, reply.text):
                tally.own[operation.label] += 1
            else:
                sent = f"{reply.request.path_url[:200]} {(body if body is not None else repr(case.body))[:300]}"
                tally.wrong.append(f"{operation.label} {sent}: {reply.status_code} {reply.text[:300]}")
        if operation.path.startswith(("/train", "/batch", "/scoring")):
            tally.most_jobs = max(tally.most_jobs, *jobs(server).values(), 0)
            if reply.status_code < 400 and case.method.upper() == "POST":
                requests.delete(server.url + re.sub(r"/\{.*", "", operation.path).rstrip("/") + tail_of(operation.path))

    one()


def tail_of(path: str) -> str:
    """The end of the address that stops what ``path`` has started."""
    return "" if path.startswith("/batch") else "/"

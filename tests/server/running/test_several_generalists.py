"""A server with two foundation models: the first gives features, a training of ``semisam_plus`` prompts both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.generalists import ENTRIES
from lib.generalists.sam2d.networks import random_weights
from lib.generalists.weights.files import file_of, path_of
from lib.generalists.weights.hashes import digest_of, write_record
from lib.report.history import History
from lib.specialists import load_specialist
from official_weights import write_official
from sam_parts import tiny_mobile
from server_process import Server, detail
from simulated_clicks import next_click
from tiny_study import TINY_LABELS, make_tiny_study, tiny_scan

pytestmark = pytest.mark.server

OPTIONS = {"recipe": "semisam_plus", "preset": "quick", "rounds": 1, "max_epochs": 2, "seed": 3, "device": "cpu"}
SMALL = """
from .tiny_vit import TinyViT

def _small() -> SamNetwork:
    return SamNetwork(TinyViT((8, 16, 16, 16), (1, 1, 1, 1), (1, 2, 2, 2), outer=32), size=64, channels=32)

for _each in [MODELS["mobile_sam"], MODELS["lite_medsam"]]:
    MODELS[_each.name] = SliceModel(**{**vars(_each), "make": _small})
"""
"""For this server's copy of the app: both models are as small as ``sam_parts.tiny_mobile``, which takes seconds."""


def put_weights(folder: Path, name: str, seed: int) -> str:
    """Random weights where the official ones would lie, accepted as a person's own; their sha256."""
    entry = ENTRIES[name]
    path = path_of(entry, folder)
    write_official(random_weights(tiny_mobile, name, seed), path)
    found = digest_of(path, file_of(entry))
    write_record(entry, path, found, "a test")
    return found.sha256


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def first(weights: Path) -> str:
    return put_weights(weights, "mobile_sam", 0)


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory, weights: Path, first: str) -> Server:
    study = make_tiny_study(tmp_path_factory.mktemp("study") / "study", scans=3)
    server: Server = serve(
        study,
        labels=",".join(TINY_LABELS),
        generalist="mobile_sam,lite_medsam",
        features="first",
        weights=str(weights),
        spacing="4.5",
        roi_size="32,16,16",
    )
    with (server.app / "lib" / "generalists" / "sam2d" / "adapter.py").open("a") as file:
        file.write(SMALL)
    return server.start()


def told(server: Server) -> list[tuple[Any, ...]]:
    listed = server.get("/info/").json()["generalists"]
    return [(one["name"], one["features"], one["prompts"], one["weights"]) for one in listed]


def test_weights_of_the_second_are_missing(server: Server) -> None:
    assert told(server) == [
        ("mobile_sam", True, ["box", "mask", "points"], "present"),
        ("lite_medsam", False, ["box"], "missing"),
    ]
    assert "weights fetch lite_medsam" in server.log.read_text()
    said = detail(server.post("/train/semisam", json=OPTIONS), 409)
    assert "The weights of lite_medsam are not in" in said
    assert server.get("/train/").status_code == 404
    # Who does not need them is not held up.
    assert server.infer("propagate", "case_2", device="cpu").ok


def test_features_are_encoded_ahead_by_a_job_and_found_by_requests(server: Server) -> None:
    """The server answers meanwhile, and says how far the job is."""
    features = server.app / "model" / "features"
    assert server.post("/scoring/representativeness", json={}).ok
    slowest = 0.0
    while (status := server.get("/scoring/").json())["status"] in ("SUBMITTED", "RUNNING"):
        begun = time.monotonic()
        assert server.get("/info/").ok
        slowest = max(slowest, time.monotonic() - begun)
        time.sleep(0.3)
    assert status["status"] == "DONE", "\n".join(status["details"])
    assert slowest < 2
    assert any("3 of 3" in line for line in status["details"]), "\n".join(status["details"])
    encoded = {file.name: file.stat().st_ino for file in features.iterdir()}
    assert len(encoded) == 3
    assert server.infer("propagate", "case_3", device="cpu").ok
    assert {file.name: file.stat().st_ino for file in features.iterdir()} == encoded


def test_clicks_are_answered_by_the_first(server: Server) -> None:
    truth = tiny_scan(2)[1] == 1
    click = next_click(truth & False, truth, (3, 3, 3))
    assert click is not None
    reply = server.infer("prompt", "case_2", label="ball", foreground=[list(click[0])], background=[])
    assert reply.ok, reply.text
    assert b'"source": "mobile_sam"' in reply.content


def test_a_training_asks_both_and_notes_them(server: Server, weights: Path, first: str) -> None:
    second = put_weights(weights, "lite_medsam", 1)
    assert [one[-1] for one in told(server)] == ["present", "present"]
    reply = server.post("/train/semisam", json=OPTIONS)
    assert reply.ok, reply.text
    status = server.wait("/train/", 600)
    assert status["status"] == "DONE", "\n".join(status["details"])

    (run,) = server.app.rglob("run.json")
    written = json.loads(run.read_text())
    assert written["generalist"] == ["mobile_sam", first]
    assert written["asked"] == [["mobile_sam", first], ["lite_medsam", second]]
    page = server.get("/semisam/reports/latest").text
    assert f"mobile_sam (weights {first[:12]}), lite_medsam (weights {second[:12]})" in page
    logged = History(run.parent / "history.jsonl").read()
    assert any(entry.metrics.get("generalist_gradient", 0) > 0 for entry in logged)
    notes = load_specialist(run.parent / "rounds" / "1" / "specialist.pt").notes
    assert notes["generalists"] == {"mobile_sam": first, "lite_medsam": second}

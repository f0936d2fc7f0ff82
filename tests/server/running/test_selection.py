"""Active learning through a running server: every strategy, two people, bad scans, no label yet, nothing left."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server_process import SCORES_BY_ITSELF, Server, detail
from tiny_study import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.server

STRATEGIES = (
    "recommended",
    "template",
    "least_confidence",
    "highest_entropy",
    "highest_entropy_ratio",
    "review",
    "uniform",
    "random",
)
GOOD = {f"case_{number}" for number in range(1, 7)}


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Six good scans without a label and a bad one; it has looked at all of them by itself."""
    study = make_tiny_study(tmp_path_factory.mktemp("study") / "study", scans=6, finals=0)
    (study / "a_bad_one.nii.gz").write_bytes((study / "case_1.nii.gz").read_bytes()[:2000])
    server: Server = serve(study, SCORES_BY_ITSELF, labels=",".join(TINY_LABELS), default_strategy="template").start()
    status = server.wait("/scoring/")
    assert status["status"] == "DONE", "\n".join(status["details"])
    assert "a_bad_one" in "\n".join(status["details"])
    return server


def ask(server: Server, strategy: str, client: str) -> dict[str, Any]:
    reply = server.post(f"/activelearning/{strategy}", json={"client_id": client})
    assert reply.ok, reply.text
    return dict(reply.json())


def forget_offers(server: Server) -> None:
    """As if two hours had passed."""
    for file in (server.app / "model" / "semisam").glob("*/served.json"):
        file.unlink()


def jobs(server: Server) -> int:
    return len(server.get("/scoring/?all=true").json())


def label_file(server: Server, number: int) -> Path:
    _, values, affine = tiny_scan(number)
    return save_nifti(server.folder / f"label_{number}.nii.gz", values, affine)


def check_planes(planes: dict[str, Any], name: str) -> None:
    """One plane an axis, each of which cuts a structure; ``mm`` is where the slice lies."""
    _, values, affine = tiny_scan(int(name[-1]))
    assert set(planes) == {"axial", "coronal", "sagittal"}
    assert sorted(plane["axis"] for plane in planes.values()) == [0, 1, 2]
    for plane in planes.values():
        assert np.take(values, plane["index"], axis=plane["axis"]).any()
    axial = planes["axial"]
    assert axial["mm"] == pytest.approx(affine[2, 2] * axial["index"] + affine[2, 3])


def check_two_people(server: Server, strategy: str) -> list[dict[str, Any]]:
    """Two people ask twice each: four scans, all good, each with a reason."""
    forget_offers(server)
    replies = [ask(server, strategy, client) for client in ("anna", "ben", "anna", "ben")]
    names = [reply["id"] for reply in replies]
    assert len(set(names)) == 4
    assert set(names) <= GOOD
    for reply in replies:
        assert len(reply["reason"]) > 20
        assert Path(reply["path"]).is_file()
    return replies


def test_what_viewers_are_offered(server: Server) -> None:
    info = server.get("/info/").json()
    assert tuple(info["strategies"]) == STRATEGIES
    assert list(info["scoring"]) == ["representativeness", "uncertainty", "pseudo_label_quality"]
    assert all(len(item["description"]) > 20 for item in [*info["strategies"].values(), *info["scoring"].values()])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_any_label(server: Server, strategy: str) -> None:
    replies = check_two_people(server, strategy)
    if strategy in ("recommended", "template", "random"):
        assert "stands for the most scans" in replies[0]["reason"]
    assert jobs(server) == 1  # nothing is due: no click has started a job


def test_recommended_begins_like_template(server: Server) -> None:
    firsts = []
    for strategy in ("recommended", "template", "random"):
        forget_offers(server)
        firsts.append(ask(server, strategy, "anna")["id"])
    assert len(set(firsts)) == 1


def test_a_saved_outline_moves_things_on(server: Server) -> None:
    forget_offers(server)
    first = ask(server, "recommended", "anna")["id"]
    reply = server.put_label(first, label_file(server, int(first[-1]))).json()
    assert reply["warnings"] == []
    assert "train" in reply["advice"].lower()
    assert server.get("/train/?all=true").status_code == 404  # offered, not started
    assert first not in {ask(server, "recommended", "anna")["id"] for _ in range(6)}


def test_scores_in_one_pass(server: Server) -> None:
    unlabelled = sorted(GOOD & {n for n, item in server.objects().items() if "final" not in item["labels"]})
    for name in unlabelled[:-1]:
        server.put_label(name, label_file(server, int(name[-1])), tag="original")
    _, values, affine = tiny_scan(1)
    bad = save_nifti(server.folder / "bad.nii.gz", np.roll(values, 9, axis=0), affine)
    server.put_label(unlabelled[-1], bad, tag="original")
    # In the server itself: a process of its own would only take longer.
    reply = server.post("/scoring/uncertainty?run_sync=true", json={"then": ["pseudo_label_quality"]})
    assert reply.ok, reply.text
    assert reply.json()["scored"] == len(unlabelled)
    assert list(reply.json()["failed"]) == ["a_bad_one"]
    infos = {name: server.objects()[name]["image"]["info"] for name in unlabelled}
    assert all(0 <= info["pseudo_label_quality"] <= 1 for info in infos.values())
    assert min(infos, key=lambda n: infos[n]["pseudo_label_quality"]) == unlabelled[-1]
    forget_offers(server)
    worst = ask(server, "review", "anna")
    assert worst["id"] == unlabelled[-1]
    check_planes(worst["planes"], worst["id"])
    _, params = server.client().infer("review", unlabelled[0], {})
    check_planes(params["planes"], unlabelled[0])
    assert params["pseudo_label_quality"] == infos[unlabelled[0]]["pseudo_label_quality"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_scores(server: Server, strategy: str) -> None:
    for reply in check_two_people(server, strategy):
        check_planes(reply["planes"], reply["id"])


@pytest.mark.parametrize(
    ("path", "body", "status", "part"),
    [
        ("/activelearning/templat", {}, 404, "Did you mean 'template'?"),
        ("/activelearning/review", {"k": 2}, 400, "no option 'k'"),
        ("/scoring/dice", {}, 404, "Known: representativeness"),
        ("/scoring/uncertainty", {"top": 3}, 400, "no option 'top'"),
        ("/scoring/uncertainty", {"then": ["dice"]}, 404, "no scoring method 'dice'"),
        ("/scoring/uncertainty", {"then": "all"}, 400, "list of scoring methods"),
    ],
)
def test_refusals(server: Server, path: str, body: dict[str, Any], status: int, part: str) -> None:
    assert part in detail(server.post(path, json=body), status)


def test_a_final_label_goes_before_the_pseudo_label(server: Server) -> None:
    name = next(n for n in sorted(GOOD) if "final" not in server.objects()[n]["labels"])
    reply = server.put_label(name, label_file(server, int(name[-1]))).json()
    assert reply["pseudo_label_dice"] == 1.0
    _, params = server.client().infer("review", name, {})
    assert params["source"] == "final"
    assert server.objects()[name]["image"]["info"]["uncertainty"] is None


def test_nothing_is_left(server: Server) -> None:
    for name, item in server.objects().items():
        if "final" not in item["labels"]:
            server.put_label(name, label_file(server, int(name[-1]) if name in GOOD else 1))
    forget_offers(server)
    for strategy in STRATEGIES:
        for client in ("anna", "ben"):
            assert ask(server, strategy, client) == {}
    assert server.client().next_sample("recommended", {}) == {}
    begun = time.monotonic()
    ask(server, "random", "ben")
    assert time.monotonic() - begun < 2

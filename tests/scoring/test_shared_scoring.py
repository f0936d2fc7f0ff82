"""Several processes on one scoring: the same bytes for any number of them, kills, and errors that hit all scans."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.core.devices import memory_error
from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.parallel.ranks import LostRankError, Ranks
from lib.selection.measures import MEASURES
from lib.setup.settings import Settings
from processes import by
from scored_study import put_pseudo_labels, put_specialist
from scoring import PseudoLabelQuality, Representativeness, UncertaintyScoring, run_pass, score_study
from server.jobs.launch import PROCESSES
from server.scores.descriptors import Descriptors
from server.scores.scores import QUALITY, REPRESENTATIVENESS, UNCERTAINTY, Scores
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from server_process import copy_app
from tiny_study import TINY_LABELS, make_tiny_study

pytestmark = pytest.mark.usefixtures("one_thread")

BAD = "case_5"
GOOD = [f"case_{number}" for number in (1, 2, 3, 4, 6)]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """case_1 is outlined, three scans have pseudo-labels, one cannot be read."""
    folder = make_tiny_study(tmp_path / "study", scans=6)
    (folder / f"{BAD}.nii.gz").write_bytes(b"this is no scan")
    study = opened(str(folder), tmp_path / "models")
    put_pseudo_labels(study, tmp_path)
    return study


def opened(folder: str, models: Path) -> Study:
    return Study(folder, StudyDatastore(folder), Settings(labels=LabelSchema(TINY_LABELS)), models)


def scored(study: Study, *names: str) -> Callable[[Ranks], Any]:
    """A pass as a function of the processes that share it; all methods unless some are named."""

    def run(ranks: Ranks) -> Any:
        if not ranks.first:
            nothing: Any = None
            return ranks.gather(nothing)[0].help(ranks)
        own = opened(study.location, study.place.parent)  # a lock must not be one of the process before the fork
        known = [Representativeness(own), UncertaintyScoring(own), PseudoLabelQuality(own)]
        methods = [method for method in known if not names or method.name in names]
        return run_pass(own, methods, {"device": "cpu"}, ranks)

    return run


def files_of(study: Study) -> dict[str, bytes]:
    """What a pass leaves, byte by byte but for the time; and nothing is left any more."""
    found = {}
    for path in sorted(study.place.glob("*")):
        if path.suffix != ".lock":
            found[path.name] = re.sub(rb'"ts": \d+', b"", path.read_bytes())
            path.unlink()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("specialist", [False, True])
def test_any_number_of_processes_gives_the_same(study: Study, specialist: bool) -> None:
    if specialist:
        put_specialist(study)
    found = {}
    for world in (1, 2, 4):
        result, *others = by(world, scored(study))
        assert isinstance(result, dict), repr(result)
        assert result["scored"] == 5
        assert list(result["failed"]) == [BAD]
        assert others == [None] * (world - 1)
        assert sorted(Scores(study).known(REPRESENTATIVENESS)) == GOOD
        assert sorted(Scores(study).known(UNCERTAINTY)) == GOOD[1:]
        assert sorted(Scores(study).known(QUALITY)) == ["case_2", "case_3", "case_4"]
        assert list(Scores(study).unusable()) == [BAD]
        found[world] = files_of(study)
    assert sorted(found[1]) == ["descriptors-2-mind.npz", "scores.json"]
    assert found[1] == found[2] == found[4]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_any_number_goes_on(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    by(1, scored(study, REPRESENTATIVENESS))
    whole = files_of(study)
    monkeypatch.setattr("lib.selection.shared_pass.SAVE_SECONDS", 0.0)
    plain = MEASURES[REPRESENTATIVENESS]

    def killed(subject: Any) -> Any:
        if subject.name == "case_4":  # the second scan of the second process
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(subject)

    with monkeypatch.context() as patch:
        patch.setitem(MEASURES, REPRESENTATIVENESS, killed)
        first, second = by(2, scored(study, REPRESENTATIVENESS))
    assert second == -signal.SIGKILL
    assert isinstance(first, LostRankError)
    assert "start again" in str(first)
    assert Descriptors(study).missing() == ["case_3", "case_4", BAD, "case_6"]

    again, _ = by(2, scored(study, REPRESENTATIVENESS))
    assert again["scored"] == 3
    assert files_of(study) == whole


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried")


@pytest.mark.parametrize(
    ("why", "told"),
    [
        (UserError("The weights are gone.", status=409), ("The weights are gone.", 409)),
        # A GPU that others use is no fault of the scan, which would be passed over for good.
        (FULL, (str(memory_error(FULL)), 507)),
    ],
)
def test_what_would_hit_every_scan_ends_all_after_the_rest_is_kept(
    why: Exception, told: tuple[str, int], study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = MEASURES[REPRESENTATIVENESS]

    def refused(subject: Any) -> Any:
        if subject.name == "case_4":
            raise why
        return plain(subject)

    monkeypatch.setitem(MEASURES, REPRESENTATIVENESS, refused)
    for error in by(2, scored(study, REPRESENTATIVENESS)):
        assert isinstance(error, UserError)
        assert (str(error), error.status) == told
    assert sorted(Descriptors(study).read().names) == ["case_1", "case_2", "case_3"]


def test_a_disk_that_is_full_ends_all(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Any:
        raise UserError("No space left.", status=507)

    monkeypatch.setattr("server.scores.descriptors.write_whole", full)
    for error in by(2, scored(study, REPRESENTATIVENESS)):
        assert isinstance(error, UserError)
        assert (str(error), error.status) == ("No space left.", 507)


@pytest.mark.slow
def test_multi_gpu_starts_processes(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MONAI Label's job does it: the study and the settings are in the environment."""
    monkeypatch.setenv("MONAI_LABEL_STUDIES", study.location)
    monkeypatch.setenv("MONAI_LABEL_APP_CONF", f'{{"labels": "{",".join(TINY_LABELS)}", "weights": "{tmp_path}"}}')
    monkeypatch.setattr("server.jobs.launch._APP", copy_app(tmp_path / "app"))
    monkeypatch.setenv(PROCESSES, "2")
    request = {"method": REPRESENTATIVENESS, "device": "cpu", "multi_gpu": True}
    result = score_study(study, [Representativeness(study)], request)
    assert result["scored"] == 5
    assert list(result["failed"]) == [BAD]
    (scores,) = (tmp_path / "app" / "model").glob("semisam/*/scores.json")
    assert scores.read_text(encoding="utf-8").count(f'"{REPRESENTATIVENESS}": {{') == 5
    monkeypatch.setattr("scoring.several.launch", lambda *_: 1)
    with pytest.raises(UserError, match="score again to go on"):
        score_study(study, [Representativeness(study)], request)

"""Scores: once for each state of model and scan, none for bad scans, and nothing lost."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.propagation import SoftLabels, Template
from lib.selection import LEAST_PAIRS
from lib.selection import shared_pass as shares
from lib.selection.judge import Asked, Judge
from lib.selection.measures import MEASURES
from lib.selection.outcome import Outcome
from lib.setup.settings import Settings
from lib.specialists import predict_in_roi as located
from scored_study import put_pseudo_labels, put_specialist
from scoring import PseudoLabelQuality, Representativeness, StudyScoring, UncertaintyScoring, run_pass
from server.scores.descriptors import Descriptors
from server.scores.scores import QUALITY, REPRESENTATIVENESS, UNCERTAINTY, UNCERTAINTY_MEASURES, Scores
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from tiny_study import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

UNLABELLED = ["case_2", "case_3", "case_4"]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """case_1 is outlined, case_2 to case_4 are not."""
    folder = make_tiny_study(tmp_path / "study", scans=4)
    settings = Settings(labels=LabelSchema(TINY_LABELS))
    return Study(str(folder), StudyDatastore(str(folder)), settings, tmp_path / "models")


def run(study: Study, *methods: StudyScoring) -> dict[str, Any]:
    return run_pass(study, methods, {"device": "cpu"})


# --- the file ---------------------------------------------------------------------------------------------------------


def test_scores_of_another_state_are_due_again(study: Study) -> None:
    values = {name: dict.fromkeys((UNCERTAINTY, *UNCERTAINTY_MEASURES), 0.5) for name in UNLABELLED}
    Scores(study).add(UNCERTAINTY, values)
    assert Scores(study).missing(UNCERTAINTY) == []
    study.published.parent.mkdir(parents=True, exist_ok=True)
    study.published.write_bytes(b"a specialist")
    assert Scores(study).missing(UNCERTAINTY) == UNLABELLED
    assert Scores(study).stale(UNCERTAINTY, "case_2")
    Scores(study).add(UNCERTAINTY, values)
    os.utime(study.datastore.get_image_uri("case_3"), (1, 1))
    assert Scores(study).missing(UNCERTAINTY) == ["case_3"]


def test_what_a_training_knows_is_no_complete_score(study: Study) -> None:
    Scores(study).put(dict.fromkeys(UNLABELLED, 0.5))
    assert Scores(study).uncertainties() == dict.fromkeys(UNLABELLED, 0.5)
    assert Scores(study).missing(UNCERTAINTY) == UNLABELLED


def test_scores_outlive_the_first_names_of_the_labels(study: Study) -> None:
    Scores(study).add(REPRESENTATIVENESS, {"case_2": {REPRESENTATIVENESS: 0.5}})
    study.settings = Settings(labels=LabelSchema(("other",)))
    assert Scores(study).known(REPRESENTATIVENESS) == {"case_2": 0.5}


def test_what_others_write_is_seen(study: Study) -> None:
    mine, theirs = Scores(study), Scores(study)
    assert mine.known(UNCERTAINTY) == {}
    for value in (0.5, 0.6):
        theirs.put({"case_2": value})
        assert mine.known(UNCERTAINTY) == theirs.known(UNCERTAINTY) == {"case_2": value}
    theirs.settle("case_2", None)
    assert mine.known(UNCERTAINTY) == {}


def test_an_outlined_scan_gets_no_score_any_more(study: Study) -> None:
    Scores(study).put({"case_1": 0.5, "case_2": 0.5, "gone": 0.5})
    assert set(Scores(study).read()) == {"case_2"}


def test_a_damaged_file_is_made_anew(study: Study) -> None:
    study.place.mkdir(parents=True)
    (study.place / "scores.json").write_text('{"case_2": ', encoding="utf-8")
    Scores(study).put({"case_2": 0.5})
    assert Scores(study).uncertainties() == {"case_2": 0.5}


def test_estimates_are_calibrated_by_what_people_saved(study: Study) -> None:
    scores = Scores(study)
    assert scores.calibration()(0.9) == 0.9
    for number in range(LEAST_PAIRS):
        image, _, affine = tiny_scan(number)
        save_nifti(Path(study.location) / f"more_{number}.nii.gz", image, affine)
    study.datastore.refresh()
    for number in range(LEAST_PAIRS):
        raw = 0.6 + 0.3 * number / LEAST_PAIRS
        scores.add(QUALITY, {f"more_{number}": {QUALITY: raw, "raw": raw}})
        scores.settle(f"more_{number}", raw - 0.3)
    assert scores.calibration()(0.75) == pytest.approx(0.45, abs=0.05)


def test_before_a_training_a_score_belongs_to_what_propagates(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Scores(study).model_state()
    assert Scores(study).model_state() == first
    states = {first}
    others = (
        replace(study.settings, propagator="prototype"),
        replace(study.settings, generalists=("sam_vit_b",)),
        replace(study.settings, generalists=("sam_vit_b",), features="first"),
    )
    for other in others:
        monkeypatch.setattr(study, "settings", other)
        states.add(Scores(study).model_state())
    monkeypatch.undo()
    monkeypatch.setattr(type(study.generalist), "weights_hash", "of other weights")
    states.add(Scores(study).model_state())
    assert len(states) == 5


def test_two_jobs_keep_each_others_descriptors(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {name: torch.rand(4) for name in ("case_1", *UNLABELLED)}
    plain = Descriptors.read

    def slow(self: Descriptors) -> Any:
        found = plain(self)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(Descriptors, "read", slow)
    jobs = [threading.Thread(target=Descriptors(study).put, args=({name: value},)) for name, value in table.items()]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert sorted(Descriptors(study).read().names) == sorted(table)


def test_descriptors_of_other_weights_are_not_compared(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    Descriptors(study).put({"case_1": torch.rand(4)})
    monkeypatch.setattr(type(study.generalist), "weights_hash", "0123456789abcdef")
    assert Descriptors(study).read().names == ()
    Descriptors(study).put({"case_2": torch.rand(4)})
    assert Descriptors(study).read().names == ("case_2",)
    monkeypatch.undo()
    assert Descriptors(study).read().names == ("case_1",)


# --- passes over the study --------------------------------------------------------------------------------------------


def meanwhile(study: Study, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[], object]) -> None:
    """Let something happen between the judging of a scan and the storing of what was found."""
    plain = shares.score

    def score(asked: Asked, judge: Judge) -> Outcome:
        outcome = plain(asked, judge)
        if asked.name == name:
            change()
        return outcome

    monkeypatch.setattr(shares, "score", score)


def test_scores_by_a_specialist_that_was_replaced_meanwhile_are_not_current(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_specialist(study)
    meanwhile(study, monkeypatch, "case_4", lambda: put_specialist(study, seed=1))
    assert run(study, UncertaintyScoring(study))["scored"] == 3
    assert Scores(study).missing(UNCERTAINTY) == UNLABELLED
    assert Scores(study).stale(UNCERTAINTY, "case_2")
    monkeypatch.undo()
    run(study, UncertaintyScoring(study))
    assert Scores(study).missing(UNCERTAINTY) == []


@pytest.mark.slow
def test_scores_by_a_propagation_are_not_those_of_a_specialist_that_came_meanwhile(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(study, monkeypatch, "case_4", lambda: put_specialist(study))
    run(study, UncertaintyScoring(study))
    assert Scores(study).missing(UNCERTAINTY) == UNLABELLED


def test_scores_of_a_scan_that_was_replaced_meanwhile_are_not_current(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_specialist(study)

    def exchange() -> None:
        image, _, affine = tiny_scan(8)
        save_nifti(Path(study.location) / "case_3.nii.gz", image, affine)

    meanwhile(study, monkeypatch, "case_4", exchange)
    run(study, Representativeness(study), UncertaintyScoring(study))
    assert Scores(study).missing(UNCERTAINTY) == ["case_3"]
    assert Descriptors(study).missing() == ["case_3"]
    assert [name for name in UNLABELLED if Scores(study).stale(REPRESENTATIVENESS, name)] == ["case_3"]


@pytest.mark.slow
def test_the_quality_of_a_label_that_was_replaced_meanwhile_is_not_current(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_specialist(study)
    put_pseudo_labels(study, tmp_path)

    def exchange() -> None:
        file = save_nifti(tmp_path / "other.nii.gz", tiny_scan(3)[1], tiny_scan(3)[2])
        study.datastore.save_label("case_3", str(file), "original", {"params": {"source": "propagation"}})

    meanwhile(study, monkeypatch, "case_4", exchange)
    run(study, PseudoLabelQuality(study))
    assert Scores(study).missing(QUALITY) == ["case_3"]


def test_a_scan_that_could_not_be_read_and_was_mended_meanwhile_gets_its_chance(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(study.location) / "case_3.nii.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:3000])
    meanwhile(study, monkeypatch, "case_4", lambda: file.write_bytes(whole))
    run(study, Representativeness(study))
    assert Scores(study).unusable() == {}


def test_whether_a_specialist_sees_a_part_is_known_without_building_its_networks(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("no network is needed")

    for part in (None, (30.0, 30.0, 30.0)):
        put_specialist(study, part=part)
        with monkeypatch.context() as patch:
            patch.setattr("lib.specialists.checkpoint.build_network", never)
            assert UncertaintyScoring(study).needs_templates() == (part is not None)


def test_every_scan_is_described_once(study: Study) -> None:
    method = Representativeness(study)
    assert method.due()
    assert run(study, method) == {"scored": 4, "failed": {}}
    known = Scores(study).known(REPRESENTATIVENESS)
    assert sorted(known) == ["case_1", *UNLABELLED]
    assert all(0 <= value <= 1 for value in known.values())
    assert study.datastore.get_image_info("case_2")[REPRESENTATIVENESS] == known["case_2"]
    assert not method.due()
    before = (study.place / "scores.json").stat().st_mtime_ns
    assert run(study, method)["scored"] == 0
    assert (study.place / "scores.json").stat().st_mtime_ns == before


def test_scans_that_come_and_go_are_noticed(study: Study) -> None:
    method = Representativeness(study)
    run(study, method)
    folder = Path(study.location)
    (folder / "case_4.nii.gz").unlink()
    (folder / "case_9.nii.gz").hardlink_to(folder / "case_2.nii.gz")
    study.datastore.refresh()
    assert method.due()
    assert run(study, method)["scored"] == 1
    assert sorted(Descriptors(study).read().names) == ["case_1", "case_2", "case_3", "case_9"]
    assert sorted(Scores(study).known(REPRESENTATIVENESS)) == ["case_1", "case_2", "case_3", "case_9"]
    assert not method.due()


@pytest.mark.slow
def test_without_a_specialist_the_propagation_is_asked(study: Study) -> None:
    method = UncertaintyScoring(study)
    assert not method.due()
    assert run(study, method)["scored"] == 3
    entry = Scores(study).read()["case_2"][UNCERTAINTY]
    assert all(0 <= entry[key] <= 1 for key in (UNCERTAINTY, *UNCERTAINTY_MEASURES))
    # The ball's middle is about voxel 12, 15, 14; the rod runs along the third axis.
    assert abs(entry["planes"]["axial"]["index"] - 14) <= 4
    assert run(study, method)["scored"] == 0


def test_a_new_specialist_makes_all_scans_due_a_changed_scan_only_itself(study: Study) -> None:
    method = UncertaintyScoring(study)
    put_specialist(study)
    assert method.due()
    assert run(study, method)["scored"] == 3
    assert not method.due()
    first = Scores(study).known(UNCERTAINTY)
    image, _, affine = tiny_scan(8)
    save_nifti(Path(study.location) / "case_3.nii.gz", image, affine)
    assert Scores(study).missing(UNCERTAINTY) == ["case_3"]
    assert run(study, method)["scored"] == 1
    assert Scores(study).known(UNCERTAINTY)["case_2"] == first["case_2"]
    put_specialist(study, seed=1)
    assert run(study, method)["scored"] == 3
    assert Scores(study).known(UNCERTAINTY) != first


@pytest.mark.slow
def test_quality_tells_good_pseudo_labels_from_bad_ones(study: Study, tmp_path: Path) -> None:
    method = PseudoLabelQuality(study)
    put_pseudo_labels(study, tmp_path)
    assert not method.due()
    assert run(study, method)["scored"] == 3
    known = Scores(study).known(QUALITY)
    assert known["case_2"] > known["case_3"] > known["case_4"]
    assert run(study, method)["scored"] == 0
    label = study.datastore.get_label_uri("case_2", "original")
    study.datastore.save_label("case_3", label, "original", {"params": {"source": "propagation"}})
    assert Scores(study).missing(QUALITY) == ["case_3"]


@pytest.mark.slow
def test_all_methods_in_one_pass_read_each_scan_once(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib.selection import subject

    put_pseudo_labels(study, tmp_path)
    put_specialist(study)
    seen: list[str] = []
    plain = subject.read_volume

    def noted(path: Path) -> Any:
        seen.append(path.name)
        return plain(path)

    monkeypatch.setattr(subject, "read_volume", noted)
    run(study, Representativeness(study), UncertaintyScoring(study), PseudoLabelQuality(study))
    assert sorted(seen) == [f"case_{n}.nii.gz" for n in (1, 2, 3, 4)]
    assert set(Scores(study).known(QUALITY)) == set(Scores(study).known(UNCERTAINTY)) == set(UNLABELLED)


def test_a_bad_scan_is_reported_and_passed_over(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    scan = Path(study.location) / "case_3.nii.gz"
    scan.write_bytes(b"no scan")
    method = Representativeness(study)
    with caplog.at_level(logging.INFO, "semisam"):
        result = run(study, method)
    assert result["scored"] == 3
    assert "case_3" in result["failed"]
    assert "Passed over case_3" in caplog.text
    assert "1 of 4 scans were passed over" in caplog.text
    assert not method.due()
    image, _, affine = tiny_scan(3)
    save_nifti(scan, image, affine)
    assert method.due()
    assert run(study, method) == {"scored": 1, "failed": {}}
    assert Scores(study).unusable() == {}


def test_an_unexpected_error_ends_neither_the_pass_nor_comes_up_at_every_click(
    study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    method = UncertaintyScoring(study)
    put_specialist(study)
    plain = MEASURES[UNCERTAINTY]

    def broken(subject: Any) -> Any:
        if subject.name == "case_3":
            raise RuntimeError("out of luck")
        return plain(subject)

    with monkeypatch.context() as patch:
        patch.setitem(MEASURES, UNCERTAINTY, broken)
        result = run(study, method)
    assert result["scored"] == 2
    assert result["failed"]["case_3"] == "unexpected error, told in the server's log"
    assert "out of luck" in caplog.text
    assert not method.due()
    assert run(study, method)["scored"] == 1


def test_what_is_wrong_with_a_pseudo_label_is_not_held_against_its_scan(study: Study, tmp_path: Path) -> None:
    put_pseudo_labels(study, tmp_path)
    Path(study.datastore.get_label_uri("case_2", "original")).write_bytes(b"no label")
    result = run(study, PseudoLabelQuality(study))
    assert list(result["failed"]) == ["case_2"]
    assert Scores(study).unusable() == {}
    assert Scores(study).missing(QUALITY) == []


def test_a_pass_that_is_killed_goes_on_where_it_was(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.selection.shared_pass.SAVE_SECONDS", 0.0)
    method = Representativeness(study)
    plain = MEASURES[REPRESENTATIVENESS]

    def killed(subject: Any) -> Any:
        if subject.name == "case_3":
            raise KeyboardInterrupt
        return plain(subject)

    monkeypatch.setitem(MEASURES, REPRESENTATIVENESS, killed)
    with pytest.raises(KeyboardInterrupt):
        run(study, method)
    assert Descriptors(study).missing() == ["case_3", "case_4"]


def test_what_would_hit_every_scan_is_said_once(tmp_path: Path) -> None:
    folder = make_tiny_study(tmp_path / "study", scans=2, finals=0)
    study = Study(str(folder), StudyDatastore(str(folder)), Settings(), tmp_path / "models")
    with pytest.raises(UserError, match="Outline one scan"):
        run(study, UncertaintyScoring(study))
    # A method that shares the pass of another is left out.
    assert run(study, Representativeness(study), UncertaintyScoring(study))["failed"] == {}
    put_specialist(study)
    with pytest.raises(UserError, match="Train again"):
        run(study, UncertaintyScoring(study))


@pytest.mark.slow
def test_a_specialist_for_a_part_is_told_where_to_look(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    put_specialist(study, part=(40.0, 40.0, 40.0))
    asked: list[str] = []

    def find_roi(template: Template, scan: Volume, device: str) -> SoftLabels:
        asked.append(template.name)
        return real(template, scan, device)

    real = located.find_roi
    monkeypatch.setattr(located, "find_roi", find_roi)
    run_pass(study, [UncertaintyScoring(study)], {"device": "cpu"})
    assert asked == ["case_1"] * len(UNLABELLED)
    assert set(Scores(study).known(UNCERTAINTY)) == set(UNLABELLED)

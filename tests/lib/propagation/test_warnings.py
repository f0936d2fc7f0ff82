"""A label that was carried over comes with sentences about what may be wrong with it, and without any if it is well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lib.core.geometry import Volume
from lib.propagation import Template, nothing_found, warnings_about
from phantoms import blobs

NAMES = ("liver", "spleen")
SCAN, LABEL = blobs(seed=1)
OTHER, TRUTH = blobs(seed=2, centre=(1, -1, 0))
TEMPLATE = Template("case_1", SCAN, LABEL)


def said(label: np.ndarray, scan: Volume = OTHER, similarity: float = 0.6, *more: Template) -> tuple[str, ...]:
    """The sentences about a label of ``OTHER``."""
    return warnings_about(label.astype(np.uint8), scan, (TEMPLATE, *more), NAMES, similarity)


def test_nothing_is_said_about_a_good_label() -> None:
    assert said(TRUTH) == ()
    assert said(np.roll(TRUTH, 2, axis=0)) == ()


def test_a_missing_structure_is_named() -> None:
    (text,) = said(np.where(TRUTH == 2, 0, TRUTH))
    assert text == "Not found in this scan, though outlined in case_1: spleen. Check whether they are there."


def test_a_structure_that_no_outlined_scan_has_is_not_missed() -> None:
    template = Template("case_1", SCAN, np.where(LABEL == 2, 0, LABEL).astype(np.uint8))
    label = np.where(TRUTH == 2, 0, TRUTH).astype(np.uint8)
    assert warnings_about(label, OTHER, [template], NAMES, 0.6) == ()


def test_an_empty_answer_says_that_nothing_was_found() -> None:
    (text,) = said(np.zeros_like(TRUTH))
    assert text.startswith("Nothing of what is outlined in case_1 was found in this scan.")


@pytest.mark.parametrize(("shrink", "word"), [(True, "smaller"), (False, "larger")])
def test_volumes_far_from_the_outlined_ones_are_told_with_both_figures(shrink: bool, word: str) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in TRUTH.shape], indexing="ij"), -1)
    near = ((grid - np.argwhere(TRUTH == 2).mean(0)) ** 2).sum(-1)
    changed = np.where(TRUTH == 2, 0, TRUTH)
    changed[near < (2.5**2 if shrink else 11.5**2)] = 2
    (text,) = said(changed)
    assert f"Much {word} than in case_1: spleen (" in text
    here = float((changed == 2).sum()) * OTHER.voxel_ml
    there = float((LABEL == 2).sum()) * SCAN.voxel_ml
    assert f"({here:.3g} ml here, {there:.3g} ml there)" in text


def test_volumes_count_in_millilitres_and_against_all_outlined_scans() -> None:
    coarse = Volume(SCAN.array, np.diag([4.0, 4.0, 4.0, 1.0]))
    small = Volume(OTHER.array, np.diag([2.0, 2.0, 2.0, 1.0]))
    big = Template("big", coarse, LABEL)
    assert any("Much smaller" in text for text in warnings_about(TRUTH, small, [big], NAMES, 0.6))
    assert warnings_about(TRUTH, small, [big, TEMPLATE], NAMES, 0.6) == ()


def test_a_structure_cut_off_by_the_edge_is_told_unless_it_is_so_where_it_was_outlined() -> None:
    cut = slice(None, 13)
    scan = Volume(OTHER.array[cut], OTHER.affine)
    label = TRUTH[cut]
    found = warnings_about(label, scan, [TEMPLATE], ("liver",), 0.6)
    assert any(text.startswith("Cut off by the edge of the scan: liver.") for text in found)
    same = Template("cut", Volume(SCAN.array[cut], SCAN.affine), LABEL[cut])
    assert not any("edge" in text for text in warnings_about(label, scan, [same], ("liver",), 0.6))


def test_noise_and_a_failed_match_look_unlike_the_outlined_scans() -> None:
    noise = Volume(np.random.default_rng(0).normal(size=OTHER.shape).astype(np.float32), OTHER.affine)
    for scan, similarity in ((noise, 0.6), (OTHER, 0.0)):
        (text,) = said(TRUTH, scan, similarity)
        assert text.startswith("This scan looks unlike what is outlined in case_1, so the whole answer may be wrong.")


def test_pictures_have_no_edge_that_cuts() -> None:
    flat = Volume(OTHER.array[:, :, 18:19], OTHER.affine)
    template = Template("case_1", Volume(SCAN.array[:, :, 18:19], SCAN.affine), LABEL[:, :, 18:19])
    assert warnings_about(TRUTH[:, :, 18:19], flat, [template], NAMES, 0.6) == ()


def test_what_a_specialist_has_not_found_is_told_if_it_has_learned_it() -> None:
    only_first = np.where(TRUTH == 2, 0, TRUTH).astype(np.uint8)
    assert nothing_found(TRUTH, NAMES, NAMES) == ()
    assert nothing_found(only_first, NAMES, ["liver"]) == ()
    (text,) = nothing_found(only_first, NAMES, NAMES)
    assert text == "Not found in this scan: spleen. Check whether they are there."
    (text,) = nothing_found(np.zeros_like(TRUTH), NAMES)
    assert text.startswith("No structure was found in this scan.")


def test_facts_of_an_outlined_scan_follow_its_label() -> None:
    changed = replace(TEMPLATE, label=np.where(LABEL == 1, 2, LABEL).astype(np.uint8))
    assert said(TRUTH) == ()
    (text,) = warnings_about(np.where(TRUTH, 1, 0).astype(np.uint8), OTHER, [changed], NAMES, 0.6)
    assert text.startswith("Nothing of what is outlined in case_1")

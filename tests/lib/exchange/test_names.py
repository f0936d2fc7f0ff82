"""Names of scans as names of files: plain, and never the same one twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.exchange import bids_names, file_names

ODD = (
    "case 1",
    "case_1",
    "Ä",
    "ä",
    "A",
    "a",
    "../x",
    "CON",
    "con.x",
    "x" * 150,
    ".hidden",
    "日本",
    "a/b",
    "a-b",
    "end.",
)


def test_plain_names_stay_as_they_are() -> None:
    assert file_names(["case_1", "sub-01_T1w", "1.2.840.113619"]) == {
        "case_1": "case_1",
        "sub-01_T1w": "sub-01_T1w",
        "1.2.840.113619": "1.2.840.113619",
    }


@given(st.sets(st.text(min_size=1, max_size=30), min_size=1, max_size=20))
def test_any_names_become_file_names_of_their_own(names: set[str]) -> None:
    found = file_names(names | set(ODD))
    assert len({each.lower() for each in found.values()}) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,90}", each) for each in found.values())


def test_a_scan_is_called_the_same_whatever_the_order() -> None:
    assert file_names(ODD) == file_names(ODD[::-1])


@pytest.mark.parametrize(
    ("name", "folder", "entities"),
    [
        ("sub-01_ses-2_acq-mprage_T1w", "sub-01/ses-2/anat", "sub-01_ses-2_acq-mprage"),
        ("sub-01_T2w", "sub-01/anat", "sub-01"),
        ("sub-09", "sub-09/anat", "sub-09"),
        ("case_1", "sub-case1/anat", "sub-case1"),
    ],
)
def test_bids_names_keep_their_entities(name: str, folder: str, entities: str) -> None:
    found = bids_names([name])[name]
    assert (found.folder, found.entities) == (folder, entities)


def test_subjects_are_never_shared_by_scans_of_other_names() -> None:
    names = ("case 1", "case1", "CASE-1", "sub-case1_T1w", "sub-1_desc-x_T1w", "sub-1_T1w_extra", "_")
    subjects = [each.entities.split("_")[0].lower() for each in bids_names(names).values()]
    assert len(set(subjects)) == len(names)
    assert all(re.fullmatch(r"sub-[a-z0-9]+", each) for each in subjects)

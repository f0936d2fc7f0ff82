"""Names of other programs: what needs no word, what is asked for, and what a table may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.exchange.name_table import NameTable, understood, write_table

SCHEMA = LabelSchema(("Left Lung", "heart"))


def _table(path: Path, text: str) -> NameTable:
    path.write_text(text, encoding="utf-8")
    return NameTable.read(path)


def test_names_that_differ_in_case_and_blanks_are_the_same() -> None:
    names = understood(["left_lung", "LEFT-LUNG", "Heart ", "Lt Lung"], SCHEMA, None)
    assert (names.values, names.open) == ({"left_lung": 1, "LEFT-LUNG": 1, "Heart ": 2}, ("Lt Lung",))


def test_without_known_structures_no_name_is_one() -> None:
    assert understood(["heart"], None, None).open == ("heart",)


def test_the_table_is_written_filled_and_read(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    found = {"Lt Lung": ["a.dcm", "b.dcm", "c.dcm", "d.dcm"], "HEART": ["a.dcm"], 'BODY, "all"': ["a.dcm"]}
    write_table(path, found, SCHEMA, None)
    assert path.read_text(encoding="utf-8").splitlines() == [
        "name,structure,found in",
        'Lt Lung,,"a.dcm, b.dcm, c.dcm, ..."',
        "HEART,heart,a.dcm",
        '"BODY, ""all""",,a.dcm',
    ]
    assert understood(found, SCHEMA, NameTable.read(path)).open == ("Lt Lung", 'BODY, "all"')
    text = path.read_text(encoding="utf-8").replace("Lung,,", "Lung,left lung,").replace('all""",,', 'all""",-,')
    names = understood(found, SCHEMA, _table(path, text))
    assert (names.values, names.open) == ({"Lt Lung": 1, "HEART": 2}, ())
    write_table(path, {"spleen": ["e.dcm"]}, SCHEMA, NameTable.read(path))
    assert NameTable.read(path).structures == {"Lt Lung": "left lung", "HEART": "heart", 'BODY, "all"': "-"}


def test_spreadsheets_write_it_in_their_own_way(tmp_path: Path) -> None:
    text = "\ufeffname;structure;found in\r\nHerz;heart;a.dcm\r\n;;\r\n"
    assert _table(tmp_path / "n.csv", text).structures == {"Herz": "heart"}


def test_the_table_makes_the_structures_of_a_study_that_has_none(tmp_path: Path) -> None:
    table = _table(tmp_path / "n.csv", "name,structure,found in\nHerz,Heart,\nBODY,-,\nLunge,lung,\nCor,heart,\n")
    schema = table.schema()
    assert schema.names == ("Heart", "lung")
    assert understood(["Herz", "BODY", "Lunge", "Cor"], schema, table).values == {"Herz": 1, "Lunge": 2, "Cor": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "its first line must be name,structure,found in"),
        ("", "is no table of names"),
        ("name,structure,found in\nx,heart,\nx,-,\n", "says two things about 'x'"),
        (
            "name,structure,found in\nx,liver,\n",
            "names the structure 'liver', but the study's structures are Left Lung",
        ),
    ],
)
def test_tables_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        understood(["x"], SCHEMA, _table(tmp_path / "n.csv", text))

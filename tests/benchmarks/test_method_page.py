"""The page about the method says what the recipes' packages say."""

from __future__ import annotations

import sys

import pytest

from lib.recipes import RECIPES
from tiny_study import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import method_page


def test_the_page_is_what_the_packages_say() -> None:
    text = method_page.PAGE.read_text(encoding="utf-8")
    assert method_page.page(text) == text, "run: python benchmarks/method_page.py"


def test_every_recipe_has_its_section_in_the_order_of_the_registry() -> None:
    text = method_page.PAGE.read_text(encoding="utf-8")
    places = [text.index(f"\n### `{name}`\n") for name in RECIPES]
    assert places == sorted(places)


def test_every_row_of_a_table_has_a_reason() -> None:
    for name in RECIPES:
        rows = [line for line in method_page.section(method_page.RECIPES / name).splitlines() if line.startswith("|")]
        assert rows[0] == "| paper | here | why |"
        for row in rows[2:]:
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            assert len(cells) == 3, row
            assert all(cells), row


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lost its marks"):
        method_page.page("# Method\n")

"""Names beside a person's label decide what its values mean."""

from __future__ import annotations

import pytest

from lib.errors import UserError
from lib.label_names import names_in, value_map
from lib.labels import LabelSchema

SCHEMA = LabelSchema(("liver", "left_kidney", "aorta"))


def test_names_of_viewers_and_of_the_app() -> None:
    slicer = {
        "label_info": [{"name": "background", "idx": 1}, {"name": "liver", "idx": 2}, {"name": "aorta", "idx": 4}]
    }
    assert names_in(slicer) == [("liver", 2), ("aorta", 4)]
    assert names_in({"params": {"label_names": {"aorta": 3, "liver": 1}}}) == [("liver", 1), ("aorta", 3)]
    assert names_in({}) == []
    assert names_in({"label_info": None, "params": []}) == []
    assert names_in({"label_info": [{"name": "a"}, {"idx": 3}, "b"]}) == [("a", 1)]


@pytest.mark.parametrize(
    ("named", "largest", "expected"),
    [
        ([], 3, {}),
        ([("liver", 1), ("left_kidney", 2), ("aorta", 3)], 3, {}),
        ([("Liver", 1), ("Left kidney", 2), ("AORTA", 3)], 2, {}),
        # deleted first segment, as 3D Slicer saves it
        ([("left_kidney", 1), ("aorta", 2)], 2, {1: 2, 2: 3}),
        # reordered
        ([("aorta", 1), ("liver", 2), ("left_kidney", 3)], 3, {1: 3, 2: 1, 3: 2}),
        # values are the schema's own, two of three structures
        ([("liver", 1), ("aorta", 3)], 3, {}),
        # a background segment before it
        ([("liver", 2), ("left_kidney", 3)], 2, {}),
        # other values of another program
        ([("liver", 4), ("aorta", 2)], 4, {4: 1, 2: 3}),
    ],
)
def test_value_map(named: list, largest: int, expected: dict) -> None:
    assert value_map(named, largest, SCHEMA, "It") == expected


def test_unknown_structures() -> None:
    with pytest.raises(UserError, match="tumour, cyst") as caught:
        value_map([("tumour", 1), ("liver", 2), ("cyst", 3)], 3, SCHEMA, "The label")
    assert caught.value.status == 422


def test_one_structure_may_have_any_name() -> None:
    assert value_map([("Segment_1", 1)], 1, LabelSchema(("tumour",)), "It") == {}

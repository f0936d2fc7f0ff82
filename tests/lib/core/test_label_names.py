"""Names beside a person's label decide what its values mean."""

from __future__ import annotations

import pytest

from lib.core.errors import UserError
from lib.core.label_names import check_nameless, names_in, value_map
from lib.core.labels import LabelSchema
from lib.formats.segmentations import values_by_name

SCHEMA = LabelSchema(("liver", "left_kidney", "aorta"))


def test_names_of_viewers_and_of_the_app() -> None:
    slicer = {
        "label_info": [{"name": "background", "idx": 1}, {"name": "liver", "idx": 2}, {"name": "aorta", "idx": 4}]
    }
    assert names_in(slicer) == [("liver", 2), ("aorta", 4)]
    assert names_in({"params": {"label_names": {"aorta": 3, "liver": 1}}}) == [("liver", 1), ("aorta", 3)]
    assert names_in({}) == []
    assert names_in({"label_info": None, "params": []}) == []
    assert names_in({"label_info": [{"name": "a"}, {"idx": 3}, "b"]}) == [("a", 1), ("b", 3)]
    assert names_in({"label_info": {"aorta": 1, "liver": "2"}}) == [("aorta", 1), ("liver", 2)]
    assert names_in({"label_info": [{"name": "a", "idx": "2"}, {"name": "b", "idx": 1.0}]}) == [("a", 2), ("b", 1)]
    rubbish = ["two", -3, 1.5, True, [1], ""]
    assert {names_in({"label_info": [{"name": "a", "idx": each}]})[0][1] for each in rubbish} <= {-1, -3}


@pytest.mark.parametrize(
    ("named", "present", "expected"),
    [
        ([], {3}, {}),
        ([("liver", 1), ("left_kidney", 2), ("aorta", 3)], {1, 2, 3}, {}),
        ([("Liver", 1), ("Left kidney", 2), ("AORTA", 3)], {2}, {}),
        # deleted first segment, as 3D Slicer saves it
        ([("left_kidney", 1), ("aorta", 2)], {1, 2}, {1: 2, 2: 3}),
        # reordered
        ([("aorta", 1), ("liver", 2), ("left_kidney", 3)], {1, 2, 3}, {1: 3, 2: 1, 3: 2}),
        # values are the schema's own, two of three structures
        ([("liver", 1), ("aorta", 3)], {1, 3}, {}),
        # a background segment before it, which 3D Slicer leaves out but counts
        ([("liver", 2), ("left_kidney", 3)], {1, 2}, {}),
        ([("aorta", 2), ("liver", 3)], {1, 2}, {1: 3, 2: 1}),
        # a scribble between two segments
        ([("liver", 1), ("aorta", 3)], {1, 2}, {1: 1, 2: 3}),
        # other values of another program
        ([("liver", 4), ("aorta", 2)], {2, 4}, {4: 1, 2: 3}),
        ([("liver", 1035), ("aorta", 17)], {17, 1035}, {1035: 1, 17: 3}),
        # idx is the value, and the highest one is not drawn: the schema's own, or in an order that no list has
        ([("left_kidney", 2), ("aorta", 3)], {2}, {}),
        ([("aorta", 3), ("liver", 1)], {1}, {}),
        ([("aorta", 2), ("liver", 1)], {2}, {2: 3, 1: 1}),
        # both readings mean the same here
        ([("aorta", 1), ("liver", 3)], {1}, {1: 3, 2: 1}),
    ],
)
def test_value_map(named: list, present: set, expected: dict) -> None:
    assert value_map(named, present, SCHEMA, "It") == expected


@pytest.mark.parametrize(
    ("named", "present", "text"),
    [
        ([("aorta", 2), ("liver", 3)], {2}, "two ways"),  # behind a background segment, or idx is the value
        ([("aorta", 1), ("liver", 2)], {1, 3}, "holds the value.s. 3"),
        ([("aorta", 7), ("liver", 9)], {7, 8}, "holds the value.s. 8"),
        ([("aorta", -1), ("liver", 1)], {1, 2}, "not clear which values"),
        ([("aorta", 1), ("liver", 1)], {1}, "not clear which values"),
        ([("liver", 1), ("Liver", 2)], {1, 2}, "several segments with the name liver"),
    ],
)
def test_values_that_could_mean_two_things_are_refused(named: list, present: set, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        value_map(named, present, SCHEMA, "The label")
    assert caught.value.status == 422


def test_values_without_names_are_refused_with_what_can_be_done() -> None:
    check_nameless([1, 3], SCHEMA, "It")
    with pytest.raises(UserError, match=r"17, 1035.*name its segments.*Or renumber"):
        check_nameless([17, 1035], SCHEMA, "It")


def test_unknown_structures() -> None:
    with pytest.raises(UserError, match="tumour, cyst") as caught:
        value_map([("tumour", 1), ("liver", 2), ("cyst", 3)], {1, 3}, SCHEMA, "The label")
    assert caught.value.status == 422


def test_one_structure_may_have_any_name() -> None:
    assert value_map([("Segment_1", 1)], {1}, LabelSchema(("tumour",)), "It") == {}
    assert value_map([("Segment_1", 7)], {7}, LabelSchema(("tumour",)), "It") == {7: 1}


def test_of_several_names_the_one_that_is_known_is_the_one_structure() -> None:
    liver = LabelSchema(("liver",))
    named = [("spleen", 1), ("liver", 2)]
    assert value_map(named, {2}, liver, "It") == {2: 1}
    assert value_map([("liver", 1), ("spleen", 2)], {1}, liver, "It") == {}
    for present in ({1}, {1, 2}):  # only the spleen is drawn, or both
        with pytest.raises(UserError, match=r"structure.s. spleen"):
            value_map(named, present, liver, "It")
    assert value_map([("Segment_1", 1), ("Segment_2", 2)], {1}, liver, "It") == {}
    assert values_by_name([("spleen", 7), ("Segment_2", 9)], [7], liver, "It") == {7: 1}
    with pytest.raises(UserError, match=r"structure.s. spleen"):
        values_by_name([("spleen", 1), ("liver", 2)], [1], liver, "It")

"""The rules of the label schema, and what a user reads when one is broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import UserError
from lib.core.labels import MAX_LABELS, LabelSchema, count_values, parse_labels


@pytest.mark.parametrize(
    "text",
    [
        "liver,spleen",
        " liver , spleen ",
        '["liver", "spleen"]',
        '{"liver": 1, "spleen": 2}',
        '{"spleen": 2, "liver": 1}',
        '{"background": 0, "liver": 1, "spleen": 2}',
    ],
)
def test_every_way_of_writing_gives_the_same_values_in_index_order(text: str) -> None:
    schema = parse_labels(text)
    assert schema.names == ("liver", "spleen")
    assert list(schema.as_dict().items()) == [("liver", 1), ("spleen", 2)]
    assert (schema.count, schema.channels) == (2, 3)


@pytest.mark.parametrize("content", [["liver", "spleen"], {"spleen": 2, "liver": 1}])
def test_labels_from_a_json_file(tmp_path: Path, content: object) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    assert parse_labels(str(path)).names == ("liver", "spleen")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--conf labels"),
        ("[]", "No label names"),
        ("{}", "No label names"),
        ("liver,,spleen", "empty"),
        ("liver,background", "always value 0"),
        ("liver,spleen,Liver", "given twice: liver"),
        ('["liver", 2]', "names only"),
        ('["liver"', "no valid JSON"),
        ('{"liver": 1, "spleen": 3}', "1 to 2 without a gap"),
        ('{"liver": 1, "spleen": 1}', "1 to 2 without a gap"),
        ('{"liver": 0, "spleen": 1}', "1 to 2 without a gap"),
        ('{"liver": "1"}', "whole numbers"),
        ('{"liver": true}', "whole numbers"),
        ("nowhere/labels.json", "there is no file nowhere/labels.json"),
        (",".join(f"s{n}" for n in range(MAX_LABELS + 1)), f"at most {MAX_LABELS}"),
    ],
)
def test_broken_rules_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_labels(text)
    assert caught.value.status == 400


def test_as_many_labels_as_fit_are_accepted() -> None:
    assert parse_labels(",".join(f"s{n}" for n in range(MAX_LABELS))).count == MAX_LABELS


def test_names_keep_their_case_and_inner_blanks() -> None:
    assert parse_labels("Left Kidney,aorta").names == ("Left Kidney", "aorta")


SCHEMA = LabelSchema(("liver", "spleen"))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_labels_of_the_schema_pass(dtype: type) -> None:
    SCHEMA.check(np.array([[[0, 1], [2, 2]]], dtype=dtype), "label")
    SCHEMA.check(np.array([[[0, 0], [0, 2]]], dtype=dtype), "label")  # an absent structure is fine


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0, 0], "my.nii.gz is empty"),
        ([0, 1, 3], r"value\(s\) 3, but this server knows 1 to 2 \(liver, spleen\)"),
        ([0, -1, 1], r"value\(s\) -1"),
        ([3, 4, 5, 6, 7, 8], "3, 4, 5, 6, 7, ..."),
        ([0, 1, 1.5], "not whole numbers"),
        ([0, 1, np.nan], "not whole numbers"),
        ([0, 1, np.inf], "not whole numbers"),
    ],
)
def test_unusable_label_maps_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SCHEMA.check(np.array(values).reshape(1, 1, -1), "my.nii.gz")
    assert caught.value.status == 422


def test_a_label_the_app_made_may_be_empty() -> None:
    LabelSchema(("a",)).check(np.zeros((2, 2, 2)), "x", may_be_empty=True)


def test_voxels_are_counted_whatever_their_order_in_memory() -> None:
    label = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    label[0, 0, 0] = 255
    for stored in (label, np.asfortranarray(label), label[::-1, :, ::2].transpose(2, 0, 1)):
        assert count_values(stored).tolist() == [int((stored == v).sum()) for v in range(256)]

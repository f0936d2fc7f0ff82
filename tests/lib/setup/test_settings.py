"""Settings: read once, and everything that is wrong is said at once."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.setup.settings import Settings


def message(**conf: str) -> str:
    with pytest.raises(UserError) as caught:
        Settings.from_conf(conf)
    return str(caught.value)


def test_defaults() -> None:
    settings = Settings.from_conf({})
    assert settings == Settings()
    assert (settings.generalist, settings.propagator, settings.default_strategy) == (
        "mind",
        "registration",
        "recommended",
    )
    assert settings.labels is None


def test_all_keys(tmp_path: Path) -> None:
    settings = Settings.from_conf(
        {
            "labels": "liver, spleen",
            "generalist": "mind",
            "propagator": "prototype",
            "weights": str(tmp_path),
            "roi_size": "96,96,64",
            "spacing": "1,1,2.5",
            "default_strategy": "uniform",
        }
    )
    assert settings.labels is not None
    assert settings.labels.names == ("liver", "spleen")
    assert settings.propagator == "prototype"
    assert settings.weights == tmp_path
    assert settings.roi_size == (96, 96, 64)
    assert settings.spacing == (1.0, 1.0, 2.5)
    assert settings.default_strategy == "uniform"


def test_one_number_counts_for_all_axes() -> None:
    settings = Settings.from_conf({"roi_size": "64", "spacing": "1.5"})
    assert settings.roi_size == (64, 64, 64)
    assert settings.spacing == (1.5, 1.5, 1.5)


def test_several_generalists_of_which_the_first_gives_features() -> None:
    settings = Settings.from_conf({"generalist": "mobile_sam, lite_medsam"})
    assert settings.generalists == ("mobile_sam", "lite_medsam")
    assert settings.generalist == "mobile_sam"
    assert Settings.from_conf({"generalist": "mind,mobile_sam"}).generalist == "mind"
    assert Settings().generalists == ("mind",)


def test_mind_gives_features_of_volumes_beside_a_2d_model_unless_told_otherwise() -> None:
    """What was worked out from the features of one is of no use for the other."""
    assert Settings.from_conf({"generalist": "mobile_sam"}).describing == "mobile_sam+mind"
    assert Settings.from_conf({"generalist": "mobile_sam", "features": "first"}).describing == "mobile_sam"
    assert Settings.from_conf({"generalist": "mind,mobile_sam"}).describing == "mind"
    assert Settings.from_conf({"generalist": "sam_med3d"}).describing == "sam_med3d"
    assert "features: 'frist' is not known. Did you mean first?" in message(features="frist")


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().generalist = "other"  # type: ignore[misc]


def test_keys_of_monai_label_are_accepted() -> None:
    assert Settings.from_conf({"server_mode": "true"}) == Settings()


def test_unknown_key_suggests_the_nearest() -> None:
    text = message(label="liver")
    assert "label: there is no such setting. Did you mean labels?" in text
    assert "--conf default_strategy NAME" in text


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("labels", "liver,liver", "twice"),
        ("labels", "background,liver", "background"),
        ("labels", "nowhere.json", "no file nowhere.json"),
        ("labels", '{"liver": 2}', "1 to 1"),
        ("generalist", "mimd", "Did you mean mind?"),
        ("generalist", "mobile_sam,lite_medsan", "'lite_medsan' is not known. Did you mean lite_medsam?"),
        ("generalist", "mobile_sam,lite_medsam,mobile_sam", "'mobile_sam' is named twice"),
        ("generalist", "mobile_sam,mind", "'mind' takes no prompts, so it can only stand first"),
        ("generalist", "mobile_sam,,lite_medsam", "one comma between them"),
        ("generalist", "mobile_sam,", "one comma between them"),
        ("propagator", "elastix", "Allowed: registration"),
        ("weights", "/nowhere/at/all", "no folder"),
        ("roi_size", "96,96", "three with commas"),
        ("roi_size", "100", "multiples of 8"),
        ("roi_size", "0", "multiples of 8"),
        ("roi_size", "big", "multiples of 8"),
        ("spacing", "0", "in mm"),
        ("spacing", "nan", "in mm"),
        ("spacing", "1,1,-1", "in mm"),
        ("default_strategy", "random", "Allowed: recommended, template"),
        ("default_strategy", " ", "empty"),
    ],
)
def test_bad_value(key: str, value: str, part: str) -> None:
    text = message(**{key: value})
    assert part in text
    assert f"  - {key}" in text


def test_all_problems_at_once() -> None:
    text = message(lables="a", roi_size="7", generalist="none", spacing="x")
    assert text.count("\n  - ") == 4
    assert text.startswith("The settings given with --conf cannot be used:")


def test_combination() -> None:
    assert "window of only 3.2 mm" in message(roi_size="32", spacing="0.1")
    assert message(roi_size="8,8,8").count("preset 'quick' or 'standard' or 'full'") == 1


def test_which_pseudo_labels_go_to_a_dicom_server() -> None:
    assert Settings().dicom_pseudo_labels == "last"
    assert Settings.from_conf({"dicom_pseudo_labels": "never"}).dicom_pseudo_labels == "never"
    with pytest.raises(UserError, match="Allowed: last, always, never"):
        Settings.from_conf({"dicom_pseudo_labels": "sometimes"})

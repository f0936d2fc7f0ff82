"""Propagation on real scans: one outlined scan labels another clearly better than its label copied as it lies."""

from __future__ import annotations

import pytest
import torch

from lib.core.frames import frame_of
from lib.core.labels import LabelSchema
from lib.core.metrics import mean_dice
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.generalists import create_generalist
from lib.propagation import Template, create_propagator
from realdata import folder_of, scans_of

pytestmark = pytest.mark.realdata


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labels", "scans", "least"),
    [("hippocampus", ("anterior", "posterior"), 1, 0.74), ("la", ("atrium",), 1, 0.79)],
)
def test_registration_labels_other_scans(name: str, labels: tuple[str, ...], scans: int, least: float) -> None:
    folder = folder_of(name)
    schema = LabelSchema(labels)
    split = scans_of(folder)
    first = read_volume(folder / "images" / f"{split['train'][0]}.nii.gz")
    truth = read_label(folder / "labels" / f"{split['train'][0]}.nii.gz", first, schema)
    template = Template(split["train"][0], first, truth)
    found, copied = [], []
    for other in split["val"][:scans]:
        scan = read_volume(folder / "images" / f"{other}.nii.gz")
        label = read_label(folder / "labels" / f"{other}.nii.gz", scan, schema)
        soft = create_propagator("registration").propagate(template, scan, schema.channels, create_generalist("mind"))
        assert float(soft.confidence.min()) >= 0
        assert float(soft.confidence.max()) <= 1
        torch.testing.assert_close(soft.probabilities.sum(0), torch.ones(soft.frame.shape), atol=1e-3, rtol=0)
        found.append(mean_dice(soft.labels(), label, schema.count))
        frame = frame_of(scan)
        as_it_lies = frame_of(first).with_shape(frame.shape).one_hot(truth, schema.channels)
        copied.append(mean_dice(frame.labels_back(as_it_lies), label, schema.count))
    assert sum(found) / len(found) > least
    assert sum(found) / len(found) > sum(copied) / len(copied) + 0.05


@pytest.mark.slow
def test_oblique_cardiac_scans_are_found_by_their_true_directions() -> None:
    """Their nearest axes differ from the template's by a quarter turn: laid along these, nothing was found."""
    folder = folder_of("mscmr")
    schema = LabelSchema(("myocardium", "left ventricle", "right ventricle"))

    def outlined(name: str) -> Template:
        scan = read_volume(folder / "images" / f"{name}.nii.gz")
        return Template(name, scan, read_label(folder / "labels" / f"{name}.nii.gz", scan, schema))

    template = outlined("image_1")
    for other in map(outlined, ("image_7", "image_10")):
        found = create_propagator("registration").propagate(template, other.scan, 4, create_generalist("mind"))
        assert mean_dice(found.labels(), other.label, schema.count) > 0.65

"""An outline is carried over by all channels of a scan, each as far as it shows something."""

from __future__ import annotations

import numpy as np

from lib.core.geometry import Volume
from lib.generalists.mind import Mind
from lib.propagation import Template, create_propagator, propagate_from
from lib.propagation.channels import pairs
from tiny_study import dice, tiny_scan


def _scan(number: int, *, blind: bool) -> tuple[Volume, np.ndarray]:
    """A scan whose second channel shows it, and whose first one may be noise alone."""
    image, label, affine = tiny_scan(number)
    noise = np.random.default_rng(number).normal(size=image.shape).astype(np.float32) * 100
    shown = image.astype(np.float32)
    return Volume(noise if blind else shown, affine, further=(900 - shown,)), label


def test_the_second_channel_helps_where_the_first_shows_nothing() -> None:
    template, label = _scan(1, blind=True)
    scan, truth = _scan(2, blind=True)
    one = Template("case_1", template, label)
    soft = propagate_from([one], scan, 3, generalist=Mind(), propagator=create_propagator("registration"))
    assert soft.templates == ("case_1",)
    first = propagate_from(
        [Template("case_1", template.channel(0), label)],
        scan.channel(0),
        3,
        generalist=Mind(),
        propagator=create_propagator("registration"),
    )
    both, alone = (dice(each.labels(), truth, 1) for each in (soft, first))
    assert both > 0.6
    assert both > alone


def test_a_scan_with_one_channel_is_as_it_was() -> None:
    image, label, affine = tiny_scan(1)
    scan = Volume(image.astype(np.float32), affine)
    template = Template("case_1", scan, label)
    ((same, other),) = pairs(template, scan)
    assert same.scan is scan
    assert other is scan

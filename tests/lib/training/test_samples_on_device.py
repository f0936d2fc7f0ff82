"""Samples in a GPU's memory. PyTorch's device ``meta`` stands in for a GPU: it holds no values, but is not the CPU."""

from __future__ import annotations

from dataclasses import replace

import torch

from lib.training.sample import Sample
from lib.training.samples_on_device import OnDevice


def sample() -> Sample:
    return Sample(torch.rand(1, 4, 4, 4), torch.rand(2, 4, 4, 4), torch.rand(1, 4, 4, 4), torch.rand(1, 4, 4, 4))


def test_a_scan_is_copied_once_and_a_changed_map_anew() -> None:
    there, scan = OnDevice("meta", most=10**6), sample()
    first = there.copy("a", scan)
    assert first.image.device.type == first.target.device.type == "meta"
    again = there.copy("a", replace(scan, weight=scan.weight.view(1, 4, 4, 4), extra=torch.rand(1, 4, 4, 4)))
    assert again.image is first.image
    assert again.target is first.target
    assert again.weight is first.weight
    assert again.extra is not first.extra


def test_the_scan_that_was_not_drawn_for_longest_makes_room() -> None:
    scans = {name: sample() for name in "abc"}
    bytes_of_one = 4 * 4**3 * 4  # image, two classes, weight
    there = OnDevice("meta", most=2 * bytes_of_one)
    copies = {name: there.copy(name, scan) for name, scan in scans.items()}
    assert there.copy("c", scans["c"]).image is copies["c"].image
    assert there.copy("b", scans["b"]).image is copies["b"].image
    assert there.copy("a", scans["a"]).image is not copies["a"].image


def test_a_slice_counts_as_the_volume_it_holds() -> None:
    """Slices of a study are parts of its volumes; they must not keep them all in memory."""
    volumes = {name: torch.rand(4, 16, 16, 16) for name in "ab"}
    cut = {name: whole.narrow(3, 0, 1) for name, whole in volumes.items()}
    slices = {name: Sample(part[:1], part[1:3], part[3:]) for name, part in cut.items()}
    there = OnDevice("meta", most=4 * 4 * 16**3 * 4)
    first = there.copy("a", slices["a"])
    there.copy("b", slices["b"])
    assert there.copy("a", slices["a"]).image is not first.image


def test_a_scan_without_further_maps() -> None:
    scan = replace(sample(), extra=None)
    assert OnDevice("meta", most=0).copy("a", scan).extra is None


def test_on_the_cpu_nothing_is_copied() -> None:
    scan = sample()
    assert OnDevice("cpu").copy("a", scan) is scan

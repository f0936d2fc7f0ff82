"""Propagation by a video model. Most tests have a stand-in for the model that knows structures by their brightness."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.formats.volumes import read_volume
from lib.generalists import create_generalist
from lib.generalists.sam2video import Sam2Video
from lib.propagation import SoftLabels, Template
from lib.propagation.video import VideoPropagator
from phantoms import blobs, dice
from published_sam2 import Published, small_model
from realdata import folder_of, scans_of


class Brightness:
    """A slice tracker: what is about as bright as the structure on the prompted slices belongs to it."""

    name = "brightness"
    side = 96

    def __init__(self) -> None:
        self.slices: list[Tensor] = []
        self.sequences: list[tuple[list[int], list[int], bool]] = []

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        raise AssertionError("no features are asked for")

    def encode_slices(self, slices: Tensor) -> Sequence[object]:
        first = len(self.slices)
        self.slices += list(slices)
        return list(range(first, len(self.slices)))

    def track(self, pieces: Sequence[object], masks: Mapping[int, Tensor], *, reverse: bool = False) -> Tensor:
        numbers = [piece for piece in pieces if isinstance(piece, int)]
        assert len(set(numbers)) == len(pieces)
        self.sequences.append((numbers, sorted(masks), reverse))
        count = len(next(iter(masks.values())))
        logits = torch.full((len(pieces), count, self.side, self.side), -1024.0)
        for structure in range(count):
            values = torch.cat([self.slices[numbers[at]][masks[at][structure]] for at in masks])
            order = range(max(masks), -1, -1) if reverse else range(min(masks), len(pieces))
            for at in order:
                near = 1 - (self.slices[numbers[at]] - values.median()).abs() / 20
                small = functional.interpolate(near[None, None], size=(self.side, self.side), mode="area")
                logits[at, structure] = small[0, 0] * 8
        return logits


@pytest.fixture(scope="module")
def template() -> Template:
    scan, label = blobs(seed=1)
    return Template("t", scan, label)


def propagate(template: Template, scan: Volume, **options: int) -> SoftLabels:
    return VideoPropagator(**options).propagate(template, scan, 3, Brightness())


def test_moved_organs_are_found(template: Template) -> None:
    scan, truth = blobs(seed=2, centre=(3, -3, 2))
    result = propagate(template, scan)
    found = result.labels()
    assert found.shape == truth.shape
    # The stand-in stays away from the second organ's blurred edge.
    assert min(dice(found, truth, 1), dice(found, truth, 2)) > 0.8
    assert torch.allclose(result.probabilities.sum(0), torch.ones(()), atol=1e-5)
    assert result.similarity == pytest.approx(1)
    assert result.templates == ("t",)


def test_other_orientation_and_spacing(template: Template) -> None:
    scan, truth = blobs((56, 40, 20), seed=3, spacing=(1.4, 2.2, 3.6))
    turned = Volume(
        np.ascontiguousarray(np.flip(scan.array.transpose(2, 0, 1), 0)),
        scan.affine[:, [2, 0, 1, 3]]
        @ np.array([[-1, 0, 0, scan.shape[2] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    found = propagate(template, turned).labels()
    known = np.ascontiguousarray(np.flip(truth.transpose(2, 0, 1), 0))
    assert min(dice(found, known, 1), dice(found, known, 2)) > 0.8


def test_a_millimetre_is_equally_long_everywhere() -> None:
    """The same body, once with pixels twice as high as wide and a part of it only: equally large for the model."""
    plain, label = blobs((48, 48, 20))
    squeezed = Volume(np.ascontiguousarray(plain.array[4:44, ::2]), plain.affine @ np.diag([1.0, 2, 1, 1]))
    tracker = Brightness()
    VideoPropagator(prompts=0).propagate(Template("t", squeezed, label[4:44, ::2]), plain, 3, tracker)
    sizes = []
    for slices in (torch.stack(tracker.slices[:20]), torch.stack(tracker.slices[20:])):
        assert slices.shape[1] == slices.shape[2]
        bright = (slices > 90).any(0).nonzero()  # the second organ
        sizes.append((bright.amax(0) - bright.amin(0) + 1).tolist())
    for one, other in zip(*sizes, strict=True):
        assert abs(one - other) <= 2


def test_slices_follow_the_body_and_not_the_file(template: Template) -> None:
    """A file with its slices the other way round makes the same sequence."""
    scan, _ = blobs(seed=4)
    turned = Volume(
        np.ascontiguousarray(scan.array[..., ::-1]),
        scan.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, scan.shape[2] - 1], [0, 0, 0, 1.0]]),
    )
    one, other = Brightness(), Brightness()
    VideoPropagator().propagate(template, scan, 3, one)
    VideoPropagator().propagate(template, turned, 3, other)
    assert all(torch.equal(a, b) for a, b in zip(one.slices, other.slices, strict=True))


@pytest.mark.parametrize(("prompts", "inserted"), [(4, 4), (0, 36)])
def test_the_template_is_inserted_whole_at_different_places_and_each_slice_is_encoded_once(
    template: Template, prompts: int, inserted: int
) -> None:
    scan, _ = blobs(seed=5)
    tracker = Brightness()
    VideoPropagator(prompts=prompts, seed=3).propagate(template, scan, 3, tracker)
    assert len(tracker.slices) == 2 * 36
    places = set()
    for numbers, prompted, _ in tracker.sequences:
        assert [n for n in numbers if n < 36] == list(range(36))  # the scan's slices in their order
        given = [at for at, n in enumerate(numbers) if n >= 36]
        assert len(given) == inserted
        assert given == list(range(given[0], given[0] + inserted))
        assert set(prompted) <= set(given)
        places.add(given[0])
    assert len(places) == 5
    assert {reverse for *_, reverse in tracker.sequences} == {False, True}


def test_places_are_random_by_seed(template: Template) -> None:
    scan, _ = blobs(seed=5)

    def places(seed: int) -> list[int]:
        tracker = Brightness()
        VideoPropagator(seed=seed, prompts=2).propagate(template, scan, 3, tracker)
        return [prompted[0] for _, prompted, _ in tracker.sequences]

    assert places(1) == places(1)
    assert places(1) != places(2)


def test_a_scan_with_few_slices(template: Template) -> None:
    thin = Volume(np.random.default_rng(0).normal(size=(20, 18, 2)).astype(np.float32), np.diag([2.0, 2, 9, 1]))
    assert propagate(template, thin).labels().shape == (20, 18, 2)


def test_only_the_largest_part_of_a_label_is_kept(template: Template) -> None:
    scan, truth = blobs((60, 44, 36), seed=6)
    array = scan.array.copy()
    array[2:7, 2:7, 2:7] = 80  # as bright as the first organ
    found = propagate(template, Volume(array, scan.affine)).labels()
    assert dice(found, truth, 1) > 0.85
    assert not (found[2:7, 2:7, 2:7] == 1).any()


def test_labels_that_the_template_does_not_show_stay_away(template: Template) -> None:
    scan, truth = blobs(seed=7)
    one = Template("one", template.scan, np.where(template.label == 2, 2, 0).astype(np.uint8))
    found = propagate(one, scan).labels()
    assert set(np.unique(found)) == {0, 2}
    assert dice(found, truth, 2) > 0.8
    none = propagate(Template("none", template.scan, np.zeros_like(template.label)), scan)
    assert not none.labels().any()
    assert none.mean_confidence() == 0


def test_a_structure_on_few_slices_is_shown_to_the_model_too() -> None:
    scan, label = blobs(seed=9)
    label[label == 2] = 0
    label[2:5, 2:5, 17] = 2
    scan.array[2:5, 2:5, 17] = 300
    result = VideoPropagator(prompts=2).propagate(Template("t", scan, label), scan, 3, Brightness())
    assert dice(result.labels(), label, 2) > 0.5


def test_confidence_is_lower_where_insertions_disagree(template: Template) -> None:
    class Moody(Brightness):
        """Forgets the first structure in every other sequence."""

        def track(self, pieces: Sequence[object], masks: Mapping[int, Tensor], *, reverse: bool = False) -> Tensor:
            logits = super().track(pieces, masks, reverse=reverse)
            if min(masks) % 2:
                logits[:, 0] = -8
            return logits

    scan, truth = blobs(seed=8)
    result = VideoPropagator(seed=1).propagate(template, scan, 3, Moody())
    confidence = result.frame.map_back(result.confidence)
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert confidence[truth == 1].mean() < confidence[truth == 2].mean() - 0.2
    assert 0 < result.similarity < 1


def test_a_generalist_that_cannot_track_is_refused(template: Template) -> None:
    with pytest.raises(UserError, match=r"'mind' does not\. Choose sam2_tiny, .* or medsam2"):
        VideoPropagator().propagate(template, template.scan, 3, create_generalist("mind"))


def compare(folder: Path, model: Sam2Video, slices: int, prompts: int) -> dict[str, float]:
    """The video propagator on two real scans, once as it is and once with the package's predictor for each pass."""
    names = scans_of(folder)["train"][:2]
    one, two = (read_volume(folder / "images" / f"{name}.nii.gz") for name in names)
    label = (read_volume(folder / "labels" / f"{names[0]}.nii.gz").array > 0).astype(np.uint8)
    video = VideoPropagator(slices=slices, prompts=prompts)
    found: dict[str, float] = {}
    answers = []
    for name, tracker in (("once", model), ("anew", Published(model))):
        kept: list[Tensor] = []
        track = tracker.track

        def keep(*given: object, _track: object = track, _kept: list[Tensor] = kept, **how: object) -> Tensor:
            logits: Tensor = _track(*given, **how)  # type: ignore[operator]
            _kept.append(logits)
            return logits

        tracker.track = keep  # type: ignore[method-assign]
        before, start = tracker.encoded, time.perf_counter()
        try:
            result = video.propagate(Template(names[0], one, label), two, 2, tracker)  # type: ignore[arg-type]
        finally:
            del tracker.track
        found[f"{name} seconds"] = time.perf_counter() - start
        found[f"{name} encoded"] = tracker.encoded - before
        answers.append((kept, result.probabilities))
    (own, chance), (published, other_chance) = answers
    scale = max(float(logits[logits > -1000].abs().max()) for logits in published)
    found["logits differ"] = max(float((a - b).abs().max()) / scale for a, b in zip(own, published, strict=True))
    found["probabilities differ"] = float((chance - other_chance).abs().max())
    return found


@pytest.mark.realdata
@pytest.mark.slow
def test_encoding_once_gives_the_same_at_a_fifth_of_the_work_on_real_scans() -> None:
    found = compare(folder_of("la"), small_model(128), slices=6, prompts=2)
    print(found)
    assert found["logits differ"] < 1e-3
    assert found["probabilities differ"] < 1e-2
    assert found["once encoded"] * 5 <= found["anew encoded"]
    assert found["once seconds"] * 2 <= found["anew seconds"]

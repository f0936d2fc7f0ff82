"""With several outlined scans the most similar ones are used, and their labels are fused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.core.frames import common_frame, frame_of
from lib.core.geometry import Volume
from lib.generalists import Generalist
from lib.generalists.mind import Mind
from lib.propagation import SoftLabels, Template, most_similar, propagate_from
from lib.propagation.fusion import fuse, signature

SHAPE = (24, 22, 20)


def anatomy(centre: Sequence[float], radii: Sequence[float], seed: int = 0) -> tuple[Volume, np.ndarray]:
    """A bright ellipsoid in a textured body, and its label map."""
    where = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    inside = (((where - np.asarray(centre)) / np.asarray(radii)) ** 2).sum(-1) <= 1
    noise = np.random.default_rng(seed).normal(0, 3, SHAPE)
    array = 100 + 80 * inside + 20 * np.sin(where[..., 0] / 4) + noise
    return Volume(array.astype(np.float32), np.eye(4)), inside.astype(np.uint8)


def template(name: str, centre: Sequence[float], radii: Sequence[float], seed: int = 0) -> Template:
    return Template(name, *anatomy(centre, radii, seed))


FAR = template("far", (6, 6, 6), (4, 3, 3), seed=1)
NEAR = template("near", (13, 12, 11), (7, 5, 4), seed=2)
FLAT = template("flat", (18, 16, 5), (3, 5, 2), seed=3)
TARGET, _ = anatomy((12, 12, 11), (7, 5, 4), seed=4)


class CopyLabel:
    """Takes over the template's label as it lies."""

    name = "copy"

    def __init__(self) -> None:
        self.used: list[str] = []

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        self.used.append(template.name)
        frame = frame_of(scan)
        soft = frame.one_hot(template.label, channels)
        return SoftLabels(frame, soft, torch.full(frame.shape, 0.8), (template.name,), 0.5)


def chosen(templates: Sequence[Template], most: int) -> Sequence[str]:
    scans = {t.name: t.scan for t in templates}
    return most_similar(TARGET, list(scans), lambda name: signature(scans[name]), most)


def similarity(template: Template) -> float:
    return float(signature(template.scan) @ signature(TARGET))


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_the_most_similar_templates_are_chosen_the_most_similar_first(most: int) -> None:
    found = chosen([FAR, NEAR, FLAT], most)
    assert found[0] == "near"
    assert len(found) == min(most, 3)
    scores = [similarity({"far": FAR, "near": NEAR, "flat": FLAT}[name]) for name in found]
    assert scores == sorted(scores, reverse=True)
    assert all(-1.0001 <= score <= 1.0001 for score in scores)


def test_a_single_template_is_chosen_without_a_look_at_it() -> None:
    def never(name: str) -> torch.Tensor:
        raise AssertionError(name)

    assert most_similar(TARGET, ["far"], never, 3) == ["far"]


def test_similarity_ignores_storage_order_and_intensity_scale() -> None:
    flipped = np.eye(4)
    flipped[0] = [-1, 0, 0, SHAPE[0] - 1]
    stored = Volume(np.ascontiguousarray(NEAR.scan.array[::-1] * 10 + 500), flipped)
    turned = Template("near", stored, np.ascontiguousarray(NEAR.label[::-1]))
    assert similarity(turned) == pytest.approx(similarity(NEAR), abs=1e-2)


def test_equal_templates_keep_a_stable_order() -> None:
    twins = [Template(name, NEAR.scan, NEAR.label) for name in ("b", "c", "a")]
    assert chosen(twins, 3) == ["a", "b", "c"]


def test_all_templates_that_are_given_are_propagated_in_their_order() -> None:
    propagator = CopyLabel()
    found = propagate_from([FAR, FLAT, NEAR], TARGET, 2, generalist=Mind(), propagator=propagator)
    assert found.templates == tuple(propagator.used) == ("far", "flat", "near")


def test_a_single_template_is_used_as_it_is() -> None:
    found = propagate_from([FAR], TARGET, 2, generalist=Mind(), propagator=CopyLabel())
    assert found.templates == ("far",)
    np.testing.assert_array_equal(found.labels(), FAR.label)


def test_no_template_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"No scan .* 'final' label.*Outline one scan") as caught:
        propagate_from([], TARGET, 2, generalist=Mind(), propagator=CopyLabel())
    assert caught.value.status == 409


def soft(name: str, foreground: float, confidence: float, similarity: float) -> SoftLabels:
    frame = frame_of(TARGET)
    probabilities = torch.stack([torch.full(frame.shape, 1 - foreground), torch.full(frame.shape, foreground)])
    return SoftLabels(frame, probabilities, torch.full(frame.shape, confidence), (name,), similarity)


def test_fused_values_stay_probabilities_and_confidence_in_range() -> None:
    rng = torch.Generator().manual_seed(0)
    frame = frame_of(TARGET)
    results = [
        SoftLabels(
            frame,
            torch.rand((3, *frame.shape), generator=rng).softmax(0),
            torch.rand(frame.shape, generator=rng),
            (str(n),),
            similarity,
        )
        for n, similarity in enumerate((0.2, 0.9, 0.7))
    ]
    fused = fuse(results)
    torch.testing.assert_close(fused.probabilities.sum(0), torch.ones(frame.shape))
    assert float(fused.confidence.min()) >= 0
    assert float(fused.confidence.max()) <= 1
    assert fused.templates == ("0", "1", "2")
    assert fused.similarity == pytest.approx(0.9)
    assert 0 <= fused.mean_confidence() <= 1


def test_the_more_confident_template_decides() -> None:
    fused = fuse([soft("sure", 0.9, 0.9, 0.5), soft("unsure", 0.1, 0.1, 0.5)])
    assert float(fused.probabilities[1].mean()) > 0.5


def test_the_better_matching_template_decides() -> None:
    fused = fuse([soft("poor match", 0.1, 0.8, 0.5), soft("good match", 0.9, 0.8, 0.8)])
    assert float(fused.probabilities[1].mean()) > 0.85


def test_disagreement_lowers_confidence() -> None:
    agree = fuse([soft("a", 1.0, 0.8, 0.5), soft("b", 1.0, 0.8, 0.5)])
    differ = fuse([soft("a", 1.0, 0.8, 0.5), soft("b", 0.0, 0.8, 0.5)])
    assert float(differ.confidence.mean()) < float(agree.confidence.mean()) - 0.2


def test_zero_confidence_everywhere_gives_no_nan() -> None:
    fused = fuse([soft("a", 1.0, 0.0, 0.5), soft("b", 0.5, 0.0, 0.5)])
    assert bool(torch.isfinite(fused.probabilities).all())
    assert bool(torch.isfinite(fused.confidence).all())


def whole_and_part() -> tuple[SoftLabels, SoftLabels]:
    """A scan that one template says is all background, and a part of it that is all structure after another."""
    frame = frame_of(TARGET)
    nothing = torch.zeros(2, *frame.shape)
    nothing[0] = 1
    inside = torch.zeros(frame.shape, dtype=torch.bool)
    inside[4:12, 4:12, 4:12] = True
    part = frame.around(inside, 0.0)
    everything = torch.zeros(2, *part.shape)
    everything[1] = 1
    sure, less_sure = torch.full(frame.shape, 0.8), torch.full(part.shape, 0.3)
    return (
        SoftLabels(frame, nothing, sure, ("whole",), 0.9),
        SoftLabels(part, everything, less_sure, ("part",), 0.9, elsewhere=0.7),
    )


def test_a_template_that_saw_only_a_part_is_outvoted_there_by_surer_ones() -> None:
    whole, part = whole_and_part()
    assert not fuse([whole, part]).labels().any()
    assert not fuse([part, whole]).labels().any()


def test_a_template_that_saw_a_part_has_a_say_about_the_rest() -> None:
    whole, part = whole_and_part()
    astray = SoftLabels(whole.frame, whole.probabilities.flip(0), whole.confidence / 2, ("astray",), 0.9)
    found = fuse([astray, part])
    where = np.argwhere(found.labels() > 0)
    assert (where.min(0) >= 3).all()
    assert (where.max(0) <= 12).all()


def test_a_fine_part_of_a_large_scan_does_not_make_all_of_it_fine() -> None:
    scan = Volume(np.random.default_rng(0).normal(size=(120, 120, 120)).astype(np.float32), np.eye(4))
    frame = frame_of(scan)
    inside = torch.zeros(frame.shape, dtype=torch.bool)
    inside[50:70, 50:70, 50:70] = True
    joined = common_frame([frame.with_shape((12, 12, 12)), frame.around(inside, 0.0)])
    assert joined.box == frame.box
    assert 400_000 < np.prod(joined.shape) < 520_000


def test_a_structure_too_small_for_the_grid_leaves_traces() -> None:
    frame = frame_of(TARGET)
    probabilities = torch.zeros(4, *frame.shape)
    probabilities[1, 5:9, 5:9, 5:9] = 0.9
    probabilities[2, 15, 15, 15] = 0.3
    probabilities[3, 20, 5, 5] = 0.01
    probabilities[0] = 1 - probabilities[1:].sum(0)
    traces = SoftLabels(frame, probabilities, torch.ones(frame.shape), (), 1.0).traces()
    assert int(traces.sum()) == 4**3 + 1
    assert bool(traces[15, 15, 15])

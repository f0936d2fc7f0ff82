"""Features of any generalist are brought to few channels on one scale before they are matched."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from lib.core.frames import frame_of
from lib.generalists.mind import Mind
from lib.propagation.features import UNRELATED, comparable, surroundings
from lib.propagation.registration import RegistrationPropagator
from phantoms import blobs


class Wide:
    """MIND in disguise: the same information, spread over 200 channels on an odd scale."""

    name = "wide"

    def __init__(self) -> None:
        self._spread = torch.randn(12, 200, generator=torch.Generator().manual_seed(1)) * 37.0

    def encode(self, image: torch.Tensor, spacing: object) -> torch.Tensor:
        return torch.einsum("cdhw,ck->kdhw", Mind().encode(image, (1.0, 1.0, 1.0)), self._spread) + 5.0


def test_mind_is_taken_as_it_is() -> None:
    a, b = torch.rand(12, 4, 5, 6), torch.rand(12, 6, 5, 4)
    assert comparable(a, b)[0] is a
    assert comparable(a, b)[1] is b


def test_wide_features_become_few_on_the_usual_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(10, 300, generator=generator) * 50
    a, b = (torch.einsum("cdhw,ck->kdhw", torch.randn(10, 8, 8, 8, generator=generator), mixing) for _ in range(2))
    few_a, few_b = comparable(a, b)
    assert few_a.shape == few_b.shape == (16, 8, 8, 8)
    difference = float((few_a - few_b).square().mean())
    assert 0.7 * UNRELATED < difference < 1.3 * UNRELATED
    # Equal places stay equal, and nearer ones nearer.
    same_a, same_b = comparable(a, a + 0.1 * mixing.std() * torch.randn(a.shape, generator=generator))
    assert float((same_a - same_b).square().mean()) < 0.1 * difference


def test_fine_features_become_means_on_half_the_grid() -> None:
    scan, _ = blobs()
    frame = frame_of(scan)

    class Plain:
        name = "mind"

        def encode(self, image: torch.Tensor, spacing: object) -> torch.Tensor:
            return image

    image = Plain().encode(frame.image(scan.array), None)
    means = surroundings(scan, frame, Plain())
    assert means.shape == (1, 20, 22, 18)
    expected = image[0, 8:14, 10:16, 6:12].mean()  # 6 voxels around the two of cell 5, 6, 4
    torch.testing.assert_close(means[0, 5, 6, 4], expected)
    coarse = frame.with_shape((10, 11, 9))
    torch.testing.assert_close(surroundings(scan, coarse, Plain()), coarse.image(scan.array), rtol=0, atol=0)


def test_a_model_with_a_spacing_of_its_own_sees_the_scan_as_it_is() -> None:
    scan, _ = blobs()
    seen: list[tuple[int, ...]] = []

    class Model:
        name = "model"

        def encode(self, image: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
            seen.append(tuple(image.shape[1:]))
            torch.testing.assert_close(torch.tensor(spacing), torch.tensor(frame_of(scan).spacing))
            return image[:, :4, :4, :4]

    surroundings(scan, frame_of(scan).with_shape((10, 11, 9)), Model())
    assert seen == [frame_of(scan).shape]


@pytest.mark.slow
def test_registration_gives_the_same_label_over_any_disguise() -> None:
    from lib.propagation import Template

    scan, label = blobs(seed=1, centre=(2.0, -1.0, 1.0))
    other, other_label = blobs(seed=2)
    template = Template("t", other, other_label)
    plain = RegistrationPropagator().propagate(template, scan, 3, Mind())
    wide = RegistrationPropagator().propagate(template, scan, 3, Wide())
    agree = (plain.labels() == wide.labels())[label > 0].mean()
    assert agree > 0.95

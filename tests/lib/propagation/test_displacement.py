"""Displacement fields find known movements."""

import torch

from lib.generalists.mind import Mind
from lib.propagation.displacement import coarse_displacement, compose, refine_displacement, voxel_grid, warp


def textured(shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    noise = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    for _ in range(3):
        noise = torch.nn.functional.avg_pool3d(noise, 3, 1, 1)
    return noise[0] / noise.std()


def test_warp_by_zero_changes_nothing_and_by_whole_voxels_shifts() -> None:
    values = textured((10, 12, 14))
    assert torch.allclose(warp(values, torch.zeros(3, 10, 12, 14)), values, atol=1e-5)
    field = torch.zeros(3, 10, 12, 14)
    field[1] = 2.0
    assert torch.allclose(warp(values, field)[:, :, :-2], values[:, :, 2:], atol=1e-5)


def test_coarse_search_finds_a_shift_in_voxels_with_its_sign() -> None:
    image = textured((48, 48, 48))
    shift = (8, -8, 4)
    fixed = Mind().encode(image, (1, 1, 1))
    moving = Mind().encode(torch.roll(image, shift, dims=(1, 2, 3)), (1, 1, 1))
    field = coarse_displacement(fixed, moving, stride=4, reach=4)
    middle = field[:, 4:8, 4:8, 4:8].mean(dim=(1, 2, 3))
    assert torch.allclose(middle, torch.tensor(shift, dtype=torch.float32), atol=1.0)


def test_refinement_recovers_a_smooth_deformation_within_half_a_voxel() -> None:
    image = textured((40, 40, 40))
    x, y, z = voxel_grid((40, 40, 40))
    true = torch.stack([1.5 * torch.sin(y / 8), 1.5 * torch.cos(z / 9), 1.2 * torch.sin(x / 7)])
    features = Mind().encode(image, (1, 1, 1))
    moved = Mind().encode(warp(image, true), (1, 1, 1))
    found = refine_displacement(moved, features, torch.zeros_like(true), iterations=60, smoothness=0.3, rate=0.5)
    inside = (slice(None), slice(8, -8), slice(8, -8), slice(8, -8))
    before = true[inside].norm(dim=0).mean()
    after = (found - true)[inside].norm(dim=0).mean()
    assert after < 0.5
    assert after < 0.4 * before


def test_a_composed_displacement_does_both_one_after_the_other() -> None:
    places = voxel_grid((24, 24, 24))  # linear, so that interpolation loses nothing
    x, y, z = places
    first = torch.stack([1.5 * torch.sin(y / 4), torch.cos(z / 5), torch.sin(x / 3)])
    second = torch.stack([2 * torch.cos(z / 8), 1.5 * torch.sin(x / 9), 2 * torch.cos(y / 7)])
    inside = (slice(None), *[slice(5, -5)] * 3)
    both = warp(warp(places, first), second)[inside]
    torch.testing.assert_close(warp(places, compose(first, second))[inside], both, atol=1e-3, rtol=0)
    assert float((warp(places, first + second)[inside] - both).abs().max()) > 0.3


def test_what_was_found_before_is_not_smoothed_again() -> None:
    features = torch.zeros(1, 20, 20, 20)  # nothing to match: only the smoothness counts
    steep = torch.zeros(3, 20, 20, 20)
    steep[0, 10:] = 3.0
    kept = refine_displacement(features, features, steep, iterations=10, smoothness=1.0, only_change=True)
    flattened = refine_displacement(features, features, steep, iterations=10, smoothness=1.0)
    assert torch.equal(kept, steep)
    assert not torch.allclose(flattened, steep, atol=0.5)

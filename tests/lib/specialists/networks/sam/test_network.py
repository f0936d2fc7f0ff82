"""The tuned SAM: adapters, box and point prompts, other image sizes, and the specialist made of U-Net and SAM."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib.generalists.sam2d.resized import resize_network
from lib.generalists.slices import Canvas
from lib.specialists import load_specialist, predict_prepared, save_specialist
from lib.specialists.networks import build_network
from lib.specialists.networks.sam import build as sam_module
from lib.specialists.networks.sam.adapters import Adapter, add_adapters
from lib.specialists.networks.sam.box_prompts import BoxPrompts
from lib.specialists.networks.sam.build import SAM_KINDS, SamKind, SamSpecialist, build_sam, small, working_size
from lib.specialists.networks.sam.point_prompts import INSIDE, NONE, OUTSIDE, points_of
from sam_parts import KINDS, SIZE, random_network, scan, tiny_model, tiny_spec

pytestmark = pytest.mark.usefixtures("one_thread")

PRETRAINED = ("sam_vit_b", "mobile_sam")


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {name: SamKind(tiny_model(name), SAM_KINDS[name].pretrained) for name in KINDS}
    monkeypatch.setattr(sam_module, "SAM_KINDS", kinds)


def pair_of(name: str, seed: int = 0) -> SamSpecialist:
    torch.manual_seed(seed)
    return build_sam(tiny_spec(name), random_network(name).state_dict())


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRETRAINED)
def test_adapters_change_nothing_at_first_and_something_once_they_have_learned(name: str) -> None:
    network = random_network(name)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        before = network.features(images)
        add_adapters(network.image_encoder)
        assert torch.equal(network.features(images), before)
        adapters = [m for m in network.image_encoder.modules() if isinstance(m, Adapter)]
        assert len(adapters) == 2 * (2 if name == "sam_vit_b" else 3)
        assert all(a.up.in_features == a.down.in_features // 4 for a in adapters)
        for adapter in adapters:
            nn.init.ones_(adapter.up.bias)
            assert not torch.allclose(network.features(images), before)
            nn.init.zeros_(adapter.up.bias)


def test_without_transformer_blocks_there_is_nothing_to_adapt() -> None:
    with pytest.raises(ValueError, match="no transformer blocks"):
        add_adapters(nn.Sequential(nn.Conv2d(3, 3, 1)))


@pytest.mark.parametrize("name", KINDS)
def test_what_is_frozen_stays_bit_equal_and_the_rest_learns(name: str) -> None:
    pair = pair_of(name).train()
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in pair.sam.parameters() if p.requires_grad], lr=1e-2)
    classes = torch.randint(3, (2, 32, 24, 1), generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimiser.zero_grad()
        pair.ask(scan(), classes).square().mean().backward()
        optimiser.step()
    changed = {key for key, value in pair.state_dict().items() if not torch.equal(value, before[key])}
    encoder = {key for key in before if key.startswith("sam.network.image_encoder.")}
    learned = {key for key in changed & encoder if "running" not in key and "tracked" not in key}
    if name == "sam":
        assert any("running_mean" in key for key in changed)
        assert len(learned) > len(encoder) / 3
    else:
        adapters = {key for key in encoder if ".adapter." in key}
        assert changed & encoder == adapters  # running statistics included
    for part in ("sam.boxes.", "sam.network.prompt_encoder.", "sam.network.mask_decoder."):
        assert any(key.startswith(part) for key in changed), part
    assert not any(key.startswith("unet.") for key in changed)


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_points_lie_where_they_should() -> None:
    classes = torch.zeros(2, 8, 20, dtype=torch.long)
    classes[0, 1:3, 12:17] = 1
    classes[0, 6, 4] = 2
    for generator in (None, torch.Generator().manual_seed(0)):
        points = points_of(classes, 3, generator=generator, count=5)
        assert points.places.shape == (2, 3, 10, 2)
        assert points.kinds.shape == (2, 3, 10)
        assert bool(((points.places > 0) & (points.places < 1)).all())
        pixels = points.pixels(8, 20)
        for n in range(2):
            for c in range(3):
                for place, kind in zip(pixels[n, c], points.kinds[n, c], strict=True):
                    x, y = int(place[0].round()), int(place[1].round())
                    assert torch.allclose(place, place.round(), atol=1e-4)  # pixel centres are whole numbers
                    if kind != NONE:
                        assert (int(classes[n, y, x]) == c) == (int(kind) == INSIDE)
        assert points.kinds[0, 0].tolist() == [INSIDE] * 5 + [OUTSIDE] * 5
        assert points.kinds[1, 0].tolist() == [INSIDE] * 5 + [NONE] * 5  # nothing but background
        assert points.kinds[1, 2].tolist() == [NONE] * 5 + [OUTSIDE] * 5
    assert (pixels[0, 2, :5] - torch.tensor([4.0, 6.0])).abs().max() < 1e-4


def test_points_are_random_while_training_and_always_alike_at_inference() -> None:
    classes = torch.zeros(1, 16, 16, dtype=torch.long)
    classes[:, 3:12, 5:14] = 1
    assert torch.equal(points_of(classes, 2).places, points_of(classes, 2).places)
    one, other = (points_of(classes, 2, generator=torch.Generator().manual_seed(n)).places for n in (0, 1))
    assert not torch.equal(one, other)
    spread = points_of(classes, 2).places[0, 1, :5]
    assert len({tuple(p) for p in spread.tolist()}) == 5
    assert float(spread[:, 1].max() - spread[:, 1].min()) > 0.3


@pytest.mark.parametrize(("inputs", "shown"), [(1, (0, 0, 0)), (2, (0, 1, None)), (3, (0, 1, 2)), (4, (0, 1, 2))])
def test_channels_are_the_colours_that_sam_sees(inputs: int, shown: tuple[int | None, ...]) -> None:
    sam = pair_of("sam").sam
    slices = scan(inputs=inputs)[..., 0]
    canvas = Canvas.of(32, 24, 1.0, 1.0, sam.network.size, sam.network.patch)
    images = sam.images(slices, canvas)
    for colour, channel in enumerate(shown):
        alone = slices.mean(dim=1) if channel is None else slices[:, channel]
        assert torch.allclose(images[:, colour], sam.images(alone[:, None], canvas)[:, colour])


@pytest.mark.parametrize(("rows", "columns"), [(24, 48), (48, 24)])
def test_a_point_has_the_code_of_its_own_place_in_the_image(rows: int, columns: int) -> None:
    """In x, y order and divided by the image's size: both are wrong in the authors' code."""
    sam = pair_of("mobile_sam").sam
    resize_network(sam.network, 8 * SIZE)
    canvas = Canvas.of(rows, columns, 1.0, 1.0, sam.network.size, 16)
    encoder = sam.network.prompt_encoder
    code = encoder.get_dense_pe()[0]
    for row, column in ((2, 20), (rows - 5, 3), (rows // 2, columns - 2)):
        classes = torch.zeros(1, rows, columns, dtype=torch.long)
        classes[0, row, column] = 1
        points = points_of(classes, 3)
        features = torch.zeros(1, 32, *code.shape[1:])
        tokens, _ = sam._prompts(features, points, canvas)
        own = tokens[1, 0] - encoder.point_embeddings[1].weight[0]
        near = (code - own[:, None, None]).square().sum(dim=0)
        place = divmod(int(near.argmin()), near.shape[1])
        cell = max(rows, columns) / near.shape[0]  # pixels of the slice a feature
        assert abs((place[0] + 0.5) * cell - row - 0.5) <= 1.01 * cell
        assert abs((place[1] + 0.5) * cell - column - 0.5) <= 1.01 * cell


class Matching(nn.Module):
    """Stands for the decoder's transformer: the mask token becomes the first point, the image becomes its places."""

    def __init__(self, point: nn.Embedding) -> None:
        super().__init__()
        self.point = point

    def forward(self, image: Tensor, places: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        answers = tokens.clone()
        answers[:, 1] = tokens[:, 5] - self.point.weight[0]  # the score's and four masks' tokens come first
        return answers, places.expand(image.shape).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("rows", "columns"), [(24, 48), (48, 24), (30, 30)])
def test_a_point_marks_the_mask_at_its_place(rows: int, columns: int) -> None:
    """From the slice's pixel to SAM's image and back, on slices that are not square."""
    sam = pair_of("sam").sam.eval()
    resize_network(sam.network, 256)
    decoder = sam.network.mask_decoder
    decoder.transformer = Matching(sam.network.prompt_encoder.point_embeddings[1])
    decoder.output_upscaling = nn.Upsample(scale_factor=4)
    decoder.output_hypernetworks_mlps[0] = nn.Identity()
    for row, column in ((3, 20), (rows - 4, 5), (rows // 2, columns - 6)):
        classes = torch.zeros(1, rows, columns, dtype=torch.long)
        classes[0, row, column] = 2
        with torch.no_grad():
            mask = sam(torch.zeros(1, 1, rows, columns), points_of(classes, 3))[0, 2]
        found = divmod(int(mask.argmax()), columns)
        assert abs(found[0] - row) <= 1
        assert abs(found[1] - column) <= 1


def test_box_prompts_are_two_tokens_a_class_and_look_at_the_image() -> None:
    boxes = BoxPrompts(3, 32)
    for grid in (1, 4, 7):
        tokens = boxes(torch.randn(2, 32, grid, grid))
        assert [t.shape for t in tokens] == [(2, 2, 32)] * 3
    assert not torch.allclose(tokens[0][0], tokens[0][1])  # two images
    assert not torch.allclose(tokens[0], tokens[1])  # two classes
    sum(t.square().sum() for t in tokens).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in boxes.parameters())


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_positions_are_resized_with_the_image_and_windows_keep_theirs() -> None:
    network, other = random_network("sam_vit_b"), random_network("sam_vit_b")
    encoder: Any = other.image_encoder
    published: Any = network.image_encoder
    window, whole = encoder.blocks
    resize_network(other, 2 * SIZE)
    assert encoder.pos_embed.shape == (1, 8, 8, 16)
    assert whole.attn.rel_pos_h.shape == (15, 8)
    assert torch.equal(window.attn.rel_pos_h, published.blocks[0].attn.rel_pos_h)
    images = torch.randn(1, 3, 2 * SIZE, 2 * SIZE)
    with torch.no_grad():
        features = other.features(images)
        assert features.shape == (1, 32, 8, 8)
        assert other.prompt_encoder.get_dense_pe().shape[-2:] == (8, 8)
        # The published network stretches the biases each time it is run: the same.
        whole.attn.rel_pos_h = published.blocks[1].attn.rel_pos_h
        whole.attn.rel_pos_w = published.blocks[1].attn.rel_pos_w
        assert torch.allclose(other.features(images), features, atol=1e-5)
        whole.attn.rel_pos_h = nn.Parameter(torch.zeros(15, 8))  # dropping them, as the authors do, is not the same
        assert not torch.allclose(other.features(images), features, atol=1e-3)
    same: Any = resize_network(random_network("sam_vit_b"), SIZE).image_encoder
    assert torch.allclose(same.pos_embed, published.pos_embed, atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 16"):
        resize_network(other, 100)


def test_images_are_as_fine_as_the_slices_need() -> None:
    def size(patch: int, *roi: int) -> int:
        return working_size(tiny_spec("sam", roi_size=roi), patch)

    assert size(16, 32, 24, 96) == 128
    assert size(16, 200, 180, 1) == 256
    assert size(8, 32, 24, 96) == 64
    assert size(8, 200, 180, 1) == 128
    assert size(16, 4, 4, 4) == 64


def test_the_sam_without_published_weights_is_small_and_twice_as_fine() -> None:
    network = small()
    assert sum(p.numel() for p in network.parameters()) < 3e6
    with torch.no_grad():
        assert network.eval().features(torch.randn(1, 3, 128, 128)).shape == (1, 128, 16, 16)


# --- the specialist ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("inputs", [1, 3])
def test_slices_are_segmented_one_by_one(axis: int, inputs: int) -> None:
    spec = tiny_spec("sam", slice_axis=axis, inputs=inputs)
    torch.manual_seed(0)
    network = build_network(spec).eval()
    image = scan(2, inputs, (9, 24, 32))
    with torch.no_grad():
        whole = network(image)
        assert whole.shape == (2, 3, 9, 24, 32)
        single = network(image.narrow(2 + axis, 5, 1))
        assert torch.allclose(whole.narrow(2 + axis, 5, 1), single, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_answers_as_the_network_it_was_made_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loaded weights lie in memory in another order: in bfloat16 sums are rounded differently, and the U-Net then
    # asks SAM about other points.
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    pair = pair_of(name).eval()
    spec = tiny_spec(name)
    image = scan(1, 1, (30, 20, 6))[0]
    expected = predict_prepared([pair], spec, image)
    assert expected.shape == (3, 30, 20, 6)
    assert torch.allclose(expected.sum(dim=0), torch.ones(30, 20, 6), atol=1e-5)
    assert torch.equal(predict_prepared([pair], spec, image), expected)
    save_specialist(tmp_path / "specialist.pt", spec, [pair])
    loaded = load_specialist(tmp_path / "specialist.pt")
    assert torch.allclose(predict_prepared(loaded.members, loaded.spec, image), expected, atol=1e-5)


def test_pretrained_weights_arrive() -> None:
    state = random_network("mobile_sam", seed=3).state_dict()

    def adapted(key: str) -> str:
        return re.sub(r"(blocks\.\d+\.(attn|mlp))\.", r"\1.inner.", key)

    given = build_sam(tiny_spec("mobile_sam"), state).sam.network.state_dict()
    assert all(
        torch.equal(given[adapted(key)], state[key])
        for key in state
        if key.startswith(("image_encoder.patch", "image_encoder.layers.1", "mask_decoder.iou"))
    )


def test_the_u_net_points_and_sam_answers() -> None:
    pair = pair_of("sam").eval()
    image = scan(1)
    with torch.no_grad():
        nothing, something = torch.zeros(1, 32, 24, 1, dtype=torch.long), torch.zeros(1, 32, 24, 1, dtype=torch.long)
        something[:, 4:9, 10:20] = 1
        assert not torch.allclose(pair.ask(image, nothing), pair.ask(image, something), atol=1e-4)
        assert torch.equal(pair(image), pair.ask(image, pair.unet(image).argmax(dim=1)))

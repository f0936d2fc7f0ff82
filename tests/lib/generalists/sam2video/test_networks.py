"""SAM 2.1's networks compute what the published ones compute."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lib.core.errors import UserError
from lib.generalists.sam2video import build, random_state
from lib.generalists.sam2video.networks import LAYOUTS, make
from lib.generalists.sam2video.tracker import Piece
from parity import by_rule, parity_folder


@pytest.fixture(scope="module")
def shapes() -> dict[str, list[int]]:
    content: dict[str, list[int]] = json.loads(
        (parity_folder("medsam2.npz") / "medsam2.keys.json").read_text(encoding="utf-8")
    )
    return content


def test_keys_and_shapes_are_those_of_the_published_network(shapes: dict[str, list[int]]) -> None:
    assert {key: list(value.shape) for key, value in make("medsam2").state_dict().items()} == shapes


@pytest.mark.slow
def test_outputs_are_those_of_the_published_network(shapes: dict[str, list[int]]) -> None:
    model = build("medsam2", {key: by_rule(key, shape) for key, shape in shapes.items()})
    arrays = np.load(parity_folder("medsam2.npz") / "medsam2.npz")

    def error(own: Tensor, reference: np.ndarray) -> float:
        known = torch.from_numpy(reference)
        assert own.shape == known.shape
        return float((own - known).abs().max() / known.abs().max())

    frames = np.random.default_rng(0).standard_normal((10, 3, 512, 512), dtype=np.float32)
    pieces = []
    for frame in frames:
        levels = model.image_levels(torch.from_numpy(frame)[None])
        pieces.append(Piece(tuple(level[0] for level in levels)))
    assert pieces[0].levels is not None
    assert error(pieces[0].levels[2][None], arrays["fpn2"]) < 1e-3

    at = int(arrays["prompt_frame"])
    top, bottom, left, right = (180, 330, 150, 300)
    mask = torch.zeros(1, 512, 512, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    forward = model.track(pieces, {at: mask})
    backward = model.track(pieces, {at: mask}, reverse=True)
    assert bool((forward[:at] == -1024).all())
    assert bool((backward[at + 1 :] == -1024).all())
    logits = torch.cat([backward[:at], forward[at:]])
    shown = functional.interpolate(logits, size=(512, 512), mode="bilinear", align_corners=False)[:, 0, ::8, ::8]
    for own, reference in zip(shown, arrays["logits_every_8th"], strict=True):
        assert error(own, reference) < 1e-3


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "sam2_large"])
def test_every_network_can_be_made_and_has_its_own_shapes(name: str) -> None:
    own = {key: tuple(value.shape) for key, value in make(name).state_dict().items()}
    parameters = sum(int(np.prod(shape)) for shape in own.values()) / 1e6
    published = {"sam2_tiny": 38.9, "sam2_small": 46.0, "sam2_base_plus": 80.8, "medsam2": 38.9}
    assert parameters == pytest.approx(published[name], abs=0.2)


def test_weights_of_another_model_are_refused_with_the_first_differences() -> None:
    state = random_state("medsam2", 0)
    state.pop("no_mem_embed")
    state["no_mem_pos_enc"] = torch.zeros(3)
    state["something"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"does not fit medsam2: no_mem_embed is missing; something is not part of it"):
        build("medsam2", state)


@pytest.mark.slow
def test_random_weights_depend_on_seed_and_name_only() -> None:
    one, same, other = random_state("medsam2", 1), random_state("medsam2", 1), random_state("medsam2", 2)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["no_mem_embed"], other["no_mem_embed"])


@pytest.mark.slow
def test_a_search_path_of_another_program_part_does_no_harm(tmp_path: Path) -> None:
    """The package's own builder fails when somebody else has set Hydra's global search path."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    make("medsam2")
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(tmp_path), version_base="1.2"):
            foreign = GlobalHydra.instance().hydra
            make("medsam2")
            assert GlobalHydra.instance().hydra is foreign
    finally:
        GlobalHydra.instance().hydra = before

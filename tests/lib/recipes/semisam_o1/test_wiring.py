"""How SemiSAM-O1's parts are put together: balanced votes, a share of the round before, and when rounds end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib.recipes import PRESETS, FinishedRound, PseudoLabel, RecipeOptions
from lib.recipes.engine.options import Preset
from lib.recipes.semisam_o1 import recipe, rounds
from lib.recipes.semisam_o1.refinement import Evidence, RefinementOptions, refine
from recipe_runs import Listener, cases_of, run
from tiny_study import make_tiny_study

pytestmark = pytest.mark.usefixtures("one_thread")


def test_votes_of_others_do_not_make_a_structure_larger() -> None:
    """All asked places are inside the structure; still the unsure voxels hold as much of it as before."""
    torch.manual_seed(0)
    probabilities = torch.rand(1, 4, 4, 4) * 0.4 + 0.3
    probabilities = torch.cat([probabilities, 1 - probabilities])
    places = torch.randn(64, 5)
    own = Evidence(places[:0], torch.zeros(0, 2), torch.arange(64), places)
    inside = torch.tensor([0.02, 0.98]).expand(64, 2) + torch.randn(64, 1) * torch.tensor([0.01, -0.01])
    asked = Evidence(places + 0.1, inside, torch.arange(0), places[:0])
    refined = refine(probabilities, own, [asked], 1.0, RefinementOptions(strength=1.0))
    assert float(refined[1].mean()) == pytest.approx(float(probabilities[1].mean()), abs=0.01)
    assert not torch.allclose(refined, probabilities, atol=0.05)


def test_a_round_keeps_a_share_of_the_labels_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A specialist that is sure that there is nothing at all does not wipe out what was carried over."""

    def nothing(members: object, spec: object, image: Tensor) -> Tensor:
        return torch.stack([torch.ones(image.shape[1:]), *[torch.zeros(image.shape[1:])] * 2])

    monkeypatch.setitem(PRESETS, "quick", Preset(1, 1, 2, 2, (4, 8), 20_000, 8_000))
    monkeypatch.setattr(rounds, "predict_prepared", nothing)
    listener = Listener()
    study = make_tiny_study(tmp_path / "study", scans=2)
    run(cases_of(study), tmp_path / "runs", listener, RecipeOptions(seed=3))
    label = listener.rounds[-1].pseudo_labels["case_2"]
    assert listener.rounds[-1].index == 1
    assert float(str(label.params["uncertainty"])) > 0.01  # the network alone would have said 0


@pytest.mark.parametrize(("agreement", "over"), [(0.99, True), (0.98, False)])
def test_rounds_end_when_labels_agree_almost_wholly(agreement: float, over: bool, tmp_path: Path) -> None:
    labels = {name: PseudoLabel(tmp_path / name, {"agreement": agreement}) for name in ("a", "b")}
    assert recipe.settled(FinishedRound(1, None, labels, agreement)) is over

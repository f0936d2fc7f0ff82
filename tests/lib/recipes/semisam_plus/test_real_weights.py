"""SemiSAM+ with the published weights of MobileSAM."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch
from torch import Tensor

from lib.generalists import create_generalist
from lib.generalists.base import Promptable
from lib.recipes.semisam_plus.examination import examine, ways
from lib.recipes.semisam_plus.promptable import PromptableAnswerer
from lib.training.scan_view import ScanView
from real_weights import weights_folder

pytestmark = [pytest.mark.realweights, pytest.mark.usefixtures("one_thread")]


def picture() -> tuple[Tensor, Tensor]:
    """A bright disc in noise ``[1, 96, 96, 1]``, and an outline ``[3, 96, 96, 1]``: the disc, and one of mere noise."""
    across, down = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    classes = torch.zeros(96, 96, 1, dtype=torch.long)
    classes[((across - 30) ** 2 + (down - 48) ** 2 < 20**2)] = 1
    classes[66:90, 10:80] = 2
    noise = torch.randn(96, 96, 1, generator=torch.Generator().manual_seed(0))
    image = 100.0 + 8.0 * noise + 90.0 * (classes == 1)
    return image[None], torch.nn.functional.one_hot(classes, 3).movedim(-1, 0).float()


@pytest.mark.slow
def test_mobile_sam_corrects_a_wrong_outline_of_what_can_be_seen_and_of_nothing_else() -> None:
    model = create_generalist("mobile_sam", weights=weights_folder("mobile_sam"))
    assert isinstance(model, Promptable)
    image, outline = picture()
    scan = PromptableAnswerer(model).open(ScanView(image, (1.0, 1.0, 1.0)))
    gains = examine(scan, outline, "both", 3)
    assert fmean(gains[1]["mask"]) > 0.05
    assert ways(gains) == {1: "mask", 2: None}

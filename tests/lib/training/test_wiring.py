"""How training windows are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lib.specialists.augment import Augmentation
from lib.training.sample import Sample
from lib.training.sampling import TwoStreams, WindowOptions


class Needle:
    """One large scan with a structure of eight voxels."""

    def human(self) -> Sequence[str]:
        return ["scan"]

    def pseudo(self) -> Sequence[str]:
        return []

    def sample(self, name: str) -> Sample:
        target = torch.zeros(2, 48, 48, 48)
        target[1, 30:32, 12:14, 20:22] = 1
        target[0] = 1 - target[1]
        return Sample(torch.zeros(1, 48, 48, 48).half(), target.half(), torch.ones(1, 48, 48, 48))


def test_most_windows_show_a_structure_however_small_it_is() -> None:
    still = Augmentation(rotation=0, scale=0, elastic=0, contrast=0, brightness=0, noise=0, bias=0)
    streams = TwoStreams(Needle(), (12, 12, 12), WindowOptions(4, 1.0, still), torch.Generator().manual_seed(0))
    windows = torch.cat([streams.draw().targets for _ in range(15)])
    shown = float((windows[:, 1].flatten(1).amax(1) > 0.5).float().mean())
    assert 0.55 < shown < 0.85  # by chance it would be one in fifty; always would teach nothing of the rest

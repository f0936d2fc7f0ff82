"""Deep adversarial networks.

Zhang et al., "Deep adversarial networks for biomedical image segmentation utilizing unannotated images", MICCAI 2017,
https://doi.org/10.1007/978-3-319-66179-7_47. A discriminator learns to tell segmentations of outlined scans from those
of others; the student must segment the others such that it cannot.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.specialists.losses import judgement_loss
from lib.specialists.networks import SpecialistNetwork
from lib.specialists.ramps import sigmoid_ramp

from .base import Observation
from .supervised import Supervised

_WIDTHS = (32, 64, 128, 256)


class DeepAdversarial(Supervised):
    """Segmentations of scans without a human label must look like those of scans with one.

    The discriminator has its own optimiser and learns after each step of the student, from the newest scans of both
    kinds, which need not be of the same step. Before it has seen both kinds it has no say.

    Args:
        weight: of the term at the end of the training; it rises by a sigmoid ramp.
        rate: learning rate of the discriminator.
    """

    name = "dan"

    def __init__(self, weight: float = 0.1, rate: float = 1e-4) -> None:
        self.weight = weight
        self.rate = rate
        self._judge: _Discriminator | None = None
        self._optimiser: torch.optim.Optimizer | None = None
        self._newest: dict[bool, Tensor] = {}
        self._trained = False

    def loss(self, seen: Observation) -> Tensor:
        """``-log sigmoid(score)`` of the scans without a human label."""
        shown = torch.cat([seen.logits.softmax(dim=1), seen.images.float()], dim=1)
        for kind in (True, False):
            chosen = seen.labelled == kind
            if bool(chosen.any()):
                self._newest[kind] = shown[chosen].detach()
        others = ~seen.labelled
        if not self._trained or not bool(others.any()):
            return seen.logits.new_zeros(())
        judge = self._discriminator(shown).eval().requires_grad_(False)
        return self.weight * sigmoid_ramp(seen.step, seen.steps) * judgement_loss(judge(shown[others]).float(), True)

    def after_step(self, student: SpecialistNetwork, step: int) -> None:
        """Let the discriminator learn, once it has seen scans of both kinds."""
        if len(self._newest) < 2:
            return
        judge = self._discriminator(self._newest[True]).train().requires_grad_(True)
        if self._optimiser is None:
            self._optimiser = torch.optim.Adam(judge.parameters(), lr=self.rate, betas=(0.9, 0.99))
        self._optimiser.zero_grad(set_to_none=True)
        terms = [judgement_loss(judge(shown), kind) for kind, shown in self._newest.items()]
        torch.stack(terms).mean().backward()
        self._optimiser.step()
        self._trained = True

    def _discriminator(self, shown: Tensor) -> _Discriminator:
        """Built when the first window tells how many channels there are."""
        if self._judge is None:
            self._judge = _Discriminator(shown.shape[1]).to(shown.device)
        return self._judge


class _Discriminator(nn.Module):
    """Scores ``[B]`` of probabilities and image together, ``[B, C + inputs, D, H, W]`` of any size; high: outlined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in pairwise((channels, *_WIDTHS)):
            layers += [nn.Conv3d(a, b, kernel_size=3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Dropout3d(0.5)]
        self.body = nn.Sequential(*layers)
        self.score = nn.Linear(_WIDTHS[-1], 1)

    def forward(self, shown: Tensor) -> Tensor:
        result: Tensor = self.score(self.body(shown).mean(dim=(2, 3, 4)))[:, 0]
        return result

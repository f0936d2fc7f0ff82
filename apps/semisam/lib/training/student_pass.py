"""The forward pass of the network in training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lib.specialists.networks import SpecialistNetwork
from lib.specialists.precision import MixedPrecision


class StudentPass(nn.Module):
    """A network in mixed precision, with the heads that a regulariser has put on its features.

    The heads are called by the regulariser. They are parameters of this module so that several processes average their
    gradients, too.

    Args:
        network: the network.
        precision: of its computations.
        heads: parameters of the heads.
    """

    def __init__(self, network: SpecialistNetwork, precision: MixedPrecision, heads: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ParameterList(heads)
        self._precision = precision

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits.

        Args:
            images: ``[B, inputs, D, H, W]``.

        Returns:
            Features ``[B, width, D, H, W]``, of width 0 without heads, and logits ``[B, C, D, H, W]`` float32.
        """
        with self._precision():
            features = self.network.features(images)
            logits = self.network.classify(features).float()
        return features if len(self.heads) else logits[:, :0], logits

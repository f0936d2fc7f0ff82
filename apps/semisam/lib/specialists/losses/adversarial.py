"""The losses of a discriminator and of the network that it judges."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def judgement_loss(scores: Tensor, outlined: bool) -> Tensor:
    """Mean of ``-log sigmoid(s)`` where the scans are outlined by a human, of ``-log(1 - sigmoid(s))`` where not.

    Zhang et al., "Deep adversarial networks for biomedical image segmentation utilizing unannotated images", MICCAI
    2017, https://doi.org/10.1007/978-3-319-66179-7_47, equation 1. The discriminator minimises it with the truth, the
    segmentation network with ``outlined`` for all.

    Args:
        scores: of the discriminator, ``[B]``, any real number.
        outlined: what they should say.
    """
    return functional.softplus(-scores if outlined else scores).mean()

"""Box prompts that are learned: one for each class, from the image's own features.

Huang et al., "Learnable prompting SAM-induced knowledge distillation", IEEE TMI 2025, as used by SC-SAM (section 3):
nobody draws a box, a small network says where one would be. It gives the two tokens of a box directly.
"""

from __future__ import annotations

from torch import Tensor, nn

_NARROW = 32


class BoxPrompts(nn.Module):
    """For every class two tokens, as SAM's prompt encoder makes them for the corners of a box.

    Args:
        classes: C, background included.
        channels: of the image's features and of the tokens.
    """

    def __init__(self, classes: int, channels: int = 256) -> None:
        super().__init__()
        self.channels = channels
        self.looks = nn.ModuleList([_look(channels) for _ in range(classes)])

    def forward(self, features: Tensor) -> list[Tensor]:
        """Features ``[B, channels, g, g]`` to C times ``[B, 2, channels]``."""
        return [look(features).unflatten(1, (2, self.channels)) for look in self.looks]


def _look(channels: int) -> nn.Sequential:
    """Features to one vector of two tokens."""
    return nn.Sequential(
        nn.Conv2d(channels, _NARROW, 3, padding=1),
        nn.GroupNorm(4, _NARROW),
        nn.GELU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(_NARROW, 2 * _NARROW, 3, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * _NARROW, channels),
        nn.GELU(),
        nn.Linear(channels, 2 * channels),
    )

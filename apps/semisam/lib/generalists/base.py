"""What generalists offer.

Every generalist gives dense features (``Generalist``). Some answer to clicks (``Promptable``), some follow a structure
through a sequence of slices (``SliceTracker``); one class may be all three. Spacing, orientation, intensity range and
window size a model needs are its own business: callers hand in a scan as it is, and get back what fits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

PromptKind = Literal["points", "box", "mask"]
"""Ways to tell a model what is meant."""


@runtime_checkable
class Generalist(Protocol):
    """A frozen model that describes every place of a scan by a feature vector."""

    name: str

    def encode(self, image: Tensor, spacing: Sequence[float]) -> Tensor:
        """Describe a scan.

        Args:
            image: ``[1, D, H, W]`` float32 in canonical axes (RAS), any intensity scale.
            spacing: voxel size in mm along D, H, W.

        Returns:
            ``[C, d, h, w]`` float32 features on a grid that covers the same extent from edge to edge
            (``d, h, w`` may be smaller than ``D, H, W``).
        """
        ...


@dataclass(frozen=True, eq=False)
class Prompts:
    """What a person says about one structure of a scan.

    Args:
        points: clicks ``[P, 3]`` float32, voxels along D, H, W; voxel centres are whole numbers.
        positive: ``[P]`` boolean: the click lies inside the structure (outside otherwise).
        box: first and last voxel of the structure ``[2, 3]``, both counted in, or None.
        mask: what is segmented so far ``[D, H, W]`` in 0..1, or None.
    """

    points: Tensor
    positive: Tensor
    box: Tensor | None = None
    mask: Tensor | None = None


class PromptSession(Protocol):
    """A scan that is encoded and waits for prompts; what is costly is kept between them."""

    def segment(self, prompts: Prompts) -> Tensor:
        """Answer to all prompts given so far.

        Returns:
            Probability of the structure, ``[D, H, W]`` float32 in 0..1, on the grid of the scan that was opened.

        Raises:
            UserError: when there is neither a click nor a box nor a mask, or a click lies outside the scan.
        """
        ...


@runtime_checkable
class Promptable(Protocol):
    """A model that segments what it is pointed at."""

    name: str
    prompts: frozenset[PromptKind]

    def open(self, image: Tensor, spacing: Sequence[float]) -> PromptSession:
        """Get a scan ready for prompts: ``[1, D, H, W]`` as for ``Generalist.encode``, spacing in mm."""
        ...


@runtime_checkable
class SliceTracker(Protocol):
    """A video model that follows structures through a sequence of slices, given their masks on some of them."""

    name: str

    def encode_slices(self, slices: Tensor) -> Sequence[object]:
        """Encode slices once, for any number of sequences.

        Args:
            slices: ``[S, H, W]`` float32, any intensity scale (the scale is taken over all slices together).

        Returns:
            One opaque piece a slice. Pieces of several scans may be joined to one sequence.
        """
        ...

    def track(self, pieces: Sequence[object], masks: Mapping[int, Tensor], *, reverse: bool = False) -> Tensor:
        """Follow structures from the slices they are known on.

        Args:
            pieces: the sequence, from ``encode_slices``.
            masks: by position in the sequence, ``[K, H, W]`` boolean masks of K structures on that slice; the size may
                be another than that of the other slices.
            reverse: go from the last slice to the first.

        Returns:
            ``[S, K, h, w]`` float32 logits over each whole slice at the model's own mask resolution. Slices that come
            before the first mask in the direction of travel hold a large negative value.
        """
        ...

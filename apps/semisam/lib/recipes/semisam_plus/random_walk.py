"""Generalists that only encode as answerers: prompts spread through the scan and stop at its edges.

Each voxel takes over the labels of the points that look like it and lie near it (a vote by the generalist's features),
then all voxels settle with their neighbours as far as no edge parts them: a random walk with prior models (Grady,
"Multilabel random walker image segmentation using prior models", CVPR 2005,
https://doi.org/10.1109/CVPR.2005.239). It minimises
``sum over neighbours w_ij |x_i - x_j|^2 + sum_i g_i |x_i - p_i|^2``, where the prior p is the mask, the vote or both,
and w is small where features or intensities change.

Why not ``skimage.segmentation.random_walker``: it starts from certain seeds and takes no prior at each voxel, and it
works on the CPU only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.resampling import resize
from lib.generalists import Generalist
from lib.specialists.prepare import normalise
from lib.training.scan_view import ScanView

from .question import Kind, PromptMode, Question

_AXES = (1, 2, 3)
_LEAST_LINK = 1e-3
"""No edge parts two voxels wholly: noise would leave islands."""
_FAR = 0.01
_FOREGROUND = 0.02
"""What a mask gives less to all structures together is background, and no voxel to think about."""


@dataclass(frozen=True)
class WalkOptions:
    """How prompts spread.

    Args:
        margin: voxels around what the prompts mark within which the answer may differ from background.
        intensity: how much a usual change of intensity parts neighbours.
        feature: how much a usual change of features does.
        prior: g, how strongly a voxel holds on to its prior when it is wholly sure of it.
        unsure: the part of it that a voxel without any idea keeps.
        look: how much the similarity of features counts in the vote.
        near: how far a point's vote reaches in voxels.
        vote: how much the vote counts beside a mask.
        steps: Jacobi steps.
    """

    margin: int = 4
    intensity: float = 2.0
    feature: float = 0.3
    prior: float = 0.3
    unsure: float = 0.2
    look: float = 0.3
    near: float = 2.5
    vote: float = 0.2
    steps: int = 15


class WalkAnswerer:
    """Answers through the features of any generalist.

    Args:
        generalist: encodes.
        options: how prompts spread.
        points: of each class.
    """

    knows_size = False

    def __init__(self, generalist: Generalist, options: WalkOptions | None = None, points: int = 64) -> None:
        self.name = generalist.name
        self.points = points
        self._generalist = generalist
        self._options = options or WalkOptions()

    def open(self, scan: ScanView) -> WalkScan:
        """Encode a scan."""
        features = resize(self._generalist.encode(scan.image, scan.spacing), scan.image.shape[1:])
        return WalkScan(normalise(scan.image), features, self._options)


class WalkScan:
    """A scan with its features and links; see ``OpenedScan``.

    Args:
        image: ``[1, D, H, W]`` as ``normalise`` gives it.
        features: ``[C, D, H, W]``.
        options: how prompts spread.
    """

    def __init__(self, image: Tensor, features: Tensor, options: WalkOptions) -> None:
        self._options = options
        spread = features.std(dim=(1, 2, 3)).square().sum().sqrt().clamp_min(1e-6)
        # Squared differences of two unrelated places are about 1, of features and intensities alike.
        self._local = torch.cat([features / (2**0.5 * spread), image / 2**0.5]).half()
        self._links = links(image, features, options)

    @property
    def bytes(self) -> int:
        """Memory of image and features."""
        return self._local.nbytes + sum(link.nbytes for link in self._links)

    def kinds(self, mode: PromptMode) -> Sequence[Kind]:
        """All as the mode says."""
        return (mode,)

    def answer(self, question: Question) -> Tensor:
        """Probabilities ``[1 + N, D, H, W]``, sum 1, after the last step of the walk."""
        shape = self._local.shape[1:]
        answer = torch.zeros(question.channels, *shape)
        answer[0] = 1.0
        box = region(question, shape, self._options.margin)
        if box is None:
            return answer
        inside = (slice(None), *box)
        prior = self._prior(question, box)
        sure = (prior.amax(dim=0) - 1.0 / len(prior)) * len(prior) / (len(prior) - 1)
        hold = self._options.prior * (self._options.unsure + (1.0 - self._options.unsure) * sure)
        cut = [link[_along(box, axis)] for axis, link in enumerate(self._links)]
        answer[inside] = settle(prior, hold, cut, self._options.steps)
        return answer

    def _prior(self, question: Question, box: tuple[slice, ...]) -> Tensor:
        """What prompts say about each voxel of the box by themselves, ``[1 + N, d, h, w]``, sum 1."""
        inside = (slice(None), *box)
        mask = None if question.mask is None else question.mask[inside].clamp_min(1e-6)
        if not len(question.points):
            assert mask is not None
            return mask
        votes = self._votes(question, box)
        if mask is None:
            return votes.softmax(dim=0)
        return (mask.log() + self._options.vote * votes).softmax(dim=0)

    def _votes(self, question: Question, box: tuple[slice, ...]) -> Tensor:
        """Logarithm of how much of each class lies near a voxel and looks like it, ``[1 + N, d, h, w]``."""
        options = self._options
        first = torch.tensor([part.start for part in box])
        inside = (slice(None), *box)
        local = self._local[inside].float()
        size = local.shape[1:]
        grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in size], indexing="ij"))
        scale = 1.0 / (2**0.5 * options.near)
        places = torch.cat([local * options.look**0.5, grid * scale]).flatten(1).T
        x, y, z = question.points.T
        seeds = torch.cat([self._local[:, x, y, z].float() * options.look**0.5, (question.points - first).T * scale])
        away = torch.cdist(places, seeds.T.contiguous(), compute_mode="use_mm_for_euclid_dist")
        mine = functional.one_hot(question.classes, question.channels) * question.stands_for[:, None]
        # Every class has a small vote: where no point is near, none leads.
        votes = (away.square_().neg_().exp_() @ mine + _FAR).log_()
        return votes.T.reshape(-1, *size)


def region(question: Question, shape: torch.Size, margin: int) -> tuple[slice, ...] | None:
    """The box around all that the prompts mark as a structure, None when they mark nothing."""
    marked = question.points[question.classes > 0]
    if question.mask is not None:
        marked = torch.cat([marked, (question.mask[0] < 1.0 - _FOREGROUND).nonzero()])
    if not len(marked):
        return None
    first, last = marked.amin(dim=0).tolist(), marked.amax(dim=0).tolist()
    return tuple(slice(max(0, a - margin), min(n, b + 1 + margin)) for a, b, n in zip(first, last, shape, strict=True))


def links(image: Tensor, features: Tensor, options: WalkOptions) -> tuple[Tensor, ...]:
    """How closely each voxel is tied to the next one, 0..1, for each axis: ``[D - 1, H, W]``, ``[D, H - 1, W]``, ..."""
    parted: list[Tensor] = [torch.zeros(())] * 3
    for values, weight in ((image, options.intensity), (features, options.feature)):
        changes = [values.diff(dim=axis).square().mean(dim=0) for axis in _AXES]
        usual = torch.cat([change.flatten() for change in changes]).mean().clamp_min(1e-12)
        parted = [before + weight * change / usual for before, change in zip(parted, changes, strict=True)]
    return tuple((-value).exp().add_(_LEAST_LINK) for value in parted)


def settle(prior: Tensor, hold: Tensor, ties: list[Tensor], steps: int) -> Tensor:
    """Jacobi steps towards ``argmin sum w_ij |x_i - x_j|^2 + sum g_i |x_i - p_i|^2``.

    Args:
        prior: p ``[C, d, h, w]``, sum 1.
        hold: g ``[d, h, w]``, above 0.
        ties: w as ``links`` gives it.
        steps: how many.

    Returns:
        ``[C, d, h, w]``, sum 1.
    """
    total = hold.clone()
    for axis, tie in enumerate(ties):
        n = hold.shape[axis]
        total.narrow(axis, 0, n - 1).add_(tie)
        total.narrow(axis, 1, n - 1).add_(tie)
    kept = hold * prior
    current = prior
    for _ in range(steps):
        following = kept.clone()
        for axis, tie in enumerate(ties):
            n = hold.shape[axis]
            following.narrow(axis + 1, 0, n - 1).addcmul_(tie, current.narrow(axis + 1, 1, n - 1))
            following.narrow(axis + 1, 1, n - 1).addcmul_(tie, current.narrow(axis + 1, 0, n - 1))
        current = following.div_(total)
    return current


def _along(box: tuple[slice, ...], axis: int) -> tuple[slice, ...]:
    """The box for links along an axis, of which there is one less."""
    return tuple(slice(s.start, s.stop - 1) if n == axis else s for n, s in enumerate(box))

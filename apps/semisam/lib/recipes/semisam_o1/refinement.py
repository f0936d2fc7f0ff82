"""Voxel-wise correction of pseudo-labels from confident places of the whole study.

The idea of SemiSAM-O1 (https://arxiv.org/abs/2604.24109): where the specialist is unsure, look in the feature space of
the frozen generalist for the most similar places at which it is sure (or a human has outlined), and take over their
labels. Scans are compared first, so that only the most similar ones are asked; a place is described by its features and
intensities in a small neighbourhood, by what is predicted around it, and by where it lies relative to the structures,
so that no registration is needed.

All is computed on the device of the tensors, but random numbers are drawn on the CPU: the same for every device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.filters import box_mean
from lib.core.projection import random_projection
from lib.core.resampling import resize

_CHUNK = 4_000_000
"""Pairs of voxels compared at once: bounds the memory."""
_MANY_CHANNELS = 24
"""Features with more channels are a foundation model's, on a grid much coarser than the scan's."""
_PROJECTED = 48
_LEAST_VOTE = 1e-3
"""No vote is ever unanimous enough to be out of the balance's reach."""
_BALANCE_STEPS = 30
_PAIRS = 16
"""Pairs of scans looked at to learn the usual distance."""


@dataclass(frozen=True)
class RefinementOptions:
    """How to refine.

    Args:
        scans: how many other scans are asked.
        samples: confident voxels kept of each scan.
        unsure: voxels with at least this uncertainty (normalised entropy, 0..1) are corrected.
        most: at most this many voxels of a scan are corrected: the most unsure ones. It bounds the time.
        sure: share of the voxels of a class near its border that may be asked: the surest ones. A share, because a
            specialist that has learned from soft labels is nowhere sure by an absolute measure.
        reach: how far from a border between structures the asked voxels may lie, in voxels.
        step: distance in voxels of the neighbours whose features describe a place.
        position: weight of the position relative to the structures.
        context: weight of what is predicted around.
        width: width of the similarity kernel, relative to the distance of the most similar place.
        far: places further away than this many usual distances count little.
        strength: largest share of a voxel's label that is taken over.
    """

    scans: int = 6
    samples: int = 700
    unsure: float = 0.15
    most: int = 8_000
    sure: float = 0.6
    reach: int = 3
    step: int = 2
    position: float = 1.0
    context: float = 1.0
    width: float = 1.0
    far: float = 2.0
    strength: float = 0.2


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a scan gives to the refinement, and where it needs some itself.

    Args:
        features: descriptions of its confident voxels near borders, ``[M, F]``.
        labels: their classes, one-hot ``[M, 1 + N]``.
        unsure: which voxels of the flattened grid are unsure, ``[Q]``.
        wanted: their descriptions, ``[Q, F]``.
    """

    features: Tensor
    labels: Tensor
    unsure: Tensor
    wanted: Tensor

    def to(self, device: str) -> Evidence:
        """The same on another device."""
        return Evidence(**{name: value.to(device) for name, value in vars(self).items()})


def position(probabilities: Tensor) -> Tensor:
    """Where each voxel lies relative to the predicted structures: ``[1 + N, D, H, W]`` to ``[3, D, H, W]``.

    The distance from the centre of all structures along each axis, divided by their spread along that axis: comparable
    between scans of other size and field of view. Without any structure the centre and size of the grid are used.
    """
    inside = 1.0 - probabilities[0]
    mass = inside.sum()
    coordinates = []
    for axis in range(3):
        line = torch.arange(inside.shape[axis], dtype=torch.float32, device=inside.device)
        others = [n for n in range(3) if n != axis]
        weights = inside.sum(dim=others) if float(mass) > 1.0 else torch.ones_like(line)
        centre = (line * weights).sum() / weights.sum()
        spread = ((line - centre).square() * weights).sum().div(weights.sum()).sqrt().clamp_min(1.0)
        shape = [1, 1, 1]
        shape[axis] = -1
        coordinates.append(((line - centre) / spread).reshape(shape).expand(inside.shape))
    return torch.stack(coordinates)


class Describer:
    """Describes places of one scan.

    Groups of values are scaled so that the squared difference of two unrelated places is about 1 a group.

    Args:
        image: ``[1, D, H, W]`` as ``prepare`` gives it.
        features: the generalist's, ``[C, D, H, W]`` on the same grid.
        probabilities: ``[1 + N, D, H, W]``.
        options: weights.
    """

    def __init__(self, image: Tensor, features: Tensor, probabilities: Tensor, options: RefinementOptions) -> None:
        spread = features.std(dim=(1, 2, 3)).mean().clamp_min(1e-6) * (2 * features.shape[0]) ** 0.5
        self._local = torch.cat([features / spread, image / 2**0.5])
        parts = [position(probabilities) * options.position]
        parts += [box_mean(probabilities, radius) * options.context for radius in (2, 4)]
        self._wide = torch.cat(parts)
        moves = torch.cat([torch.zeros(1, 3, dtype=torch.long), *[s * torch.eye(3, dtype=torch.long) for s in (-1, 1)]])
        # Coarse features are the same in the neighbourhood.
        moves = moves[: 1 if features.shape[0] > _MANY_CHANNELS else None] * options.step
        self._moves = moves.to(image.device)

    def at(self, index: Tensor) -> Tensor:
        """Descriptions of the voxels ``index [M]`` of the flattened grid: ``[M, F]``.

        Features and intensity are taken at the voxel and at six neighbours; beyond the edge the edge is repeated.
        """
        shape = self._local.shape[1:]
        places = torch.stack(torch.unravel_index(index, shape))
        limits = (torch.tensor(shape).view(3, 1) - 1).to(index.device)
        parts = []
        for move in self._moves:
            x, y, z = torch.minimum((places + move.view(3, 1)).clamp_min(0), limits)
            parts.append(self._local[:, x, y, z] / len(self._moves) ** 0.5)
        parts.append(self._wide.flatten(1)[:, index])
        return torch.cat(parts).T.contiguous()


def gather(
    image: Tensor,
    features: Tensor,
    probabilities: Tensor,
    uncertainty: Tensor,
    options: RefinementOptions,
    generator: torch.Generator,
) -> Evidence:
    """Collect a scan's evidence.

    Args:
        image: ``[1, D, H, W]`` as ``prepare`` gives it.
        features: the generalist's ``[C, d, h, w]``, over the same extent; may lie on another device. Many channels are
            projected to fewer on their own device: moving all would take longer.
        probabilities: ``[1 + N, D, H, W]``; a human label as one-hot.
        uncertainty: ``[D, H, W]``; 0 for a human label.
        options: which voxels count.
        generator: chooses among more confident voxels than are kept; a CPU's.
    """
    features = resize(random_projection(features, _PROJECTED).to(image.device), image.shape[1:])
    describer = Describer(image, features, probabilities, options)
    classes = probabilities.argmax(dim=0)
    one_hot = functional.one_hot(classes, probabilities.shape[0]).movedim(-1, 0).float()
    border = (box_mean(one_hot, options.reach).amax(dim=0) < 0.999).flatten()
    sure = _surest(classes.flatten(), uncertainty.flatten(), border, options.sure)
    if len(sure) > options.samples:
        sure = sure[torch.randperm(len(sure), generator=generator)[: options.samples].to(sure.device)]
    unsure = (uncertainty.flatten() > options.unsure).nonzero()[:, 0]
    if len(unsure) > options.most:
        unsure = unsure[uncertainty.flatten()[unsure].argsort(descending=True, stable=True)[: options.most]]
    return Evidence(
        features=describer.at(sure),
        labels=one_hot.flatten(1)[:, sure].T.contiguous(),
        unsure=unsure,
        wanted=describer.at(unsure),
    )


def _surest(classes: Tensor, uncertainty: Tensor, border: Tensor, share: float) -> Tensor:
    """The ``share`` of the ``border`` voxels of each class that are least uncertain; indices ``[M]``."""
    chosen = []
    for value in range(int(classes.max()) + 1):
        index = ((classes == value) & border).nonzero()[:, 0]
        if len(index):
            order = uncertainty[index].argsort(stable=True)
            limit = uncertainty[index[order[max(0, round(share * len(index)) - 1)]]]
            chosen.append(index[uncertainty[index] <= limit])
    return torch.cat(chosen) if chosen else classes.new_zeros(0)


def usual_distance(evidence: Iterable[Evidence], generator: torch.Generator, pairs: int = 300) -> float:
    """The usual squared distance between a place of one scan and the nearest place of another, 1 if there is none."""
    filled = list(islice((e for e in evidence if len(e.features)), _PAIRS + 1))
    found = []
    for own, other in pairwise(filled):
        pick = torch.randperm(len(own.features), generator=generator)[:pairs].to(own.features.device)
        found.append(torch.cdist(own.features[pick], other.features).amin(dim=1).square())
    return max(float(torch.cat(found).median()), 1e-6) if found else 1.0


def refine(
    probabilities: Tensor, own: Evidence, others: Sequence[Evidence], usual: float, options: RefinementOptions
) -> Tensor:
    """Correct the unsure voxels of one scan; all others stay as they are, bit by bit.

    Each unsure voxel takes the mean label of the confident places of other scans, weighted by their similarity, and
    blends it with the specialist's own answer. The votes say which of the scan's unsure voxels are more likely inside
    than others, not how large a structure is: they are shifted so that every class keeps its share of these voxels.
    (The asked places are no fair sample of the classes: without the shift structures grow.) The share
    that is taken over falls with the distance of the most similar place: without any near one, nothing changes.

    Args:
        probabilities: ``[1 + N, D, H, W]``.
        own: the scan's own evidence.
        others: evidence of the most similar scans.
        usual: see ``usual_distance``.
        options: how much is taken over.

    Returns:
        ``[1 + N, D, H, W]``, sum 1.
    """
    bank = [e for e in others if len(e.features)]
    if not bank or not len(own.unsure):
        return probabilities
    features = torch.cat([e.features for e in bank])
    labels = torch.cat([e.labels for e in bank])
    flat = probabilities.flatten(1).clone()
    before = flat[:, own.unsure].T
    votes, shares = torch.empty_like(before), before.new_empty(len(before), 1)
    step = max(1, _CHUNK // len(features))
    squares = features.square().sum(dim=1)
    for start in range(0, len(own.unsure), step):
        part = slice(start, start + step)
        wanted = own.wanted[part]
        distance = (wanted.square().sum(dim=1, keepdim=True) + squares - 2.0 * wanted @ features.T).clamp_min_(0.0)
        nearest = distance.amin(dim=1, keepdim=True)
        similar = distance.sub_(nearest).div_(-options.width * nearest.clamp_min(1e-3 * usual)).exp_()
        votes[part] = (similar @ labels) / similar.sum(dim=1, keepdim=True)
        shares[part] = options.strength * torch.exp(-((nearest / (options.far * usual)) ** 2))
    flat[:, own.unsure] = torch.lerp(before, balanced(votes, before.mean(dim=0)), shares).T
    return flat.reshape(probabilities.shape)


def balanced(votes: Tensor, wanted: Tensor) -> Tensor:
    """Shift votes class by class, by the same amount everywhere, until their mean is ``wanted``.

    Args:
        votes: ``[Q, C]``, sum 1 over C.
        wanted: ``[C]``, sum 1.

    Returns:
        ``[Q, C]``, sum 1 over C; in each class the order of the voxels stays.
    """
    logits = votes.clamp_min(_LEAST_VOTE).log()
    target = wanted.clamp_min(1e-6).log()
    shift = torch.zeros_like(wanted)
    for _ in range(_BALANCE_STEPS):
        shift = shift + target - torch.softmax(logits + shift, dim=1).mean(dim=0).clamp_min(1e-6).log()
    return torch.softmax(logits + shift, dim=1)

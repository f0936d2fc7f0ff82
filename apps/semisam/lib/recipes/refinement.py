"""Voxel-wise correction of pseudo-labels from confident places of the whole study.

The idea of SemiSAM-O1 (https://arxiv.org/abs/2604.24109): where the specialist is unsure, look in the feature space of
the frozen generalist for the most similar places at which it is sure (or a human has outlined), and take over their
labels. Scans are compared first, so that only the most similar ones are asked; a place is described by its features at
several scales and by where it lies relative to the predicted structures, so that no registration is needed. The scan's
own confident places take part as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..frames import resize
from ..generalists import Generalist
from ..generalists.mind import box_mean

_CHUNK = 4_000_000
"""Pairs of voxels compared at once: bounds the memory."""


@dataclass(frozen=True)
class RefinementOptions:
    """How to refine.

    Args:
        scans: how many other scans are asked.
        samples: confident voxels kept of each scan.
        unsure: voxels with at least this uncertainty (normalised entropy, 0..1) are corrected.
        sure: voxels with at most this uncertainty may be asked.
        reach: how far from a border between structures the asked voxels may lie, in voxels.
        scales: half widths in voxels of the cubes over which features are averaged.
        position: weight of the position relative to the structures against the features.
        width: width of the similarity kernel, in units of the usual distance between corresponding places.
        strength: largest share of a voxel's label that is taken over.
    """

    scans: int = 6
    samples: int = 2000
    unsure: float = 0.15
    sure: float = 0.1
    reach: int = 3
    scales: tuple[int, ...] = (0, 2)
    position: float = 1.0
    width: float = 0.5
    strength: float = 0.5


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a scan gives to the refinement, and where it needs some itself.

    Args:
        features: descriptions of its confident voxels near borders, ``[M, F]``.
        labels: their probabilities, ``[M, 1 + N]``.
        unsure: which voxels of the flattened grid are unsure, ``[Q]``.
        wanted: their descriptions, ``[Q, F]``.
    """

    features: Tensor
    labels: Tensor
    unsure: Tensor
    wanted: Tensor


def describe(image: Tensor, probabilities: Tensor, features: Tensor, options: RefinementOptions) -> Tensor:
    """Describe every voxel by features at several scales, intensity, and position relative to the structures.

    Args:
        image: ``[1, D, H, W]`` as ``prepare`` gives it.
        probabilities: ``[1 + N, D, H, W]``.
        features: the generalist's, ``[C, D, H, W]`` on the same grid.
        options: scales and weights.

    Returns:
        ``[F, D, H, W]`` float32; a squared difference of about 1 a group (features, intensity, position) is usual.
    """
    parts = []
    for radius in options.scales:
        smooth = box_mean(features, radius) if radius else features
        spread = smooth.std(dim=(1, 2, 3), keepdim=True).mean().clamp_min(1e-6)
        parts.append((smooth - smooth.mean(dim=(1, 2, 3), keepdim=True)) / (spread * smooth.shape[0] ** 0.5))
    parts.append(image)
    parts.append(position(probabilities) * options.position)
    return torch.cat(parts)


def position(probabilities: Tensor) -> Tensor:
    """Where each voxel lies relative to the predicted structures: ``[1 + N, D, H, W]`` to ``[3, D, H, W]``.

    The distance from the centre of all structures along each axis, divided by their spread along that axis: comparable
    between scans of other size and field of view. Without any structure the centre and size of the grid are used.
    """
    inside = 1.0 - probabilities[0]
    mass = inside.sum()
    coordinates = []
    for axis in range(3):
        line = torch.arange(inside.shape[axis], dtype=torch.float32)
        others = [n for n in range(3) if n != axis]
        weights = inside.sum(dim=others) if float(mass) > 1.0 else torch.ones_like(line)
        centre = (line * weights).sum() / weights.sum()
        spread = ((line - centre).square() * weights).sum().div(weights.sum()).sqrt().clamp_min(1.0)
        shape = [1, 1, 1]
        shape[axis] = -1
        coordinates.append(((line - centre) / spread).reshape(shape).expand(inside.shape))
    return torch.stack(coordinates)


def gather(
    image: Tensor,
    raw: Tensor,
    spacing: Sequence[float],
    probabilities: Tensor,
    uncertainty: Tensor,
    generalist: Generalist,
    options: RefinementOptions,
    generator: torch.Generator,
) -> Evidence:
    """Collect a scan's evidence.

    Args:
        image: ``[1, D, H, W]`` as ``prepare`` gives it.
        raw: what the generalist sees, ``[1, D, H, W]`` (any intensity scale).
        spacing: voxel size in mm.
        probabilities: ``[1 + N, D, H, W]``; a human label as one-hot.
        uncertainty: ``[D, H, W]``; 0 for a human label.
        generalist: gives the features.
        options: which voxels count.
        generator: chooses among more confident voxels than are kept.
    """
    features = resize(generalist.encode(raw, spacing), image.shape[1:])
    described = describe(image, probabilities, features, options).flatten(1)
    # Somewhere within reach the answer changes: there is a border nearby.
    border = box_mean(probabilities, options.reach).amax(dim=0) < 0.98
    sure = ((uncertainty <= options.sure) & border).flatten().nonzero()[:, 0]
    if len(sure) > options.samples:
        sure = sure[torch.randperm(len(sure), generator=generator)[: options.samples]]
    unsure = (uncertainty > options.unsure).flatten().nonzero()[:, 0]
    return Evidence(
        features=described[:, sure].T.contiguous(),
        labels=probabilities.flatten(1)[:, sure].T.contiguous(),
        unsure=unsure,
        wanted=described[:, unsure].T.contiguous(),
    )


def usual_distance(evidence: Sequence[Evidence], generator: torch.Generator, pairs: int = 500) -> float:
    """The usual squared distance between a place of one scan and the nearest place of another, 1 if there is none."""
    found = []
    filled = [e for e in evidence if len(e.features)]
    for own, other in pairwise(filled):
        pick = torch.randperm(len(own.features), generator=generator)[:pairs]
        found.append(torch.cdist(own.features[pick], other.features).amin(dim=1).square())
        if len(found) >= 20:
            break
    return max(float(torch.cat(found).median()), 1e-6) if found else 1.0


def refine(
    probabilities: Tensor, own: Evidence, others: Sequence[Evidence], usual: float, options: RefinementOptions
) -> Tensor:
    """Correct the unsure voxels of one scan; all others stay as they are, bit by bit.

    Each unsure voxel takes the mean label of the confident places, weighted by a Gaussian of their distance in feature
    space, and blends it with the specialist's own answer. The share that is taken over grows with the number of places
    that are really near: without any, nothing changes.

    Args:
        probabilities: ``[1 + N, D, H, W]``.
        own: the scan's own evidence.
        others: evidence of the most similar scans.
        usual: see ``usual_distance``.
        options: how much is taken over.

    Returns:
        ``[1 + N, D, H, W]``, sum 1.
    """
    bank = [e for e in (own, *others) if len(e.features)]
    if not bank or not len(own.unsure):
        return probabilities
    features = torch.cat([e.features for e in bank])
    labels = torch.cat([e.labels for e in bank])
    scale = 1.0 / (2.0 * usual * options.width**2)
    flat = probabilities.flatten(1).clone()
    step = max(1, _CHUNK // len(features))
    squares = features.square().sum(dim=1)
    for start in range(0, len(own.unsure), step):
        wanted = own.wanted[start : start + step]
        distance = (wanted.square().sum(dim=1, keepdim=True) + squares - 2.0 * wanted @ features.T).clamp_min_(0.0)
        similar = distance.mul_(-scale).exp_()
        mass = similar.sum(dim=1, keepdim=True)
        vote = (similar @ labels) / mass.clamp_min(1e-12)
        share = options.strength * (mass / (mass + 1.0))
        index = own.unsure[start : start + step]
        flat[:, index] = torch.lerp(flat[:, index].T, vote, share).T
    return flat.reshape(probabilities.shape)

"""Propagation by class prototypes: SemiSAM-O1's first stage.

Zhang et al., "SemiSAM-O1", arXiv 2604.24109, stage 1: the mean feature of every class of the template is compared with
the features of the scan. Unlike the released code, the whole scan is covered, labels are soft, and a class may have
several prototypes, because one mean cannot describe surroundings that hold everything else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..frames import Frame, frame_of, resize
from ..generalists import Generalist
from ..generalists.mind import box_mean
from ..volumes import Volume
from .base import SoftLabels, Template

_LEAST_EDGE = 16


@dataclass(frozen=True)
class PrototypePropagator:
    """Cosine similarity to class prototypes.

    Args:
        voxels: size of the working grid.
        smoothing: half width in voxels over which features are averaged first; a single voxel says little.
        per_class: prototypes for one class, found by k-means over its features.
        place_weight: share of the position in the feature vector. Position is relative to the scan's content box; it
            makes up for features that repeat all over the scan. 0 gives the paper's rule.
        temperature: softness of the probabilities over the similarities (-1..1).
    """

    name = "prototype"
    voxels: int = 200_000
    smoothing: int = 2
    per_class: int = 32
    place_weight: float = 2.0
    temperature: float = 0.05

    @torch.no_grad()
    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        """Label ``scan`` after ``template``; see ``Propagator``."""
        own = self._working(scan)
        other = self._working(template.scan)
        features = self._features(own.image(scan.array), own.spacing, generalist)
        known = self._features(other.image(template.scan.array), other.spacing, generalist)
        share = resize(other.one_hot(template.label, channels), known.shape[1:])

        similarities = [
            self._similarity(features, known, share[c]) if bool((share[c] > 0.5).any()) else None
            for c in range(channels)
        ]
        lowest = features.new_full(features.shape[1:], -1.0)
        stacked = torch.stack([lowest if s is None else s for s in similarities])
        probabilities = resize(torch.softmax(stacked / self.temperature, dim=0), own.shape)
        best = resize(stacked.amax(0, keepdim=True), own.shape)[0].clamp(0, 1)
        return SoftLabels(
            frame=own,
            probabilities=probabilities,
            confidence=probabilities.amax(0) * best,
            templates=(template.name,),
            similarity=float(best.mean()),
        )

    def _working(self, scan: Volume) -> Frame:
        frame = frame_of(scan)
        x, y, z = frame.extent
        edge = max((x * y * z / self.voxels) ** (1 / 3), min(frame.spacing))
        return frame.with_shape([max(_LEAST_EDGE, round(e / edge)) for e in frame.extent])

    def _features(self, image: Tensor, spacing: tuple[float, float, float], generalist: Generalist) -> Tensor:
        """Unit-length features with position, ``[C + 3, d, h, w]``."""
        features = generalist.encode(image, spacing)
        if features[0].numel() > 10_000:  # coarse foundation-model grids are smooth already
            features = box_mean(box_mean(features, self.smoothing), self.smoothing)
        features = features - features.mean(dim=(1, 2, 3), keepdim=True)
        features = functional.normalize(features, dim=0)
        axes = [torch.linspace(-1, 1, n) for n in features.shape[1:]]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij")) * self.place_weight
        return functional.normalize(torch.cat([features, place]), dim=0)

    def _similarity(self, features: Tensor, known: Tensor, share: Tensor) -> Tensor:
        """Highest cosine similarity to one class's prototypes, ``[d, h, w]`` in -1..1."""
        members = known[:, share > 0.5].T
        prototypes = _k_means(members, self.per_class)
        return torch.einsum("kc,cdhw->kdhw", prototypes, features).amax(0)


def _k_means(members: Tensor, count: int, iterations: int = 10) -> Tensor:
    """Unit-length centres ``[k, C]`` of ``members [n, C]``, started at evenly spread members (deterministic)."""
    count = min(count, members.shape[0])
    step = members.shape[0] / count
    centres = members[[int((n + 0.5) * step) for n in range(count)]]
    for _ in range(iterations):
        nearest = (members @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, members)
        counts = torch.bincount(nearest, minlength=count)[:, None]
        centres = functional.normalize(torch.where(counts > 0, sums / counts.clamp_min(1), centres), dim=1)
    return centres

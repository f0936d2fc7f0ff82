"""Propagation by class prototypes: SemiSAM-O1's first stage.

Zhang et al., "SemiSAM-O1", arXiv 2604.24109, stage 1: the mean feature of every class of the template is compared with
the features of the scan. Unlike the released code, the whole scan is covered, labels are soft, and a class may have
several prototypes, because one mean cannot describe surroundings that hold everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from weakref import ReferenceType, WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor

from lib.core.devices import default_device, with_room
from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.core.resampling import resize
from lib.generalists import Generalist

from .base import SoftLabels, Template
from .features import surroundings

_LEAST_EDGE = 16
_MOST_MEMBERS = 4_000
"""Places of a class that its prototypes are made of, evenly spread."""


@dataclass(frozen=True, eq=False)
class _Known:
    """The prototypes of a template, and what they were made with.

    Args:
        generalist: gave the features.
        weights_hash: of the generalist at that time.
        prototypes: ``[k, C + 3]`` of unit length for each class, None for one that the template has not.
    """

    generalist: ReferenceType[Generalist]
    weights_hash: str
    prototypes: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class PrototypePropagator:
    """Cosine similarity to class prototypes.

    A template's prototypes are kept as long as the template itself: many scans are labelled after it.

    Args:
        voxels: size of the working grid.
        per_class: prototypes for one class, found by k-means over its features.
        place_weight: share of the position in the feature vector. Position is relative to the scan's content box; it
            makes up for features that repeat all over the scan. 0 gives the paper's rule.
        temperature: softness of the probabilities over the similarities (-1..1).
        device: where to compute.
    """

    name = "prototype"
    voxels: int = 200_000
    per_class: int = 32
    place_weight: float = 2.0
    temperature: float = 0.05
    device: str = field(default_factory=default_device)
    _known: WeakKeyDictionary[Template, _Known] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        """Label ``scan`` after ``template``; see ``Propagator``."""

        def compute(device: str) -> SoftLabels:
            # What is known of templates lies on the device.
            there = self if device == self.device else replace(self, device=device)
            return there._propagate(template, scan, channels, generalist)

        return with_room(self.device, compute, self.name)

    @torch.no_grad()
    def _propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        own = self._working(scan)
        features = self._features(scan, own, generalist)
        known = self._prototypes(template, channels, generalist)
        flat = features.flatten(1)
        stacked = torch.stack([flat.new_full(flat.shape[1:], -1.0) if k is None else (k @ flat).amax(0) for k in known])
        stacked = stacked.unflatten(1, features.shape[1:])
        probabilities = torch.softmax(stacked / self.temperature, dim=0)
        best = stacked.amax(0).clamp(0, 1)
        return SoftLabels(
            frame=own.with_shape(features.shape[1:]),
            probabilities=probabilities.cpu(),
            confidence=(probabilities.amax(0) * best).cpu(),
            templates=(template.name,),
            similarity=float(best.mean()),
        )

    def _working(self, scan: Volume) -> Frame:
        return frame_of(scan).with_voxels(self.voxels, _LEAST_EDGE)

    def _features(self, scan: Volume, frame: Frame, generalist: Generalist) -> Tensor:
        """Unit-length features with position, ``[C + 3, d, h, w]``."""
        features = surroundings(scan, frame, generalist, self.device)
        features = _unit(features - features.mean(dim=(1, 2, 3), keepdim=True))
        axes = [torch.linspace(-1, 1, n, device=features.device) for n in features.shape[1:]]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij")) * self.place_weight
        return _unit(torch.cat([features, place]))

    def _prototypes(self, template: Template, channels: int, generalist: Generalist) -> tuple[Tensor | None, ...]:
        """Prototypes of each class of ``template``; None for a class that it has nowhere."""
        weights_hash = str(getattr(generalist, "weights_hash", ""))
        kept = self._known.get(template)
        if (
            kept is not None
            and kept.generalist() is generalist
            and (kept.weights_hash, len(kept.prototypes)) == (weights_hash, channels)
        ):
            return kept.prototypes
        frame = self._working(template.scan)
        features = self._features(template.scan, frame, generalist)
        label = _sampled(template.label, frame).to(features.device)
        members = []
        for c in range(channels):
            share = resize((label == c).float()[None], features.shape[1:])[0]
            # A structure that fills no place by half is described where it fills most.
            members.append(features[:, (share > 0) & (share >= min(0.5, float(share.max())))])
        prototypes = tuple(_k_means(m, self.per_class) if m.shape[1] else None for m in members)
        self._known[template] = _Known(ref(generalist), weights_hash, prototypes)
        return prototypes


def _sampled(label: np.ndarray, frame: Frame) -> Tensor:
    """The label at the centres of the frame's voxels, ``[d, h, w]`` uint8; to find places of a class that is enough."""
    content = frame.crop(label)
    index = [((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(frame.shape, content.shape, strict=True)]
    return torch.from_numpy(content[np.ix_(*index)])


def _unit(vectors: Tensor) -> Tensor:
    """``[C, ...]`` with vectors of length 1 along C (0 stays 0); far faster than ``functional.normalize`` there."""
    return vectors / vectors.square().sum(dim=0, keepdim=True).sqrt().clamp_min(1e-12)


def _k_means(members: Tensor, count: int, iterations: int = 10) -> Tensor:
    """Unit-length centres ``[k, C]`` of ``members [C, n]``, started at evenly spread members.

    Not scikit-learn's, which is no dependency: a few deterministic lines do.
    """
    device = members.device
    # Always on the CPU: a GPU adds up the members of a centre in any order, and there are few.
    members = members[:, :: -(-members.shape[1] // _MOST_MEMBERS)].cpu()
    count = min(count, members.shape[1])
    step = members.shape[1] / count
    centres = members[:, [int((n + 0.5) * step) for n in range(count)]]
    for _ in range(iterations):
        nearest = (centres.T @ members).max(dim=0).indices  # much faster than argmax
        sums = torch.zeros_like(centres).index_add_(1, nearest, members)
        counts = torch.bincount(nearest, minlength=count)
        centres = _unit(torch.where(counts > 0, sums / counts.clamp_min(1), centres))
    return centres.T.to(device)

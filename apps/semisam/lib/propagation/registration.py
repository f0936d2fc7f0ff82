"""Propagation by dense correspondence between the feature grids of template and scan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from lib.core.devices import default_device, with_room
from lib.core.filters import box_mean
from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.core.resampling import resize
from lib.generalists import Generalist
from lib.generalists.mind import Mind

from .affine_placement import AffinePlacement, Start
from .agreement import agreement_around, trust
from .base import SoftLabels, Template
from .displacement import warp
from .features import UNRELATED, comparable, encode, encoding_grid, features_on
from .grids import Grids
from .matching import FEW, Effort, Pair, match
from .neighbour_fusion import fused_over_neighbours
from .placement import find_placement
from .refine_in_roi import grids_in_roi, part_for_roi, part_of_template
from .start import LEAST_EDGE, affine_start, find_start, guess_as_start, template_grid

_QUICK = 30_000
"""Voxels of the grid on which starts are compared."""
_CLEARLY_GOOD, _BETTER = 0.8, 0.03
"""Agreement of a start from which on no other one is tried, and how much more another one must have to be taken."""
_COARSE = 2.0
"""Voxels of the scan to one of the working grid from which on the grid is coarse."""
_LEAST_SEARCH_EDGE = 3
"""Voxels the coarse search grid has at least along each axis: as wide as the kernel that smooths it."""


@dataclass(frozen=True)
class RegistrationPropagator:
    """Coupled convex optimisation over the features, then gradient refinement.

    Siebert et al. 2021, https://arxiv.org/abs/2112.03053, on any generalist's features.

    Args:
        voxels: size of the working grid; its voxels are as near to cubes as the scan allows, never finer than the scan.
        stride: voxels of the feature grid to one voxel of the coarse search.
        reach: furthest displacement of the coarse search, in voxels of its grid.
        fine: voxels of the feature grid to one voxel of the gradient refinement.
        iterations: steps of the gradient refinement; three fifths of them where there is a closing one.
        smoothness: weight of the diffusion term in the refinement.
        passes: most searches, each with its refinement, one on the result of the other. One alone carries over too
            little of a large deformation: large structures come out too small, small ones too large.
        closing: steps of a last refinement, on the feature grid itself, where it has few voxels: half of them are too
            few for small structures. On large grids it costs time and gains nothing (docs/reference/benchmarks.md).
        refine: whether the part of a large scan where the structures are is matched again, on a finer grid.
        device: where to compute.
    """

    name = "registration"
    voxels: int = 430_000
    stride: int = 6
    reach: int = 4
    fine: int = 2
    iterations: int = 50
    smoothness: float = 1.25
    passes: int = 2
    closing: int = 8
    refine: bool = True
    device: str = field(default_factory=default_device)

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        """Label ``scan`` after ``template``; see ``Propagator``."""

        def compute(device: str) -> SoftLabels:
            return replace(self, device=device)._propagate(template, scan, channels, generalist)

        return with_room(self.device, compute, self.name)

    @torch.no_grad()
    def _propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        own = self._working(scan)
        other = frame_of(template.scan).with_spacing(own.spacing)
        image = own.image(scan.clipped).to(self.device)
        place = find_placement(own, image, other, template.scan)
        other = other.with_shape(place.shape)
        start = find_start(scan, own, template, place, other)
        enough = min(scan.shape) >= LEAST_EDGE  # the working grid has more voxels than a scan of few slices
        if start is None and math.prod(own.shape) > FEW and enough and self.passes > 1:
            start = self._other_start(template, scan, channels, guess_as_start(own, other, place))
        if start is not None:
            return self._affine(template, scan, channels, generalist, start)
        seen = encoding_grid(scan, own, generalist), encoding_grid(template.scan, other, generalist)
        # A foundation model's many channels are made few where they are, on the CPU: all would be much to move.
        features = comparable(
            encode(generalist, image if seen[0] == own else seen[0].image(scan.clipped), seen[0].spacing, self.device),
            encode(generalist, seen[1].image(template.scan.clipped), seen[1].spacing, self.device),
        )
        first = Grids(own, other, place, (scan, template.scan))
        found, displacement = self._carried(template, channels, first, self._laid(first, features), None)
        roi = None
        if self.refine:
            roi = grids_in_roi(
                own, other, place, found.traces(), displacement.cpu(), voxels=self.voxels, least=self._least
            )
        if roi is None:
            return found
        if generalist.name == Mind.name:
            features = (
                encode(generalist, roi.scan.image(scan.clipped), roi.scan.spacing, self.device),
                encode(generalist, roi.template.image(template.scan.clipped), roi.template.spacing, self.device),
            )
        else:
            features = (
                features_on(roi.scan, features[0], seen[0]),
                features_on(roi.template, features[1], seen[1]),
            )
        second = Grids(roi.scan, roi.template, roi.place, (scan, template.scan))
        laid = self._laid(second, features)
        return _finer(found, self._carried(template, channels, second, laid, roi.start.to(self.device))[0])

    def _other_start(self, template: Template, scan: Volume, channels: int, known: Start) -> Start | None:
        """An affine start where a quick matching from it agrees better than from the known one, else None."""
        quick = replace(self, voxels=_QUICK, iterations=20, passes=1, closing=0, refine=False)

        def agreement(start: Start) -> float:
            return quick._affine(template, scan, channels, Mind(), start).agreement or 0.0

        before = agreement(known)
        if before >= _CLEARLY_GOOD:
            return None
        start = affine_start(scan, self._working(scan), template, known)
        return start if agreement(start) >= before + _BETTER else None

    def _affine(
        self, template: Template, scan: Volume, channels: int, generalist: Generalist, start: Start
    ) -> SoftLabels:
        """Labels by matching a template that is laid over the scan by an affine map."""
        own = self._working(scan)
        features = None
        if generalist.name != Mind.name:
            seen = encoding_grid(scan, own, generalist), encoding_grid(template.scan, own, generalist)
            features = comparable(
                *(
                    encode(generalist, grid.image(each.clipped), grid.spacing, self.device)
                    for grid, each in zip(seen, (scan, template.scan), strict=True)
                )
            )

        def laid(grids: Grids, place: AffinePlacement) -> tuple[Tensor, Tensor]:
            own = grids.scan
            if features is not None:
                fixed, moving = (
                    features_on(own, features[0], seen[0]),
                    features_on(grids.template, features[1], seen[1]),
                )
                return fixed.to(self.device), place.extended(moving.to(self.device), own.shape)
            # These descriptors know directions: they describe the template as it is laid.
            turned = place.extended(grids.template.image(template.scan.clipped).to(self.device), own.shape)
            image = own.image(scan.clipped)
            fixed, moving = (encode(generalist, each, own.spacing, self.device) for each in (image, turned))
            return fixed, moving

        other = template_grid(template.scan, own, start)
        place = start.placement(own, other)
        first = Grids(own, other, place, (scan, template.scan))
        found, displacement = self._carried(template, channels, first, laid(first, place), None)
        part = None
        if self.refine:
            part = part_for_roi(own, found.traces(), displacement.cpu(), voxels=self.voxels, least=self._least)
        if part is None:
            return found
        moved = start.moved(np.array(part.shift) * np.array(own.spacing))
        finer = part_of_template(template_grid(template.scan, part.scan, moved), part, moved)
        place = moved.placement(part.scan, finer)
        second = Grids(part.scan, finer, place, (scan, template.scan))
        return _finer(
            found, self._carried(template, channels, second, laid(second, place), part.rest.to(self.device))[0]
        )

    def _laid(self, grids: Grids, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Features ``[C, d, h, w]`` of scan and template over the grids' extents, both on the scan's grid."""
        own = grids.scan.shape
        moving = grids.place.place(resize(features[1].to(self.device), grids.template.shape), own)
        return resize(features[0].to(self.device), own), moving

    def _carried(
        self, template: Template, channels: int, grids: Grids, features: tuple[Tensor, Tensor], start: Tensor | None
    ) -> tuple[SoftLabels, Tensor]:
        """Labels by matching two grids, and the displacement ``[3, D, H, W]`` in voxels of the scan's.

        Args:
            template: whose label is carried over.
            channels: number of classes.
            grids: working grids of scan and template.
            features: ``[C, D, H, W]`` each, on the scan's grid.
            start: displacement to begin with, None for a search.
        """
        own, place = grids.scan, grids.place
        fixed, moving = features
        covered = place.covered(own.shape, self.device)
        moving = torch.where(covered > 0, moving, fixed)
        labels = grids.template.one_hot(template.label, channels).to(self.device)
        outside = 1.0 - covered
        labels = place.place(labels, own.shape)
        labels[:1] += outside

        coarse = math.prod(own.spacing) >= _COARSE * math.prod(own.voxel)
        pair = Pair(fixed, moving, covered, lambda: grids.brightness(1.0 - labels[:1]), coarse)
        matched = match(pair, self._effort, start)
        displacement = matched.displacement
        carried, seen = warp(labels, displacement), warp(covered, displacement)[0]
        together = warp(matched.moving, displacement)  # with brightness, which the figures below do not count
        moved = together[: len(moving)]
        residual = (moved - fixed).square().mean(0)
        similarity = 1.0 - _mean_over(residual, seen) / UNRELATED
        agreement = agreement_around(fixed, moved, carried, seen, displacement)
        confidence = _confidence(carried, residual) * (1 - 0.5 * warp(outside, displacement)[0])
        confidence = confidence * trust(agreement)
        found = SoftLabels(
            frame=own,
            probabilities=fused_over_neighbours(matched.fixed, together, carried).cpu(),
            confidence=confidence.cpu(),
            templates=(template.name,),
            similarity=min(1.0, max(0.0, similarity)),
            agreement=agreement,
        )
        return found, displacement

    @property
    def _effort(self) -> Effort:
        return Effort(self.stride, self.reach, self.fine, self.iterations, self.smoothness, self.passes, self.closing)

    def _working(self, scan: Volume) -> Frame:
        return frame_of(scan).with_voxels(self.voxels, self._least)

    @property
    def _least(self) -> int:
        """Voxels of a working grid along each axis, at least."""
        return _LEAST_SEARCH_EDGE * self.stride


def _finer(found: SoftLabels, finer: SoftLabels) -> SoftLabels:
    """A part of a scan, matched again; the first matching has seen the rest.

    Templates are compared by what all of them have seen.
    """
    nothing = found.probabilities[0] > 0.5
    return replace(finer, similarity=found.similarity, elsewhere=float(found.confidence[nothing].mean()))


def _mean_over(values: Tensor, seen: Tensor) -> float:
    """Mean of ``values`` where a share ``seen`` of each voxel is covered by the template; both ``[D, H, W]``."""
    if bool((seen == 1).all()):
        return float(values.mean())
    return float((values * seen).sum() / seen.sum().clamp_min(1))


def _confidence(probabilities: Tensor, residual: Tensor) -> Tensor:
    """How far to trust each voxel's label, ``[D, H, W]`` in 0..1.

    Low near the border of a structure, where a small error of the field changes the label, and where the features of
    template and scan still differ after the matching.
    """
    near = box_mean(probabilities, 1).amax(0)
    local = box_mean(residual[None], 2)[0]
    return near * torch.exp(-local / UNRELATED)

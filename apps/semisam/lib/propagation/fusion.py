"""Several outlined scans: the most similar ones are chosen, and their propagated labels are fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.errors import UserError
from lib.core.frames import common_frame, frame_of
from lib.core.geometry import Volume
from lib.generalists import Generalist, describing
from lib.generalists.mind import Mind

from .base import Propagator, SoftLabels, Template
from .channels import pairs

_SIGNATURE_SHAPE = (24, 24, 24)
_GRID = (6, 6, 6)

MOST_TEMPLATES = 3
"""Outlined scans that are propagated to one scan: the most similar ones."""


def signature(scan: Volume) -> Tensor:
    """A short description of a whole scan: ``[12 * 216]``, unit length, from MIND features on a fixed coarse grid.

    Always MIND: other generalists need a finer resolution, and would be asked once more for every scan.
    """
    frame = frame_of(scan).with_shape(_SIGNATURE_SHAPE)
    features = Mind().encode(frame.image(scan.clipped), frame.spacing)
    pooled = functional.adaptive_avg_pool3d(features[None], _GRID)[0]
    pooled = pooled - pooled.mean(dim=(1, 2, 3), keepdim=True)
    return functional.normalize(pooled.flatten(), dim=0)


def most_similar(scan: Volume, names: Sequence[str], signature_of: Callable[[str], Tensor], most: int) -> Sequence[str]:
    """Names of the outlined scans that are most similar to ``scan``, the most similar first; equal ones by name.

    Args:
        scan: the scan.
        names: of the outlined scans; these scans are not read here.
        signature_of: gives an outlined scan's ``signature`` by its name.
        most: how many to choose at most.
    """
    if len(names) < 2:
        return names[:most]
    own = signature(scan)
    return sorted(names, key=lambda name: (-float(signature_of(name) @ own), name))[:most]


def propagate_from(
    templates: Sequence[Template],
    scan: Volume,
    channels: int,
    *,
    generalist: Generalist,
    propagator: Propagator,
) -> SoftLabels:
    """Label ``scan`` after outlined scans.

    The labels of several templates are averaged voxel by voxel, weighted by their confidence and by how well each
    template matches after propagation.

    Args:
        templates: the outlined scans; all are used. Whoever asks chooses them, see ``most_similar``.
        scan: the scan to label.
        channels: background and structures.
        generalist: encodes both scans, or who describes such scans in its place (``describing``).
        propagator: carries one template's label over.

    Raises:
        UserError: (409) when there is no template, (422) for a 2D image with templates in 3D, and the other way round.
    """
    if not templates:
        raise UserError(
            "No scan of this study has a 'final' label yet. Outline one scan, save it as final, and try again.",
            status=409,
        )
    fitting = [t for t in templates if t.scan.flat == scan.flat]
    if not fitting:
        kinds = ("a 2D image", "3D scans") if scan.flat else ("a 3D scan", "2D images")
        raise UserError(
            f"This is {kinds[0]}, but the outlined ones ({', '.join(t.name for t in templates)}) are {kinds[1]}. "
            "Keep 2D images and 3D scans in studies of their own.",
            status=422,
        )
    features = describing(generalist, flat=scan.flat)
    matched = [pair for template in fitting for pair in pairs(template, scan)]
    return fuse([propagator.propagate(template, each, channels, features) for template, each in matched])


def fuse(results: Sequence[SoftLabels]) -> SoftLabels:
    """The confidence-weighted mean of labels of one scan, on one grid for all of them."""
    if len(results) == 1:
        return results[0]
    frame = common_frame([r.frame for r in results])
    results = [r.on(frame) for r in results]
    best = max(r.similarity for r in results)
    # A template that matches clearly worse than the best one hardly counts.
    weights = [(r.confidence + 1e-3) * float(torch.tensor((r.similarity - best) * 20.0).exp()) for r in results]
    total = torch.stack(weights).sum(0)
    nothing = total.new_zeros(())
    probabilities = sum((r.probabilities * w for r, w in zip(results, weights, strict=True)), start=nothing)
    probabilities = probabilities / total
    agreement = probabilities.amax(0)
    confidence = sum((r.confidence * w for r, w in zip(results, weights, strict=True)), start=nothing) / total
    return SoftLabels(
        frame=frame,
        probabilities=probabilities,
        confidence=confidence * agreement,
        templates=tuple(dict.fromkeys(name for r in results for name in r.templates)),
        similarity=best,
        agreement=best_agreement(results),
    )


def best_agreement(results: Sequence[SoftLabels]) -> float | None:
    """The best agreement of several labels of one scan, None where none tells."""
    return max((each.agreement for each in results if each.agreement is not None), default=None)

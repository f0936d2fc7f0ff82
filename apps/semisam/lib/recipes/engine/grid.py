"""The specialist's working grid: how fine it is, how large its window, and the network that fits."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lib.core.errors import UserError
from lib.core.frames import Frame, frame_of
from lib.core.labels import LabelSchema
from lib.core.sealed import read_sealed, write_sealed
from lib.core.sparse_labels import find_planes
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.recipes.registry import RECIPES
from lib.specialists.detail import Outline, spacing_for, volume_weights
from lib.specialists.networks import NETWORKS
from lib.specialists.spec import (
    BY_SLICE,
    SpecialistSpec,
    check_roi,
    choose_roi,
    fitting_widths,
    region_of_interest,
)

from .options import NNUNET, PRESETS, RecipeOptions
from .report import Case, RecipeSettings

log = logging.getLogger("semisam.train")

_LOOKED_AT = 16
"""Scans that are looked at to choose spacing and window."""
_OUTLINES = 3
"""Outlined scans by which it is seen whether a grid is fine enough for their structures."""


def choose_grid(
    cases: Sequence[Case], schema: LabelSchema, options: RecipeOptions, settings: RecipeSettings, folder: Path
) -> tuple[SpecialistSpec, int]:
    """The specialist's grid, and the voxels of a scan on it: from the settings, else from a look at some scans.

    Both are kept in ``folder`` for a resumed run.

    Raises:
        UserError: (422) when 2D images and 3D scans are outlined, (409) when the network cannot work on 2D images.
    """
    file = folder / "spec.json"
    kept = read_sealed(file)
    if kept is not None:
        return SpecialistSpec.from_plain(kept), int(str(kept["voxels"]))
    budget = options.budget
    spacing, roi = settings.spacing, settings.roi_size
    looks = _some_looks(cases, schema, _LOOKED_AT if spacing is None or roi is None else 1)
    frames, flat = [look.frame for look in looks], looks[0].frame.flat
    extents = [f.extent for f in frames]
    boxes = [look.structures for look in looks if look.structures is not None]
    # Where the structures of other scans are says the propagation.
    partly = RECIPES[options.recipe].propagates and options.network != NNUNET and not flat
    part = region_of_interest(extents, boxes) if partly else None
    used = extents if part is None else [part]
    outlines = [look.outline for look in looks if look.outline is not None][:_OUTLINES]
    spacing = spacing or spacing_for(outlines, used, [f.spacing for f in frames], budget.scan_voxels)
    roi = roi or choose_roi(used, spacing, budget.roi_voxels, flat=flat)
    network = options.network
    if flat:
        network, roi = network_2d(options), (roi[0], roi[1], 1)
    # A window that was asked for must do for the preset itself; only the further level of a GPU may be left out.
    least = len(PRESETS[options.preset].widths) if settings.roi_size else 2
    widths = fitting_widths(budget.widths, roi, network, least)
    check_roi(roi, len(widths), network)
    inputs = max(look.inputs for look in looks)
    weights = volume_weights(outlines, spacing, schema.channels)
    spec = SpecialistSpec(
        schema.names, widths, spacing, roi, network, inputs=inputs, flat=flat, part=part, volume_weights=weights
    )
    voxels = round(max(math.prod(e / s for e, s in zip(extent, spacing, strict=True)) for extent in used))
    write_sealed(file, {**spec.as_plain(), "voxels": voxels})
    return spec, voxels


def network_2d(options: RecipeOptions) -> str:
    """The network for 2D images: the chosen one if it sees single slices, else the recipe's first that does.

    Raises:
        UserError: (409) when the chosen one does not see images as ours do.
    """
    fit = [name for name in RECIPES[options.recipe].networks if name in BY_SLICE]
    if options.network in fit:
        return options.network
    if options.network not in NETWORKS:
        raise UserError(
            f"network: {options.network} is not used on 2D images. Choose {' or '.join(fit)}, or leave it at auto.",
            status=409,
        )
    log.info("2D images: the network is %s in place of %s", fit[0], options.network)
    return fit[0]


@dataclass(frozen=True)
class _Look:
    """What matters of a scan for the specialist's grid."""

    frame: Frame
    inputs: int
    """Channels: three in colour."""
    structures: tuple[float, float, float] | None
    """Size in mm of the box around all structures, along the frame's axes; None where they are not known."""
    outline: Outline | None = None
    """The structures themselves; None, too, where only some planes are outlined."""


def _look(case: Case, schema: LabelSchema, *, closely: bool) -> _Look:
    """What matters of a scan; only ``closely`` with the outline, which takes memory."""
    scan = read_volume(case.image)
    frame = frame_of(scan)
    inputs = 3 if scan.colour is not None else len(scan.further) + 1
    if case.label is None:
        return _Look(frame, inputs, None)
    try:
        label = read_label(case.label, scan, schema, may_be_empty=case.negative)
        sparse = find_planes(label, case.annotated) is not None
    except UserError:  # said elsewhere; the scan's own grid is of use all the same
        return _Look(frame, inputs, None)
    inside = frame.crop(label) > 0
    if not inside.any():
        return _Look(frame, inputs, None)
    structures = frame.around(torch.from_numpy(inside), 0.0).extent
    return _Look(frame, inputs, structures, Outline.of(frame, label) if closely and not sparse else None)


def _some_looks(cases: Sequence[Case], schema: LabelSchema, most: int) -> list[_Look]:
    """Looks at scans spread over the study, those that can be read; the outlined ones first.

    2D images count in a study whose outlined scans are 2D images, others in one whose outlined scans are others.
    """
    ordered = sorted(cases, key=lambda case: case.label is None)
    step = max(1, len(ordered) // most)
    looks: list[_Look] = []
    outlined: dict[bool, str] = {}
    error: UserError | None = None
    for case in [*ordered[::step], *ordered]:
        if len(looks) >= min(most, len(ordered)):
            break
        try:
            looks.append(_look(case, schema, closely=sum(look.outline is not None for look in looks) < _OUTLINES))
        except UserError as found:
            error = found
            continue
        if case.label is not None:
            outlined.setdefault(looks[-1].frame.flat, case.name)
    if not looks:
        raise UserError(f"No scan of this study can be read. The last one: {error}", status=422)
    if len(outlined) == 2:
        raise UserError(
            f"Both 2D images ({outlined[True]}, ...) and 3D scans ({outlined[False]}, ...) have a 'final' label. "
            "Keep 2D images and 3D scans in studies of their own.",
            status=422,
        )
    flat = next(iter(outlined), looks[0].frame.flat)
    return [look for look in looks if look.frame.flat == flat]

"""Whether a checkpoint may go into service: it is loaded and asked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.core.geometry import Volume

from .checkpoint import Specialist, load_fitting
from .predict import predict, predict_prepared

_MOST_EDGE = 64
"""Voxels of the window it is asked with at most along an axis: whoever can answer for them can answer for more."""


def check_checkpoint(path: Path, names: Sequence[str]) -> None:
    """Load a specialist from its file as from a stranger, and ask it once, on the CPU.

    Nothing of the file is run, and no more memory is taken than a few times its size on the disk.

    Args:
        path: the file.
        names: of the study's structures, in order.

    Raises:
        UserError: (404) when there is no such file, (422) when it is damaged, no specialist of this app, or gives no
            sensible answer, (409) when it was made for other structures, or needs nnU-Net and that is not installed.
    """
    specialist = load_fitting(path, names)
    try:
        answer = _ask(specialist)
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise _useless(path) from error
    sums = answer.sum(dim=0)
    if len(answer) != specialist.spec.channels or not bool((sums - 1).abs().max() < 1e-2):  # also what is no number
        raise _useless(path)


def _useless(path: Path) -> UserError:
    return UserError(
        f"{path.name} can be loaded, but gives no sensible answer. Train again, or put a good copy there.", status=422
    )


def _ask(specialist: Specialist) -> Tensor:
    """The answer for a small scan of noise, ``[1 + N, D, H, W]``."""
    spec = specialist.spec
    generator = torch.Generator().manual_seed(0)
    if specialist.nnunet is not None:
        scheme = replace(specialist.nnunet, mirror_axes=())
        first, *further = torch.randn(spec.inputs, 16, 16, 16, generator=generator).numpy()
        scan = Volume(first, np.diag([*spec.spacing, 1.0]), further=tuple(further))
        return predict(replace(specialist, nnunet=scheme), scan).probabilities
    # Networks for slices see one alone: a large one takes seconds for each on a CPU.
    single = {spec.slice_axis} if spec.by_slice else set()
    x, y, z = (1 if axis in single else min(n, _MOST_EDGE) for axis, n in enumerate(spec.roi_size))
    shape = (x, y, z)
    image = torch.randn(spec.inputs, *shape, generator=generator)
    return predict_prepared(specialist.members, replace(spec, roi_size=shape), image)

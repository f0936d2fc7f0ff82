"""A study that can be scored: with pseudo-labels and a specialist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lib.specialists import SpecialistSpec, build_network, save_specialist
from server.store.study import Study
from tiny_study import TINY_LABELS, save_nifti, tiny_scan


def put_specialist(study: Study, seed: int = 0, part: tuple[float, float, float] | None = None) -> None:
    """Put an untrained specialist into service."""
    torch.manual_seed(seed)
    spec = SpecialistSpec(TINY_LABELS, (4, 8), (6.0, 6.0, 6.0), (16, 16, 16), part=part)
    save_specialist(study.published, spec, [build_network(spec)])


def put_pseudo_labels(study: Study, folder: Path) -> None:
    """Store a good pseudo-label for case_2, one of another scan for case_3 and an empty one for case_4."""
    for name, values in (("case_2", tiny_scan(2)[1]), ("case_3", np.roll(tiny_scan(9)[1], 5, 0)), ("case_4", None)):
        image, _, affine = tiny_scan(int(name[-1]))
        label = np.zeros(image.shape, np.uint8) if values is None else values
        file = save_nifti(folder / f"pseudo_{name}.nii.gz", label, affine)
        study.datastore.save_label(name, str(file), "original", {"params": {"source": "propagation"}})

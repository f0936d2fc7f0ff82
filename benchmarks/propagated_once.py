"""A propagator that keeps what it has done on disk, so that runs to compare start from the same labels at once."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lib.core.frames import Frame
from lib.core.geometry import Volume
from lib.generalists import Generalist
from lib.propagation import Propagator, SoftLabels, Template, create_propagator
from lib.recipes.engine.tensor_files import load_tensors, save_tensors


class KeptPropagator:
    """A propagator with a memory.

    Args:
        folder: one file for each pair of template and scan; of one propagator and its options.
        inner: what is asked once, None for ``registration``.
    """

    def __init__(self, folder: Path, inner: Propagator | None = None) -> None:
        self._inner = inner or create_propagator("registration")
        self.name = self._inner.name
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def propagate(self, template: Template, scan: Volume, channels: int, generalist: Generalist) -> SoftLabels:
        """See ``Propagator``."""
        file = self._folder / f"{_key(template, scan, generalist)}.pt"
        if not file.is_file():
            soft = self._inner.propagate(template, scan, channels, generalist)
            kept = {
                **vars(soft),
                "frame": asdict(soft.frame),
                "probabilities": soft.probabilities.half(),
                "confidence": soft.confidence.half(),
            }
            save_tensors(file, kept)
        content = load_tensors(file)
        return SoftLabels(
            frame=Frame(**content["frame"]),
            probabilities=content["probabilities"].float(),
            confidence=content["confidence"].float(),
            templates=content["templates"],
            similarity=content["similarity"],
            elsewhere=content["elsewhere"],
        )


def _key(template: Template, scan: Volume, generalist: Generalist) -> str:
    digest = hashlib.sha256(generalist.name.encode())
    for array in (template.scan.array, template.scan.affine, template.label, scan.array, scan.affine):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]

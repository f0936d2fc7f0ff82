"""A scan on its way to an exported network, and the answer on its way back, as transforms of MONAI.

This file is copied into each export.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, MapTransform
from torch import Tensor

from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.specialists.prepare import label_map, prepare
from lib.specialists.spec import SpecialistSpec

FRAME = "frame"
"""Key under which is kept where the network's grid lies in the scan: JSON."""


def read(path: str | os.PathLike[str]) -> MetaTensor:
    """A scan ``[C, D, H, W]`` as MONAI reads it."""
    found: MetaTensor = Compose([LoadImage(dtype=np.float32), EnsureChannelFirst()])(str(path))
    return found


class Prepared(MapTransform):
    """Puts a scan ``[inputs, D, H, W]`` on the network's grid, with the network's intensities.

    Args:
        spec: what the network is, see ``spec.py``.
        box: for a network that works on a part of a scan, around the structures: first and past-the-last voxel along
            each axis of the scan.
        keys: of the scan.
    """

    def __init__(
        self, spec: Mapping[str, object], box: Sequence[Sequence[int]] | None = None, keys: Sequence[str] = ("image",)
    ) -> None:
        super().__init__(keys)
        self._spec = SpecialistSpec.from_plain(spec)
        if self._spec.part is not None and box is None:
            size = " x ".join(f"{length:.0f}" for length in self._spec.part)
            raise ValueError(
                f"This network works on a part of a scan of about {size} mm around the structures. Say which: box, "
                "first and past-the-last voxel along each axis, [[i0, i1], [j0, j1], [k0, k1]]."
            )
        self._box = box

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same mapping with the image prepared, and where it lies."""
        found = dict(data)
        for key in self.key_iterator(found):
            frame, image = self.prepare(found[key])
            found[FRAME] = json.dumps({**asdict(frame), "affine": found[key].affine.tolist()})
            found[key] = MetaTensor(image, meta=found[key].meta)
        return found

    def prepare(self, image: MetaTensor) -> tuple[Frame, Tensor]:
        """The frame of the grid, and the image on it ``[inputs, D, H, W]``."""
        first, *further = (np.ascontiguousarray(channel.numpy()) for channel in image)
        affine = np.asarray(image.affine, dtype=np.float64)
        volume = Volume(first, affine, further=tuple(further) if self._spec.inputs > 1 else ())
        part = None if self._box is None else _part(frame_of(volume), self._box)
        return prepare(volume, self._spec, part)


class Labelled(MapTransform):
    """Turns the logits of a scan into a label map on the scan's own grid.

    Args:
        classes: channels of one network, background counted.
        volume_weights: see ``SpecialistSpec``.
        keys: of the logits ``[members * classes, D, H, W]``.
    """

    def __init__(
        self, classes: int, volume_weights: Sequence[float] | None = None, keys: Sequence[str] = ("pred",)
    ) -> None:
        super().__init__(keys)
        self._classes = classes
        self._volume_weights = volume_weights

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same mapping with a label map ``[1, D, H, W]`` uint8 in the place of the logits."""
        found = dict(data)
        for key in self.key_iterator(found):
            kept = json.loads(found[FRAME])
            affine = torch.tensor(kept.pop("affine"), dtype=torch.float64)
            label = labels_of(torch.as_tensor(found[key]), _frame(kept), self._classes, self._volume_weights)
            source = found["image"].meta if isinstance(found.get("image"), MetaTensor) else {}
            name = {key: source[key] for key in ("filename_or_obj",) if key in source}
            found[key] = MetaTensor(torch.from_numpy(label)[None], affine=affine, meta=name)
        return found


def labels_of(logits: Tensor, frame: Frame, classes: int, volume_weights: Sequence[float] | None = None) -> np.ndarray:
    """Label map ``[D, H, W]`` uint8 on the scan's own grid.

    Args:
        logits: ``[members * classes, D, H, W]`` on the frame's grid.
        frame: of the scan.
        classes: see ``Labelled``.
        volume_weights: see ``SpecialistSpec``.
    """
    probabilities = logits.float().cpu().unflatten(0, (-1, classes)).softmax(dim=1).mean(dim=0)
    return np.ascontiguousarray(label_map(frame, probabilities, volume_weights))


def _frame(plain: Mapping[str, Any]) -> Frame:
    found = {name: tuple(value) for name, value in plain.items()}
    return Frame(**{**found, "box": tuple(tuple(pair) for pair in plain["box"])})


def _part(frame: Frame, box: Sequence[Sequence[int]]) -> Frame:
    """The part of a frame within a box that is given in voxels of the scan."""
    sides = []
    for axis, flipped, (low, high) in zip(frame.axes, frame.flips, frame.box, strict=True):
        first, last = (int(n) for n in box[axis])
        size = frame.source_shape[axis]
        first, last = (size - last, size - first) if flipped else (first, last)
        sides.append((max(first, low), min(last, high)))
    if any(last <= first for first, last in sides):
        raise ValueError("The box holds no voxel of the scan.")
    part = replace(frame, box=(sides[0], sides[1], sides[2]))
    return part.with_shape([last - first for first, last in sides])

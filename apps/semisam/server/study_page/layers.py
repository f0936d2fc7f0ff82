"""The slices of one scan, and of what lies over it: labels, the network's prediction, its uncertainty."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.cache import Recent, stamp_of
from lib.core.errors import UserError
from lib.formats.images import load
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.report.planes import Looked, contrast, look_at
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study

logger = logging.getLogger("semisam.page")

SCAN = "scan"
STORED = {"final": FINAL, "pseudo-label": ORIGINAL}
"""Layers that are stored labels, with their tags."""
MADE = {"prediction": "segment", "uncertainty": "uncertainty"}
"""Layers that are made when they are asked for, with the models that make them."""
_MOST_SCANS, _MOST_LAYERS = 2, 4
"""The one that is looked at and the next one; a large CT takes 300 MB."""
_LEAST, _LARGEST = -32768, 32767

Infer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Shown:
    """A scan in 16 bits, as browsers get it.

    Args:
        looked: the scan as it is looked at; its array is int16.
        slope: an intensity is ``slope * value + intercept``.
        intercept: see above.
        window: the intensities that are black and white at first.
        span: the lowest and the highest.
    """

    looked: Looked
    slope: float
    intercept: float
    window: tuple[float, float]
    span: tuple[float, float]


class Layers:
    """The last few scans that were looked at.

    Args:
        study: the study.
        infer: answers an infer request, as MONAI Label's app does.
    """

    def __init__(self, study: Study, infer: Infer) -> None:
        self._study = study
        self._infer = infer
        self._scans: Recent[Shown] = Recent(_MOST_SCANS)
        self._layers: Recent[np.ndarray] = Recent(_MOST_LAYERS)
        self._reading = threading.Lock()
        self._asking = threading.Lock()

    def scan(self, name: str) -> Shown:
        """A scan.

        Raises:
            UserError: when it cannot be read.
        """
        with self._reading:  # many slices are asked for at once: the scan is read for the first of them
            return self._scans.get((name, self._study.scan_stamp(name)), lambda: _shown(self._path(name)))

    def key(self, name: str, layer: str) -> str | None:
        """Changes when a layer does; None when there is nothing to show."""
        study = self._study
        if layer == SCAN:
            return repr(study.scan_stamp(name))
        if layer in STORED:
            stamp = study.label_stamp(name, STORED[layer])
            return None if stamp is None else repr((stamp, study.schema.names))
        if layer in MADE and study.published.is_file():
            return repr((study.scan_stamp(name), stamp_of(study.published)))
        return None

    def layer(self, name: str, layer: str) -> np.ndarray:
        """A layer ``[D, H, W]`` uint8 as the scan is looked at: values of structures, or uncertainty 0..255.

        Raises:
            UserError: (404) when there is none, or why it cannot be shown.
        """
        key = self.key(name, layer)
        if key is None:
            raise UserError(f"There is no {layer} of {name}.", status=404)
        shown = self.scan(name)
        with self._asking:
            return self._layers.get((name, layer, key), lambda: shown.looked.turned(self._made(name, layer)))

    def _made(self, name: str, layer: str) -> np.ndarray:
        if layer in STORED:
            return self._study.read_stored(name, STORED[layer], read_volume(self._path(name)))
        asked = {"model": MADE[layer], "image": name, "result_extension": ".nii.gz"}
        file = Path(self._infer(asked)["file"])
        try:
            if layer == "uncertainty":
                return np.asarray(load(file).array).astype(np.uint8)
            return read_label(file, read_volume(self._path(name)), self._study.schema, may_be_empty=True)
        finally:
            file.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return Path(self._study.datastore.get_image_uri(name))


def _shown(path: Path) -> Shown:
    """Read a scan and bring it to 16 bits: as it is where that will do, else scaled."""
    scan = read_volume(path)
    looked = look_at(scan)
    array = scan.array
    low, high = float(array.min()), float(array.max())
    window = contrast(looked.array)
    if low >= _LEAST and high <= _LARGEST and high - low > 200 and bool(np.array_equal(array, np.rint(array))):
        slope, intercept = 1.0, 0.0
        values = looked.array.astype(np.int16)
    else:
        slope = (high - low) / (_LARGEST - _LEAST)
        intercept = low - slope * _LEAST
        values = np.rint((looked.array - intercept) / slope).clip(_LEAST, _LARGEST).astype(np.int16)
    small = Looked(values, looked.axes, looked.flips, looked.spacing)
    return Shown(small, slope, intercept, window, (low, high))

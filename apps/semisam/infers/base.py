"""What the infer tasks share: reading the scan, and the reply as viewers need it."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import count_values
from lib.core.probabilities import as_bytes
from lib.formats.volumes import read_volume, write_label
from server.options import shown
from server.requests.infer_request import PROBABILITY, AskedScan, InferRequest, ResultFile
from server.store.study import Study

logger = logging.getLogger("semisam.infer")

Options = TypeVar("Options")


@dataclass(frozen=True, eq=False)
class Answer:
    """What a task found.

    Args:
        array: ``[D, H, W]`` uint8 on the scan's grid.
        params: what to say about it; plain types.
        warnings: sentences for the user about what may be wrong with it.
        probability: gives the probability of the structure with a value, ``[D, H, W]`` float32 in 0..1 on the scan's
            grid; None for what is no prediction.
    """

    array: np.ndarray
    params: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    probability: Callable[[int], np.ndarray] | None = None


class SegmentationTask(InferTask, Generic[Options]):
    """A task that answers with a label map on the scan's own grid.

    Args:
        study: the study.
        description: shown in viewers.
        config: options with their defaults; a list offers a choice.
        kind: in which part of the viewers the task is shown.
    """

    makes_labels = True
    """Whether the answer may be stored as a label."""
    gives_structures = True
    """Whether the answer's values are structures."""
    gives_probabilities = False
    """Whether the answer may be asked for as the probability of a structure."""

    def __init__(
        self,
        study: Study,
        description: str,
        config: Mapping[str, Any] | None = None,
        kind: InferType = InferType.SEGMENTATION,
    ) -> None:
        super().__init__(kind, None, 3, description, dict(config or {}))
        self.study = study

    def info(self) -> dict[str, Any]:
        """What viewers are told; the structures may change when the first final label is saved."""
        return {**super().info(), "labels": self.study.schema.as_dict()}

    def is_valid(self) -> bool:
        """Always listed: what is missing is said when it is asked for."""
        return True

    def ready(self) -> None:
        """Raise UserError when no scan at all could be answered for now."""

    def more_keys(self) -> Sequence[str]:
        """Keys that a request may have besides the options."""
        return ()

    def parse(self, raw: Mapping[str, Any]) -> Options:
        """Read the task's own options, once for all scans.

        Args:
            raw: a request with known keys only, see ``InferRequest.parse``.

        Raises:
            UserError: for what no scan could be answered with.
        """
        raise NotImplementedError

    def read(self, path: Path) -> Volume:
        """The asked scan."""
        return read_volume(path)

    @abstractmethod
    def answer(self, scan: Volume, asked: AskedScan, options: Options) -> Answer:
        """Do the work.

        Args:
            scan: the asked scan.
            asked: its id, None when it is none of the study, and where it lies.
            options: what ``parse`` has read.
        """

    def run(self, request: InferRequest, scan: AskedScan) -> tuple[str, dict[str, Any]]:
        """Answer a request; returns the written file and the reply's params."""
        times = [time.perf_counter()]
        volume = self.read(Path(scan.path))
        times.append(time.perf_counter())
        value = self._value(request.probability)
        answer = self.answer(volume, scan, request.options)
        array, about = answer.array, dict[str, Any]()
        if value and answer.probability is not None:
            array, about = _scaled(answer.probability(value), request)
        times.append(time.perf_counter())
        file = _write(array, volume.affine, request.file, scan.path)
        times.append(time.perf_counter())
        steps = dict(zip(("read", "infer", "write"), np.diff(times).round(3).tolist(), strict=True))
        warnings = [*volume.notes, *answer.warnings]
        for text in warnings:
            logger.warning("%s: %s", scan.name or os.path.basename(scan.path), text)
        return file, {
            "label_names": self.study.schema.as_dict(),
            **answer.params,
            **about,
            **({"warnings": warnings} if warnings else {}),
            "latencies": {**steps, "total": round(times[-1] - times[0], 3)},
        }

    def _value(self, probability: str | None) -> int:
        """The value of the structure whose probability is asked for; 0 when a label is."""
        if probability is None:
            return 0
        known = self.study.schema.as_dict()
        if not probability and len(known) == 1:
            return next(iter(known.values()))
        if probability not in known:
            what = shown(probability) if probability else "nothing"
            raise UserError(
                f"label: {what} is given, but the probability of one structure is asked for. Give one of "
                f"{', '.join(known)}."
            )
        return known[probability]

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer a request in MONAI Label's form: ``image`` is the path of the scan, ``image_id`` its id if any."""
        asked = InferRequest("", self.parse(request), file=ResultFile.parse(request))
        return self.run(asked, AskedScan(request.get("image_id"), str(request["image"])))

    def volumes(self, label: np.ndarray, scan: Volume) -> dict[str, float]:
        """Volume of each structure in ml."""
        counts = count_values(label)
        return {n: round(float(counts[v]) * scan.voxel_ml, 3) for n, v in self.study.schema.as_dict().items()}


def _scaled(probability: np.ndarray, request: InferRequest) -> tuple[np.ndarray, dict[str, Any]]:
    """A map of probabilities as the file is to hold it, and what the reply says about it."""
    if request.file.dtype == "uint8":
        return as_bytes(probability), {"output": PROBABILITY, "scale": "0 to 255"}
    return probability, {"output": PROBABILITY, "scale": "0 to 1"}


def _write(array: np.ndarray, affine: np.ndarray, wanted: ResultFile, scan: str) -> str:
    """Write ``[D, H, W]`` to a temporary file; whoever sends it removes it.

    By our own writer: the one MONAI Label uses takes a volume for a 2D image, or resamples it, where its axes are
    permuted, and writes NIfTI that 3D Slicer does not open.
    """
    handle, file = tempfile.mkstemp(suffix=wanted.extension_for(scan))
    os.close(handle)
    try:
        write_label(file, array, affine, wanted.dtype, compress=wanted.compress)
        os.chmod(file, 0o600)
    except BaseException:
        os.unlink(file)
        raise
    return file

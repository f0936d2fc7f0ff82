"""What the infer tasks share: reading the scan, and the reply as viewers need it."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import count_values
from lib.formats.volumes import read_volume, write_label
from server.options import is_true, shown
from server.store.study import Study

logger = logging.getLogger("semisam.infer")

_OWN_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".png")
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Answer:
    """What a task found.

    Args:
        array: ``[D, H, W]`` uint8 on the scan's grid.
        params: what to say about it; plain types.
        warnings: sentences for the user about what may be wrong with it.
    """

    array: np.ndarray
    params: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class SegmentationTask(InferTask):
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
        """See the base class; the structures may change when the first final label is saved."""
        return {**super().info(), "labels": self.study.schema.as_dict()}

    def is_valid(self) -> bool:
        """Always listed: what is missing is said when it is asked for."""
        return True

    def ready(self) -> None:
        """Raise UserError when no scan at all could be answered for now."""

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise UserError for options that no scan could be answered with."""
        _Wanted.parse({**request, "image": ""})

    def read(self, request: Mapping[str, Any]) -> Volume:
        """The asked scan."""
        return read_volume(request["image"])

    def more_keys(self) -> Sequence[str]:
        """Keys that a request may have besides the options."""
        return ()

    @abstractmethod
    def answer(self, scan: Volume, name: str | None, request: Mapping[str, Any]) -> Answer:
        """Do the work.

        Args:
            scan: the asked scan.
            name: its id, None when it is none of the study.
            request: the client's options.
        """

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Answer a request; returns the written file and the reply's params."""
        times = [time.perf_counter()]
        wanted = _Wanted.parse(request)
        scan = self.read(request)
        times.append(time.perf_counter())
        answer = self.answer(scan, request.get("image_id"), request)
        times.append(time.perf_counter())
        file = _write(answer.array, scan.affine, wanted)
        times.append(time.perf_counter())
        steps = dict(zip(("read", "infer", "write"), np.diff(times).round(3).tolist(), strict=True))
        warnings = [*scan.notes, *answer.warnings]
        for text in warnings:
            logger.warning("%s: %s", request.get("image_id") or os.path.basename(str(request["image"])), text)
        return file, {
            "label_names": self.study.schema.as_dict(),
            **answer.params,
            **({"warnings": warnings} if warnings else {}),
            "latencies": {**steps, "total": round(times[-1] - times[0], 3)},
        }

    def volumes(self, label: np.ndarray, scan: Volume) -> dict[str, float]:
        """Volume of each structure in ml."""
        counts = count_values(label)
        return {n: round(float(counts[v]) * scan.voxel_ml, 3) for n, v in self.study.schema.as_dict().items()}


@dataclass(frozen=True)
class _Wanted:
    """The client's wishes for the file."""

    extension: str
    dtype: str
    compress: bool

    @classmethod
    def parse(cls, request: Mapping[str, Any]) -> _Wanted:
        image = str(request["image"])
        own = next((e for e in _OWN_EXTENSIONS if image.lower().endswith(e)), ".nii.gz")
        extension = str(request.get("result_extension") or own)
        if extension not in _OWN_EXTENSIONS:
            raise UserError(
                f"result_extension: {shown(extension)} is not allowed. Allowed: {', '.join(_OWN_EXTENSIONS)}."
            )
        dtype = str(request.get("result_dtype") or "uint8")
        if dtype not in _DTYPES:
            raise UserError(f"result_dtype: {shown(dtype)} is not allowed. Allowed: {', '.join(_DTYPES)}.")
        return cls(extension, dtype, is_true(request.get("result_compress", True)))


def _write(array: np.ndarray, affine: np.ndarray, wanted: _Wanted) -> str:
    """Write ``[D, H, W]`` to a temporary file; whoever sends it removes it.

    By our own writer: the one MONAI Label uses takes a volume for a 2D image, or resamples it, where its axes are
    permuted, and writes NIfTI that 3D Slicer does not open.
    """
    handle, file = tempfile.mkstemp(suffix=wanted.extension)
    os.close(handle)
    try:
        write_label(file, array, affine, wanted.dtype, compress=wanted.compress)
        os.chmod(file, 0o600)
    except BaseException:
        os.unlink(file)
        raise
    return file

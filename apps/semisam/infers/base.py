"""What the infer tasks share: reading the scan, and the reply as viewers need it."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.transform.writer import Writer

from adapters.options import is_true
from adapters.study import Study
from lib.errors import UserError
from lib.volumes import Volume, read_volume

_OWN_EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Answer:
    """What a task found.

    Args:
        array: ``[D, H, W]`` uint8 on the scan's grid.
        params: what to say about it; plain types.
    """

    array: np.ndarray
    params: Mapping[str, Any] = field(default_factory=dict)


class SegmentationTask(InferTask):
    """A task that answers with a label map on the scan's own grid.

    Args:
        study: the study.
        description: shown in viewers.
        config: options with their defaults; a list offers a choice.
    """

    makes_labels = True
    """Whether the answer may be stored as a label."""

    def __init__(self, study: Study, description: str, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(InferType.SEGMENTATION, None, 3, description, dict(config or {}))
        self.study = study

    def info(self) -> dict[str, Any]:
        """See the base class; the structures may change when the first final label is saved."""
        return {**super().info(), "labels": self.study.schema.as_dict()}

    def is_valid(self) -> bool:
        """Always listed: what is missing is said when it is asked for."""
        return True

    def ready(self) -> None:
        """Raise UserError when no scan at all could be answered for now."""

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
        writer_data = _writer_data(request)
        scan = read_volume(request["image"])
        times.append(time.perf_counter())
        answer = self.answer(scan, request.get("image_id"), request)
        times.append(time.perf_counter())
        writer_data.update(pred=answer.array, pred_meta_dict={"affine": scan.affine})
        file, _ = Writer(label="pred", json="result", nibabel=True)(writer_data)
        times.append(time.perf_counter())
        steps = dict(zip(("read", "infer", "write"), np.diff(times).round(3).tolist(), strict=True))
        return file, {
            "label_names": self.study.schema.as_dict(),
            **answer.params,
            "latencies": {**steps, "total": round(times[-1] - times[0], 3)},
        }

    def volumes(self, label: np.ndarray, scan: Volume) -> dict[str, float]:
        """Volume of each structure in ml."""
        counts = np.bincount(label.ravel(), minlength=self.study.schema.channels)
        return {n: round(float(counts[v]) * scan.voxel_ml, 3) for n, v in self.study.schema.as_dict().items()}


def _writer_data(request: Mapping[str, Any]) -> dict[str, Any]:
    """The client's wishes for the file, with our defaults."""
    image = str(request["image"])
    own = next((e for e in _OWN_EXTENSIONS if image.lower().endswith(e)), ".nii.gz")
    extension = str(request.get("result_extension") or own)
    if extension not in _OWN_EXTENSIONS:
        raise UserError(f"result_extension: {extension!r} is not allowed. Allowed: {', '.join(_OWN_EXTENSIONS)}.")
    dtype = str(request.get("result_dtype") or "uint8")
    if dtype not in _DTYPES:
        raise UserError(f"result_dtype: {dtype!r} is not allowed. Allowed: {', '.join(_DTYPES)}.")
    level = str(request.get("logging") or "INFO").upper()
    return {
        "image_path": image,
        "result_extension": extension,
        "result_dtype": dtype,
        "result_compress": is_true(request.get("result_compress", True)),
        "logging": level if level in ("DEBUG", "INFO", "WARNING", "ERROR") else "INFO",
    }

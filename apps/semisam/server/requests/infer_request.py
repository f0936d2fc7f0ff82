"""One infer request, read and checked once, before anything is done for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lib.core.errors import UserError
from server.options import INFER, check_keys, check_name, is_true, shown
from server.store.folder_store import FINAL, ORIGINAL, plain_name

OUTPUT = "output"
DICOM_SEG = "dicom_seg"
"""Value of the option ``output`` that asks for a DICOM SEG."""
PROBABILITY = "probability"
"""Value of the option ``output`` that asks for the probability of one structure, voxel by voxel."""

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".png")
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
_MAP_DTYPES = ("float32", "uint8")


@dataclass(frozen=True)
class ResultFile:
    """The form of the file that is sent back.

    Args:
        extension: of its name; None for that of the scan, where it can be written.
        dtype: of its voxels.
        compress: whether it is compressed.
    """

    extension: str | None = None
    dtype: str = "uint8"
    compress: bool = True

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> ResultFile:
        """Read ``result_extension``, ``result_dtype`` and ``result_compress``.

        Raises:
            UserError: for a form that is not written.
        """
        extension = str(raw["result_extension"]) if raw.get("result_extension") else None
        if extension is not None and extension not in EXTENSIONS:
            raise UserError(f"result_extension: {shown(extension)} is not allowed. Allowed: {', '.join(EXTENSIONS)}.")
        dtype = str(raw.get("result_dtype") or "uint8")
        if dtype not in _DTYPES:
            raise UserError(f"result_dtype: {shown(dtype)} is not allowed. Allowed: {', '.join(_DTYPES)}.")
        return cls(extension, dtype, is_true(raw.get("result_compress", True)))

    def extension_for(self, scan: str) -> str:
        """The extension of the answer about a scan at this path."""
        return self.extension or next((e for e in EXTENSIONS if scan.lower().endswith(e)), ".nii.gz")


@dataclass(frozen=True)
class AskedScan:
    """The scan of a request.

    Args:
        name: its id, None when it is none of the study.
        path: its file or folder.
    """

    name: str | None
    path: str


class Task(Protocol):
    """What a request needs to know of an infer task."""

    description: str
    makes_labels: bool
    gives_structures: bool
    gives_probabilities: bool

    def config(self) -> dict[str, Any]:
        """The task's options with their defaults."""

    def more_keys(self) -> Sequence[str]:
        """Keys that a request may have besides the options."""

    def parse(self, raw: Mapping[str, Any]) -> Any:
        """The task's own options, read and checked."""

    def ready(self) -> None:
        """Raise UserError when no scan at all could be answered for now."""

    def run(self, request: InferRequest, scan: AskedScan) -> tuple[str, dict[str, Any]]:
        """Do the work; returns the written file and what to say about it."""


@dataclass(frozen=True)
class InferRequest:
    """What a client asks for.

    Args:
        model: name of the task.
        options: the task's own options, as its ``parse`` has read them.
        image: what the client calls the scan, not looked for yet.
        file: the form of the file that is sent back.
        save_as: the tag under which the answer is stored as a label; None when it is only sent back.
        dicom_seg: whether the answer is sent as DICOM SEG.
        probability: name of the structure whose probability is sent, "" for the only one; None for a label.
        label_info: colours of the structures, as the viewer has sent them, not checked.
    """

    model: str
    options: Any
    image: object = None
    file: ResultFile = ResultFile()
    save_as: str | None = None
    dicom_seg: bool = False
    probability: str | None = None
    label_info: object = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any], tasks: Mapping[str, Task]) -> InferRequest:
        """Read a request.

        Args:
            raw: as it has come from a client.
            tasks: all infer tasks by name.

        Raises:
            UserError: (404) for an unknown model, (400) for an unknown option or a bad value, (409) for a request to
                write what people write.
        """
        model = check_name(raw.get("model"), tasks, "model")
        task = tasks[model]
        check_keys(raw, [*task.config(), *task.more_keys()], INFER, f"Model {model!r}")
        if raw.get("label_prompt") == []:
            # OHIF would draw the answer with the structures' names mixed up.
            raise UserError("No structure is ticked. Tick at least one in the list, or use Auto-Segmentation.")
        save_as = _tag(raw, model, task) if is_true(raw.get("save_label")) else None
        dicom_seg = raw.get(OUTPUT) == DICOM_SEG
        probability = raw.get(OUTPUT) == PROBABILITY
        if probability:
            _check_probability(raw, model, task, tasks)
        return cls(
            model=model,
            options=task.parse(raw),
            image=raw.get("image"),
            file=ResultFile(".nii.gz") if dicom_seg else _map_file(raw) if probability else ResultFile.parse(raw),
            save_as=save_as,
            dicom_seg=dicom_seg,
            probability=str(raw.get("label") or "") if probability else None,
            label_info=raw.get("label_info"),
        )


def _check_probability(raw: Mapping[str, Any], model: str, task: Task, tasks: Mapping[str, Task]) -> None:
    """Raise UserError for a map of probabilities that this task has not, or that is to be stored as a label."""
    if not task.gives_probabilities:
        able = " or ".join(name for name, each in tasks.items() if each.gives_probabilities)
        raise UserError(f"{OUTPUT}={PROBABILITY}: model {model!r} gives no probabilities. Ask {able}.")
    if is_true(raw.get("save_label")):
        raise UserError(f"{OUTPUT}={PROBABILITY}: a map of probabilities is no label that could be saved.")


def _map_file(raw: Mapping[str, Any]) -> ResultFile:
    """The form of a map of probabilities: NIfTI of type float32 unless the client wants another one."""
    file = ResultFile.parse({"result_dtype": "float32", "result_extension": ".nii.gz"} | dict(raw))
    if file.dtype not in _MAP_DTYPES:
        raise UserError(
            f"{OUTPUT}={PROBABILITY}: result_dtype {file.dtype} is not allowed. Give float32 (0 to 1) or uint8 (0 to "
            "255)."
        )
    return file


def _tag(raw: Mapping[str, Any], model: str, task: Task) -> str:
    """The tag under which the answer is to be stored."""
    tag = plain_name(raw.get("label_tag") or ORIGINAL, "tag")
    if tag == FINAL:
        raise UserError(
            "Labels with the tag 'final' are saved by people only. Save the result as 'original', review it, and "
            "submit it from the viewer.",
            status=409,
        )
    if not task.makes_labels:
        raise UserError(f"Model {model!r} makes no label that could be saved.")
    return tag

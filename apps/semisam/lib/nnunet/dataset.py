"""A data set in nnU-Net's layout.

::

    raw/Dataset001_semisam/dataset.json
                           imagesTr/<case>_0000.nii.gz
                           labelsTr/<case>.nii.gz
    preprocessed/Dataset001_semisam/splits_final.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.core.files import write_whole
from lib.core.frames import Frame
from lib.formats.volumes import write_label

DATASET = "Dataset001_semisam"
DATASET_ID = 1
ENDING = ".nii.gz"


def write_case(folder: Path, case: str, array: np.ndarray, label: np.ndarray, frame: Frame) -> None:
    """Write a scan and its label: canonical axes, the scan's own resolution, constant padding cut away.

    nnU-Net takes arrays as they are stored, whatever their orientation: the turning is ours.

    Args:
        folder: that holds ``raw``.
        case: identifier, without odd characters.
        array: the scan ``[D, H, W]`` on its own grid.
        label: classes ``[D, H, W]`` uint8 on the same grid.
        frame: ``frame_of`` the scan.
    """
    import nibabel

    affine = np.diag([*frame.voxel, 1.0])
    base = folder / "raw" / DATASET
    image = nibabel.Nifti1Image(np.ascontiguousarray(frame.crop(array), dtype=np.float32), affine)
    for name in ("imagesTr", "labelsTr"):
        (base / name).mkdir(parents=True, exist_ok=True)
    write_whole(base / "imagesTr" / f"{case}_0000{ENDING}", lambda temporary: nibabel.save(image, temporary))
    write_label(base / "labelsTr" / f"{case}{ENDING}", np.ascontiguousarray(frame.crop(label)), affine)


def write_dataset(
    folder: Path, label_names: Sequence[str], cases: int, folds: Sequence[tuple[Sequence[str], Sequence[str]]]
) -> None:
    """Write what nnU-Net has to know about the cases.

    Args:
        folder: that holds ``raw`` and ``preprocessed``.
        label_names: the structures 1..N.
        cases: number of cases written.
        folds: for each fold the cases to train on, and those that it leaves out. nnU-Net looks at the latter to draw a
            curve, and cannot do without any.
    """
    described = {
        # Neither 'CT', whose intensities nnU-Net would clip to those seen in the structures, nor 'noNorm'.
        "channel_names": {"0": "image"},
        "labels": {"background": 0, **{name: n for n, name in enumerate(label_names, 1)}},
        "numTraining": cases,
        "file_ending": ENDING,
        "overwrite_image_reader_writer": "NibabelIO",
    }
    splits = [{"train": list(train), "val": list(left_out)} for train, left_out in folds]
    _write_json(folder / "raw" / DATASET / "dataset.json", described)
    _write_json(folder / "preprocessed" / DATASET / "splits_final.json", splits)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: Path(temporary).write_text(json.dumps(content, indent=1), encoding="utf-8"))

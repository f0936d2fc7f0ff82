"""A data set in nnU-Net's layout.

::

    raw/Dataset001_semisam/dataset.json
                           imagesTr/<case>_0000.nii.gz
                           labelsTr/<case>.nii.gz
    preprocessed/Dataset001_semisam/splits_final.json

``write_pair`` and ``described`` make one anywhere; ``write_case`` and ``write_dataset`` make that of a training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.frames import Frame
from lib.formats.volumes import write_label

DATASET = "Dataset001_semisam"
DATASET_ID = 1
ENDING = ".nii.gz"
IGNORE = "ignore"
"""Name of the label of voxels that nobody has looked at; nnU-Net knows it by this name."""
BACKGROUND = "background"


def image_file(case: str, channel: int = 0) -> str:
    """Name of the file of a case's scan."""
    return f"{case}_{channel:04d}{ENDING}"


def label_file(case: str) -> str:
    """Name of the file of a case's label."""
    return f"{case}{ENDING}"


def write_pair(
    base: Path, case: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray, further: Sequence[np.ndarray] = ()
) -> None:
    """Write a scan and its label, each whole or not at all.

    Args:
        base: folder of the data set.
        case: identifier, without odd characters.
        image: the scan ``[D, H, W]``, of the type that the file is to have.
        label: classes ``[D, H, W]`` uint8 on the same grid.
        affine: ``[4, 4]`` of both, RAS.
        further: the other channels of the scan, like ``image``.
    """
    for name in ("imagesTr", "labelsTr"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for number, channel in enumerate((image, *further)):
        file = base / "imagesTr" / image_file(case, number)
        write_label(file, np.ascontiguousarray(channel), affine, channel.dtype.type)
    write_label(base / "labelsTr" / label_file(case), np.ascontiguousarray(label), affine)


def described(label_names: Sequence[str], cases: int, *channels: str, ignore: bool = False) -> dict[str, object]:
    """The content of ``dataset.json``.

    Args:
        label_names: the structures 1..N.
        cases: number of cases.
        channels: names of the channels; ``image`` if none is given. ``CT`` lets nnU-Net clip intensities to those seen
            in the structures, ``noNorm`` leave them as they are; with any other name each scan is normalised by itself.
        ignore: whether the value N + 1 marks voxels that are not annotated.

    Raises:
        UserError: (409) when a structure has a name that nnU-Net uses for something else.
    """
    taken = [name for name in label_names if name.lower() in (BACKGROUND, IGNORE)]
    if taken:
        raise UserError(
            f"nnU-Net uses the name {taken[0]!r} for something else than a structure. Rename the structure.", status=409
        )
    labels = {BACKGROUND: 0, **{name: n for n, name in enumerate(label_names, 1)}}
    return {
        "channel_names": {str(n): name for n, name in enumerate(channels or ("image",))},
        "labels": labels | ({IGNORE: len(labels)} if ignore else {}),
        "numTraining": cases,
        "file_ending": ENDING,
    }


def write_description(base: Path, content: Mapping[str, object]) -> None:
    """Write ``dataset.json``."""
    _write_json(base / "dataset.json", content)


def write_case(folder: Path, case: str, channels: Sequence[np.ndarray], label: np.ndarray, frame: Frame) -> None:
    """Write a scan and its label: canonical axes, the scan's own resolution, constant padding cut away.

    nnU-Net takes arrays as they are stored, whatever their orientation: the turning is ours.

    Args:
        folder: that holds ``raw``.
        case: identifier, without odd characters.
        channels: of the scan, each ``[D, H, W]`` on its own grid.
        label: classes ``[D, H, W]`` uint8 on the same grid.
        frame: ``frame_of`` the scan.
    """
    affine = np.diag([*frame.voxel, 1.0])
    image, *further = (np.ascontiguousarray(frame.crop(each), dtype=np.float32) for each in channels)
    write_pair(folder / "raw" / DATASET, case, image, frame.crop(label), affine, further)


def write_dataset(
    folder: Path,
    label_names: Sequence[str],
    cases: int,
    folds: Sequence[tuple[Sequence[str], Sequence[str]]],
    channels: int = 1,
) -> None:
    """Write what nnU-Net has to know about the cases.

    Args:
        folder: that holds ``raw`` and ``preprocessed``.
        label_names: the structures 1..N.
        cases: number of cases written.
        folds: for each fold the cases to train on, and those that it leaves out. nnU-Net looks at the latter to draw a
            curve, and cannot do without any.
        channels: of each scan.
    """
    # Neither 'CT', whose intensities nnU-Net would clip to those seen in the structures, nor 'noNorm'.
    names = [f"image {number}" for number in range(1, channels + 1)] if channels > 1 else []
    content = described(label_names, cases, *names) | {"overwrite_image_reader_writer": "NibabelIO"}
    splits = [{"train": list(train), "val": list(left_out)} for train, left_out in folds]
    write_description(folder / "raw" / DATASET, content)
    _write_json(folder / "preprocessed" / DATASET / "splits_final.json", splits)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: Path(temporary).write_text(json.dumps(content, indent=1), encoding="utf-8"))

"""An export as a raw data set of nnU-Net v2 (its documentation, ``dataset_format.md``, ``ignore_label.md``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lib.core.errors import UserError
from lib.formats.voxel_types import exact_type
from lib.nnunet.dataset import described, image_file, label_file, write_description, write_pair

from .labelled import LabelledScan, is_annotated
from .names import file_names
from .voxels import upright

_FOLDER = re.compile(r"Dataset\d{3}_[A-Za-z0-9_-]+")


class NnunetDataset:
    """Scans and labels as nnU-Net wants them: turned to right, anterior, superior, on their own voxels.

    Where only three slices are outlined, all other voxels get nnU-Net's ignore label: it learns nothing from them.

    Args:
        scans: names of all scans of the study.
        structures: their names, in the order of their values.
        channels: see ``lib.nnunet.dataset.described``.
    """

    name = "nnunet"
    table = "labels.csv"

    def __init__(self, scans: Sequence[str], structures: Sequence[str], *channels: str) -> None:
        self._files = file_names(scans)
        self._channels = channels
        self.structures = tuple(structures)
        # The channel is told by dataset.json alone.
        self.stamp: Mapping[str, object] = {"format": self.name, "structures": list(structures)}

    def check_folder(self, folder: Path) -> None:
        """Raise UserError unless the folder has a name that nnU-Net knows, and the structures have, too."""
        described(self.structures, 0, *self._channels)
        if not _FOLDER.fullmatch(folder.name):
            raise UserError(
                f"nnU-Net does not know a folder named {folder.name!r} as a data set: its name must be Dataset, three "
                "digits, _ and a name. Export to .../Dataset501_Liver, for example."
            )

    def file_of(self, scan: str) -> str:
        """The case identifier of a scan."""
        return self._files[scan]

    def files(self, case: LabelledScan) -> list[str]:
        """Scan and label."""
        name = self.file_of(case.name)
        images = [f"imagesTr/{image_file(name, number)}" for number in range(len(case.scan.further) + 1)]
        return [*images, f"labelsTr/{label_file(name)}"]

    def write(self, folder: Path, case: LabelledScan) -> None:
        """Write scan and label."""
        label, annotated = case.label, is_annotated(case)
        if annotated is not None:
            label = np.where(annotated, label, len(self.structures) + 1).astype(np.uint8)
        first, *further = (
            upright(each.astype(exact_type(each), copy=False), case.scan.affine)
            for each in (case.scan.array, *case.scan.further)
        )
        label = upright(label, case.scan.affine)[0]
        write_pair(folder, self.file_of(case.name), first[0], label, first[1], [each[0] for each in further])

    def finish(self, folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
        """Write ``dataset.json``; nnU-Net passes over what it does not know in it."""
        sparse = any(row["annotated"] == "planes" for row in rows)
        content = described(self.structures, len(rows), *self._channels, ignore=sparse)
        guessed = [_case(row) for row in rows if row["label"] != "final"]
        write_description(folder, {"name": folder.name, **content, "pseudo_labels": guessed})


def _case(row: Mapping[str, object]) -> str:
    return Path(str(row["file"])).name[: -len(label_file(""))]

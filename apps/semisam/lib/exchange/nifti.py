"""An export as NIfTI files with a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.core.json_files import write_json
from lib.formats.volumes import write_label
from lib.formats.voxel_types import exact_type

from .labelled import LabelledScan
from .names import file_names


class NiftiFiles:
    """Labels on their scans' own grids: ``labels/NAME.nii.gz``, the values by name in ``structures.json``.

    Args:
        scans: names of all scans of the study.
        structures: their names, in the order of their values.
        with_scans: write ``scans/NAME.nii.gz``, too.
    """

    name = "nifti"
    table = "labels.csv"

    def __init__(self, scans: Sequence[str], structures: Sequence[str], *, with_scans: bool) -> None:
        self._files, self._with_scans = file_names(scans), with_scans
        self.structures = tuple(structures)
        self.stamp: Mapping[str, object] = {
            "format": self.name,
            "structures": list(structures),
            "with_scans": with_scans,
        }

    def check_folder(self, folder: Path) -> None:
        """Any folder will do."""

    def file_of(self, scan: str) -> str:
        """Its file's name without suffix."""
        return self._files[scan]

    def files(self, case: LabelledScan) -> list[str]:
        """The scan if it is wanted, and the label."""
        file = f"{self.file_of(case.name)}.nii.gz"
        return [f"scans/{file}"] * self._with_scans + [f"labels/{file}"]

    def write(self, folder: Path, case: LabelledScan) -> None:
        """Write the scan if it is wanted, and the label."""
        *scans, label = self.files(case)
        for file in scans:
            image = case.scan.array.astype(exact_type(case.scan.array), copy=False)
            write_label(folder / file, image, case.scan.affine, image.dtype.type)
        write_label(folder / label, case.label, case.scan.affine)

    def finish(self, folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
        """Write which value is which structure."""
        values = {"background": 0, **{name: n for n, name in enumerate(self.structures, 1)}}
        write_json(folder / "structures.json", values)

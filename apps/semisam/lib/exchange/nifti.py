"""An export as NIfTI files with a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.core.json_files import write_json
from lib.core.probabilities import as_bytes
from lib.formats.volumes import write_label, write_scan

from .labelled import LabelledScan
from .names import file_names


class NiftiFiles:
    """Labels on their scans' own grids: ``labels/NAME.nii.gz``, the values by name in ``structures.json``.

    Where probabilities are wanted, ``probabilities/NAME/STRUCTURE.nii.gz`` has them, from 0 to 255.

    Args:
        scans: names of all scans of the study.
        structures: their names, in the order of their values.
        with_scans: write ``scans/NAME.nii.gz``, too, with all channels along the fourth axis where there are several.
        channels: how many channels the scans have.
    """

    name = "nifti"
    table = "labels.csv"

    def __init__(self, scans: Sequence[str], structures: Sequence[str], *, with_scans: bool, channels: int = 1) -> None:
        self._files, self._with_scans = file_names(scans), with_scans
        self.structures = tuple(structures)
        self.stamp: Mapping[str, object] = {
            "format": self.name,
            "structures": list(structures),
            "with_scans": with_scans,
            # Earlier versions wrote the first channel alone: their files are written again.
            **({"channels": channels} if with_scans and channels > 1 else {}),
        }

    def check_folder(self, folder: Path) -> None:
        """Any folder will do."""

    def file_of(self, scan: str) -> str:
        """Its file's name without suffix."""
        return self._files[scan]

    def files(self, case: LabelledScan) -> list[str]:
        """The scan and the probabilities if they are wanted, and the label."""
        name = self.file_of(case.name)
        maps = [] if case.probabilities is None else list(file_names(self.structures).values())
        return [
            *([f"scans/{name}.nii.gz"] * self._with_scans),
            *(f"probabilities/{name}/{each}.nii.gz" for each in maps),
            f"labels/{name}.nii.gz",
        ]

    def write(self, folder: Path, case: LabelledScan) -> None:
        """Write the scan and the probabilities if they are wanted, and the label."""
        *others, label = self.files(case)
        if self._with_scans:
            write_scan(folder / others.pop(0), case.scan)
        for file, probability in zip(others, case.probabilities() if case.probabilities else (), strict=True):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_label(folder / file, as_bytes(probability), case.scan.affine)
        write_label(folder / label, case.label, case.scan.affine)

    def finish(self, folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
        """Write which value is which structure."""
        values = {"background": 0, **{name: n for n, name in enumerate(self.structures, 1)}}
        write_json(folder / "structures.json", values)

"""The formats of an export, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lib.core.errors import UserError

from .bids import BidsDerivatives
from .dicom import DicomObjects
from .labelled import LabelledScan
from .nifti import NiftiFiles
from .nnunet import NnunetDataset


@dataclass(frozen=True)
class ExportOptions:
    """What is the same for all cases of an export.

    Args:
        scans: names of all scans of the study, see ``names.file_names``.
        structures: names of the study's structures, in the order of their values.
        with_scans: whether the scans are written, too, where a format does not need them.
        channels: names of the scans' channels, as nnU-Net is to call them.
    """

    scans: tuple[str, ...]
    structures: tuple[str, ...]
    with_scans: bool = False
    channels: tuple[str, ...] = ("image",)


class ExportFormat(Protocol):
    """How labels are written.

    Attributes:
        name: of the format.
        table: name of the table that lists all cases.
        structures: names of the study's structures.
        stamp: plain facts besides those of a case, with which its files change.
    """

    name: str
    table: str
    structures: tuple[str, ...]
    stamp: Mapping[str, object]

    def check_folder(self, folder: Path) -> None:
        """Raise UserError when a folder cannot hold this format, or this format not the study's structures."""

    def file_of(self, scan: str) -> str:
        """What a scan is called in this export: without odd characters, another one for each scan."""

    def files(self, case: LabelledScan) -> list[str]:
        """The files of a case from the folder, its label last.

        Raises:
            UserError: (422) when this format cannot hold it.
        """

    def write(self, folder: Path, case: LabelledScan) -> None:
        """Write the files of a case.

        Raises:
            UserError: (422) when this format cannot hold it.
        """

    def finish(self, folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
        """Write what describes all cases, see ``table.row_of``."""


FORMATS: Mapping[str, Callable[[ExportOptions], ExportFormat]] = {
    "nnunet": lambda o: NnunetDataset(o.scans, o.structures, *o.channels),
    "bids": lambda o: BidsDerivatives(o.scans, o.structures),
    "rtstruct": lambda o: DicomObjects("rtstruct", o.scans, o.structures),
    "seg": lambda o: DicomObjects("seg", o.scans, o.structures),
    "nifti": lambda o: NiftiFiles(o.scans, o.structures, with_scans=o.with_scans, channels=len(o.channels)),
}


def export_format(name: str, options: ExportOptions) -> ExportFormat:
    """The format of this name.

    Raises:
        UserError: when there is none.
    """
    if name not in FORMATS:
        raise UserError(f"There is no format {name!r}. Allowed: {', '.join(FORMATS)}.")
    return FORMATS[name](options)

"""An export as DICOM: one SEG or RTSTRUCT for each scan that is DICOM."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.dicom_seg import write_seg
from lib.dicom_seg.moments import zone_in

from .labelled import LabelledScan
from .names import file_names
from .rtstruct import write_rtstruct

_MOMENTS = ("InstanceCreation", "Content", "Series", "StructureSet")


class DicomObjects:
    """One object a scan: ``NAME.dcm``.

    The same label gives the same object, with the same UIDs: sent twice, a PACS keeps it once.

    Args:
        kind: of the objects.
        scans: names of all scans of the study.
        structures: their names, in the order of their values.
    """

    table = "labels.csv"

    def __init__(self, kind: Literal["seg", "rtstruct"], scans: Sequence[str], structures: Sequence[str]) -> None:
        self.name: str = kind
        self._files = file_names(scans)
        self.structures = tuple(structures)
        self.stamp: Mapping[str, object] = {"format": kind, "structures": list(structures)}

    def check_folder(self, folder: Path) -> None:
        """Any folder will do."""

    def file_of(self, scan: str) -> str:
        """Its file's name without suffix."""
        return self._files[scan]

    def files(self, case: LabelledScan) -> list[str]:
        """The object.

        Raises:
            UserError: (422) when the scan is no DICOM, or nothing is outlined.
        """
        what = self.name.upper()
        if case.series is None:
            raise UserError(f"The scan is no DICOM, so that no {what} can refer to it. Export it as nifti.", status=422)
        if not case.label.any():
            raise UserError(f"Nothing is outlined, and a {what} needs at least one structure.", status=422)
        return [f"{self.file_of(case.name)}.dcm"]

    def write(self, folder: Path, case: LabelledScan) -> None:
        """Write the object.

        Raises:
            UserError: (422) when the series cannot carry it.
        """
        assert case.series is not None
        make = write_seg if self.name == "seg" else write_rtstruct
        dataset = make(case.label, case.scan.affine, case.series, case.structures, case.origin)
        self._settle(dataset, case)
        (file,) = self.files(case)
        write_whole(folder / file, lambda name: dataset.save_as(name, write_like_original=False))

    def finish(self, folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
        """Nothing but the table describes the whole."""

    def _settle(self, dataset: pydicom.Dataset, case: LabelledScan) -> None:
        """Let UIDs and times follow from the label, not from the moment of the export."""
        names = [each.name for each in case.structures]
        facts = repr((self.name, names, case.origin, case.saved, case.label.shape)).encode()
        content = hashlib.sha256(facts + np.ascontiguousarray(case.label).tobytes()).hexdigest()
        for name in ("SOPInstanceUID", "SeriesInstanceUID"):
            text = f"semisam export {dataset.StudyInstanceUID} {case.name} {name} {content}"
            setattr(dataset, name, f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dimensions = dataset.get("DimensionOrganizationSequence") or []
        for each in (*dimensions, *(dataset.get("DimensionIndexSequence") or [])):
            each.DimensionOrganizationUID = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'dimensions {content}').int}"
        saved = datetime.fromtimestamp(case.saved, timezone.utc).astimezone(zone_in(dataset))
        for what in _MOMENTS if case.saved else ():
            if f"{what}Date" in dataset:
                setattr(dataset, f"{what}Date", saved.strftime("%Y%m%d"))
                setattr(dataset, f"{what}Time", saved.strftime("%H%M%S.%f"))

"""A note that a DICOM SEG no longer counts: a Key Object Selection (DICOM PS3.3, A.35.4; PS3.16, TID 2010).

DICOMweb has no deletion that every server knows. What a server is not to show any more is *rejected* by such a note
instead, as IHE's Imaging Object Change Management (RAD TF-2, 4.66) has it.
"""

from __future__ import annotations

import uuid

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from .moments import stamp, zone_in
from .objects import code, made_object, of

_TITLE = ("113001", "DCM", "Rejected for Quality Reasons")
_DESCRIPTION = ("113012", "DCM", "Key Object Description")


def rejection_series(seg: str) -> str:
    """UID of the series of the note about a SEG: it follows from the SEG's own, so a list of series tells the rest.

    Args:
        seg: SOP instance UID of the SEG.
    """
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'semisam rejection {seg}').int}"


def write_rejection(seg: Dataset, why: str) -> pydicom.Dataset:
    """Make a note that a SEG no longer counts.

    Args:
        seg: the SEG, or its header.
        why: a sentence for whoever reads the note.
    """
    note = made_object(seg, KeyObjectSelectionDocumentStorage, ExplicitVRLittleEndian)
    note.Modality, note.SeriesNumber, note.SeriesDescription = "KO", 302, "semisam: label taken back"
    note.SeriesInstanceUID = rejection_series(str(seg.SOPInstanceUID))
    note.ReferencedPerformedProcedureStepSequence = []
    reference = of(ReferencedSOPClassUID=seg.SOPClassUID, ReferencedSOPInstanceUID=seg.SOPInstanceUID)
    series = of(SeriesInstanceUID=seg.SeriesInstanceUID, ReferencedSOPSequence=[reference])
    note.CurrentRequestedProcedureEvidenceSequence = [
        of(StudyInstanceUID=seg.StudyInstanceUID, ReferencedSeriesSequence=[series])
    ]
    note.ValueType, note.ContinuityOfContent = "CONTAINER", "SEPARATE"
    note.ConceptNameCodeSequence = [code(*_TITLE)]
    note.ContentTemplateSequence = [of(MappingResource="DCMR", TemplateIdentifier="2010")]
    text = of(RelationshipType="CONTAINS", ValueType="TEXT", ConceptNameCodeSequence=[code(*_DESCRIPTION)])
    text.TextValue = why
    image = of(RelationshipType="CONTAINS", ValueType="IMAGE", ReferencedSOPSequence=[reference])
    note.ContentSequence = [text, image]
    if not why.isascii():
        note.decode()
        note.SpecificCharacterSet = "ISO_IR 192"
    stamp(note, zone_in(seg))
    return note

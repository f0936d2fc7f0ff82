"""Labels are sent to a DICOMweb server as SEG objects, and fetched from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.dicom_seg import SegHeader, write_rejection

from .label_facts import DicomLabelFacts, StoredSeg
from .labels import Source, label_of, origin_of, pseudo_series, seg_of
from .lists import Seg
from .server import DicomWebServer


class SegExchange:
    """Sends label files as SEG, and fetches SEG as labels.

    Args:
        server: the server.
        schema: the structures if they are set.
    """

    def __init__(self, server: DicomWebServer, schema: LabelSchema | None) -> None:
        self._server = server
        self._schema = schema

    def send(
        self, scan_id: str, file: str, source: Source, label: DicomLabelFacts, *, person: bool, again: bool = False
    ) -> tuple[DicomLabelFacts, np.ndarray]:
        """Store a label on the server.

        Args:
            scan_id: UID of the scan's series.
            file: the label.
            source: the scan.
            label: what is known about it.
            person: whether it is a person's label.
            again: whether it may have got there before, so that it is looked for first.

        Returns:
            What is known of it on the server, and the label as whoever fetches it finds it.

        Raises:
            UserError: (422) when no SEG can be made of it, (502) when the server does not take it.
        """
        series = None if person else pseudo_series(scan_id)
        info = label.to_info()
        seg = seg_of(file, source, info, origin_of(info, person=person, series=series), self._schema)
        if label.send_as:
            seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = label.send_as
        header = SegHeader.of(seg)
        known = self._server.find_seg(str(seg.StudyInstanceUID), str(series), header.uid) if again and series else None
        if known is None:
            self._server.store(seg)
        stored = Seg(str(seg.StudyInstanceUID), str(seg.SeriesInstanceUID), known or header).facts()
        assert stored.seg is not None
        stored = replace(stored, seg=replace(stored.seg, sent=stored.saved))
        return stored, label_of(seg, source.scan, self._schema)

    def reject(self, stored: StoredSeg, why: str) -> None:
        """Store a note beside a SEG that it no longer counts.

        Args:
            stored: the SEG.
            why: a sentence for whoever reads the note.

        Raises:
            UserError: (502) when the server does not do its part.
        """
        seg = self._server.fetch_seg(stored.dicom_study, stored.series, stored.uid)
        self._server.store_note(write_rejection(seg, why))

    def fetch(self, stored: StoredSeg, scan: Volume) -> np.ndarray:
        """The label ``[D, H, W]`` of a SEG on the server.

        Raises:
            UserError: (422) when it does not fit the scan, (502) when the server does not give it.
        """
        seg = self._server.fetch_seg(stored.dicom_study, stored.series, stored.uid)
        return label_of(seg, scan, self._schema)

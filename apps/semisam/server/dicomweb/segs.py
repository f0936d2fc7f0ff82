"""Labels on their way to a DICOMweb server and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.dicom_seg import SegHeader

from .labels import Source, label_of, origin_of, pseudo_series, seg_of
from .lists import Seg
from .server import DicomWebServer

_NOTED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "created", "listed", "sent", "label_info")
"""What is noted beside a label about its SEG."""


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
        self, scan_id: str, file: str, source: Source, info: Mapping[str, Any], *, person: bool, again: bool = False
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Store a label on the server.

        Args:
            scan_id: UID of the scan's series.
            file: the label.
            source: the scan.
            info: what is known about the label; ``send_as`` is the UID that its SEG is to have.
            person: whether it is a person's label.
            again: whether it may have got there before, so that it is looked for first.

        Returns:
            What to note beside the label, and the label as whoever fetches it finds it.

        Raises:
            UserError: (422) when no SEG can be made of it, (502) when the server does not take it.
        """
        series = None if person else pseudo_series(scan_id)
        seg = seg_of(file, source, info, origin_of(info, person=person, series=series), self._schema)
        if info.get("send_as"):
            seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = str(info["send_as"])
        header = SegHeader.of(seg)
        known = self._server.find_seg(str(seg.StudyInstanceUID), str(series), header.uid) if again and series else None
        if known is None:
            self._server.store(seg)
        note = Seg(str(seg.StudyInstanceUID), str(seg.SeriesInstanceUID), known or header).info()
        return noted({**note, "sent": note["ts"]}), label_of(seg, source.scan, self._schema)

    def fetch(self, info: Mapping[str, Any], scan: Volume) -> np.ndarray:
        """The label ``[D, H, W]`` of the SEG that is noted in ``info``.

        Raises:
            UserError: (422) when it does not fit the scan, (502) when the server does not give it.
        """
        seg = self._server.fetch_seg(info["StudyInstanceUID"], info["SeriesInstanceUID"], info["SOPInstanceUID"])
        return label_of(seg, scan, self._schema)


def noted(info: Mapping[str, Any]) -> dict[str, Any]:
    """What is noted beside a label about its SEG, without the rest."""
    return {key: info[key] for key in _NOTED if key in info}

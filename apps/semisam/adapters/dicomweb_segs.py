"""Labels on their way to a DICOMweb server and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lib.dicom_seg import SegHeader
from lib.labels import LabelSchema
from lib.volumes import Volume

from .dicom_labels import Source, label_of, origin_of, pseudo_series, seg_of
from .dicomweb_lists import Seg
from .dicomweb_server import DicomWebServer

_NOTED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "created", "listed", "sent")
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

    def send(self, scan_id: str, file: str, source: Source, info: Mapping[str, Any], *, person: bool) -> dict[str, Any]:
        """Store a label on the server; returns what to note beside it.

        Args:
            scan_id: UID of the scan's series.
            file: the label.
            source: the scan.
            info: what is known about the label.
            person: whether it is a person's label.

        Raises:
            UserError: (422) when no SEG can be made of it, (502) when the server does not take it.
        """
        origin = origin_of(info, person=person, series=None if person else pseudo_series(scan_id))
        seg = seg_of(file, source, info, origin, self._schema)
        self._server.store(seg)
        note = Seg(str(seg.StudyInstanceUID), str(seg.SeriesInstanceUID), SegHeader.of(seg)).info()
        # The copy here has the values as they were saved; what they are called is in the info that came along.
        return noted({**note, "sent": note["ts"]})

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

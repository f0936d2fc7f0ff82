"""A DICOMweb server as one object: search, fetch, store; with timeouts, and one kind of error."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from lib.core.errors import UserError
from lib.dicom_seg import SegHeader
from server.errors import reason_of
from server.upstream.dicomweb_client import client_for

logger = logging.getLogger("semisam.dicomweb")

_PIXELS = "7FE00010"
_AS_STORED = (("application/dicom", "*"),)
"""Images in whatever way they are compressed: many servers cannot decode what is decoded here."""
_LOGGED = 400
_NOT_THERE = (404, 410)
_FIELDS = (
    *("PatientID", "StudyInstanceUID", "StudyDate", "StudyTime", "SeriesDescription", "Modality"),
    "NumberOfSeriesRelatedInstances",
)


class DicomWebServer:
    """What the study needs of a DICOMweb server.

    Args:
        client: of the server.
    """

    def __init__(self, client: DICOMwebClient) -> None:
        self._client = client

    @classmethod
    def at(cls, address: str) -> DicomWebServer:
        """The server at an address, with the log-in that MONAI Label's settings name."""
        return cls(client_for(address))

    @property
    def address(self) -> str:
        """Base of its services."""
        return str(self._client.base_url)

    # --- lists: whoever asks has to expect many kinds of errors ---------------------------------------------------

    def search(self, conditions: Mapping[str, Any]) -> list[Dataset]:
        """What the server says about each series that meets the conditions, DICOM keywords with values."""
        found = self._client.search_for_series(
            search_filters=dict(conditions), fields=list(_FIELDS), get_remaining=True
        )
        return [Dataset.from_json(each) for each in found]

    def segs(self, dicom_study: str, series: str) -> list[SegHeader]:
        """The SEG objects of a series, without their pixels, the oldest first."""
        metadata = self._client.retrieve_series_metadata(dicom_study, series)
        without_pixels = [{k: v for k, v in instance.items() if k != _PIXELS} for instance in metadata]
        headers = [SegHeader.of(Dataset.from_json(instance)) for instance in without_pixels]
        return sorted(headers, key=lambda one: one.created)

    # --- content --------------------------------------------------------------------------------------------------

    def save_series(self, dicom_study: str, series: str, folder: Path) -> int:
        """Write each instance of a series into a folder, under numbers: what it calls itself may be no file name.

        Returns:
            How many there are.

        Raises:
            UserError: (502) when the server does not do its part.
        """
        count = 0
        with self._answering(f"Series {series} could not be fetched"):
            for instance in self._client.iter_series(dicom_study, series, media_types=_AS_STORED):
                count += 1
                instance.save_as(folder / f"{count:06d}.dcm", write_like_original=False)
        return count

    def fetch_seg(self, dicom_study: str, series: str, uid: str) -> Dataset:
        """One SEG, with its pixels.

        Raises:
            UserError: (502) when the server does not do its part.
        """
        with self._answering(f"SEG {uid} could not be fetched"):
            return self._client.retrieve_instance(dicom_study, series, uid, media_types=_AS_STORED)

    def find_seg(self, dicom_study: str, series: str, uid: str) -> SegHeader | None:
        """What a SEG says about itself; None when the server does not have it.

        Raises:
            UserError: (502) when the server does not do its part.
        """
        with self._answering("The label could not be looked for"):
            try:
                found = self.segs(dicom_study, series)
            except requests.HTTPError as error:
                if error.response is not None and error.response.status_code in _NOT_THERE:
                    return None
                raise
        return next((header for header in found if header.uid == uid), None)

    def store(self, seg: Dataset) -> None:
        """Store a SEG.

        Raises:
            UserError: (502) when the server does not do its part, or refuses it.
        """
        self._store(seg, "The label", "DICOM SEG")

    def store_note(self, note: Dataset) -> None:
        """Store a note that a SEG no longer counts.

        Raises:
            UserError: as for ``store``.
        """
        self._store(note, "The note that takes the label back", "DICOM KO")

    def _store(self, made: Dataset, what: str, kind: str) -> None:
        with self._answering(f"{what} could not be stored"):
            answer = self._client.store_instances([made])
        if answer.get("FailedSOPSequence") or not answer.get("ReferencedSOPSequence"):
            logger.error("%s has refused a %s: %s", self.address, kind, str(answer)[:_LOGGED])
            raise UserError(
                f"The DICOM server has refused {what[0].lower()}{what[1:]} ({kind}). Its own log says why: ask whoever "
                "looks after it.",
                status=502,
            )

    @contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        """Raise UserError (502) when the server does not do its part."""
        try:
            yield
        except (requests.RequestException, pydicom.errors.InvalidDicomError, ValueError, EOFError) as error:
            logger.error("%s: %s: %s: %s", self.address, what, type(error).__name__, str(error)[:_LOGGED])
            raise UserError(f"{what}: the DICOM server {reason_of(error)}. Try again later.", status=502) from error

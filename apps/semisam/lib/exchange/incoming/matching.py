"""Which scan of the study a label belongs to: by what the label says, never by what it looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import pydicom

from lib.core.errors import UserError, listed
from lib.dicom_seg.parts import text_in
from lib.exchange.names import file_names

from .base import Belongs

_TAGS = ["SeriesInstanceUID", "SOPInstanceUID", "Modality", "Rows"]


class StudyScans:
    """The scans of a study, found by what labels say about them.

    Args:
        names: of all scans.
        series: for a scan's name the folder with its DICOM files, or its only one; None when it is no DICOM.
        named_by_series: whether scans are named by the UID of their series, as on a DICOM server.
    """

    def __init__(
        self, names: Sequence[str], series: Callable[[str], Path | None], *, named_by_series: bool = False
    ) -> None:
        self._names, self._series_of, self._named_by_series = list(names), series, named_by_series
        self._known = set(names)
        self._by_file = {file: name for name, file in file_names(names).items()}

    def find(self, belongs: Belongs) -> str:
        """The name of the scan that a label belongs to.

        Raises:
            UserError: (404) when it is none of the study, (422) when the label does not say which.
        """
        if (belongs.series or belongs.images) and self._any_dicom:
            return self._by_reference(belongs)
        name = self._by_name(belongs.name)
        if name is None:
            raise UserError(
                f"The study has no scan {belongs.name!r}. Give the file the name of its scan, or say which one it is: "
                "--scan NAME.",
                status=404,
            )
        return name

    def _by_name(self, name: str) -> str | None:
        for each in (name, f"{name}_0000"):  # as nnU-Net calls a case and its image
            if each in self._known:
                return each
            if each in self._by_file:
                return self._by_file[each]
        return None

    def _by_reference(self, belongs: Belongs) -> str:
        found = [name for uid in belongs.series for name in self._by_series.get(uid, ())]
        if len(set(found)) != 1:
            by_image = {self._by_image[uid] for uid in belongs.images if uid in self._by_image}
            found = [name for name in found if name in by_image] or ([] if found else sorted(by_image))
        if len(set(found)) == 1:
            return found[0]
        if found:
            raise UserError(
                f"It may belong to several scans of the study: {listed(sorted(set(found)))}. Say which: --scan NAME.",
                status=422,
            )
        if not belongs.series:
            raise UserError(
                "It does not say which series it was drawn on, and names no image of the study.", status=422
            )
        raise UserError(
            f"It was drawn on the series {listed(belongs.series)}, which the study does not have.", status=404
        )

    @cached_property
    def _any_dicom(self) -> bool:
        return self._named_by_series or any(self._series_of(name) is not None for name in self._names)

    @cached_property
    def _by_series(self) -> Mapping[str, list[str]]:
        if self._named_by_series:
            return {name: [name] for name in self._names}
        found: dict[str, list[str]] = {}
        for name, images in self._images.items():
            for uid in dict.fromkeys(images.values()):
                found.setdefault(uid, []).append(name)
        return found

    @cached_property
    def _by_image(self) -> Mapping[str, str]:
        if self._named_by_series:
            return {}  # fetching all scans for this is too much
        return {uid: name for name, images in self._images.items() for uid in images}

    @cached_property
    def _images(self) -> Mapping[str, Mapping[str, str]]:
        """For each scan that is DICOM, the series of each of its images, by their UIDs."""
        found = {}
        for name in self._names:
            series = self._series_of(name)
            if series is not None:
                files = [series] if series.is_file() else sorted(each for each in series.rglob("*") if each.is_file())
                found[name] = dict(pair for file in files for pair in _image(file))
        return found


def _image(file: Path) -> list[tuple[str, str]]:
    """UID and series of the image in a file; none when it holds no image."""
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
    except Exception:
        # pydicom raises many kinds of errors; files that are no DICOM lie beside images.
        return []
    if "Rows" not in header or text_in(header, "Modality") in ("SEG", "RTSTRUCT"):
        return []
    return [(text_in(header, "SOPInstanceUID"), text_in(header, "SeriesInstanceUID"))]

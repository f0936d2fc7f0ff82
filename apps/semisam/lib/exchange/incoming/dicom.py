"""RTSTRUCT and SEG objects as labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom

from lib.core.errors import UserError
from lib.core.sparse_labels import ANNOTATED, Annotated
from lib.dicom_seg import SegHeader, read_seg
from lib.dicom_seg.moments import moment_in
from lib.dicom_seg.parts import text_in
from lib.exchange.rtstruct import RtStruct, read_rtstruct
from lib.exchange.rtstruct.read import check_references

from .base import Belongs, Taken, TargetScan, guessed
from .masks import joined


class IncomingRtStruct:
    """A structure set.

    Args:
        source: what to call it.
        dataset: its content.

    Raises:
        UserError: (422) when it is damaged, or holds no structure.
    """

    kind = "RTSTRUCT"

    def __init__(self, source: str, dataset: pydicom.Dataset) -> None:
        self.source = source
        self._found = RtStruct.of(dataset)
        if self._found.damaged:
            raise UserError(f"The RTSTRUCT is damaged: {self._found.damaged}.", status=422)
        if not self._found.rois:
            raise UserError("The RTSTRUCT holds no structure.", status=422)
        self.names = tuple(dict.fromkeys(roi.name for roi in self._found.rois))
        images = frozenset(uid for roi in self._found.rois for uid in roi.images) or self._found.images
        self.belongs = Belongs(self._found.series, images, _stem(source))
        self.created = moment_in(dataset, "StructureSet") or moment_in(dataset, "InstanceCreation")

    def read(self, target: TargetScan, values: Mapping[str, int]) -> Taken:
        """See ``Incoming.read``."""
        rois = [roi for roi in self._found.rois if roi.name in values]
        _check_once([roi.name for roi in rois])
        if target.images:
            check_references(self._found, [roi.number for roi in rois], target.images, target.frame)
        drawn = [roi for roi in rois if roi.contours]
        if not drawn:
            names = ", ".join(repr(roi.name) for roi in rois)
            raise UserError(f"{names or 'None of its structures'} has no closed contours.", status=422)
        masks = [
            (roi.name, values[roi.name], read_rtstruct(self._found, target.volume, roi.number, target.stack))
            for roi in drawn
        ]
        label, notes = joined(masks, target.volume.shape)
        return Taken(label, notes=notes, missing=tuple(roi.name for roi in rois if not roi.contours))


class IncomingSeg:
    """A segmentation object.

    Args:
        source: what to call it.
        path: its file.
        header: its content without pixels.

    Raises:
        UserError: (422) when it names no segment.
    """

    kind = "SEG"

    def __init__(self, source: str, path: Path, header: pydicom.Dataset) -> None:
        self.source, self._path = source, path
        self._header = SegHeader.of(header)
        if not self._header.names:
            raise UserError("The SEG holds no segment.", status=422)
        self.names = tuple(dict.fromkeys(name for name, _ in self._header.names))
        self.belongs = Belongs((self._header.scan,) * bool(self._header.scan), _images_of(header), _stem(source))
        self.created = self._header.created

    def read(self, target: TargetScan, values: Mapping[str, int]) -> Taken:
        """See ``Incoming.read``; of a fractional SEG, a voxel counts from one half on."""
        wanted = [(name, number) for name, number in self._header.names if name in values]
        _check_once([name for name, _ in wanted])
        strange = self.belongs.images - target.images if target.images else frozenset()
        if strange:
            raise UserError(
                f"It refers to {len(strange)} image(s) that the scan does not have, the first is {min(strange)}. "
                "It was drawn on another series, or images of the scan are missing.",
                status=422,
            )
        dataset = pydicom.dcmread(self._path, force=True)
        found = list(zip([name for name, _ in wanted], _masks(dataset, target, [n for _, n in wanted]), strict=True))
        masks = [(name, values[name], mask) for name, mask in found if mask.any()]
        if not masks:
            raise UserError("Nothing is drawn in the segments that are wanted.", status=422)
        label, notes = joined(masks, target.volume.shape)
        if text_in(dataset, "SegmentationType") == "FRACTIONAL":
            notes = (*notes, "the SEG is fractional: a voxel counts from one half on")
        missing = tuple(name for name, mask in found if not mask.any())
        return Taken(label, self._annotated, notes, missing)

    @property
    def _annotated(self) -> Annotated:
        return next((each for each in ANNOTATED if each == self._header.annotated), "auto")


def _masks(dataset: pydicom.Dataset, target: TargetScan, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """The masks ``[D, H, W]`` of segments; read at once where the SEG says that they do not overlap."""
    if text_in(dataset, "SegmentsOverlap") == "NO" or text_in(dataset, "SegmentationType") == "LABELMAP":
        whole = read_seg(dataset, target.volume, {number: place for place, number in enumerate(numbers, start=1)})
        yield from (whole == place for place in range(1, len(numbers) + 1))
        return
    for number in numbers:
        yield read_seg(dataset, target.volume, {number: 1}) > 0


def _check_once(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"It has several structures with the name {twice[0]!r}. Rename or join them in the program that they come "
            "from.",
            status=422,
        )


def _images_of(header: pydicom.Dataset) -> frozenset[str]:
    """UIDs of the images that a SEG says it was drawn on."""

    def listed() -> Iterator[str]:
        groups = [*(header.get("SharedFunctionalGroupsSequence") or [])]
        groups += header.get("PerFrameFunctionalGroupsSequence") or []
        for group in groups:
            for derived in group.get("DerivationImageSequence") or []:
                for image in derived.get("SourceImageSequence") or []:
                    yield text_in(image, "ReferencedSOPInstanceUID")

    return frozenset(uid for uid in listed() if uid)


def _stem(source: str) -> str:
    name = Path(source).name
    return name[:-4] if name.lower().endswith(".dcm") else name


def is_object(header: pydicom.Dataset) -> bool:
    """Whether a DICOM file is one of these, by its header."""
    return text_in(header, "Modality") in ("RTSTRUCT", "SEG")


def object_in(source: str, path: Path) -> IncomingRtStruct | IncomingSeg:
    """The label in a DICOM file.

    Raises:
        UserError: (422) when it cannot be read.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if text_in(header, "Manufacturer") == "semisam" and "pseudo-label" in text_in(header, "SeriesDescription"):
            raise guessed()
        if text_in(header, "Modality") == "SEG":
            return IncomingSeg(source, path, header)
        return IncomingRtStruct(source, header)
    except UserError:
        raise
    except Exception as error:
        # pydicom raises many kinds of errors for files that are damaged.
        raise UserError(
            f"It cannot be read: it is damaged or cut short ({type(error).__name__}).", status=422
        ) from error

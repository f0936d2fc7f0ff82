"""DICOM series for tests, as scanners send them and as they should not be.

What the images show is a linear function of the place in the patient. So a series that was read rightly tells it by
itself, also where it was resampled: each voxel has the value of its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from lib.core.geometry import Volume
from lib.dicom_series import find_stack
from lib.dicom_series.pixels import read_planes

COLUMNS, ROWS, SLICES, STEP = 24, 20, 12, 2.5
_STEEP = np.array([3.0, -5.0, 7.0])
_AT_ORIGIN = 700.0
SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "US": "1.2.840.10008.5.1.4.1.1.3.1",
}
ENHANCED = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}
Images = list[FileDataset]


def shown_at(place: np.ndarray) -> np.ndarray:
    """What an image shows at places ``[..., 3]`` in mm, LPS."""
    return place @ _STEEP + _AT_ORIGIN


def shown_in(volume_shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """What a volume must show, whose affine is in RAS."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in volume_shape], indexing="ij"), axis=-1)
    return shown_at((grid @ affine[:3, :3].T + affine[:3, 3]) * (-1, -1, 1))


def places(image: Dataset) -> np.ndarray:
    """Place of each pixel ``[rows, columns, 3]``, LPS."""
    rows, columns = np.mgrid[: image.Rows, : image.Columns]
    along = np.array(image.ImageOrientationPatient, dtype=float)
    down, right = (float(v) for v in image.PixelSpacing)
    steps = columns[..., None] * along[:3] * right + rows[..., None] * along[3:] * down
    return np.array(image.ImagePositionPatient, dtype=float) + steps


def draw(image: FileDataset, *, slope: float = 1.0, offset: float = 0.0) -> FileDataset:
    """Give an image the pixels that its header asks for; ``offset`` is added to all of them."""
    image.RescaleSlope, image.RescaleIntercept = slope, offset
    values = np.round((shown_at(places(image)) - offset) / slope)
    image.PixelData = values.astype("<i2" if image.PixelRepresentation else "<u2").tobytes()
    return image


def series(modality: str = "CT", turn: Sequence[float] = (1, 0, 0, 0, 1, 0), count: int = SLICES) -> Images:
    """An even stack, in order."""
    uids = generate_uid(), generate_uid(), generate_uid()
    along = np.array(turn, dtype=float)
    normal = np.cross(along[:3], along[3:])
    images = []
    for k in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SOP_CLASSES[modality], generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = uids
        image.Modality, image.PatientID, image.PatientName = modality, "made", "Made^Up"
        image.PatientBirthDate = image.PatientSex = image.AccessionNumber = image.ReferringPhysicianName = ""
        image.StudyDate, image.StudyTime, image.StudyID, image.SeriesNumber = "20240102", "101112", "1", 1
        image.InstanceNumber, image.SliceThickness = k + 1, 3.0
        image.ImagePositionPatient = [round(float(v), 6) for v in np.array([-20.0, -15, 4]) + normal * STEP * k]
        image.ImageOrientationPatient, image.PixelSpacing = [round(float(v), 9) for v in along], [2.0, 1.5]
        image.Rows, image.Columns, image.SamplesPerPixel = ROWS, COLUMNS, 1
        image.PhotometricInterpretation, image.BitsAllocated = "MONOCHROME2", 16
        image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 15, 1
        image.is_little_endian, image.is_implicit_VR = True, False
        images.append(draw(image))
    return images


def copy_of(image: FileDataset, **attributes: object) -> FileDataset:
    """Another object like an image, with other attributes; drawn anew."""
    other = FileDataset("", Dataset.from_json(image.to_json()), file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    other.file_meta.update(image.file_meta)
    other.is_little_endian, other.is_implicit_VR = True, False
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for name, value in attributes.items():
        setattr(other, name, value)
    return draw(other)


def again(images: Images, *, brighter: float = 0.0, **attributes: object) -> Images:
    """A second volume at the same places, ``brighter``."""
    found = []
    for n, image in enumerate(images):
        other = copy_of(image, InstanceNumber=SLICES + n + 1, **attributes)
        other.RescaleIntercept = brighter
        found.append(other)
    return found


def set_all(images: Images, **attributes: object) -> Images:
    """Set attributes of all images."""
    for image in images:
        for name, value in attributes.items():
            setattr(image, name, value)
    return images


def enhanced(images: Images, *, modality: str = "CT", frame: Callable[[int], Dataset] | None = None) -> Images:
    """One multi-frame object of images, in their order; ``frame`` gives further groups of each frame."""
    first = images[0]
    whole = copy_of(first)
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = ENHANCED[modality]
    whole.Modality, whole.NumberOfFrames, whole.InstanceNumber = modality, len(images), 1
    whole.PixelData = b"".join(image.PixelData for image in images)
    groups = []
    for n, image in enumerate(images):
        own = frame(n) if frame is not None else Dataset()
        own.PlanePositionSequence = [_of(ImagePositionPatient=image.ImagePositionPatient)]
        values = _of(RescaleSlope=image.RescaleSlope, RescaleIntercept=image.RescaleIntercept, RescaleType="US")
        own.PixelValueTransformationSequence = [values]
        groups.append(own)
    shared = _of(PlaneOrientationSequence=[_of(ImageOrientationPatient=first.ImageOrientationPatient)])
    shared.PixelMeasuresSequence = [_of(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)]
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], groups
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(whole, name)
    return [whole]


def _of(**attributes: object) -> Dataset:
    dataset = Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def group(sequence: str, **attributes: object) -> Dataset:
    """A frame's functional groups with one sequence."""
    return _of(**{sequence: [_of(**attributes)]})


def compressed(images: Images, syntax: str) -> Images:
    """The same, compressed without loss."""
    for image in images:
        pixels = np.frombuffer(image.PixelData, "<i2" if image.PixelRepresentation else "<u2")
        frames = pixels.reshape(-1, image.Rows, image.Columns)
        coded = [
            highdicom.frame.encode_frame(
                each,
                transfer_syntax_uid=syntax,
                bits_allocated=16,
                bits_stored=image.BitsStored,
                photometric_interpretation="MONOCHROME2",
                pixel_representation=image.PixelRepresentation,
            )
            for each in frames
        ]
        image.PixelData = pydicom.encaps.encapsulate(coded)
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = syntax
    return images


def save(images: Sequence[FileDataset], folder: Path) -> Path:
    """Write images under names that say nothing about their order; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, image in enumerate(images):
        image.save_as(folder / f"{(n * 37) % 101:03d}-{n}.dcm", write_like_original=False)
    return folder


# --- labels -----------------------------------------------------------------------------------------------------------


def labelled(scan: Volume) -> np.ndarray:
    """What lies low is 1, what lies high is 2; nothing between."""
    low, high = np.quantile(scan.array, (0.2, 0.7))
    return np.where(scan.array < low, 1, np.where(scan.array > high, 2, 0)).astype(np.uint8)


def check_frames(seg: pydicom.Dataset, folder: Path, *, atol: float) -> None:
    """Each frame has the place of the image it refers to, and shows what lies low or high on that image."""
    images = {each.SOPInstanceUID: each for each in map(pydicom.dcmread, folder.iterdir())}
    stack = find_stack(folder)
    assert stack is not None
    reals = list(read_planes(stack.slices))
    by_frame = {(each.uid, each.frame): real for each, real in zip(stack.slices, reals, strict=True)}
    values: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for mask, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        frame = source.get("ReferencedFrameNumber")
        image = images[source.ReferencedSOPInstanceUID]
        place = image.ImagePositionPatient if frame is None else _frame(image, frame)
        assert groups.PlanePositionSequence[0].ImagePositionPatient == place
        real = by_frame[image.SOPInstanceUID, None if frame is None else frame - 1]
        values[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber].append(real[mask > 0])
        assert mask.any()
    rest = np.concatenate([real.ravel() for real in reals])
    low, high = np.concatenate(values[1]), np.concatenate(values[2])
    # The segments are all of the lowest and all of the highest pixels.
    assert low.max() <= np.sort(rest)[len(low) - 1] + atol
    assert high.min() >= np.sort(rest)[-len(high)] - atol


def _frame(image: pydicom.Dataset, number: int) -> object:
    return image.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient


# --- kinds of series --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of series.

    Args:
        make: makes one.
        refusal: what the text says of one that cannot be read rightly, as a regular expression; "" for one that can.
        note: what is said of one that is read, as a regular expression; "" for nothing.
        slices: how many are read.
        only_files: whether a DICOM server cannot hold it.
    """

    make: Callable[[], Images]
    refusal: str = ""
    note: str = ""
    slices: int = SLICES
    only_files: bool = False


def _without(*gone: int) -> Images:
    return [image for n, image in enumerate(series()) if n not in gone]


def _changed(change: Callable[[FileDataset, int], object], modality: str = "CT") -> Images:
    images = series(modality)
    for n, image in enumerate(images):
        change(image, n)
        draw(image)
    return images


def _moved(image: FileDataset, *by: float) -> None:
    image.ImagePositionPatient = [round(float(v) + d, 6) for v, d in zip(image.ImagePositionPatient, by, strict=True)]


def _localizer(**attributes: object) -> Images:
    images = series()
    turned = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [0, -15, 40], "InstanceNumber": 0}
    return [copy_of(images[0], **{**turned, **attributes}), *images]


def _echoes_in_turn() -> Images:
    images = series("MR")
    for n, image in enumerate(images):
        image.EchoTime = 5 if n % 2 else 80
    return images


def _slopes() -> Images:
    images = series("PT")
    for n, image in enumerate(images):
        draw(image, slope=1.0 if n == 0 else 0.05)
    return images


def _unsigned() -> Images:
    images = series()
    for image in images:
        image.PixelRepresentation = 0
        draw(image, offset=-1024)
    return images


def _twelve_bits_and_a_drawing() -> Images:
    images = series()
    for image in images:
        image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, 0
        draw(image, offset=-1024)
        pixels = np.frombuffer(image.PixelData, "<u2").copy()
        pixels[::7] |= 0x8000
        image.PixelData = pixels.tobytes()
    return images


def _inverted() -> Images:
    images = series()
    for image in images:
        pixels = np.frombuffer(image.PixelData, "<i2")
        image.PixelData = (-1 - pixels).astype("<i2").tobytes()
        image.PhotometricInterpretation = "MONOCHROME1"
    return images


def _big_endian() -> Images:
    images = series()
    for image in images:
        image.PixelData = np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        image.is_little_endian = False
    return images


def _shuffled(images: Images) -> Images:
    return [images[n] for n in (5, 0, 7, 2, 11, 9, 1, 3, 10, 4, 8, 6)]


def _frames_in_time() -> Images:
    images = series("MR")
    return enhanced(
        [*images, *again(images, brighter=50)],
        modality="MR",
        frame=lambda n: group("FrameContentSequence", TemporalPositionIndex=n // SLICES + 1),
    )


def _frames_of_two_b_values() -> Images:
    images = series("MR")
    both = [each for pair in zip(again(images, brighter=50), images, strict=True) for each in pair]
    return enhanced(
        both, modality="MR", frame=lambda n: group("MRDiffusionSequence", DiffusionBValue=0.0 if n % 2 else 800.0)
    )


def _frames_of_another_stack() -> Images:
    images = series()
    others = [copy_of(image, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]) for image in images[:2]]
    whole = enhanced([*images, *others])
    for own in whole[0].PerFrameFunctionalGroupsSequence[-2:]:
        own.PlaneOrientationSequence = [_of(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])]
    return whole


def _triggered() -> Images:
    images = set_all(series("MR"), TriggerTime=0.0)
    later = again(images, brighter=50)
    for n, image in enumerate(later):
        image.TriggerTime = 40.0 + n  # each slice has its own heart beat
    return [*later, *images]


def _kinds_of_image() -> Images:
    images = set_all(series("MR"), ImageType=["ORIGINAL", "PRIMARY", "M", "FFE"])
    return [*images, *again(images, brighter=50, ImageType=["ORIGINAL", "PRIMARY", "P", "FFE"])]


def _in_colour() -> Images:
    images = series()
    one = images[4]
    one.SamplesPerPixel, one.PhotometricInterpretation, one.PlanarConfiguration = 3, "RGB", 0
    one.BitsAllocated = one.BitsStored = 8
    one.HighBit, one.PixelRepresentation = 7, 0
    one.PixelData = bytes(ROWS * COLUMNS * 3)
    return images


def _film() -> Images:
    images = series("MR")
    whole = enhanced(images, modality="MR")
    del whole[0].PerFrameFunctionalGroupsSequence, whole[0].SharedFunctionalGroupsSequence
    return whole


def _no_rescale() -> Images:
    images = series()
    del images[3].RescaleSlope, images[3].RescaleIntercept
    return images


def _without_place() -> Images:
    images = series()
    for image in images:
        del image.ImagePositionPatient, image.ImageOrientationPatient
    return images


def _second_half(name: str, value: object) -> Images:
    images = series()
    for image in images[SLICES // 2 :]:
        setattr(image, name, value)
    return images


_TILT = np.tan(np.radians(15)) * STEP
_OBLIQUE = (0.9541666, -0.2080757, 0.2151061, 0.2785886, 0.880128, -0.3843997)

KINDS = {
    "plain": Kind(series),
    "oblique": Kind(lambda: series(turn=_OBLIQUE)),
    "numbers against the order": Kind(lambda: _changed(lambda i, n: setattr(i, "InstanceNumber", SLICES - n))),
    "unsigned with an intercept": Kind(_unsigned),
    "a slope for each slice": Kind(_slopes),
    "12 bits with a drawing in the others": Kind(_twelve_bits_and_a_drawing),
    "bright means dark": Kind(_inverted),
    "big endian": Kind(_big_endian, only_files=True),
    "RLE": Kind(lambda: compressed(series(), pydicom.uid.RLELossless)),
    "JPEG 2000": Kind(lambda: compressed(_unsigned(), pydicom.uid.JPEG2000Lossless)),
    "JPEG-LS": Kind(lambda: compressed(_unsigned(), pydicom.uid.JPEGLSLossless)),
    "past midnight": Kind(lambda: _second_half("SeriesDate", "20240103")),
    "other thickness": Kind(lambda: _second_half("SliceThickness", 5)),
    "other sequence name": Kind(lambda: _second_half("SequenceName", "*fl2d1_b")),
    "positions rounded": Kind(lambda: _changed(lambda i, n: _moved(i, 0, 0, (0.004, -0.004)[n % 2]))),
    "a slice is missing": Kind(
        lambda: _without(6), r"1 slice is missing between image 6 .*\(-20, -15, 16.5\).*image 8"
    ),
    "five slices are missing": Kind(
        lambda: _without(3, 4, 5, 6, 9), "5 slices are missing at 2 places.*image 3 .*image 8"
    ),
    "uneven": Kind(
        lambda: _changed(lambda i, n: _moved(i, 0, 0, 0.1 * (n == 5))), "not evenly spaced: image 5 .*image 6"
    ),
    "two steps": Kind(
        lambda: _changed(lambda i, n: _moved(i, 0, 0, 0.4 * max(0, n - 8))), "not evenly spaced: image 9 "
    ),
    "an image twice": Kind(
        lambda: [*(s := series()), copy_of(s[4], InstanceNumber=99)], note="twice.*image 5 |twice.*image 99 "
    ),
    "another image at the place of one": Kind(
        lambda: [*(s := series()), *again(s[4:5], brighter=80)], "at 1 of 12 places.*image 5 .*and image 13 "
    ),
    "two volumes without a word": Kind(
        lambda: [*(s := series()), *again(s, brighter=50)], "at 12 of 12 places.*image 1 .*and image 13 "
    ),
    "two time points": Kind(
        lambda: [
            *again(s := set_all(series("MR"), TemporalPositionIdentifier=1), brighter=50, TemporalPositionIdentifier=2),
            *s,
        ],
        note="2 volumes, told apart by their time point; the one of 1 was taken",
    ),
    "b-values": Kind(
        lambda: [*again(s := set_all(series("MR"), DiffusionBValue=50.0), brighter=50, DiffusionBValue=1000.0), *s],
        note="b-value; the one of 50.0",
    ),
    "magnitude and phase": Kind(_kinds_of_image, note="kind of image; the one of M "),
    "a volume and a part of another": Kind(
        lambda: [*again(s := set_all(series(), AcquisitionNumber=1), brighter=50, AcquisitionNumber=2)[6:], *s],
        note="holds a volume and parts of others, told apart by their acquisition number; the one of 1 was taken",
    ),
    "two frames of reference": Kind(
        lambda: _second_half("FrameOfReferenceUID", "1.2.3.4"), "image 7 .*another frame of reference than image 1 "
    ),
    "two patients": Kind(lambda: _second_half("PatientID", "Doe"), "image 7 .*another patient than image 1 (?!.*Doe)"),
    "heart phases": Kind(_triggered, note="trigger time; the first one"),
    "echoes in turn": Kind(_echoes_in_turn, "image 2 .*another volume than image 1 .*echo time is 5.0, not 80.0"),
    "localizer": Kind(_localizer, note="left out as localizer: image 0 "),
    "localizer of another size": Kind(lambda: _localizer(Rows=30, Columns=30), note="left out as localizer: image 0 "),
    "localizer by its own word": Kind(
        lambda: [*(s := series()), copy_of(s[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])],
        note="left out as localizer: .*it says so itself",
    ),
    "three directions": Kind(
        lambda: [
            *(s := series())[:4],
            *[copy_of(i, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], InstanceNumber=20) for i in s[4:8]],
        ],
        "image 20 .*another orientation",
    ),
    "turning": Kind(
        lambda: _changed(
            lambda i, n: setattr(
                i,
                "ImageOrientationPatient",
                [1, 0, 0, 0, round(float(np.cos(n / 20)), 8), round(float(np.sin(n / 20)), 8)],
            )
        ),
        "another orientation",
    ),
    "a slice turned by 8 degrees": Kind(
        lambda: [*(s := series())[:3], copy_of(s[3], ImageOrientationPatient=[1, 0, 0, 0, 0.99, 0.14]), *s[4:]],
        "image 4 .*another orientation",
    ),
    "a slice of another size": Kind(
        lambda: _changed(lambda i, n: setattr(i, "Rows", ROWS + 4 * (n == 5))),
        "image 6 .*24 x 24 pixels, the others have 24 x 20",
    ),
    "other pixels in one half": Kind(
        lambda: _changed(lambda i, n: setattr(i, "PixelSpacing", [1.0, 1.0] if n < 6 else [2.0, 1.5])),
        "its pixels have",
    ),
    "no place": Kind(_without_place, "do not say where they lie|does not say where it lies"),
    "one without rescaling": Kind(_no_rescale, "image 4 .*has no RescaleSlope"),
    "one in colour": Kind(_in_colour, "image 5 .*in colour"),
    "one far to the side": Kind(
        lambda: _changed(lambda i, n: _moved(i, 500 * (n == 3), 0, 0)), "image 4 .*far to the side"
    ),
    "film": Kind(_film, "film of 12 frames"),
    "enhanced CT": Kind(lambda: enhanced(series())),
    "enhanced CT, compressed": Kind(lambda: compressed(enhanced(_unsigned()), pydicom.uid.JPEG2000Lossless)),
    "enhanced CT, frames shuffled": Kind(lambda: enhanced(_shuffled(series()))),
    "enhanced MR": Kind(lambda: enhanced(series("MR", _OBLIQUE), modality="MR")),
    "enhanced MR, a slope for each frame": Kind(lambda: enhanced(_slopes(), modality="MR")),
    "enhanced MR of two times": Kind(_frames_in_time, note="time point; the one of 1 "),
    "enhanced MR of two b-values": Kind(_frames_of_two_b_values, note="b-value; the one of 0.0 "),
    "enhanced CT with another stack": Kind(_frames_of_another_stack, note="2 images beside.*frame 13"),
    "enhanced CT, a frame is missing": Kind(lambda: enhanced(_without(6)), "missing between frame 6 .*frame 7 "),
    "enhanced CT in two files": Kind(lambda: enhanced((s := series())[:6]) + enhanced(s[6:])),
}
"""Series by what is special about them."""

TILTED = {
    "tilted gantry": lambda: _changed(lambda i, n: _moved(i, 0, _TILT * n, 0)),
    "tilted gantry, enhanced CT": lambda: enhanced(_changed(lambda i, n: _moved(i, 0, -_TILT * n, 0))),
    "slices shifted to the side": lambda: _changed(lambda i, n: _moved(i, (0, 2.2, -1.4)[n % 3], (0, 0.8)[n % 2], 0)),
}
"""Series whose slices do not lie one above the other."""

"""DICOM series for the tests: a labelled CT and deformed copies of it, stored in unusual ways.

The CT is the CHAOS series of ``../shared/data`` where that is there, else a generated abdomen.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from lib.formats.volumes import read_volume
from scanfiles import save_dicom

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}


@dataclass(frozen=True, eq=False)
class Labelled:
    """A scan and its label.

    Args:
        array: ``[D, H, W]`` int16.
        label: ``[D, H, W]`` uint8.
        affine: ``[4, 4]``, RAS.
    """

    array: np.ndarray
    label: np.ndarray
    affine: np.ndarray

    def flipped(self) -> Labelled:
        """The same scan, stored from the other end."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, 2] * (self.array.shape[2] - 1)
        affine[:3, 2] *= -1
        return Labelled(self.array[:, :, ::-1].copy(), self.label[:, :, ::-1].copy(), affine)

    def turned(self, degrees: tuple[float, float, float]) -> Labelled:
        """The same scan of a patient who lies askew: the affine is turned about its three axes."""
        turn = np.eye(4)
        for axis, angle in enumerate(np.deg2rad(degrees)):
            a, b = [n for n in range(3) if n != axis]
            step = np.eye(4)
            step[a, a] = step[b, b] = np.cos(angle)
            step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
            turn = turn @ step
        return Labelled(self.array, self.label, turn @ self.affine)

    def deformed(self, seed: int, *, millimetres: float = 8.0) -> Labelled:
        """Another patient: smooth displacements of about ``millimetres``, and other noise."""
        random = np.random.default_rng([11, seed])
        spacing = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in self.array.shape], indexing="ij"))
        for axis in range(3):
            field = gaussian_filter(random.normal(size=self.array.shape).astype(np.float32), 25 / spacing)
            grid[axis] += field / np.abs(field).max() * millimetres / spacing[axis]
        array = map_coordinates(self.array.astype(np.float32), grid, order=1, mode="nearest")
        label = map_coordinates(self.label, grid, order=0, mode="nearest")
        array += random.normal(0, 5, array.shape)
        return Labelled(array.astype(np.int16), label, self.affine)


def abdomen(*, step: int = 4) -> tuple[Labelled, bool]:
    """A CT with its liver (1), and whether it is the real one; ``step`` thins out its rows and columns."""
    data = Path(os.environ.get("SEMISAM_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    folder = data / "chaos_ct_dicom"
    return (_chaos(folder, step), True) if folder.is_dir() else (_generated(), False)


def _chaos(folder: Path, step: int) -> Labelled:
    files = sorted((folder / "dicom").iterdir())
    heights = [float(pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient[2]) for f in files]
    masks = [np.asarray(Image.open(f)) > 0 for f in sorted((folder / "ground").iterdir())]
    scan = read_volume(folder / "dicom")
    label = np.stack([masks[k].T for k in np.argsort(heights)], axis=2).astype(np.uint8)
    if scan.affine[2, 2] < 0:
        label = label[:, :, ::-1]
    affine = scan.affine.copy()
    affine[:3, :2] *= step
    return Labelled(scan.array[::step, ::step].astype(np.int16), np.ascontiguousarray(label[::step, ::step]), affine)


def _generated() -> Labelled:
    shape = (96, 80, 40)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))

    def ball(x: float, y: float, z: float, rx: float, ry: float, rz: float) -> np.ndarray:
        return ((grid[0] - x) / rx) ** 2 + ((grid[1] - y) / ry) ** 2 + ((grid[2] - z) / rz) ** 2 < 1

    body, liver = ball(0, 0, 0, 0.9, 0.85, 3), ball(-0.4, 0.05, 0.1, 0.38, 0.5, 0.75)
    array = -1000 + 1040.0 * body
    array[liver] = 120
    array[ball(0.45, -0.2, 0.2, 0.2, 0.2, 0.4)] = 90
    array[ball(0.0, -0.5, 0, 0.12, 0.12, 3)] = 400
    array[ball(0.1, -0.1, 0, 0.07, 0.07, 3)] = 200
    texture = gaussian_filter(np.random.default_rng(3).normal(size=shape), 1.5) * 60
    affine = np.diag([-3.5, -3.5, 4.0, 1.0])
    affine[:3, 3] = 150, 130, -80
    return Labelled((array + texture * body).astype(np.int16), liver.astype(np.uint8), affine)


def write_series(
    folder: Path, scan: Labelled, *, modality: str = "CT", patient: str = "P1", reverse: bool = False
) -> tuple[str, str]:
    """Write a scan as a series of a study of its own.

    Args:
        folder: new.
        scan: the scan.
        modality: a key of ``CLASSES``.
        patient: id of the patient.
        reverse: number the slices from the other end than they lie in space.

    Returns:
        UID of the study and of the series.
    """
    stored = scan.flipped() if reverse else scan
    save_dicom(folder, stored.array, stored.affine, float(np.linalg.norm(stored.affine[:3, 2])))
    frame = pydicom.uid.generate_uid()
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.Modality = modality
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CLASSES[modality]
        dataset.FrameOfReferenceUID = frame
        dataset.PatientID, dataset.PatientName = patient, f"Test^{patient}"
        dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.SeriesNumber = "20240102", "101112", "1", 1
        dataset.SeriesDescription = f"{modality} {patient}"
        dataset.save_as(file)
    return str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID)

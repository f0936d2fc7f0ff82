"""A propagated label lies on its scan in the viewer, whatever the scan's header says: SimpleITK reads both files.

SimpleITK is what 3D Slicer reads files with. Random headers by hypothesis, written by nibabel and by SimpleITK.
"""

from __future__ import annotations

import gzip
import itertools
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from lib.core.errors import UserError
from lib.core.geometry import MOST_SHIFT, Volume, corner_shift, straightened
from lib.formats.volumes import read_volume, write_label
from lib.generalists import create_generalist
from lib.propagation import Template, create_propagator
from viewer import LPS, in_viewer

SHAPE = (26, 24, 22)
"""Of the phantom, along right, anterior, superior."""
DTYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64", ">i2", ">f4")


def phantom(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball (1) in a textured body, 0..255, along right, anterior, superior."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in SHAPE], indexing="ij"), axis=-1)
    middle = (np.array(SHAPE) - 1) / 2
    ball = ((grid - middle - (-3, 2, 1)) ** 2).sum(-1) < 5.5**2
    body = (((grid - middle) / (np.array(SHAPE) * 0.46)) ** 2).sum(-1) < 1
    texture = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1.5) * 60
    image = gaussian_filter(90.0 * body + 70.0 * ball + body * texture, 0.6) + random.normal(0, 1.5, SHAPE)
    return np.clip(image + 20, 0, 255).round(), ball.astype(np.uint8)


@lru_cache(maxsize=1)
def template() -> Template:
    image, ball = phantom(1)
    return Template("template", Volume(image.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), ball)


@lru_cache(maxsize=1)
def tools() -> tuple[object, object]:
    return create_propagator("registration"), create_generalist("mind")


@dataclass(frozen=True)
class Header:
    """What a scan is written with."""

    writer: str
    name: str
    dtype: str
    slope: float
    place: np.ndarray
    other: np.ndarray
    shear: np.ndarray
    sform_code: int
    qform_code: int
    units: int
    qfac: float | None


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Oblique, flipped, permuted and anisotropic; at right angles."""
    quaternion = np.array([draw(st.floats(-1, 1)) for _ in range(4)]) + np.array([1e-3, 0, 0, 0])
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    if draw(st.booleans()):
        straight = np.round(rotation)
        rotation = straight if np.array_equal(straight @ straight.T, np.eye(3)) else np.eye(3)
    rotation = rotation[:, draw(st.sampled_from(list(itertools.permutations(range(3)))))]
    flips = [draw(st.sampled_from((1.0, -1.0))) for _ in range(3)]
    affine = np.eye(4)
    size = draw(st.floats(0.4, 4.0))
    affine[:3, :3] = rotation * [f * size * draw(st.floats(0.6, 1.6)) for f in flips]
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine


@st.composite
def headers(draw: st.DrawFn) -> Header:
    place = draw(affines())
    other = draw(st.sampled_from(("same", "moved", "another")))
    second = {"same": lambda: place, "moved": place.copy, "another": lambda: draw(affines())}[other]()
    if other == "moved":
        second[:3, 3] += [draw(st.floats(-30, 30)) for _ in range(3)]
    shear = np.eye(4)
    if draw(st.booleans()):
        most = draw(st.sampled_from((1e-3, 1e-3, 0.4)))
        shear[0, 1], shear[1, 2] = draw(st.floats(-most, most)), draw(st.floats(-most, most))
    return Header(
        writer=draw(st.sampled_from(("nibabel", "nibabel", "SimpleITK"))),
        name=draw(st.sampled_from(("scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha"))),
        dtype=draw(st.sampled_from(DTYPES)),
        slope=draw(st.sampled_from((1.0, 1.0, 0.25, -2.0))),
        place=place,
        other=second,
        shear=shear,
        sform_code=draw(st.integers(0, 5)),
        qform_code=draw(st.integers(0, 5)),
        units=draw(st.sampled_from((0, 1, 2, 2, 3, 8 + 2, 16 + 3))),
        qfac=draw(st.sampled_from((None, None, 0.0, -1.0, 1.0))),
    )


def write(path: Path, header: Header, array: np.ndarray) -> Path:
    """Write a scan ``[D, H, W]``; returns its file, whose ending depends on the writer."""
    if header.writer == "SimpleITK":
        path = path.with_name(header.name)
        image = SimpleITK.GetImageFromArray(array.astype(np.dtype(header.dtype).newbyteorder("=")).transpose())
        lps = LPS @ header.place @ header.shear
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        SimpleITK.WriteImage(image, str(path))
        return path
    path = path.with_name(header.name if ".nii" in header.name else "scan.nii.gz")
    dtype = np.dtype(header.dtype)
    raw = nibabel.Nifti1Header(endianness=">" if dtype.byteorder == ">" else "<")
    raw.set_data_dtype(dtype)
    raw.set_data_shape(array.shape)
    raw.set_qform(header.other, header.qform_code, strip_shears=True)
    raw.set_sform(header.place @ header.shear, header.sform_code)
    raw["xyzt_units"] = header.units
    if header.qfac is not None:
        raw["pixdim"][0] = header.qfac
    if header.slope != 1:
        raw.set_slope_inter(header.slope, 5.0)
    raw["vox_offset"], raw["magic"] = 352, b"n+1"
    content = raw.binaryblock + bytes(4) + array.astype(dtype).tobytes(order="F")
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


def check(header: Header, folder: Path) -> None:
    image, ball = phantom(2)
    try:
        _, seen = in_viewer(write(folder / "scan", header, np.zeros(SHAPE)))
    except RuntimeError:
        return  # the viewer does not open the scan
    if not np.isfinite(seen).all():
        return
    # The patient does not turn with the header: which way the array runs does.
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.io_orientation(seen)
    )
    stored, truth = (nibabel.orientations.apply_orientation(each, turn) for each in (image, ball))
    path = write(folder / "scan", header, stored)
    shown, seen = in_viewer(path)
    sheared = corner_shift(straightened(seen), seen, SHAPE)
    if header.writer == "SimpleITK" and ".nii" not in path.name and sheared > MOST_SHIFT:
        with pytest.raises(UserError, match="not at right angles"):  # no label would lie on it in every viewer
            read_volume(path)
        return
    scan = read_volume(path)
    np.testing.assert_allclose(scan.array, shown, rtol=1e-5, atol=1e-3)
    propagator, generalist = tools()
    found = propagator.propagate(template(), scan, 2, generalist).labels()  # type: ignore[attr-defined]
    wanted = np.argwhere(truth).mean(0)
    for name in ("answer.nii.gz", "answer.nrrd"):
        write_label(folder / name, found, scan.affine)
        answer, place = in_viewer(folder / name)
        centre = place @ [*np.argwhere(answer).mean(0), 1]
        off = np.linalg.solve(seen, centre)[:3] - wanted
        assert np.abs(off).max() < 0.5, (name, off, scan.notes)
        # Not only the ball: each corner of the two grids is in one place.
        corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*answer.shape, 1]
        apart = np.linalg.solve(seen, place @ corners.T).T - corners
        assert np.abs(apart).max() < sheared + 0.05, (name, apart)


def run(examples: int, *, derandomize: bool) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(headers())
    def body(header: Header) -> None:
        with tempfile.TemporaryDirectory() as folder:
            check(header, Path(folder))

    body()


@pytest.mark.slow
def test_propagated_ball_lies_where_the_viewer_shows_it() -> None:
    run(10, derandomize=True)


@pytest.mark.soak
def test_propagated_ball_lies_where_the_viewer_shows_it_500_times() -> None:
    run(500, derandomize=False)

"""The propagation methods that are compared: ours by name, and three peers with their default settings.

A method reads a scan with what it needs itself (``prepare``, not timed) and labels it (``label``, timed): from the
arrays in memory to the label map on the scan's own grid.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import common

OURS = ("registration", "prototype")
PEERS = ("convexadam", "itk-elastix", "ants-syn")
PACKAGES = {"ants-syn": "antspyx"}
"""Package of a peer where it has another name."""


class Method(Protocol):
    """Carries the template's labels over to scans."""

    def prepare(self, image: Path) -> Any:
        """Read a scan."""
        ...

    def label(self, scan: Any) -> np.ndarray:
        """Label map ``[D, H, W]`` uint8 of a prepared scan, in the axis order of its NIfTI file."""
        ...


class Ours:
    """One of the app's propagators with features of the generalist ``mind``."""

    def __init__(self, name: str, image: Path, label: Path, labels: Sequence[str]) -> None:
        import torch

        from lib.core.labels import LabelSchema
        from lib.formats.label_files import read_label
        from lib.formats.volumes import read_volume
        from lib.generalists import create_generalist
        from lib.propagation import Template, create_propagator

        torch.set_num_threads(common.THREADS)
        self._read = read_volume
        self._schema = LabelSchema(tuple(labels))
        scan = read_volume(image)
        self._template = Template(image.name, scan, read_label(label, scan, self._schema))
        self._propagator = create_propagator(name)
        self._generalist = create_generalist("mind")

    def prepare(self, image: Path) -> Any:
        return self._read(image)

    def label(self, scan: Any) -> np.ndarray:
        found = self._propagator.propagate(self._template, scan, self._schema.channels, self._generalist)
        return found.labels()


class ConvexAdam:
    """``convexAdam`` from PyPI with its defaults.

    It wants two arrays of one shape: template and scan are resized (averaged down, linear up) to one grid. The label
    is warped class by class with its own ``apply_convex`` (linear) there, and the classes' values are brought to the
    scan's grid linearly before the largest is taken.

    Args:
        grid: voxels of the common grid, None for the template's own.
    """

    def __init__(self, image: Path, label: Path, labels: Sequence[str], grid: Sequence[int] | None) -> None:
        import nibabel
        import torch

        torch.set_num_threads(common.THREADS)
        template = nibabel.load(image)
        self._directions = nibabel.aff2axcodes(template.affine)
        self._shape = tuple(grid or template.shape)
        self._moving = self._resize(np.asarray(template.dataobj))
        truth = np.asarray(nibabel.load(label).dataobj)
        self._classes = [self._resize(truth == value) for value in range(len(labels) + 1)]

    def _resize(self, array: np.ndarray, shape: Sequence[int] | None = None) -> Any:
        import torch

        from lib.core.resampling import resize

        return resize(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None], shape or self._shape)[0]

    def prepare(self, image: Path) -> Any:
        import nibabel

        scan = nibabel.load(image)
        if nibabel.aff2axcodes(scan.affine) != self._directions:
            raise ValueError(f"{image.name} has other axis directions than the template")
        return np.asarray(scan.dataobj)

    def label(self, scan: Any) -> np.ndarray:
        from convexAdam.apply_convex import apply_convex
        from convexAdam.convex_adam_MIND import convex_adam_pt

        field = convex_adam_pt(img_fixed=self._resize(scan), img_moving=self._moving)
        warped = [self._resize(apply_convex(disp=field, moving=one), scan.shape) for one in self._classes]
        return np.stack([one.numpy() for one in warped]).argmax(0).astype(np.uint8)


class Elastix:
    """``itk-elastix``: its default affine, then its default B-spline parameter map, at native resolution.

    The label is transformed with nearest-neighbour interpolation. The number of threads comes from the environment
    (``common.limit_threads``): with 0.25.4 the argument ``number_of_threads`` ends the process by a segmentation fault.
    """

    def __init__(self, image: Path, label: Path) -> None:
        import itk

        self._itk = itk
        self._moving = itk.imread(str(image), itk.F)
        self._label = itk.imread(str(label), itk.F)
        self._parameters = itk.ParameterObject.New()
        for kind in ("affine", "bspline"):
            self._parameters.AddParameterMap(self._parameters.GetDefaultParameterMap(kind))

    def prepare(self, image: Path) -> Any:
        return self._itk.imread(str(image), self._itk.F)

    def label(self, scan: Any) -> np.ndarray:
        _, found = self._itk.elastix_registration_method(
            scan,
            self._moving,
            parameter_object=self._parameters,
            log_to_console=False,
        )
        for index in range(found.GetNumberOfParameterMaps()):
            found.SetParameter(index, "FinalBSplineInterpolationOrder", "0")
        warped = self._itk.transformix_filter(self._label, found, log_to_console=False)
        # ITK arrays are k, j, i.
        return np.ascontiguousarray(np.rint(self._itk.array_from_image(warped)).astype(np.uint8).T)


class AntsSyN:
    """``antspyx``: its default ``SyN`` (affine, then symmetric normalisation), at native resolution.

    The label is transformed with ``genericLabel``, the interpolator that ANTs recommends for several labels. The random
    samples of the affine step have a seed; sums of several threads still differ in their last digits, and so may a few
    voxels. The number of threads comes from the environment (``common.limit_threads``).
    """

    def __init__(self, image: Path, label: Path) -> None:
        os.environ["ANTS_RANDOM_SEED"] = "1"
        import ants

        self._ants = ants
        self._moving = ants.image_read(str(image))
        self._label = ants.image_read(str(label))

    def prepare(self, image: Path) -> Any:
        return self._ants.image_read(str(image))

    def label(self, scan: Any) -> np.ndarray:
        # It writes its fields to files, and leaves them behind.
        with tempfile.TemporaryDirectory() as folder:
            found = self._ants.registration(scan, self._moving, type_of_transform="SyN", outprefix=f"{folder}/")
            warped = self._ants.apply_transforms(scan, self._label, found["fwdtransforms"], interpolator="genericLabel")
        return np.rint(warped.numpy()).astype(np.uint8)


def create(name: str, image: Path, label: Path, labels: Sequence[str], grid: Sequence[int] | None) -> Method:
    """Make a method for a template.

    Raises:
        ValueError: when there is none of this name.
    """
    if name == "convexadam":
        return ConvexAdam(image, label, labels, grid)
    if name == "itk-elastix":
        return Elastix(image, label)
    if name == "ants-syn":
        return AntsSyN(image, label)
    if name in OURS:
        return Ours(name, image, label, labels)
    raise ValueError(f"no method {name!r}; known: {', '.join((*OURS, *PEERS))}")


def package(name: str) -> str | None:
    """Version of the package that a peer comes from, None when it is not installed."""
    try:
        return metadata.version(PACKAGES.get(name, name))
    except metadata.PackageNotFoundError:
        return None


def version(name: str) -> str:
    """What tells results of one state of a method from those of another."""
    own = [Path(__file__)]
    if name in PEERS:
        return common.fingerprint(own, package(name) or "missing")
    lib = common.APP / "lib"
    parts = ["core", "formats", "generalists", "propagation"]
    return common.fingerprint([*own, *(lib / part for part in parts)], metadata.version("torch"))

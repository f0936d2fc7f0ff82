"""The scans of a run on the specialist's grid, kept on disk and only as far as they fit in memory."""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.frames import Frame
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.core.negatives import only_negative
from lib.core.sparse_labels import find_planes, on_grid, only_sparse
from lib.formats.label_files import read_label
from lib.formats.pictures import LUMINANCE
from lib.formats.volumes import read_volume
from lib.propagation import Template
from lib.propagation.fusion import signature
from lib.specialists.prepare import grid_of, normalised
from lib.specialists.spec import SpecialistSpec
from lib.training.sample import Sample

from .report import Case
from .tensor_files import TensorCache, load_tensors, packed_whole, save_arrays, save_tensors

log = logging.getLogger("semisam.train")

CACHE_BYTES = 1_500_000_000


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan on the specialist's grid.

    Args:
        frame: where the grid lies in the scan.
        affine: ``[4, 4]`` of the scan itself.
        image: ``[inputs, D, H, W]`` float16, as ``prepare`` gives it.
        signature: short description of the whole scan, to compare scans by; unit length.
    """

    frame: Frame
    affine: np.ndarray
    image: Tensor
    signature: Tensor

    @property
    def grey(self) -> Tensor:
        """The brightness, or the first channel, ``[1, D, H, W]`` float32: what generalists are shown."""
        image = self.image.float()
        if not self.frame.flat:
            return image[:1]
        return image if len(image) == 1 else torch.tensordot(torch.tensor([LUMINANCE]), image, dims=1)


@dataclass(frozen=True, eq=False)
class SoftTarget:
    """What to learn about a scan.

    Args:
        probabilities: ``[1 + N, D, H, W]`` float16.
        confidence: ``[D, H, W]`` float16 in 0..1.
    """

    probabilities: Tensor
    confidence: Tensor


class PreparedStudy:
    """Scans and their current labels; a ``SampleSource``.

    Human labels never change; pseudo-labels are those of the last finished round (``use_round``).

    Args:
        cases: the scans.
        schema: the structures.
        spec: the grid.
        folder: where prepared scans are kept.
        cache_bytes: how much is kept in memory.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        schema: LabelSchema,
        spec: SpecialistSpec,
        folder: Path,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.cases = {case.name: case for case in cases}
        self.schema = schema
        self.spec = spec
        self._folder = folder
        self._files = {case.name: _file_name(n, case.name) for n, case in enumerate(cases)}
        self._cache = TensorCache(cache_bytes)
        self._round: Path | None = None
        self._pseudo: list[str] = []
        self._unsound: frozenset[str] = frozenset()
        self._dense: dict[str, bool] = {}
        self._human = [case.name for case in cases if case.label is not None]

    # --- what the training draws from ---------------------------------------------------------------------------------

    def human(self) -> Sequence[str]:
        """Names of scans with a usable human label."""
        return self._human

    def pseudo(self) -> Sequence[str]:
        """Names of scans whose pseudo-label holds a structure and is likely to be about right."""
        return self._pseudo

    def is_unsound(self, name: str) -> bool:
        """Whether a scan's current pseudo-label is hardly right as a whole, so that nothing is learned from it."""
        return name in self._unsound

    def sample(self, name: str) -> Sample:
        """A prepared scan with its human label, else its current pseudo-label."""
        target = self.target(name)
        return Sample(self.prepared(name).image, target.probabilities, target.confidence[None])

    # --- scans --------------------------------------------------------------------------------------------------------

    def drop(self, name: str) -> None:
        """Leave a scan out from now on."""
        self.cases.pop(name, None)
        self._human = [n for n in self._human if n != name]
        self._pseudo = [n for n in self._pseudo if n != name]

    def unlabelled(self) -> list[str]:
        """Names of scans without a human label."""
        return [name for name, case in self.cases.items() if case.label is None]

    def read(self, name: str) -> Volume:
        """The scan itself, from its own file."""
        return read_volume(self.cases[name].image)

    def template(self, name: str) -> Template:
        """A scan with its human label."""
        case = self.cases[name]
        if case.label is None:
            raise UserError(f"{name} has no 'final' label.", status=409)
        scan = self.read(name)
        return Template(name, scan, read_label(case.label, scan, self.schema, may_be_empty=case.negative))

    def prepare(self, name: str, scan: Volume, frame: Frame, described: Tensor | None = None) -> PreparedScan:
        """Put a scan on the specialist's grid and keep it.

        Args:
            name: of the case.
            scan: as ``read`` gives it.
            frame: ``frame_of(scan)``, or a part of it.
            described: ``signature(scan)``, if it is known.
        """
        grid = grid_of(frame, self.spec)
        described = signature(scan) if described is None else described
        content = {
            "frame": asdict(grid),
            "affine": torch.from_numpy(np.array(scan.affine)),
            "image": normalised(grid, scan, self.spec.inputs).half(),
            "signature": described,
        }
        save_tensors(self._folder / f"{self._files[name]}.pt", content)
        return self.prepared(name)

    def is_prepared(self, name: str) -> bool:
        """Whether ``prepared`` can answer; what is kept is read, as it may be damaged."""
        try:
            return packed_whole(self._folder / f"{self._files[name]}.pt") and self.prepared(name) is not None
        except Exception as error:  # torch.load alone raises pickle, zip, runtime, EOF and key errors
            log.warning("what was prepared of %s is damaged and made anew (%s)", name, type(error).__name__)
            return False

    def is_human_kept(self, name: str) -> bool:
        """Whether ``target`` can answer for an outlined scan; what is kept is read, as it may be damaged."""
        try:
            return self.read_target(self._folder, name) is not None
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            log.warning("the label prepared of %s is damaged and made anew (%s)", name, type(error).__name__)
            return False

    def prepared(self, name: str) -> PreparedScan:
        """A scan on the specialist's grid."""

        def load() -> PreparedScan:
            content = load_tensors(self._folder / f"{self._files[name]}.pt")
            frame = Frame(**content["frame"])
            return PreparedScan(frame, content["affine"].numpy(), content["image"], content["signature"])

        return self._cache.get(f"image {name}", load, lambda scan: scan.image)

    # --- labels -------------------------------------------------------------------------------------------------------

    def keep_human(self, name: str, label: np.ndarray, frame: Frame) -> None:
        """Put a human label ``[D, H, W]`` on the specialist's grid and keep it.

        Voxels that nobody has annotated get weight 0, see ``lib.core.sparse_labels``.

        Raises:
            UserError: (422) when the label is not what is said about it; (413) when the specialist's grid over its scan
                is too large.
        """
        planes = find_planes(label, self.cases[name].annotated)
        grid = grid_of(frame, self.spec)
        if planes is None:
            soft = grid.one_hot(label, self.schema.channels)
            self.write_target(self._folder, name, soft, torch.ones(soft.shape[1:]))
        else:
            self.write_target(self._folder, name, *on_grid(label, planes, grid, self.schema.channels))

    def dense(self) -> list[str]:
        """Names of scans whose human label is annotated everywhere."""
        for name in self._human:
            if name not in self._dense:
                self._dense[name] = bool((self.target(name).confidence > 0).all())
        return [name for name in self._human if self._dense[name]]

    def need_dense(self) -> list[str]:
        """Those of ``dense`` that hold a structure; only these can be carried over to others.

        Raises:
            UserError: (409) when there is none.
        """
        held = [name for name in self._human if not self.cases[name].negative]
        if not held:
            raise UserError(only_negative(self._human), status=409)
        dense = self.dense()
        found = [name for name in held if name in dense]
        if not found:
            raise UserError(only_sparse(held), status=409)
        return found

    def target(self, name: str) -> SoftTarget:
        """The human label of a scan, else its current pseudo-label."""
        human = self.cases[name].label is not None
        folder = self._folder if human else self._round
        if folder is None:
            raise RuntimeError("use_round must be called before pseudo-labels are asked for")

        place = folder
        return self._cache.get(
            f"target {place} {name}", lambda: self.read_target(place, name), lambda target: target.probabilities
        )

    def current(self, name: str) -> SoftTarget | None:
        """The human label of a scan, else its current pseudo-label, None when it has neither yet."""
        human = self.cases[name].label is not None
        folder = self._folder if human else self._round
        return self.target(name) if folder is not None and self.has_target(folder, name) else None

    def has_target(self, folder: Path, name: str) -> bool:
        """Whether ``read_target`` can answer."""
        return (folder / f"{self._files[name]}.npz").exists()

    def read_target(self, folder: Path, name: str) -> SoftTarget:
        """What ``write_target`` wrote."""
        with np.load(folder / f"{self._files[name]}.npz") as content:
            return SoftTarget(torch.from_numpy(content["probabilities"]), torch.from_numpy(content["confidence"]))

    def write_target(self, folder: Path, name: str, probabilities: Tensor, confidence: Tensor) -> None:
        """Keep soft labels ``[1 + N, D, H, W]`` and confidence ``[D, H, W]`` in ``folder``."""
        arrays = {"probabilities": probabilities.half().numpy(), "confidence": confidence.half().numpy()}
        write_whole(folder / f"{self._files[name]}.npz", lambda temporary: save_arrays(temporary, arrays))

    def drop_target(self, folder: Path, name: str) -> None:
        """Remove what ``write_target`` wrote."""
        (folder / f"{self._files[name]}.npz").unlink(missing_ok=True)

    def use_round(self, folder: Path, useful: Sequence[str], unsound: Sequence[str] = ()) -> None:
        """From now on pseudo-labels come from ``folder``.

        Args:
            folder: of a round.
            useful: names of the scans that the training draws.
            unsound: those whose label is hardly right as a whole.
        """
        self._round = folder
        self._pseudo = list(useful)
        self._unsound = frozenset(unsound)

    def file_name(self, name: str) -> str:
        """A name without odd characters for files of a scan, no suffix."""
        return self._files[name]


def _file_name(number: int, name: str) -> str:
    return f"{number:05d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:80]}"

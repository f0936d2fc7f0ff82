"""The table of what each scan looks like: one vector a scan, kept beside the scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from lib.core.files import write_whole
from server.store.study import Study

from .scores import REPRESENTATIVENESS, Scores

_FORMAT = 2
"""Raised when ``lib.selection.describe`` gives something else than before."""
_LOCK_SECONDS = 30

logger = logging.getLogger("semisam.scores")


@dataclass(frozen=True, eq=False)
class Table:
    """Descriptors of scans.

    Args:
        names: the scans.
        stamps: state of each scan's file.
        values: ``[N, F]`` float32 of unit length.
    """

    names: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()
    values: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def by_name(self) -> dict[str, Tensor]:
        """Descriptors ``[F]`` by scan."""
        return dict(zip(self.names, self.values, strict=True))


class Descriptors:
    """The study's table on disk. It belongs to one generalist: another one starts anew.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._path = study.place / f"descriptors-{_FORMAT}-{study.settings.describing}.npz"

    @property
    def _place(self) -> Path:
        """The file; other weights give other descriptors, which cannot be compared with these."""
        weights = str(getattr(self._study.generalist, "weights_hash", ""))
        return self._path.with_name(f"{self._path.stem}-{weights[:12]}.npz") if weights else self._path

    def read(self) -> Table:
        """The table; empty when there is none or it is damaged."""
        try:
            with np.load(self._place, allow_pickle=False) as file:
                names, stamps, values = file["names"].tolist(), file["stamps"].tolist(), file["values"]
        except FileNotFoundError:
            return Table()
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            logger.warning("%s cannot be read and is made anew: %s", self._place, error)
            return Table()
        if values.ndim != 2 or not len(names) == len(stamps) == len(values):
            return Table()
        return Table(tuple(names), tuple(stamps), torch.from_numpy(np.asarray(values, dtype=np.float32)))

    def stamp(self, name: str) -> str:
        """State of a scan's file, as the table notes it."""
        return Scores(self._study).states(REPRESENTATIVENESS)(name)

    def missing(self) -> list[str]:
        """Scans that are not in the table as they are now, by name."""
        table = self.read()
        known = dict(zip(table.names, table.stamps, strict=True))
        return [name for name in sorted(self._study.datastore.list_images()) if known.get(name) != self.stamp(name)]

    def put(self, fresh: Mapping[str, Tensor], of: Mapping[str, str] | None = None) -> Table:
        """Add or replace descriptors, forget scans that are gone; returns the new table.

        Args:
            fresh: descriptors ``[F]`` by scan.
            of: the states of the scans' files they were made from, see ``stamp``; None for the present ones.
        """
        self._place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._place.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            return self._put(fresh, of or {})

    def _put(self, fresh: Mapping[str, Tensor], of: Mapping[str, str]) -> Table:
        table = self.read()
        here = set(self._study.datastore.list_images())
        rows = {n: (s, v) for n, s, v in zip(table.names, table.stamps, table.values, strict=True) if n in here}
        if rows and fresh and len(next(iter(fresh.values()))) != table.values.shape[1]:
            rows = {}  # of another version of the descriptor
        rows |= {
            n: (of.get(n) or self.stamp(n), v.detach().to("cpu", torch.float32)) for n, v in fresh.items() if n in here
        }
        if not rows:
            return Table()
        names = tuple(sorted(rows))
        table = Table(names, tuple(rows[n][0] for n in names), torch.stack([rows[n][1] for n in names]))

        def write(temporary: str) -> None:
            with Path(temporary).open("wb") as file:
                np.savez(file, names=np.array(table.names), stamps=np.array(table.stamps), values=table.values.numpy())

        write_whole(self._place, write)
        return table

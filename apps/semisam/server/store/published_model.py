"""The specialist in service: where it lies, and what it is loaded into."""

from __future__ import annotations

from pathlib import Path

from lib.core.cache import Recent, stamp_of
from lib.core.errors import UserError
from lib.specialists import Specialist, load_fitting

_NAME = "specialist.pt"


def published_in(folder: Path) -> Path:
    """The file of the specialist in service of a study, whether it is there or not.

    Args:
        folder: of the study's models.
    """
    return folder / _NAME


def need_published(path: Path) -> Path:
    """The file of the specialist in service.

    Raises:
        UserError: (409) when there is none yet.
    """
    if not path.is_file():
        raise UserError(
            "There is no trained specialist for this study yet: train first (Train in the viewer, or POST "
            "/train/semisam). Until then, 'propagate' gives a first label.",
            status=409,
        )
    return path


class LoadedSpecialists:
    """The specialist in service on each device that was asked for, read again only after it was replaced."""

    def __init__(self) -> None:
        self._kept: Recent[Specialist] = Recent(2)

    def get(self, path: Path, names: tuple[str, ...], device: str) -> Specialist:
        """The specialist on a device.

        Args:
            path: its file.
            names: of the study's structures.
            device: ``cpu`` or ``cuda[:n]``.

        Raises:
            UserError: (409) when there is none yet, or it was made for other structures.
        """
        need_published(path)
        return self._kept.get((device, names, *stamp_of(path)), lambda: load_fitting(path, names, device))

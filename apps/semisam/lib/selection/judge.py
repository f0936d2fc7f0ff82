"""What the scans of a study are judged by: the specialist, the outlined scans, the frozen model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from lib.core.cache import Recent, stamp_of
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume
from lib.generalists import Generalist
from lib.propagation import MOST_TEMPLATES, Propagator, Template, most_similar, signature
from lib.recipes import Case
from lib.specialists import Specialist, load_fitting

from . import Calibration, Shape, shapes_of

logger = logging.getLogger("semisam.scoring")

_MOST_HUMANS = 50
"""Outlined scans whose structures are compared with a pseudo-label's; each is read once a pass."""


@dataclass(frozen=True)
class Asked:
    """A scan to be scored, as plain facts.

    Args:
        name: id of the scan.
        image: its file or DICOM folder.
        methods: what to work out, names of ``MEASURES``.
        pseudo_label: its stored pseudo-label, for ``QUALITY``.
        source: what made the pseudo-label: ``propagation``, ``specialist``, or nothing when it does not say.
        states: what the answers depend on as it is at the time of the question, by method.
    """

    name: str
    image: Path
    methods: tuple[str, ...]
    pseudo_label: Path | None = None
    source: str = ""
    states: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Basis:
    """What all scans of a pass are judged by, as plain facts. All paths mean the same on every machine.

    Args:
        schema: the structures.
        published: file of the specialist in service, which may not be there.
        outlined: the wholly outlined scans, by name; may be empty where nothing is propagated.
        progress: how far the annotation of the study is, 0 to 1.
        calibration: from estimates of Dice to Dice.
    """

    schema: LabelSchema
    published: Path
    outlined: Sequence[Case] = ()
    progress: float = 0.0
    calibration: Calibration = field(default_factory=Calibration)


class Judge:
    """The basis with what is read for it, each thing when it is first needed.

    Args:
        basis: the facts.
        generalist: the frozen model.
        propagator: carries labels over.
        device: where the specialist works.
    """

    def __init__(self, basis: Basis, generalist: Generalist, propagator: Propagator, device: str) -> None:
        self.basis = basis
        self.generalist = generalist
        self.propagator = propagator
        self._device = device
        self._outlined = {case.name: case for case in basis.outlined}
        self._specialists: Recent[Specialist] = Recent(1)
        self._templates: Recent[Template] = Recent(MOST_TEMPLATES + 1)
        self._signatures: Recent[Tensor] = Recent(1000)

    def specialist(self) -> Specialist | None:
        """The specialist in service, read again when it was replaced; None as long as there is none.

        Raises:
            UserError: (409) when it was made for other structures, (422) when it is damaged.
        """
        path, names = self.basis.published, self.basis.schema.names
        if not path.is_file():
            return None
        return self._specialists.get(stamp_of(path), lambda: load_fitting(path, names, self._device))

    def templates_for(self, scan: Volume, most: int = MOST_TEMPLATES) -> list[Template]:
        """The outlined scans most similar to ``scan``, at most ``most``; the rest stays unread.

        Raises:
            UserError: (409) when there is none, (422) when one cannot be read.
        """
        if not self._outlined:
            raise UserError("No scan of this study is wholly outlined yet. Outline one, and try again.", status=409)
        return [self._template(name) for name in most_similar(scan, list(self._outlined), self._signature, most)]

    @cached_property
    def humans(self) -> Sequence[Sequence[Shape]]:
        """The structures of the outlined scans; labels that cannot be read are left out."""
        found = []
        for name in list(self._outlined)[:_MOST_HUMANS]:
            try:
                template = self._template(name)
            except UserError as error:
                logger.warning("The final label of %s is left out: %s", name, error)
                continue
            found.append(shapes_of(template.label, template.scan, self.basis.schema.count))
        return found

    def _template(self, name: str) -> Template:
        def read() -> Template:
            case = self._outlined[name]
            assert case.label is not None
            scan = read_volume(case.image)
            return Template(name, scan, read_label(case.label, scan, self.basis.schema))

        return self._templates.get(name, read)

    def _signature(self, name: str) -> Tensor:
        return self._signatures.get(name, lambda: signature(read_volume(self._outlined[name].image)))

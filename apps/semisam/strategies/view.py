"""What the strategies look at: the state of the study when somebody asks for the next scan."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from lib.core.errors import UserError
from lib.formats.volumes import read_volume
from lib.selection import by_coverage
from server.errors import text_of
from server.scores.descriptors import Descriptors
from server.scores.planes import planes_of_label
from server.scores.scores import REPRESENTATIVENESS, Scores
from server.store.folder_store import ORIGINAL
from server.store.study import Study
from server.study_page.acts import Acts

logger = logging.getLogger("semisam.strategies")


class View:
    """The study as it is now; whatever costs time is read when it is first asked for.

    Args:
        study: the study.
        taken: scans that somebody is at work on, the last one first.
    """

    def __init__(self, study: Study, taken: Sequence[str]) -> None:
        self.study = study
        self.taken = list(taken)
        self.scores = Scores(study)

    @cached_property
    def unlabelled(self) -> list[str]:
        """Scans without a final label, by name."""
        return self.study.unlabelled()

    @cached_property
    def outlined(self) -> list[str]:
        """Scans with a final label, by name."""
        return sorted(set(self.study.datastore.list_images()) - set(self.unlabelled))

    @cached_property
    def descriptors(self) -> dict[str, Tensor]:
        """What the scans look like, as far as they were looked at: ``[F]`` by scan."""
        return Descriptors(self.study).read().by_name()

    @cached_property
    def unusable(self) -> dict[str, str]:
        """Scans that cannot be read, and why."""
        return self.scores.unusable()

    @cached_property
    def sent_back(self) -> dict[str, str]:
        """Who has sent a scan's pseudo-label back, by scan, the first one first; see ``server.study_page.acts``."""
        return Acts(self.study).sent_back()

    @cached_property
    def uncertainties(self) -> dict[str, float]:
        """The best guess of how unsure the app is about each unlabelled scan, see ``Scores.uncertainties``."""
        return self.scores.uncertainties()

    @cached_property
    def typical(self) -> dict[str, float]:
        """Representativeness by scan, as far as known."""
        return self.scores.known(REPRESENTATIVENESS)

    @property
    def compared(self) -> bool:
        """Whether the scans were looked at, so that they can be compared."""
        return bool(self.descriptors)

    def covering(self, names: Sequence[str]) -> list[str]:
        """Scans by how much they add to those that are outlined or in work, see ``lib.selection.by_coverage``."""
        return by_coverage(names, self.descriptors, [*self.outlined, *self.taken], self.typical)

    def has_pseudo_label(self, name: str) -> bool:
        """Whether a pseudo-label of the scan is stored."""
        return bool(self.study.datastore.get_label_by_image_id(name, ORIGINAL))

    def readable(self, name: str) -> bool:
        """Whether the scan can be read; looked into only when nothing is known about it yet."""
        if name in self.unusable:
            return False
        if name in self.descriptors or name in self.uncertainties:
            return True
        try:
            read_volume(Path(self.study.datastore.get_image_uri(name)))
        except UserError as error:
            logger.warning("Passed over %s: %s", name, error)
            self.unusable[name] = str(error)
            self.scores.put_unusable({name: str(error)})
            return False
        except Exception as error:
            # A remote store fetches the scan here; another one may come through.
            logger.warning("Passed over %s, it could not be fetched: %s: %s", name, type(error).__name__, error)
            self.unusable[name] = f"it could not be fetched: {text_of(error)}"
            return False
        return True

    def planes(self, name: str) -> dict[str, Any] | None:
        """The planes most worth outlining: from the last prediction, else from the pseudo-label, else unknown."""
        known = self.scores.planes(name)
        if known is not None or not self.has_pseudo_label(name):
            return known
        try:
            scan = read_volume(Path(self.study.datastore.get_image_uri(name)))
            return planes_of_label(self.study.read_stored(name, ORIGINAL, scan), scan)
        except UserError as error:
            logger.warning("No planes of %s can be named: %s", name, error)
            return None

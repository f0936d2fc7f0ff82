"""The structures of a study for which the administrator has set none: those of the final labels."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

from monailabel.interfaces.datastore import Datastore

from lib.core.cache import Recent, stamp_of
from lib.core.errors import UserError
from lib.core.labels import MAX_LABELS, LabelSchema
from lib.formats.label_files import largest_label
from lib.formats.segmentations import names_in_file
from server.upstream.local_datastore import labels_on_disk

from .folder_store import FINAL, StudyDatastore
from .label_facts import LabelFacts

logger = logging.getLogger("semisam.study")

_LOOK_SECONDS = 1.0
"""How often labels are looked at for another program's changes."""


class FoundSchema:
    """The structures as they are now.

    Args:
        datastore: where the labels are.
    """

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self._largest: Recent[int] = Recent(1000)
        self._found: tuple[object, LabelSchema] | None = None
        self._looked_at = -math.inf

    def current(self) -> LabelSchema:
        """The structures of the people's labels; one called ``structure`` without any."""
        version = self._version()
        if self._found is None or version is None or self._found[0] != version:
            schema, source = self._derived()
            if self._found is None or self._found[1] != schema:
                listed = ", ".join(f"{value} {name}" for name, value in schema.as_dict().items())
                logger.info("Labels (%s): %s. Set them with: --conf labels name,name,...", source, listed)
            self._found = (version, schema)
        return self._found[1]

    def _version(self) -> object:
        """Changes when a final label does, also one that is overwritten in place, which is looked for once a second."""
        if not hasattr(self._datastore, "version"):
            return None
        listed = self._datastore.version()
        now = time.monotonic()
        if self._found is not None and now - self._looked_at < _LOOK_SECONDS:
            before = self._found[0]
            if isinstance(before, tuple) and before[0] == listed:
                return before
        self._looked_at = now
        return listed, tuple(stamp_of(path) for path in self._labels().values())

    def _labels(self) -> dict[str, Path]:
        """The files of the final labels by the scans' ids, as far as known without asking a remote server."""
        store = self._datastore
        found = store.labels_on_disk(FINAL) if isinstance(store, StudyDatastore) else labels_on_disk(store, FINAL)
        return dict(sorted(found.items()))

    def _derived(self) -> tuple[LabelSchema, str]:
        labels = self._labels()
        named = [self._names(name, path) for name, path in labels.items()]
        for names in sorted((n for n in named if n), key=lambda n: (-len(n), n)):
            try:
                return LabelSchema(tuple(name for name, _ in names)), "from the names in the final labels"
            except UserError as error:
                logger.warning("The names of a final label cannot be used: %s", error)
        largest = max((self._largest_value(path) for path in labels.values()), default=0)
        if largest:
            return LabelSchema(
                tuple(f"label_{n}" for n in range(1, largest + 1))
            ), "from the values in the final labels"
        return LabelSchema(("structure",)), "no final label yet"

    def _names(self, name: str, label: Path) -> tuple[tuple[str, int], ...]:
        """The named values of a final label: its file's own names go before those beside it."""
        try:
            own = tuple(names_in_file(label))
        except UserError:
            own = ()  # it is told where the label is read
        return own or LabelFacts.from_info(self._datastore.get_label_info(name, FINAL)).names

    def _largest_value(self, path: Path) -> int:
        return self._largest.get(stamp_of(path), lambda: _largest_value(path))


def _largest_value(path: Path) -> int:
    """Largest voxel value of a label; 0 when it cannot be read or holds anything but a few whole numbers."""
    try:
        largest = largest_label(path)
    except UserError as error:
        logger.warning("A final label is not looked into: %s", error)
        return 0
    return int(largest) if largest.is_integer() and 0 < largest <= MAX_LABELS else 0

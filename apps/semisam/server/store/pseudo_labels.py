"""Pseudo-labels of a training on their way into the datastore, whichever datastore it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore

from .folder_store import ORIGINAL, StudyDatastore

_AT_ONCE = 25


class PseudoLabels:
    """Stores pseudo-labels. MONAI Label's own datastores take one at a time, and keep none back.

    Args:
        datastore: where they go.
    """

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore

    def save(self, labels: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        """Store labels, a few at a time: each change of the list makes the server read it anew, and blocks writers.

        Args:
            labels: file and info by the scans' ids.
        """
        store = self._datastore
        if not isinstance(store, StudyDatastore):
            for name, (file, info) in labels.items():
                store.save_label(name, file, ORIGINAL, dict(info))
            return
        names = list(labels)
        for start in range(0, len(names), _AT_ONCE):
            known = set(store.list_images())  # somebody may have taken a scan out meanwhile
            store.save_labels(
                ORIGINAL, {n: labels[n] for n in names[start : start + _AT_ONCE] if n in known}, interim=True
            )

    def publish(self, names: Iterable[str]) -> None:
        """The pseudo-labels of these scans will stay: a DICOM server may have to get them."""
        if isinstance(self._datastore, StudyDatastore):
            self._datastore.publish(names)

    def unsent(self) -> dict[str, str]:
        """Pseudo-labels that a server could not be given, by the scans' ids, each with the reason."""
        return self._datastore.unsent() if isinstance(self._datastore, StudyDatastore) else {}

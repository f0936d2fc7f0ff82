"""``uniform``: scans spread evenly over the study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from adapters.study import Study


class Uniform(Strategy):
    """Walks through the study in ever finer steps: middle, quarters, eighths, ...; the same answer every time.

    Neighbours by name are often of one patient or one day; after n answers no part of the list is left out.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        super().__init__("Uniform: scans spread evenly over the study, by name")
        self.study = study

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """The id of the scan, nothing when all scans have a final label."""
        names = sorted(self.study.datastore.list_images())
        unlabelled = set(self.study.unlabelled())
        return next(({"id": names[n]} for n in spread(len(names)) if names[n] in unlabelled), {})


def spread(count: int) -> list[int]:
    """The numbers 0..count-1, each as far as possible from those before it (van der Corput order)."""
    bits = max(1, count - 1).bit_length()
    order = (int(f"{n:0{bits}b}"[::-1], 2) for n in range(2**bits))
    return [n for n in order if n < count]

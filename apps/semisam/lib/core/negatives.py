"""Scans that a person says hold none of the structures: an empty ``final`` label that is clearly meant.

An empty file alone may be a mistake. One that comes with the names of its segments, as viewers send them, or with the
word that all of it is annotated, says that these were looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import listed
from .sparse_labels import Annotated


def is_meant(names: Sequence[tuple[str, int]], annotated: Annotated | str) -> bool:
    """Whether an empty label says that nothing is there.

    Args:
        names: the label's named values, see ``lib.core.label_names.names_in``.
        annotated: what a person says is annotated in it, see ``lib.core.sparse_labels``.
    """
    return annotated == "all" or (bool(names) and annotated != "planes")


def counts_without(names: Sequence[str]) -> str:
    """What to tell a person who has saved such a label.

    Args:
        names: of the structures.
    """
    return (
        f"This outline is empty: the scan counts as one without {', '.join(names)}. If that is not meant, outline and "
        "submit again."
    )


def only_negative(scans: Sequence[str]) -> str:
    """What to tell a person who wants labels carried over, but there is nothing outlined in these scans."""
    return (
        f"The scans with a 'final' label ({listed(scans)}) hold none of the structures. Outline one scan that does, "
        "save it as final, and try again."
    )

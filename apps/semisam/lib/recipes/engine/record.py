"""The record of a finished round: its scans, its metric and the sums of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.core.sealed import read_sealed, write_sealed

CHECKPOINT = "specialist.pt"
"""The round's specialist, in its folder."""

COTRAINING = "cotraining.pt"
"""Networks and optimisers of a training that goes on over the rounds."""

KEPT_ROUNDS = 2
"""Rounds that a run can go on from: the last one, and the one before should the last one's files be damaged."""

LARGE = ("*.npz", COTRAINING)
"""What a run needs of a round only to go on from it."""

PASSING = ("fold-*.pt", "training-*.pt")
"""Files that only an unfinished round needs: once it is finished, these networks are in its specialist."""


@dataclass(frozen=True)
class RoundRecord:
    """A finished round.

    Args:
        names: of the scans with a pseudo-label.
        skipped: why scans were left out, by name.
        best_metric: see ``Progress``.
        files: sums of its files by name, see ``sealed.sums_of``.
        run: digest of what the run works on.
    """

    names: tuple[str, ...]
    skipped: Mapping[str, str]
    best_metric: float
    files: Mapping[str, object]
    run: str


def write_record(folder: Path, record: RoundRecord) -> None:
    """Write what is known of a round into its folder."""
    write_sealed(folder / "round.json", {**asdict(record), "names": list(record.names)})


def read_record(folder: Path) -> RoundRecord | None:
    """What ``write_record`` wrote, None when it is missing or damaged."""
    content = read_sealed(folder / "round.json")
    if content is None:
        return None
    names, skipped, files = content.get("names"), content.get("skipped"), content.get("files")
    best = content.get("best_metric")
    if not isinstance(names, list) or not isinstance(skipped, dict) or not isinstance(files, dict):
        return None
    if not isinstance(best, (int, float)):
        return None
    return RoundRecord(tuple(names), skipped, float(best), files, str(content.get("run")))

"""What follows when a person has saved a ``final`` label: guesses are settled, and the next step is named.

And when a scan was deleted: nothing of it is left for another one of its name.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lib.core.errors import UserError
from lib.core.metrics import mean_dice
from lib.core.negatives import counts_without
from server.errors import text_of
from server.scores.offered import OfferedScans
from server.scores.scores import Scores
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study

logger = logging.getLogger("semisam")


def settle(study: Study, name: str) -> dict[str, Any]:
    """Settle the scores of an outlined scan and give the scan free.

    Nothing in here may fail the save: the label is stored already.

    Returns:
        For the client: ``advice``, and ``pseudo_label_dice`` when the scan had a pseudo-label: how near it came.
    """
    reply: dict[str, Any] = {}
    try:
        dice = _dice_of_pseudo_label(study, name)
        if dice is not None:
            reply["pseudo_label_dice"] = round(dice, 4)
            logger.info("The pseudo-label of %s had a mean Dice of %.3f", name, dice)
        Scores(study).settle(name, dice)
        OfferedScans(study).done(name)
        reply["advice"] = _advice(study)
        logger.info("%s", reply["advice"])
    except Exception as error:
        logger.exception("The scores of %s could not be settled: %s", name, error)
    return reply


def forget(study: Study, name: str) -> None:
    """Delete what was worked out about a scan that is no longer in the study."""
    Scores(study).forget(name)
    OfferedScans(study).forget(name)


def _dice_of_pseudo_label(study: Study, name: str) -> float | None:
    """Mean Dice of the pseudo-label against the person's label; None when one of them is missing or not usable."""
    path = study.datastore.get_label_uri(name, ORIGINAL)
    item = study.final_label(name)
    if not path or not Path(path).is_file() or item is None:
        return None
    try:
        if study.check(item).planes is not None:
            return None
        truth = study.template(item)
        guess = study.read_stored(name, ORIGINAL, truth.scan)
    except UserError as error:
        logger.info("The pseudo-label of %s cannot be compared with the new label: %s", name, error)
        return None
    return mean_dice(guess, truth.label, study.schema.count)


def _advice(study: Study) -> str:
    """What a person may do next; nothing of it starts by itself."""
    if not study.published.is_file():
        return (
            f"Outlined so far: {_scans(len(study.final_labels()))}. Carry the outlines over with a batch infer "
            "('propagate'), or train (Train in the viewer)."
        )
    trained = study.published.stat().st_mtime
    newer = sum(label.saved > trained for label in study.final_labels())
    return f"{_scans(newer)} outlined since the last training. Train again when you want them to count."


def _scans(count: int) -> str:
    return f"{count} scan{'' if count == 1 else 's'}"


def saved(study: Study, image_id: str) -> dict[str, Any]:
    """What a person who has saved a label is told: whether it can be used, and what comes next. The label stays.

    Args:
        study: the study.
        image_id: the scan.
    """
    warnings = []
    try:
        item = study.final_label(image_id)
        if item is not None and study.check(item).empty:
            warnings.append(counts_without(study.schema.names))
    except UserError as error:
        logger.warning("%s", error)
        warnings.append(str(error))
    except Exception as error:
        # The label is stored; the client must not take it for lost.
        warnings.append(f"The label is stored, but could not be looked into: {text_of(error)}.")
    if not study.datastore.get_label_by_image_id(image_id, FINAL):
        return {"warnings": warnings}
    return {"warnings": warnings, **settle(study, image_id)}

"""What to do next with a study, from its first outline to the last review: there is always something."""

from __future__ import annotations

from collections.abc import Mapping

from server.store.study import Study


def next_step(study: Study, counts: Mapping[str, int]) -> dict[str, str]:
    """The next step.

    Args:
        study: the study.
        counts: scans of each kind, see ``study_table.counts_of``.

    Returns:
        ``step``: ``add``, ``outline``, ``carry``, ``review``, ``train`` or ``done``; ``text``: why, in a sentence.
    """
    if not counts["all"]:
        return _step("add", "There is no scan in this study yet.")
    if counts["unusable"]:
        plural = counts["unusable"] > 1
        text = f"{_scans(counts['unusable'])} with a final label that cannot be used: each says why"
        return _step("review", f"{text}. Outline {'them' if plural else 'it'} anew, or correct the label.")
    if not counts["done"]:
        return _step("outline", f"None of the {_scans(counts['all'])} is outlined yet. One outline is enough to begin.")
    return _going_on(counts, trained=study.published.is_file() or bool(counts["trained"]))


def _going_on(counts: Mapping[str, int], *, trained: bool) -> dict[str, str]:
    """The next step of a study with an outline."""
    labelled = f"{_scans(counts['labelled'])} with a pseudo-label"
    if not counts["open"]:
        return _step("done", f"All {_scans(counts['all'])} have a final label.")
    if counts["none"]:
        return _step("carry", f"{_scans(counts['none'])} without a label: the outlines can be carried over to them.")
    if counts["sent_back"]:
        text = f"{_scans(counts['sent_back'])} sent back: outline these first, then carry over or train again."
        return _step("outline", text)
    if not trained:
        return _step("train", f"{labelled} that was carried over: look at some of them, and train a network on all.")
    return _step("review", f"{labelled} to look at: accept it, or send it back.")


def _step(step: str, text: str) -> dict[str, str]:
    return {"step": step, "text": text}


def _scans(count: int) -> str:
    return f"{count} scan{'' if count == 1 else 's'}"

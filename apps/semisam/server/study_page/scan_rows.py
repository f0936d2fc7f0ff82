"""What the page says about each scan of the study: where its label comes from, how good it is, how large, how old."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from server.scores.scores import QUALITY, Scores
from server.store.folder_store import FINAL, ORIGINAL
from server.store.label_facts import LabelFacts
from server.store.study import Study

State = Literal["outlined", "accepted", "trained", "carried", "stored", "none", "unusable", "left_out"]
STATES: Mapping[State, str] = {
    "outlined": "Outlined",
    "accepted": "Accepted",
    "trained": "Labelled by the trained network",
    "carried": "Carried over",
    "stored": "Labelled",
    "none": "Not labelled yet",
    "unusable": "Cannot be used",
    "left_out": "Left out",
}
"""Where a scan stands, in words. ``stored`` is a pseudo-label that somebody else has brought, ``unusable`` a
final label that does not fit."""
DONE: tuple[State, ...] = ("outlined", "accepted")
LABELLED: tuple[State, ...] = ("trained", "carried", "stored")

LOW_QUALITY = 0.7
"""Estimated Dice below which a person should look."""
_FEW = 5
"""Volumes that are known at least before one is called far from the rest."""
_FAR = 3.5
"""Robust standard deviations of the logarithm that are far."""
_SPREAD = 0.15
"""The least such deviation: in a study of twins nobody is odd for a tenth."""
ACCEPTED = "accepted"
"""Key of a final label's notes: who has accepted which pseudo-label, and when."""


@dataclass(frozen=True)
class ScanRow:
    """A scan.

    Args:
        name: its id.
        title: what people call it: the patient's id of a DICOM series, else its id.
        about: more of a DICOM series: date, modality, description.
        exam: UID of its DICOM study, by which OHIF finds it; empty for other scans.
        state: see ``STATES``.
        words: the same in a sentence, without a time.
        by: who has outlined or accepted it, as far as that is known.
        saved: when its label was saved, in seconds since 1970; 0 when that is not known.
        quality: estimated Dice of its pseudo-label, 0..1; None when it was not judged.
        quality_range: the lowest and the highest of its structures.
        out_of_date: whether that was before the last change of label or network.
        volumes: of its structures in ml, as far as known.
        odd: what is odd about a volume, by structure.
        review: why a person should look at it.
        sent_back: who has sent it back, empty for nobody.
    """

    name: str
    title: str
    about: str
    exam: str
    state: State
    words: str
    by: str = ""
    saved: int = 0
    quality: float | None = None
    quality_range: tuple[float, float] | None = None
    out_of_date: bool = False
    volumes: Mapping[str, float] = field(default_factory=dict)
    odd: Mapping[str, str] = field(default_factory=dict)
    review: tuple[str, ...] = ()
    sent_back: str = ""


def rows_of(
    study: Study,
    sent_back: Mapping[str, str],
    measured: Mapping[str, Mapping[str, float]],
    faults: Mapping[str, str] = MappingProxyType({}),
) -> list[ScanRow]:
    """A row for each scan, by name. Nothing is fetched or read for this but notes.

    Args:
        study: the study.
        sent_back: who has sent a scan's pseudo-label back, by scan.
        measured: volumes that were measured in final labels, by scan.
        faults: why final labels cannot be used, by scan, as far as that is known.
    """
    scores = Scores(study)
    content, unusable = scores.read(), scores.unusable()
    judged = any(QUALITY in entries for entries in content.values())
    current = scores.states(QUALITY) if judged else str
    listed = _listed(study)
    titles = {name: _titles(name, scan)[0] for name, (scan, _) in listed.items()}
    rows = []
    for name, (scan, labels) in sorted(listed.items()):
        row = _row(name, scan, labels, measured.get(name, {}), titles)
        if row.state in DONE and name in faults:
            row = replace(row, state="unusable", words=f"{row.words}. {faults[name]}", volumes={})
        elif row.state not in DONE and name in unusable:
            row = replace(row, state="left_out", words=f"Left out: {unusable[name]}")
        if row.state in LABELLED:
            entry = content.get(name, {}).get(QUALITY, {})
            row = _judged(row, entry, out_of_date=bool(entry) and entry.get("of") != current(name))
        if row.state not in DONE and name in sent_back:
            row = replace(row, sent_back=sent_back[name])
        rows.append(row)
    return [_reviewed(row) for row in _compared(rows)]


def _listed(study: Study) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]]:
    """What is noted of each scan, and of its labels by tag."""
    store = study.datastore
    content = store.json()
    objects = content.get("objects") if isinstance(content, Mapping) else None
    if isinstance(objects, Mapping):
        return {
            str(name): (
                item["image"].get("info") or {},
                {str(tag): label.get("info") or {} for tag, label in item["labels"].items()},
            )
            for name, item in objects.items()
        }
    return {
        name: (
            store.get_image_info(name),
            {t: store.get_label_info(name, t) for t in (FINAL, ORIGINAL) if store.get_label_by_image_id(name, t)},
        )
        for name in store.list_images()
    }


def _row(
    name: str,
    scan: Mapping[str, Any],
    labels: Mapping[str, Mapping[str, Any]],
    measured: Mapping[str, float],
    titles: Mapping[str, str],
) -> ScanRow:
    title, about, exam = _titles(name, scan)
    base = ScanRow(name, title, about, exam, "none", "Not labelled yet")
    tag = next((each for each in (FINAL, ORIGINAL) if each in labels), None)
    if tag is None:
        return base
    facts = LabelFacts.from_info(labels[tag])
    state, words, by = origin_of(facts, tag, titles)
    params = facts.params or {}
    volumes = (measured if tag == FINAL else {}) or _numbers(params.get("volume_ml"))
    warnings = params.get("warnings")
    told = tuple(str(text) for text in warnings) if isinstance(warnings, Sequence) and tag == ORIGINAL else ()
    return replace(base, state=state, words=words, by=by, saved=facts.saved, volumes=volumes, review=told)


def _titles(name: str, scan: Mapping[str, Any]) -> tuple[str, str, str]:
    exam = scan.get("StudyInstanceUID")
    if not isinstance(exam, str):
        return name, "", ""
    known = [str(scan.get(key, "")) for key in ("StudyDate", "Modality", "SeriesDescription")]
    patient = str(scan.get("PatientID") or "")
    about = ", ".join(text for text in known if text not in ("", "UNK"))
    return (patient if patient not in ("", "UNK") else name), about, exam


def _person(facts: LabelFacts) -> str:
    """Who has outlined a scan; MONAI Label notes ``admin`` when nobody logs in."""
    user = facts.user if facts.user and facts.user != "admin" else ""
    return user or facts.client_id or ""


def origin_of(facts: LabelFacts, tag: str, titles: Mapping[str, str]) -> tuple[State, str, str]:
    """Where a label comes from: the state of its scan, the same in words, and who it was.

    Args:
        facts: what is known of the label.
        tag: its tag.
        titles: what people call the scans.
    """
    if tag == FINAL:
        accepted = facts.more.get(ACCEPTED)
        if isinstance(accepted, Mapping) and accepted.get("by") == facts.user:  # no other program's word
            return "accepted", f"Accepted by {facts.user}", str(facts.user)
        by = _person(facts)
        return "outlined", f"Outlined by {by}" if by else "Outlined", by
    params = facts.params or {}
    if params.get("source") == "specialist" or facts.model == "segment":
        number = params.get("round")
        told = f", round {number}" if isinstance(number, int) else ""
        return "trained", f"Labelled by the trained network{told}", ""
    if params.get("source") == "propagation":
        return "carried", _carried(params.get("templates"), titles), ""
    return "stored", f"Labelled by {facts.model}" if facts.model else "Labelled", ""


def _carried(templates: object, titles: Mapping[str, str]) -> str:
    if not isinstance(templates, Sequence) or isinstance(templates, str) or not templates:
        return "Carried over"
    return f"Carried over from {', '.join(titles.get(str(name), str(name)) for name in templates)}"


def _judged(row: ScanRow, entry: Mapping[str, Any], *, out_of_date: bool) -> ScanRow:
    value, each = entry.get(QUALITY), entry.get("dice")
    if not isinstance(value, (int, float)):
        return row
    parts = [float(v) for v in each if isinstance(v, (int, float))] if isinstance(each, Sequence) else []
    span = (min(parts), max(parts)) if parts else None
    return replace(row, quality=float(value), quality_range=span, out_of_date=out_of_date)


def _compared(rows: Sequence[ScanRow]) -> list[ScanRow]:
    """The rows, with the volumes marked that are far from the others'."""
    names = dict.fromkeys(name for row in rows for name in row.volumes)
    usual: dict[str, tuple[float, float, float]] = {}
    for name in names:
        known = np.array([row.volumes[name] for row in rows if name in row.volumes])
        seen = np.log(known[known > 0])
        if len(known) >= _FEW and len(seen):
            middle = float(np.median(seen))
            spread = max(_SPREAD, 1.4826 * float(np.median(np.abs(seen - middle))))
            usual[name] = middle, spread, len(seen) / len(known)
    return [replace(row, odd=_odd(row.volumes, usual)) if row.volumes else row for row in rows]


def _odd(volumes: Mapping[str, float], usual: Mapping[str, tuple[float, float, float]]) -> dict[str, str]:
    found = {}
    for name, volume in volumes.items():
        if name not in usual:
            continue
        middle, spread, share = usual[name]
        if volume <= 0:
            if share > 0.8:
                found[name] = "missing, most scans have it"
        elif abs(np.log(volume) - middle) > _FAR * spread:
            times = float(volume / np.exp(middle))
            found[name] = f"{times:.2g} times what is usual in this study"
    return found


def _reviewed(row: ScanRow) -> ScanRow:
    if row.state not in LABELLED:
        return replace(row, review=())
    reasons = list(row.review)
    if row.quality is not None and row.quality < LOW_QUALITY:
        reasons.append(f"estimated quality {row.quality:.2f}")
    reasons += [f"{name}: {text}" for name, text in row.odd.items()]
    return replace(row, review=tuple(reasons))


def _numbers(values: object) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    return {str(k): float(v) for k, v in values.items() if isinstance(v, (int, float)) and np.isfinite(v)}

"""Labels of other programs become the ``final`` labels of the study's scans.

They are stored in the way in which a viewer's are, so that a running server, a DICOM server and whoever looks later see
the same. Whoever runs this command is the person who answers for them.
"""

from __future__ import annotations

import csv
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException

from lib.core.errors import UserError, listed
from lib.core.files import write_whole
from lib.core.label_names import as_label_info
from lib.core.labels import LabelSchema
from lib.core.sparse_labels import find_planes
from lib.exchange.incoming import Found, Incoming, StudyScans, Taken, TargetScan
from lib.exchange.name_table import NameTable, understood, write_table
from lib.formats.volumes import read_volume, write_label
from server.dicomweb.datastore import DicomWebStudy
from server.errors import text_of
from server.requests.submitted import settle
from server.store.folder_store import FINAL, StudyDatastore
from server.store.study import Study

logger = logging.getLogger("semisam.import")

IMPORTED, WOULD_BE, KEPT, OLDER, REFUSED = "imported", "would be imported", "kept", "older", "refused"


@dataclass(frozen=True)
class ImportRequest:
    """How labels are imported.

    Args:
        names: table of names; written there when it is needed and not there. None has none.
        leave_out_others: leave out structures whose names are not the study's, without a word about each.
        replace: take the place of final labels that scans have already.
        newest: of several DICOM objects of one scan, take the one that was made last.
        scan: name of the scan that the one label belongs to, "" to go by what the labels say.
        by: who answers for the labels, "" when that is not known.
        dry_run: read and check, and store nothing.
        at_start: this is the start of a server, and no command line.
        saving: entered with the name of a scan while its label is stored; raises UserError when it may not be.
    """

    names: Path | None = None
    leave_out_others: bool = False
    replace: bool = False
    newest: bool = False
    scan: str = ""
    by: str = ""
    dry_run: bool = False
    at_start: bool = False
    saving: Callable[[str], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Line:
    """What has become of one label.

    Args:
        source: its file.
        kind: its format, "" when it could not be read.
        scan: name of its scan, "" when that is not known.
        result: ``imported``, ``would be imported``, ``kept`` (the scan's final label), ``older`` or ``refused``.
        reason: why, or what a person should know about it.
    """

    source: str
    kind: str
    scan: str
    result: str
    reason: str = ""


@dataclass
class _Plan:
    """Which label goes to which scan."""

    pairs: list[tuple[Incoming, str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def refuse(self, label: Incoming, scan: str, reason: object) -> None:
        self.lines.append(Line(label.source, label.kind, scan, REFUSED, str(reason)))


def import_labels(
    study: Study, found: Found, request: ImportRequest, say: Callable[[int, int, str], object]
) -> list[Line]:
    """Make labels final.

    Args:
        study: the study.
        found: the labels.
        request: how.
        say: called before each label with the numbers of those done and in all, and the next one's scan.

    Returns:
        What has become of each.

    Raises:
        UserError: (409) when names are not the study's, and no table says what they mean: nothing was imported then.
    """
    plan = _planned(study, found, request)
    schema, values = _meanings(study, plan, request)
    _choose(plan, values, newest=request.newest)
    store = study.datastore
    if isinstance(store, StudyDatastore):
        store.serving = True  # the person is at the keyboard
    for done, (label, name) in enumerate(plan.pairs):
        say(done, len(plan.pairs), name)
        wanted = {each: values[each] for each in label.names if each in values}
        try:
            note = _take(study, label, name, (schema, wanted), request)
        except (UserError, HTTPException) as error:
            plan.refuse(label, name, text_of(error))
            continue
        plan.lines.append(Line(label.source, label.kind, name, WOULD_BE if request.dry_run else IMPORTED, note))
    say(len(plan.pairs), len(plan.pairs), "")
    return sorted(plan.lines, key=lambda line: line.source)


def _planned(study: Study, found: Found, request: ImportRequest) -> _Plan:
    """Which label goes to which scan; others with the reason."""
    plan = _Plan(lines=[Line(source, "", "", REFUSED, reason) for source, reason in found.refused.items()])
    if request.scan and len(found.labels) != 1:
        raise UserError(f"--scan says to which scan one label belongs, but there are {len(found.labels)}.")
    store = study.datastore
    names = store.list_images()
    if request.scan and request.scan not in names:
        raise UserError(f"The study has no scan {request.scan!r}.", status=404)
    dicom = store.dicom_of if isinstance(store, StudyDatastore) else lambda name: None
    scans = StudyScans(names, dicom, named_by_series=isinstance(store, DicomWebStudy))
    by_scan: dict[str, list[Incoming]] = {}
    for label in found.labels:
        try:
            by_scan.setdefault(request.scan or scans.find(label.belongs), []).append(label)
        except UserError as error:
            plan.refuse(label, "", error)
    for name, labels in by_scan.items():
        if not request.replace and store.get_label_by_image_id(name, FINAL):
            text = "The scan has a final label already. With --replace, this one takes its place."
            plan.lines += [Line(each.source, each.kind, name, KEPT, text) for each in labels]
        else:
            plan.pairs += [(label, name) for label in labels]
    return plan


def _choose(plan: _Plan, values: Mapping[str, int], *, newest: bool) -> None:
    """Leave the labels in which a structure is wanted, one for each scan; refuse the others."""
    by_scan: dict[str, list[Incoming]] = {}
    for label, name in plan.pairs:
        if any(each in values for each in label.names):
            by_scan.setdefault(name, []).append(label)
        else:
            plan.refuse(label, name, "It holds none of the study's structures.")
    plan.pairs = []
    for name, labels in by_scan.items():
        first = labels[0] if len(labels) == 1 else _last_made(labels) if newest else None
        if first is not None:
            plan.pairs.append((first, name))
        for label in labels:
            if first is None:
                sources = listed([each.source for each in labels])
                more = "--newest cannot tell which was made last. " if newest else ""
                text = f"There are {len(labels)} labels of this scan ({sources}). {more}Give one of them"
                plan.refuse(label, name, f"{text}." if newest else f"{text}, or take the newest: --newest.")
            elif label is not first:
                plan.lines.append(Line(label.source, label.kind, name, OLDER, f"{first.source} was made later."))


def _last_made(labels: Sequence[Incoming]) -> Incoming | None:
    """The label that was made last; None when one does not say when, or two were made at once."""
    ordered = sorted(labels, key=lambda each: each.created)
    known = all(each.created for each in labels) and ordered[-1].created > ordered[-2].created
    return ordered[-1] if known else None


def _meanings(study: Study, plan: _Plan, request: ImportRequest) -> tuple[LabelSchema, Mapping[str, int]]:
    """The study's structures, and the value of each name that is wanted.

    Raises:
        UserError: (409) when the meaning of names is not known.
    """
    table = NameTable.read(request.names) if request.names is not None and request.names.exists() else None
    schema = _schema(study)
    found: dict[str, list[str]] = {}
    for label, _ in plan.pairs:
        for name in label.names:
            found.setdefault(name, []).append(label.source)
    if schema is None and table is not None and (table.structures or not found):
        schema = table.schema()
    names = understood(found, schema, table)
    if names.open and not (request.leave_out_others and schema is not None):
        raise _unknown(names.open, found, schema, table, request)
    return schema or LabelSchema(("structure",)), names.values


def _schema(study: Study) -> LabelSchema | None:
    """The structures as settings or final labels tell them; None when neither does."""
    if study.settings.labels is not None:
        return study.settings.labels
    return study.schema if study.final_labels() else None


def _unknown(
    names: Sequence[str],
    found: Mapping[str, Sequence[str]],
    schema: LabelSchema | None,
    table: NameTable | None,
    request: ImportRequest,
) -> UserError:
    """Ask for a table of names, which is written if there is a place for it."""
    known = "which are not known yet" if schema is None else ", ".join(schema.names)
    what = f"{len(names)} name(s) are none of the study's structures ({known}): {listed([repr(n) for n in names])}."
    path, again = request.names, "run the same command again"
    if request.at_start:
        again = "start the server again"
    if path is None and request.at_start:
        return UserError(f"{what} Nothing was imported. Start again with --conf import_names names.csv.", status=409)
    if path is None:
        more = "" if schema is None else ", or leave them all out with --leave-out-others"
        return UserError(f"{what} Nothing was imported. Run again with --names names.csv{more}.", status=409)
    write_table(path, found, schema, table)
    return UserError(
        f"{what} Nothing was imported. {path} lists all names: fill in the structure of each, or - to leave it out, "
        f"and {again}.",
        status=409,
    )


def _take(
    study: Study, label: Incoming, name: str, meaning: tuple[LabelSchema, Mapping[str, int]], request: ImportRequest
) -> str:
    """Read a label and make it final; returns what a person should know about it.

    Raises:
        UserError, HTTPException: when it cannot be used.
    """
    schema, values = meaning
    store = study.datastore
    dicom = store.dicom_of(name) if isinstance(store, StudyDatastore) else None
    scan = read_volume(store.get_image_uri(name))
    taken = label.read(TargetScan(name, scan, dicom), values)
    if taken.label.any():
        find_planes(taken.label, taken.annotated)
    if not request.dry_run:
        with tempfile.TemporaryDirectory(prefix="import-") as folder:
            file = Path(folder) / "label.nii.gz"
            write_label(file, taken.label, scan.affine)
            info = _info(taken, schema, label)
            with request.saving(name):
                store.save_label(name, str(file), FINAL, {**info, "user": request.by} if request.by else info)
        settle(study, name)
    return _note(taken, schema)


def _info(taken: Taken, schema: LabelSchema, label: Incoming) -> dict[str, Any]:
    """What is noted of an imported label; an empty one with names says that nothing is there."""
    info: dict[str, Any] = {
        "label_info": as_label_info(schema.as_dict().items()),
        "imported": {"file": label.source, "kind": label.kind},
    }
    return info if taken.annotated == "auto" else {**info, "annotated": taken.annotated}


def _note(taken: Taken, schema: LabelSchema) -> str:
    """What a person should know about an imported label."""
    here = set(np.unique(taken.label).tolist())
    absent = [name for name, value in schema.as_dict().items() if value not in here]
    notes = list(taken.notes)
    if absent:
        notes.append(f"it has no {listed(absent)}, which counts as absent from the scan")
    if taken.missing:
        notes.append(f"nothing is drawn in {listed([repr(name) for name in taken.missing])}")
    return "; ".join(notes)


def write_report(path: Path, lines: Sequence[Line]) -> None:
    """Write what has become of each label, as CSV in UTF-8."""

    def write(temporary: str) -> None:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["file", "kind", "scan", "result", "reason"])
            table.writerows([line.source, line.kind, line.scan, line.result, line.reason] for line in lines)

    write_whole(path, write)

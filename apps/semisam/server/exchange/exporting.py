"""The labels of a study on their way out."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException

from lib.core.errors import UserError
from lib.dicom_seg import Segment
from lib.exchange import Candidate, ExportFolder, ExportOptions, LabelledScan, Outcome, export_format
from lib.formats.volumes import read_volume
from lib.selection.measures import QUALITY
from lib.specialists.portable import export_network
from server.dicomweb.labels import colours_in, origin_of
from server.errors import text_of
from server.palette import colour_of
from server.scores.scores import Scores
from server.store.folder_store import FINAL, ORIGINAL, StudyDatastore
from server.store.study import Study

from .probabilities import with_probabilities

logger = logging.getLogger("semisam.export")


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported.

    Args:
        folder: where to.
        form: name of the format, see ``lib.exchange.FORMATS``.
        scans: patterns of names (``*`` and ``?``) of which one has to fit; empty for all scans.
        pseudo_labels: whether scans without a final label are exported with their pseudo-label.
        least_quality: estimated mean Dice, 0..1, below which a pseudo-label stays here; None takes all.
        with_scans: see ``ExportOptions``.
        channel: what nnU-Net is to call the channel of scans with one.
        probabilities: whether the specialist in service is asked for the probabilities of each scan.
    """

    folder: Path
    form: str
    scans: tuple[str, ...] = ()
    pseudo_labels: bool = False
    least_quality: float | None = None
    with_scans: bool = False
    channel: str = "image"
    probabilities: bool = False


def export_study(study: Study, request: ExportRequest, say: Callable[[int, int, str], object]) -> Outcome:
    """Export the labels of a study.

    Args:
        study: the study.
        request: what is wanted.
        say: called before each scan with the numbers of scans done and in all, and the next one's name.

    Raises:
        UserError: when nothing can be exported, or not there; (507) when there is no space left.
    """
    if request.probabilities:
        if request.form != "nifti":
            raise UserError(f"The format {request.form} has no room for probabilities. Export them as nifti.")
        study.need_published()
    _check_place(study, request.folder)
    names = sorted(study.datastore.list_images())
    chosen = _chosen(names, request.scans)
    schema = study.schema
    channels = study.settings.channels or (request.channel,)
    form = export_format(request.form, ExportOptions(tuple(names), schema.names, request.with_scans, channels))
    cases, left_out = _candidates(study, chosen, request)
    if not cases and not left_out:
        more = "" if request.pseudo_labels else " Pseudo-labels are exported with --pseudo-labels."
        raise UserError(f"None of these {len(chosen)} scan(s) has a 'final' label.{more}", status=409)
    total = len(cases)
    outcome = ExportFolder(request.folder.absolute(), form).export(cases, lambda done, name: say(done, total, name))
    outcome.refused |= left_out
    return outcome


def export_specialist(study: Study, folder: Path, form: str) -> None:
    """Export the specialist in service.

    Args:
        study: the study.
        folder: where to.
        form: name of the format, see ``lib.specialists.portable.NETWORK_FORMATS``.

    Raises:
        UserError: (409) without a specialist, or when it cannot be written there; see ``export_network``.
    """
    _check_place(study, folder)
    export_network(study.specialist("cpu"), form, folder.absolute())


def _check_place(study: Study, folder: Path) -> None:
    """Refuse a folder in which the server would take exported files for scans."""
    place = folder.resolve()
    own = study.scans_folder
    if own is not None and (place == own or own in place.parents):
        raise UserError(f"{folder} lies within the study. Export to a folder outside.", status=409)


def _chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that one of the patterns fits; all without a pattern."""
    if not patterns:
        return list(names)
    known = set(names)
    found = {p: [p] if p in known else fnmatch.filter(names, p) for p in patterns}
    nothing = [pattern for pattern, fits in found.items() if not fits]
    if nothing:
        raise UserError(f"The study has no scan {nothing[0]!r}.", status=404)
    wanted = {name for fits in found.values() for name in fits}
    return [name for name in names if name in wanted]


def _candidates(study: Study, names: Sequence[str], request: ExportRequest) -> tuple[list[Candidate], dict[str, str]]:
    """The scans with a label that is wanted; and pseudo-labels that are not good enough, with the reason."""
    estimates = Scores(study).known(QUALITY) if request.pseudo_labels else {}
    colours = _colours(study, names)
    cases, left_out = [], {}
    for name in names:
        if study.datastore.get_label_by_image_id(name, FINAL):
            cases.append(_candidate(study, name, FINAL, None, colours))
        elif request.pseudo_labels and study.datastore.get_label_by_image_id(name, ORIGINAL):
            quality, least = estimates.get(name), request.least_quality
            if least is not None and (quality is None or quality < least):
                known = "has not been estimated" if quality is None else f"is estimated as {quality:.2f}"
                left_out[name] = f"The quality of its pseudo-label {known}; at least {least:g} is wanted."
                continue
            cases.append(_candidate(study, name, ORIGINAL, quality, colours))
    if request.probabilities:
        cases = [with_probabilities(study, case) for case in cases]
    return cases, left_out


def _colours(study: Study, names: Sequence[str]) -> dict[str, object]:
    """Colours of the structures, as viewers have sent them with final labels."""
    found: dict[str, object] = {}
    for name in names:
        entries = study.facts(name, FINAL).to_info("").get("label_info")
        found |= {key.lower(): colour for key, colour in colours_in(entries).items() if colour}
    return found


def _candidate(study: Study, name: str, tag: str, quality: float | None, colours: dict[str, object]) -> Candidate:
    structures = [
        Segment(value, each, colour_of(each, value, colours.get(each.lower())))
        for each, value in study.schema.as_dict().items()
    ]
    stamp = {
        "scan": list(study.scan_stamp(name)),
        "label": list(study.label_stamp(name, tag) or ()),
        "tag": tag,
        "quality": quality,
        "colours": [list(each.colour) for each in structures],
    }
    return Candidate(name, stamp, lambda: _loaded(study, name, tag, quality, structures))


def _loaded(study: Study, name: str, tag: str, quality: float | None, structures: Sequence[Segment]) -> LabelledScan:
    """Read a scan and its label.

    Raises:
        UserError: when they cannot be used, or not be fetched.
    """
    try:
        planes = None
        if tag == FINAL and (item := study.final_label(name)) is not None:
            planes, template = study.check(item).planes, study.template(item)
            scan, label = template.scan, template.label
        else:
            scan = read_volume(study.datastore.get_image_uri(name))
            label = study.read_stored(name, tag, scan)
        series = study.datastore.dicom_of(name) if isinstance(study.datastore, StudyDatastore) else None
    except HTTPException as error:
        raise UserError(text_of(error), status=error.status_code) from error
    facts = study.facts(name, tag)
    return LabelledScan(
        name=name,
        scan=scan,
        label=label,
        structures=structures,
        origin=origin_of(facts.to_info(""), person=tag == FINAL, series=None),
        planes=planes,
        quality=quality,
        saved=facts.saved,
        by=facts.user or facts.model or "",
        series=series,
    )

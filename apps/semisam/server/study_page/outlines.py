"""A label that was drawn with another program becomes ``final``, as the person who brings it asks for."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import BinaryIO

from lib.core.errors import UserError
from lib.core.label_names import as_label_info
from lib.exchange.incoming import LABEL_MAPS, find_labels
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume, write_label
from server.exchange.importing import IMPORTED, ImportRequest, import_labels
from server.requests.submitted import settle
from server.store.folder_store import FINAL
from server.store.study import Study

from .acts import Acts, check_open, reader_name

_MOST_NAME = 200
"""Characters of the file's own name that are noted."""
_ENDINGS = (*LABEL_MAPS, ".dcm")
_UNNAMED = re.compile(r"value \d+")
_CHUNK = 2**20
_NO_LABEL = "The file is no label. Give a label map (NIfTI, NRRD, MetaImage), DICOM SEG or RTSTRUCT."
_HINT = " Nothing was imported"
"""Where the advice begins that is for the command line."""


def take_outline(study: Study, acts: Acts, name: str, by: str, upload: tuple[str, BinaryIO]) -> list[str]:
    """Make a file's label final.

    Args:
        study: the study.
        acts: of its readers, of which this is one.
        name: the scan.
        by: who brings it.
        upload: name of the file, and its content: a label map, DICOM SEG or RTSTRUCT.

    Returns:
        What a person should know about it.

    Raises:
        UserError: (409) when the scan has a final label already, or names are not the study's; (422) when it cannot
            be used.
    """
    by = reader_name(by)
    check_open(study, name)
    with tempfile.TemporaryDirectory(prefix="outline-") as folder:
        file = Path(folder) / f"label{_ending(upload[0])}"
        with file.open("wb") as copy:
            while part := upload[1].read(_CHUNK):
                copy.write(part)
        found = find_labels([file])
        if len(found.labels) != 1:
            raise UserError(next(iter(found.refused.values()), _NO_LABEL), status=422)
        found.labels[0].source = _plain(upload[0])
        if all(_UNNAMED.fullmatch(each) for each in found.labels[0].names):
            return _take_unnamed(study, acts, name, by, file)
        request = ImportRequest(scan=name, by=by, saving=acts.bringing)
        try:
            lines = import_labels(study, found, request, lambda done, count, scan: None)
        except UserError as error:
            raise UserError(f"{str(error).partition(_HINT)[0]} Nothing was stored.", status=error.status) from error
    (line,) = lines
    if line.result != IMPORTED:
        check_open(study, name)  # somebody else was faster
        raise UserError(line.reason, status=422)
    return [f"{line.reason[0].upper()}{line.reason[1:]}."] if line.reason else []


def _take_unnamed(study: Study, acts: Acts, name: str, by: str, file: Path) -> list[str]:
    """A label map whose values have no names: they are the study's structures in their order, as everywhere."""
    scan = read_volume(Path(study.datastore.get_image_uri(name)))
    label = read_label(file, scan, study.schema)
    info = as_label_info(study.schema.as_dict().items())
    drawn = file.with_name("drawn.nii.gz")
    write_label(drawn, label, scan.affine)
    with acts.bringing(name):
        study.datastore.save_label(name, str(drawn), FINAL, {"label_info": info, "user": by})
    settle(study, name)
    return []


def _ending(name: str) -> str:
    """What says which format a file has; all else in a name that somebody sends may be too long or no file's."""
    return next((each for each in _ENDINGS if name.lower().endswith(each)), "")


def _plain(name: str) -> str:
    """The file's own name without folders, as it is noted."""
    plain = "".join(sign for sign in name.replace("\\", "/").rpartition("/")[2] if sign.isprintable())
    return plain[-_MOST_NAME:].strip() or "label"

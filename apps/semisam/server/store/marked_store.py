"""A study folder as a datastore, part one: where scans and labels lie, and which scan each label was drawn on."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from monailabel.datastore.local import ImageLabelModel

from lib.core.errors import UserError
from server.upstream.datastore_file import SharedDatastore, file_name

from .file_names import EXTENSIONS
from .label_facts import LabelFacts
from .label_folders import formats_of, tags
from .label_notes import LabelNotes
from .scan_marks import ScanMark, ScanMarks, Stamp, files_of, is_being_written, stamp_of_files

logger = logging.getLogger("semisam.store")

FINAL = "final"
ORIGINAL = "original"


class MarkedDatastore(SharedDatastore):
    """Scans and labels as files, each label with a mark of the scan that it was drawn on.

    Args:
        folder: the study.
        read_only: write nothing into it.
    """

    _notes_in_files = True
    """Whether what is known of labels is what the notes beside the files say; else it is what the list says, where ids
    belong to one scan for ever, and a server knows the labels."""

    def __init__(self, folder: str, *, read_only: bool = False) -> None:
        self._notes = LabelNotes()
        self._marks = ScanMarks()
        self._unmarked = False
        super().__init__(folder, extensions=EXTENSIONS, read_only=read_only)

    def _barred(self, path: Path) -> str | None:
        """Why a file or folder of the study is not looked into though it could be; None when it is."""
        return None

    def _scan_path(self, image_id: str) -> Path:
        item = self._list.objects[image_id]
        return Path(self._list.image_path()) / file_name(image_id, item.image.ext)

    def _scan_mark(self, image_id: str) -> ScanMark | None:
        """What tells this scan from others; None where ids alone do so."""
        return self._marks.mark(self._scan_path(image_id)) if self._notes_in_files else None

    def _was_drawn_on(self, image_id: str, scan: Path) -> bool:
        """Whether a scan's labels say that they were drawn on the scan in this file."""
        labels = Path(self._list.label_path(None))
        marks = [
            noted.facts.scan
            for tag in tags(labels, {})
            for noted in self._notes.read(labels / tag, image_id).labels[-1:]
            if noted.facts.scan is not None
        ]
        return any(self._marks.is_same(scan, mark) for mark in marks)

    def _drawn_on_another(self, image_id: str, file: Path) -> str | None:
        """Why a label does not count: the scan's file holds another scan than the one it was drawn on."""
        facts = self._notes.of(file, image_id)
        if facts is None or facts.scan is None or self._marks.is_same(self._scan_path(image_id), facts.scan):
            return None
        late = ""
        if is_being_written(self._scan_path(image_id)):
            self._unmarked = True  # look again soon
            late = ". While the scan is still being copied, wait some seconds"
        if file.parent.name != FINAL:
            return f"it was made for another scan than {image_id} holds now. Make it anew{late}"
        return (
            f"it was drawn on another scan than {image_id} holds now. Outline this scan and save it, or put the scan "
            f"back that it was drawn on{late}"
        )

    def check_drawn_on(self, image_id: str, tag: str) -> None:
        """Raise UserError (422) when a label was drawn on another scan than the scan's file holds now."""
        item = self._list.objects.get(image_id)
        if item is None or tag not in item.labels:
            return
        reason = self._drawn_on_another(image_id, self._label_path(image_id, tag))
        if reason is not None:
            raise UserError(f"The label '{tag}' of {image_id} is left out: {reason}.", status=422)

    def scan_files_stamp(self, image_id: str) -> Stamp:
        """Changes when a file of the scan does; zeros when it is away, or comes from a server."""
        try:
            if not self._notes_in_files:
                return 0, 0, 0
            return stamp_of_files(files_of(self._scan_path(image_id)))
        except (OSError, KeyError):
            return 0, 0, 0

    def note_scan(self, image_id: str, tag: str, stamp: Stamp, array: np.ndarray) -> None:
        """Note beside a label the voxels ``[D, H, W]`` of its scan, which were read just now.

        So the label still counts when the scan is stored in another way. Nothing is noted when that cannot be: the
        label counts either way.
        """
        if self._read_only or image_id not in self._list.objects or self._scan_mark(image_id) is None:
            return
        file = self._label_path(image_id, tag)
        facts = self._notes.of(file, image_id)
        if facts is not None and facts.scan is not None and facts.scan.voxels:
            return
        mark = self._marks.read(self._scan_path(image_id), stamp, array)
        if mark is None:
            return
        try:
            with self._transaction():
                facts = self._notes.of(file, image_id) or LabelFacts(saved=seconds_of(file))
                self._notes.note(file, image_id, facts.of("", mark, facts.saved))
        except (UserError, OSError) as error:
            logger.info("No notes can be kept beside %s: %s", file.name, error)

    def _known(self, image_id: str) -> ImageLabelModel:
        item = self._list.objects.get(image_id)
        if item is None:
            raise UserError(f"There is no image {image_id!r} in this study.", status=404)
        return item

    def _label_path(self, image_id: str, tag: str) -> Path:
        """The file of a label, whatever happened since the list was written."""
        folder = Path(self._list.label_path(tag))
        label = self._list.label(image_id, tag)
        path = folder / file_name(image_id, label.ext if label else ".nii.gz")
        if path.is_file() and path.name not in self._notes.read(folder, image_id).replaces:
            return path
        names = self._formats(folder, image_id)
        if not names:
            return path
        outdated = self._notes.outdated(folder, image_id, names)
        return folder / self._notes.current(folder, image_id, [n for n in names if n not in outdated])

    def _formats(self, folder: Path, image_id: str) -> list[str]:
        """The files of a scan's label in a tag's folder, in every format."""
        return formats_of(folder, image_id, self._barred)


def seconds_of(path: Path) -> int:
    """When a file was changed, in seconds since 1970; 0 when it is not there."""
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0

"""A study folder as a datastore, part two: MONAI Label's list, made of the files and of what is noted of them.

The list is never the only one to know something. So nothing is lost when the list is, when a file is away for a moment,
or when another process rewrites it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel

from lib.core.cache import stamp_of
from lib.formats.channels import further_files
from server.upstream.datastore_file import file_name

from .file_names import DICOM, printable
from .label_facts import LabelFacts
from .label_folders import label_files, tags
from .marked_store import MarkedDatastore, seconds_of
from .scan_marks import ScanMark, is_quiet
from .study_files import StudyFiles

logger = logging.getLogger("semisam.store")


MOST_LEFT_OUT = 100
"""How many files that were left out are told to clients."""
_MOST_NAME, _MOST_REASON = 300, 400
"""Characters of their names and of the reasons."""


class ListedDatastore(MarkedDatastore):
    """Scans and labels as they lie in a study's folder, and as MONAI Label lists them.

    Args:
        folder: the study.
        read_only: write nothing into it.
    """

    def __init__(self, folder: str, *, read_only: bool = False) -> None:
        self._files = StudyFiles(Path(folder), Path(folder) / "labels", self._barred)
        self._left_out: dict[str, str] = {}
        self._leaving: dict[str, str] = {}
        self._scans: dict[str, str] = {}
        super().__init__(folder, read_only=read_only)

    # --- what belongs to the study --------------------------------------------------------------------------------

    @property
    def left_out(self) -> dict[str, str]:
        """Files that are no scans or labels though they look like it, with the reason; at most the first hundred."""
        names = list(self._left_out)
        told = {_short(printable(name)): _short(self._left_out[name], _MOST_REASON) for name in names[:MOST_LEFT_OUT]}
        more = len(names) - MOST_LEFT_OUT
        return told | ({"...": f"{more} more, see the server's log"} if more > 0 else {})

    def _look_at_files(self) -> None:
        """Bring the list in line with the files; what is left out is said once."""
        with self._transaction():
            self._leaving, self._unmarked = {}, False
            before = self._list.model_dump()
            self._take_out_missing()
            self._take_up_scans()
            labels = Path(self._list.label_path(None))
            try:
                found = list(tags(labels, self._leaving))
            except OSError as error:  # what is known of labels stays known
                self._leaving["labels"] = f"the folder cannot be read ({error.strerror})"
            else:
                for tag in found:
                    self._take_up_labels(tag)
                self._forget_tags(found)
            if self._list.model_dump() != before:
                self._write_list()
            self._tell()

    def _tell(self) -> None:
        for name, reason in self._leaving.items():
            if self._left_out.get(name) != reason:
                logger.warning("Left out: %s: %s.", name, reason.rstrip("."))
        self._left_out = self._leaving

    def _take_out_missing(self) -> int:
        """Take out scans whose files are gone, and take up those whose file has another format now."""
        objects = self._list.objects
        known = {image_id: file_name(image_id, item.image.ext) for image_id, item in objects.items()}
        found = self._files.look(known, self._was_drawn_on)
        self._leaving.update(found.left_out)
        self._scans = found.scans
        gone = [image_id for image_id in objects if found.scans.get(image_id) != known[image_id]]
        for image_id in gone:
            logger.info("The file of image %s is gone", image_id)
            del objects[image_id]
        return len(gone)

    def _take_up_scans(self) -> int:
        objects = self._list.objects
        fresh = {image_id: name for image_id, name in self._scans.items() if image_id not in objects}
        for image_id, name in fresh.items():
            logger.info("New image: %s", image_id)
            info = {"ts": int(time.time()), "name": name}
            objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=name[len(image_id) :]))
        return len(fresh)

    def _take_up_labels(self, tag: str) -> int:
        """Bring the labels of a tag in line with its folder and with the notes there."""
        folder = Path(self._list.label_path(tag))
        objects = self._list.objects
        try:
            files = label_files(folder, self._leaving, self._barred)
        except OSError as error:
            self._leaving[f"labels/{printable(tag)}"] = f"the folder cannot be read ({error.strerror})"
            return 0
        for image_id, names in files.items():
            item = objects.get(image_id)
            if item is None:
                if self._notes_in_files:  # a cache holds files of its own
                    self._leaving[f"labels/{tag}/{names[0]}"] = f"there is no scan {image_id!r}"
                continue
            file = self._settle_files(folder, image_id, names)
            reason = self._drawn_on_another(image_id, folder / file)
            if reason is None:
                self._take_up(item, image_id, tag, folder / file)
            else:
                self._leaving[f"labels/{tag}/{file}"] = reason
                item.labels.pop(tag, None)
        gone = [image_id for image_id, item in objects.items() if tag in item.labels and image_id not in files]
        for image_id in gone if self._notes_in_files else ():
            logger.info("The %s label of %s is gone", tag, image_id)
            del objects[image_id].labels[tag]
        return len(files)

    def _forget_tags(self, found: Iterable[str]) -> None:
        """Take out the labels of tags that have no folder any more."""
        found = set(found)
        for item in self._list.objects.values() if self._notes_in_files else ():
            for tag in [t for t in item.labels if t not in found]:
                del item.labels[tag]

    def _settle_files(self, folder: Path, image_id: str, names: list[str]) -> str:
        """The one file that is the label of a scan; finishes what a killed process was about to do."""
        outdated = self._notes.outdated(folder, image_id, names) if not self._read_only else []
        if outdated:
            logger.info("Deleted, as another label has taken its place: %s", ", ".join(outdated))
            self._notes.finish(folder, image_id, outdated)
            names = [name for name in names if name not in outdated]
        # A label of the scan that is there goes before one of a scan that was there.
        foreign = {n: r for n in names if len(names) > 1 and (r := self._drawn_on_another(image_id, folder / n))}
        chosen = self._notes.current(folder, image_id, [n for n in names if n not in foreign] or names)
        for name in names:
            if name != chosen:
                self._leaving[f"labels/{folder.name}/{name}"] = foreign.get(name) or (
                    f"{image_id} has another label of this tag, {chosen}, which counts. Delete the one that is wrong"
                )
        return chosen

    def _take_up(self, item: ImageLabelModel, image_id: str, tag: str, file: Path) -> None:
        """Note a label in the list, with what is known of it."""
        before = item.labels.get(tag)
        facts = self._notes.of(file, image_id)
        if facts is None:
            facts = self._first_facts(image_id, file, before)
        elif facts.scan is None:
            facts = self._mark_when_quiet(image_id, file, facts)
        elif self._notes_in_files and not self._read_only:
            facts = self._mark_again(image_id, file, facts, facts.scan)
        info = facts.to_info(file.name)
        if before is None:
            logger.info("New label: %s, %s", image_id, tag)
        if before is None or self._notes_in_files:
            item.labels[tag] = DataModel(info=info, ext=file.name[len(image_id) :])

    def _first_facts(self, image_id: str, file: Path, before: DataModel | None) -> LabelFacts:
        """What is known of a label without notes: copied over by hand, or from before there were any."""
        unnoted = not self._notes.read(file.parent, image_id).labels
        # The list knew the label before there were notes beside files. Of a content that came later it knows nothing.
        facts = LabelFacts.from_info(before.info if before is not None and unnoted else {"ts": seconds_of(file)})
        return self._mark_when_quiet(image_id, file, facts)

    def _mark_when_quiet(self, image_id: str, file: Path, facts: LabelFacts) -> LabelFacts:
        """Note which scan a label belongs to, as soon as nobody is copying either of them."""
        if self._read_only or not self._notes_in_files:
            return facts
        scan = self._scan_path(image_id)
        if not (scan.is_dir() or scan.is_file()) or not is_quiet(scan) or not is_quiet(file):
            self._unmarked = True
            return facts
        try:
            known = facts.of("", self._scan_mark(image_id), facts.saved)
            return self._notes.note(file, image_id, known, lasting=False)
        except OSError as error:
            logger.warning("No notes can be kept beside %s: %s", file, error)
            return facts

    def _mark_again(self, image_id: str, file: Path, facts: LabelFacts, noted: ScanMark) -> LabelFacts:
        """Note the files' new times when the scan is the same, so that it need not be looked into at each start."""
        mark = self._scan_mark(image_id)
        if mark is None or mark.stamp == noted.stamp or not self._marks.is_same(self._scan_path(image_id), noted):
            return facts
        again = replace(facts, scan=ScanMark(mark.stamp, mark.content, noted.voxels))
        try:
            return self._notes.note(file, image_id, again, lasting=False)
        except OSError as error:
            logger.warning("No notes can be kept beside %s: %s", file, error)
            return facts

    # --- reading --------------------------------------------------------------------------------------------------

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label; empty when there is none."""
        tag = str(getattr(label_tag, "value", label_tag))
        if self._list.label(label_id, tag) is None:
            return ""
        return os.path.realpath(self._label_path(label_id, tag))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known of the content that a label's file has now."""
        tag = str(getattr(label_tag, "value", label_tag))
        label = self._list.label(label_id, tag)
        if label is None:
            return {}
        if not self._notes_in_files:
            return dict(label.info)
        path = self._label_path(label_id, tag)
        facts = self._notes.of(path, label_id)
        if facts is not None:
            return facts.to_info(path.name)
        if not self._notes.read(path.parent, label_id).labels:
            return dict(label.info)
        return LabelFacts(saved=seconds_of(path)).to_info(path.name)

    def dicom_of(self, image_id: str) -> Path | None:
        """Folder with a scan's DICOM files, or its only one; None when the scan is no DICOM."""
        path = Path(self.get_image_uri(image_id))
        return path if path.is_dir() or path.name.lower().endswith(DICOM) else None

    def scan_stamp(self, image_id: str) -> tuple[str, int, int]:
        """Changes when the scan does, or one of its channels."""
        path = Path(self.get_image_uri(image_id))
        stamps = [stamp_of(file) for file in (path, *further_files(path))]
        return stamps[0][0], max(each[1] for each in stamps), sum(each[2] for each in stamps)

    def label_stamp(self, image_id: str, tag: str) -> tuple[str, int, int]:
        """Changes when a scan's label of this tag does."""
        return stamp_of(Path(self.get_label_uri(image_id, tag)))


def _short(text: str, most: int = _MOST_NAME) -> str:
    return text if len(text) <= most else f"{text[: most - 40]}...{text[-37:]}"

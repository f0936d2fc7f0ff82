"""A study folder as a datastore: how scans and labels are listed, added, replaced and deleted."""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import DataModel, ImageLabelModel
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from lib.errors import UserError
from lib.pictures import PICTURES
from lib.recent import stamp_of
from lib.volumes import write_whole

from .answers import http_answers
from .detached import HEADER
from .label_facts import LabelFacts
from .label_notes import LabelNotes
from .options import check_plain, is_true, shown
from .scan_marks import ScanMark, ScanMarks, Stamp, files_of, is_quiet, stamp_of_files
from .shared_store import SharedDatastore
from .study_files import (
    DICOM,
    EXTENSIONS,
    LABEL_EXTENSIONS,
    NAME,
    NAME_BYTES,
    SEG_NRRD,
    StudyFiles,
    label_files,
    printable,
    split,
    tags,
)
from .uploads import ARCHIVES, unpacked_scan
from .viewer_files import ViewerFiles
from .watching import Watch

logger = logging.getLogger("semisam.store")

FINAL = "final"
ORIGINAL = "original"

MOST_LEFT_OUT = 100
"""How many files that were left out are told to clients."""
_AGAIN_SECONDS = 6.0


class StudyDatastore(SharedDatastore):
    """Scans in a folder: NIfTI, NRRD, MetaImage, PNG and JPEG files, and sub-folders with one DICOM series.

    A DICOM file that lies in the folder itself is taken if it is a 2D image (an X-ray, say); slices of a volume belong
    into a sub-folder. The id of a scan is the file's name without its suffix, or the sub-folder's name.

    What is known of a label lies beside its file (``adapters.label_notes``), and MONAI Label's list is made of it. So
    nothing is lost when the list is, when a file is away for a moment, or when another process rewrites it.

    Only a person's save through REST may write or delete the tag ``final``: see ``serving``.

    Args:
        folder: the study.
        read_only: write nothing into it.

    Attributes:
        serving: whether this process answers clients. Only then labels with the tag ``final`` are taken.
        on_gone: called with the id of a scan that was deleted, or replaced by another one.
    """

    _notes_in_files = True
    """Whether the list takes over what the notes beside the files say; else they only add to it."""

    def __init__(self, folder: str, *, read_only: bool = False) -> None:
        self.serving = False
        self.on_gone: Callable[[str], None] = lambda image_id: None
        self._watcher: Any = None
        self._watch: Watch | None = None
        self._files = StudyFiles(Path(folder), Path(folder) / "labels")
        self._notes = LabelNotes()
        self._marks = ScanMarks()
        self._viewer_files = ViewerFiles(Path(folder), read_only=read_only)
        self._left_out: dict[str, str] = {}
        self._leaving: dict[str, str] = {}
        self._unmarked = False
        super().__init__(folder, extensions=EXTENSIONS, read_only=read_only)

    # --- what belongs to the study --------------------------------------------------------------------------------

    @property
    def left_out(self) -> dict[str, str]:
        """Files that are no scans or labels though they look like it, with the reason; at most the first hundred."""
        names = list(self._left_out)
        return {name: self._left_out[name] for name in names[:MOST_LEFT_OUT]} | (
            {"...": f"{len(names) - MOST_LEFT_OUT} more, see the server's log"} if len(names) > MOST_LEFT_OUT else {}
        )

    def _to_id(self, file: str) -> tuple[str, str]:
        return split(file, (SEG_NRRD, *EXTENSIONS))

    def _is_scan(self, path: str, extension: str) -> bool:
        """Whether a file of this extension is a scan."""
        return self._files.is_scan(path, extension)

    def _reconcile_datastore(self) -> None:
        """Bring the list in line with the files; what is left out is said once."""
        with self._transaction():
            self._leaving, self._unmarked = {}, False
            before = self._datastore.model_dump()
            self._remove_non_existing()
            self._add_non_existing_images()
            labels = Path(self._datastore.label_path(None))
            found = list(tags(labels, self._leaving))
            for tag in found:
                self._add_non_existing_labels(tag)
            self._forget_tags(found)
            if self._datastore.model_dump() != before:
                self._update_datastore_file()
            self._tell()

    def _tell(self) -> None:
        for name, reason in self._leaving.items():
            if self._left_out.get(name) != reason:
                logger.warning("Left out: %s: %s.", name, reason.rstrip("."))
        self._left_out = self._leaving

    def _remove_non_existing(self) -> int:
        """Take out scans whose files are gone, and take up those whose file has another format now."""
        objects = self._datastore.objects
        known = {image_id: self._filename(image_id, item.image.ext) for image_id, item in objects.items()}
        found = self._files.look(known, self._was_drawn_on)
        self._leaving.update(found.left_out)
        self._scans = found.scans
        gone = [image_id for image_id in objects if found.scans.get(image_id) != known[image_id]]
        for image_id in gone:
            logger.info("The file of image %s is gone", image_id)
            del objects[image_id]
        return len(gone)

    def _add_non_existing_images(self) -> int:
        objects = self._datastore.objects
        fresh = {image_id: name for image_id, name in self._scans.items() if image_id not in objects}
        for image_id, name in fresh.items():
            logger.info("New image: %s", image_id)
            info = {"ts": int(time.time()), "name": name}
            objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=name[len(image_id) :]))
        return len(fresh)

    def _add_non_existing_labels(self, tag: str) -> int:
        """Bring the labels of a tag in line with its folder and with the notes there."""
        folder = Path(self._datastore.label_path(tag))
        objects = self._datastore.objects
        try:
            files = label_files(folder, self._leaving)
        except OSError as error:
            self._leaving[f"labels/{printable(tag)}"] = f"the folder cannot be read ({error.strerror})"
            return 0
        for image_id, names in files.items():
            item = objects.get(image_id)
            if item is None:
                what = f"labels/{tag}/{names[0]}"
                self._leaving[what] = f"there is no scan {image_id!r}"
                continue
            file = self._settle_files(folder, image_id, names)
            reason = self._drawn_on_another(image_id, tag, folder / file)
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
        for item in self._datastore.objects.values() if self._notes_in_files else ():
            for tag in [t for t in item.labels if t not in found]:
                del item.labels[tag]

    def _settle_files(self, folder: Path, image_id: str, names: list[str]) -> str:
        """The one file that is the label of a scan; finishes what a killed process was about to do."""
        outdated = self._notes.outdated(folder, image_id, names) if not self._read_only else []
        if outdated:
            logger.info("Deleted, as another label has taken its place: %s", ", ".join(outdated))
            self._notes.finish(folder, image_id, outdated)
            names = [name for name in names if name not in outdated]
        chosen = self._notes.current(folder, image_id, names)
        for name in names:
            if name != chosen:
                self._leaving[f"labels/{folder.name}/{name}"] = (
                    f"{image_id} has another label of this tag, {chosen}, which counts. Delete the one that is wrong"
                )
        return chosen

    def _take_up(self, item: ImageLabelModel, image_id: str, tag: str, file: Path) -> None:
        """Note a label in the list, with what is known of it."""
        before = item.labels.get(tag)
        facts = self._notes.of(file, image_id)
        if facts is None:
            facts = self._first_facts(image_id, file, before)
        elif facts.scan is None or not facts.scan.voxels:
            self._unmarked = self._unmarked or facts.scan is None
            facts = self._mark_when_quiet(image_id, file, facts) if facts.scan is None else facts
        info = facts.to_info(file.name)
        if before is None:
            logger.info("New label: %s, %s", image_id, tag)
        if before is None or self._notes_in_files:
            item.labels[tag] = DataModel(info=info, ext=file.name[len(image_id) :])

    def _first_facts(self, image_id: str, file: Path, before: DataModel | None) -> LabelFacts:
        """What is known of a label without notes: copied over by hand, or from before there were any."""
        unnoted = not self._notes.read(file.parent, image_id).labels
        # The list knew the label before there were notes beside files. Of a content that came later it knows nothing.
        facts = LabelFacts.from_info(before.info if before is not None and unnoted else {"ts": _seconds(file)})
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
            return self._notes.note(file, image_id, facts.of("", self._scan_mark(image_id), facts.saved))
        except OSError as error:
            logger.warning("No notes can be kept beside %s: %s", file, error)
            return facts

    # --- which scan a label belongs to ----------------------------------------------------------------------------

    def _scan_path(self, image_id: str) -> Path:
        item = self._datastore.objects[image_id]
        return Path(self._datastore.image_path()) / self._filename(image_id, item.image.ext)

    def _scan_mark(self, image_id: str) -> ScanMark | None:
        """What tells this scan from others; None where ids alone do so."""
        return self._marks.mark(self._scan_path(image_id))

    def _was_drawn_on(self, image_id: str, scan: Path) -> bool:
        """Whether a scan's labels say that they were drawn on the scan in this file."""
        labels = Path(self._datastore.label_path(None))
        marks = [
            noted.facts.scan
            for tag in tags(labels, {})
            for noted in self._notes.read(labels / tag, image_id).labels[-1:]
            if noted.facts.scan is not None
        ]
        return any(self._marks.is_same(scan, mark) for mark in marks)

    def _drawn_on_another(self, image_id: str, tag: str, file: Path) -> str | None:
        """Why a label does not count: the scan's file holds another scan than the one it was drawn on."""
        facts = self._notes.of(file, image_id)
        if facts is None or facts.scan is None or self._marks.is_same(self._scan_path(image_id), facts.scan):
            return None
        if tag != FINAL:
            return f"it was made for another scan than {image_id} holds now. Make it anew"
        return (
            f"it was drawn on another scan than {image_id} holds now. Outline this scan and save it, or put the scan "
            "back that it was drawn on"
        )

    def check_drawn_on(self, image_id: str, tag: str) -> None:
        """Raise UserError (422) when a label was drawn on another scan than the scan's file holds now."""
        item = self._datastore.objects.get(image_id)
        if item is None or tag not in item.labels:
            return
        reason = self._drawn_on_another(image_id, tag, self._label_path(image_id, tag))
        if reason is not None:
            raise UserError(f"The label '{tag}' of {image_id} is left out: {reason}.", status=422)

    def scan_files_stamp(self, image_id: str) -> Stamp:
        """Changes when a file of the scan does; zeros when it is away."""
        try:
            return stamp_of_files(files_of(self._scan_path(image_id)))
        except (OSError, KeyError):
            return 0, 0, 0

    def note_scan(self, image_id: str, tag: str, stamp: Stamp, array: np.ndarray) -> None:
        """Note beside a label the voxels ``[D, H, W]`` of its scan, which were read just now.

        So the label still counts when the scan is stored in another way. Nothing is noted when that cannot be: the
        label counts either way.
        """
        if self._read_only or image_id not in self._datastore.objects or self._scan_mark(image_id) is None:
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
                facts = self._notes.of(file, image_id) or LabelFacts(saved=_seconds(file))
                self._notes.note(file, image_id, facts.of("", mark, facts.saved))
        except (UserError, OSError) as error:
            logger.info("No notes can be kept beside %s: %s", file.name, error)

    # --- reading --------------------------------------------------------------------------------------------------

    def _known(self, image_id: str) -> ImageLabelModel:
        item = self._datastore.objects.get(image_id)
        if item is None:
            raise UserError(f"There is no image {image_id!r} in this study.", status=404)
        return item

    def _label_path(self, image_id: str, tag: str) -> Path:
        """The file of a label, whatever happened since the list was written."""
        folder = Path(self._datastore.label_path(tag))
        label = self._datastore.label(image_id, tag)
        path = folder / self._filename(image_id, label.ext if label else ".nii.gz")
        if path.is_file() and path.name not in self._notes.read(folder, image_id).replaces:
            return path
        names = self._formats(folder, image_id)
        if not names:
            return path
        outdated = self._notes.outdated(folder, image_id, names)
        return folder / self._notes.current(folder, image_id, [n for n in names if n not in outdated])

    def _formats(self, folder: Path, image_id: str) -> list[str]:
        """The files of a scan's label in a tag's folder, in every format."""
        try:
            return label_files(folder, {}).get(image_id, [])
        except OSError:
            return []

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label; empty when there is none."""
        tag = str(getattr(label_tag, "value", label_tag))
        if self._datastore.label(label_id, tag) is None:
            return ""
        return os.path.realpath(self._label_path(label_id, tag))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known of the content that a label's file has now."""
        tag = str(getattr(label_tag, "value", label_tag))
        label = self._datastore.label(label_id, tag)
        if label is None:
            return {}
        path = self._label_path(label_id, tag)
        facts = self._notes.of(path, label_id)
        if facts is not None:
            return facts.to_info(path.name)
        if not self._notes.read(path.parent, label_id).labels:
            return dict(label.info)
        return LabelFacts(saved=_seconds(path)).to_info(path.name)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """See the base class. ``path`` and ``name`` are those of a file that a viewer can open."""
        info = super().get_image_info(image_id)
        if not info:
            return dict(info)
        scan = Path(info["path"])
        file = self._viewer_files.file_of(image_id, scan)
        return {**info, "path": str(file), "name": info.get("name", scan.name) if file == scan else file.name}

    @http_answers()
    def viewer_file(self, image_id: str) -> str:
        """Path of one file with the scan, which is made of it if it is several; empty when there is no such scan."""
        scan = self.get_image_uri(image_id)
        return str(self._viewer_files.make(image_id, Path(scan))) if scan and os.path.exists(scan) else scan

    def dicom_of(self, image_id: str) -> Path | None:
        """Folder with a scan's DICOM files, or its only one; None when the scan is no DICOM."""
        path = Path(self.get_image_uri(image_id))
        return path if path.is_dir() or path.name.lower().endswith(DICOM) else None

    def scan_stamp(self, image_id: str) -> tuple[str, int, int]:
        """Changes when the scan does."""
        return stamp_of(Path(self.get_image_uri(image_id)))

    def label_stamp(self, image_id: str, tag: str) -> tuple[str, int, int]:
        """Changes when a scan's label of this tag does."""
        return stamp_of(Path(self.get_label_uri(image_id, tag)))

    # --- changes of scans -----------------------------------------------------------------------------------------

    @http_answers()
    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy a scan into the study; another one of the same name is replaced only when the client says ``replace``.

        A scan of several files comes as one archive (zip or tar): a DICOM series, or a header with its data.
        """
        notes = plain_info(image_info)
        replace = is_true(notes.pop("replace", False))
        self._refuse_if_read_only()
        base = os.path.basename(image_filename)
        with unpacked_scan(Path(image_filename)) as scan:
            packed = split(base, ARCHIVES)[0]
            own, extension = ("", "") if scan.is_dir() else split(scan.name)
            image_id = plain_name(image_id or (packed if scan != Path(image_filename) else own), "image")
            if not scan.is_dir() and not self._is_scan(str(scan), extension):
                raise UserError(
                    f"{base} is no scan this server can read. Allowed: {', '.join(EXTENSIONS)} ({DICOM} for 2D images "
                    "only), and an archive with the files of one scan."
                )
            self._put_image(image_id, scan, extension, notes, replace=replace)
        return image_id

    def _put_image(self, image_id: str, scan: Path, extension: str, notes: Mapping[str, Any], *, replace: bool) -> None:
        with self._transaction():
            target = Path(self._datastore.image_path()) / self._filename(image_id, extension)
            known = self._datastore.objects.get(image_id)
            taken = known is not None or os.path.lexists(target)
            if taken:
                if known is not None and _same_files(scan, self._scan_path(image_id)):
                    return
                self._check_replace(image_id, replace=replace)
            with _staged(scan, target) as part:  # nothing is deleted before the other one is on the disk
                if taken:
                    self._delete_scan(image_id, target)
                os.replace(part, target)
            info = {**notes, "ts": int(time.time()), "name": target.name}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=extension))
            self._update_datastore_file()

    def _check_replace(self, image_id: str, *, replace: bool) -> None:
        """Raise UserError (409) unless a client wants a scan replaced, and may have it."""
        known = self._datastore.objects.get(image_id)
        labels = f" with labels ({', '.join(sorted(known.labels))})" if known is not None and known.labels else ""
        if not replace:
            raise UserError(
                f"The study has another image {image_id!r}{labels}, which is not replaced unasked. Save this one under "
                'another name. To replace it, and delete what belongs to it, send params {"replace": true} along.',
                status=409,
            )
        if known is not None and FINAL in known.labels:
            self._refuse_unless_serving()

    @http_answers()
    def remove_image(self, image_id: str) -> None:
        """Delete a scan with all its files and labels, as a person asked for through REST."""
        self._refuse_if_read_only()
        with self._transaction():
            item = self._known(image_id)
            if FINAL in item.labels or self._formats(Path(self._datastore.label_path(FINAL)), image_id):
                self._refuse_unless_serving()
            self._delete_scan(image_id, self._scan_path(image_id))
            self._update_datastore_file()

    def _delete_scan(self, image_id: str, path: Path) -> None:
        """Delete the labels of a scan, then the scan: what is left by a kill has no label of another scan."""
        labels = Path(self._datastore.label_path(None))
        for tag in tags(labels, {}):
            self._delete_label(image_id, tag)
        item = self._datastore.objects.pop(image_id, None)
        paths = {path} if item is None else {path, path.with_name(self._filename(image_id, item.image.ext))}
        for each in sorted(paths):
            for file in self._files.files_of(each.name) if os.path.lexists(each) else ():
                _delete(str(file))
        self._viewer_files.drop(image_id)
        try:
            self.on_gone(image_id)
        except Exception as error:  # the scan is gone; what was worked out about it is of no account
            logger.warning("What was worked out about %s could not be deleted: %s", image_id, error)

    # --- changes of labels ----------------------------------------------------------------------------------------

    @http_answers()
    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Copy a label into the study; readers see the old one or the new one, never half of it."""
        self.save_labels(label_tag, {image_id: (label_filename, label_info)})
        logger.info("Label saved: %s, %s", image_id, getattr(label_tag, "value", label_tag))
        return image_id

    @http_answers()
    def save_labels(
        self,
        label_tag: str,
        labels: Mapping[str, tuple[str, Mapping[str, Any] | None]],
        *,
        interim: bool = False,
    ) -> None:
        """Copy labels of several scans into the study, in one change of its list.

        Args:
            label_tag: tag of all of them.
            labels: file and info by the scans' ids.
            interim: whether others will soon take their place; see ``publish``.
        """
        tag = plain_name(label_tag, "tag")
        self._refuse_if_read_only()
        if tag == FINAL:
            self._refuse_unless_serving()
        with self._transaction():
            for name, (file, _) in labels.items():
                self._check_label(name, file)
            infos = {name: plain_info(info) for name, (_, info) in labels.items()}
            for name, (file, _) in labels.items():
                self._put_label(name, Path(file), tag, infos[name])
            self._update_datastore_file()

    def publish(self, image_ids: Iterable[str]) -> None:
        """The pseudo-labels of these scans will stay: a study on a DICOM server may have to send them."""

    def _check_label(self, image_id: str, file: str) -> None:
        """Raise UserError when this cannot be the file of a label of this scan."""
        _, extension = split(os.path.basename(file), LABEL_EXTENSIONS)
        if not extension:
            raise UserError(f"A label must be one of {', '.join(LABEL_EXTENSIONS)}, not {os.path.basename(file)!r}.")
        item = self._known(image_id)
        if extension.lower() in PICTURES and item.image.ext.lower() not in (*PICTURES, DICOM):
            raise UserError(f"{image_id} is a 3D scan: save its label as .nii.gz or .nrrd, not as {extension}.")
        if split(self._filename(image_id, extension), LABEL_EXTENSIONS)[0] != image_id:
            raise UserError(f"A label of {image_id} cannot be stored as {extension}. Save it as .nii.gz.")

    def _put_label(self, image_id: str, file: Path, tag: str, info: Mapping[str, Any]) -> None:
        """Copy a checked label in, in place of those of other formats, and note it; in a transaction."""
        extension = split(file.name, LABEL_EXTENSIONS)[1]
        folder = Path(self._datastore.label_path(tag))
        target = folder / self._filename(image_id, extension)
        facts = LabelFacts.from_info(info).of("", self._scan_mark(image_id), int(time.time()))
        known = self._place_label(image_id, file, target, facts)
        label = DataModel(info=known.to_info(target.name), ext=extension)
        self._datastore.objects[image_id].labels[tag] = label

    def _place_label(self, image_id: str, file: Path, target: Path, facts: LabelFacts) -> LabelFacts:
        """Copy a label file to its place, its facts before it, and delete those of other formats after it."""
        others = [name for name in self._formats(target.parent, image_id) if name != target.name]
        known = facts

        def write(temporary: str) -> None:
            nonlocal known
            shutil.copyfile(file, temporary)
            known = self._notes.prepare(Path(temporary), target, image_id, facts, others)

        write_whole(target, write)
        self._notes.finish(target.parent, image_id, others)
        return known

    @http_answers()
    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label in every format, as a person asked for through REST."""
        tag = plain_name(label_tag, "tag")
        self._refuse_if_read_only()
        if tag == FINAL:
            self._refuse_unless_serving()
        with self._transaction():
            item = self._known(label_id)
            if not self._delete_label(label_id, tag) and tag not in item.labels:
                raise UserError(f"Image {label_id!r} has no label with the tag {tag!r}.", status=404)
            item.labels.pop(tag, None)
            self._update_datastore_file()

    def _delete_label(self, image_id: str, tag: str) -> bool:
        """Delete the files of a label, the one that counts last: what is left by a kill is no older one."""
        folder = Path(self._datastore.label_path(tag))
        names = self._formats(folder, image_id)
        if names:
            last = self._notes.current(folder, image_id, names)
            for name in sorted(names, key=lambda n: n == last):
                _delete(str(folder / name))
        self._notes.delete(folder, image_id)
        return bool(names)

    # --- notes ----------------------------------------------------------------------------------------------------

    @http_answers()
    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """See the base class."""
        self.update_image_infos({image_id: info})

    def update_image_infos(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Note something about several images in one change."""
        with self._transaction():
            for image_id, info in infos.items():
                self._known(image_id).image.info.update(plain_info(info))
            self._update_datastore_file()

    @http_answers()
    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something about a label, beside its file."""
        tag = plain_name(label_tag, "tag")
        notes = plain_info(info)
        self._refuse_if_read_only()
        with self._transaction():
            label = self._known(label_id).labels.get(tag)
            if label is None:
                raise UserError(f"Image {label_id!r} has no label with the tag {tag!r}.", status=404)
            path = self._label_path(label_id, tag)
            label.info.update(notes)
            if path.is_file():
                before = self._notes.of(path, label_id)
                facts = LabelFacts.from_info({**self.get_label_info(label_id, tag), **notes})
                mark = self._scan_mark(label_id) if before is None else before.scan
                known = self._notes.note(path, label_id, facts.of("", mark, facts.saved))
                label.info = known.to_info(path.name)
            self._update_datastore_file()

    @http_answers()
    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Pack the outlined scans and their labels; returns the archive's path."""
        if not self.datalist():
            raise UserError("No scan has a 'final' label yet: there is nothing to pack.", status=409)
        return str(super().get_dataset_archive(limit_cases))

    def _refuse_unless_serving(self) -> None:
        if not self.serving:
            raise UserError("Labels with the tag 'final' are written and deleted by people only.", status=409)

    # --- watching -------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Take up files that others add to or remove from the study."""
        watcher = PollingObserver() if self._is_on_mount(self._datastore.image_path()) else Observer()
        self._watch = Watch(self._look_again)
        try:
            watcher.schedule(self._watch, self._datastore_path, recursive=True)
            watcher.start()
        except OSError as error:
            logger.error("The study is not watched, new files need a restart: %s", error)
            return
        self._watcher = watcher
        if self._unmarked:
            self._watch.wake(_AGAIN_SECONDS)

    def _look_again(self) -> float | None:
        """Look at the study; returns when to do so once more, as somebody was still copying a file."""
        self.refresh()
        return _AGAIN_SECONDS if self._unmarked else None


def plain_name(name: object, what: str) -> str:
    """The text of an id or tag.

    Raises:
        UserError: for what could lead to another folder, or can be no file's name.
    """
    text = getattr(name, "value", name)
    if not isinstance(text, str) or not NAME.fullmatch(text) or text.startswith("."):
        raise UserError(f"{shown(text)} is no valid {what} name: no slashes, no dot at its start, nothing unprintable.")
    if len(text.encode()) > NAME_BYTES:
        raise UserError(f"{shown(text)} is too long for a {what} name: at most {NAME_BYTES} bytes.")
    return text


def plain_info(info: object) -> dict[str, Any]:
    """Notes of a client about a scan or label.

    Raises:
        UserError: when they cannot be stored: MONAI Label would, and could not read its own file any more.
    """
    if info is None:
        return {}
    if not isinstance(info, Mapping):
        raise UserError(f"The notes must be a JSON object such as {{}}, not {shown(info)}.")
    check_plain(info, "The notes")
    return dict(info)


def _same_files(one: Path, other: Path) -> bool:
    """Whether two scans are the same, byte by byte."""
    if one.is_dir() != other.is_dir() or not other.exists():
        return False
    ours, theirs = files_of(one), files_of(other)
    if one.is_dir():
        ours, theirs = sorted(ours, key=_size), sorted(theirs, key=_size)
    elif other.name.lower().endswith(HEADER):
        return False
    return len(ours) == len(theirs) and all(filecmp.cmp(a, b, shallow=False) for a, b in zip(ours, theirs, strict=True))


def _size(path: Path) -> tuple[int, str]:
    return path.stat().st_size, path.name


@contextmanager
def _staged(scan: Path, target: Path) -> Iterator[Path]:
    """A copy of a scan beside its place, to be moved there in one step."""
    part = target.with_name(f".part-{os.getpid()}-{time.time_ns()}{''.join(target.suffixes[-1:])}")
    try:
        if scan.is_dir():
            shutil.copytree(scan, part)
        else:
            write_whole(part, lambda name: shutil.copyfile(scan, name))
        yield part
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _seconds(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0


def _delete(path: str) -> None:
    """Delete a file, a folder, or a link but not what it points to."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)

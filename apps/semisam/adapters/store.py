"""A study folder as a datastore: which files are scans and labels, and how they are added, replaced and deleted."""

from __future__ import annotations

import filecmp
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from lib.errors import UserError
from lib.pictures import PICTURES
from lib.recent import stamp_of
from lib.volumes import is_dicom_image, write_whole

from .answers import http_answers
from .links import Links
from .options import check_plain, shown
from .shared_store import SharedDatastore

logger = logging.getLogger("semisam.store")

FINAL = "final"
ORIGINAL = "original"
DICOM = ".dcm"
EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", *PICTURES, DICOM)
LABEL_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png")

_NAME = re.compile(r"[^/\\\x00-\x1f\x7f\ud800-\udfff]+")
_NAME_BYTES = 200
"""A file system takes 255, of which an extension and a temporary name need some."""


class StudyDatastore(SharedDatastore):
    """Scans in a folder: NIfTI, NRRD, MetaImage, PNG and JPEG files, and sub-folders with one DICOM series.

    A DICOM file that lies in the folder itself is taken if it is a 2D image (an X-ray, say); slices of a volume belong
    into a sub-folder. The id of a scan is the file's name without its suffix, or the sub-folder's name.

    Only a person's save through REST may write or delete the tag ``final``: see ``serving``.

    Args:
        folder: the study.
        read_only: do not look for new files.
        follow_links: whether links that lead out of the study are followed, see ``adapters.links``.

    Attributes:
        serving: whether this process answers clients. Only then labels with the tag ``final`` are taken.
    """

    def __init__(self, folder: str, *, read_only: bool = False, follow_links: bool = False) -> None:
        self.serving = False
        self._links = Links(folder, follow=follow_links)
        self._links.check_folders("labels")
        self._outside: set[str] = set()
        self._watcher: Any = None
        self._headers: dict[tuple[str, int, int], bool] = {}
        super().__init__(folder, extensions=EXTENSIONS, read_only=read_only)

    # --- what belongs to the study --------------------------------------------------------------------------------

    def _to_id(self, file: str) -> tuple[str, str]:
        for extension in EXTENSIONS:
            if file.lower().endswith(extension) and len(file) > len(extension):
                return file[: -len(extension)], file[-len(extension) :]
        return file, ""

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        return {
            name: name
            for name in sorted(os.listdir(path))
            if not name.startswith(".")
            and self._is_scan(os.path.join(path, name), self._to_id(name)[1])
            and self._stays_inside(os.path.join(path, name))
        }

    def _is_scan(self, path: str, extension: str) -> bool:
        """Whether a file of this extension is a scan, or the label of one."""
        if extension.lower() != DICOM:
            return bool(extension)
        # Looked into once: a folder may be full of slices that do not belong there.
        try:
            status = os.stat(path)
        except OSError:
            return False
        stamp = path, status.st_mtime_ns, status.st_size
        if stamp not in self._headers:
            self._headers[stamp] = is_dicom_image(path)
        return self._headers[stamp]

    def _add_non_existing_images(self) -> int:
        root = self._datastore.image_path()
        found: dict[str, str] = {}
        for name in sorted(os.listdir(root)):
            path = os.path.join(root, name)
            if name.startswith(".") or (os.path.isdir(path) and not self._is_series(path)):
                continue
            image_id, extension = (name, "") if os.path.isdir(path) else self._to_id(name)
            # A file goes before a folder of the same name: the folder's NIfTI copy.
            if (os.path.isdir(path) or self._is_scan(path, extension)) and self._stays_inside(path):
                found[image_id] = extension if extension else found.get(image_id, "")
        fresh = {k: v for k, v in found.items() if k not in self._datastore.objects}
        for image_id, extension in fresh.items():
            logger.info("New image: %s", image_id)
            info = {"ts": int(time.time()), "name": self._filename(image_id, extension)}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=extension))
        return len(fresh)

    def _is_series(self, path: str) -> bool:
        """Whether a sub-folder holds DICOM files; looks at its first three files."""
        if os.path.realpath(path) == os.path.realpath(self._datastore.label_path(None)):
            return False
        with os.scandir(path) as entries:
            files = sorted(e.path for e in entries if e.is_file() and not e.name.startswith("."))[:3]
        return any(file.lower().endswith(".dcm") or _has_dicom_mark(file) for file in files)

    def _stays_inside(self, path: str) -> bool:
        """Whether a file or folder lies in the study; what does not is said once."""
        reason = self._links.reason(path)
        if reason is not None and path not in self._outside:
            self._outside.add(path)
            logger.warning("Left out: %s: %s.", os.path.relpath(path, self._datastore_path), reason)
        return reason is None

    def get_image_uri(self, image_id: str) -> str:
        """See the base class; refused for what has become a link that leads out of the study."""
        item = self._datastore.objects.get(image_id)
        if item is not None:
            file = os.path.join(self._datastore.image_path(), self._filename(image_id, item.image.ext))
            self._links.check(file, f"Image {image_id!r}")
        return str(super().get_image_uri(image_id))

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """See the base class; refused for what has become a link that leads out of the study."""
        label = self._datastore.label(label_id, label_tag)
        if label is not None:
            file = os.path.join(self._datastore.label_path(label_tag), self._filename(label_id, label.ext))
            self._links.check_folders("labels")
            self._links.check(file, f"The label of {label_id!r}")
        return str(super().get_label_uri(label_id, label_tag))

    def _known(self, image_id: str) -> ImageLabelModel:
        item = self._datastore.objects.get(image_id)
        if item is None:
            raise UserError(f"There is no image {image_id!r} in this study.", status=404)
        return item

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

    # --- changes --------------------------------------------------------------------------------------------------

    @http_answers()
    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy a scan into the study; an existing one that has labels is never replaced by another."""
        own, extension = self._to_id(os.path.basename(image_filename))
        image_id = plain_name(image_id or own, "image")
        if not self._is_scan(image_filename, extension):
            raise UserError(
                f"{os.path.basename(image_filename)} is no scan this server can read. "
                f"Allowed: {', '.join(EXTENSIONS)} ({DICOM} for 2D images only)."
            )
        notes = plain_info(image_info)
        with self._transaction():
            target = Path(self._datastore.image_path()) / self._filename(image_id, extension)
            known = self._datastore.objects.get(image_id)
            if known and known.labels:
                if target.is_file() and filecmp.cmp(target, image_filename, shallow=False):
                    return image_id
                raise UserError(
                    f"The study has another image {image_id!r} with labels. Save this one under another name.",
                    status=409,
                )
            write_whole(target, lambda name: shutil.copyfile(image_filename, name))
            info = {**notes, "ts": int(time.time()), "name": target.name}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=extension))
            self._update_datastore_file()
        return image_id

    @http_answers()
    def remove_image(self, image_id: str) -> None:
        """Delete a scan and its labels, as a person asked for through REST."""
        with self._transaction():
            item = self._known(image_id)
            if FINAL in item.labels:
                self._refuse_unless_serving()
            for tag, label in item.labels.items():
                _delete(os.path.join(self._datastore.label_path(tag), self._filename(image_id, label.ext)))
            _delete(os.path.join(self._datastore.image_path(), self._filename(image_id, item.image.ext)))
            del self._datastore.objects[image_id]
            self._update_datastore_file()

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
        if tag == FINAL:
            self._refuse_unless_serving()
        with self._transaction():
            replaced = [self._put_label(name, file, tag, info) for name, (file, info) in labels.items()]
            self._update_datastore_file()
            for path in replaced:
                if path is not None and tag != FINAL:
                    _delete(path)

    def publish(self, image_ids: Iterable[str]) -> None:
        """The pseudo-labels of these scans will stay: a study on a DICOM server may have to send them."""

    def _put_label(self, image_id: str, file: str, tag: str, info: Mapping[str, Any] | None) -> str | None:
        """Copy one label in and note it; returns the file of another format that it stands for now."""
        _, extension = self._to_id(os.path.basename(file))
        if extension.lower() not in LABEL_EXTENSIONS:
            raise UserError(f"A label must be one of {', '.join(LABEL_EXTENSIONS)}, not {os.path.basename(file)!r}.")
        item = self._known(image_id)
        if extension.lower() in PICTURES and item.image.ext.lower() not in (*PICTURES, DICOM):
            raise UserError(f"{image_id} is a 3D scan: save its label as .nii.gz or .nrrd, not as {extension}.")
        target = Path(self._datastore.label_path(tag)) / self._filename(image_id, extension)
        notes = plain_info(info)
        self._links.check_folders("labels")
        write_whole(target, lambda name: shutil.copyfile(file, name))
        before = item.labels.get(tag)
        item.labels[tag] = DataModel(info={**notes, "ts": int(time.time()), "name": target.name}, ext=extension)
        if before and before.ext != extension:
            return str(target.with_name(self._filename(image_id, before.ext)))
        return None

    @http_answers()
    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label, as a person asked for through REST."""
        tag = plain_name(label_tag, "tag")
        if tag == FINAL:
            self._refuse_unless_serving()
        with self._transaction():
            item = self._known(label_id)
            label = item.labels.pop(tag, None)
            if label is None:
                raise UserError(f"Image {label_id!r} has no label with the tag {tag!r}.", status=404)
            _delete(os.path.join(self._datastore.label_path(tag), self._filename(label_id, label.ext)))
            self._update_datastore_file()

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
        """See the base class."""
        with self._transaction():
            super().update_label_info(label_id, plain_name(label_tag, "tag"), plain_info(info))

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
        try:
            watcher.schedule(_Watch(self), self._datastore_path, recursive=True)
            watcher.start()
        except OSError as error:
            logger.error("The study is not watched, new files need a restart: %s", error)
            return
        self._watcher = watcher


class _Watch(FileSystemEventHandler):
    """Looks at the study again when a file of it came, went or was replaced."""

    def __init__(self, store: StudyDatastore) -> None:
        self._store = store

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog for everything below the study."""
        if event.event_type not in ("created", "deleted", "moved"):
            return
        names = [os.path.basename(str(p)) for p in (event.src_path, event.dest_path) if p]
        if all(name.startswith(".") or name == "datastore_v2.json" for name in names):
            return
        try:
            self._store.refresh()
        except (UserError, OSError) as error:
            logger.warning("The study could not be looked at again: %s", error)


def plain_name(name: object, what: str) -> str:
    """The text of an id or tag.

    Raises:
        UserError: for what could lead to another folder, or can be no file's name.
    """
    text = getattr(name, "value", name)
    if not isinstance(text, str) or not _NAME.fullmatch(text) or text.startswith("."):
        raise UserError(f"{shown(text)} is no valid {what} name: no slashes, no dot at its start, nothing unprintable.")
    if len(text.encode()) > _NAME_BYTES:
        raise UserError(f"{shown(text)} is too long for a {what} name: at most {_NAME_BYTES} bytes.")
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


def _has_dicom_mark(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _delete(path: str) -> None:
    """Delete a file, a folder, or a link but not what it points to."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)

"""A study folder as a datastore, part four: how scans are listed, added, replaced and deleted."""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.formats.channels import MissingChannelError, is_one_of_several
from lib.formats.volumes import read_volume
from server.errors import http_answers
from server.options import is_true
from server.upstream.datastore_file import file_name

from .detached import HEADER, data_files
from .file_names import DICOM, EXTENSIONS, split
from .label_folders import tags
from .label_store import LabelDatastore, delete, plain_info, plain_name, without_name
from .marked_store import FINAL, ORIGINAL
from .scan_marks import files_of
from .uploads import ARCHIVES, few_channels, unpacked_scan
from .viewer_files import ViewerFiles
from .watching import Watch

logger = logging.getLogger("semisam.store")

__all__ = ("FINAL", "ORIGINAL", "StudyDatastore", "plain_info", "plain_name")

_AGAIN_SECONDS = 6.0


class StudyDatastore(LabelDatastore):
    """Scans in a folder: NIfTI, NRRD, MetaImage, PNG and JPEG files, and sub-folders with one DICOM series.

    A DICOM file that lies in the folder itself is taken if it is a 2D image (an X-ray, say); slices of a volume belong
    into a sub-folder. The id of a scan is the file's name without its suffix, or the sub-folder's name.

    What is known of a label lies beside its file (``server.store.label_notes``), and MONAI Label's list is made of it.

    Only a person's save through REST may write or delete the tag ``final``: see ``serving``.

    Args:
        folder: the study.
        read_only: write nothing into it.
        follow_links: whether links that lead out of the study are followed, see ``server.store.links``.

    Attributes:
        serving: whether this process answers clients. Only then labels with the tag ``final`` are taken.
        on_gone: called with the id of a scan that was deleted, or replaced by another one.
    """

    def __init__(self, folder: str, *, read_only: bool = False, follow_links: bool = False) -> None:
        self.on_gone: Callable[[str], None] = lambda image_id: None
        self._watcher: Any = None
        self._watch: Watch | None = None
        self._viewer_files = ViewerFiles(Path(folder), read_only=read_only)
        super().__init__(folder, read_only=read_only, follow_links=follow_links)

    # --- links that lead out of the study --------------------------------------------------------------------------

    def get_image_uri(self, image_id: str) -> str:
        """Path of a scan; refused for what has become a link that leads out of the study."""
        item = self._list.objects.get(image_id)
        if item is not None:
            file = self._scan_path(image_id)
            for each in (file, *data_files(file)):
                self._links.check(each, f"Image {image_id!r}")
        return str(super().get_image_uri(image_id))

    # --- files for viewers ----------------------------------------------------------------------------------------

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is noted of a scan; ``path`` and ``name`` are those of a file that a viewer can open."""
        info = dict(super().get_image_info(image_id))
        if not info:
            return info
        if not isinstance(info.get("strategy", {}), Mapping):
            del info["strategy"]  # a client's note under the name of MONAI Label's, which adds to it
        scan = Path(info["path"])
        file = self._viewer_files.file_of(image_id, scan)
        return {**info, "path": str(file), "name": info.get("name", scan.name) if file == scan else file.name}

    @http_answers()
    def viewer_file(self, image_id: str) -> str:
        """Path of one file with the scan, which is made of it if it is several; empty when there is no such scan."""
        scan = self.get_image_uri(image_id)
        return str(self._viewer_files.make(image_id, Path(scan))) if scan and os.path.exists(scan) else scan

    # --- changes of scans -----------------------------------------------------------------------------------------

    @http_answers()
    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy a scan into the study; another one of the same name is replaced only when the client says ``replace``.

        A scan of several files comes as one archive (zip or tar): a DICOM series, a header with its data, or a file for
        each channel.
        """
        notes = plain_info(image_info)
        replace = is_true(notes.pop("replace", False))
        self._refuse_if_read_only()
        base = os.path.basename(image_filename)
        with unpacked_scan(Path(image_filename)) as scan:
            packed = split(base, ARCHIVES)[0]
            own, extension = ("", "") if scan.is_dir() else split(scan.name)
            image_id = plain_name(image_id or (packed if scan != Path(image_filename) else own), "image")
            if not scan.is_dir() and not extension:
                raise UserError(
                    f"The image {image_id!r} is not stored: its file's name has no ending that this server reads. "
                    f"Allowed: {', '.join(EXTENSIONS)} ({DICOM} for 2D images only), and an archive with the files of "
                    "one scan."
                )
            self._check_scan(image_id, scan, Path(image_filename))
            if not scan.is_dir() and is_one_of_several(f"{image_id}{extension}"):
                raise UserError(
                    f"The image {image_id!r} is not stored: it has all channels in one file, and {image_id[-5:]} at "
                    "the end of a name stands for a single one. Give it another name."
                )
            self._put_image(image_id, scan, extension, notes, replace=replace)
        return image_id

    def _check_scan(self, image_id: str, scan: Path, upload: Path) -> None:
        """Raise UserError (413, 422) when an upload cannot be read as a scan."""
        try:
            reason = None if scan.is_dir() else self._files.upload_reason(scan)
            if reason is not None:
                raise UserError(f"{reason.rstrip('.')}.", status=422)
            read_volume(scan)
        except UserError as error:
            # An upload has a random name; what came in an archive has its own.
            text = few_channels() if isinstance(error, MissingChannelError) else without_name(error, upload)
            raise UserError(f"The image {image_id!r} is not stored: {text}", status=error.status) from error

    def _put_image(self, image_id: str, scan: Path, extension: str, notes: Mapping[str, Any], *, replace: bool) -> None:
        with self._transaction():
            target = Path(self._list.image_path()) / file_name(image_id, extension)
            known = self._list.objects.get(image_id)
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
            self._list.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=extension))
            self._write_list()

    def _check_replace(self, image_id: str, *, replace: bool) -> None:
        """Raise UserError (409) unless a client wants a scan replaced, and nobody has outlined it.

        Outlines are deleted by those who may delete scans, which is more than who may upload them.
        """
        known = self._list.objects.get(image_id)
        tags_of = sorted(known.labels) if known is not None else []
        if self._formats(Path(self._list.label_path(FINAL)), image_id):
            raise UserError(
                f"The study has another image {image_id!r} with labels ({', '.join(tags_of) or FINAL}), one of them by "
                "a person: it is not replaced. Save this one under another name, or delete the other one first "
                "(DELETE /datastore/image).",
                status=409,
            )
        if not replace:
            labels = f" with labels ({', '.join(tags_of)})" if tags_of else ""
            raise UserError(
                f"The study has another image {image_id!r}{labels}, which is not replaced unasked. Save this one under "
                'another name. To replace it, and delete what was made of it, send params {"replace": true} along.',
                status=409,
            )

    @http_answers()
    def remove_image(self, image_id: str) -> None:
        """Delete a scan with all its files and labels, as a person asked for through REST."""
        self._refuse_if_read_only()
        with self._transaction():
            item = self._known(image_id)
            if FINAL in item.labels or self._formats(Path(self._list.label_path(FINAL)), image_id):
                self._refuse_unless_serving()
            self._delete_scan(image_id, self._scan_path(image_id))
            self._write_list()

    def _delete_scan(self, image_id: str, path: Path) -> None:
        """Delete the labels of a scan, then the scan: what is left by a kill has no label of another scan."""
        labels = Path(self._list.label_path(None))
        for tag in tags(labels, {}):
            self._delete_label(image_id, tag)
        item = self._list.objects.pop(image_id, None)
        paths = {path} if item is None else {path, path.with_name(file_name(image_id, item.image.ext))}
        for each in sorted(paths):
            for file in self._files.files_of(each.name) if os.path.lexists(each) else ():
                delete(str(file))
        self._viewer_files.drop(image_id)
        try:
            self.on_gone(image_id)
        except Exception as error:  # the scan is gone; what was worked out about it is of no account
            logger.warning("What was worked out about %s could not be deleted: %s", image_id, error)

    @http_answers()
    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Pack the outlined scans and their labels; returns the archive's path."""
        if not self.datalist():
            raise UserError("No scan has a 'final' label yet: there is nothing to pack.", status=409)
        return str(super().get_dataset_archive(limit_cases))

    # --- watching -------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Take up files that others add to or remove from the study."""
        watcher = PollingObserver() if self.on_mounted_drive else Observer()
        self._watch = Watch(self._look_again)
        try:
            watcher.schedule(self._watch, str(self.folder), recursive=True)
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

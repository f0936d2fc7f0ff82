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

from monailabel.datastore.local import DataModel, ImageLabelModel
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.label_names import names_in
from lib.formats.label_files import check_readable
from lib.formats.pictures import PICTURES
from lib.formats.volumes import read_volume
from server.errors import http_answers
from server.options import check_plain, is_true, shown
from server.upstream.datastore_file import file_name

from .detached import HEADER, data_files
from .label_facts import LabelFacts, said_by_client
from .links import Links
from .listed_store import FINAL, ORIGINAL, ListedDatastore
from .scan_marks import files_of
from .study_files import DICOM, EXTENSIONS, LABEL_EXTENSIONS, NAME, NAME_BYTES, split, tags
from .uploads import ARCHIVES, unpacked_scan
from .viewer_files import ViewerFiles
from .watching import Watch

logger = logging.getLogger("semisam.store")

__all__ = ("FINAL", "ORIGINAL", "StudyDatastore", "plain_info", "plain_name")

_AGAIN_SECONDS = 6.0


class StudyDatastore(ListedDatastore):
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
        self.serving = False
        self._links = Links(folder, follow=follow_links)
        self._links.check_folders("labels")
        self.on_gone: Callable[[str], None] = lambda image_id: None
        self._watcher: Any = None
        self._watch: Watch | None = None
        self._viewer_files = ViewerFiles(Path(folder), read_only=read_only)
        super().__init__(folder, read_only=read_only)

    # --- links that lead out of the study --------------------------------------------------------------------------

    def _barred(self, path: Path) -> str | None:
        """See the base class: links that lead out of the study, also those to the data of a header."""
        reasons = (self._links.reason(each) for each in (path, *data_files(path)))
        return next((reason for reason in reasons if reason is not None), None)

    def get_image_uri(self, image_id: str) -> str:
        """Path of a scan; refused for what has become a link that leads out of the study."""
        item = self._list.objects.get(image_id)
        if item is not None:
            file = self._scan_path(image_id)
            for each in (file, *data_files(file)):
                self._links.check(each, f"Image {image_id!r}")
        return str(super().get_image_uri(image_id))

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label, empty when there is none; refused for what has become a link out of the study."""
        tag = str(getattr(label_tag, "value", label_tag))
        if self._list.label(label_id, tag) is not None:
            self._links.check_folders("labels")
            self._links.check(self._label_path(label_id, tag), f"The label of {label_id!r}")
        return super().get_label_uri(label_id, label_tag)

    def labels_on_disk(self, tag: str) -> dict[str, Path]:
        """Where the labels with a tag are or would be, by the scans' ids; nothing is fetched for this."""
        names = [name for name, item in self._list.objects.items() if tag in item.labels]
        return {name: Path(StudyDatastore.get_label_uri(self, name, tag)) for name in names}

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
            if not scan.is_dir() and not extension:
                raise UserError(
                    f"The image {image_id!r} is not stored: its file's name has no ending that this server reads. "
                    f"Allowed: {', '.join(EXTENSIONS)} ({DICOM} for 2D images only), and an archive with the files of "
                    "one scan."
                )
            self._check_scan(image_id, scan, Path(image_filename))
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
            text = _without_name(error, upload)
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
                _delete(str(file))
        self._viewer_files.drop(image_id)
        try:
            self.on_gone(image_id)
        except Exception as error:  # the scan is gone; what was worked out about it is of no account
            logger.warning("What was worked out about %s could not be deleted: %s", image_id, error)

    # --- changes of labels ----------------------------------------------------------------------------------------

    @http_answers()
    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Copy a label into the study; readers see the old one or the new one, never half of it.

        What a client sends is read first: a file that nobody can read must not take the place of a person's work.
        """
        if self.serving:
            label_info = said_by_client(plain_info(label_info))
            self._check_content(image_id, Path(label_filename))
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
            self._write_list()

    def publish(self, image_ids: Iterable[str]) -> None:
        """The pseudo-labels of these scans will stay: a study on a DICOM server may have to send them."""

    def unsent(self) -> dict[str, str]:
        """Pseudo-labels that a server could not be given, by the scans' ids, each with the reason."""
        return {}

    def _check_label(self, image_id: str, file: str) -> None:
        """Raise UserError when this cannot be the file of a label of this scan."""
        _, extension = split(os.path.basename(file), LABEL_EXTENSIONS)
        if not extension:
            raise UserError(f"A label must be one of {', '.join(LABEL_EXTENSIONS)}, not {os.path.basename(file)!r}.")
        item = self._known(image_id)
        if extension.lower() in PICTURES and item.image.ext.lower() not in (*PICTURES, DICOM):
            raise UserError(f"{image_id} is a 3D scan: save its label as .nii.gz or .nrrd, not as {extension}.")
        if split(file_name(image_id, extension), LABEL_EXTENSIONS)[0] != image_id:
            raise UserError(f"A label of {image_id} cannot be stored as {extension}. Save it as .nii.gz.")

    def _check_content(self, image_id: str, file: Path) -> None:
        """Raise UserError (413, 422) when the file of a label cannot be read; whether it fits is another question."""
        self._check_label(image_id, str(file))
        try:
            check_readable(file)
        except UserError as error:
            text = _without_name(error, file)
            raise UserError(
                f"The label of {image_id} is not saved, and nothing is changed: {text}", status=error.status
            ) from error

    def _put_label(self, image_id: str, file: Path, tag: str, info: Mapping[str, Any]) -> None:
        """Copy a checked label in, in place of those of other formats, and note it; in a transaction."""
        extension = split(file.name, LABEL_EXTENSIONS)[1]
        folder = Path(self._list.label_path(tag))
        target = folder / file_name(image_id, extension)
        facts = LabelFacts.from_info(info).of("", self._scan_mark(image_id), int(time.time()))
        known = self._place_label(image_id, file, target, facts)
        label = DataModel(info=known.to_info(target.name), ext=extension)
        self._list.objects[image_id].labels[tag] = label

    def _place_label(self, image_id: str, file: Path, target: Path, facts: LabelFacts) -> LabelFacts:
        """Copy a label file to its place, its facts before it, and delete those of other formats after it."""
        self._links.check_folders("labels")
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
            self._write_list()

    def _delete_label(self, image_id: str, tag: str) -> bool:
        """Delete the files of a label, the one that counts last: what is left by a kill is no older one."""
        folder = Path(self._list.label_path(tag))
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
            self._write_list()

    @http_answers()
    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something about a label, beside its file."""
        tag = plain_name(label_tag, "tag")
        notes = said_by_client(plain_info(info))
        if "label_info" in notes and not names_in(notes):
            raise UserError("label_info: the names of a label's values cannot be taken away. Save the label anew.")
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
            self._write_list()

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


def _without_name(error: UserError, upload: Path) -> str:
    """What is wrong with an upload, without the random name that it has here."""
    text = str(error).replace(f"Rename it to {upload.name}.gz", "Let its name end with .nii.gz")
    return text.replace(f"Label {upload.name}", "its file").replace(upload.name, "its file")


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


def _delete(path: str) -> None:
    """Delete a file, a folder, or a link but not what it points to."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)

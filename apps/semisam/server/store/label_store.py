"""A study folder as a datastore, part three: how labels are saved and deleted, and what is noted of them."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel
from typing_extensions import override

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.label_names import names_in
from lib.formats.label_files import check_readable
from lib.formats.pictures import PICTURES
from server.errors import http_answers
from server.options import check_plain, shown
from server.upstream.datastore_file import file_name

from .detached import data_files
from .file_names import DICOM, LABEL_EXTENSIONS, NAME, NAME_BYTES, split
from .label_facts import LabelFacts, said_by_client
from .links import Links
from .listed_store import ListedDatastore
from .marked_store import FINAL

logger = logging.getLogger("semisam.store")


class LabelDatastore(ListedDatastore):
    """Labels of a study folder.

    What is known of a label lies beside its file (``server.store.label_notes``), and MONAI Label's list is made of it.

    Args:
        folder: the study.
        read_only: write nothing into it.
        follow_links: whether links that lead out of the study are followed, see ``server.store.links``.

    Attributes:
        serving: whether this process answers clients. Only then labels with the tag ``final`` are taken.
    """

    def __init__(self, folder: str, *, read_only: bool = False, follow_links: bool = False) -> None:
        self.serving = False
        self._links = Links(folder, follow=follow_links)
        self._links.check_folders("labels")
        super().__init__(folder, read_only=read_only)

    def _barred(self, path: Path) -> str | None:
        """Links that lead out of the study, also those to the data of a header."""
        reasons = (self._links.reason(each) for each in (path, *data_files(path)))
        return next((reason for reason in reasons if reason is not None), None)

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
        return {name: Path(LabelDatastore.get_label_uri(self, name, tag)) for name in names}

    def label_history(self, image_id: str, tag: str) -> list[LabelFacts]:
        """What is known of the last contents of a label, the newest first, also when it was deleted since."""
        if not self._notes_in_files:
            return []
        return [noted.facts for noted in reversed(self._notes.read(Path(self._list.label_path(tag)), image_id).labels)]

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
            text = without_name(error, file)
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
                delete(str(folder / name))
        self._notes.delete(folder, image_id)
        return bool(names)

    @override
    @http_answers()
    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
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

    def _refuse_unless_serving(self) -> None:
        if not self.serving:
            raise UserError("Labels with the tag 'final' are written and deleted by people only.", status=409)


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


def without_name(error: UserError, upload: Path) -> str:
    """What is wrong with an upload, without the random name that it has here."""
    text = str(error).replace(f"Rename it to {upload.name}.gz", "Let its name end with .nii.gz")
    return text.replace(f"Label {upload.name}", "its file").replace(upload.name, "its file")


def delete(path: str) -> None:
    """Delete a file, a folder, or a link but not what it points to."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)

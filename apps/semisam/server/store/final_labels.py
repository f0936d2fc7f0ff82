"""The final labels of a study: which there are, which can be used, and what is in them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore

from lib.core.cache import Recent, stamp_of
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.core.negatives import is_meant, only_negative
from lib.core.sparse_labels import Planes, check_stated, find_planes, only_sparse
from lib.formats.label_files import read_label
from lib.formats.label_meaning import LabelMeaning
from lib.formats.volumes import read_volume
from lib.propagation import MOST_TEMPLATES, Template
from lib.recipes import Case
from server.errors import text_of

from .folder_store import FINAL, StudyDatastore
from .stored_labels import StoredLabels

logger = logging.getLogger("semisam.study")

NO_FINAL = (
    "No scan of this study has a 'final' label yet. Outline one scan in the viewer, save it (Submit Label), "
    "and try again."
)


@dataclass(frozen=True)
class FinalLabel:
    """A final label as the datastore lists it: neither fetched nor looked into.

    Args:
        name: id of the scan.
        names: the label's named values, see ``lib.core.label_names.names_in``.
        annotated: what is said about what is annotated in it, not checked yet; see ``lib.core.sparse_labels``.
        saved: when it was saved, in seconds since 1970; 0 when that is not known.
    """

    name: str
    names: tuple[tuple[str, int], ...]
    annotated: str = "auto"
    saved: int = 0


@dataclass(frozen=True)
class LabelCheck:
    """What a look into a final label has found.

    Args:
        image: the scan's file or folder.
        label: the label's file.
        exchanged: which values have to be exchanged, see ``lib.formats.label_meaning``.
        planes: what is annotated if not all of it is.
        empty: whether it says that the scan has none of the structures.
    """

    image: Path
    label: Path
    exchanged: dict[int, int]
    planes: Planes | None
    empty: bool = False


class FinalLabels:
    """The final labels of a study.

    Args:
        datastore: where they are.
        schema: gives the study's structures.
        stored: all labels of the study.
    """

    def __init__(self, datastore: Datastore, schema: Callable[[], LabelSchema], stored: StoredLabels) -> None:
        self._datastore = datastore
        self._schema = schema
        self._stored = stored
        self._templates: Recent[Template] = Recent(MOST_TEMPLATES + 1)
        self._checked: Recent[LabelCheck] = Recent(1000)

    # --- which there are --------------------------------------------------------------------------------------------

    def listed(self) -> list[FinalLabel]:
        """All of them, by the scans' names. Nothing is fetched for this."""
        return [self._known(name) for name in sorted(self._datastore.get_labeled_images())]

    def of(self, name: str) -> FinalLabel | None:
        """The final label of a scan, None without one."""
        return self._known(name) if self._datastore.get_label_by_image_id(name, FINAL) else None

    def _known(self, name: str) -> FinalLabel:
        facts = self._stored.facts(name, FINAL)
        return FinalLabel(name, facts.names, facts.said, facts.saved)

    # --- which can be used ------------------------------------------------------------------------------------------

    def usable(self, *, without: str | None = None) -> list[FinalLabel]:
        """Those that can be used.

        Args:
            without: name of a scan to leave out.

        Raises:
            UserError: (409) when there is none, (422) when none can be used, with the first reason.
        """
        listed = self.listed()
        good, reasons = [], []
        for item in listed:
            if item.name == without:
                continue
            try:
                self.check(item)
                good.append(item)
            except UserError as error:
                logger.warning("The final label of %s is left out: %s", item.name, error)
                reasons.append(str(error))
        if good:
            return good
        reasons += self._left_out()
        if reasons:
            raise UserError(f"No final label of this study can be used. {reasons[0]}", status=422)
        if without is not None and listed:
            raise UserError(
                f"Only {without} itself has a 'final' label. Ask for another scan, or outline a second one.", status=409
            )
        raise UserError(NO_FINAL, status=409)

    def _left_out(self) -> list[str]:
        """Why files that look like final labels are none."""
        left_out = self._datastore.left_out if isinstance(self._datastore, StudyDatastore) else {}
        return [f"{file} is left out: {text}." for file, text in left_out.items() if file.startswith("labels/final/")]

    def fully_annotated(self, *, without: str | None = None) -> list[FinalLabel]:
        """The usable ones in which all of the scan is annotated: only these can be carried over to others.

        Args:
            without: name of a scan to leave out.

        Raises:
            UserError: see ``usable``; (409) when only planes, or nothing, are outlined in all of them.
        """
        good = self.usable(without=without)
        held = [item for item in good if not self.check(item).empty]
        if not held:
            raise UserError(only_negative([item.name for item in good]), status=409)
        found = [item for item in held if self.check(item).planes is None]
        if not found:
            raise UserError(only_sparse([item.name for item in held]), status=409)
        return found

    # --- what is in them --------------------------------------------------------------------------------------------

    def check(self, item: FinalLabel) -> LabelCheck:
        """Look into a final label, once as long as neither it nor its scan changes; fetches both if need be.

        Raises:
            UserError: when scan or label cannot be used.
        """
        key = self._key(item)

        def look() -> LabelCheck:
            image, path = self._files(item)
            scan, label, exchanged = self._read(item, image, path)
            try:
                planes = find_planes(label, check_stated(item.annotated))
            except UserError as error:
                raise UserError(f"The final label of {item.name} cannot be used: {error}", status=422) from error
            if planes is not None:
                logger.info(
                    "The final label of %s: three planes are annotated, %.1f %% of the voxels",
                    item.name,
                    100 * planes.share(label.shape),
                )
            self._templates.get(key, lambda: Template(item.name, scan, label))
            return LabelCheck(image, path, exchanged, planes, not label.any())

        return self._checked.get(key, look)

    def template(self, item: FinalLabel) -> Template:
        """Scan and label."""
        return self._templates.get(
            self._key(item), lambda: Template(item.name, *self._read(item, *self._files(item))[:2])
        )

    def case(self, item: FinalLabel) -> Case:
        """The files for a training: a corrected copy of the label where values have to be exchanged."""
        look = self.check(item)
        file = look.label
        if look.exchanged:
            template = self.template(item)
            file = self._stored.corrected(item.name, look.label, item.names, template.label, template.scan)
        return Case(item.name, look.image, file, check_stated(item.annotated), look.empty)

    def _files(self, item: FinalLabel) -> tuple[Path, Path]:
        """Scan and label on the disk; a remote store fetches them here."""
        store = self._datastore
        try:
            return Path(store.get_image_uri(item.name)), Path(store.get_label_uri(item.name, FINAL))
        except (UserError, HTTPException) as error:
            text, status = text_of(error), getattr(error, "status", getattr(error, "status_code", 502))
            raise UserError(f"The final label of {item.name} could not be fetched: {text}", status=status) from error
        except Exception as error:  # MONAI Label's own datastores raise many kinds
            text = f"The final label of {item.name} could not be fetched: {text_of(error)}."
            raise UserError(text, status=502) from error

    def _key(self, item: FinalLabel) -> Hashable:
        """Changes when scan or label do. Nothing is fetched for this, but by MONAI Label's own datastores."""
        store = self._datastore
        if isinstance(store, StudyDatastore):
            try:
                stamps = store.scan_stamp(item.name), store.label_stamp(item.name, FINAL)
            except HTTPException as error:  # a link that leads out of the study
                raise UserError(str(error.detail), status=error.status_code) from error
        else:
            image, label = self._files(item)
            stamps = stamp_of(image), stamp_of(label)
        return self._schema(), item.name, item.names, item.annotated, stamps

    def _read(self, item: FinalLabel, image: Path, path: Path) -> tuple[Volume, np.ndarray, dict[int, int]]:
        """Scan, label in the study's values, and which values were exchanged."""
        schema = self._schema()
        what = f"The final label of {item.name}"
        meaning = LabelMeaning.of(path, item.names, schema, what)
        meaning.check_names()  # an unknown structure is told by its name, not by its value
        store = self._datastore if isinstance(self._datastore, StudyDatastore) else None
        before = store.scan_files_stamp(item.name) if store is not None else (0, 0, 0)
        if store is not None:
            store.check_drawn_on(item.name, FINAL)
        stamp = stamp_of(path)
        try:
            scan = read_volume(image)
            empty = is_meant(meaning.names, item.annotated)
            label = read_label(path, scan, schema, values=meaning, may_be_empty=empty)
        except UserError as error:
            raise (
                error if str(error).startswith(what) else UserError(f"{what} cannot be used: {error}", status=422)
            ) from error
        if stamp_of(path) != stamp or self._stored.facts(item.name, FINAL).names != item.names:
            # The names that were looked up may be those of the label before.
            raise UserError(f"{what} was being saved anew. Try again.", status=409)
        if store is not None and store.scan_files_stamp(item.name) != before:
            raise UserError(f"The scan {item.name} was being copied just now. Try again.", status=409)
        if store is not None:
            store.note_scan(item.name, FINAL, before, scan.array)
        return scan, label, meaning.exchanged

"""The study as the tasks see it: its structures, its outlined scans, and where its models are kept."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore
from torch import Tensor

from lib.core.cache import Recent, stamp_of
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.label_names import Named, position
from lib.core.labels import MAX_LABELS, LabelSchema
from lib.core.negatives import is_meant, only_negative
from lib.core.sparse_labels import Planes, check_stated, find_planes, only_sparse
from lib.formats.label_files import largest_label, read_label
from lib.formats.label_meaning import LabelMeaning
from lib.formats.segmentations import names_in_file
from lib.formats.volumes import read_volume, write_label
from lib.generalists import Generalist, check_generalist
from lib.propagation import MOST_TEMPLATES, Propagator, Template, most_similar, signature
from lib.propagation.study_tools import Tools
from lib.recipes import Case
from lib.setup.settings import Settings
from lib.specialists import Specialist, load_fitting
from server.errors import text_of

from .folder_store import FINAL, StudyDatastore
from .label_facts import LabelFacts
from .study_files import split

logger = logging.getLogger("semisam.study")

_SCHEMA_SECONDS = 1.0
"""How often labels are looked at for another program's changes."""

NO_FINAL = (
    "No scan of this study has a 'final' label yet. Outline one scan in the viewer, save it (Submit Label), "
    "and try again."
)


@dataclass(frozen=True)
class Outlined:
    """A scan with a ``final`` label, not yet looked into.

    Args:
        name: id of the scan.
        image: its file or folder.
        label: the label's file.
        names: the label's named values, see ``lib.core.label_names.names_in``.
        annotated: what is said about what is annotated in it, not checked yet; see ``lib.core.sparse_labels``.
    """

    name: str
    image: Path
    label: Path
    names: tuple[tuple[str, int], ...]
    annotated: str = "auto"


@dataclass(frozen=True)
class Looked:
    """What a look into a final label has found.

    Args:
        exchanged: which values have to be exchanged, see ``value_map``.
        planes: what is annotated if not all of it is.
        empty: whether it says that the scan has none of the structures.
    """

    exchanged: dict[int, int]
    planes: Planes | None
    empty: bool = False


class Study:
    """The study and everything that is kept for it.

    Args:
        location: folder or address of the study, as the server was started with it.
        datastore: where scans and labels are.
        settings: what the administrator chose.
        models: folder for the models of all studies.
    """

    def __init__(self, location: str, datastore: Datastore, settings: Settings, models: Path) -> None:
        self.location = location
        self.datastore = datastore
        self.settings = settings
        self._models = models
        self._templates: Recent[Template] = Recent(MOST_TEMPLATES + 1)
        self._signatures: Recent[Tensor] = Recent(1000)
        self._largest: Recent[int] = Recent(1000)
        self._specialists: Recent[Specialist] = Recent(2)
        self._checked: Recent[Looked] = Recent(1000)
        self._schema: tuple[object, LabelSchema] | None = None
        self._schema_checked = -math.inf
        self._generalist: Generalist | None = None
        self._propagator: Propagator | None = None

    # --- structures -----------------------------------------------------------------------------------------------

    @property
    def schema(self) -> LabelSchema:
        """The structures: from the settings, else from the people's labels, else one called ``structure``."""
        if self.settings.labels is not None:
            return self.settings.labels
        version = self._labels_version()
        if self._schema is None or version is None or self._schema[0] != version:
            schema, source = self._derived_schema()
            if self._schema is None or self._schema[1] != schema:
                listed = ", ".join(f"{value} {name}" for name, value in schema.as_dict().items())
                logger.info("Labels (%s): %s. Set them with: --conf labels name,name,...", source, listed)
            self._schema = (version, schema)
        return self._schema[1]

    def _labels_version(self) -> object:
        """Changes when a final label does, also one that is overwritten in place, which is looked for once a second."""
        if not hasattr(self.datastore, "version"):
            return None
        listed = self.datastore.version()
        now = time.monotonic()
        if self._schema is not None and now - self._schema_checked < _SCHEMA_SECONDS:
            before = self._schema[0]
            if isinstance(before, tuple) and before[0] == listed:
                return before
        self._schema_checked = now
        return listed, tuple(stamp_of(Path(self._local_label(name))) for name in self._local_finals())

    def _local_label(self, name: str) -> str:
        """Path of a final label, as far as known without asking a remote server."""
        if isinstance(self.datastore, StudyDatastore):
            return StudyDatastore.get_label_uri(self.datastore, name, FINAL)
        return str(LocalDatastore.get_label_uri(self.datastore, name, FINAL))

    def _derived_schema(self) -> tuple[LabelSchema, str]:
        finals = self._local_finals()
        named = [self._names(name, self._local_label(name)) for name in finals]
        for names in sorted((n for n in named if n), key=lambda n: (-len(n), n)):
            try:
                return LabelSchema(tuple(name for name, _ in names)), "from the names in the final labels"
            except UserError as error:
                logger.warning("The names of a final label cannot be used: %s", error)
        largest = 0
        for name in finals:
            path = Path(self._local_label(name))
            largest = max(largest, self._largest.get(stamp_of(path), lambda p=path: _largest_value(p)))  # type: ignore[misc]
        if largest:
            return LabelSchema(
                tuple(f"label_{n}" for n in range(1, largest + 1))
            ), "from the values in the final labels"
        return LabelSchema(("structure",)), "no final label yet"

    def _names(self, name: str, label: str) -> tuple[tuple[str, int], ...]:
        """The named values of a final label: its file's own names go before those beside it."""
        try:
            own = tuple(names_in_file(label))
        except UserError:
            own = ()  # it is told where the label is read
        return own or self.facts(name, FINAL).names

    def _local_finals(self) -> list[str]:
        """Scans with a final label, as far as known without asking a remote server."""
        if isinstance(self.datastore, LocalDatastore):
            return sorted(LocalDatastore.get_labeled_images(self.datastore))
        return []

    # --- parts ----------------------------------------------------------------------------------------------------

    @property
    def tools(self) -> Tools:
        """Generalist and propagator, as other processes need to know them."""
        settings = self.settings
        features = self._models.parent.absolute() / "features"
        weights = settings.weights_folder.absolute()
        return Tools(settings.generalist, weights, features, settings.propagator, settings.max_voxels)

    @property
    def generalist(self) -> Generalist:
        """The frozen model; its weights are read when they are first needed, and its features kept on disk."""
        if self._generalist is None:
            self._generalist = self.tools.open_generalist()
        return self._generalist

    def check_generalist(self) -> None:
        """Raise UserError (409) when the generalist's weights are not there; reads nothing."""
        check_generalist(self.settings.generalist, self.settings.weights_folder)

    @property
    def propagator(self) -> Propagator:
        """The propagator, made when first needed."""
        if self._propagator is None:
            self._propagator = self.tools.open_propagator()
        return self._propagator

    @property
    def place(self) -> Path:
        """Where is kept what does not depend on the labels: scores, and who was given which scan."""
        return self._models / hashlib.sha256(self.location.encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where this study's models and training state are; other studies and other labels have other folders."""
        text = "\n".join([self.location, *self.schema.names])
        return self._models / hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def published(self) -> Path:
        """The specialist in service."""
        return self.folder / "specialist.pt"

    def need_published(self) -> Path:
        """The file of the specialist in service.

        Raises:
            UserError: (409) when there is none yet.
        """
        if not self.published.is_file():
            raise UserError(
                "There is no trained specialist for this study yet: train first (Train in the viewer, or POST "
                "/train/semisam). Until then, 'propagate' gives a first label.",
                status=409,
            )
        return self.published

    def specialist(self, device: str) -> Specialist:
        """The specialist in service, read again only after it was replaced.

        Raises:
            UserError: (409) when there is none yet, or it was made for other structures.
        """
        path = self.need_published()
        names = self.schema.names
        return self._specialists.get((device, names, *stamp_of(path)), lambda: load_fitting(path, names, device))

    # --- scans and labels -----------------------------------------------------------------------------------------

    def outlined(self) -> list[Outlined]:
        """All scans with a ``final`` label, by name."""
        found = []
        for name in sorted(self.datastore.get_labeled_images()):
            try:
                image, label = self.datastore.get_image_uri(name), self.datastore.get_label_uri(name, FINAL)
            except Exception as error:
                # A remote store downloads the scan here; whatever goes wrong, the others can still be used.
                logger.warning("%s is left out, it could not be fetched: %s", name, text_of(error))
                continue
            facts = self.facts(name, FINAL)
            found.append(Outlined(name, Path(image), Path(label), facts.names, facts.said))
        return found

    def facts(self, name: str, tag: str) -> LabelFacts:
        """What is known of a label besides its voxels; nothing without a label."""
        return LabelFacts.from_info(self.datastore.get_label_info(name, tag))

    def usable(self, *, without: str | None = None) -> list[Outlined]:
        """The outlined scans whose label can be used.

        Args:
            without: name of a scan to leave out.

        Raises:
            UserError: (409) when there is no final label, (422) when none can be used, with the first reason.
        """
        good, reasons = [], []
        for item in self.outlined():
            if item.name == without:
                continue
            try:
                self.check(item)
                good.append(item)
            except UserError as error:
                logger.warning("The final label of %s is left out: %s", item.name, error)
                reasons.append(str(error))
        if not good:
            reasons += self._left_out_finals()
        if not good and reasons:
            raise UserError(f"No final label of this study can be used. {reasons[0]}", status=422)
        if not good and without is not None and self.outlined():
            raise UserError(
                f"Only {without} itself has a 'final' label. Ask for another scan, or outline a second one.", status=409
            )
        if not good:
            raise UserError(NO_FINAL, status=409)
        return good

    def _left_out_finals(self) -> list[str]:
        """Why files that look like final labels are none."""
        left_out = self.datastore.left_out if isinstance(self.datastore, StudyDatastore) else {}
        return [f"{file} is left out: {text}." for file, text in left_out.items() if file.startswith("labels/final/")]

    def dense(self, *, without: str | None = None) -> list[Outlined]:
        """The usable scans that are outlined wholly: only these can be carried over to others.

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

    def check(self, item: Outlined) -> Looked:
        """Look into a final label once.

        Raises:
            UserError: when scan or label cannot be used.
        """
        key = self._key(item)

        def look() -> Looked:
            scan, label, exchanged = self._read(item)
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
            return Looked(exchanged, planes, not label.any())

        return self._checked.get(key, look)

    def template(self, item: Outlined) -> Template:
        """Scan and label of an outlined scan."""
        return self._templates.get(self._key(item), lambda: Template(item.name, *self._read(item)[:2]))

    def _key(self, item: Outlined) -> Hashable:
        return self.schema, item.names, item.annotated, stamp_of(item.image), stamp_of(item.label)

    def _read(self, item: Outlined) -> tuple[Volume, np.ndarray, dict[int, int]]:
        what = f"The final label of {item.name}"
        meaning = LabelMeaning.of(item.label, item.names, self.schema, what)
        meaning.check_names()  # an unknown structure is told by its name, not by its value
        store = self.datastore if isinstance(self.datastore, StudyDatastore) else None
        before = store.scan_files_stamp(item.name) if store is not None else (0, 0, 0)
        if store is not None:
            store.check_drawn_on(item.name, FINAL)
        stamp = stamp_of(item.label)
        try:
            scan = read_volume(item.image)
            empty = is_meant(meaning.names, item.annotated)
            label = read_label(item.label, scan, self.schema, values=meaning, may_be_empty=empty)
        except UserError as error:
            raise (
                error if str(error).startswith(what) else UserError(f"{what} cannot be used: {error}", status=422)
            ) from error
        if stamp_of(item.label) != stamp or self.facts(item.name, FINAL).names != item.names:
            # The names that were looked up may be those of the label before.
            raise UserError(f"{what} was being saved anew. Try again.", status=409)
        if store is not None and store.scan_files_stamp(item.name) != before:
            raise UserError(f"The scan {item.name} was being copied just now. Try again.", status=409)
        if store is not None:
            store.note_scan(item.name, FINAL, before, scan.array)
        return scan, label, meaning.exchanged

    def read_stored(self, name: str, tag: str, scan: Volume) -> np.ndarray:
        """A stored label that may be empty, such as a pseudo-label: ``[D, H, W]`` uint8, values of ``schema``.

        Raises:
            UserError: (404) when there is none, (422) when it cannot be used.
        """
        if isinstance(self.datastore, StudyDatastore):
            self.datastore.check_drawn_on(name, tag)
        path = Path(self.datastore.get_label_uri(name, tag))
        names = self.facts(name, tag).names
        strange = [each for each, _ in names if self.schema.count > 1 and not position(each, self.schema)]
        if tag != FINAL and strange:
            raise UserError(
                f"The pseudo-label of {name} was made for other structures ({', '.join(strange)}). Make it anew: "
                "train, or run a batch infer with 'propagate'.",
                status=422,
            )
        meaning = LabelMeaning.of(path, names, self.schema, f"The label '{tag}' of {name}")
        return read_label(path, scan, self.schema, may_be_empty=True, values=meaning)

    def stored_file(self, name: str, tag: str) -> Path:
        """The file of a stored label; a corrected copy where its values are not those of ``schema``.

        Raises:
            UserError: see ``read_stored``.
        """
        path = Path(self.datastore.get_label_uri(name, tag))
        names = self.facts(name, tag).names
        if not names or dict(names) == self.schema.as_dict() or not path.is_file():
            return path
        scan = read_volume(Path(self.datastore.get_image_uri(name)))
        return self._corrected(name, path, names, self.read_stored(name, tag, scan), scan.affine)

    def templates_for(self, scan: Volume, *, without: str | None, most: int = MOST_TEMPLATES) -> list[Template]:
        """The wholly outlined scans most similar to ``scan``; the rest stays unread."""
        items = {item.name: item for item in self.dense(without=without)}
        chosen = most_similar(scan, list(items), lambda name: self._signature(items[name]), most)
        return [self.template(items[name]) for name in chosen]

    def _signature(self, item: Outlined) -> Tensor:
        return self._signatures.get(stamp_of(item.image), lambda: signature(read_volume(item.image)))

    def cases(self) -> list[Case]:
        """Every scan for a training run; labels that cannot be used are left out, their scans too.

        A label whose values had to be exchanged is given as a corrected copy.

        Raises:
            UserError: see ``usable``.
        """
        good = {item.name: item for item in self.usable()}
        bad = {item.name for item in self.outlined()} - set(good)
        cases = []
        for name in sorted(self.datastore.list_images()):
            if name in bad:
                continue
            item = good.get(name)
            try:
                image = item.image if item else Path(self.datastore.get_image_uri(name))
            except Exception as error:
                # A remote store downloads the scan here; whatever goes wrong, the others can still be used.
                logger.warning("%s is left out, it could not be fetched: %s: %s", name, type(error).__name__, error)
                continue
            cases.append(Case(name, image) if item is None else self._case(item))
        return cases

    def dense_cases(self) -> list[Case]:
        """The wholly outlined scans, their labels as files that have the values of ``schema``.

        Raises:
            UserError: see ``dense``.
        """
        return [self._case(item) for item in self.dense()]

    def _case(self, item: Outlined) -> Case:
        look = self.check(item)
        return Case(item.name, item.image, self._label_file(item), check_stated(item.annotated), look.empty)

    def _label_file(self, item: Outlined) -> Path:
        if not self.check(item).exchanged:
            return item.label
        scan, label, _ = self._read(item)
        return self._corrected(item.name, item.label, item.names, label, scan.affine)

    def _corrected(self, name: str, path: Path, names: Named, label: np.ndarray, affine: np.ndarray) -> Path:
        """A copy of a label file with the values of ``schema``."""
        digest = hashlib.sha256(repr((stamp_of(path), tuple(names), self.schema)).encode()).hexdigest()[:12]
        copy = self.folder / "labels" / f"{name}-{digest}.nii.gz"
        if not copy.is_file():
            write_label(copy, label, affine)
        return copy

    def name_of(self, image: str) -> str | None:
        """The id of the scan at this path, None when it is none of the study."""
        path = Path(image).resolve()
        guess = path.name if path.is_dir() else split(path.name)[0]
        if guess in self.datastore.list_images() and Path(self.datastore.get_image_uri(guess)) == path:
            return guess
        return None

    def unlabelled(self) -> list[str]:
        """Scans without a final label, by name."""
        return sorted(self.datastore.get_unlabeled_images())

    def scan_stamp(self, name: str) -> tuple[str, int, int]:
        """Changes when the scan does. Nothing is fetched from a server for this; of MONAI Label's own none is asked."""
        if isinstance(self.datastore, StudyDatastore):
            return self.datastore.scan_stamp(name)
        return name, 0, 0

    def label_stamp(self, name: str, tag: str) -> tuple[str, int, int] | None:
        """Changes when a scan's label of this tag does, None without one. Nothing is fetched from a server for this."""
        if not self.datastore.get_label_by_image_id(name, tag):
            return None
        if isinstance(self.datastore, StudyDatastore):
            return self.datastore.label_stamp(name, tag)
        return name, int(self.datastore.get_label_info(name, tag).get("ts") or 0), 0


def _largest_value(path: Path) -> int:
    """Largest voxel value of a label; 0 when it cannot be read or holds anything but a few whole numbers."""
    try:
        largest = largest_label(path)
    except UserError as error:
        logger.warning("A final label is not looked into: %s", error)
        return 0
    return int(largest) if largest.is_integer() and 0 < largest <= MAX_LABELS else 0

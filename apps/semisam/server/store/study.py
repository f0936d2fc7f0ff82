"""The study as the tasks see it: its structures, its labels, its models, and where they are kept."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
from monailabel.interfaces.datastore import Datastore
from torch import Tensor

from lib.core.cache import Recent
from lib.core.geometry import Volume
from lib.core.labels import LabelSchema
from lib.formats.volumes import read_volume
from lib.generalists import Generalist, check_generalist, takes_prompts
from lib.propagation import MOST_TEMPLATES, Propagator, Template, most_similar, signature
from lib.propagation.study_tools import Tools
from lib.recipes import Case
from lib.setup.settings import FEATURES, Settings
from lib.specialists import Specialist

from .file_names import split
from .final_labels import FinalLabel, FinalLabels, LabelCheck
from .folder_store import StudyDatastore
from .found_schema import FoundSchema
from .label_facts import LabelFacts
from .pseudo_labels import PseudoLabels
from .published_model import LoadedSpecialists, need_published, published_in
from .stored_labels import StoredLabels

logger = logging.getLogger("semisam.study")


class Study:
    """The study and everything that is kept for it.

    Args:
        location: folder or address of the study, as the server was started with it.
        datastore: where scans and labels are.
        settings: what the administrator chose.
        models: folder for the models of all studies.

    Attributes:
        pseudo_labels: the way of pseudo-labels into the datastore.
    """

    def __init__(self, location: str, datastore: Datastore, settings: Settings, models: Path) -> None:
        self.location = location
        self.datastore = datastore
        self.settings = settings
        self._models = models
        self._found = FoundSchema(datastore)
        self._labels = StoredLabels(datastore, lambda: self.schema, lambda: self.folder)
        self._finals = FinalLabels(datastore, lambda: self.schema, self._labels)
        self.pseudo_labels = PseudoLabels(datastore)
        self._signatures: Recent[Tensor] = Recent(1000)
        self._specialists = LoadedSpecialists()
        self._generalists: tuple[Generalist, ...] = ()
        self._propagator: Propagator | None = None

    @property
    def schema(self) -> LabelSchema:
        """The structures: from the settings, else from the people's labels, else one called ``structure``."""
        return self.settings.labels or self._found.current()

    # --- models -----------------------------------------------------------------------------------------------------

    @property
    def tools(self) -> Tools:
        """Generalists and propagator, as other processes need to know them."""
        settings = self.settings
        features = self._models.parent.absolute() / "features"
        weights = settings.weights_folder.absolute()
        by_kind = settings.features == FEATURES[0]
        return Tools(
            settings.generalists,
            weights,
            features,
            settings.propagator,
            settings.max_voxels,
            by_kind,
            settings.channels,
        )

    @property
    def generalists(self) -> tuple[Generalist, ...]:
        """The frozen models; weights are read when they are first needed, and features kept on disk."""
        if not self._generalists:
            self._generalists = self.tools.open_generalists()
        return self._generalists

    @property
    def generalist(self) -> Generalist:
        """The one that gives features."""
        return self.generalists[0]

    @property
    def prompted(self) -> Generalist:
        """The one that answers clicks: the first that takes prompts, or the first one when none does."""
        return next((one for one in self.generalists if takes_prompts(one.name)), self.generalist)

    def check_generalist(self, *further: str) -> None:
        """Raise UserError (409) when weights of the first generalist, or of those named, are missing; reads nothing."""
        for name in dict.fromkeys((self.settings.generalist, *further)):
            check_generalist(name, self.settings.weights_folder)

    @property
    def propagator(self) -> Propagator:
        """The propagator, made when first needed."""
        if self._propagator is None:
            self._propagator = self.tools.open_propagator()
        return self._propagator

    @property
    def scans_folder(self) -> Path | None:
        """The folder of the study's scans; None where they lie on a DICOM server."""
        return None if "://" in self.location else Path(self.location).resolve()

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
        """The file of the specialist in service, whether it is there or not."""
        return published_in(self.folder)

    def need_published(self) -> Path:
        """The file of the specialist in service.

        Raises:
            UserError: (409) when there is none yet.
        """
        return need_published(self.published)

    def specialist(self, device: str) -> Specialist:
        """The specialist in service, read again only after it was replaced.

        Args:
            device: ``cpu`` or ``cuda[:n]``.

        Raises:
            UserError: (409) when there is none yet, or it was made for other structures.
        """
        return self._specialists.get(self.published, self.schema.names, device)

    # --- final labels: see FinalLabels ------------------------------------------------------------------------------

    def final_labels(self) -> list[FinalLabel]:
        """All final labels, by the scans' names; nothing is fetched for this."""
        return self._finals.listed()

    def final_label(self, name: str) -> FinalLabel | None:
        """The final label of a scan, None without one."""
        return self._finals.of(name)

    def usable(self, *, without: str | None = None) -> list[FinalLabel]:
        """The final labels that can be used; raises UserError when there are none."""
        return self._finals.usable(without=without)

    def fully_annotated(self, *, without: str | None = None) -> list[FinalLabel]:
        """The usable final labels in which all of the scan is annotated; raises UserError when there are none."""
        return self._finals.fully_annotated(without=without)

    def check(self, item: FinalLabel) -> LabelCheck:
        """Look into a final label once; raises UserError when it cannot be used."""
        return self._finals.check(item)

    def template(self, item: FinalLabel) -> Template:
        """Scan and label of a final label."""
        return self._finals.template(item)

    def templates_for(self, scan: Volume, *, without: str | None, most: int = MOST_TEMPLATES) -> list[Template]:
        """The fully annotated scans most similar to ``scan``, the most similar one first; the rest stays unread.

        Args:
            scan: the scan that is to be labelled.
            without: its name, None when it is none of the study.
            most: how many to give at most.

        Raises:
            UserError: see ``FinalLabels.fully_annotated``.
        """
        items = {item.name: item for item in self.fully_annotated(without=without)}
        chosen = most_similar(scan, list(items), lambda name: self._signature(items[name]), most)
        return [self.template(items[name]) for name in chosen]

    def _signature(self, item: FinalLabel) -> Tensor:
        return self._signatures.get(
            (item.name, self.scan_stamp(item.name)), lambda: signature(read_volume(self.check(item).image))
        )

    # --- scans and labels -------------------------------------------------------------------------------------------

    def facts(self, name: str, tag: str) -> LabelFacts:
        """What is known of a label besides its voxels; nothing without a label."""
        return self._labels.facts(name, tag)

    def read_stored(self, name: str, tag: str, scan: Volume) -> np.ndarray:
        """A stored label that may be empty: ``[D, H, W]`` uint8, values of ``schema``; see ``StoredLabels.read``."""
        return self._labels.read(name, tag, scan)

    def stored_file(self, name: str, tag: str) -> Path:
        """The file of a stored label with the values of ``schema``; see ``StoredLabels.file``."""
        return self._labels.file(name, tag)

    def cases(self) -> list[Case]:
        """Every scan for a training run; labels that cannot be used are left out, their scans too.

        A label whose values had to be exchanged is given as a corrected copy.

        Raises:
            UserError: see ``usable``.
        """
        good = {item.name: item for item in self.usable()}
        bad = {item.name for item in self.final_labels()} - set(good)
        cases = []
        for name in sorted(self.datastore.list_images()):
            if name in good:
                cases.append(self._finals.case(good[name]))
            elif name not in bad:
                try:
                    cases.append(Case(name, Path(self.datastore.get_image_uri(name))))
                except Exception as error:
                    # A remote store downloads the scan here; whatever goes wrong, the others can still be used.
                    logger.warning("%s is left out, it could not be fetched: %s: %s", name, type(error).__name__, error)
        return cases

    def fully_annotated_cases(self) -> list[Case]:
        """The fully annotated scans, their labels as files that have the values of ``schema``.

        Raises:
            UserError: see ``FinalLabels.fully_annotated``.
        """
        return [self._finals.case(item) for item in self.fully_annotated()]

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

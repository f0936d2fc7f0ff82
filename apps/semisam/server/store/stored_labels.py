"""Labels as the datastore keeps them, read in the study's values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from monailabel.interfaces.datastore import Datastore

from lib.core.cache import stamp_of
from lib.core.errors import UserError
from lib.core.geometry import Volume
from lib.core.label_names import Named, position
from lib.core.labels import LabelSchema
from lib.formats.label_files import read_label
from lib.formats.label_meaning import LabelMeaning
from lib.formats.volumes import read_volume, write_label

from .folder_store import FINAL, StudyDatastore
from .label_facts import LabelFacts


class StoredLabels:
    """The labels of a study, of any tag.

    Args:
        datastore: where they are.
        schema: gives the study's structures.
        folder: gives the study's folder of models, in which corrected copies lie.
    """

    def __init__(self, datastore: Datastore, schema: Callable[[], LabelSchema], folder: Callable[[], Path]) -> None:
        self._datastore = datastore
        self._schema = schema
        self._folder = folder

    def facts(self, name: str, tag: str) -> LabelFacts:
        """What is known of a label besides its voxels; nothing without a label."""
        return LabelFacts.from_info(self._datastore.get_label_info(name, tag))

    def read(self, name: str, tag: str, scan: Volume) -> np.ndarray:
        """A label that may be empty, such as a pseudo-label: ``[D, H, W]`` uint8, values of the study's structures.

        Args:
            name: of the scan.
            tag: of the label.
            scan: the scan's voxels.

        Raises:
            UserError: (404) when there is none, (422) when it cannot be used.
        """
        schema = self._schema()
        if isinstance(self._datastore, StudyDatastore):
            self._datastore.check_drawn_on(name, tag)
        path = Path(self._datastore.get_label_uri(name, tag))
        names = self.facts(name, tag).names
        strange = [each for each, _ in names if schema.count > 1 and not position(each, schema)]
        if tag != FINAL and strange:
            raise UserError(
                f"The pseudo-label of {name} was made for other structures ({', '.join(strange)}). Make it anew: "
                "train, or run a batch infer with 'propagate'.",
                status=422,
            )
        meaning = LabelMeaning.of(path, names, schema, f"The label '{tag}' of {name}")
        return read_label(path, scan, schema, may_be_empty=True, values=meaning)

    def file(self, name: str, tag: str) -> Path:
        """The file of a label; a corrected copy where its values are not those of the study's structures.

        Raises:
            UserError: see ``read``.
        """
        path = Path(self._datastore.get_label_uri(name, tag))
        names = self.facts(name, tag).names
        if not names or dict(names) == self._schema().as_dict() or not path.is_file():
            return path
        scan = read_volume(Path(self._datastore.get_image_uri(name)))
        return self.corrected(name, path, names, self.read(name, tag, scan), scan)

    def corrected(self, name: str, path: Path, names: Named, label: np.ndarray, scan: Volume) -> Path:
        """A copy of a label file with the values of the study's structures, made unless it is there.

        Args:
            name: of the scan.
            path: the label file.
            names: the named values in it.
            label: ``[D, H, W]`` uint8, values of the study's structures.
            scan: the scan.
        """
        digest = hashlib.sha256(repr((stamp_of(path), tuple(names), self._schema())).encode()).hexdigest()[:12]
        copy = self._folder() / "labels" / f"{name}-{digest}.nii.gz"
        if not copy.is_file():
            write_label(copy, label, scan.affine)
        return copy

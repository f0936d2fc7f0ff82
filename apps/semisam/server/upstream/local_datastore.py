"""What the app asks a datastore of MONAI Label that its interface does not answer.

- Package: MONAI Label 0.8.5, ``monailabel/datastore/local.py``, ``LocalDatastore``.
- Wrong: the interface ``Datastore`` does not say in which folder files lie, and ``get_label_uri`` of MONAI Label's own
  DICOMweb datastore fetches the label from the server, where only its path on the disk is wanted.
- Done: the private attribute with the folder, and the method of ``LocalDatastore`` itself, unbound.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/datastore/local.py
"""

from __future__ import annotations

from pathlib import Path

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore


def folder_of(datastore: Datastore) -> Path | None:
    """The folder with a datastore's files; for a DICOMweb server that of its downloads; None where there is none."""
    return Path(datastore._datastore_path) if isinstance(datastore, LocalDatastore) else None


def labels_on_disk(datastore: Datastore, tag: str) -> dict[str, Path]:
    """The paths of the labels with a tag as far as they are known without asking a server, by the scans' ids."""
    if not isinstance(datastore, LocalDatastore):
        return {}
    names = LocalDatastore.get_labeled_images(datastore)
    return {name: Path(LocalDatastore.get_label_uri(datastore, name, tag)) for name in names}

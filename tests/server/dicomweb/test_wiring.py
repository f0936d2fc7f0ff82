"""What a DICOMweb study sends of a training whose rounds hardly differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dicomfiles import Labelled, write_series
from dicomserver import PlayedServer
from lib.core.labels import LabelSchema
from lib.formats.volumes import read_volume
from server.dicomweb.datastore import DicomWebStudy
from server.store.folder_store import ORIGINAL
from tiny_study import save_nifti, tiny_scan


def test_a_pseudo_label_is_sent_again_only_if_it_has_changed(tmp_path: Path) -> None:
    array, label, affine = tiny_scan(1)
    whole = Labelled(array[::2, ::2, ::2], label[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    write_series(tmp_path / "scan", whole)
    server = PlayedServer()
    server.put_series(tmp_path / "scan")
    schema = LabelSchema(("liver", "spleen"))
    store = DicomWebStudy(server, tmp_path / "cache", search={}, age=0.0, labels=schema, pseudo_labels="always")
    store.serving = True
    (scan,) = store.list_images()
    volume = read_volume(store.get_image_uri(scan))

    def save(width: int) -> int:
        """Save a label whose liver has this width; how many the server has got by then."""
        drawn = np.zeros(volume.shape, np.uint8)
        drawn[2 : 2 + width, 3:9, 2:9] = 1
        drawn[11:14, 3:6, 2:9] = 2
        file = save_nifti(tmp_path / "label.nii.gz", drawn, volume.affine)
        info = {"params": {"label_names": {"liver": 1, "spleen": 2}}, "model": "semisam"}
        store.save_labels(ORIGINAL, {scan: (str(file), info)})
        return len(server.stored)

    assert save(6) == 1
    assert save(6) == 1
    assert save(5) == 2
    shown = read_volume(store.get_label_uri(scan, ORIGINAL)).array
    assert int((shown == 1).sum()) == 5 * 6 * 7

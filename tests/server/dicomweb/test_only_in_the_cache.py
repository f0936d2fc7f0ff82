"""The command on the page of files that shows which pseudo-labels exist in the cache only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicomfiles import Labelled, write_series
from dicomserver import PlayedServer
from lib.core.labels import LabelSchema
from lib.formats.volumes import read_volume
from server.dicomweb.datastore import DicomWebStudy
from server.store.folder_store import FINAL, ORIGINAL
from tiny_study import save_nifti, tiny_scan

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "files.md"
NAMES = {"label_info": [{"name": "liver", "idx": 1}]}


@pytest.fixture
def server(tmp_path: Path) -> PlayedServer:
    array, label, affine = tiny_scan(1)
    write_series(tmp_path / "series", Labelled(array, label, affine))
    played = PlayedServer()
    played.put_series(tmp_path / "series")
    return played


def opened(server: PlayedServer, folder: Path, sends: str) -> Any:
    labels = LabelSchema(("liver",))
    store = DicomWebStudy(server, folder / "cache", search={}, age=0.0, labels=labels, pseudo_labels=sends)
    store.serving = True
    return store


def drawn(store: Any, path: Path) -> str:
    volume = read_volume(store.get_image_uri(store.list_images()[0]))
    label = np.zeros(volume.shape, np.uint8)
    label[2:8, 3:9, 2:9] = 1
    return str(save_nifti(path, label, volume.affine))


def shown(store: Any) -> str:
    """What the command prints about the list that the server would send it."""
    found = re.search(r"\?output=all\" \| python3 -c '(.*?)'\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    command = [sys.executable, "-c", found[1]]
    return subprocess.run(command, input=json.dumps(store.json()), capture_output=True, text=True, check=True).stdout


def test_a_label_that_waits_is_shown_until_the_server_has_it(server: PlayedServer, tmp_path: Path) -> None:
    store = opened(server, tmp_path, "last")
    (scan,) = store.list_images()
    file = drawn(store, tmp_path / "label.nii.gz")
    assert shown(store) == ""
    server.away = True
    store.save_label(scan, file, ORIGINAL, dict(NAMES))
    assert shown(store).startswith(f"{scan} The label could not be stored: ")
    server.away = False
    store.send_unsent()
    assert shown(store) == ""


def test_a_label_that_is_never_sent_is_shown_until_a_person_has_outlined_the_scan(
    server: PlayedServer, tmp_path: Path
) -> None:
    store = opened(server, tmp_path, "never")
    (scan,) = store.list_images()
    file = drawn(store, tmp_path / "label.nii.gz")
    store.save_label(scan, file, ORIGINAL, dict(NAMES))
    assert shown(store) == f"{scan} was not to be sent\n"
    store.save_label(scan, file, FINAL, dict(NAMES))
    assert shown(store) == ""

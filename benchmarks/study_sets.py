"""Sets of scans as studies with one outlined scan: which is outlined, which have no label, which are held out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

import common
from lib.core.labels import LabelSchema
from lib.core.metrics import overlap
from lib.formats.label_files import read_label
from lib.formats.volumes import read_volume

T = TypeVar("T")

STRUCTURES = {
    "jsrt": ("right_lung", "left_lung", "heart"),
    "mscmr": ("myocardium", "left_ventricle", "right_ventricle"),
    "chaos_mr": ("liver", "right_kidney", "left_kidney", "spleen"),
    "hippocampus": ("anterior", "posterior"),
    "la": ("left_atrium",),
    "polyp_cvc": ("polyp",),
}


@dataclass(frozen=True)
class StudySet:
    """Scans of one kind.

    Args:
        name: of the folder.
        folder: where it lies.
        labels: folder of the labels, with values 1..N.
        scans: names; the first is the template.
        held_out: scans that are no part of the study.
        templates: the template of each scan that has another one than the first.
    """

    name: str
    folder: Path
    labels: Path
    scans: Sequence[str]
    held_out: Sequence[str] = ()
    templates: Mapping[str, str] = field(default_factory=dict)

    @property
    def schema(self) -> LabelSchema:
        return LabelSchema(STRUCTURES[self.name])

    def template(self, scan: str) -> str:
        return self.templates.get(scan, self.scans[0])

    def image(self, scan: str) -> Path:
        return next((self.folder / "images").glob(f"{scan}.*"))

    def label(self, scan: str) -> Path:
        return next(self.labels.glob(f"{scan}.*"))

    def truth(self, scan: str) -> np.ndarray:
        return read_label(self.label(scan), read_volume(self.image(scan)), self.schema)

    def dice(self, scan: str, found: np.ndarray) -> list[float]:
        """Dice of each structure."""
        truth = self.truth(scan)
        values = range(1, self.schema.channels)
        return [round(overlap(found == value, truth == value)[0], 4) for value in values]


def open_set(name: str, count: int, held_out: int, scratch: Path) -> StudySet | None:
    """The first scan as template, and others spread over the rest; None when the scans are not there.

    Args:
        name: of the set.
        count: scans without a label.
        held_out: scans that are no part of the study, spread over those that are left.
        scratch: folder for labels that have to be written with other values.
    """
    folder = Path(os.environ.get("SEMISAM_DATA") or common.ROOT.parent / "shared" / "data") / name
    if not (folder / "images").is_dir():
        print(f"Skipped: the {name} scans are not there ({folder}). Set SEMISAM_DATA to the folder that holds {name}/.")
        return None
    if name == "polyp_cvc":
        return _sequences(folder, count, scratch)
    if (folder / "split.json").is_file():
        names = list(json.loads((folder / "split.json").read_text(encoding="utf-8"))["train"])
    else:
        names = sorted(path.name.split(".")[0] for path in (folder / "images").iterdir())
    first, *others = names
    chosen = _spread(others, count)
    apart = _spread([other for other in others if other not in chosen], held_out)
    labels = folder / "labels"
    if name == "jsrt":
        labels = scratch / name
        for scan in [first, *chosen, *apart]:
            values = _grey(folder / "labels" / f"{scan}.png")
            _write((values // 50 - 2).clip(0) * (values >= 150), labels / f"{scan}.png")
    return StudySet(name, folder, labels, [first, *chosen], apart)


def _sequences(folder: Path, count: int, scratch: Path) -> StudySet:
    """The middle frame of so many endoscopies after the first frame of the same one."""
    numbers: dict[str, int] = json.loads((folder / "sequence.json").read_text(encoding="utf-8"))
    templates: dict[str, str] = {}
    for number in _spread(sorted(set(numbers.values())), count):
        frames = [frame for frame, own in numbers.items() if own == number]
        templates[frames[len(frames) // 2]] = frames[0]
    labels = scratch / "polyp_cvc"
    for frame in {*templates, *templates.values()}:
        _write(_grey(folder / "masks" / f"{frame}.jpg") > 127, labels / f"{frame}.png")
    first = next(iter(templates.values()))
    return StudySet("polyp_cvc", folder, labels, [first, *templates], templates=templates)


def _spread(names: Sequence[T], count: int) -> list[T]:
    return [names[round(at)] for at in np.linspace(0, len(names) - 1, min(count, len(names)))]


def _grey(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("L"))


def _write(values: np.ndarray, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(file)

"""What is told about a label and its structures when it is written as DICOM SEG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pydicom

from lib.core.labels import MAX_CHARACTERS

CODING_SCHEME = "SCT"
CATEGORY = ("123037004", "Anatomical structure")
"""SNOMED CT code and meaning of the category of every segment."""
_ANY_STRUCTURE = ("91723000", "Anatomical structure")
_SNOMED = {
    "aorta": "15825003",
    "bladder": "89837001",
    "brain": "12738006",
    "gallbladder": "28231008",
    "heart": "80891009",
    "kidney": "64033007",
    "left atrium": "82471001",
    "left kidney": "18639004",
    "liver": "10200004",
    "lung": "39607008",
    "pancreas": "15776009",
    "prostate": "41216001",
    "right kidney": "9846003",
    "spleen": "78961009",
    "stomach": "69695003",
}
"""SNOMED CT codes of structures by name."""


@dataclass(frozen=True)
class Segment:
    """One structure of a SEG.

    Args:
        value: voxel value in the label that is written.
        name: what viewers show.
        colour: red, green, blue, 0..255.
    """

    value: int
    name: str
    colour: tuple[int, int, int]

    @property
    def text(self) -> str:
        """The name as DICOM can hold it: a backslash would begin a second one."""
        plain = "".join(c if c.isprintable() else " " for c in self.name.replace("\\", "/"))
        return " ".join(plain.split())[:MAX_CHARACTERS]

    @property
    def code(self) -> tuple[str, str]:
        """SNOMED CT code and meaning of the structure."""
        plain = " ".join(self.name.lower().replace("_", " ").split())
        return (_SNOMED[plain], plain.capitalize()) if plain in _SNOMED else _ANY_STRUCTURE


@dataclass(frozen=True)
class Origin:
    """How a SEG came about.

    Args:
        description: of the series, as viewers list it.
        algorithm: what made the label; None for a person alone.
        person: whether a person had the last word.
        series: UID of the series to put it into; None makes a new one.
    """

    description: str
    algorithm: str | None
    person: bool
    series: str | None = None

    @property
    def kind(self) -> str:
        """DICOM's word for who has drawn the segments."""
        return "AUTOMATIC" if not self.person else "MANUAL" if self.algorithm is None else "SEMIAUTOMATIC"

    @property
    def algorithm_name(self) -> str | None:
        """Name of the algorithm, None where DICOM wants none."""
        return None if self.kind == "MANUAL" else (self.algorithm or "semisam")[:64]


def allow_any_script(dataset: pydicom.Dataset, segments: Sequence[Segment]) -> None:
    """Write all text of a SEG as UTF-8 if a name in it needs that; DICOM's default is ASCII."""
    if not all(segment.text.isascii() for segment in segments):
        dataset.decode()
        dataset.SpecificCharacterSet = "ISO_IR 192"


def text_in(dataset: pydicom.Dataset, name: str) -> str:
    """An attribute as text, "" when it is absent."""
    value = dataset.get(name)
    return "" if value is None else str(value).strip()

"""The label schema: which structure has which voxel value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import UserError, listed

MAX_LABELS = 254
"""3D Slicer asks for uint8 masks, and 255 is kept free."""

MOST_ROUNDING = 1e-3
"""How far a label's values may be from whole numbers: 1.0000001, or 0.99999998 of a scale factor of 0.01."""

MAX_CHARACTERS = 64
"""Of a name: what DICOM SEG can hold."""


@dataclass(frozen=True)
class LabelSchema:
    """Names of the structures; the voxel value of a name is its position plus one, 0 is background.

    3D Slicer imports label maps by position, so the values are contiguous 1..N by construction.

    Args:
        names: at least one name, unique, none of them "background".

    Raises:
        UserError: when the names break one of these rules.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise UserError("No label names given. Set them with: --conf labels liver,spleen")
        if len(self.names) > MAX_LABELS:
            raise UserError(f"{len(self.names)} labels given; at most {MAX_LABELS} fit into one mask.")
        for name in self.names:
            if not name or name != name.strip():
                raise UserError(f"Label name {name!r} is empty or has blanks around it.")
            if len(name) > MAX_CHARACTERS or "\\" in name or not name.isprintable():
                raise UserError(
                    f"Label name {name[:MAX_CHARACTERS]!r} cannot be stored in DICOM: a name has at most "
                    f"{MAX_CHARACTERS} characters and no backslash, tab or line break."
                )
            if name.lower() == "background":
                raise UserError("'background' is always value 0: leave it out of the labels.")
        lower = [name.lower() for name in self.names]
        double = sorted({name for name in lower if lower.count(name) > 1})
        if double:
            raise UserError(f"Label names are given twice: {', '.join(double)}. Each name needs one value.")

    @property
    def count(self) -> int:
        """Number of structures, background not counted."""
        return len(self.names)

    @property
    def channels(self) -> int:
        """Number of channels of a probability array: the structures and background."""
        return len(self.names) + 1

    def as_dict(self) -> dict[str, int]:
        """Name to voxel value, in index order, as clients expect it in ``label_names``."""
        return {name: index for index, name in enumerate(self.names, start=1)}

    def check(self, label: np.ndarray, what: str, *, may_be_empty: bool = False) -> None:
        """Raise UserError unless ``label`` holds integers of this schema and at least one structure.

        Args:
            label: ``[D, H, W]`` array of voxel values.
            what: how to call it in the message.
            may_be_empty: accept a label without any structure.
        """
        values = np.flatnonzero(count_values(label)) if label.dtype == np.uint8 else np.unique(label)
        if not np.all(np.isfinite(values)) or not np.all(values == np.round(values)):
            raise UserError(
                f"{what} holds values that are not whole numbers. "
                f"Save it as a label map with values 0 to {self.count}.",
                status=422,
            )
        outside = [int(v) for v in values if v < 0 or v > self.count]
        if outside:
            raise UserError(
                f"{what} holds the value(s) {listed(outside)}, but this server knows 1 to {self.count} "
                f"({', '.join(self.names)}). Correct the label, or start the server with all names in --conf labels.",
                status=422,
            )
        if not may_be_empty and not np.any(values > 0):
            raise UserError(
                f"{what} is empty. Outline at least one of {', '.join(self.names)} and save it again. If the scan has "
                "none of them, submit it with the empty segments: their names say that they were looked for.",
                status=422,
            )


def whole_numbers(label: np.ndarray, what: str) -> np.ndarray:
    """A label map's values as integers; rounding that files and scale factors bring along is put right.

    Args:
        label: of any type of number.
        what: how to call the label in the message.

    Raises:
        UserError: (422) for values that are further than ``MOST_ROUNDING`` from a whole number, or are none.
    """
    if label.dtype.kind in "iub":
        return label.astype(np.uint8) if label.dtype.kind == "b" else label
    whole = np.rint(label)
    with np.errstate(invalid="ignore"):
        good = label.dtype.kind == "f" and bool((np.abs(label - whole) <= MOST_ROUNDING).all())
    if not good or np.abs(whole).max(initial=0) > np.iinfo(np.int32).max:
        raise UserError(
            f"{what} holds values that are not whole numbers. Save it as a label map with the values 0, 1, 2, ...",
            status=422,
        )
    result: np.ndarray = whole.astype(np.int32)
    return result


def count_values(label: np.ndarray) -> np.ndarray:
    """How many voxels of a label map ``[D, H, W]`` uint8 have each value, ``[256]``.

    ``np.bincount`` makes eight bytes of every voxel; plane by plane that is nothing, also for a large scan.
    """
    planes = np.moveaxis(label, int(np.argmax(np.abs(label.strides))), 0)
    counts = np.zeros(256, dtype=np.int64)
    for plane in planes:
        counts += np.bincount(plane.ravel(order="K"), minlength=len(counts))
    return counts


def parse_labels(text: str) -> LabelSchema:
    """Read the ``labels`` setting: a comma list, a JSON list or object, or the path of a JSON file.

    A JSON object maps names to values (a ``background: 0`` entry is accepted); the values must be 1..N.

    Raises:
        UserError: when the text is none of these or breaks the rules of LabelSchema.
    """
    text = text.strip()
    if text.lower().endswith(".json"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise UserError(f"labels: there is no file {text}. Give a comma list, JSON, or an existing JSON file.")
        text = path.read_text(encoding="utf-8").strip()
    if not text.startswith(("[", "{")):
        return LabelSchema(tuple(part.strip() for part in text.split(",")) if text else ())
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f'labels: this is no valid JSON ({error}). Example: ["liver", "spleen"]') from error
    if isinstance(content, list):
        return LabelSchema(_strings(content))
    items = {str(name): value for name, value in content.items() if str(name).lower() != "background"}
    values = list(items.values())
    if any(isinstance(v, bool) or not isinstance(v, int) for v in values) or sorted(values) != list(
        range(1, len(values) + 1)
    ):
        raise UserError(
            f"labels: values must be the whole numbers 1 to {len(values)} without a gap, not {values}. "
            "Viewers import masks by position."
        )
    return LabelSchema(tuple(sorted(items, key=lambda name: items[name])))


def _strings(content: Sequence[object]) -> tuple[str, ...]:
    if not all(isinstance(item, str) for item in content):
        raise UserError('labels: a JSON list must hold names only, for example ["liver", "spleen"].')
    return tuple(str(item) for item in content)

"""Which voxel value of a person's label stands for which structure of the study.

3D Slicer renumbers segments 1, 2, ... in the order of its list, whatever their index there was, and people delete, add
and reorder segments. The names it sends along put that right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .errors import UserError
from .labels import LabelSchema


def names_in(info: Mapping[str, object]) -> list[tuple[str, int]]:
    """The named values that are stored beside a label, background left out, in stored order; empty when there are none.

    Understands ``label_info`` (a list of name and idx: viewers) and ``params.label_names`` (name to value: this app).
    """
    entries = info.get("label_info")
    params = info.get("params")
    named = params.get("label_names") if isinstance(params, Mapping) else None
    pairs: list[tuple[str, int]] = []
    if isinstance(entries, Sequence) and not isinstance(entries, str):
        for number, entry in enumerate(entries, start=1):
            if isinstance(entry, Mapping) and entry.get("name"):
                pairs.append((str(entry["name"]).strip(), _number(entry.get("idx"), number)))
    elif isinstance(named, Mapping):
        ordered = sorted(named.items(), key=lambda item: _number(item[1], 0))
        pairs = [(str(name).strip(), _number(value, n)) for n, (name, value) in enumerate(ordered, start=1)]
    return [(name, value) for name, value in pairs if name and name.lower() != "background"]


def value_map(named: Sequence[tuple[str, int]], largest: int, schema: LabelSchema, what: str) -> dict[int, int]:
    """Which of the schema's values each voxel value of a label means; empty when they agree already.

    Args:
        named: see ``names_in``.
        largest: largest voxel value in the label.
        schema: the study's structures.
        what: how to call the label in the message.

    Raises:
        UserError: (422) when the label has structures that the schema does not know.
    """
    known = {_plain(name): value for name, value in schema.as_dict().items()}
    if not named or schema.count == 1:
        return {}
    strange = [name for name, _ in named if _plain(name) not in known]
    if strange:
        raise UserError(
            f"{what} has the structure(s) {', '.join(strange)}, but this server knows {', '.join(schema.names)}. "
            "Rename them in the viewer and save again, or start the server with all names in --conf labels.",
            status=422,
        )
    by_position = largest <= len(named)
    agreed = all(known[_plain(name)] == value for name, value in named)
    if agreed and (not by_position or len(named) == schema.count):
        return {}
    pairs = {
        (number if by_position else value): known[_plain(name)] for number, (name, value) in enumerate(named, start=1)
    }
    return {} if all(old == new for old, new in pairs.items()) else pairs


def position(name: str, schema: LabelSchema) -> int:
    """The value of a structure by its name, 0 when there is none."""
    return {_plain(known): value for known, value in schema.as_dict().items()}.get(_plain(name), 0)


def knows_all(schema: LabelSchema, named: Iterable[tuple[str, int]]) -> bool:
    """Whether all names are those of structures."""
    return all(position(name, schema) for name, _ in named)


def _plain(name: str) -> str:
    """A name without the differences that people and viewers introduce."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _number(value: object, otherwise: int) -> int:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else otherwise

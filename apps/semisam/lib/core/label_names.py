"""Which voxel value of a person's label stands for which structure of the study.

3D Slicer exports segments as 1, 2, ... in the order of its list, and sends ``idx``, their numbers in that list. Where
it leaves out a segment called "background" or a scribble, the two differ: ``idx`` 2, 3 for the values 1, 2. Other
programs send the voxel value itself as ``idx``. Both are understood where the values in the label tell which it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from .errors import UserError, listed
from .labels import LabelSchema

Named = Sequence[tuple[str, int]]
"""Names with the numbers that came along, in stored order."""


def names_in(info: Mapping[str, object]) -> list[tuple[str, int]]:
    """The named values that are stored beside a label, background left out, in stored order; empty when there are none.

    Understands ``label_info`` (a list of name and idx: viewers; a list of names; name to value) and
    ``params.label_names`` (name to value: this app). What should be a number and is none becomes -1, which
    ``values_of`` refuses.
    """
    entries = info.get("label_info")
    params = info.get("params")
    named = params.get("label_names") if isinstance(params, Mapping) else None
    named = entries if isinstance(entries, Mapping) and entries else named
    pairs: list[tuple[str, int]] = []
    if isinstance(entries, Sequence) and not isinstance(entries, str):
        for number, entry in enumerate(entries, start=1):
            each = {"name": entry} if isinstance(entry, str) else entry
            if isinstance(each, Mapping) and each.get("name"):
                pairs.append((str(each["name"]).strip(), _number(each.get("idx"), number)))
    elif isinstance(named, Mapping):
        ordered = sorted(named.items(), key=lambda item: _number(item[1], 0))
        pairs = [(str(name).strip(), _number(value, n)) for n, (name, value) in enumerate(ordered, start=1)]
    return [(name, value) for name, value in pairs if name and name.lower() != "background"]


def as_label_info(named: Iterable[tuple[str, int]]) -> list[dict[str, object]]:
    """Named values as ``names_in`` understands them: what viewers and MONAI Label keep as ``label_info``."""
    return [{"name": name, "idx": value} for name, value in named]


def values_of(named: Named, present: Collection[int], schema: LabelSchema | None, what: str) -> list[int]:
    """The voxel value of each name, in their order.

    A number that came along is the voxel value, or the place in the viewer's list, where the value is the place among
    the names. What is in the label decides: only one of the two may explain all of its values. Where both do, numbers
    that do not rise are no places in a list, and numbers that are all the schema's own are values.

    Args:
        named: see ``names_in``.
        present: values in the label above 0.
        schema: the study's structures, if they are known.
        what: how to call the label in the message.

    Raises:
        UserError: (422) when both explain the values, and differently; when what came along are no numbers, or the
            same one for several names.
    """
    numbers = [number for _, number in named]
    places = list(range(1, len(named) + 1))
    here = set(present)
    unique = len(set(numbers)) == len(numbers)
    if min(numbers, default=0) < 0 or (not unique and here != set(places)):
        raise UserError(
            f"{what} came with the names {listed([name for name, _ in named])}, but it is not clear which values they "
            "stand for: their idx must be whole numbers, another one for each name. Save it again with the voxel "
            "values as idx.",
            status=422,
        )
    if not unique or not here <= set(numbers):
        # What neither explains has values without a name: they are told by the schema's check.
        return numbers if unique and not here <= set(places) else places
    rising = all(a < b for a, b in pairwise(numbers))
    if not here <= set(places) or not rising or _own_values(named, schema):
        return numbers
    if all({n: name for name, n in named}[value] == named[value - 1][0] for value in here):
        return places  # it makes no difference
    values, given = listed(sorted(here)), listed(numbers)
    raise UserError(
        f"{what} can be understood in two ways: its names came with the numbers {given}, and it holds the value(s) "
        f"{values}. Are these the numbers, or places in the list of names? Save it again with the voxel values as idx "
        "and all names from 1 on; in 3D Slicer, delete the segment that comes before them (such as background) first.",
        status=422,
    )


def value_map(named: Named, present: Collection[int], schema: LabelSchema, what: str) -> dict[int, int]:
    """Which of the schema's values each voxel value of a label means; empty when they agree already.

    Args:
        named: see ``names_in``.
        present: values in the label above 0.
        schema: the study's structures.
        what: how to call the label in the message.

    Raises:
        UserError: (422) when the label has structures that the schema does not know, or its values can mean two things.
    """
    if not named:
        return {}
    if schema.count == 1 and len(named) > 1 and not any(position(name, schema) for name, _ in named):
        return {}
    if schema.count == 1 and len(named) > 1:
        # Whoever names several structures means by each of them what its name says.
        values = values_of(named, present, schema, what)
        named = [(name, value) for value, (name, _) in zip(values, named, strict=True) if value in set(present)]
        strange = [name for name, _ in named if not position(name, schema)]
        if strange:
            raise _strange(strange, schema, what)
        return {value: 1 for _, value in named if value != 1}
    check_known(named, schema, what)
    values = values_of(named, present, schema, what)
    _check_once(named, values, present, what)
    pairs = {value: position(name, schema) or 1 for value, (name, _) in zip(values, named, strict=True)}
    nameless = [value for value in sorted(present) if value not in pairs]
    if nameless and not _own_values(named, schema):
        raise UserError(
            f"{what} holds the value(s) {listed(nameless)}, for which none of its names "
            f"({listed([name for name, _ in named])}) stands. Name all structures in the viewer and save it again.",
            status=422,
        )
    return {} if all(old == new for old, new in pairs.items()) else pairs


def check_known(named: Named, schema: LabelSchema, what: str) -> None:
    """Raise UserError (422) when the schema does not know one of the names; one structure alone may have any name."""
    strange = [name for name, _ in named if not position(name, schema)]
    if strange and schema.count > 1:
        raise _strange(strange, schema, what)


def _strange(names: Sequence[str], schema: LabelSchema, what: str) -> UserError:
    return UserError(
        f"{what} has the structure(s) {', '.join(names)}, but this server knows {', '.join(schema.names)}. "
        "Rename them in the viewer and save again, or start the server with all names in --conf labels.",
        status=422,
    )


def _check_once(named: Named, values: Sequence[int], present: Collection[int], what: str) -> None:
    """Raise UserError (422) when two values that are in the label have one name."""
    here = [_plain(name) for value, (name, _) in zip(values, named, strict=True) if value in set(present)]
    twice = sorted({name for name in here if here.count(name) > 1})
    if twice:
        raise UserError(
            f"{what} has several segments with the name {', '.join(twice)}. Give each structure its own name, or join "
            "them in the viewer (in 3D Slicer: Logical operators, Add), and save it again.",
            status=422,
        )


def check_nameless(present: Collection[int], schema: LabelSchema, what: str) -> None:
    """Look at the values of a label that came without names.

    Args:
        present: values in the label above 0.
        schema: the study's structures.
        what: how to call the label in the message.

    Raises:
        UserError: (422) for values that the schema does not know, with what can be done about them.
    """
    if max(present, default=0) <= schema.count:
        return
    raise UserError(
        f"{what} holds the value(s) {listed(sorted(present))} and came without names, but this server knows 1 to "
        f"{schema.count} ({', '.join(schema.names)}). Open it in the viewer, name its segments and submit it: names go "
        "before values. Or renumber the file's values to 1, 2, 3, ... without gaps, in the order of the names in "
        "--conf labels.",
        status=422,
    )


def position(name: str, schema: LabelSchema) -> int:
    """The value of a structure by its name, 0 when there is none."""
    return {_plain(known): value for known, value in schema.as_dict().items()}.get(_plain(name), 0)


def knows_all(schema: LabelSchema, named: Iterable[tuple[str, int]]) -> bool:
    """Whether all names are those of structures."""
    return all(position(name, schema) for name, _ in named)


def _own_values(named: Named, schema: LabelSchema | None) -> bool:
    return schema is not None and all(position(name, schema) == number for name, number in named)


def _plain(name: str) -> str:
    """A name without the differences that people and viewers introduce."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _number(value: object, otherwise: int) -> int:
    """A whole number as programs write it, also as text; ``otherwise`` when none came along, -1 for anything else."""
    if value is None:
        return otherwise
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and not isinstance(value, bool) else -1  # type: ignore[call-overload]

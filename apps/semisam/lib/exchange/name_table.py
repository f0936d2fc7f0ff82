"""What structures are called in the study, for names that other programs give them.

A name that is one of the study's, whatever its case, blanks, ``_`` and ``-``, needs no word. For all others a person
says it, in a table: nothing is guessed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.core.errors import UserError, listed
from lib.core.files import write_whole
from lib.core.label_names import position
from lib.core.labels import LabelSchema

NAME, STRUCTURE, FOUND_IN = "name", "structure", "found in"
LEAVE_OUT = "-"


@dataclass(frozen=True)
class NameTable:
    """What a person has said about names.

    Args:
        structures: by name: one of the study's structures, "-" for one that is to be left out.
        path: the file that says so.
    """

    structures: Mapping[str, str]
    path: Path | None = None

    @classmethod
    def read(cls, path: Path) -> NameTable:
        """Read a table; rows whose structure is empty say nothing.

        Raises:
            UserError: when it is no such table, or says two things about one name.
        """
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as a table (CSV in UTF-8).") from error
        # Spreadsheets of some countries part cells by semicolons.
        first = text.partition("\n")[0]
        rows = list(csv.DictReader(text.splitlines(), delimiter=";" if first.count(";") > first.count(",") else ","))
        if not rows or not {NAME, STRUCTURE} <= set(rows[0]):
            raise UserError(f"{path} is no table of names: its first line must be {NAME},{STRUCTURE},{FOUND_IN}.")
        found: dict[str, str] = {}
        for row in rows:
            name, structure = (row[NAME] or "").strip(), (row[STRUCTURE] or "").strip()
            if not name or not structure:
                continue
            if found.setdefault(name, structure) != structure:
                raise UserError(f"{path} says two things about {name!r}: {found[name]!r} and {structure!r}.")
        return cls(found, path)

    def schema(self) -> LabelSchema:
        """The structures in the table, in its order.

        Raises:
            UserError: when there is none, or they cannot be structures.
        """
        names: dict[str, str] = {}
        for each in self.structures.values():
            if each != LEAVE_OUT:
                names.setdefault(each.lower(), each)
        if not names:
            raise UserError(f"{self.path} names no structure.")
        return LabelSchema(tuple(names.values()))


@dataclass(frozen=True)
class Names:
    """What becomes of names.

    Args:
        values: the study's value by name; names without one are left out.
        open: names of which nothing is known, in order.
    """

    values: Mapping[str, int]
    open: tuple[str, ...]


def understood(names: Iterable[str], schema: LabelSchema | None, table: NameTable | None) -> Names:
    """What becomes of names.

    Args:
        names: of structures, as other programs call them.
        schema: the study's structures; None when they are not known, so that no name is one of them.
        table: what a person has said.

    Raises:
        UserError: when the table names a structure that the study does not have.
    """
    said = table.structures if table is not None else {}
    if schema is not None:
        strange = [each for each in said.values() if each != LEAVE_OUT and not position(each, schema)]
        if strange:
            raise UserError(
                f"{table.path if table else ''} names the structure {strange[0]!r}, but the study's structures are "
                f"{', '.join(schema.names)}. Correct the table, or give all names in --conf labels."
            )
    values, unknown = {}, []
    for name in dict.fromkeys(names):
        if said.get(name.strip()) == LEAVE_OUT:
            continue
        found = position(said.get(name.strip(), name), schema) if schema is not None else 0
        if found:
            values[name] = found
        else:
            unknown.append(name)
    return Names(values, tuple(unknown))


def write_table(
    path: Path, found: Mapping[str, Sequence[str]], schema: LabelSchema | None, said: NameTable | None
) -> None:
    """Write the table for a person to fill in; what is known is filled in already.

    Args:
        path: the file; one that is there is replaced, what it says is kept.
        found: files by the name of the structure in them.
        schema: the study's structures, if they are known.
        said: what a person has said before.
    """
    known = dict(said.structures) if said is not None else {}
    names = [*found, *(name for name in known if name not in found)]

    def row(name: str) -> list[str]:
        value = position(name, schema) if schema is not None else 0
        own = schema.names[value - 1] if schema is not None and value else ""
        return [name, known.get(name.strip(), own), listed(list(found.get(name, ())), 3)]

    def write(temporary: str) -> None:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([NAME, STRUCTURE, FOUND_IN])
            table.writerows(row(name) for name in names)

    write_whole(path, write)

"""The folder of an export: case by case, each whole or not at all, and none twice.

What is done with a case is noted in ``.semisam-export/cases/NAME.json`` once its files are there. An export that was
killed goes on with the next case; one that is repeated writes only what has changed since, and takes away the files of
cases that no longer belong to it. So the folder always holds what was asked for last, and nothing else of ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lib.core.errors import UserError
from lib.core.files import space_error
from lib.core.json_files import digest_of, read_json, write_json
from lib.core.leftovers import remove_leftovers

from .labelled import LabelledScan
from .table import row_of, write_table

if TYPE_CHECKING:
    from .formats import ExportFormat

MARK = ".semisam-export"
"""Folder of the notes; programs that read data sets pass over names with a dot in front."""
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Candidate:
    """A scan that is to be exported, not read yet.

    Args:
        name: of the scan in the study.
        stamp: plain facts that change when what would be written does.
        load: reads scan and label; raises UserError when they cannot be used.
    """

    name: str
    stamp: Mapping[str, object]
    load: Callable[[], LabelledScan]


@dataclass
class Outcome:
    """What an export has done.

    Args:
        written: names of scans whose files were written now.
        kept: of those that were there already.
        refused: why the others have none, by their names.
        removed: names, in the export, of cases of an earlier one that were taken away.
    """

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


class ExportFolder:
    """An export in a folder.

    Args:
        folder: where to; made unless it is there.
        form: the format.

    Raises:
        UserError: (409) when the folder holds anything but an earlier export in this format.
    """

    def __init__(self, folder: Path, form: ExportFormat) -> None:
        self._folder, self._form = folder, form
        self._mark = folder / MARK
        form.check_folder(folder)
        self._take()

    def _take(self) -> None:
        known = read_json(self._mark / "export.json")
        if known is None and self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise UserError(
                f"{self._folder} is there already and holds something else than an export. Give a new or empty folder.",
                status=409,
            )
        if known is not None and known.get("format") != self._form.name:
            raise UserError(
                f"{self._folder} holds an export in the format {known.get('format')!r}. Give another folder for "
                f"{self._form.name!r}, or delete that one.",
                status=409,
            )
        write_json(self._mark / "export.json", {"format": self._form.name, "version": _VERSION})

    def export(self, cases: Sequence[Candidate], say: Callable[[int, str], object]) -> Outcome:
        """Write cases that are not there as they are now, take away others, and write what describes the whole.

        Args:
            cases: all that the folder is to hold.
            say: called before each case with the number of cases done and the next one's name.

        Raises:
            UserError: (507) when there is no space left; (409) when the format cannot hold the study's structures, or
                no case could be written.
        """
        with self._alone():
            return self._export_all(cases, say)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else export to this folder meanwhile."""
        try:
            with FileLock(str(self._mark / "lock"), timeout=0):
                yield
        except Timeout as error:
            raise UserError(f"Another export to {self._folder} is running. Wait for its end.", status=409) from error

    def _export_all(self, cases: Sequence[Candidate], say: Callable[[int, str], object]) -> Outcome:
        outcome, rows = Outcome(), []
        # Programs would take them for cases.
        remove_leftovers([self._folder, *(each for each in self._folder.rglob("*") if each.is_dir())])
        self._remove_others({self._form.file_of(case.name) for case in cases}, outcome)
        for done, case in enumerate(cases):
            say(done, case.name)
            try:
                rows.append(self._export(case, outcome))
            except UserError as error:
                if error.status == 507:
                    raise
                outcome.refused[case.name] = str(error)
                self._remove(self._form.file_of(case.name))
            except OSError as error:
                raise space_error(error, self._folder) or error from error
        say(len(cases), "")
        if not rows:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(outcome.refused.items())[:3])
            raise UserError(f"Nothing was exported. {reasons or 'There is no scan with a label.'}", status=409)
        self._form.finish(self._folder, rows)
        write_table(self._folder / self._form.table, rows, self._form.structures)
        return outcome

    def _export(self, case: Candidate, outcome: Outcome) -> Mapping[str, object]:
        """The row of a case, whose files are written if need be."""
        name = self._form.file_of(case.name)
        stamp = digest_of({**case.stamp, **self._form.stamp})
        known = self._known(name)
        if known is not None and known["stamp"] == stamp:
            files = known["files"]
            if isinstance(files, list) and all((self._folder / str(file)).is_file() for file in files):
                outcome.kept.append(case.name)
                return dict(known["row"])  # type: ignore[call-overload, no-any-return]
        labelled = case.load()
        self._remove(name)
        files = self._form.files(labelled)
        row = row_of(labelled, files)
        write_json(self._note(name), {"stamp": "", "scan": case.name, "files": files, "row": row})  # begun
        self._form.write(self._folder, labelled)
        write_json(self._note(name), {"stamp": stamp, "scan": case.name, "files": files, "row": row})
        outcome.written.append(case.name)
        return row

    def _note(self, name: str) -> Path:
        return self._mark / "cases" / f"{name}.json"

    def _known(self, name: str) -> dict[str, object] | None:
        known = read_json(self._note(name))
        return known if known is not None and {"stamp", "files", "row"} <= set(known) else None

    def _remove_others(self, names: set[str], outcome: Outcome) -> None:
        for note in sorted((self._mark / "cases").glob("*.json")):
            if note.name[: -len(".json")] not in names:
                outcome.removed.append(note.name[: -len(".json")])
                self._remove(note.name[: -len(".json")])

    def _remove(self, name: str) -> None:
        """Take away the files of a case, its note last: what a kill leaves is found again."""
        known = self._known(name)
        files = known["files"] if known is not None else []
        for file in files if isinstance(files, list) else []:
            if Path(str(file)).is_absolute() or ".." in Path(str(file)).parts:
                continue  # whatever the note says: nothing outside this folder
            path = self._folder / str(file)
            path.unlink(missing_ok=True)
            _remove_empty(path.parent, self._folder)
        self._note(name).unlink(missing_ok=True)


def _remove_empty(folder: Path, top: Path) -> None:
    """Take away a folder that holds nothing any more, and those above it."""
    while folder != top and top in folder.parents and folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder)
        folder = folder.parent

"""Exports that are asked for by REST: ``main.py export`` in a process of its own, packed as one zip file."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import uuid
import zipfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.exchange import FORMATS
from lib.exchange.folder import MARK
from lib.specialists.portable import NETWORK_FORMATS
from server.jobs.command_study import APP
from server.jobs.system_processes import end_tree

logger = logging.getLogger("semisam.export")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_STEP = re.compile(r"^Export: (\d+) of (\d+) scans")
_DONE = re.compile(r"^\d+ scan\(s\) written to |^The trained network was written to ")
_LINES, _NICE = 40, 5
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"


@dataclass(frozen=True)
class Wanted:
    """What is to be exported; the options of ``main.py export``.

    Args:
        form: name of the format.
        scans: names and patterns, none for all.
        pseudo_labels: also scans without a final label.
        least_quality: estimated Dice of a pseudo-label at least.
        with_scans: nifti: the scans, too.
        probabilities: nifti: the probabilities, too.
        channel: nnunet: name of the channel.
        name: of the folder in the zip file; "" for one that tells the format.
    """

    form: str
    scans: tuple[str, ...] = ()
    pseudo_labels: bool = False
    least_quality: float | None = None
    with_scans: bool = False
    probabilities: bool = False
    channel: str = "image"
    name: str = ""

    @property
    def folder(self) -> str:
        """Name of the folder; nnU-Net takes a certain one only."""
        return self.name or ("Dataset501_semisam" if self.form == "nnunet" else f"semisam_{self.form}")

    def check(self) -> None:
        """Raise UserError for a format or name that there is not."""
        known = [*FORMATS, *NETWORK_FORMATS]
        if self.form not in known:
            raise UserError(f"format: {self.form[:80]!r} is not known. Allowed: {', '.join(known)}.")
        if not _NAME.fullmatch(self.folder):
            raise UserError("name: give up to 60 letters, digits, _ and -.")
        wrong = [name for name in self.scans if name.startswith("-") or "\0" in name]
        if wrong:
            raise UserError(f"The study has no scan {wrong[0][:80]!r}.", status=404)

    def words(self, folder: Path) -> list[str]:
        """The words of the command line."""
        words = ["--format", self.form, "--to", str(folder), f"--channel={self.channel}"]
        words += ["--scans", *self.scans] if self.scans else []
        words += [f"--least-quality={self.least_quality}"] if self.least_quality is not None else []
        switches = ("pseudo_labels", "with_scans", "probabilities")
        return words + [f"--{name.replace('_', '-')}" for name in switches if getattr(self, name)]


@dataclass
class Export:
    """An export that runs or has ended."""

    id: str
    wanted: Wanted
    folder: Path
    started: str = field(default_factory=lambda: datetime.now().strftime("%Y-%m-%d %H:%M:%S"))
    status: str = RUNNING
    done: int = 0
    total: int = 0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))
    written: bool = False
    process: subprocess.Popen[str] | None = None

    @property
    def file(self) -> Path:
        """The zip file."""
        return self.folder / f"{self.wanted.folder}.zip"

    def state(self) -> dict[str, Any]:
        """What clients are told."""
        return {
            "id": self.id,
            "format": self.wanted.form,
            "status": self.status,
            "started": self.started,
            "done": self.done,
            "total": self.total,
            "log": list(self.lines),
            "bytes": self.file.stat().st_size if self.status == DONE else None,
        }


class Exports:
    """The exports of a server: one at a time, and the last one is kept until the next begins.

    Args:
        place: folder for them; what is in it is removed.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._last: Export | None = None
        self._changing = threading.Lock()
        shutil.rmtree(place, ignore_errors=True)

    def start(self, wanted: Wanted) -> dict[str, Any]:
        """Start an export.

        Raises:
            UserError: when something is asked for that there is not; (429) while another one runs.
        """
        wanted.check()
        with self._changing:
            if self._last is not None and self._last.status == RUNNING:
                raise UserError(
                    "An export is running. Wait for its end, or stop it: DELETE /semisam/export", status=429
                )
            shutil.rmtree(self._place, ignore_errors=True)
            name = uuid.uuid4().hex
            export = Export(name, wanted, self._place / name)
            export.folder.mkdir(parents=True)
            export.folder.chmod(0o700)
            words = [sys.executable, str(APP / "main.py"), "export", *wanted.words(export.folder / wanted.folder)]
            export.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            with suppress(psutil.Error):
                psutil.Process(export.process.pid).nice(_NICE)  # the server goes before it
            self._last = export
            threading.Thread(target=self._follow, args=(export,), daemon=True, name="semisam-export").start()
            return export.state()

    def state(self) -> dict[str, Any]:
        """Where the last export stands.

        Raises:
            UserError: (404) when there has been none since the server was started.
        """
        return self._known().state()

    def stop(self) -> dict[str, Any]:
        """Stop the running export, or remove the last one.

        Raises:
            UserError: (404) when there is none.
        """
        export = self._known()
        with self._changing:
            export.status = STOPPED
            if export.process is not None and export.process.poll() is None:
                end_tree([export.process.pid])
            shutil.rmtree(export.folder, ignore_errors=True)
        return export.state()

    def file(self, name: str) -> Path:
        """The zip file of an export.

        Raises:
            UserError: (404) when there is none of this id, (409) when it is not done.
        """
        export = self._known()
        if export.id != name:
            raise UserError("There is no such export any more: a later one has taken its place.", status=404)
        if export.status != DONE:
            raise UserError(f"This export is not done: {export.status}. See GET /semisam/export", status=409)
        return export.file

    def _known(self) -> Export:
        if self._last is None:
            raise UserError("No export was asked for. Ask for one: POST /semisam/export", status=404)
        return self._last

    def _follow(self, export: Export) -> None:
        """Read what the process says, and pack what it has written."""
        process = export.process
        assert process is not None
        assert process.stdout is not None
        for line in process.stdout:
            step = _STEP.match(line)
            if step:
                export.done, export.total = int(step[1]), int(step[2])
            elif line.strip():
                export.lines.append(line.rstrip().replace(f"{export.folder}{os.sep}", ""))
            export.written = export.written or bool(_DONE.match(line))
        process.wait()
        packed = False
        try:
            if export.written and export.status == RUNNING:
                _pack(export.folder / export.wanted.folder, export.file)
                packed = True
        except (OSError, UserError) as error:
            export.lines.append(f"It could not be packed: {error}")
        with self._changing:
            if export.status == RUNNING:
                export.status = DONE if packed else FAILED
            elif export.status == STOPPED:
                shutil.rmtree(export.folder, ignore_errors=True)
        logger.info("Export %s: %s", export.wanted.form, export.status)


def _pack(folder: Path, file: Path) -> None:
    """Pack a folder, and remove it; what is compressed already is not compressed again."""

    def write(temporary: str) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for path in _files(folder):
                how = zipfile.ZIP_STORED if path.suffix == ".gz" else zipfile.ZIP_DEFLATED
                archive.write(path, path.relative_to(folder.parent), compress_type=how)

    write_whole(file, write, private=True)
    shutil.rmtree(folder)


def _files(folder: Path) -> Sequence[Path]:
    """What is in a folder without the notes of the export."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and MARK not in path.relative_to(folder).parts)

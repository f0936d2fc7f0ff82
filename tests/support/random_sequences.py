"""Three processes change one study at random, and are killed at random: a ``final`` is always the last one saved."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from fastapi import HTTPException

import server.store.scan_marks
from lib.core.errors import UserError
from lib.formats.volumes import read_volume
from lib.setup.settings import Settings
from server.store.folder_store import FINAL, ORIGINAL, StudyDatastore
from server.store.study import Study

SHAPE = (6, 5, 4)
NAMES = ("ball", "rod", "cube")
FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd")
SCANS = ("one", "two", "three")
PROCESSES = 3
CHANGING = ("replace", "unlink", "remove", "rename", "rmdir")


def write(path: Path, array: np.ndarray) -> Path:
    """An array ``[D, H, W]`` in the format of the path's ending."""
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T)), str(path))
    return path


def patient(number: int) -> np.ndarray:
    """The scan of a patient."""
    return np.random.default_rng(number).integers(0, 500, SHAPE).astype(np.int16)


# --- a process of the study -------------------------------------------------------------------------------------------


def work(folder: str, place: str, serving: bool, pipe: Connection) -> None:
    """Do what the pipe says until it ends, or until a kill that it has ordered."""
    server.store.scan_marks._QUIET_SECONDS = 0
    store = StudyDatastore(folder)
    store.serving = serving
    study = Study(folder, store, Settings.from_conf({"labels": ",".join(NAMES)}), Path(place) / "models")
    while True:
        try:
            task, arguments, kill_at = pipe.recv()
        except EOFError:
            os._exit(0)
        kill_after(kill_at)
        try:
            pipe.send((None, seen(store, study) if task == "seen" else getattr(store, task)(*arguments)))
        except (HTTPException, UserError) as error:
            pipe.send((str(getattr(error, "detail", error)), None))
        kill_after(None)


PLAIN = {name: getattr(os, name) for name in CHANGING}


def kill_after(changes: int | None) -> None:
    """Kill this process, as ``kill -9`` does, before so many changes of the disk from now; None: never."""
    left = changes

    def counted(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            assert left is not None
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return plain(*arguments, **named)

        return call

    for name, plain in PLAIN.items():
        setattr(os, name, plain if changes is None else counted(plain))


def seen(store: StudyDatastore, study: Study) -> dict[str, Any]:
    """What this process knows of the study, after a look at it as the watcher has one."""
    store.refresh()
    finals: dict[str, Any] = {}
    for item in study.final_labels():
        try:
            finals[item.name] = study.template(item).label
        except UserError as error:
            finals[item.name] = str(error)
    pseudo = [name for name in store.list_images() if store.get_label_by_image_id(name, ORIGINAL)]
    return {"images": sorted(store.list_images()), "finals": finals, "pseudo": pseudo, "left_out": store.left_out}


class Process:
    """A process, and its end of the pipe."""

    def __init__(self, folder: Path, *, serving: bool) -> None:
        self._folder, self._serving = folder, serving
        self.start()

    def start(self) -> None:
        """Start it."""
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        arguments = (str(self._folder / "study"), str(self._folder), self._serving, theirs)
        self._process = context.Process(target=work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def do(self, task: str, *arguments: Any, kill_at: int | None = None, kill_in: float | None = None) -> Any:
        """Do something; returns its result, or raises what went wrong, EOFError when it was killed meanwhile."""
        self._pipe.send((task, arguments, kill_at))
        killed = kill_in is not None and not self._pipe.poll(kill_in)
        if killed:
            self._process.kill()
        try:
            error, result = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            killed = True
            raise EOFError from None
        finally:
            if killed:
                self.stop()
                self.start()
        if error is not None:
            raise UserError(error)
        return result


# --- what should be there ---------------------------------------------------------------------------------------------


@dataclass
class Scan:
    """What the study should have of a scan.

    Attributes:
        patient: whose it is.
        final: the last label that a person saved, with the patient that it was drawn on; None without one.
        pseudo: the patient that the pseudo-label was made for, None without one.
    """

    patient: int
    final: tuple[np.ndarray, int] | None = None
    pseudo: int | None = None

    @property
    def shown(self) -> np.ndarray | None:
        """The final label that counts."""
        return self.final[0] if self.final is not None and self.final[1] == self.patient else None


@dataclass
class Play:
    """One random sequence.

    Attributes:
        scans: what should be there.
        counts: how often what was done.
    """

    folder: Path
    dice: random.Random
    scans: dict[str, Scan] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    number: int = 0

    def __post_init__(self) -> None:
        self.study = self.folder / "study"
        self.study.mkdir(parents=True)
        for name in SCANS:
            self._put_scan(name)
        # A server, a second one by mistake, and a job.
        self.processes = [Process(self.folder, serving=n < 2) for n in range(PROCESSES)]

    # --- steps ----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Do something at random, then look at the study in one of the processes."""
        steps = [
            *[self.save] * 6, *[self.pseudo] * 3, *[self.delete] * 2, self.delete_scan, self.another_by_upload,
            *[self.another_by_hand] * 2, *[self.blink] * 2, self.pack_anew, self.lose_list, *[self.restart] * 2,
            self.copy_by_hand, *[self.look] * 2,
        ]  # fmt: skip
        chosen = self.dice.choice(steps)
        self.counts[chosen.__name__] += 1
        chosen()
        self.check(chosen.__name__)

    def save(self) -> None:
        """A person saves a label, with names in any order and values of any kind."""
        name = self._any()
        names = self.dice.sample(NAMES, self.dice.randint(1, len(NAMES)))
        values = self.dice.choice([list(range(1, len(names) + 1)), self.dice.sample(range(10, 90), len(names))])
        truth = self._truth(names)
        file = np.zeros(SHAPE, np.uint8)
        for each, value in zip(names, values, strict=True):
            file[truth == NAMES.index(each) + 1] = value
        info = {"label_info": [{"name": n, "idx": v} for n, v in zip(names, values, strict=True)]}
        path = write(self._temporary(self.dice.choice(FORMATS)), file)
        before, scan = self.scans[name].final, self.scans[name]
        after = truth, scan.patient
        if self._killed("save_label", name, str(path), FINAL, info):
            scan.final = self._which(name, before, after)
        else:
            scan.final = after

    def pseudo(self) -> None:
        """A job stores a pseudo-label."""
        name = self._any()
        path = write(self._temporary(self.dice.choice(FORMATS[:3])), self._truth(NAMES))
        killed = self._killed("save_label", name, str(path), ORIGINAL, {"params": {"n": 1}}, by=self.processes[2])
        self.scans[name].pseudo = None if killed else self.scans[name].patient

    def delete(self) -> None:
        """A person deletes a final label."""
        name = self._any()
        scan = self.scans[name]
        if scan.final is None:
            return
        if self._killed("remove_label", name, FINAL):
            scan.final = self._which(name, scan.final, None)
        else:
            scan.final = None

    def delete_scan(self) -> None:
        """A person deletes a scan, and another patient's is copied there under its name."""
        name = self._any()
        before = self.scans[name].final
        if self._killed("remove_image", name) and self._files(name):
            self.scans[name].final = self._which(name, before, None)
            self.scans[name].pseudo = None  # it may be gone, or not
            return
        self.scans.pop(name)
        assert not [p for p in self.study.rglob(f"{name}*") if p.is_file()], "nothing of a deleted scan is left"
        self.check("delete_scan")
        self._put_scan(name)

    def another_by_upload(self) -> None:
        """Another patient's scan is uploaded: refused, unless it is to replace one that nobody has outlined."""
        name = self._any()
        self.number += 1
        path = write(self._temporary(self.dice.choice((".nii.gz", ".nrrd"))), patient(self.number))
        server = self.dice.choice(self.processes[:2])
        outlined = bool(list((self.study / "labels" / FINAL).glob(f"{name}.*")))
        with pytest.raises(UserError, match="by a person" if outlined else "not replaced unasked"):
            server.do("add_image", name, str(path), {"replace": True} if outlined else {})
        self.check("refused upload")
        if outlined:
            return
        server.do("add_image", name, str(path), {"replace": True})
        self.scans[name] = Scan(self.number)

    def another_by_hand(self) -> None:
        """A scan's file is exchanged for another patient's by hand, and perhaps put back later."""
        name = self._any()
        (file,) = self._files(name)
        kept = self._temporary(".kept")
        shutil.copy2(file, kept)
        before = self.scans[name].patient
        self.number += 1
        write(file, patient(self.number))
        self.scans[name].patient = self.number
        self.check("another scan by hand")
        if self.dice.random() < 0.5:
            shutil.copy(kept, file)
            self.scans[name].patient = before

    def blink(self) -> None:
        """A scan's file is away for a moment, and somebody looks meanwhile."""
        (file,) = self._files(self._any())
        away = self._temporary(".away")
        os.rename(file, away)
        self.dice.choice(self.processes).do("refresh")
        shutil.copy(away, file)

    def pack_anew(self) -> None:
        """A scan is packed anew, or its time changes: it is the same scan."""
        (file,) = self._files(self._any())
        if file.name.endswith(".gz"):
            content = gzip.decompress(file.read_bytes())
            file.write_bytes(gzip.compress(content, compresslevel=self.dice.randint(1, 9)))
        else:
            os.utime(file)

    def lose_list(self) -> None:
        """MONAI Label's list is deleted."""
        (self.study / "datastore_v2.json").unlink(missing_ok=True)

    def restart(self) -> None:
        """A process ends and starts again."""
        process = self.dice.choice(self.processes)
        process.stop()
        process.start()

    def copy_by_hand(self) -> None:
        """Somebody copies a label over: without names, its values are the schema's."""
        name = self._any()
        if self.scans[name].final is not None:
            return
        truth = self._truth(NAMES)
        write(self.study / "labels" / FINAL / f"{name}{self.dice.choice(FORMATS[:4])}", truth)
        self.scans[name].final = truth, self.scans[name].patient

    def look(self) -> None:
        """Another process looks at the study."""
        self.dice.choice(self.processes).do("refresh")

    # --- checks ---------------------------------------------------------------------------------------------------

    def check(self, what: str) -> None:
        """Whether one of the processes knows what should be there."""
        found = self.dice.choice(self.processes).do("seen")
        assert found["images"] == sorted(self.scans), what
        for name, scan in self.scans.items():
            label = found["finals"].get(name, found["left_out"] if scan.shown is not None else None)
            if scan.shown is None:
                assert label is None, f"{what}: {name} has a final that nobody saved for it: {label}"
            else:
                assert isinstance(label, np.ndarray), f"{what}: the final of {name} is lost: {label}"
                assert np.array_equal(label, scan.shown), f"{what}: the final of {name} is another one"
            if scan.pseudo is not None:
                assert (name in found["pseudo"]) == (scan.pseudo == scan.patient), f"{what}: pseudo-label of {name}"

    def _which(self, name: str, before: Any, after: Any) -> Any:
        """What is there after a kill: the old or the new label, and nothing else."""
        label = self.processes[0].do("seen")["finals"].get(name)
        here = self.scans[name].patient
        if after is None and before is not None and before[1] != here:
            # Of another scan, and not shown either way.
            return before if list((self.study / "labels" / FINAL).glob(f"{name}.*")) else None
        for state in (after, before):
            shown = state[0] if state is not None and state[1] == here else None
            if (label is None) if shown is None else np.array_equal(label, shown):
                return state
        raise AssertionError(f"after a kill {name} has neither the old nor the new final: {label}")

    # --- helpers --------------------------------------------------------------------------------------------------

    def _any(self) -> str:
        return self.dice.choice(sorted(self.scans))

    def _files(self, name: str) -> list[Path]:
        return [p for p in self.study.iterdir() if p.is_file() and p.name.startswith(f"{name}.")]

    def _put_scan(self, name: str) -> None:
        self.number += 1
        write(self.study / f"{name}{self.dice.choice(('.nii.gz', '.nrrd', '.mha'))}", patient(self.number))
        self.scans[name] = Scan(self.number)

    def _truth(self, names: Any) -> np.ndarray:
        """A random label ``[D, H, W]`` with these structures, in the schema's values."""
        array = np.zeros(SHAPE, np.uint8)
        places = self.dice.sample(range(array.size), 10 * len(names))
        for number, each in enumerate(names):
            array.flat[places[10 * number : 10 * (number + 1)]] = NAMES.index(each) + 1
        return array

    def _temporary(self, ending: str) -> Path:
        return self.folder / f"file-{time.time_ns()}{ending}"

    def _killed(self, task: str, *arguments: Any, by: Process | None = None) -> bool:
        """Do something in a process that may be killed meanwhile; whether it was."""
        process = by or self.dice.choice(self.processes[:2])
        how = self.dice.random()
        kill_at = self.dice.randint(0, 8) if how < 0.3 else None
        kill_in = self.dice.uniform(0, 0.02) if 0.3 <= how < 0.45 else None
        try:
            process.do(task, *arguments, kill_at=kill_at, kill_in=kill_in)
        except EOFError:
            self.counts["killed"] += 1
            return True
        return False


def play(folder: Path, seed: int, steps: int) -> Counter[str]:
    """Play a random sequence; returns how often what was done."""
    # ITK loads its parts when they are first needed, which takes seconds: here, and not in every process anew.
    for each in FORMATS[:4]:
        read_volume(write(folder / f"first{each}", patient(0)))
    game = Play(folder / "play", random.Random(seed))
    try:
        for number in range(steps):
            try:
                game.step()
            except Exception as error:
                raise AssertionError(f"seed {seed}, step {number}: {error}") from error
            for file in game.folder.glob("file-*"):
                file.unlink()
    finally:
        for process in game.processes:
            process.stop()
    return game.counts

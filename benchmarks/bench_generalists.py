"""Every generalist through a running server, from its file to the answers: whether it works, seconds, memory.

For each entry of the registry a checkpoint with RANDOM weights is made in the official file's layout, imported and
verified on the command line, and used by a server: ``propagate`` twice, then ``prompt`` with one click and with two.
Each answer has to be a label map on the scan's own grid. Random weights mean that the masks mean nothing; seconds and
memory are those of the true architecture. Seconds are given as a client waits them and, in brackets, as the CPU time of
the server, which other work on the machine changes little.

The scans are made-up ones of a few thick slices, so that a CPU can carry the large 2D models; the faster models are
also measured on two scans of ``hippocampus``, if these are there (``../shared/data`` or ``$SEMISAM_DATA``). What an
interrupted run has measured is not measured again; ``--fresh`` measures everything anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil  # type: ignore[import-untyped]

import common
import training
from common import DataSet, Store, Targets, heading, table
from startserver import Server

SEED = 0
SLICES = range(16, 46, 8)
"""Of a made-up scan of about 56 slices: those that make the thin one."""
REAL = ("mind", "sam_med3d", "sam_med3d_turbo", "segany_pet")
"""Fast enough on a CPU for a real scan."""
VIDEO_ON_A_CPU = ("medsam2",)
"""512 px; the others go the same way at 1024 px, which takes two CPU cores a quarter of an hour for four slices."""
HEAD = ("model", "propagator", "scan", "device", "1st propagate s", "2nd", "1st click s", "2nd", "peak MiB")


class FailedError(Exception):
    """Something did not work as a user may expect."""


@dataclass(frozen=True)
class Duration:
    """How long a request took.

    Args:
        seconds: what a client waited.
        cpu: CPU seconds of the server, all threads together.
    """

    seconds: float
    cpu: float

    def __str__(self) -> str:
        waited, used = (f"{value:.2f}" if value < 1 else f"{value:.1f}" for value in (self.seconds, self.cpu))
        return f"{waited} ({used})"


@dataclass(frozen=True)
class Row:
    """What was measured with one server; None where there is nothing to measure.

    Args:
        propagator: of the server.
        scan: which pair of scans, with its size.
        device: where the model ran.
        propagate: the first and the second ``propagate`` of a scan, the first with loading the weights.
        clicks: ``prompt`` with one click and with two, on a scan that was not open.
        peak_mib: most memory that the server held.
    """

    propagator: str
    scan: str
    device: str
    propagate: list[Duration]
    clicks: list[Duration]
    peak_mib: float

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Row:
        """What ``asdict`` made of a row."""
        times = {key: [Duration(**one) for one in content[key]] for key in ("propagate", "clicks")}
        return cls(**{**content, **times})

    def cells(self, model: str) -> list[object]:
        """As it stands in the table."""
        clicks = [*self.clicks, None, None][:2]
        return [model, self.propagator, self.scan, self.device, *self.propagate, *clicks, round(self.peak_mib)]


class AskedServer(Server):
    """A server that is asked about scans of its study, as viewers do."""

    def ask(self, task: str, scan: str, folder: Path, **params: Any) -> tuple[Path, dict[str, Any], Duration]:
        """File and params of the answer, and how long it took."""
        from monailabel.client import MONAILabelClient

        folder.mkdir(parents=True, exist_ok=True)
        client = MONAILabelClient(self.url, tmpdir=str(folder))
        start, cpu = time.perf_counter(), self._cpu_seconds
        file, reply = client.infer(task, scan, {"result_extension": ".nii.gz", **params})
        return Path(file), reply, Duration(time.perf_counter() - start, self._cpu_seconds - cpu)

    @property
    def _cpu_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def peak_mib(self) -> float:
        """Most memory that the server has held so far."""
        return common.peak_mib(self._process.pid)


def thin_phantoms(folder: Path) -> DataSet:
    """Two made-up scans of a few thick slices, with their truth."""
    from lib.setup.demo import DEMO_LABELS, make_phantom

    data = DataSet("made up", folder, DEMO_LABELS)
    names = ["phantom_1", "phantom_2"]
    for number, name in enumerate(names):
        image, label, affine = make_phantom(number)
        affine[:3, 3] += affine[:3, 2] * SLICES.start
        affine[:3, 2] *= SLICES.step
        for array, path in ((image, data.image(name)), (label, data.label(name))):
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array[:, :, list(SLICES)]), affine), path)
    common.write_json(folder / "split.json", {"train": names, "val": []})
    return data


def datasets(work: Path) -> Iterator[DataSet]:
    """The pairs of scans that there are."""
    yield thin_phantoms(work / "phantoms")
    try:
        yield common.open_dataset("hippocampus", ["anterior", "posterior"])
    except SystemExit:
        return  # the message is printed


def command(*words: str | Path) -> None:
    """The app's own command line.

    Raises:
        FailedError: when it ends with an error.
    """
    call = [sys.executable, str(common.APP / "main.py"), "weights", *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, env=common.limit_threads(), check=False)
    if done.returncode:
        raise FailedError(f"weights {words[0]}: {(done.stderr or done.stdout).strip()[-500:]}")


def make_weights(name: str, file: Path) -> None:
    """Write a checkpoint with random weights as the authors of a model would; nothing for a model without a file."""
    from lib.generalists.entries import ENTRIES, adapter_of
    from official_weights import write_official

    entry = ENTRIES[name]
    if entry.weights is not None:
        write_official(adapter_of(entry).random_state(name, SEED), file, entry.weights.layout)


def bring_weights(name: str, folder: Path) -> None:
    """Make a checkpoint, import and verify it."""
    from lib.generalists.entries import ENTRIES

    folder.mkdir()
    weights = ENTRIES[name].weights
    if weights is None:
        return
    file = folder / "brought.bin"
    # In a process of its own: what it takes is free afterwards.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        other.submit(make_weights, name, file).result()
    pinned = weights.sha256 or weights.md5
    command("import", name, file, "--folder", folder, *(["--unofficial"] if pinned else []))
    file.unlink()
    command("verify", name, "--folder", folder)


def check_answer(file: Path, scan: Path, largest: int) -> np.ndarray:
    """The label map in an answer's file.

    Raises:
        FailedError: when it is none on the scan's own grid.
    """
    answer, asked = nibabel.load(file), nibabel.load(scan)
    values = np.asarray(answer.dataobj)
    if values.shape != asked.shape or not np.allclose(answer.affine, asked.affine, atol=1e-3):
        raise FailedError(f"the answer of {values.shape} is not on the grid of the scan of {asked.shape}")
    if values.dtype != np.uint8 or int(values.max()) > largest:
        raise FailedError(
            f"the answer is no label map: {values.dtype}, largest value {values.max()}, expected {largest}"
        )
    return values


def propagate(server: AskedServer, data: DataSet, scan: str, answers: Path) -> list[Duration]:
    """``propagate`` twice for one scan."""
    times = []
    for _ in range(2):
        file, _, took = server.ask("propagate", scan, answers)
        check_answer(file, data.image(scan), len(data.labels))
        times.append(took)
    return times


def click(server: AskedServer, data: DataSet, scan: str, answers: Path, source: str) -> list[Duration]:
    """``prompt`` with a click into the first structure, and with a second one where the answer is wrong.

    Raises:
        FailedError: when anything but ``source`` answers.
    """
    from simulated_clicks import next_click

    image = nibabel.load(data.image(scan))
    truth = np.asarray(nibabel.load(data.label(scan)).dataobj) == 1
    found = np.zeros_like(truth)
    places: dict[str, list[tuple[int, int, int]]] = {"foreground": [], "background": []}
    times: list[Duration] = []
    while len(times) < 2 and (wrong := next_click(found, truth, image.header.get_zooms())) is not None:
        places["foreground" if wrong[1] else "background"].append(wrong[0])
        file, reply, took = server.ask("prompt", scan, answers, label=data.labels[0], **places)
        if reply.get("source") != source:
            raise FailedError(f"clicks were answered by {reply.get('source')!r}, not by {source!r}")
        found = check_answer(file, data.image(scan), 1) > 0
        times.append(took)
    return times


def measure(name: str, data: DataSet, propagator: str, weights: Path, work: Path, log: Path) -> Row:
    """Start a server with a model and use it; clicks know no propagator, so they are left to ``registration``.

    Raises:
        FailedError: when an answer is not what it should be.
    """
    import torch

    from lib.generalists.entries import ENTRIES

    template, scan = data.split()["train"][:2]
    training.make_study(data, work / "study", template, [scan])
    conf = {"labels": ",".join(data.labels), "generalist": name, "propagator": propagator, "weights": str(weights)}
    server = AskedServer(work / "app", work / "study", conf, log)
    try:
        with server:
            times = propagate(server, data, scan, work / "answers")
            source = name if ENTRIES[name].capabilities & {"points", "box", "mask"} else "graph_cut"
            clicks = click(server, data, scan, work / "answers", source) if propagator == "registration" else []
            peak = server.peak_mib
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = " x ".join(str(n) for n in nibabel.load(data.image(scan)).shape)
    device = "cuda" if ENTRIES[name].weights and torch.cuda.is_available() else "cpu"
    return Row(propagator, f"{data.name}, {size}", device, times, clicks, peak)


def measure_all(name: str, pairs: Sequence[DataSet], rows: dict[str, Any], store: Store, temporary: Path) -> None:
    """All servers of a model; what is in ``rows`` already is left out."""
    import torch

    from lib.generalists.entries import ENTRIES

    wanted = [(pairs[0], "registration")]
    if "video" in ENTRIES[name].capabilities and (name in VIDEO_ON_A_CPU or torch.cuda.is_available()):
        wanted.append((pairs[0], "video"))
    wanted += [(data, "registration") for data in pairs[1:] if name in REAL]
    missing = [(data, propagator) for data, propagator in wanted if f"{data.name}, {propagator}" not in rows]
    if not missing:
        return
    weights = temporary / "weights"
    log = store.path.with_name(f"{name}.log")
    try:
        bring_weights(name, weights)
        for data, propagator in missing:
            row = measure(name, data, propagator, weights, temporary / "work", log)
            rows[f"{data.name}, {propagator}"] = asdict(row)
            store.save()
            print(json.dumps({"model": name, **asdict(row)}), flush=True)
    finally:
        shutil.rmtree(weights, ignore_errors=True)


def main() -> int:
    from lib.generalists.entries import ENTRIES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(ENTRIES), help="comma list (default: all)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a model does not work")
    parser.add_argument("--fresh", action="store_true", help="forget results of earlier runs")
    options = parser.parse_args()
    common.end_on_sigterm()
    names = common.chosen(options.models, tuple(ENTRIES), "--models")
    heading(
        "Generalists through the server",
        {"weights": "RANDOM, so that the masks mean nothing", "threads": common.THREADS},
    )
    targets = Targets()
    store = Store(common.RESULTS / "generalists" / "results.json", fresh=options.fresh)
    store.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="semisam-generalists-") as temporary:
        pairs = list(datasets(Path(temporary)))
        for name in names:
            code = common.fingerprint([Path(__file__), *_code_of(name)])
            if store.data.get(name, {}).get("code") != code:
                store.data[name] = {"code": code, "rows": {}}
            try:
                measure_all(name, pairs, store.data[name]["rows"], store, Path(temporary))
                targets.expect(True, name)
            except (Exception, SystemExit) as error:
                if isinstance(error, SystemExit) and isinstance(error.code, int):
                    raise  # somebody ends the program
                # One that fails must not keep the others from being measured.
                targets.expect(False, f"{name}: {type(error).__name__}: {error}")
    shown = [Row.of(row).cells(name) for name in names for row in store.data[name]["rows"].values()]
    print("\n" + table(HEAD, shown) + "\n\nRandom weights: the masks mean nothing.", flush=True)
    return targets.exit_code(options.check)


def _code_of(name: str) -> list[Path]:
    """What a model's figures depend on."""
    from lib.generalists.entries import ENTRIES

    lib = common.APP / "lib"
    adapter = ENTRIES[name].adapter or "mind.py"
    parts = [
        "core/resampling.py",
        "core/frames.py",
        "propagation",
        "prompting",
        f"generalists/{adapter}",
        "generalists/slices.py",
    ]
    return [lib / part for part in parts]


if __name__ == "__main__":
    sys.exit(main())

"""Features once: ``prototype`` over the same scans a first and a second time, with ``mind`` and with ``sam_med3d``.

``sam_med3d`` has random weights, in a file of the official layout: its time is that of the real one, its labels mean
nothing. The first run starts with an empty folder of features. The second one is made twice: by the same process, as a
server that is asked again (the same template, propagator and model), and by a new process, as a server that was started
again, where only the features on disk are left. Nothing but features and a template's prototypes is kept.

Timed is ``propagate``, from the scan in memory to its soft labels; a short warm-up on noise comes first in every
process. Reading the file and bringing the label to the scan's own grid are the same for every propagator; they are
shown, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
from common import DataSet, Targets, heading, table

Result = dict[str, Any]

MODELS = ("mind", "sam_med3d")
RATIO = 5.0
DATA = common.STRUCTURES


def make_weights(model: str, folder: Path) -> None:
    """A random checkpoint of ``model`` in ``folder``, as its official file is laid out; nothing for ``mind``."""
    from lib.generalists import find_entry
    from lib.generalists.entries import adapter_of
    from official_weights import write_official

    entry = find_entry(model)
    if entry.weights is not None:
        state = adapter_of(entry).random_state(model, 0)
        write_official(state, folder / entry.weights.name, entry.weights.layout)


def work(model: str, data: DataSet, scans: Sequence[str], folder: Path, runs: int) -> list[Result]:
    """Propagate to ``scans`` ``runs`` times; the features are in ``folder / features``, the weights beside them."""
    import numpy as np
    import torch

    from lib.core.geometry import Volume
    from lib.core.labels import LabelSchema
    from lib.formats.label_files import read_label
    from lib.formats.volumes import read_volume
    from lib.generalists import CachedGeneralist, FeatureCache, ResidentGeneralist, create_generalist, find_entry
    from lib.propagation import Template, create_propagator

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    schema = LabelSchema(data.labels)
    name = data.split()["train"][0]
    outlined = read_volume(data.image(name))
    template = Template(name, outlined, read_label(data.label(name), outlined, schema))
    propagator = create_propagator("prototype")
    noise = [np.random.default_rng(n).random((120, 100, 80), dtype=np.float32) for n in range(2)]
    warm = [Volume(array, np.eye(4)) for array in noise]
    label = (noise[0] > 0.5).astype(np.uint8)
    propagator.propagate(Template("", warm[0], label), warm[1], schema.channels, create_generalist("mind"))

    cache = FeatureCache(folder / "features")
    plain = find_entry(model).weights is None
    inner = create_generalist(model) if plain else ResidentGeneralist(model, weights=folder)
    generalist = CachedGeneralist(inner, cache, own=not plain)  # as in the app
    results = []
    for _ in range(runs):
        before = cache.encodes
        seconds, around = [], []
        for scan_name in scans:
            start = time.perf_counter()
            scan = read_volume(data.image(scan_name))
            read = time.perf_counter()
            soft = propagator.propagate(template, scan, schema.channels, generalist)
            done = time.perf_counter()
            soft.labels()
            seconds.append(done - read)
            around.append(read - start + time.perf_counter() - done)
        size = sum(f.stat().st_size for f in cache.folder.iterdir()) / 2**20
        results.append({"seconds": seconds, "around": around, "encodes": cache.encodes - before, "mib": size})
    return results


def in_new_process(model: str, data: DataSet, scans: Sequence[str], folder: Path, runs: int) -> list[Result]:
    """``work`` in a process of its own."""
    task = json.dumps([model, data.name, scans, str(folder), runs])
    command = [sys.executable, str(Path(__file__)), "--work", task]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: list[Result] = json.loads(out.splitlines()[-1])
    return found


def compare(model: str, data: DataSet, scans: Sequence[str], targets: Targets) -> None:
    """Measure, print and check one model."""
    with tempfile.TemporaryDirectory(dir=_scratch()) as name:
        folder = Path(name)
        make_weights(model, folder)
        first, again = in_new_process(model, data, scans, folder, 2)
        (anew,) = in_new_process(model, data, scans, folder, 1)
    runs = {"first": first, "second, same process": again, "second, new process": anew}
    total = sum(first["seconds"])
    rows = [
        [
            text,
            sum(run["seconds"]),
            sum(run["seconds"]) / len(scans),
            run["encodes"],
            total / sum(run["seconds"]),
            sum(run["around"]) / len(scans),
            run["mib"] / (len(scans) + 1),
        ]
        for text, run in runs.items()
    ]
    head = [f"prototype, {model}", "seconds", "s/scan", "encoder calls", "times faster", "read + label s", "MiB/scan"]
    print(table(head, rows) + "\n", flush=True)
    targets.expect(first["encodes"] == len(scans) + 1, f"{model}: the first run encodes every scan once")
    for text in list(runs)[1:]:
        targets.expect(runs[text]["encodes"] == 0, f"{model}: the {text}, encodes nothing")
        ratio = total / sum(runs[text]["seconds"])
        targets.expect(ratio >= RATIO, f"{model}: the {text}, is {ratio:.1f} times faster (at least {RATIO:g})")


def _scratch() -> Path:
    """Where features are written while measuring: beside the results, on a disk and not in memory."""
    common.RESULTS.mkdir(exist_ok=True)
    (common.RESULTS / ".gitignore").write_text("*\n", encoding="utf-8")
    return common.RESULTS


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="la", choices=sorted(DATA), help="which scans (default: %(default)s)")
    parser.add_argument("--models", default=",".join(MODELS), help="comma list (default: all)")
    parser.add_argument("--scans", type=int, default=10, help="how many, besides the template (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=common.THREADS, help="CPU threads (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        model, name, scans, folder, runs = json.loads(options.work)
        print(json.dumps(work(model, common.open_dataset(name, DATA[name]), scans, Path(folder), runs)))
        return 0
    os.environ.update(common.limit_threads(options.threads))
    common.end_on_sigterm()
    data = common.open_dataset(options.data, DATA[options.data])
    scans = data.split()["train"][1:][: options.scans]
    heading(f"Features once, {data.name}", {"scans": len(scans), "threads": options.threads})
    targets = Targets()
    for model in common.chosen(options.models, MODELS, "--models"):
        compare(model, data, scans, targets)
    return targets.exit_code(options.check)


if __name__ == "__main__":
    sys.exit(main())

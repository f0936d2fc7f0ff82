"""Scores of a large study: seconds and memory of a first and a second pass, the hippocampus scans under many names.

The study holds hard links to the scans, one scan outlined, and an untrained specialist: it is as fast as a trained one.
With the method ``pseudo_label_quality`` every scan gets the outlined scan's label as its pseudo-label, which fits none.
The passes run in processes of their own. ``pass`` is the pass alone; ``with start`` counts Python's start, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

import common
from common import DataSet, Targets, heading, table

Result = dict[str, Any]

LABELS = ("anterior", "posterior")
METHODS = ("representativeness", "uncertainty", "pseudo_label_quality")
SECOND_SECONDS = 5.0
GROWTH_MIB = 100.0
"""Memory that the last quarter of a pass may hold beyond the second quarter."""


def make_study(folder: Path, data: DataSet, count: int) -> None:
    """``count`` scans, the first of them outlined."""
    names = data.split()["train"]
    labels = folder / "labels" / "final"
    labels.mkdir(parents=True)
    for number in range(count):
        source = data.image(names[number % len(names)])
        target = folder / f"scan_{number:05d}.nii.gz"
        try:
            target.hardlink_to(source.resolve())
        except OSError:  # another disk
            target.symlink_to(source.resolve())
    (labels / "scan_00000.nii.gz").symlink_to(data.label(names[0]).resolve())


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Memory of this process in MiB, looked at twice a second."""
    found: list[float] = []
    ended = threading.Event()
    own = psutil.Process()

    def watch() -> None:
        while not ended.wait(0.5):
            found.append(own.memory_info().rss / 2**20)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def one_pass(folder: Path, models: Path, methods: list[str]) -> Result:
    """Score what is due in the study."""
    import torch

    from lib.core.labels import LabelSchema
    from lib.setup.settings import Settings
    from lib.specialists import SpecialistSpec, build_network, save_specialist
    from scoring import PseudoLabelQuality, Representativeness, UncertaintyScoring, run_pass
    from server.scores.scores import QUALITY
    from server.store.folder_store import FINAL, ORIGINAL, StudyDatastore
    from server.store.study import Study

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    store = StudyDatastore(str(folder))
    study = Study(str(folder), store, Settings(labels=LabelSchema(LABELS)), models)
    if not study.published.is_file():
        # About what preset standard chooses for these scans: most fit into one window.
        spec = SpecialistSpec(LABELS, (16, 32, 64, 128), (1.0, 1.0, 1.0), (40, 56, 40))
        save_specialist(study.published, spec, [build_network(spec)])
        if QUALITY in methods:
            label = store.get_label_uri("scan_00000", FINAL)
            same = [name for name in study.unlabelled() if _same_grid(store.get_image_uri(name), label)]
            store.save_labels(ORIGINAL, {name: (label, {"params": {"source": "propagation"}}) for name in same})
    known = {m.name: m for m in (Representativeness(study), UncertaintyScoring(study), PseudoLabelQuality(study))}
    begun = time.perf_counter()
    with watched_memory() as memory:
        result = run_pass(study, [known[name] for name in methods], {"device": "cpu"})
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    due = [method.name for method in known.values() if method.name in methods and method.due()]
    look = time.perf_counter() - begun
    quarter = max(1, len(memory) // 4)
    return {
        "scored": result["scored"],
        "failed": len(result["failed"]),
        "seconds": seconds,
        "peak": common.peak_mib(),
        "early": max(memory[quarter : 2 * quarter], default=0.0),
        "late": max(memory[-quarter:], default=0.0),
        "due": due,
        "look": look,
    }


def _same_grid(image: str, label: str) -> bool:
    import nibabel

    return bool(nibabel.load(image).shape == nibabel.load(label).shape)


def in_new_process(folder: Path, models: Path, methods: list[str]) -> Result:
    """``one_pass`` in a process of its own, with the seconds of the whole process."""
    command = [sys.executable, str(Path(__file__)), "--work", json.dumps([str(folder), str(models), methods])]
    begun = time.perf_counter()
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: Result = json.loads(out.splitlines()[-1])
    return found | {"whole": time.perf_counter() - begun}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scans", type=int, default=1000, help="how many (default: %(default)s)")
    default = ",".join(METHODS[:2])
    parser.add_argument("--methods", default=default, help="comma list (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=common.THREADS, help="CPU threads (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        study, models, methods = json.loads(options.work)
        print(json.dumps(one_pass(Path(study), Path(models), methods)))
        return 0
    os.environ.update(common.limit_threads(options.threads))
    common.end_on_sigterm()
    methods = common.chosen(options.methods, METHODS, "--methods")
    data = common.open_dataset("hippocampus", LABELS)
    heading("Scoring", {"scans": options.scans, "methods": ", ".join(methods), "threads": options.threads})
    common.RESULTS.mkdir(exist_ok=True)
    (common.RESULTS / ".gitignore").write_text("*\n", encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=common.RESULTS) as name:
        folder, models = Path(name) / "study", Path(name) / "models"
        folder.mkdir()
        make_study(folder, data, options.scans)
        runs = {text: in_new_process(folder, models, methods) for text in ("first", "second")}
    rows = [
        [text, run["scored"], run["seconds"], run["whole"], run["look"], run["peak"], run["early"], run["late"]]
        for text, run in runs.items()
    ]
    head = ["run", "scored", "pass s", "with start s", "look at a click s", "peak MiB", "2nd quarter MiB", "last MiB"]
    print(table(head, rows) + "\n", flush=True)
    first, second = runs["first"], runs["second"]
    targets = Targets()
    targets.expect(first["scored"] >= options.scans - 1 and not first["failed"], "the first run scores every scan")
    targets.expect(second["scored"] == 0 and not second["due"], "the second run has nothing to do")
    targets.expect(second["seconds"] < SECOND_SECONDS, f"the second run takes less than {SECOND_SECONDS:g} s")
    growth = first["late"] - first["early"]
    targets.expect(growth < GROWTH_MIB, f"memory is flat: {growth:+.0f} MiB from the second quarter to the last")
    return targets.exit_code(options.check)


if __name__ == "__main__":
    sys.exit(main())

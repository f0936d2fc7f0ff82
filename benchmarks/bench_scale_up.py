"""Scale up: one large scan, many scans, and a training's memory, all on made-up scans.

``volume``: a CT of 512 x 512 x 600 voxels is labelled after another one that is outlined, with the app's own parts in a
process of its own, then through a server: ``propagate``, ``segment`` (an untrained specialist), ``prompt``, ``review``.
``study``: a server over 200 and over 2000 scans (links to a few files): its start, ``/info/``, the next scan by each
strategy, the start of a batch, its memory. ``training``: memory of the default recipe over 20 and over 100 scans.

Memory is the peak of a process as the kernel counts it (``VmHWM``), Python and libraries included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import common
from common import Targets, heading, table

Result = dict[str, Any]

STAGES = ("volume", "server", "study", "training")
LABELS = ("liver", "spleen", "left_kidney", "right_kidney", "aorta")
SHAPE = (512, 512, 600)
MOST_GIB = 6.0
START_SECONDS = 30.0
INFO_SECONDS = 1.0
STUDY_MIB = 150.0
"""Memory a server over ten times as many scans may hold beyond the smaller one."""
TRAINING_MIB = 200.0
"""Memory a training over five times as many scans may hold beyond the smaller one."""
STRATEGIES = ("random", "template", "highest_entropy", "review", "uniform")
_POINT = [[150, 280, 400]]


# --- made-up scans ----------------------------------------------------------------------------------------------------


def make_large(folder: Path, index: int, shape: tuple[int, int, int], *, outlined: bool) -> None:
    """A phantom of the demo study at the size of a CT, plane by plane, with noise that no compression removes."""
    import nibabel
    import torch

    from lib.setup.demo import make_phantom

    image, label, affine = make_phantom(index)
    small = torch.from_numpy(image.astype(np.float32))
    at = [(np.arange(n) + 0.5) * s / n - 0.5 for n, s in zip(shape, image.shape, strict=True)]
    nearest = [np.clip(np.rint(p), 0, s - 1).astype(int) for p, s in zip(at, image.shape, strict=True)]
    large = np.empty(shape, dtype=np.int16, order="F")
    labels = np.empty(shape, dtype=np.uint8, order="F")
    random = np.random.default_rng(index)
    for k, position in enumerate(np.clip(at[2], 0, image.shape[2] - 1)):
        low = int(position)
        mixed = torch.lerp(small[:, :, low], small[:, :, min(low + 1, image.shape[2] - 1)], position - low)
        plane = torch.nn.functional.interpolate(mixed[None, None], size=shape[:2], mode="bilinear")[0, 0]
        large[:, :, k] = plane.numpy() + random.integers(-15, 16, shape[:2])
        labels[:, :, k] = label[:, :, nearest[2][k]][np.ix_(nearest[0], nearest[1])]
    ratio = [s / n for n, s in zip(shape, image.shape, strict=True)]
    finer = affine @ np.diag([*ratio, 1.0])
    finer[:3, 3] = affine[:3, 3] + affine[:3, :3] @ (np.array(ratio) / 2 - 0.5)
    nibabel.save(nibabel.Nifti1Image(large, finer), folder / f"large_{index}.nii.gz")
    place = folder / "labels" / "final" if outlined else folder / "truth"
    place.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels, finer), place / f"large_{index}.nii.gz")


def make_many(folder: Path, count: int) -> None:
    """A study of ``count`` small phantoms, links to eight different ones; the first is outlined."""
    import nibabel

    from lib.setup.demo import make_phantom

    final = folder / "labels" / "final"
    final.mkdir(parents=True)
    sources = folder / ".sources"
    sources.mkdir()
    for number in range(8):
        image, label, affine = make_phantom(number)
        part = (slice(None, None, 2),) * 3
        coarse = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(image[part], coarse), sources / f"{number}.nii.gz")
        if number == 0:
            nibabel.save(nibabel.Nifti1Image(label[part], coarse), final / "scan_00000.nii.gz")
    for number in range(count):
        (folder / f"scan_{number:05d}.nii.gz").hardlink_to(sources / f"{number % 8}.nii.gz")


def publish_untrained(app_models: Path, study: Path, spacing: float, roi: int) -> None:
    """An untrained specialist in service of a study: it is as fast as a trained one."""
    from lib.core.labels import LabelSchema
    from lib.setup.settings import Settings
    from lib.specialists import SpecialistSpec, build_network, save_specialist
    from server.store.folder_store import StudyDatastore
    from server.store.study import Study

    owner = Study(str(study), StudyDatastore(str(study)), Settings(labels=LabelSchema(LABELS)), app_models)
    spec = SpecialistSpec(LABELS, (8, 16, 32), (spacing,) * 3, (roi,) * 3)
    save_specialist(owner.published, spec, [build_network(spec)])


# --- one large scan ---------------------------------------------------------------------------------------------------


def label_large(folder: Path) -> Result:
    """Read, propagate, bring back and write, with CPU seconds of each step."""
    import torch

    from lib.core.labels import LabelSchema
    from lib.core.metrics import mean_dice
    from lib.formats.label_files import read_label
    from lib.formats.volumes import read_volume, write_label
    from lib.generalists import create_generalist
    from lib.propagation import Template, create_propagator, propagate_from

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    schema = LabelSchema(LABELS)
    libraries = common.peak_mib()
    times = [time.process_time()]
    begun = time.perf_counter()
    outlined = read_volume(folder / "large_0.nii.gz")
    template = Template(
        "large_0", outlined, read_label(folder / "labels" / "final" / "large_0.nii.gz", outlined, schema)
    )
    scan = read_volume(folder / "large_1.nii.gz")
    times.append(time.process_time())
    soft = propagate_from(
        [template],
        scan,
        schema.channels,
        generalist=create_generalist("mind"),
        propagator=create_propagator("registration"),
    )
    times.append(time.process_time())
    label = soft.labels()
    times.append(time.process_time())
    write_label(folder / "truth" / "answer.nii.gz", label, scan.affine)
    times.append(time.process_time())
    seconds, peak = time.perf_counter() - begun, common.peak_mib()
    truth = read_label(folder / "truth" / "large_1.nii.gz", scan, schema)
    steps = dict(zip(("read both", "propagate", "to labels", "write"), np.diff(times).tolist(), strict=True))
    return {
        **steps,
        "seconds": seconds,
        "libraries": libraries,
        "peak": peak,
        "dice": mean_dice(label, truth, schema.count),
    }


def volume(folder: Path, targets: Targets) -> None:
    """Propagation between two large scans, in a process of its own."""
    found = in_new_process("label_large", str(folder))
    heading("One large scan", {"voxels": " x ".join(map(str, SHAPE)), "threads": os.environ["OMP_NUM_THREADS"]})
    steps = ("read both", "propagate", "to labels", "write")
    print(table(["CPU seconds", *steps, "wall s", "libraries MiB", "peak MiB", "Dice"], [_row(found, steps)]) + "\n")
    gib = found["peak"] / 1024
    targets.expect(gib <= MOST_GIB, f"a large scan propagates within {MOST_GIB:g} GiB: {gib:.2f}")


def _row(found: Result, steps: tuple[str, ...]) -> list[object]:
    return [
        "propagate",
        *[found[s] for s in steps],
        found["seconds"],
        found["libraries"],
        found["peak"],
        found["dice"],
    ]


def serve_large(folder: Path, targets: Targets) -> None:
    """The infer tasks on a large scan, as a client sees them."""
    from startserver import Server

    with tempfile.TemporaryDirectory(dir=common.RESULTS) as name:
        place = Path(name)
        publish_untrained(place / "app" / "model" / "semisam", folder, 3.0, 64)
        rows: list[list[object]] = []
        with Server(place / "app", folder, _conf(), place / "log.txt") as server:
            started = server.memory()
            store = {"save_label": True, "label_tag": "original"}
            inside = {"label": "liver", "foreground": _POINT}
            asked: tuple[tuple[str, str, Result], ...] = (
                ("propagate", "propagate", store),
                ("segment", "segment", {}),
                ("prompt, first click", "prompt", inside),
                (
                    "prompt, second",
                    "prompt",
                    {"label": "liver", "foreground": _POINT, "background": [[10, 10, 10]]},
                ),
                ("review", "review", {}),
            )
            for text, model, params in asked:
                begun, before = time.perf_counter(), server.cpu_seconds()
                server.ask_label(model, "large_1", {**params, "result_extension": ".nrrd"})
                seconds, cpu = time.perf_counter() - begun, server.cpu_seconds() - before
                rows.append([text, seconds, cpu, *server.memory()])
    heading("A large scan through the server", {"after the start, MiB": f"{started[0]:.0f}"})
    print(table(["task", "seconds", "CPU s", "MiB after", "peak MiB so far"], rows) + "\n")
    gib = max(float(str(row[4])) for row in rows) / 1024
    targets.expect(gib <= MOST_GIB, f"the server answers for a large scan within {MOST_GIB:g} GiB: {gib:.2f}")


def _conf() -> dict[str, str]:
    return {"labels": ",".join(LABELS)}


# --- many scans -------------------------------------------------------------------------------------------------------


def serve_study(count: int) -> Result:
    """A server over ``count`` scans: how long it takes to start and to answer, and what it holds."""
    from startserver import Server

    with tempfile.TemporaryDirectory(dir=common.RESULTS) as name:
        place = Path(name)
        study = place / "study"
        make_many(study, count)
        begun = time.perf_counter()
        with Server(place / "app", study, _conf(), place / "log.txt", poll=0.1) as server:
            found: Result = {"scans": count, "start": time.perf_counter() - begun}
            found["start, CPU"] = server.cpu_seconds()
            found["memory at start"] = server.memory()[0]
            found["info"] = server.seconds("/info/")
            found["info again"] = server.seconds("/info/")
            found["datastore"] = server.seconds("/datastore/?output=all")
            for strategy in STRATEGIES:
                for text in ("", " again"):
                    begun, before = time.perf_counter(), server.cpu_seconds()
                    server.post(f"/activelearning/{strategy}", {"client_id": "bench"})
                    found[strategy + text] = time.perf_counter() - begun
                    found[f"{strategy}{text}, CPU"] = server.cpu_seconds() - before
            begun = time.perf_counter()
            server.post("/batch/infer/propagate?images=unlabeled&run_sync=false", {"max_batch_size": 2})
            found["batch start"] = time.perf_counter() - begun
            found["info in a batch"] = server.seconds("/info/")
            found["memory"], found["peak"] = server.memory()
        begun = time.perf_counter()
        with Server(place / "app", study, _conf(), place / "log.txt", poll=0.1) as server:
            found["second start"] = time.perf_counter() - begun
            found["second start, CPU"] = server.cpu_seconds()
    return found


def many(counts: tuple[int, int], targets: Targets) -> None:
    """The same figures for a small and a large study, side by side."""
    few, most = (serve_study(count) for count in counts)
    heading("A study of many scans")
    names = [name for name in few if name != "scans"]
    rows = [[name, few[name], most[name]] for name in names]
    print(table(["seconds; memory in MiB", *[f"{n} scans" for n in counts]], rows) + "\n", flush=True)
    for name in ("start", "second start"):
        targets.expect(most[name] < START_SECONDS, f"{name} over {counts[1]} scans: {most[name]:.1f} s")
    for name in ("info", "info again", "info in a batch"):
        targets.expect(most[name] < INFO_SECONDS, f"{name} over {counts[1]} scans: {most[name]:.2f} s")
    growth = most["peak"] - few["peak"]
    targets.expect(growth < STUDY_MIB, f"the server's memory is flat: {growth:+.0f} MiB")


# --- training ---------------------------------------------------------------------------------------------------------


def train_many(place: Path, count: int) -> Result:
    """The default recipe over ``count`` scans with a few steps of training; memory after each round."""
    import torch

    from lib.core.labels import LabelSchema
    from lib.generalists import create_generalist
    from lib.propagation import create_propagator
    from lib.recipes import Case, RecipeOptions, RecipeSettings, SilentObserver, run_recipe

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    study = place / f"study_{count}"
    make_many(study, count)
    first = study / "labels" / "final" / "scan_00000.nii.gz"
    names = [f"scan_{n:05d}" for n in range(count)]
    cases = [Case(n, study / f"{n}.nii.gz", first if n == names[0] else None) for n in names]
    peaks: list[float] = []

    class Watch(SilentObserver):
        def round_finished(self, finished: object) -> None:
            peaks.append(common.peak_mib())

    begun = time.process_time()
    run_recipe(
        cases,
        LabelSchema(LABELS),
        RecipeOptions(preset="quick", rounds=2, max_epochs=1),
        RecipeSettings(),
        generalist=create_generalist("mind"),
        propagator=create_propagator("prototype"),
        folder=place / f"run_{count}",
        observer=Watch(),
    )
    return {"scans": count, "peaks": peaks, "cpu": time.process_time() - begun}


def training(counts: tuple[int, int], targets: Targets) -> None:
    """The peak memory of a training over few and over many scans."""
    with tempfile.TemporaryDirectory(dir=common.RESULTS) as name:
        runs = [in_new_process("train_many", name, count) for count in counts]
    heading("Memory of a training")
    rounds = range(len(runs[0]["peaks"]))
    rows = [[f"{run['scans']} scans", *run["peaks"], run["cpu"]] for run in runs]
    print(table(["peak MiB", *[f"round {n}" for n in rounds], "CPU s"], rows) + "\n", flush=True)
    growth = runs[1]["peaks"][-1] - runs[0]["peaks"][-1]
    targets.expect(growth < TRAINING_MIB, f"a training's memory is flat: {growth:+.0f} MiB for {counts[1]} scans")


# --- the whole --------------------------------------------------------------------------------------------------------


def in_new_process(work: str, place: str, *extra: int) -> Result:
    """Do some work in a process of its own, so that its memory is its own."""
    command = [sys.executable, str(Path(__file__)), "--work", json.dumps([work, place, *extra])]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: Result = json.loads(out.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    common.add_stage_options(parser, STAGES)
    parser.add_argument("--scans", type=int, default=2000, help="of the large study (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=common.THREADS, help="CPU threads (default: %(default)s)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work, place, *extra = json.loads(options.work)
        print(json.dumps(label_large(Path(place)) if work == "label_large" else train_many(Path(place), *extra)))
        return 0
    os.environ.update(common.limit_threads(options.threads))
    common.end_on_sigterm()
    common.RESULTS.mkdir(exist_ok=True)
    (common.RESULTS / ".gitignore").write_text("*\n", encoding="utf-8")
    stages, targets = common.chosen(options.stages, STAGES, "--stages"), Targets()
    if "volume" in stages or "server" in stages:
        with tempfile.TemporaryDirectory(dir=common.RESULTS) as name:
            folder = Path(name)
            for index in range(2):
                make_large(folder, index, SHAPE, outlined=index == 0)
            if "volume" in stages:
                volume(folder, targets)
            if "server" in stages:
                serve_large(folder, targets)
    if "study" in stages:
        many((max(1, options.scans // 10), options.scans), targets)
    if "training" in stages:
        training((20, 100), targets)
    return targets.exit_code(options.check)


if __name__ == "__main__":
    sys.exit(main())

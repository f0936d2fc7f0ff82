"""One outlined template, many scans: our propagators and peers on the same scans, in the same run, interleaved."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel
import numpy as np

import common
import methods
from common import DataSet, Store, Targets, cell, heading, table

Result = dict[str, Any]

RUN = time.strftime("%Y-%m-%d %H:%M:%S")
"""When this run began: results of one run are measured side by side."""

# MONAI's distances call their own deprecated argument.
warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*")


class Worker:
    """A method's process; started when first needed, again when it died."""

    def __init__(self, method: str, data: DataSet, template: str, grid: Sequence[int] | None, log: Path) -> None:
        self._task = json.dumps(
            {
                "method": method,
                "image": str(data.image(template)),
                "label": str(data.label(template)),
                "labels": data.labels,
                "grid": grid,
            }
        )
        self._log = log.open("ab")
        self._process: subprocess.Popen[str] | None = None

    def ask(self, image: Path, out: Path) -> Result:
        """Label a scan into ``out`` (npy); the reply has ``seconds`` and ``peak_mib``, or ``error``."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("worker.py")), self._task],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=common.limit_threads(),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"image": str(image), "out": str(out)}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._process = None
            return {"error": f"the process ended with code {code}; see {self._log.name}"}
        reply: Result = json.loads(line)
        return reply

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
        self._log.close()


def compare(
    data: DataSet,
    scans: Sequence[str],
    names: Sequence[str],
    *,
    template: str,
    grid: Sequence[int] | None,
    store: Store,
) -> dict[str, dict[str, Result]]:
    """Measure every method on every scan, or take what an earlier run of the same code measured.

    Returns:
        method -> scan -> ``labels`` (list of dice, jaccard, hd95_mm, assd_mm a structure), ``seconds``, ``peak_mib``;
        or ``error``.
    """
    found: dict[str, dict[str, Result]] = {}
    for name in names:
        version = f"{methods.version(name)} {template} {grid}"
        kept = store.data.setdefault(name, {"version": version, "scans": {}})
        if kept["version"] != version:
            print(f"{name}: changed since the last run, measured anew")
            kept.update(version=version, scans={})
        found[name] = kept["scans"]
    missing = [scan for scan in scans if any(scan not in found[name] for name in names)]
    if len(missing) < len(scans):
        print(f"{len(scans) - len(missing)} of {len(scans)} scans were measured by an earlier run ({store.path.name})")
    workers = {name: Worker(name, data, template, grid, _log_file(store.path, name)) for name in names if missing}
    begun = time.monotonic()
    try:
        for index, scan in enumerate(missing):
            # Another method goes first each time, so that warm caches and noise of the machine hit all alike.
            turn = index % len(names)
            for name in [*names[turn:], *names[:turn]]:
                if scan not in found[name]:
                    found[name][scan] = _measure(workers[name], data, scan)
                    store.save()
            left = (time.monotonic() - begun) / (index + 1) * (len(missing) - index - 1)
            line = "  ".join(f"{name} {_brief(found[name][scan])}" for name in names)
            print(f"[{index + 1}/{len(missing)}] {scan}: {line}  ({left / 60:.0f} min left)", flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    return {name: {scan: found[name][scan] for scan in scans} for name in names}


def _log_file(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.stem}-{name}.log")


def _measure(worker: Worker, data: DataSet, scan: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "label.npy"
        reply = worker.ask(data.image(scan), out)
        if "error" in reply:
            return reply
        return {**reply, "labels": evaluate(np.load(out), data, scan), "run": RUN}


def evaluate(prediction: np.ndarray, data: DataSet, scan: str) -> list[dict[str, float | None]]:
    """Scores of a label map on the scan's own grid, a dict a structure; distances in mm, None where there is none."""
    from lib.core.metrics import score

    image = nibabel.load(data.label(scan))
    truth = np.asarray(image.dataobj)
    spacing = [float(s) for s in image.header.get_zooms()[:3]]
    return [
        {
            "dice": s.dice,
            "jaccard": s.jaccard,
            "hd95_mm": None if s.missed else s.hd95_mm,
            "assd_mm": None if s.missed else s.assd_mm,
        }
        for s in (score(prediction == n, truth == n, spacing) for n in range(1, len(data.labels) + 1))
    ]


def _brief(result: Result) -> str:
    return "failed" if "error" in result else f"{scan_dice(result):.3f} {result['seconds']:.1f}s"


def scan_dice(result: Result) -> float:
    """Mean Dice over the structures of a scan."""
    return statistics.fmean(one["dice"] for one in result["labels"])


def mean_of(results: Sequence[Result], key: str, label: int | None = None) -> float:
    """Mean of one figure over scans and structures (or one structure, counted from 0); NaN when there is none."""
    values = [
        one[key]
        for result in results
        for index, one in enumerate(result["labels"])
        if (label is None or index == label) and one[key] is not None
    ]
    return statistics.fmean(values) if values else float("nan")


HEAD = ("Dice", "Jaccard", "HD95 mm", "ASSD mm", "missed")


def quality_cells(results: Sequence[Result], label: int | None = None) -> list[object]:
    """The cells under ``HEAD``; ``missed`` counts structures without a distance (found or there, but not both)."""
    missed = sum(
        one["assd_mm"] is None for r in results for n, one in enumerate(r["labels"]) if label is None or n == label
    )
    return [*(mean_of(results, key, label) for key in ("dice", "jaccard", "hd95_mm", "assd_mm")), missed]


def report(data: DataSet, found: dict[str, dict[str, Result]]) -> None:
    """Print the table of all methods, one table a structure if there are several, and the paired differences."""
    for text in tables(data, found):
        print()
        print(text)
    if not same_run(found):
        print("\nSome methods were measured in another run than others: compare no times (--fresh measures all anew).")
    errors = [(n, s, r["error"]) for n, rs in found.items() for s, r in rs.items() if "error" in r]
    for name, scan, error in errors[:10]:
        print(f"failed: {name} on {scan}: {error}")


def measured(results: Mapping[str, Result]) -> list[Result]:
    """The results that are no failures."""
    return [result for result in results.values() if "error" not in result]


def same_run(found: Mapping[str, Mapping[str, Result]]) -> bool:
    """Whether every scan went through all methods in one run, so that their times can be compared."""
    first = found[next(iter(found))]
    return all(len({results[scan].get("run") for results in found.values()}) == 1 for scan in first)


def tables(data: DataSet, found: dict[str, dict[str, Result]]) -> list[str]:
    """Markdown tables: all methods, one a structure if there are several, and the paired differences."""
    rows: list[list[object]] = []
    good = {name: measured(results) for name, results in found.items()}
    for name, results in good.items():
        failed = len(found[name]) - len(results)
        if not results:
            rows.append([name, 0, failed, *[None] * (len(HEAD) + 3)])
            continue
        seconds = [r["seconds"] for r in results]
        peak = f"{max(r['peak_mib'] for r in results):.0f}"
        times = [statistics.median(seconds), statistics.fmean(seconds)]
        rows.append([name, len(results), failed, *quality_cells(results), *times, peak])
    made = [table(["method", "scans", "failed", *HEAD, "s/scan median", "s/scan mean", "peak MiB"], rows)]
    if len(data.labels) > 1:
        for index, label in enumerate(data.labels):
            rows = [[name, *quality_cells(good[name], index)] for name in good if good[name]]
            made.append(table([label, *HEAD], rows))
    first = next(iter(found))
    rows = []
    for name in list(found)[1:]:
        differences = paired(found, first, name)
        if not differences:
            continue
        spread = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
        better = sum(d > 0 for d in differences)
        gain = statistics.fmean(differences)
        rows.append([name, len(differences), f"{gain:+.4f}", spread, f"{better} of {len(differences)}"])
    if rows:
        made.append(table([f"{first} against", "pairs", "Dice gain", "standard error", "better"], rows))
    return made


def paired(found: dict[str, dict[str, Result]], one: str, other: str) -> list[float]:
    """Differences in Dice (``one`` minus ``other``) over the scans that both labelled."""
    return [
        scan_dice(result) - scan_dice(found[other][scan])
        for scan, result in found[one].items()
        if "error" not in result and "error" not in found[other][scan]
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the propagation stage."""
    group = parser.add_argument_group("propagation")
    group.add_argument("--methods", default=",".join((*methods.OURS, *methods.PEERS)), help="comma list (default: all)")
    group.add_argument("--scans", type=int, help="use the first so many scans only (training: unlabelled ones)")
    group.add_argument("--only-val", action="store_true", help="measure the propagation on the scans of val only")


def choose_scans(data: DataSet, options: argparse.Namespace) -> list[str]:
    """All scans but the template, or those that the options leave."""
    split = data.split()
    scans = split["val"] if options.only_val else [*split["train"][1:], *split["val"]]
    return scans[: options.scans]


def stage(
    data: DataSet,
    scans: Sequence[str],
    names: Sequence[str],
    *,
    grid: Sequence[int] | None,
    fresh: bool,
) -> dict[str, dict[str, Result]]:
    """Run and print the whole comparison; the template is the first of ``train``. Peers not installed are left out."""
    absent = [name for name in names if name in methods.PEERS and methods.package(name) is None]
    if absent:
        print(f"Skipped: {', '.join(absent)}: not installed (`make install-bench` installs the peers).")
    names = [name for name in names if name not in absent]
    template = data.split()["train"][0]
    grid_text = "x".join(map(str, grid)) if grid else "the template's own"
    facts = {"template": template, "scans": len(scans), "threads": common.THREADS, "grid of convexadam": grid_text}
    heading(f"Propagation, {data.name}", facts)
    store = Store(common.RESULTS / data.name / "propagation.json", fresh=fresh)
    found = compare(data, scans, names, template=template, grid=grid, store=store)
    report(data, found)
    return found


def check_peers(
    found: dict[str, dict[str, Result]],
    targets: Targets,
    *,
    level: float = 0.005,
    faster: Mapping[str, float] = MappingProxyType({"itk-elastix": 1.0}),
) -> None:
    """Targets of ``registration`` against the peers that were measured.

    Args:
        found: see ``compare``.
        targets: are stated there.
        level: how far our Dice may be below that of convexadam; it may not be below that of the others.
        faster: how many times as fast as a peer we have to be; median of the scans that both labelled.
    """
    if "registration" not in found:
        return
    ours = found["registration"]
    targets.expect(len(measured(ours)) == len(ours), "registration labels every scan")
    for peer in methods.PEERS:
        gains = paired(found, "registration", peer) if peer in found else []
        if not gains:
            continue
        mean = statistics.fmean(gains)
        within = level if peer == "convexadam" else 0.0
        allowed = f" (within {within:g})" if within else ""
        targets.expect(mean >= -within, f"level with {peer} in Dice or better{allowed}: {mean:+.4f}")
        if peer in faster:
            both = [scan for scan in ours if "error" not in ours[scan] and "error" not in found[peer][scan]]
            own, other = (
                statistics.median(results[scan]["seconds"] for scan in both) for results in (ours, found[peer])
            )
            wanted = "as fast as" if faster[peer] == 1 else f"{faster[peer]:g} times as fast as"
            text = f"at least {wanted} {peer}: {cell(own)} s against {cell(other)} s, {other / own:.1f} times"
            targets.expect(other >= faster[peer] * own, text)

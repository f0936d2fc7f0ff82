"""Left atrium, one outlined scan: propagation next to peers, geometry, and training through the server.

Needs the scans in ``../shared/data/la`` (or ``$SEMISAM_DATA/la``); ends with a message and exit code 0 without them.
An interrupted run goes on where it was when it is started again; ``--fresh`` measures everything anew.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import common
import geometry
import methods
import propagation
import training

STAGES = ("propagation", "geometry", "training")
GRID = (112, 80, 48)
"""Common grid of convexadam on these scans (about half their resolution)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_stage_options(parser, STAGES)
    propagation.add_options(parser)
    training.add_options(parser, preset="standard", conf=["labels=left_atrium"], limit_minutes=180, ablation=False)
    parser.add_argument("--geometry-scans", type=int, default=5, help="scans of val in the geometry stage")
    options = parser.parse_args()
    common.end_on_sigterm()
    stages = common.chosen(options.stages, STAGES, "--stages")
    data = common.open_dataset("la", ["left_atrium"])
    split = data.split()
    targets = common.Targets()

    if "propagation" in stages:
        scans = propagation.choose_scans(data, options)
        names = common.chosen(options.methods, (*methods.OURS, *methods.PEERS), "--methods")
        found = propagation.stage(data, scans, names, grid=GRID, fresh=options.fresh)
        print()
        ours = [r for r in found.get("registration", {}).values() if "error" not in r]
        if ours:
            dice = propagation.mean_of(ours, "dice")
            seconds = statistics.median(r["seconds"] for r in ours)
            peak = max(r["peak_mib"] for r in ours)
            targets.expect(dice >= 0.79, f"mean Dice of registration at least 0.79: {dice:.4f}")
            targets.expect(seconds <= 6, f"median at most 6 s a scan: {seconds:.2f} s")
            targets.expect(peak <= 4096, f"peak memory at most 4 GiB: {peak:.0f} MiB")
        propagation.check_peers(found, targets)
    if "geometry" in stages:
        lost = geometry.stage(data, split["val"][: options.geometry_scans], fresh=options.fresh, targets=targets)
        if lost and not options.check:
            return 1
    if "training" in stages:
        outcome = training.stage(data, options)
        print()
        targets.expect(
            outcome.specialist_gain >= 0.03,
            f"specialist beats propagation on val by at least 0.03 Dice: {outcome.specialist_gain:+.4f}",
        )
    return targets.exit_code(options.check)


if __name__ == "__main__":
    sys.exit(main())

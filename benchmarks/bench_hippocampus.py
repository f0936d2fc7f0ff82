"""Hippocampus, one outlined scan: propagation next to peers, training through the server, refinement on and off.

Needs the scans in ``../shared/data/hippocampus`` (or ``$SEMISAM_DATA/hippocampus``); ends with a message and exit
code 0 without them. An interrupted run goes on where it was when it is started again; ``--fresh`` measures everything
anew.
"""

from __future__ import annotations

import argparse
import sys

import common
import methods
import propagation
import training

STAGES = ("propagation", "training")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_stage_options(parser, STAGES)
    propagation.add_options(parser)
    training.add_options(parser, preset="quick", conf=["labels=anterior,posterior"], limit_minutes=60, ablation=True)
    options = parser.parse_args()
    common.end_on_sigterm()
    stages = common.chosen(options.stages, STAGES, "--stages")
    data = common.open_dataset("hippocampus", ["anterior", "posterior"])
    targets = common.Targets()

    if "propagation" in stages:
        scans = propagation.choose_scans(data, options)
        names = common.chosen(options.methods, (*methods.OURS, *methods.PEERS), "--methods")
        found = propagation.stage(data, scans, names, grid=None, fresh=options.fresh)
        print()
        propagation.check_peers(found, targets)
    if "training" in stages:
        outcome = training.stage(data, options)
        print()
        targets.expect(
            outcome.specialist_gain >= 0.02,
            f"specialist beats propagation on val by at least 0.02 Dice: {outcome.specialist_gain:+.4f}",
        )
        targets.expect(
            outcome.pseudo_label_gain >= 0.02,
            f"final pseudo-labels beat the propagation's by at least 0.02 Dice: {outcome.pseudo_label_gain:+.4f}",
        )
        for number, gain in sorted(outcome.refinement_gains.items()):
            targets.expect(gain >= 0, f"refinement does not lower pseudo-label Dice in round {number}: {gain:+.4f}")
        if not outcome.refinement_gains:
            targets.expect(False, "refinement does not lower pseudo-label Dice: no predictions before it were kept")
        if options.preset == "quick" and outcome.unlabelled == 39 and not (options.rounds or options.max_epochs):
            minutes = outcome.seconds / 60
            targets.expect(minutes <= 10, f"quick ends within 10 minutes with 40 scans: {minutes:.1f} min")
    return targets.exit_code(options.check)


if __name__ == "__main__":
    sys.exit(main())

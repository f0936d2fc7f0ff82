"""Selection on real scans: the scan to outline first, the estimate of a pseudo-label's quality, and active learning.

    python benchmarks/bench_selection.py --stages template --data hippocampus --scans 40
    python benchmarks/bench_selection.py --stages quality --data hippocampus --run FOLDER_OF_A_TRAINING_RUN
    python benchmarks/bench_selection.py --stages simulate --data hippocampus --scans 60 --steps 100 \
        --picture docs/pictures/selection-simulated.svg

Truth is used to score, and in ``simulate`` as what a person would draw on the scans that are picked. An interrupted
benchmark goes on where it was when it is started again; ``--minutes`` ends it early, with what is there.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
from common import DataSet, Store, heading, table

if TYPE_CHECKING:
    from torch import Tensor

os.environ.update(common.limit_threads(int(os.environ.get("OMP_NUM_THREADS", common.THREADS))))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DATA = {"la": ("left_atrium",), "hippocampus": ("anterior", "posterior")}
STAGES = ("template", "quality", "simulate")
STRATEGIES = (
    "uniform",
    "least_confidence",
    "highest_entropy",
    "highest_entropy_ratio",
    "representativeness",
    "recommended",
)
RANDOM_TEMPLATES = 10
ROUNDS, PER_ROUND = 5, 2
DOUBTFUL_SHARE = 0.25
STEPS_OF_AN_EPOCH = 20
WORST = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_stage_options(parser, STAGES)
    parser.add_argument("--data", choices=list(DATA), default="hippocampus", help="data set (default: hippocampus)")
    parser.add_argument("--scans", type=int, help="so many targets, pseudo-labels or unlabelled scans (default: all)")
    parser.add_argument("--run", type=Path, help="quality: folder of a training run (default: propagate)")
    parser.add_argument("--reverse", action="store_true", help="quality: reverse propagation too")
    parser.add_argument("--steps", type=int, default=100, help="simulate: optimiser steps of a training (default: 100)")
    parser.add_argument("--seeds", default="0,1,2", help="simulate: comma list (default: 0,1,2)")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="simulate: comma list (default: all)")
    parser.add_argument("--picture", type=Path, help="simulate: SVG file (default: beside the results)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing new after so many minutes")
    options = parser.parse_args()
    common.end_on_sigterm()
    logging.basicConfig(level=logging.WARNING)
    stages = common.chosen(options.stages, STAGES, "--stages")
    data = common.open_dataset(options.data, DATA[options.data])
    bench = Bench(data, options, Deadline(time.monotonic() + options.minutes * 60))
    targets = common.Targets()
    for stage in stages:
        getattr(bench, stage)(targets)
    return targets.exit_code(options.check)


@dataclass
class Deadline:
    """When to stop, and what to say about it meanwhile.

    Args:
        end: by the monotonic clock.
    """

    end: float

    def __post_init__(self) -> None:
        self._begun, self._done, self._told = time.monotonic(), 0, 0.0

    def over(self) -> bool:
        """Whether nothing new should begin."""
        return time.monotonic() > self.end

    def begin(self) -> None:
        """A stage begins."""
        self._begun, self._done = time.monotonic(), 0

    def done(self, left: int, what: str) -> None:
        """One unit is done, ``left`` are to do: says at times how long that takes."""
        self._done += 1
        now = time.monotonic()
        if now - self._told > 20 or left == 0:
            self._told = now
            minutes = (now - self._begun) / self._done * left / 60
            print(f"{what}: {left} left, about {minutes:.1f} min", flush=True)


class Bench:
    """The stages.

    Args:
        data: the scans.
        options: of the command line.
        deadline: when to stop.
    """

    def __init__(self, data: DataSet, options: argparse.Namespace, deadline: Deadline) -> None:
        from lib.generalists.mind import Mind
        from lib.labels import LabelSchema
        from lib.memory import keep_freed_memory

        keep_freed_memory()
        self._data, self._options, self._deadline = data, options, deadline
        self._schema = LabelSchema(data.labels)
        self._mind = Mind()
        self._train = data.split()["train"]
        self._work = common.RESULTS / data.name / "selection"

    # --- the scan to outline first ------------------------------------------------------------------------------------

    def template(self, targets: common.Targets) -> None:
        """Propagate from the most representative scan and from random ones to the others of ``train``."""
        from lib.propagation import create_propagator

        heading(f"The scan to outline first, {self._data.name}")
        store = self._store("template")
        order = self._by_representativeness()
        best = order[0]
        others = random.Random(0).sample([n for n in self._train if n != best], RANDOM_TEMPLATES)
        to = _some(self._train, self._options.scans)
        pairs = [(t, x) for x in to for t in (best, *others) if t != x and f"{t} {x}" not in store.data]
        propagator = create_propagator("registration")
        templates: dict[str, Any] = {}
        self._deadline.begin()
        for number, (name, target) in enumerate(pairs, start=1):
            if self._deadline.over():
                break
            if name not in templates:
                templates[name] = self._outlined(name)
            soft = propagator.propagate(templates[name], self._scan(target), self._schema.channels, self._mind)
            store.data[f"{name} {target}"] = self._dice(target, soft.labels())
            store.save()
            self._deadline.done(len(pairs) - number, "template")
        # Only targets that all templates were carried over to: else the templates would be compared on other scans.
        complete = [x for x in to if all(t == x or f"{t} {x}" in store.data for t in (best, *others))]
        if not complete:
            print("No target is complete yet.")
            return
        scores = {
            t: statistics.fmean(store.data[f"{t} {x}"] for x in complete if x != t)
            for t in (best, *others)
            if any(x != t for x in complete)
        }
        randoms = [scores[t] for t in others if t in scores]
        rows = [
            [f"(a) picked: {best}", scores[best]],
            [f"(b) mean over {len(randoms)} random", statistics.fmean(randoms)],
            ["(c) best random", max(randoms)],
            ["    worst random", min(randoms)],
        ]
        print(table([f"template ({len(complete)} targets)", "mean Dice"], rows))
        gain = scores[best] - statistics.fmean(randoms)
        targets.expect(gain >= 0.01, f"{self._data.name}: the picked template beats random ones by 0.01: {gain:+.4f}")

    def _by_representativeness(self) -> list[str]:
        """Names of ``train``, the most representative first; prints what that costs."""
        from lib.selection import representativeness

        rows = self._descriptors(self._train)
        typical = representativeness(rows)
        return [self._train[n] for n in sorted(range(len(rows)), key=lambda n: (-float(typical[n]), self._train[n]))]

    def _descriptors(self, names: Sequence[str]) -> Any:
        import torch

        from lib.selection import describe

        begun = time.process_time()
        rows = torch.stack([describe(self._scan(name), self._mind) for name in names])
        print(f"Descriptors: {(time.process_time() - begun) / len(names):.3f} CPU s a scan, with reading", flush=True)
        return rows

    # --- is this pseudo-label good? -----------------------------------------------------------------------------------

    def quality(self, targets: common.Targets) -> None:
        """Estimate the Dice of every pseudo-label and compare with the truth."""
        heading(f"Quality of pseudo-labels, {self._data.name}", {"run": self._options.run or "propagation only"})
        store = self._store("quality", str(self._options.run), f"reverse {self._options.reverse}")
        run = self._options.run
        last, human = (None, self._train[0]) if run is None else _last_round(run)
        outlined = self._outlined(human)
        names = [n for n in _some(self._train, self._options.scans) if n != human]
        todo = [n for n in names if n not in store.data]
        self._deadline.begin()
        for number, name in enumerate(todo, start=1):
            if self._deadline.over():
                break
            row = self._estimate(name, outlined, last)
            if row is not None:
                store.data[name] = row
                store.save()
            self._deadline.done(len(todo) - number, "quality")
        rows = [store.data[name] for name in names if name in store.data]
        if len(rows) < 10:
            print("Too few pseudo-labels.")
            return
        self._report_quality(rows, targets)

    def _estimate(self, name: str, outlined: Any, last: Path | None) -> dict[str, float] | None:
        import numpy as np
        import torch

        from lib.selection import doubt_of, estimate_quality, reverse_dice, shapes_of
        from lib.volumes import read_label

        scan, count = self._scan(name), self._schema.count
        opinions = []
        if last is None:
            from lib.propagation import create_propagator

            found = [
                create_propagator(p).propagate(outlined, scan, self._schema.channels, self._mind)
                for p in ("registration", "prototype")
            ]
            label, opinions = found[0].labels(), [found[1].labels()]
            probabilities: Tensor | None = found[0].probabilities
        else:
            file = next(iter(last.glob(f"?????-{name}.nii.gz")), None)
            if file is None:
                return None
            label = read_label(file, scan, self._schema, may_be_empty=True)
            soft = last / f"{file.name.removesuffix('.nii.gz')}.npz"
            probabilities = torch.from_numpy(np.load(soft)["probabilities"]).float() if soft.is_file() else None
            for other in sorted(last.parent.iterdir()):
                if other != last and (other / file.name).is_file():
                    opinions.append(read_label(other / file.name, scan, self._schema, may_be_empty=True))
        reverse = [reverse_dice(label, scan, outlined, count, self._mind)] if self._options.reverse else []
        found_quality = estimate_quality(
            label,
            scan,
            count,
            opinions=opinions,
            probabilities=probabilities,
            humans=[shapes_of(outlined.label, outlined.scan, count)],
            reverse=reverse,
        )
        row = {"true": self._dice(name, label), "estimate": found_quality.raw}
        row |= {f"signal {k}": statistics.fmean(v) for k, v in found_quality.signals.items()}
        if probabilities is not None:
            row |= {f"doubt {k}": -v for k, v in vars(doubt_of(probabilities, 0.75)).items()}
        return row

    def _report_quality(self, rows: Sequence[dict[str, float]], targets: common.Targets) -> None:
        from lib.selection import Calibration

        truth = [row["true"] for row in rows]
        lines = []
        for column in sorted({column for row in rows for column in row} - {"true"}, key=lambda c: (" " in c, c)):
            values = [row[column] for row in rows]
            lines.append([column, _spearman(values, truth), _worst_found(values, truth)])
        print(table([f"{len(rows)} pseudo-labels", "Spearman", f"worst {WORST:.0%} found"], lines))
        raw = [row["estimate"] for row in rows]
        print(f"\nTrue Dice {statistics.fmean(truth):.4f}, estimate {statistics.fmean(raw):.4f}; mean error:")
        print(f"  not calibrated {_error(raw, truth):.4f}")
        errors = []
        for seed in range(20):  # some scans become human-labelled; the others are judged
            known = random.Random(seed).sample(range(len(rows)), min(10, len(rows) // 2))
            calibration = Calibration.fit([raw[n] for n in known], [truth[n] for n in known])
            rest = [n for n in range(len(rows)) if n not in known]
            errors.append(_error([calibration(raw[n]) for n in rest], [truth[n] for n in rest]))
        print(f"  calibrated on {min(10, len(rows) // 2)} scans {statistics.fmean(errors):.4f} (mean of 20 draws)")
        order, found = _spearman(raw, truth), _worst_found(raw, truth)
        targets.expect(order >= 0.6, f"estimate against true Dice, Spearman at least 0.6: {order:.3f}")
        targets.expect(found >= 0.5, f"the worst {WORST:.0%} by estimate hold half of the truly worst: {found:.2f}")

    # --- simulated annotation -----------------------------------------------------------------------------------------

    def simulate(self, targets: common.Targets) -> None:
        """Pick, outline with the truth, train; several rounds for each strategy."""
        seeds = [int(seed) for seed in self._options.seeds.split(",")]
        strategies = common.chosen(self._options.strategies, STRATEGIES, "--strategies")
        names = _some(self._train, self._options.scans)
        heading(
            f"Simulated annotation, {self._data.name}",
            {"scans": len(names), "rounds": f"{ROUNDS} of {PER_ROUND} scans", "steps": self._options.steps},
        )
        store = self._store("simulate", f"{len(names)} {self._options.steps}")
        rows = self._descriptors(names)
        total = len(strategies) * len(seeds) * (ROUNDS + 1)
        curves: dict[str, list[list[float]]] = {name: [] for name in strategies}
        self._deadline.begin()
        for number, (seed, strategy) in enumerate((s, name) for s in seeds for name in strategies):
            curve = self._curve(strategy, seed, names, rows, store, total - number * (ROUNDS + 1))
            if curve is not None:
                curves[strategy].append(curve)
        self._report_curves(curves, targets)

    def _curve(
        self, strategy: str, seed: int, names: Sequence[str], rows: Any, store: Store, left: int
    ) -> list[float] | None:
        """Specialist's Dice on ``val`` after each round; None when there was no time."""
        from lib.selection import spread

        generator = random.Random(f"{strategy} {seed}")
        outlined = [names[n] for n in spread(rows, [], 1)]  # all start with the same scan
        curve = []
        for index in range(ROUNDS + 1):
            key = f"{seed} {' '.join(sorted(outlined))}"
            if key not in store.data:
                if self._deadline.over():
                    return None
                store.data[key] = self._trained(names, outlined, seed)
                store.save()
                self._deadline.done(left - index - 1, f"{strategy}, seed {seed}")
            curve.append(store.data[key]["val"])
            if index < ROUNDS:
                outlined += _picked(strategy, names, outlined, store.data[key]["doubts"], rows, generator)
        return curve

    def _trained(self, names: Sequence[str], outlined: Sequence[str], seed: int) -> dict[str, Any]:
        """Train once: Dice on ``val``, and the doubts about all scans without label."""
        import numpy as np
        import torch

        from lib.recipes import Case, RecipeOptions, RecipeSettings, run_recipe
        from lib.selection import doubt_of, threshold_at
        from lib.specialists import load_specialist, predict

        folder = self._work / "simulated"
        shutil.rmtree(folder, ignore_errors=True)
        cases = [
            Case(name, self._data.image(name), self._data.label(name) if name in outlined else None) for name in names
        ]
        epochs = max(1, self._options.steps // STEPS_OF_AN_EPOCH)
        result = run_recipe(
            cases,
            self._schema,
            RecipeOptions(preset="quick", rounds=1, max_epochs=epochs, seed=seed, device="cpu"),
            RecipeSettings(),
            generalist=self._mind,
            propagator=_cheap_propagator(self._work / "propagated"),
            folder=folder,
            observer=common.Silent(),
        )
        threshold = threshold_at((len(outlined) - 1) / (ROUNDS * PER_ROUND))
        doubts = {}
        for file in sorted((result.folder / "rounds" / "1").glob("*.npz")):
            probabilities = torch.from_numpy(np.load(file)["probabilities"]).float()
            doubts[file.stem.split("-", 1)[1]] = vars(doubt_of(probabilities, threshold))
        specialist = load_specialist(result.checkpoint, "cpu")
        val = statistics.fmean(
            self._dice(name, predict(specialist, self._scan(name)).labels()) for name in self._data.split()["val"]
        )
        shutil.rmtree(folder, ignore_errors=True)
        return {"val": round(val, 5), "doubts": doubts}

    def _report_curves(self, curves: dict[str, list[list[float]]], targets: common.Targets) -> None:
        from lib.report.curves import chart

        done = {name: runs for name, runs in curves.items() if runs}
        if not done:
            print("No strategy is complete yet.")
            return
        means = {name: [statistics.fmean(column) for column in zip(*runs, strict=True)] for name, runs in done.items()}
        head = ["strategy", "seeds", *[f"{1 + PER_ROUND * n} outlined" for n in range(ROUNDS + 1)], "mean"]
        print(table(head, [[name, len(done[name]), *line, statistics.fmean(line)] for name, line in means.items()]))
        lines = {name: [(1.0 + PER_ROUND * n, y) for n, y in enumerate(line)] for name, line in means.items()}
        style = "<style>.grid{stroke:#ddd}text{font:11px sans-serif}</style>"
        svg = chart(lines, "outlined scans", "Dice of the specialist on unseen scans")
        svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{style}", 1)
        picture: Path = self._options.picture or self._work / "simulated.svg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(svg + "\n", encoding="utf-8")
        print(f"Picture: {picture}")
        if "recommended" in means and "uniform" in means:
            # Only seeds that both have: else luck would decide.
            both = min(len(done["recommended"]), len(done["uniform"]))
            ends = [statistics.fmean(run[-1] for run in done[name][:both]) for name in ("recommended", "uniform")]
            gain = ends[0] - ends[1]
            targets.expect(gain >= 0, f"recommended ends at or above uniform ({both} seeds): {gain:+.4f}")

    # --- shared -------------------------------------------------------------------------------------------------------

    def _store(self, stage: str, *extra: str) -> Store:
        """Results of a stage, for this code only."""
        lib = common.APP / "lib"
        parts = [lib / "selection", lib / "propagation", lib / "generalists" / "mind.py", lib / "frames.py"]
        name = f"{stage}-{common.fingerprint(parts, *extra)[:8]}.json"
        return Store(self._work / name, fresh=self._options.fresh)

    def _scan(self, name: str) -> Any:
        from lib.volumes import read_volume

        return read_volume(self._data.image(name))

    def _outlined(self, name: str) -> Any:
        from lib.propagation import Template
        from lib.volumes import read_label

        scan = self._scan(name)
        return Template(name, scan, read_label(self._data.label(name), scan, self._schema))

    def _dice(self, name: str, label: Any) -> float:
        from lib.metrics import mean_dice

        return mean_dice(label, self._outlined(name).label, self._schema.count)


def _cheap_propagator(folder: Path) -> Any:
    """Registration at a low resolution with a memory: hundreds of trainings start from the same pairs of scans.

    On hippocampus it is as good as the default in half the time.
    """
    from lib.propagation.registration import RegistrationPropagator
    from propagated_once import KeptPropagator

    class Cheap(KeptPropagator):
        def __init__(self) -> None:
            super().__init__(folder)
            self._inner = RegistrationPropagator(voxels=20_000, iterations=40)

    return Cheap()


def _picked(
    strategy: str,
    names: Sequence[str],
    outlined: Sequence[str],
    doubts: dict[str, dict[str, float]],
    rows: Any,
    generator: random.Random,
) -> list[str]:
    """The next scans by a strategy, as the app's strategies of these names choose them."""
    from lib.selection import pick, spread

    free = [n for n in names if n in doubts and n not in outlined]
    if strategy == "uniform":
        return generator.sample(free, PER_ROUND)
    at = {name: n for n, name in enumerate(names)}
    if strategy == "representativeness":
        return [names[n] for n in spread(rows, [at[n] for n in outlined], PER_ROUND)]
    measure = "least_confidence" if strategy == "recommended" else strategy
    order = sorted(free, key=lambda n: (-doubts[n][measure], n))
    found: list[str] = []
    descriptors = {name: rows[n] for name, n in at.items()}
    for _ in range(PER_ROUND):
        left = [n for n in order if n not in found]
        if strategy == "recommended":
            first = left[: max(1, math.ceil(DOUBTFUL_SHARE * len(left)))]
            those = rows[[at[n] for n in [*first, *outlined, *found]]]
            best = spread(those, range(len(first), len(those)), len(first))
            left = [first[n] for n in best]
        found.append(pick(left, descriptors, [*outlined, *found][-PER_ROUND:]))
    return found


def _some(names: Sequence[str], most: int | None) -> list[str]:
    """So many names, spread evenly; all without a number."""
    if most is None or most >= len(names):
        return list(names)
    return [names[n * len(names) // most] for n in range(most)]


def _last_round(run: Path) -> tuple[Path, str]:
    """Folder of the last round that has labels, and the outlined scan, of a training's run folder."""
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    outlined = [name for name, prints in about["cases"].items() if prints[1]]
    rounds = [r for r in (run / "rounds").iterdir() if r.name.isdigit() and any(r.glob("*.nii.gz"))]
    if len(outlined) != 1 or not rounds:
        raise SystemExit(f"--run: {run} must hold a finished round and have one outlined scan, not {len(outlined)}")
    return max(rounds, key=lambda r: int(r.name)), outlined[0]


def _spearman(a: Sequence[float], b: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b)[0])


def _worst_found(estimates: Sequence[float], truth: Sequence[float]) -> float:
    """Share of the truly worst that are among as many worst by estimate."""
    count = max(1, round(WORST * len(truth)))

    def worst(values: Sequence[float]) -> set[int]:
        return set(sorted(range(len(values)), key=lambda n: (values[n], n))[:count])

    return len(worst(estimates) & worst(truth)) / count


def _error(estimates: Sequence[float], truth: Sequence[float]) -> float:
    return statistics.fmean(abs(a - b) for a, b in zip(estimates, truth, strict=True))


if __name__ == "__main__":
    sys.exit(main())

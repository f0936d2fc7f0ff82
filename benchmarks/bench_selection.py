"""Selection on real scans: the scan to outline first, the estimate of a pseudo-label's quality, and active learning.

    python benchmarks/bench_selection.py --stages template --data la --targets 25
    python benchmarks/bench_selection.py --stages quality --data hippocampus --run FOLDER_OF_A_TRAINING_RUN
    python benchmarks/bench_selection.py --stages simulate --data hippocampus \
        --picture docs/pictures/simulated-annotation.png

Truth is used to score, and in ``simulate`` as what a person would draw on the scans that are picked. Results are kept:
an interrupted benchmark goes on where it was when it is started again. ``--minutes`` ends it early, with what is there.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import annotation
import common
from annotation import PER_ROUND, ROUNDS, STRATEGIES, Simulation, Training
from common import DataSet, Store, heading, table
from pool import side_by_side

if TYPE_CHECKING:
    import numpy as np

    from lib.core.geometry import Volume
    from lib.propagation import Template
    from lib.specialists import Specialist

os.environ.update(common.limit_threads(1))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DATA = common.STRUCTURES
STAGES = ("template", "quality", "simulate")
COLOURS = ("black", "tab:blue", "tab:orange", "tab:green", "tab:cyan", "tab:purple", "tab:red")
"""Of ``STRATEGIES``."""
RANDOM_TEMPLATES = 10
WORST = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_stage_options(parser, STAGES)
    parser.add_argument("--data", choices=list(DATA), default="hippocampus", help="data set (default: hippocampus)")
    parser.add_argument("--workers", type=int, default=common.THREADS, help="processes (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing new after so many minutes")
    parser.add_argument("--targets", type=int, help="template: so many targets, evenly chosen (default: all of train)")
    parser.add_argument("--scans", type=int, default=31, help="simulate: scans of a study (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=120, help="simulate: steps of a training (default: %(default)s)")
    parser.add_argument("--spacing", type=float, default=1.5, help="simulate: voxel edge in mm (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="simulate: comma list (default: %(default)s)")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="simulate: comma list (default: all)")
    parser.add_argument("--picture", type=Path, help="simulate: PNG file (default: beside the results)")
    parser.add_argument("--run", type=Path, help="quality: folder of a training run (default: propagate)")
    parser.add_argument("--labels", type=int, help="quality: so many pseudo-labels, evenly chosen (default: all)")
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
        from lib.core.allocator import keep_freed_memory
        from lib.core.labels import LabelSchema
        from lib.generalists.mind import Mind

        keep_freed_memory()
        self._data, self._options, self._deadline = data, options, deadline
        self._schema = LabelSchema(data.labels)
        self._mind = Mind()
        self._specialist: Specialist | None = None
        self._train = data.split()["train"]
        self._work = common.RESULTS / data.name / "selection"

    # --- the scan to outline first ------------------------------------------------------------------------------------

    def template(self, targets: common.Targets) -> None:
        """Propagate from the most representative scan and from random ones to the others of ``train``."""
        order = self._by_representativeness()
        best = order[0]
        others = random.Random(0).sample([n for n in self._train if n != best], RANDOM_TEMPLATES)
        templates = (best, *others)
        to = _some(self._train, self._options.targets)
        heading(
            f"The scan to outline first, {self._data.name}",
            {
                "targets": f"{len(to)} of {len(self._train)}",
                "templates": f"the picked one and {len(others)} random ones",
            },
        )
        # The figures depend on the propagation only, not on how the template was picked.
        lib = common.APP / "lib"
        store = self._store("template", lib / "propagation", lib / "core")

        def jobs() -> Iterator[Carry]:
            for target in to:
                todo = tuple(t for t in templates if t != target and f"{t} {target}" not in store.data)
                if todo and not self._deadline.over():
                    yield Carry(self._data, todo, target)

        left = sum(any(t != x and f"{t} {x}" not in store.data for t in templates) for x in to)
        self._deadline.begin()
        for job, found in side_by_side(carry_over, jobs(), self._options.workers):
            store.data |= {f"{template} {job.target}": dice for template, dice in found.items()}
            store.save()
            left -= 1
            self._deadline.done(left, "template")
        # Only targets that all templates were carried over to: else the templates would be compared on other scans.
        complete = [x for x in to if all(t == x or f"{t} {x}" in store.data for t in templates)]
        scores = {
            t: statistics.fmean(store.data[f"{t} {x}"] for x in complete if x != t)
            for t in templates
            if any(x != t for x in complete)
        }
        if len(scores) < len(templates):
            print("Too few targets are complete yet.")
            return
        randoms = [scores[t] for t in others]
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
        """Names of ``train``, the most representative first; looked at once."""
        import torch

        from lib.selection import by_value, describe, representativeness

        lib = common.APP / "lib"
        code = [lib / "selection" / f"{name}.py" for name in ("descriptor", "similarity", "representativeness")]
        store = self._store("order", *code, lib / "generalists" / "mind.py", lib / "core")
        if "order" not in store.data:
            begun = time.process_time()
            rows = torch.stack([describe(_scan(self._data, name), self._mind) for name in self._train])
            typical = representativeness(rows).tolist()
            store.data["order"] = by_value(self._train, dict(zip(self._train, typical, strict=True)))
            store.data["seconds"] = (time.process_time() - begun) / len(rows)
            store.save()
        print(f"Descriptors: {store.data['seconds']:.3f} CPU s a scan, with reading", flush=True)
        order: list[str] = store.data["order"]
        return order

    # --- is this pseudo-label good? -----------------------------------------------------------------------------------

    def quality(self, targets: common.Targets) -> None:
        """Estimate the Dice of every pseudo-label and compare with the truth."""
        run = self._options.run
        heading(f"Quality of pseudo-labels, {self._data.name}", {"run": run or "propagation only"})
        lib = common.APP / "lib"
        code = [lib / "selection" / f"{name}.py" for name in ("uncertainty", "quality", "region", "reverse", "shapes")]
        code += [lib / "propagation"] if run is None else [lib / "specialists"]
        store = self._store("quality", *code, extra=str(run))
        last, human = (None, self._train[0]) if run is None else _last_round(run)
        outlined = _outlined(self._data, human)
        names = [n for n in _some(self._train, self._options.labels) if n != human]
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

    def _estimate(self, name: str, outlined: Template, last: Path | None) -> dict[str, float] | None:
        """The true Dice, the estimate as the app's scoring works it out, and what it is made of."""
        from lib.formats.label_files import read_label
        from lib.propagation import create_propagator
        from lib.selection import estimate_quality, opinions_on, reverse_dice, shapes_of, uncertainty_of
        from lib.specialists import load_specialist, predict

        scan, count = _scan(self._data, name), self._schema.count
        if last is None:
            found = [
                create_propagator(p).propagate(outlined, scan, self._schema.channels, self._mind)
                for p in ("registration", "prototype")
            ]
            label, opinion = (soft.labels() for soft in found)
            probabilities, opinions = found[0].probabilities, [opinion]
        else:
            file = next(iter(last.glob(f"?????-{name}.nii.gz")), None)
            if file is None:
                return None
            if self._specialist is None:
                self._specialist = load_specialist(last / "specialist.pt", "cpu")
            label, propagated = (
                read_label(folder / file.name, scan, self._schema, may_be_empty=True)
                for folder in (last, last.parent / "0")
            )
            prediction = predict(self._specialist, scan)
            probabilities = prediction.probabilities
            opinions = opinions_on(label, count, propagated=propagated, predicted=prediction.labels())
        quality = estimate_quality(
            label,
            scan,
            count,
            opinions=opinions,
            probabilities=probabilities,
            humans=[shapes_of(outlined.label, outlined.scan, count)],
            reverse=[reverse_dice(label, scan, outlined, count, self._mind)],
        )
        truth = _outlined(self._data, name)
        row = {"true": _dice(self._data, label, truth), "estimate": quality.raw}
        row |= {f"signal {k}": statistics.fmean(v) for k, v in quality.signals.items()}
        return row | {f"doubt {k}": -v for k, v in vars(uncertainty_of(probabilities, 0.75)).items()}

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
        options = self._options
        seeds = [int(seed) for seed in options.seeds.split(",")]
        strategies = common.chosen(options.strategies, STRATEGIES, "--strategies")
        heading(
            f"Simulated annotation, {self._data.name}",
            {"scans": options.scans, "rounds": f"{ROUNDS} of {PER_ROUND} scans", "steps": options.steps}
            | {"spacing": options.spacing, "seeds": options.seeds, "unseen": len(self._data.split()["val"])},
        )
        simulation = Simulation(self._data, options.scans, options.steps, options.spacing, self._work)
        lib = common.APP / "lib" / "selection"
        looks = [lib / f"{name}.py" for name in ("uncertainty", "quality", "region", "shapes")]
        store = self._store("simulate", *looks, extra=f"{options.scans} {options.steps} {options.spacing}")
        studies = {seed: simulation.study(seed) for seed in seeds}
        first = {seed: study.first() for seed, study in studies.items()}
        chains = {(name, seed): [first[seed]] for name in strategies for seed in seeds}
        curves: dict[tuple[str, int], list[float]] = {chain: [] for chain in chains}
        for index in range(ROUNDS + 1):
            wanted = {chain: Training(simulation, chain[1], tuple(sorted(done))) for chain, done in chains.items()}
            if not self._train_all(list(wanted.values()), store, f"round {index} of {ROUNDS}"):
                print("Stopped: start again to go on. What is there so far:")
                break
            for (name, seed), training in wanted.items():
                result = store.data[training.key]
                curves[name, seed].append(result["val"])
                if index < ROUNDS:
                    picked = studies[seed].picked(name, chains[name, seed], result["known"])
                    chains[name, seed] += picked
        cpu = [entry["cpu"] for entry in store.data.values()]
        if cpu:
            print(f"{len(cpu)} trainings, {statistics.fmean(cpu):.0f} CPU s each, {sum(cpu) / 60:.0f} CPU minutes\n")
        self._report_curves(curves, strategies, seeds, targets)

    def _train_all(self, wanted: Sequence[Training], store: Store, what: str) -> bool:
        """Train what was not trained yet; whether all is done."""
        todo = {training.key: training for training in wanted if training.key not in store.data}
        left = len(todo)
        self._deadline.begin()
        jobs = (training for training in todo.values() if not self._deadline.over())
        for training, result in side_by_side(annotation.train, jobs, self._options.workers):
            store.data[training.key] = result
            store.save()
            left -= 1
            self._deadline.done(left, what)
        return left == 0

    def _report_curves(
        self,
        curves: Mapping[tuple[str, int], Sequence[float]],
        strategies: Sequence[str],
        seeds: Sequence[int],
        targets: common.Targets,
    ) -> None:
        rounds = min(len(curve) for curve in curves.values())
        if rounds == 0:
            print("Nothing is complete yet.")
            return
        outlined = [1 + PER_ROUND * n for n in range(rounds)]
        means = {
            name: [statistics.fmean(curves[name, seed][n] for seed in seeds) for n in range(rounds)]
            for name in strategies
        }
        head = ["strategy", *[f"{n} outlined" for n in outlined], "mean after the first"]
        rows: list[list[object]] = []
        for name, line in means.items():
            rows.append([f"`{name}`", *line, statistics.fmean(line[1:]) if rounds > 1 else None])
        if "uniform" in means:
            head += ["end less uniform", "by seed"]
            for row, name in zip(rows, means, strict=True):
                gains = [curves[name, seed][rounds - 1] - curves["uniform", seed][rounds - 1] for seed in seeds]
                row += [f"{statistics.fmean(gains):+.4f}", " ".join(f"{gain:+.3f}" for gain in gains)]
        print(table(head, rows))
        picture: Path = self._options.picture or self._work / "simulated-annotation.png"
        draw(picture, outlined, {name: [curves[name, seed] for seed in seeds] for name in strategies})
        if rounds == ROUNDS + 1 and "recommended" in means and "uniform" in means:
            gain = means["recommended"][-1] - means["uniform"][-1]
            targets.expect(gain >= 0, f"recommended ends at or above uniform ({len(seeds)} seeds): {gain:+.4f}")

    # --- shared -------------------------------------------------------------------------------------------------------

    def _store(self, stage: str, *code: Path, extra: str = "") -> Store:
        """Results of a stage; those that other code has given are not reused."""
        name = f"{stage}-{common.fingerprint(code, extra)[:8]}.json"
        return Store(self._work / name, fresh=self._options.fresh)


@dataclass(frozen=True)
class Carry:
    """Some templates to be carried over to one target.

    Args:
        data: the scans.
        templates: names of outlined scans.
        target: name.
    """

    data: DataSet
    templates: tuple[str, ...]
    target: str


def carry_over(job: Carry) -> dict[str, float]:
    """Mean Dice of what the default propagator makes of each template; runs in a worker."""
    import torch

    from lib.core.allocator import keep_freed_memory
    from lib.generalists.mind import Mind
    from lib.propagation import create_propagator

    torch.set_num_threads(1)
    keep_freed_memory()
    target = _outlined(job.data, job.target)
    propagator, channels = create_propagator("registration"), len(job.data.labels) + 1
    return {
        name: _dice(
            job.data, propagator.propagate(_outlined(job.data, name), target.scan, channels, Mind()).labels(), target
        )
        for name in job.templates
    }


def draw(picture: Path, outlined: Sequence[int], curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """A line a strategy, its mean over the seeds; the seeds of ``recommended`` and ``uniform`` as a band.

    Args:
        picture: PNG file.
        outlined: number of outlined scans of each round.
        curves: by strategy and seed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, runs in curves.items():
        columns = [[run[n] for run in runs] for n in range(len(outlined))]
        main = name in ("uniform", "recommended")
        line = axes.plot(
            outlined,
            [statistics.fmean(column) for column in columns],
            label=name,
            color=COLOURS[STRATEGIES.index(name)],
            linestyle="--" if name == "uniform" else "-",
            linewidth=2.4 if main else 1.2,
            marker="o" if main else None,
            markersize=4,
        )[0]
        if main:
            axes.fill_between(
                outlined, [*map(min, columns)], [*map(max, columns)], color=line.get_color(), alpha=0.12, linewidth=0
            )
    axes.set_xlabel("outlined scans")
    axes.set_ylabel("mean Dice of the specialist on unseen scans")
    axes.set_xticks(outlined)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, metadata={"Software": None})
    print(f"\nPicture: {picture}")


def _scan(data: DataSet, name: str) -> Volume:
    from lib.formats.volumes import read_volume

    return read_volume(data.image(name))


def _outlined(data: DataSet, name: str) -> Template:
    from lib.core.labels import LabelSchema
    from lib.formats.label_files import read_label
    from lib.propagation import Template

    scan = _scan(data, name)
    return Template(name, scan, read_label(data.label(name), scan, LabelSchema(data.labels)))


def _dice(data: DataSet, label: np.ndarray, outlined: Template) -> float:
    from lib.core.metrics import mean_dice

    return mean_dice(label, outlined.label, len(data.labels))


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

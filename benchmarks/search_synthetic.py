"""How samplers search functions whose optimum is known: Hartmann 3 and 6 with a cheap, biased, noisy beginning.

Every trial has ten rungs. At rung r the value is Hartmann's with its heights lowered by BIAS (1 - r/10), and noise of
NOISE (1 - r/10): bias and noise vanish at the end, so the last rung is the function itself. The lowered heights are those of
BOCA (arXiv:1703.06240), bias and noise for the study of priors those of PriorBand (arXiv:2306.12370). The real samplers and
the real median pruner work on them, with priors near the optimum (`good`), at the worst of many points (`bad`; `bad-high` says
so with high confidence) and without (`none`).

    python benchmarks/search_synthetic.py --seeds 20 --out synthetic.jsonl

Stopped, the same command goes on: each line of the output is one study. The table gives the regret (distance to the known
minimum) of the best finished trial: median and quartiles over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import optuna
from optuna import Study, samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from hpsearch.sampling.auto import near
from hpsearch.sampling.samplers import PROPOSED_BY, FeasibleSampler, enqueue_baseline, make_sampler, suggest
from hpsearch.scheduling.pruners import make_pruner
from hpsearch.space.baseline import prior_value
from hpsearch.space.load import parse_space
from hpsearch.space.parameters import Law, Range, Searched
from hpsearch.space.space import SearchSpace

RUNGS = 10
BIAS, NOISE = 0.5, 0.1

HEIGHTS = (1.0, 1.2, 3.0, 3.2)
WIDTHS = {
    3: ((3.0, 10, 30), (0.1, 10, 35), (3.0, 10, 30), (0.1, 10, 35)),
    6: (
        (10, 3, 17, 3.5, 1.7, 8),
        (0.05, 10, 17, 0.1, 8, 14),
        (3, 3.5, 1.7, 10, 17, 8),
        (17, 8, 0.05, 10, 0.1, 14),
    ),
}
CENTRES = {
    3: (
        (0.3689, 0.1170, 0.2673),
        (0.4699, 0.4387, 0.7470),
        (0.1091, 0.8732, 0.5547),
        (0.0381, 0.5743, 0.8828),
    ),
    6: (
        (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
        (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
        (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
        (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
    ),
}
"""A_ij and P_ij of Hartmann's functions (Dixon and Szego, 1978)."""
OPTIMA = {3: (0.114614, 0.555649, 0.852547), 6: (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)}
MINIMA = {3: -3.86278, 6: -3.32237}

AXES = {
    "learning_rate": "low: 1e-5, high: 1e-1, log: true",
    "weight_decay": "low: 1e-4, high: 1.0, log: true",
    "dropout": "low: 0.0, high: 0.5",
    "beta2": "low: 0.9, high: 0.999",
    "grad_clip": "low: 0.1, high: 10.0, log: true",
    "lr_decay_ratio": "low: 0.0, high: 1.0",
}
PRIORS = ("good", "bad", "bad-high", "none")
SYSTEMS = ("auto", "auto_wide", "random", "tpe", "gp", "prior+near")


def hartmann(x: tuple[float, ...], lowered: float = 0.0) -> float:
    """Minus the sum of four bumps in [0, 1]^3 or [0, 1]^6; lowered: what is taken off each height."""
    bumps = zip(HEIGHTS, WIDTHS[len(x)], CENTRES[len(x)], strict=True)
    return -sum(
        (height - lowered) * math.exp(-sum(a * (each - p) ** 2 for a, p, each in zip(widths, centre, x, strict=True)))
        for height, widths, centre in bumps
    )


def curve(x: tuple[float, ...]) -> Iterator[tuple[int, float]]:
    """Rung and value; the noise is the same for the same point."""
    noise = Random(repr(x))
    for rung in range(1, RUNGS + 1):
        left = 1 - rung / RUNGS
        yield rung, hartmann(x, BIAS * left) + noise.gauss(0.0, 1.0) * NOISE * left


def make_space(dimensions: int, prior: str, seed: int) -> SearchSpace:
    random = Random(seed)
    if prior == "good":
        centre = [min(max(each + random.gauss(0, 0.1), 0.0), 1.0) for each in OPTIMA[dimensions]]
    else:
        points = [tuple(random.random() for _ in range(dimensions)) for _ in range(1000)]
        centre = list(max(points, key=lambda point: hartmann(point)))
    confidence = "high" if prior == "bad-high" else "medium"
    bare = parse_space(document({axis: AXES[axis] for axis in list(AXES)[:dimensions]}))
    axes = {}
    for parameter, place in zip(bare.parameters.values(), centre, strict=False):
        if isinstance(parameter, Range):
            given = f", prior: {value_at(parameter, place)!r}, confidence: {confidence}" if prior != "none" else ""
            axes[parameter.name] = AXES[parameter.name] + given
    return parse_space(document(axes))


def document(axes: Mapping[str, str]) -> str:
    lines = [f"  {name}: {{{text}}}" for name, text in axes.items()]
    return "\n".join(["name: synthetic", f"budget: {{max_iters: 100, evaluations: {RUNGS}}}", "parameters:", *lines])


def value_at(parameter: Range, place: float) -> float:
    if parameter.log:
        return float(parameter.low * (parameter.high / parameter.low) ** place)
    return float(parameter.low + place * (parameter.high - parameter.low))


def place_of(parameter: Range, value: float) -> float:
    if parameter.log:
        return math.log(value / parameter.low) / math.log(parameter.high / parameter.low)
    return float((value - parameter.low) / (parameter.high - parameter.low))


class Near(samplers.BaseSampler):
    """Draws around the prior and nothing else: the search that every other one has to beat."""

    def __init__(self, space: SearchSpace, seed: int, law: Law | None = None) -> None:
        self._space, self._random, self._law = space, Random(seed), law

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space.distributions()

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._space.propose(self._draw)

    def _draw(self, parameter: Searched, settings: dict[str, Any]) -> Any:
        if parameter.confidence is None:
            return parameter.draw(self._random)
        return near(parameter, prior_value(self._space, parameter, settings, self._law), self._random)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError("all parameters are drawn together")


def run_study(dimensions: int, prior: str, system: str, seed: int, trials: int) -> dict[str, Any]:
    space = make_space(dimensions, prior, seed)

    def sound(proposal: Mapping[str, Any]) -> None:
        return None

    if system == "prior+near":
        sampler = FeasibleSampler(system, Near(space, seed), space, seed, sound)
    else:
        sampler = make_sampler(system, space, seed, 0, sound)
    study = optuna.create_study(sampler=sampler, pruner=make_pruner("median", RUNGS))
    enqueue_baseline(study)
    begun, best, rungs = time.process_time(), math.inf, 0
    regrets: list[float] = []
    for _ in range(trials):
        trial = study.ask()
        proposal = suggest(trial, space)
        ranges = [parameter for parameter in space.searched if isinstance(parameter, Range)]
        point = tuple(place_of(parameter, proposal[parameter.name]) for parameter in ranges)
        for rung, value in curve(point):
            trial.report(value, rung)
            rungs += 1
            if rung < RUNGS and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, value)
            best = min(best, value)
        regrets.append(best - MINIMA[dimensions])
    by = [trial.system_attrs.get(PROPOSED_BY, "prior") for trial in study.get_trials(deepcopy=False)]
    return {
        "dimensions": dimensions,
        "prior": prior,
        "system": system,
        "seed": seed,
        "trials": trials,
        "regrets": regrets,
        "rungs": rungs,
        "proposed_by": by,
        "seconds": time.process_time() - begun,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| function | prior | system | regret at 10 | regret at 30 | at the end | rungs | seconds | seeds |",
        "|" + "---|" * 9,
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dimensions"], row["prior"], row["system"]), []).append(row)
    for (dimensions, prior, system), group in sorted(groups.items()):
        cells = [spread([row["regrets"][min(count, row["trials"]) - 1] for row in group]) for count in (10, 30, 10**9)]
        rungs = statistics.median(row["rungs"] for row in group)
        seconds = statistics.median(row["seconds"] for row in group)
        lines.append(
            f"| Hartmann {dimensions} | {prior} | {system} | {' | '.join(cells)} | {rungs:g} | {seconds:.2f} | {len(group)} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} [{low:.3f} {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[3, 6], choices=[3, 6])
    parser.add_argument("--priors", nargs="+", default=list(PRIORS), choices=PRIORS)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--out", type=Path, default=Path("search_synthetic.jsonl"))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)
    rows = read(options.out)
    done = {key(row) for row in rows}
    with options.out.open("a", encoding="utf-8") as out:
        for seed in range(options.seeds):  # Seeds outermost: whenever it is stopped, all systems have the same ones.
            for dimensions in options.dimensions:
                for prior in options.priors:
                    for system in options.systems:
                        asked = {"dimensions": dimensions, "prior": prior, "system": system, "seed": seed}
                        if key(asked | {"trials": options.trials}) not in done:
                            rows.append(run_study(**asked, trials=options.trials))
                            out.write(json.dumps(rows[-1]) + "\n")
                            out.flush()
    print(table([row for row in rows if row["trials"] == options.trials and row["seed"] < options.seeds]))


def read(path: Path) -> list[dict[str, Any]]:
    """The studies done; a line that was cut off is dropped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    path.write_text("".join(whole), encoding="utf-8")
    return [json.loads(line) for line in whole]


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["dimensions"], row["prior"], row["system"], row["seed"], row["trials"]


if __name__ == "__main__":
    main()

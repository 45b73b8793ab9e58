"""A trainer that trains nothing: it replays curves out of a table of real runs.

The real coordinator, its slots and its database then do a study in seconds: give its executor the trainer `replay:trainer`,
with this folder on PYTHONPATH.

A configuration of the table has the curve that was measured. Any other has what a Gaussian process makes of the table: the
curves of all rows, each by a weight that depends on how near it is, in the directions that matter, plus what the nearest row
differs by from its own blend, so that the noise of real runs stays in. Ranges are scaled to 0 … 1 (logarithmic where they are
so), curves are those of the budget nearest to its own. Where the nearest row diverged, so does a configuration.
HPSEARCH_REPLAY_TABLE names another table than benchmarks/table.jsonl.
"""

from __future__ import annotations

import functools
import json
import math
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from runs import as_trial

from hpsearch.config import TrialConfig, evaluations_in
from hpsearch.execution.protocol import TrialTask
from hpsearch.model.counting import count, step_flops
from hpsearch.space.load import parse_space
from hpsearch.space.parameters import Choices, Range
from hpsearch.training.events import Answer, EvalPoint, Event, Outcome, TrainResult
from hpsearch.training.schedules import learning_rate_at, step_of

TABLE = Path(__file__).with_name("table.jsonl")
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Runs by row and share of the budget."""

    flops: float
    """Of the whole budget."""
    objective: str
    scales: Mapping[str, Callable[[Any], float]]
    """Of each searched parameter, to 0 … 1."""
    places_RP: F64
    """Where each row is in the space."""
    runs: Mapping[float, list[dict[str, Any]]]
    """By share of the budget, a run of each row."""

    def run(self, settings: Mapping[str, Any], flops: float) -> dict[str, Any]:
        """How a configuration fares with a budget: the run of the nearest row (of equally near ones the first), its curve moved
        to where the configuration is."""
        runs = self.runs[min(self.runs, key=lambda share: abs(math.log(share * self.flops / flops)))]
        here_P = np.array([scale(settings[name]) for name, scale in self.scales.items()])
        distance_R = np.linalg.norm(self.places_RP - here_P, axis=1)
        row = int(distance_R.argmin())
        if runs[row]["outcome"] != "complete" or not distance_R[row]:
            return runs[row]
        whole = [index for index, run in enumerate(runs) if run["outcome"] == "complete"]
        curve_RE = np.log([runs[index]["curve"] for index in whole])
        here_R, there_R = self.blend(np.array([here_P, self.places_RP[row]]), whole)
        moved_E = curve_RE[whole.index(row)] + (here_R - there_R) @ curve_RE
        return runs[row] | {"curve": [float(value) for value in np.exp(moved_E)]}

    def blend(self, place_KP: F64, rows: list[int]) -> F64:
        """(K, rows): what the curve of each row counts for at each place; over the rows they come to 1."""
        process = self._process
        kernel, white = process.kernel_.k1, process.kernel_.k2.noise_level
        known_RP = self.places_RP[rows]
        solved_RR = np.linalg.inv(kernel(known_RP) + white * np.eye(len(rows)))
        weight_KR = kernel(place_KP, known_RP) @ solved_RR
        share_R = solved_RR.sum(0) / solved_RR.sum()  # The mean of all, as far as no row says anything of a place.
        return np.asarray(weight_KR + (1 - weight_KR.sum(1, keepdims=True)) * share_R)

    @functools.cached_property
    def _process(self) -> Any:
        """Fitted to the ends of the whole runs, once in a process."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        ended = [index for index, run in enumerate(self.runs[max(self.runs)]) if run["outcome"] == "complete"]
        end_R = np.log([self.runs[max(self.runs)][index]["curve"][-1] for index in ended])
        lengths = np.full(self.places_RP.shape[1], 0.7)
        kernel = ConstantKernel(1.0, (0.05, 50.0)) * Matern(lengths, (0.05, 20.0), nu=2.5) + WhiteKernel(1e-2, (1e-6, 1.0))
        process = GaussianProcessRegressor(kernel, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # A length at its bound: the parameter does not matter.
            return process.fit(self.places_RP[ended], (end_R - end_R.mean()) / (end_R.std() or 1.0))


@functools.cache
def read_table(path: Path) -> Table:
    """The table in `path`; rows of which a run is missing are left out."""
    header, *lines = map(json.loads, path.read_text("utf-8").splitlines())
    space = parse_space(header["space"], f"{path}")
    scales = {parameter.name: _scale(parameter) for parameter in space.searched}
    found: dict[int, dict[float, dict[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["row"], {})[line["share"]] = line
    rows = [runs for _, runs in sorted(found.items()) if len(runs) == len(header["shares"])]
    proposals = [runs[header["shares"][0]]["proposal"] for runs in rows]
    places_RP = np.array([[scale(each.get(name)) for name, scale in scales.items()] for each in proposals])
    runs = {share: [each[share] for each in rows] for share in header["shares"]}
    return Table(space.budget.amount or 1.0, space.objectives[0], scales, places_RP, runs)


def _scale(parameter: Range | Choices) -> Callable[[Any], float]:
    if isinstance(parameter, Choices):
        choices = list(parameter.choices)
        return lambda value: choices.index(value) / max(1, len(choices) - 1) if value in choices else -1.0
    low, high = (math.log(edge) if parameter.log else edge for edge in (parameter.low, parameter.high))
    # Where a parameter takes no part it is as far from all its values as they are from one another.
    return lambda value: -1.0 if value is None else ((math.log(value) if parameter.log else value) - low) / (high - low)


def trainer(task: TrialTask) -> Generator[Event, Answer, TrainResult]:
    """Replay one trial. It can be paused and goes on, as a real one does."""
    return (yield from as_trial(task, replayed(TrialConfig.build(task.config))))


def replayed(config: TrialConfig) -> Iterator[EvalPoint | TrainResult]:
    """The evaluations of a configuration, and how it ended."""
    table = read_table(Path(os.environ.get("HPSEARCH_REPLAY_TABLE", TABLE)))
    counted = count(config)
    step_tokens = config.batch_size * config.context_length
    flops_per_step = step_flops(config)
    run = table.run(config.model_dump(), config.max_iters * flops_per_step)
    curve, rungs = run["curve"], evaluations_in(config.max_iters, config.eval_interval)
    # Another number of evaluations than the table's finds its values between the table's.
    evaluations = len(curve) if run["outcome"] == "complete" else _evaluations(table)
    metrics: dict[str, float] = {}
    for rung in range(1, rungs + 1):
        iteration = step_of(rung, config.max_iters, config.eval_interval)
        part = rung / rungs * evaluations
        if part > len(curve) + 1e-9:
            yield TrainResult(Outcome.DIVERGED, iteration, reason=run["reason"], metrics=metrics)
            return
        value = _between(curve, part)
        metrics = {table.objective: value}
        yield EvalPoint(
            rung=rung,
            iteration=iteration,
            tokens=iteration * step_tokens,
            flops=iteration * flops_per_step,
            seconds=run["seconds"] * rung / rungs,
            train_loss=value,
            metrics=metrics,
            learning_rate=learning_rate_at(iteration - 1, config),
            grad_norm=1.0,
            tokens_per_s=config.max_iters * step_tokens / max(run["seconds"], 1e-9),
        )
    final = metrics | {"train_seconds": run["seconds"], "num_parameters": float(counted.num_parameters)}
    yield TrainResult(Outcome.COMPLETE, config.max_iters, metrics=final)


def _evaluations(table: Table) -> int:
    return max(len(run["curve"]) for runs in table.runs.values() for run in runs)


def _between(curve: list[float], part: float) -> float:
    """The curve's value after `part` evaluations, 1 … len(curve); before the first one it is the first one's."""
    below = min(max(1, math.floor(part + 1e-9)), len(curve))
    above = min(below + 1, len(curve))
    share = min(max(0.0, part - below), 1.0)
    return curve[below - 1] * (1 - share) + curve[above - 1] * share

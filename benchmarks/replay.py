"""A trainer that trains nothing: it replays the curve of the nearest configuration in a table of real runs.

The real coordinator, its slots and its database then do a study in seconds: give its executor the trainer `replay:trainer`,
with this folder on PYTHONPATH.

A configuration takes the curve of the row that is nearest in the space, ranges scaled to 0 … 1 (logarithmic where they are so),
of the run whose budget is nearest to its own. What is searched is thus a function of the real curves, the same for all
searches, with steps where the nearest row changes. HPSEARCH_REPLAY_TABLE names another table than benchmarks/table.jsonl.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs import as_trial

from hpsearch.config import TrialConfig
from hpsearch.execution.protocol import TrialTask
from hpsearch.model.counting import count
from hpsearch.space.load import parse_space
from hpsearch.space.parameters import Choices, Range
from hpsearch.training.events import Answer, EvalPoint, Event, Outcome, TrainResult
from hpsearch.training.schedules import learning_rate_at

TABLE = Path(__file__).with_name("table.jsonl")


@dataclass(frozen=True)
class Table:
    """Runs by row and share of the budget."""

    flops: float
    """Of the whole budget."""
    objective: str
    scales: Mapping[str, Callable[[Any], float]]
    """Of each searched parameter, to 0 … 1."""
    places: Mapping[int, tuple[float, ...]]
    """Where each row is in the space."""
    runs: Mapping[int, Mapping[float, dict[str, Any]]]

    def run(self, settings: Mapping[str, Any], flops: float) -> dict[str, Any]:
        """The run nearest to a configuration and a budget; of equally near ones the first."""
        here = tuple(scale(settings[name]) for name, scale in self.scales.items())
        row = min(self.places, key=lambda row: (math.dist(here, self.places[row]), row))
        runs = self.runs[row]
        return runs[min(runs, key=lambda share: abs(math.log(share * self.flops / flops)))]


@functools.cache
def read_table(path: Path) -> Table:
    """The table in `path`; rows of which a run is missing are left out."""
    header, *lines = map(json.loads, path.read_text("utf-8").splitlines())
    space = parse_space(header["space"], f"{path}")
    scales = {parameter.name: _scale(parameter) for parameter in space.searched}
    runs: dict[int, dict[float, dict[str, Any]]] = {}
    for line in lines:
        runs.setdefault(line["row"], {})[line["share"]] = line
    runs = {row: found for row, found in sorted(runs.items()) if len(found) == len(header["shares"])}
    places = {
        row: tuple(scale(next(iter(found.values()))["proposal"].get(name)) for name, scale in scales.items())
        for row, found in runs.items()
    }
    return Table(space.budget.amount or 1.0, space.objectives[0], scales, places, runs)


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
    step_flops = step_tokens * counted.flops_per_token
    run = table.run(config.model_dump(), config.max_iters * step_flops)
    curve, rungs = run["curve"], max(1, round(config.max_iters / config.eval_interval))
    # Another number of evaluations than the table's finds its values between the table's.
    evaluations = len(curve) if run["outcome"] == "complete" else _evaluations(table)
    metrics: dict[str, float] = {}
    for rung in range(1, rungs + 1):
        iteration = config.max_iters if rung == rungs else rung * config.eval_interval
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
            flops=iteration * step_flops,
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
    return max(len(run["curve"]) for runs in table.runs.values() for run in runs.values())


def _between(curve: list[float], part: float) -> float:
    """The curve's value after `part` evaluations, 1 … len(curve); before the first one it is the first one's."""
    below = min(max(1, math.floor(part + 1e-9)), len(curve))
    above = min(below + 1, len(curve))
    share = min(max(0.0, part - below), 1.0)
    return curve[below - 1] * (1 - share) + curve[above - 1] * share

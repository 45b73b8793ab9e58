"""A study of many trials that cost nothing: what is left is the coordinator, its store, Optuna's storage and the sampler.

Ours is the real coordinator on a real database, with an executor that answers at once in place of processes that train. Bare
Optuna gets the same sampler, pruner, distributions and number of reports, in the same database (SQLite: a file of its own).
Each side runs in a process of its own. The sampler's and the pruner's parts of each trial's time are told apart; the rest is
`own`, by the wall clock and as processor time. `start` and `end` are means over the first and the last thousand trials (or
quarters of all, if those are less): a side that keeps its pace has end/start near 1. Memory is that of the side's process,
`start` after the first part, `end` after the last trial. `status` is the whole command on the finished study, median of five.
"""

from __future__ import annotations

import argparse
import multiprocessing
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from instant import Instant
from side_by_side import show

from hpsearch.execution.protocol import TrialTask
from hpsearch.training.events import Answer, EvalPoint, Outcome, TrainResult

EVALUATIONS = 5
SPACE = f"""
name: scale
data: {{text: pydoc, tokenizer: bytes}}
budget: {{max_iters: 1000, evaluations: {EVALUATIONS}}}
parameters:
  learning_rate: {{low: 1e-4, high: 1e-2, log: true, prior: 1e-3}}
  weight_decay: {{low: 0.0, high: 0.3}}
  dropout: {{low: 0.0, high: 0.3, step: 0.05}}
  warmup_steps: {{low: 0, high: 200}}
  num_layers: {{choices: [1, 2, 3, 4]}}
  d_model: {{choices: [64, 96, 128]}}
  hidden_act: {{choices: [gelu, silu, relu2]}}
  num_heads: 4
  batch_size: 8
  context_length: 64
"""


def loss(config: dict[str, Any], rung: int) -> float:
    """A made-up curve: some configurations are better, and all get better with time."""
    bowl = (float(config["weight_decay"]) - 0.1) ** 2 + (float(config["dropout"]) - 0.1) ** 2
    return 2.0 + bowl + 0.1 / int(config["num_layers"]) + abs(float(config["learning_rate"]) - 2e-3) * 100 + 1.0 / rung


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a side stood after a trial: seconds, and resident bytes."""

    wall: float
    cpu: float
    spent: dict[str, float]
    """By the wall clock and as processor time, in the sampler and in the pruner."""
    resident: int


class Clock:
    """Tells the parts of a side's time apart."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(("sampler", "sampler cpu", "pruner", "pruner cpu"), 0.0)
        self._process = psutil.Process()
        self._marks: list[Mark] = []

    def watch(self, part: str, owner: object, *names: str) -> None:
        """Count the time of these methods of `owner` as `part`."""
        for name in names:
            setattr(owner, name, self._timed(part, getattr(owner, name)))

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return call(*arguments, **named)
            finally:
                self._spent[part] += time.perf_counter() - wall
                self._spent[f"{part} cpu"] += time.process_time() - cpu

        return timed

    def mark(self) -> None:
        """A trial ended; before the first one, the study begins."""
        resident = self._process.memory_info().rss
        self._marks.append(Mark(time.perf_counter(), time.process_time(), dict(self._spent), resident))

    def row(self, side: str) -> dict[str, Any]:
        trials = len(self._marks) - 1
        width = min(1000, trials // 4)
        first, last = self._means(0, width), self._means(trials - width, trials)
        row: dict[str, Any] = {"side": side}
        for part in ("own", "own cpu", "sampler", "pruner"):
            row |= {f"{part} ms start": 1e3 * first[part], f"{part} ms end": 1e3 * last[part]}
        return row | {
            "own end/start": last["own"] / first["own"],
            "own cpu end/start": last["own cpu"] / first["own cpu"],
            "MB start": self._marks[width].resident / 2**20,
            "MB end": self._marks[-1].resident / 2**20,
            "all s": self._marks[-1].wall - self._marks[0].wall,
        }

    def _means(self, start: int, stop: int) -> dict[str, float]:
        """Seconds a trial, by part."""
        early, late = self._marks[start], self._marks[stop]
        parts = {part: late.spent[part] - early.spent[part] for part in self._spent}
        parts["own"] = late.wall - early.wall - parts["sampler"] - parts["pruner"]
        parts["own cpu"] = late.cpu - early.cpu - parts["sampler cpu"] - parts["pruner cpu"]
        return {part: seconds / (stop - start) for part, seconds in parts.items()}


SAMPLING = ("infer_relative_search_space", "sample_relative", "sample_independent", "before_trial", "after_trial")


def curve(task: TrialTask) -> Generator[EvalPoint, Answer, TrainResult]:
    steps = int(task.config["max_iters"])
    for rung in range(1, EVALUATIONS + 1):
        value, at = loss(task.config, rung), steps * rung // EVALUATIONS
        metrics = {"val_loss": value, "val_bpb": value}
        answer = yield EvalPoint(rung, at, 512 * at, 1e6 * at, 0.01 * rung, value, metrics, 1e-3, 1.0, 1e4)
        if answer is Answer.STOP:
            return TrainResult(Outcome.STOPPED, at)
    return TrainResult(Outcome.COMPLETE, steps, metrics=metrics)


@dataclass(frozen=True)
class Asked:
    trials: int
    sampler: str
    pruner: str
    url: str
    study: str
    folder: Path


def ours(asked: Asked) -> dict[str, Any]:
    from hpsearch.space.load import parse_space
    from hpsearch.storage.leases import this_process
    from hpsearch.tuning.callbacks import Silent
    from hpsearch.tuning.coordinator import Coordinator
    from hpsearch.tuning.request import Request, check
    from hpsearch.tuning.study import open_study

    clock = Clock()

    class Marks(Silent):
        def ended(self, trial: Any, best: Any) -> None:
            clock.mark()

    space = parse_space(SPACE, "scale.yaml")
    request = Request(
        space,
        asked.study,
        asked.trials,
        asked.url,
        asked.folder / "studies",
        asked.folder / "cache",
        sampler=asked.sampler,
        pruner=asked.pruner,
    )
    owner = this_process()
    study = open_study(request, check(request), owner)
    clock.watch("sampler", study.optuna.sampler, *SAMPLING)
    clock.watch("pruner", study.optuna.pruner, "prune")
    coordinator = Coordinator(study, Instant(2, curve), Marks(), owner)
    clock.mark()
    coordinator.run()
    study.store.release(study.record.id, owner)
    return clock.row("ours")


def bare(asked: Asked) -> dict[str, Any]:
    import optuna

    from hpsearch.sampling.samplers import suggest
    from hpsearch.scheduling.pruners import make_pruner
    from hpsearch.space.load import parse_space
    from hpsearch.storage.urls import optuna_url, parse_url

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    clock, space = Clock(), parse_space(SPACE, "scale.yaml")
    samplers: dict[str, optuna.samplers.BaseSampler] = {
        "random": optuna.samplers.RandomSampler(seed=0),
        "tpe": optuna.samplers.TPESampler(seed=0, multivariate=True),
    }
    sampler, pruner = samplers[asked.sampler], make_pruner(asked.pruner, EVALUATIONS)
    url = optuna_url(parse_url(asked.url))
    study = optuna.create_study(study_name=f"{asked.study}-bare", storage=url, sampler=sampler, pruner=pruner)
    clock.watch("sampler", sampler, *SAMPLING)
    clock.watch("pruner", pruner, "prune")
    clock.mark()
    for _ in range(asked.trials):
        trial = study.ask()
        config = suggest(trial, space)
        for rung in range(1, EVALUATIONS + 1):
            trial.report(loss(config, rung), rung)
            if rung < EVALUATIONS and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, loss(config, EVALUATIONS))
        clock.mark()
    return clock.row("bare Optuna")


@contextmanager
def fresh_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def status_s(asked: Asked) -> float:
    """Seconds of one `hpsearch status`."""
    command = [sys.executable, "-m", "hpsearch", "status", "--study", asked.study, "--storage", asked.url]
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"], choices=["random", "tpe"])
    parser.add_argument("--pruner", default="median")
    parser.add_argument("--storage", metavar="URL", help="a database to fill; by default SQLite files that are removed again")
    parser.add_argument("--only", choices=["ours", "bare"], help="one of the two sides")
    parser.add_argument("--out", type=Path, help="write JSON here too")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="hpsearch-scale-") as scratch:
        for name in options.samplers:
            for side in (ours, bare):
                if options.only not in (None, side.__name__):
                    continue
                url = options.storage or f"sqlite:///{scratch}/{name}-{side.__name__}.db"
                asked = Asked(options.trials, name, options.pruner, url, f"scale-{secrets.token_hex(4)}", Path(scratch))
                with fresh_process() as pool:
                    row = {"sampler": name} | pool.submit(side, asked).result()
                rows.append(row | {"status s": status_s(asked) if side is ours else "-"})
                print(rows[-1], file=sys.stderr, flush=True)
    where = options.storage.partition(":")[0] if options.storage else "sqlite"
    title = f"{options.trials:,} trials of {EVALUATIONS} evaluations, pruner {options.pruner}, {where}"
    show(title, rows, options.out)


if __name__ == "__main__":
    main()

"""Which search finds more for the same compute: real training, the same for all.

    python benchmarks/search.py --data tinyshakespeare.txt --seeds 5 --out search.jsonl
    python benchmarks/search_report.py search.jsonl --plot search.png

Every system searches benchmarks/search.yaml with the same trainer, evaluated at the same parts of the same budget, one trial at
a time, until the same training FLOPs are spent (`hpsearch.model.counting`; the steps of a pause's or a branch's own count too,
evaluations do not). Nothing depends on how fast the machine is. Seeds are outermost: whenever it is stopped, all systems have
the same ones, but for those of the last seed. The same command goes on: each line of the output is one search.

The peers are used as their documentation says: Optuna's TPE with its median pruner, Ray Tune's ASHA with its OptunaSearch, Syne
Tune's ASHA with its CQR, all with their defaults. One that is not installed is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # Before torch loads, here and in what is spawned.

import optuna
from optuna.exceptions import ExperimentalWarning
from ruamel.yaml import YAML
from runs import follow
from search_synthetic import Near, read

from hpsearch.cli.options import cache_dir
from hpsearch.config import DataConfig, TrialConfig
from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.execution.protocol import Executor
from hpsearch.model.counting import step_flops
from hpsearch.sampling.samplers import SAMPLERS, suggest
from hpsearch.space.load import parse_space
from hpsearch.space.serialize import to_yaml
from hpsearch.space.space import SearchSpace
from hpsearch.storage.leases import this_process
from hpsearch.storage.records import BudgetRecord, Owner, TrialRecord, TrialState
from hpsearch.training.events import EvalPoint, Outcome, TrainResult
from hpsearch.tuning.callbacks import Silent
from hpsearch.tuning.confirmation import Confirmation, confirmable, fresh_seeds, left_to_do
from hpsearch.tuning.coordinator import Coordinator
from hpsearch.tuning.request import Request, check
from hpsearch.tuning.stopping import Limits
from hpsearch.tuning.study import Study, open_study
from hpsearch.workload.feasibility import Corpora, concrete

HERE = Path(__file__).parent
SPACE = HERE / "search.yaml"
MEASURE = "val_bpb"
ENDLESS = 10_000
"""Trials: the compute ends a search, not their number."""
CONFIRMED = ("auto+halving", "auto+halving, no priors")
CONFIRM_SEEDS = 3


class Spent(Exception):
    """All compute is spent."""


@dataclass
class Ledger:
    """What a search did, in order, and what it has spent."""

    total: float
    """Training FLOPs of a search."""
    spent: float = 0.0
    trials: dict[int, dict[str, Any]] = field(default_factory=dict)
    points: list[tuple[int, int, float, float]] = field(default_factory=list)
    """Trial, rung, FLOPs that the search has spent by then, held-out measure."""
    _used: dict[int, float] = field(default_factory=dict)
    """FLOPs of each trial."""

    def begin(self, number: int, proposal: Mapping[str, Any], proposed_by: str = "") -> None:
        self.trials.setdefault(number, {"proposal": dict(proposal), "by": proposed_by, "end": "running"})

    def add(self, number: int, rung: int, flops: float, value: float) -> None:
        """An evaluation. flops: of the trial, all its stays together. Raises Spent when it was the last to be paid for."""
        self.use(number, flops)
        self.points.append((number, rung, self.spent, value))
        if self.spent >= self.total:
            raise Spent

    def use(self, number: int, flops: float) -> None:
        self.spent += max(0.0, flops - self._used.get(number, 0.0))
        self._used[number] = max(flops, self._used.get(number, 0.0))

    def end(self, number: int, how: str) -> None:
        self.trials[number]["end"] = how


@dataclass(frozen=True)
class Job:
    """One search to do."""

    system: str
    seed: int
    data: str
    total: float
    """Training FLOPs, in whole trials' budgets."""
    cache: Path
    train: Callable[[TrialConfig, DataConfig], Iterator[EvalPoint | TrainResult]]
    """Trains, for the systems that bring their own loop."""
    executor: Executor
    """Trains the same, for ours."""
    file: Path = SPACE

    def space(self, priors: bool) -> SearchSpace:
        document = YAML(typ="safe", pure=True).load(self.file.read_text("utf-8"))
        document["data"]["text"] = self.data
        document["parameters"]["seed"] = self.seed
        if not priors:
            for entry in document["parameters"].values():
                if isinstance(entry, dict):
                    entry.pop("prior", None)
        return parse_space(to_yaml(document), f"{self.file}")


class Trials:
    """Trains for the systems that bring their own loop, with what hpsearch's own slots train with."""

    def __init__(self, space: SearchSpace, job: Job) -> None:
        assert space.budget.amount is not None
        self._space, self._cache, self._train = space, job.cache, job.train
        self._budget = BudgetRecord("flops", space.budget.amount, space.budget.evaluations, space.budget.amount)
        self._corpora: Corpora = {}

    def config(self, proposal: Mapping[str, Any]) -> TrialConfig:
        return concrete(self._space, proposal, self._budget, self._cache, self._corpora)

    def run(self, proposal: Mapping[str, Any]) -> Iterator[tuple[int, float, float]]:
        """Rung, FLOPs and measure at each evaluation; of a run that diverges those before, and then rung 0 with infinity."""
        config = self.config(proposal)
        with contextlib.closing(self._train(config, self._space.data)) as run:  # type: ignore[type-var]
            for item in run:
                if isinstance(item, EvalPoint):
                    yield item.rung, item.flops, item.metrics[MEASURE]
                elif item.outcome is Outcome.DIVERGED:
                    yield 0, flops_at(config, item.iteration), float("inf")


def flops_at(config: TrialConfig, iteration: int) -> float:
    return iteration * step_flops(config)


# Ours


class Recorder(Silent):
    """Tells the ledger what the coordinator did."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def started(self, trial: TrialRecord, slot: str, from_iteration: int) -> None:
        self._ledger.begin(trial.number, trial.params, trial.proposed_by)

    def evaluated(self, trial: TrialRecord, point: EvalPoint) -> None:
        with contextlib.suppress(Spent):  # The coordinator's own limit is the same.
            self._ledger.add(trial.number, point.rung, point.flops, point.metrics[MEASURE])

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        config = TrialConfig.build({name: value for name, value in trial.config.items() if value is not None})
        if trial.reason.startswith("diverged"):
            self._ledger.use(trial.number, flops_at(config, trial.iteration))
        self._ledger.end(trial.number, f"{trial.state}: {trial.reason}" if trial.reason else f"{trial.state}")


def ours(
    sampler: str, scheduler: str, pruner: str | None = None, priors: bool = True
) -> Callable[[Job, Ledger], dict[str, Any]]:
    def search(job: Job, ledger: Ledger) -> dict[str, Any]:
        folder = Path(tempfile.mkdtemp())
        space = job.space(priors)
        request = Request(
            space,
            space.name,
            ENDLESS,
            f"sqlite:///{folder / 'search.db'}",
            folder,
            job.cache,
            sampler=sampler,
            scheduler=scheduler,
            pruner=pruner,
            seed=job.seed,
        )
        owner = this_process()
        study = open_study(request, check(request), owner)
        try:
            Coordinator(study, job.executor, Recorder(ledger), owner, Limits(flops=ledger.total)).run()
            return {"confirmed": confirmed(study, job.executor, owner)} if job.system in CONFIRMED else {}
        finally:
            study.store.release(study.record.id, owner)
            shutil.rmtree(folder)

    return search


def confirmed(study: Study, executor: Executor, owner: Owner) -> list[dict[str, Any]]:
    """The search's best and its default, trained once more from fresh seeds."""
    trials = study.store.trials(study.record.id)
    ranked = sorted((each for each in trials if each.state is TrialState.COMPLETE), key=lambda each: each.value or 0.0)
    chosen = confirmable(ranked, next(each for each in trials if each.number == 0), 1)
    confirmation = Confirmation(
        study.store, study.record, executor, owner, study.folder, study.cache_dir, study.devices, lambda text: None
    )
    confirmation.run(left_to_do(chosen, fresh_seeds(trials, CONFIRM_SEEDS), []))
    return [
        {"trial": record.trial_number, "best": ranked[0].number, "seed": record.seed, "value": record.value}
        for record in study.store.confirmations(study.record.id)
    ]


# Peers


def optuna_alone(sampler: str, pruner: str) -> Callable[[Job, Ledger], dict[str, Any]]:
    def search(job: Job, ledger: Ledger) -> dict[str, Any]:
        space = job.space(priors=False)
        trials, last = Trials(space, job), space.budget.evaluations

        def objective(trial: optuna.Trial) -> float:
            proposal = suggest(trial, space)  # Nothing but trial.suggest_float, _int and _categorical.
            ledger.begin(trial.number, proposal, sampler)
            value = float("nan")
            for rung, flops, value in trials.run(proposal):
                if not rung:
                    ledger.use(trial.number, flops)
                    ledger.end(trial.number, "diverged")
                    raise optuna.TrialPruned
                ledger.add(trial.number, rung, flops, value)
                trial.report(value, rung)
                if rung < last and trial.should_prune():
                    ledger.end(trial.number, "pruned")
                    raise optuna.TrialPruned
            ledger.end(trial.number, "complete")
            return value

        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        pruners = {"median": optuna.pruners.MedianPruner, "none": optuna.pruners.NopPruner}
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # It calls a search that has spent its compute a failed trial.
        study = optuna.create_study(sampler=samplers[sampler](seed=job.seed), pruner=pruners[pruner]())
        with contextlib.suppress(Spent):
            study.optimize(objective, n_trials=ENDLESS)
        return {}

    return search


def ray_tune(job: Job, ledger: Ledger) -> dict[str, Any]:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    space = job.space(priors=False)
    folder = Path(tempfile.mkdtemp())
    trials = Trials(space, job)

    def trainable(proposal: dict[str, Any]) -> None:
        for rung, flops, value in trials.run(proposal):
            tune.report({MEASURE: min(value, 1e3), "rung": rung or space.budget.evaluations, "flops": flops})

    numbers: dict[str, int] = {}

    class Recording(tune.Callback):  # type: ignore[misc]
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            number = numbers.setdefault(trial.trial_id, len(numbers))
            ledger.begin(number, trial.config, "ray")
            if result[MEASURE] >= 1e3:
                ledger.use(number, result["flops"])
            else:
                with contextlib.suppress(Spent):
                    ledger.add(number, result["rung"], result["flops"], result[MEASURE])

    class Until(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return ledger.spent >= ledger.total

    # Its worker has this process's modules: those beside this file and those of the tree under test.
    path = os.pathsep.join(dict.fromkeys([str(HERE), str(HERE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )
    try:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric=MEASURE,
                mode="min",
                search_alg=OptunaSearch(space=space.distributions(), metric=MEASURE, mode="min", seed=job.seed),
                scheduler=ASHAScheduler(time_attr="rung", max_t=space.budget.evaluations),
                num_samples=ENDLESS,
                max_concurrent_trials=1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=str(folder), callbacks=[Recording()], stop=Until(), verbose=0),
        ).fit()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    return {}


def syne_tune(job: Job, ledger: Ledger) -> dict[str, Any]:
    from datetime import datetime

    from syne_tune import config_space as domains
    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer.baselines import ASHACQR
    from syne_tune.optimizer.scheduler import SchedulerDecision

    space = job.space(priors=False)
    trials, last = Trials(space, job), space.budget.evaluations

    def domain(distribution: Any) -> Any:
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            return domains.choice(list(distribution.choices))
        if isinstance(distribution, optuna.distributions.IntDistribution):
            return (domains.lograndint if distribution.log else domains.randint)(distribution.low, distribution.high)
        return (domains.loguniform if distribution.log else domains.uniform)(distribution.low, distribution.high)

    asked = {name: domain(distribution) for name, distribution in space.distributions().items()}
    scheduler = ASHACQR(asked, metric=MEASURE, time_attr="rung", max_t=last, random_seed=job.seed)
    with contextlib.suppress(Spent):
        for number in range(ENDLESS):
            suggestion = scheduler.suggest()
            assert suggestion is not None
            trial = Trial(trial_id=number, config=suggestion.config, creation_time=datetime.now())
            scheduler.on_trial_add(trial)
            ledger.begin(number, suggestion.config, "syne")
            decision = SchedulerDecision.CONTINUE
            for rung, flops, value in trials.run(suggestion.config):
                if not rung:
                    ledger.use(number, flops)
                    scheduler.on_trial_result(trial, {MEASURE: 1e3, "rung": last})
                    ledger.end(number, "diverged")
                    break
                ledger.add(number, rung, flops, value)
                decision = scheduler.on_trial_result(trial, {MEASURE: value, "rung": rung})
                if decision == SchedulerDecision.STOP:
                    ledger.end(number, "pruned" if rung < last else "complete")
                    break
            scheduler.on_trial_remove(trial)
    return {}


SYSTEMS: dict[str, Callable[[Job, Ledger], dict[str, Any]]] = {
    "auto+halving": ours("auto", "halving"),
    "auto+halving, no priors": ours("auto", "halving", priors=False),
    "optuna": optuna_alone("tpe", "median"),
    "prior+near": ours("prior+near", "none", pruner="none"),
    "prior+near+halving": ours("prior+near", "halving"),
    "random": optuna_alone("random", "none"),
    "ray": ray_tune,
    "syne": syne_tune,
    "auto+median": ours("auto", "none", pruner="median"),
    "auto+halving_only": ours("auto", "halving_only"),
}
"""What searches, and how. `prior+near` is what every other one has to beat: a scaling law's trial, then draws around."""
NEEDS = {"ray": "ray", "syne": "syne_tune"}
SAMPLERS["prior+near"] = lambda setup: Near(setup.space, setup.fresh, setup.law)


def search(job: Job) -> dict[str, Any]:
    """One search, as a line of the output."""
    began = time.process_time()
    budget = job.space(priors=False).budget
    assert budget.amount is not None
    ledger = Ledger(job.total * budget.amount)
    more = SYSTEMS[job.system](job, ledger)
    return {
        "system": job.system,
        "seed": job.seed,
        "total": job.total,
        "trial_flops": budget.amount,
        "rungs": budget.evaluations,
        "spent": ledger.spent,
        "trials": {number: told | {"proposal": _short(told["proposal"])} for number, told in ledger.trials.items()},
        "points": [(number, rung, float(f"{spent:.5g}"), round(value, 5)) for number, rung, spent, value in ledger.points],
        "seconds": round(time.process_time() - began, 1),
        **more,
    }


def _short(proposal: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in proposal.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pydoc", help="a text file, or a text that every Python has")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--total", type=float, default=16.0, help="compute of one search, in whole trials")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--cache", type=Path, default=cache_dir())
    parser.add_argument("--runs", type=Path, help="where training runs are kept; by default in a folder that is removed")
    parser.add_argument("--out", type=Path, default=HERE / "search.jsonl")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)
    runs = (options.runs or Path(tempfile.mkdtemp())).absolute()
    os.environ["HPSEARCH_RUNS"] = str(runs)
    train = functools.partial(follow, cache_dir=options.cache, folder=runs)
    with (
        options.out.open("a", encoding="utf-8") as out,
        contextlib.closing(LocalExecutor(1, 1, trainer="runs:trainer")) as executor,
    ):
        for seed, system in left(options.out, options.seeds, options.systems):
            tell(search(Job(system, seed, options.data, options.total, options.cache, train, executor)), out)


def left(out: Path, seeds: int, systems: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Seed and system of each search that the file has not yet."""
    done = {(row["seed"], row["system"]) for row in read(out)}
    for seed in range(seeds):
        for system in systems:
            if system in NEEDS and importlib.util.find_spec(NEEDS[system]) is None:
                print(f"{system}: {NEEDS[system]} is not installed", flush=True)
            elif (seed, system) not in done:
                yield seed, system


def tell(row: Mapping[str, Any], out: TextIO) -> None:
    out.write(json.dumps(row) + "\n")
    out.flush()
    whole = [value for _, rung, _, value in row["points"] if rung == row["rungs"]]
    best = f"{min(whole):.4f}" if whole else "none"
    print(f"seed {row['seed']} {row['system']}: {len(row['trials'])} trials, {len(whole)} whole, best {best}", flush=True)


if __name__ == "__main__":
    main()

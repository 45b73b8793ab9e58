"""The benchmark of searches: what it charges them is what their trials cost, and what it says of them is what they did."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.model.counting import step_flops
from hpsearch.training.schedules import step_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

TINY = """
name: tiny
data: {text: pydoc, tokenizer: bytes}
budget: {flops: 2e7, evaluations: 4}
parameters:
  learning_rate: {low: 1e-4, high: 1e-1, log: true, prior: auto}
  batch_size: {low: 2, high: 4, prior: auto}
  d_model: {choices: [8, 12]}
  num_layers: 1
  d_ff: 16
  num_heads: 2
  context_length: 16
  position: sinusoidal
  eval_iters: 1
  save_interval: 1000000
  max_new_tokens: 4
"""


@pytest.fixture(scope="module")
def search() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("search")


@pytest.fixture(scope="module")
def rows(search: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("search")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPSEARCH_RUNS", str(folder / "runs"))
        train = functools.partial(search.follow, cache_dir=folder / "cache", folder=folder / "runs")
        with closing(LocalExecutor(1, 1, trainer="runs:trainer")) as executor:
            return {
                system: search.search(
                    search.Job(system, 3, "pydoc", 3.0, folder / "cache", train, executor, folder / "tiny.yaml")
                )
                for system in ("auto+halving", "optuna")
            }


@pytest.mark.parametrize("system", ["auto+halving", "optuna"])
def test_a_search_is_charged_what_its_trials_cost(
    search: ModuleType, rows: dict[str, dict[str, Any]], tmp_path: Path, system: str
) -> None:
    row = rows[system]
    (tmp_path / "tiny.yaml").write_text(TINY)
    job = search.Job(system, 3, "pydoc", 3.0, tmp_path / "cache", None, None, tmp_path / "tiny.yaml")
    trials = search.Trials(job.space(priors=True), job)
    cost = 0.0
    for number, told in row["trials"].items():
        config = trials.config(told["proposal"])
        rungs = [rung for trial, rung, _, _ in row["points"] if trial == number]
        assert rungs == list(range(1, len(rungs) + 1))
        cost += step_of(len(rungs), config.max_iters, config.eval_interval) * step_flops(config)
        assert search.flops_at(config, config.max_iters) <= row["trial_flops"]
    assert row["spent"] == pytest.approx(cost, rel=1e-3)
    spent = [each for _, _, each, _ in row["points"]]
    assert spent == sorted(spent)
    assert row["total"] * row["trial_flops"] <= row["spent"] < (row["total"] + 0.5) * row["trial_flops"]
    whole = [trial for trial, rung, _, _ in row["points"] if rung == row["rungs"]]
    assert whole
    assert len(whole) == len(set(whole))


def test_the_baseline_is_what_the_scaling_law_says_and_is_confirmed(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["auto+halving"]
    assert row["trials"][0]["by"] == "prior"
    assert row["trials"][0]["proposal"]["learning_rate"] == pytest.approx(0.0414, rel=0.01)  # A model of 600 parameters.
    seeds = [each["seed"] for each in row["confirmed"] if each["trial"] == 0]
    assert len(seeds) == 3
    assert 3 not in seeds


def test_what_a_search_reached_is_read_off_its_evaluations(search: ModuleType) -> None:
    report = importlib.import_module("search_report")
    row = {
        "total": 2.0,
        "trial_flops": 100.0,
        "rungs": 2,
        "points": [(0, 1, 50.0, 5.0), (0, 2, 100.0, 4.0), (1, 1, 150.0, 3.0), (1, 2, 200.0, 3.5)],
    }
    assert report.share(row, 4.0, True) == 0.5
    assert report.share(row, 3.5, True) == 1.0
    assert report.share(row, 3.5, False) == 0.75
    assert report.share(row, 3.0, True) == math.inf
    assert report.final(row) == 3.5
    assert report.at(report.steps(row, True), 199.0) == 4.0
    assert report.quantile([1.0, math.inf, 2.0], 0.5) == 2.0

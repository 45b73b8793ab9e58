"""Faults 16, 17 and 18: memory that ends, losses that are not finite, slots that hang."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import optuna
import pytest
from cli import Cli
from databases import on
from invariants import assert_nothing_lost, rows
from tiny import SPACE
from toys import Toys

from hpsearch.storage.records import TrialState

# Nearly all of a step's memory are the logits of its batch, batch_size * 64 * 256 * 4 bytes, some times over: with the room
# that `toy_trainers.transformer_in_little_memory` leaves, 1024 sequences fit only in parts, and 4096 not in four parts either.
HUNGRY = """
name: hungry
data: {text: pydoc, tokenizer: bytes}
budget: {tokens: 262144, evaluations: 1}
parameters:
  batch_size: {choices: [256, 1024, 4096], prior: 256}
  context_length: 64
  num_layers: 1
  d_model: 16
  d_ff: 16
  num_heads: 1
  dropout: 0.0
  eval_iters: 1
  max_new_tokens: 4
"""


@pytest.fixture
def toys(tmp_path: Path, cache_dir: Path) -> Toys:
    return Toys(tmp_path, cache_dir)


@on("storage_url", "sqlite")
def test_fault_16_out_of_memory_is_retried_in_smaller_parts_then_infeasible_and_the_next_trial_starts_clean(
    toys: Toys, storage_url: str
) -> None:
    study, ended = toys.run(
        3,
        text=HUNGRY,
        trainer="transformer_in_little_memory",
        slots=1,
        sampler="grid",
        pruner="none",
        storage_url=storage_url,
    )
    assert ended
    assert_nothing_lost(storage_url, "hungry", 3)
    trials = {record.config["batch_size"]: record for record in study.store.trials(study.record.id)}
    assert (trials[256].state, trials[256].attempts) == (TrialState.COMPLETE, 1)
    assert (trials[1024].state, trials[1024].attempts, trials[1024].micro_batches) == (TrialState.COMPLETE, 2, 4)
    too_large = trials[4096]
    assert (too_large.state, too_large.attempts) == (TrialState.PRUNED, 2)
    assert "out of memory, also with each batch in 4 parts" in too_large.reason
    assert too_large.constraints["memory_bytes"] > 0
    frozen = study.optuna.get_trials(deepcopy=False)[too_large.number]
    assert max(frozen.constraints.values()) > 0
    assert study.optuna.best_trial.number != too_large.number
    # Each end of memory cost its process: no two attempts after one shared it.
    attempts = rows(storage_url, "SELECT pid, outcome FROM hps_attempts ORDER BY started_at, trial_number, attempt")
    assert [attempt["outcome"] for attempt in attempts].count("out-of-memory") == 3
    for earlier, later in itertools.pairwise(attempts):
        assert (earlier["pid"] != later["pid"]) == (earlier["outcome"] == "out-of-memory")


@on("storage_url", "sqlite")
def test_fault_17_a_loss_that_is_not_finite_is_pruned_at_its_step_and_neither_best_nor_tried_again(
    cli: Cli, storage_url: str
) -> None:
    text = SPACE.replace("{low: 1e-4, high: 3e-2, log: true, prior: 3e-4}", "{choices: [3e-4, 1e15], prior: 3e-4}")
    for name, value in (("batch_size", "8"), ("dropout", "0.0"), ("optimizer", "sgd"), ("momentum", "0.9")):
        lines = [f"  {name}: {value}" if line.startswith(f"  {name}:") else line for line in text.splitlines()]
        text = "\n".join(lines) + "\n"
    (cli.folder / "steep.yaml").write_text(text.replace("name: tiny", "name: steep"))
    command = ("run", "--space", "steep.yaml", "--trials", "2", "--sampler", "grid", "--slots", "2", "--device", "cpu")
    done = cli.using(storage_url).run(*command)
    assert done.returncode == 0, done.stderr
    assert_nothing_lost(storage_url, "steep", 2)
    flat, steep = sorted(cli.using(storage_url).json("trials"), key=lambda trial: trial["config"]["learning_rate"])
    assert flat["state"] == "complete"
    assert math.isfinite(flat["value"])
    assert (steep["state"], steep["attempts"]) == ("pruned", 1)
    assert steep["reason"].startswith("diverged: the ")
    assert " at step " in steep["reason"]
    assert steep["iteration"] < flat["iteration"]
    study = optuna.load_study(study_name="steep", storage=storage_url)
    assert study.best_trial.number == flat["number"]


@on("storage_url", "postgresql")
def test_fault_18_a_slot_that_takes_no_step_leaves_its_stacks_and_its_trial_goes_on(toys: Toys, storage_url: str) -> None:
    study, ended = toys.run(3, trainer="hangs_once", step_limit_s=2.0, storage_url=storage_url, pruner="none")
    assert ended
    assert_nothing_lost(storage_url, "toy", 3)
    hung = study.store.trials(study.record.id)[1]
    stacks = study.trial_folder(1) / "stacks.txt"
    assert [path.parent.name for path in study.folder.rglob("stacks.txt")] == ["0001"]
    assert (hung.state, hung.attempts) == (TrialState.COMPLETE, 2)
    first, second = study.store.attempts(study.record.id, 1)
    assert (first.outcome, first.reason) == ("died", "no step for 2 s; its stacks are in trials/0001/stacks.txt")
    assert second.outcome == "complete"
    assert first.pid != second.pid
    assert "in hangs_once" in stacks.read_text()

"""Retraining on fresh seeds, in real slots and with a real database."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toys import Toys

from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.batches import train_batch
from hpsearch.data.corpus import open_corpus
from hpsearch.errors import BadInput, StudyOwned
from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.execution.protocol import Died, Ended, Executor, SlotMessage
from hpsearch.storage.leases import this_process
from hpsearch.storage.records import ConfirmationRecord, Owner, TrialRecord, TrialState
from hpsearch.tuning.confirmation import Confirmation, Retraining, confirmable, fresh_seeds, left_to_do
from hpsearch.tuning.lease import LEASE_S
from hpsearch.tuning.study import Study


class LosesNodes:
    """Passes on what `executor` does, but for the ends of its first jobs: instead, their nodes are lost."""

    def __init__(self, executor: LocalExecutor, times: int) -> None:
        self._executor, self._left = executor, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def messages(self, timeout_s: float) -> list[SlotMessage]:
        found = self._executor.messages(timeout_s)
        for index, message in enumerate(found):
            if self._left and isinstance(message.body, Ended):
                self._left -= 1
                found[index] = replace(message, body=Died(None, "its node left the cluster (a)"))
        return found


def retrain(
    study: Study,
    work: list[Retraining],
    trainer: str = "by_seed",
    slots: int = 2,
    owner: Owner | None = None,
    say: Callable[[Confirmation, str], None] | None = None,
    lost: int = 0,
    step_limit_s: float = 600.0,
) -> tuple[Confirmation, bool]:
    holder = owner or this_process()
    if owner is None:
        study.store.acquire(study.record.id, holder, LEASE_S)
    try:
        with closing(LocalExecutor(slots, 1, trainer=f"confirm_trainers:{trainer}")) as processes:
            executor: Executor = LosesNodes(processes, lost) if lost else processes
            confirmation = Confirmation(
                study.store,
                study.record,
                executor,
                holder,
                study.folder,
                study.cache_dir,
                ("cpu",),
                lambda text: say(confirmation, text) if say else None,
                step_limit_s=step_limit_s,
            )
            return confirmation, confirmation.run(work)
    finally:
        study.store.release(study.record.id, holder)


def found(study: Study) -> dict[tuple[int, int], float]:
    return {(record.trial_number, record.seed): record.value for record in study.store.confirmations(study.record.id)}


@pytest.fixture
def study(toys: Toys) -> Study:
    return toys.run(3)[0]


@pytest.fixture
def trials(study: Study) -> list[TrialRecord]:
    return study.store.trials(study.record.id)[:2]


def test_seeds_are_those_that_no_trial_had_and_more_add_to_fewer(trials: list[TrialRecord]) -> None:
    assert {trial.config["seed"] for trial in trials} == {0}
    assert fresh_seeds(trials, 3) == [1, 2, 3]
    taken = [replace(trial, config=trial.config | {"seed": 2}) for trial in trials]
    assert fresh_seeds(taken, 3) == [1, 3, 4]
    assert fresh_seeds(taken, 5)[:3] == fresh_seeds(taken, 3)


def test_what_is_left_goes_seed_by_seed_without_what_is_stored(trials: list[TrialRecord]) -> None:
    done = [ConfirmationRecord(1, 1, 2.0, {}, 1.0, 1.0)]
    left = left_to_do(trials, [1, 2], done)
    assert [(work.trial.number, work.seed) for work in left] == [(0, 1), (0, 2), (1, 2)]


def test_the_default_is_always_among_the_confirmed_and_once(trials: list[TrialRecord]) -> None:
    default, other = trials
    assert confirmable([other, default], default, top=1) == [default, other]
    assert confirmable([default, other], default, top=2) == [default, other]
    pruned = replace(default, state=TrialState.PRUNED)
    assert confirmable([other], pruned, top=3) == [pruned, other]
    assert confirmable([other], replace(default, config={}), top=3) == [other]


def test_a_preferred_trial_is_confirmed_whatever_its_rank(trials: list[TrialRecord]) -> None:
    default, other = trials
    small = replace(other, number=2)
    assert confirmable([other, default, small], default, 1, small) == [default, other, small]
    assert confirmable([other, small, default], default, 2, small) == [default, other, small]
    assert confirmable([other, default], default, 1, default) == [default, other]


def test_one_seed_gives_configurations_the_same_text_in_the_same_order(toys: Toys) -> None:
    data = DataConfig(text="pydoc", tokenizer="bytes")
    small, large = (
        TrialConfig.build({"max_iters": 1, "batch_size": size, "context_length": 16, "d_model": width, "seed": 7})
        for size, width in ((2, 16), (4, 32))
    )
    corpus = open_corpus(data, vocab_size=small.vocab_size, architecture="decoder", cache_dir=toys.cache_dir)
    rows = np.concatenate([train_batch(corpus, small, iteration).inputs_BT.numpy() for iteration in range(2)])
    assert (rows == train_batch(corpus, large, 0).inputs_BT.numpy()).all()
    other = small.model_copy(update={"seed": 8})
    assert (train_batch(corpus, other, 0).inputs_BT.numpy() != rows[:2]).any()


def test_each_result_is_stored_and_a_second_call_has_nothing_left(study: Study, trials: list[TrialRecord]) -> None:
    _, whole = retrain(study, left_to_do(trials, [1, 2], []))
    assert whole
    rates = {trial.number: trial.config["learning_rate"] for trial in trials}
    assert found(study) == {
        (number, seed): pytest.approx(rate + 0.01 * seed) for number, rate in rates.items() for seed in (1, 2)
    }
    record = study.store.confirmations(study.record.id, 0)[0]
    assert (record.seconds, record.metrics["train_seconds"]) == (2.5, 2.5)
    assert record.flops > 0
    assert record.at > 0
    assert left_to_do(trials, [1, 2], study.store.confirmations(study.record.id)) == []
    assert (study.folder / "confirm" / "0000-1" / "attempts").read_text() == "1\n"


def test_faults_cost_an_attempt_a_divergence_is_a_result_and_a_bug_is_told(study: Study, trials: list[TrialRecord]) -> None:
    confirmation, whole = retrain(study, left_to_do(trials[:1], [1, 2, 3, 4, 5], []), "eventful", slots=1)
    assert not whole
    assert confirmation.failures == ["trial 0 on seed 5: ValueError: a bug"]
    values = found(study)
    assert set(values) == {(0, 1), (0, 2), (0, 3), (0, 4)}
    assert math.isnan(values[0, 2])
    assert (study.folder / "confirm" / "0000-3" / "attempts").read_text() == "2\n"
    assert (study.folder / "confirm" / "0000-4" / "attempts").read_text() == "2\n"
    confirmation, _ = retrain(study, left_to_do(trials[:1], [5], []), "eventful", slots=1)
    assert confirmation.failures, "what failed is tried again"


def test_lost_nodes_do_not_count_against_a_retraining_as_its_own_deaths_do(study: Study, trials: list[TrialRecord]) -> None:
    heard: list[str] = []
    work = left_to_do(trials[:1], [1], [])
    confirmation, whole = retrain(study, work, slots=1, lost=3, say=lambda _, text: heard.append(text))
    assert (whole, confirmation.failures) == (True, [])
    assert heard.count("trial 0 on seed 1: its node left the cluster (a); it goes on from its last checkpoint") == 3
    assert set(found(study)) == {(0, 1)}
    confirmation, whole = retrain(study, left_to_do(trials[:1], [2], []), slots=1, lost=20)
    assert (whole, confirmation.failures) == (False, ["trial 0 on seed 2: its node left the cluster (a)"])


def test_a_retraining_that_kills_its_slot_three_times_is_given_up(study: Study, trials: list[TrialRecord]) -> None:
    confirmation, whole = retrain(study, left_to_do(trials[:1], [1], []), "kills_its_process", slots=1)
    assert (whole, confirmation.failures) == (False, ["trial 0 on seed 1: killed by signal 9"])


def test_after_memory_was_short_parts_are_smaller_than_those_the_loop_had_chosen(
    study: Study, trials: list[TrialRecord]
) -> None:
    large = [replace(trials[0], config=trials[0].config | {"batch_size": 48})]
    confirmation, whole = retrain(study, left_to_do(large, [1, 2], []), "needs_many_parts")
    assert not whole
    assert set(found(study)) == {(0, 1)}
    assert confirmation.failures == ["trial 0 on seed 2: OutOfMemory: too much"]
    parts = {seed: (study.folder / "confirm" / f"0000-{seed}" / "parts").read_text().split() for seed in (1, 2)}
    assert parts == {1: ["8", "32"], 2: ["8", "32", "48"]}, "no more parts than the batch has sequences"


def test_a_retraining_that_hangs_goes_on_in_another_slot(study: Study, trials: list[TrialRecord]) -> None:
    _, whole = retrain(study, left_to_do(trials[:1], [1], []), "hangs_once", slots=1, step_limit_s=2.0)
    assert whole
    assert (study.folder / "confirm" / "0000-1" / "attempts").read_text() == "2\n"
    assert (study.folder / "confirm" / "0000-1" / "stacks.txt").exists()


def test_a_stop_pauses_the_runs_and_the_same_call_goes_on(study: Study, trials: list[TrialRecord]) -> None:
    def stop_when_both_run(confirmation: Confirmation, text: str) -> None:
        if text.startswith("trial 0 on seed 2"):
            confirmation.stop("interrupted")

    work = left_to_do(trials[:1], [1, 2, 3], [])
    confirmation, whole = retrain(study, work, "second_seed_waits", slots=1, say=stop_when_both_run)
    assert (whole, confirmation.stopping, confirmation.failures) == (False, "interrupted", [])
    assert set(found(study)) == {(0, 1)}
    left = left_to_do(trials[:1], [1, 2, 3], study.store.confirmations(study.record.id))
    _, whole = retrain(study, left)
    assert whole
    assert set(found(study)) == {(0, 1), (0, 2), (0, 3)}


def test_nothing_is_written_without_the_lease(study: Study, trials: list[TrialRecord]) -> None:
    holder, other = this_process(), this_process()
    study.store.acquire(study.record.id, holder, LEASE_S)
    with pytest.raises(StudyOwned):
        retrain(study, left_to_do(trials[:1], [1], []), slots=1, owner=other)
    assert found(study) == {}
    study.store.release(study.record.id, holder)


def test_a_text_that_changed_ends_it_with_its_reason(study: Study, trials: list[TrialRecord]) -> None:
    changed = replace(study, record=replace(study.record, data_fingerprint="0" * 64))
    owner = this_process()
    study.store.acquire(study.record.id, owner, LEASE_S)
    try:
        with closing(LocalExecutor(1, 1)) as executor:
            confirmation = Confirmation(
                study.store, changed.record, executor, owner, study.folder, study.cache_dir, ("cpu",), lambda text: None
            )
            with pytest.raises(BadInput, match="trial 0 on seed 1: the text changed since the study began"):
                confirmation.run(left_to_do(trials[:1], [1], []))
    finally:
        study.store.release(study.record.id, owner)

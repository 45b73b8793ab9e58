"""A study whose trials are paused and promoted, limited, and steered from elsewhere: real slots and a real database."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from operator import le

import pytest
from optuna.trial import FrozenTrial
from toy_spaces import SPACE
from toys import Toys

from hpsearch.errors import BadInput
from hpsearch.sampling.auto import evidence
from hpsearch.sampling.imputation import SO_FAR
from hpsearch.scheduling.schedulers import make_scheduler
from hpsearch.storage.leases import this_process
from hpsearch.storage.records import EndReason, PauseKind, TrialRecord, TrialState
from hpsearch.tuning.coordinator import Coordinator
from hpsearch.tuning.early_stopping import Judge
from hpsearch.tuning.stopping import Limits
from hpsearch.tuning.study import Study
from hpsearch.tuning.trial_store import Ledger


def trials(study: Study) -> list[TrialRecord]:
    return study.store.trials(study.record.id)


def require_ended(study: Study, total: int) -> None:
    assert [trial.number for trial in trials(study)] == list(range(total))
    assert all(trial.state.ended and trial.told for trial in trials(study))
    assert all(frozen.state.is_finished() for frozen in study.optuna.get_trials())


def test_halving_sets_trials_aside_promotes_some_and_ends_the_others_with_their_reasons(toys: Toys) -> None:
    study, ended = toys.run(16, sampler="random", scheduler="halving")
    assert ended == "16 trials are done"
    require_ended(study, 16)
    assert study.record.pruner == "none"
    actions = Counter(decision.action for decision in study.store.decisions(study.record.id))
    assert actions["pause"] > 0
    assert actions["promote"] > 0
    assert trials(study)[0].state is TrialState.COMPLETE, "the baseline runs whole"
    left = [trial for trial in trials(study) if trial.state is TrialState.PRUNED]
    assert left
    assert all("never promoted" in trial.reason and trial.rung < 4 for trial in left)
    assert {trial.end_reason for trial in left} == {EndReason.NOT_PROMOTED}
    best = min(trials(study), key=lambda trial: float(trial.config["learning_rate"]))
    assert best.state is TrialState.COMPLETE, "the curves are ordered by learning rate from the first rung on"


def test_a_promoted_trials_curve_is_that_of_one_that_was_never_paused(toys: Toys) -> None:
    study, _ = toys.run(24, sampler="random", scheduler="halving")
    promoted = {decision.trial_number for decision in study.store.decisions(study.record.id) if decision.action == "promote"}
    assert promoted
    for number in promoted:
        points = study.store.points(study.record.id, number)
        target = float(study.store.trial(study.record.id, number).config["learning_rate"])
        assert [(point.rung, point.metrics["val_bpb"]) for point in points] == [
            (rung, target + 1 / rung) for rung in range(1, len(points) + 1)
        ]
        assert len(points) > 1
        attempts = study.store.attempts(study.record.id, number)
        assert len(attempts) >= 2
        assert all(before.ended_at <= after.started_at for before, after in itertools.pairwise(attempts))  # type: ignore[operator]


def test_trials_that_were_set_aside_stay_so_when_the_study_is_interrupted(toys: Toys) -> None:
    set_aside = toys.stop_when("SELECT 1 FROM hps_trials WHERE state = 'paused'")
    study, ended = toys.run(30, trainer="slow_curve", sampler="random", scheduler="halving", meanwhile=set_aside)
    assert ended == ""
    aside = [trial.number for trial in trials(study) if trial.state is TrialState.PAUSED and " at rung " in trial.reason]
    assert aside
    study, ended = toys.run(30, sampler="random", scheduler="halving")
    assert ended == "30 trials are done"
    require_ended(study, 30)
    promoted = {decision.trial_number for decision in study.store.decisions(study.record.id) if decision.action == "promote"}
    for number in set(aside) - promoted:
        assert len(study.store.attempts(study.record.id, number)) == 1


def test_patience_ends_the_study_and_without_it_the_study_goes_on(toys: Toys) -> None:
    study, ended = toys.run(60, sampler="random", pruner="none", limits=Limits(patience=4))
    assert "no better trial among the last" in ended
    done = len(trials(study))
    assert done < 60
    require_ended(study, done)
    study, ended = toys.run(60, sampler="random", pruner="none", limits=Limits(patience=4))
    assert "no better trial" in ended
    assert len(trials(study)) == done, "the same command starts nothing"
    study, ended = toys.run(60, sampler="random", pruner="none")
    assert ended == "60 trials are done"


@pytest.mark.parametrize("limits", [Limits(flops=3 * 4e6), Limits(slot_hours=3 * 0.04 / 3600)])
def test_a_budget_of_compute_is_a_total_over_all_runs(toys: Toys, limits: Limits) -> None:
    study, ended = toys.run(20, slots=1, pruner="none", limits=limits)
    assert ended == ""
    before = trials(study)
    assert sum(trial.flops for trial in before) == pytest.approx(3 * 4e6, rel=0.1)
    study, ended = toys.run(20, slots=1, pruner="none", limits=limits)
    assert ended == ""
    assert sum(trial.flops for trial in trials(study)) == sum(trial.flops for trial in before)
    study, ended = toys.run(20, slots=1, pruner="none")
    require_ended(study, 20)


def test_the_time_limit_counts_earlier_runs(toys: Toys) -> None:
    study, ended = toys.run(400, slots=1, trainer="slow_curve", pruner="none", limits=Limits(timeout_s=2.0))
    assert ended == ""
    done = len(study.store.attempts(study.record.id))
    study, ended = toys.run(400, slots=1, trainer="slow_curve", pruner="none", limits=Limits(timeout_s=2.0))
    assert ended == ""
    assert len(study.store.attempts(study.record.id)) <= done + 2


def test_requests_from_another_terminal_are_obeyed_once(toys: Toys) -> None:
    def ask(coordinator: Coordinator) -> None:
        study = coordinator._study
        study.store.request(study.record.id, "enqueue", {"params": study.space.prior() | {"learning_rate": 5e-3}})
        study.store.request(study.record.id, "prune", {"number": 0})
        threading.Timer(3.0, study.store.request, [study.record.id, "stop", {}]).start()

    study, ended = toys.run(400, trainer="slow_curve", sampler="random", pruner="none", meanwhile=ask)
    assert ended == ""
    assert trials(study)[0].reason in ("pruned by hand", ""), "it may have been over"
    by_hand = trials(study)[0].reason == "pruned by hand"
    assert trials(study)[0].end_reason is (EndReason.PRUNED_BY_HAND if by_hand else EndReason.COMPLETED)
    assert any(trial.proposed_by == "enqueued" and trial.config["learning_rate"] == 5e-3 for trial in trials(study))
    assert study.store.requests(study.record.id) == []


def test_a_trial_that_is_short_of_memory_is_tried_in_parts_and_then_infeasible(toys: Toys) -> None:
    study, _ = toys.run(4, trainer="short_of_memory", sampler="random", pruner="none")
    require_ended(study, 4)
    never, once = trials(study)[1], trials(study)[2]
    assert (never.state, never.end_reason) == (TrialState.PRUNED, EndReason.OUT_OF_MEMORY)
    assert "out of memory" in never.reason
    assert never.constraints["memory_bytes"] > 0
    assert not never.feasible
    assert [attempt.outcome for attempt in study.store.attempts(study.record.id, 1)] == ["out-of-memory", "out-of-memory"]
    assert study.optuna.trials[1].constraints["memory_bytes"] > 0
    assert once.state is TrialState.COMPLETE
    assert once.micro_batches == 2
    assert [attempt.outcome for attempt in study.store.attempts(study.record.id, 2)] == ["out-of-memory", "complete"]


def test_a_constraint_that_is_known_after_training_makes_a_trial_infeasible_and_never_best(toys: Toys) -> None:
    text = SPACE + "constraints:\n  num_parameters: {max: 1e9}\n"
    study, _ = toys.run(4, text=text, sampler="random", pruner="none")
    assert all(trial.constraints["num_parameters"] < 0 for trial in trials(study))
    assert all(frozen.constraints["num_parameters"] < 0 for frozen in study.optuna.trials)


def test_a_trial_that_takes_longer_than_allowed_ends_there_as_infeasible(toys: Toys) -> None:
    text = SPACE + "constraints:\n  train_seconds: {max: 0.02}\n"
    study, _ = toys.run(3, slots=1, text=text, pruner="none")
    for trial in trials(study):
        # The trainer says 0.01 s for each evaluation.
        assert (trial.state, trial.rung) == (TrialState.PRUNED, 3)
        assert trial.end_reason is EndReason.INFEASIBLE
        assert trial.reason == "infeasible: train_seconds is 0.03 and constrained to at most 0.02"
        assert trial.constraints["train_seconds"] == pytest.approx(0.5)
    assert all(frozen.constraints["train_seconds"] > 0 for frozen in study.optuna.trials)
    study, _ = toys.run(2, slots=1, name="at the end".replace(" ", "-"), text=text.replace("0.02", "0.035"), pruner="none")
    assert [(trial.state, trial.feasible) for trial in trials(study)] == [(TrialState.COMPLETE, False)] * 2
    assert trials(study)[0].reason.startswith("infeasible: train_seconds is 0.04")
    assert {trial.end_reason for trial in trials(study)} == {EndReason.INFEASIBLE}


def test_a_time_that_is_too_short_so_far_ends_no_trial_before_its_end(toys: Toys) -> None:
    text = SPACE + "constraints:\n  train_seconds: {min: 0.03}\n"
    study, _ = toys.run(2, slots=1, text=text, pruner="none")
    assert [(trial.state, trial.rung, trial.end_reason) for trial in trials(study)] == [
        (TrialState.COMPLETE, 4, EndReason.COMPLETED)
    ] * 2


def test_with_several_objectives_only_the_scheduler_sets_trials_aside(toys: Toys) -> None:
    text = SPACE.replace("data:", "objective: [val_bpb, num_parameters]\ndata:").replace("[16, 24]", "[16, 24, 48]")
    with pytest.raises(BadInput, match="--pruner median: Optuna's pruners know one objective, and there are 2; --scheduler"):
        toys.run(3, text=text, pruner="median")
    study, _ = toys.run(12, slots=1, text=text, trainer="sized_curve", scheduler="halving_only", sampler="random")
    assert study.record.pruner == "none"
    assert any(decision.decided_by == "halving" for decision in study.store.decisions(study.record.id))
    seen = trials(study)
    assert {trial.state for trial in seen} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert all(len(trial.values or ()) == 2 for trial in seen if trial.state is TrialState.COMPLETE)


def test_patience_waits_for_the_whole_front_of_several_objectives(toys: Toys) -> None:
    text = SPACE.replace("data:", "objective: [val_bpb, num_parameters]\ndata:").replace("[16, 24]", "[16, 24, 48]")
    limits = Limits(patience=4)
    study, ended = toys.run(60, slots=1, text=text, trainer="sized_curve", sampler="random", limits=limits)
    assert "no better trial among the last 4" in ended
    found = [trial.values for trial in sorted(trials(study), key=lambda trial: trial.ended_at or 0.0) if trial.values]
    better = [not any(all(map(le, other, values)) for other in found[:number]) for number, values in enumerate(found)]
    lower = [all(values[0] < other[0] for other in found[:number]) for number, values in enumerate(found)]
    assert in_a_row(better) == [4]
    assert len(in_a_row(lower)) > 0, "the first objective alone would not have ended it earlier"
    assert in_a_row(lower) != [4]


def test_patience_counts_trials_that_are_set_aside(toys: Toys) -> None:
    limits = Limits(patience=4)
    study, ended = toys.run(60, slots=1, scheduler="halving_only", sampler="random", limits=limits)
    assert "no better trial among the last" in ended
    done = len(trials(study))
    assert done < 30, "most are set aside, and end when the study does"
    require_ended(study, done)


def test_patience_counts_what_was_set_aside_before_an_interruption(toys: Toys) -> None:
    three_aside = (
        "SELECT 1 FROM hps_decisions WHERE action = 'pause' AND at > "
        "(SELECT max(ended_at) FROM hps_trials WHERE state = 'complete') "
        "GROUP BY action HAVING count(DISTINCT trial_number) >= 3"
    )
    study, ended = toys.run(
        60,
        slots=1,
        trainer="slow_curve",
        scheduler="halving_only",
        sampler="random",
        meanwhile=toys.stop_when(three_aside),
    )
    assert ended == ""
    kinds = {trial.pause_kind for trial in trials(study) if trial.state is TrialState.PAUSED}
    assert PauseKind.BY_SCHEDULER in kinds <= {PauseKind.BY_SCHEDULER, PauseKind.INTERRUPTED}
    before = len(trials(study))
    study, ended = toys.run(60, slots=1, scheduler="halving_only", sampler="random", limits=Limits(patience=3))
    assert "no better trial among the last" in ended
    assert len(trials(study)) <= before + 1
    require_ended(study, len(trials(study)))


def test_with_several_objectives_a_model_reads_what_was_set_aside(toys: Toys) -> None:
    text = SPACE.replace("data:", "objective: [val_bpb, num_parameters]\ndata:").replace("[16, 24]", "[16, 24, 48]")
    study, _ = toys.run(16, slots=1, text=text, trainer="sized_curve", scheduler="halving_only")
    assert "tpe" in {trial.proposed_by for trial in trials(study)}
    known = {trial.number: trial for trial in trials(study)}
    frozen = [each for each in study.optuna.trials if each.state.name == "PRUNED"]
    assert frozen
    for trial, each in zip(frozen, evidence_of(study, frozen), strict=True):
        curve = {point.rung: point.metrics["val_bpb"] for point in study.store.points(study.record.id, trial.number)}
        assert trial.system_attrs[SO_FAR]["curve"] == {str(rung): value for rung, value in curve.items()}
        assert each[1] == known[trial.number].num_parameters
        assert each[0] < curve[max(curve)]


def evidence_of(study: Study, wanted: list[FrozenTrial]) -> list[list[float]]:
    """What the model is told of these trials."""
    params = [trial.params for trial in wanted]
    return [each.values for each in evidence(study.optuna, None) if each.params in params and each.state.name == "COMPLETE"][
        -len(wanted) :
    ]


def test_with_several_objectives_the_front_goes_on_at_later_rungs(toys: Toys) -> None:
    text = SPACE.replace("data:", "objective: [val_bpb, num_parameters]\ndata:").replace("[16, 24]", "[16, 24, 48]")
    study, _ = toys.run(18, slots=1, text=text, trainer="sized_curve", scheduler="halving_only", sampler="random")
    whole = {trial.config["d_model"] for trial in trials(study) if trial.state is TrialState.COMPLETE}
    assert whole == {16, 24, 48}, "the best of each size belongs to the front"


def test_branches_are_measured_at_the_trials_own_rungs_where_it_is_decided(toys: Toys) -> None:
    text = SPACE.replace("max_iters: 4, evaluations: 4", "max_iters: 25, evaluations: 10") + "  lr_schedule: wsd\n"
    study, _ = toys.run(4, slots=1, text=text, scheduler="halving", sampler="random")
    scheduler = make_scheduler("halving", 10)
    judge = Judge(study, Ledger(study, this_process()), scheduler)
    config = trials(study)[0].config
    assert judge.branch_rungs(config) == (3, 6)
    assert judge.branch_rungs(config | {"max_iters": 7, "eval_interval": 1}) == (3, 5), (
        "of 7 the fifth is beyond the sixth of 10"
    )
    text = text.replace("lr_schedule: wsd", "lr_schedule: {choices: [wsd, cosine]}").replace("name: toy", "name: both")
    both, _ = toys.run(1, slots=1, text=text, name="both", scheduler="halving", sampler="random")
    assert Judge(both, Ledger(both, this_process()), scheduler).branch_rungs(config) == ()


def in_a_row(better: list[bool]) -> list[int]:
    """Lengths of the stretches of 4 or more without a better trial."""
    return [length for found, group in itertools.groupby(better) if not found and (length := len(list(group))) >= 4]


def test_a_run_of_few_steps_has_all_its_rungs_at_equal_parts(toys: Toys) -> None:
    text = SPACE.replace("max_iters: 4, evaluations: 4", "max_iters: 25, evaluations: 10")
    study, _ = toys.run(2, slots=1, text=text, sampler="random")
    assert {trial.rung for trial in trials(study)} == {10}
    points = [point for point in study.store.points(study.record.id) if point.trial_number == 1]
    assert [(point.rung, point.iteration) for point in points] == [(k, round(2.5 * k)) for k in range(1, 11)]


def test_a_run_of_fewer_steps_than_rungs_is_whole_at_its_end(toys: Toys) -> None:
    text = SPACE.replace("max_iters: 4, evaluations: 4", "evaluations: 10") + "  max_iters: {choices: [7, 25], prior: 7}\n"
    study, _ = toys.run(16, slots=1, text=text.replace("1e-2, log", "1, log"), scheduler="halving", sampler="random")
    complete = [trial for trial in trials(study) if trial.state is TrialState.COMPLETE]
    assert {(trial.config["max_iters"], trial.rung) for trial in complete} == {(7, 7), (25, 10)}
    scheduler = make_scheduler("halving", 10)
    assert scheduler is not None
    judge = Judge(study, Ledger(study, this_process()), scheduler)
    short = next(trial.config for trial in complete if trial.config["max_iters"] == 7)
    assert [judge.rung(short, rung) for rung in range(1, 8)] == [1, 2, 4, 5, 7, 8, 10]
    decided = study.store.decisions(study.record.id)
    assert {decision.rung for decision in decided if decision.decided_by == "halving"} >= {3, 6}
    assert len(complete) >= 3
    judge.restore(study.store.points(study.record.id), decided, trials(study), [])
    verdicts = [scheduler.observe(99, rung, 50 + 1 / rung) for rung in range(1, 7)]
    assert "curve" in {verdict.decided_by for verdict in verdicts}

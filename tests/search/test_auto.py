from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpsearch.sampling.auto import MUTATIONS, START_UP, WIDTH, evidence, near
from hpsearch.sampling.imputation import median_final
from hpsearch.sampling.samplers import PROPOSED_BY, enqueue_baseline, make_sampler, suggest
from hpsearch.space.load import parse_space
from hpsearch.space.parameters import Choices, Range, Searched
from hpsearch.space.space import SearchSpace

SURE = """
name: sure
budget: {max_iters: 10, evaluations: 5}
parameters:
  learning_rate: {low: 1e-5, high: 1e-1, log: true, prior: 1e-4, confidence: high}
  weight_decay: {low: 0.0, high: 1.0, prior: 0.9, confidence: high}
"""
CONDITIONAL = """
name: conditional
budget: {tokens: 1e5, evaluations: 5}
parameters:
  d_model: {choices: [64, 128, 256], prior: 128}
  learning_rate: {low: 1e-5, high: 1e-1, log: true, prior: auto}
  optimizer: {choices: [adamw, sgd], prior: adamw}
  momentum: {low: 0.8, high: 0.99, when: optimizer == 'sgd'}
"""
Objective = Callable[[Mapping[str, Any]], float]


def far(proposal: Mapping[str, Any]) -> float:
    """Best at a rate of 2e-2 and a decay of 0.2: on the other side of both priors of SURE."""
    return float((math.log10(proposal["learning_rate"] / 2e-2) / 4) ** 2 + (proposal["weight_decay"] - 0.2) ** 2)


def search(space: SearchSpace, name: str, seed: int, trials: int, objective: Objective) -> optuna.Study:
    study = optuna.create_study(sampler=make_sampler(name, space, seed, 0))
    enqueue_baseline(study)
    go_on(study, space, trials, objective)
    return study


def go_on(study: optuna.Study, space: SearchSpace, trials: int, objective: Objective) -> None:
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, objective(suggest(trial, space)))


def sources(study: optuna.Study) -> list[str]:
    return [trial.system_attrs[PROPOSED_BY] for trial in study.trials]


@pytest.mark.parametrize(("model", "seeds", "trials"), [("tpe", 24, 30), ("gp", 4, 24)])
def test_a_misleading_prior_is_recovered_from(model: str, seeds: int, trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if model == "tpe":
        monkeypatch.setattr("hpsearch.sampling.auto.GP_LIMIT", -1)
    space = parse_space(SURE)
    misled = [search(space, "auto", seed, trials, far).best_value for seed in range(seeds)]
    random = [search(space, "random", seed, trials, far).best_value for seed in range(24)]
    assert far(space.prior()) > 0.8
    assert statistics.mean(misled) <= statistics.mean(random) + 0.005
    assert max(misled) <= max(random) + 0.02


def test_a_good_prior_is_worth_more_than_none() -> None:
    space = parse_space(SURE)

    def close(proposal: Mapping[str, Any]) -> float:
        return float(abs(math.log10(proposal["learning_rate"] / 1.5e-4)) + abs(proposal["weight_decay"] - 0.87))

    early = {
        name: statistics.mean(search(space, name, seed, START_UP, close).best_value for seed in range(20))
        for name in ("auto", "auto_wide")
    }
    assert early["auto"] < early["auto_wide"]


def test_what_proposed_each_trial_is_told() -> None:
    study = search(parse_space(SURE), "auto", 3, 14, far)
    told = sources(study)
    assert told[0] == "prior"
    assert set(told[1:START_UP]) == {"near-prior", "wide"}
    # High confidence: one in five is wide.
    assert told[1:START_UP].count("wide") == 1
    assert "gp" in told[START_UP:]
    assert set(told[START_UP:]) <= {"gp", "tpe", "near-prior", "wide"}


def test_auto_wide_never_draws_around_a_prior() -> None:
    told = sources(search(parse_space(SURE), "auto_wide", 3, 14, far))
    assert told[:START_UP] == ["prior"] + ["wide"] * (START_UP - 1)
    assert "near-prior" not in told


def test_the_first_wide_draws_leave_no_large_part_of_a_range_untried() -> None:
    study = search(parse_space(SURE), "auto_wide", 3, START_UP, far)
    rates = sorted(math.log10(trial.params["learning_rate"]) for trial in study.trials[1:])
    rate = parse_space(SURE).parameters["learning_rate"]
    assert isinstance(rate, Range)
    low, high = math.log10(rate.low), math.log10(rate.high)
    parts = [int(START_UP * (each - low) / (high - low)) for each in rates]
    assert len(set(parts)) == len(parts) == START_UP - 1


def test_a_resumed_study_goes_on_as_it_would_have() -> None:
    space, storage = parse_space(SURE), optuna.storages.InMemoryStorage()
    whole = search(space, "auto", 5, 13, far)
    first = optuna.create_study(study_name="resumed", storage=storage, sampler=make_sampler("auto", space, 5, 0))
    enqueue_baseline(first)
    go_on(first, space, 10, far)
    again = optuna.load_study(study_name="resumed", storage=storage, sampler=make_sampler("auto", space, 5, 10))
    go_on(again, space, 3, far)
    assert "gp" in sources(whole)[6:]
    assert sources(again) == sources(whole)
    assert [trial.params for trial in again.trials] == [trial.params for trial in whole.trials]


def test_the_law_is_asked_once_the_shape_is_drawn() -> None:
    space = parse_space(CONDITIONAL)
    asked: list[Any] = []

    def law(parameter: Searched, settings: Mapping[str, Any]) -> float:
        asked.append(settings["d_model"])
        return 1.0 / settings["d_model"] ** 2

    study = optuna.create_study(sampler=make_sampler("auto", space, 0, 0, law=law))
    enqueue_baseline(study)
    go_on(study, space, START_UP, lambda proposal: proposal["learning_rate"])
    assert study.trials[0].params["learning_rate"] == pytest.approx(1 / 128**2)
    assert len(set(asked)) > 1
    low, high = math.log(1e-5), math.log(1e-1)
    for trial in study.trials[1:]:
        if trial.system_attrs[PROPOSED_BY] == "near-prior":
            away = math.log(trial.params["learning_rate"] * trial.params["d_model"] ** 2)
            assert abs(away) < 4 * WIDTH["medium"] * (high - low)


@pytest.mark.parametrize("trials", [24])
def test_conditions_are_obeyed_and_nothing_is_proposed_twice(trials: int) -> None:
    space = parse_space(CONDITIONAL)
    study = search(space, "auto", 1, trials, lambda proposal: proposal["learning_rate"] + proposal.get("momentum", 1.0))
    for trial in study.trials:
        assert set(space.active(trial.params)) == set(trial.params)
    assert len({tuple(sorted(trial.params.items())) for trial in study.trials}) == trials


def test_several_objectives_are_left_to_tpe() -> None:
    space = parse_space(SURE)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=make_sampler("auto", space, 0, 0))
    enqueue_baseline(study)
    for _ in range(START_UP + 8):
        trial = study.ask()
        proposal = suggest(trial, space)
        study.tell(trial, [far(proposal), proposal["weight_decay"]])
    assert "tpe" in sources(study)
    assert "gp" not in sources(study)


@pytest.mark.parametrize("confidence", ["low", "medium", "high"])
def test_draws_are_as_far_from_a_prior_as_its_confidence_is_low(confidence: str) -> None:
    random = Random(0)
    middle = parse_space(SURE.replace("prior: 1e-4, confidence: high", f"prior: 1e-3, confidence: {confidence}"))
    rate = middle.parameters["learning_rate"]
    assert isinstance(rate, Range)
    drawn = [math.log10(float(near(rate, 1e-3, random))) for _ in range(2000)]  # type: ignore[arg-type]
    assert statistics.mean(drawn) == pytest.approx(-3, abs=0.1)
    assert min(drawn) >= -5
    assert max(drawn) <= -1
    wanted = {"low": 0.3, "medium": 0.2, "high": 0.1}[confidence] * 4
    # Cut at the ends of the range, the widest one is narrower than its name.
    assert 0.75 * wanted < statistics.stdev(drawn) < 1.05 * wanted


def test_a_whole_number_and_a_choice_are_drawn_around_their_prior() -> None:
    space = parse_space(
        "name: whole\nparameters:\n  num_layers: {low: 1, high: 9, prior: 5, confidence: high}\n"
        "  optimizer: {choices: [adamw, sgd, lion], prior: sgd, confidence: high}\n  dropout: {low: 0, high: 0.5, step: 0.1}\n"
    )
    layers, optimizer = space.parameters["num_layers"], space.parameters["optimizer"]
    assert isinstance(layers, Range)
    assert isinstance(optimizer, Choices)
    random = Random(0)
    assert {near(layers, 5, random) for _ in range(300)} <= set(range(1, 10))
    drawn = [near(optimizer, "sgd", random) for _ in range(1000)]
    assert 0.75 < drawn.count("sgd") / 1000 < 0.85
    assert set(drawn) == {"adamw", "sgd", "lion"}


def ended(state: TrialState, value: float | None, reported: dict[int, float], **attributes: Any) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=state,
        value=value,
        params={"dropout": len(reported) / 10 + (value or 0.0) / 100},
        distributions={"dropout": optuna.distributions.FloatDistribution(0, 1)},
        intermediate_values=reported,
        user_attrs=attributes,
    )


def test_the_signal_of_unfinished_trials_is_not_lost() -> None:
    study = optuna.create_study()
    study.add_trials(
        [
            ended(TrialState.COMPLETE, 2.0, {1: 4.0, 2: 3.0, 3: 2.0}),
            ended(TrialState.COMPLETE, 2.5, {1: 5.0, 2: 3.0, 3: 2.5}),
            ended(TrialState.COMPLETE, 3.0, {1: 6.0, 2: 4.0, 3: 3.0}),
            ended(TrialState.PRUNED, None, {1: 7.0, 2: 5.0}),
            ended(TrialState.PRUNED, None, {1: 3.0}, end_reason="diverged"),
            ended(TrialState.PRUNED, None, {}),
            ended(TrialState.FAIL, None, {1: 1.0}),
            ended(TrialState.RUNNING, None, {1: 4.5}),
            ended(TrialState.RUNNING, None, {}),
        ]
    )
    seen = evidence(study, study.ask())
    # From rung 2 the three came to 2/3, 5/6 and 3/4 of their value there, from rung 1 to a half.
    assert [trial.value for trial in seen] == [2.0, 2.5, 3.0, 3.75, 3.0, 3.0, 2.25, None]
    assert [trial.state.name for trial in seen] == ["COMPLETE"] * 7 + ["RUNNING"]


def test_a_trial_that_broke_a_constraint_counts_as_broken_whatever_the_others_lack() -> None:
    study = optuna.create_study()
    good, large = ended(TrialState.COMPLETE, 2.0, {1: 2.0}), ended(TrialState.PRUNED, None, {1: 0.5})
    large.set_constraint("memory_bytes", 0.25)
    study.add_trials([good, large])
    seen = evidence(study, study.ask())
    assert [trial.value for trial in seen] == [2.0, 2.0]
    assert [trial.constraints["broken"] > 0 for trial in seen] == [False, True]


def test_while_no_trial_is_complete_they_are_compared_where_all_have_been() -> None:
    study = optuna.create_study()
    study.add_trials(
        [
            ended(TrialState.RUNNING, None, {1: 5.0, 2: 4.0}),
            ended(TrialState.RUNNING, None, {1: 4.5}),
            ended(TrialState.PRUNED, None, {1: 9.0}, end_reason="diverged"),
            ended(TrialState.RUNNING, None, {}),
        ]
    )
    assert [trial.value for trial in evidence(study, study.ask())] == [5.0, 4.5, 5.0, None]
    study = optuna.create_study()
    study.add_trials([ended(TrialState.RUNNING, None, {})])
    assert evidence(study, study.ask()) == []


def test_a_value_that_may_be_below_0_has_no_proportion() -> None:
    complete = [ended(TrialState.COMPLETE, value, {1: value + 1.0, 2: value}) for value in (-0.5, 0.5, 2.0)]
    assert median_final(ended(TrialState.PRUNED, None, {1: 3.0}), complete) == 2.0
    assert median_final(ended(TrialState.PRUNED, None, {1: -0.5}), complete[1:]) == -1.5


def test_without_complete_trials_nothing_is_known_of_a_final_value() -> None:
    assert median_final(ended(TrialState.PRUNED, None, {}), []) is None
    assert median_final(ended(TrialState.PRUNED, None, {1: 3.0}), []) == 3.0
    assert median_final(ended(TrialState.PRUNED, None, {1: math.inf}), []) is None


def test_in_a_space_of_many_parameters_the_best_is_mutated_in_a_few_of_them() -> None:
    names = ["learning_rate", "weight_decay", "dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "grad_clip"]
    names += ["adam_epsilon", "beta1", "beta2", "lr_decay_ratio", "initializer_range", "layer_norm_epsilon", "z_loss_weight"]
    ranges = "\n".join(f"  {name}: {{low: 1e-4, high: 1e-3}}" for name in names)
    space = parse_space(f"name: many\nbudget: {{max_iters: 10, evaluations: 5}}\nparameters:\n{ranges}\n")
    study = search(space, "auto", 0, 60, lambda proposal: sum(proposal.values()))
    told = sources(study)
    mutated = [trial for trial in study.trials if told[trial.number] == "mutation"]
    assert 2 <= len(mutated) <= 20
    for trial in mutated:
        best = min(study.trials[: trial.number], key=lambda each: each.value or math.inf)
        assert 1 <= sum(trial.params[name] != best.params[name] for name in names) <= MUTATIONS[1]
    assert "mutation" not in sources(search(parse_space(SURE), "auto", 0, 40, far)), "few parameters a model tells apart"

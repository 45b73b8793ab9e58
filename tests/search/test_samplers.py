from __future__ import annotations

import optuna
import pytest
from toy_spaces import SPACE

from hpsearch.errors import BadInput, SpaceError
from hpsearch.sampling.samplers import PROPOSED_BY, SAMPLERS, enqueue_baseline, make_sampler, suggest
from hpsearch.scheduling.pruners import PRUNERS, first_rung, make_pruner
from hpsearch.space.load import parse_space

GRID = """
name: grid
data: {text: pydoc, tokenizer: bytes}
parameters:
  d_model: {choices: [16, 24], prior: 16}
  num_heads: {choices: [2, 3], prior: 2}
  optimizer: {choices: [adamw, sgd], prior: adamw}
  momentum: {low: 0.8, high: 0.9, step: 0.1, when: optimizer == 'sgd'}
"""


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "grid"])
def test_every_proposal_satisfies_the_rules_and_has_just_its_active_parameters(name: str) -> None:
    space = parse_space(SPACE)
    study = optuna.create_study(sampler=make_sampler(name, space, 1, 0))
    for _ in range(13):
        trial = study.ask()
        proposal = suggest(trial, space)
        assert space.violation(space.settings(proposal)) is None
        assert ("momentum" in proposal) == (proposal["optimizer"] == "sgd")
        assert trial.params == proposal
        study.tell(trial, proposal["learning_rate"])
    assert [trial.number for trial in study.trials] == list(range(13))


def test_tpe_finds_what_random_draws_do_not() -> None:
    space = parse_space(SPACE)

    def best(name: str, seed: int) -> float:
        study = optuna.create_study(sampler=make_sampler(name, space, seed, 0))
        for _ in range(40):
            trial = study.ask()
            proposal = suggest(trial, space)
            value = abs(proposal["learning_rate"] - 3e-3) * 300 + proposal["weight_decay"] + (proposal["optimizer"] == "sgd")
            study.tell(trial, value)
        return float(study.best_value)

    assert sum(best("tpe", seed) for seed in range(6)) < sum(best("random", seed) for seed in range(6))


def test_a_resumed_study_draws_afresh() -> None:
    space = parse_space(SPACE)

    def first(trials_so_far: int) -> dict[str, object]:
        study = optuna.create_study(sampler=make_sampler("random", space, 7, trials_so_far))
        return suggest(study.ask(), space)

    assert first(0) == first(0)
    assert first(0) != first(5)


def test_the_grid_is_each_feasible_configuration_once() -> None:
    space = parse_space(GRID)
    sampler = make_sampler("grid", space, 0, 0)
    study = optuna.create_study(sampler=sampler)
    # (16, 2), (24, 2), (24, 3) with adamw, sgd 0.8 and sgd 0.9: 16 is no multiple of 3.
    assert sampler.limit(50) == 9
    seen = set()
    for _ in range(9):
        trial = study.ask()
        seen.add(tuple(sorted(suggest(trial, space).items())))
        study.tell(trial, 1.0)
    assert len(seen) == 9


def test_a_grid_over_a_continuous_range_is_refused() -> None:
    with pytest.raises(BadInput, match="learning_rate has endless values; give it a step or choices"):
        make_sampler("grid", parse_space(SPACE), 0, 0)


def test_rules_that_random_draws_never_satisfy_are_an_error_and_no_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    space = parse_space(SPACE)
    monkeypatch.setattr("hpsearch.sampling.samplers.RANDOM_DRAWS", 200)
    monkeypatch.setattr(type(space), "violation", lambda self, settings: "never")
    study = optuna.create_study(sampler=make_sampler("random", space, 0, 0))
    with pytest.raises(SpaceError, match="no configuration satisfied the rules"):
        suggest(study.ask(), space)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="unknown sampler 'tpa'; did you mean 'tpe'"):
        make_sampler("tpa", parse_space(SPACE), 0, 0)
    with pytest.raises(BadInput, match="unknown pruner 'medan'; did you mean 'median'"):
        make_pruner("medan", 10)


def test_no_pruner_decides_before_a_quarter_of_the_budget() -> None:
    assert (first_rung(10), first_rung(4), first_rung(1)) == (3, 1, 1)
    for name in PRUNERS:
        study = optuna.create_study(pruner=make_pruner(name, 10))
        for _ in range(8):
            trial = study.ask()
            for step in range(1, 11):
                trial.report(1.0 / step, step)
            study.tell(trial, 0.1)
        bad = study.ask()
        for step in (1, 2):
            bad.report(9.0, step)
            assert not bad.should_prune(), name


def test_the_median_pruner_ends_a_trial_above_the_median() -> None:
    study = optuna.create_study(pruner=make_pruner("median", 10))
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        trial = study.ask()
        for step in range(1, 11):
            trial.report(value, step)
        study.tell(trial, value)
    good, bad = study.ask(), study.ask()
    good.report(2.5, 3)
    bad.report(3.5, 3)
    assert (good.should_prune(), bad.should_prune()) == (False, True)


def test_a_grid_passes_over_points_that_the_budget_or_a_constraint_rules_out() -> None:
    space = parse_space(GRID)
    sampler = make_sampler("grid", space, 0, 0, lambda proposal: "too large" if proposal["d_model"] == 24 else None)
    study = optuna.create_study(sampler=sampler)
    assert sampler.limit(50) == 3
    assert sampler.limit(2) == 2
    tried = [suggest(study.ask(), space) for _ in range(3)]
    assert {proposal["d_model"] for proposal in tried} == {16}
    assert len({tuple(proposal.items()) for proposal in tried}) == 3


def test_what_is_set_already_is_kept_and_the_rest_goes_with_it() -> None:
    space = parse_space(GRID)
    study = optuna.create_study(sampler=make_sampler("random", space, 0, 0))
    for _ in range(20):
        study.enqueue_trial({"num_heads": 3})
    proposals = [suggest(study.ask(), space) for _ in range(20)]
    assert {(proposal["d_model"], proposal["num_heads"]) for proposal in proposals} == {(24, 3)}


def test_cmaes_is_refused_for_two_objectives() -> None:
    space = parse_space(GRID + "objective: [val_bpb, num_parameters]\n")
    with pytest.raises(BadInput, match="one objective"):
        make_sampler("cmaes", space, 0, 0)


LAWFUL = """
name: lawful
data: {text: pydoc, tokenizer: bytes}
parameters:
  learning_rate: {low: 1e-5, high: 1e-1, log: true, prior: auto}
  batch_size: {choices: [2, 4, 8], prior: auto}
  dropout: {low: 0.0, high: 0.5, prior: 0.1}
"""


@pytest.mark.parametrize("name", ["auto", "tpe", "random"])
def test_the_automatic_priors_of_the_baseline_are_filled_in_when_it_is_asked_for(name: str) -> None:
    space = parse_space(LAWFUL)
    known: dict[str, float] = {}
    sampler = make_sampler(name, space, 0, 0, law=lambda parameter, _: known[parameter.name])
    study = optuna.create_study(sampler=sampler)
    enqueue_baseline(study)
    known |= {"learning_rate": 2e-3, "batch_size": 7.0}  # As when the speed is measured after the study was created.
    assert suggest(study.ask(), space) == {"learning_rate": 2e-3, "batch_size": 8, "dropout": 0.1}
    assert study.trials[0].system_attrs[PROPOSED_BY] == "prior"


def test_a_baseline_that_the_laws_make_impossible_falls_back_to_the_middle() -> None:
    space = parse_space(LAWFUL)
    study = optuna.create_study(
        sampler=make_sampler(
            "auto",
            space,
            0,
            0,
            lambda proposal: "the budget does not pay for it" if proposal["batch_size"] == 8 else None,
            law=lambda parameter, _: 8.0 if parameter.name == "batch_size" else 2e-3,
        )
    )
    enqueue_baseline(study)
    assert suggest(study.ask(), space) == {"learning_rate": pytest.approx(1e-3), "batch_size": 4, "dropout": 0.1}


def test_a_plain_sampler_is_told_by_its_name() -> None:
    space = parse_space(LAWFUL)
    study = optuna.create_study(sampler=make_sampler("qmc", space, 0, 0))
    suggest(study.ask(), space)
    assert study.trials[0].system_attrs[PROPOSED_BY] == "qmc"

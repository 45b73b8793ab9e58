"""`--min-gain`: the study ends when no better trial is expected."""

from __future__ import annotations

import math
from random import Random

import optuna
import pytest
from toy_spaces import SPACE as SPACE_OF_TOYS
from toys import Toys

from hpsearch.errors import BadInput
from hpsearch.space.load import parse_space
from hpsearch.tuning.expected_improvement import (
    IN_A_ROW,
    LEAST,
    PER_PARAMETER,
    MinGain,
    expected_gain,
    not_worth_it,
    parse_min_gain,
)
from hpsearch.tuning.stopping import Limits

SPACE = parse_space(
    "name: gain\nparameters:\n  learning_rate: {low: 1e-5, high: 1e-1, log: true}\n  dropout: {low: 0.0, high: 0.5}\n"
    "  optimizer: {choices: [adamw, sgd]}\n  momentum: {low: 0.8, high: 0.99, when: optimizer == 'sgd'}\n"
)


def told(count: int, *, noise: float = 0.0, near: float = 1.0) -> list[optuna.trial.FrozenTrial]:
    """Trials of a function whose least value is 2; near: the part of the ranges, around its place, that they are from."""
    random, known, trials = Random(0), SPACE.distributions(), []
    for _ in range(count):
        params = SPACE.propose(lambda parameter, _: parameter.draw(random))
        rate = 10 ** (-3 + near * (math.log10(float(params["learning_rate"] or 0)) + 3))
        params |= {"learning_rate": rate, "dropout": 0.1 + near * (float(params["dropout"] or 0) - 0.1)}
        value = 2 + (math.log10(rate) + 3) ** 2 / 4 + (float(params["dropout"]) - 0.1) ** 2 + random.gauss(0, noise)
        value += 0.3 * (params["optimizer"] == "sgd")
        distributions = {name: known[name] for name in params}
        trials.append(optuna.trial.create_trial(value=value, params=params, distributions=distributions))
    return trials


def test_the_more_is_known_the_less_is_expected() -> None:
    few, many = expected_gain(told(8), SPACE), expected_gain([*told(40), *told(20, near=0.1)], SPACE)
    assert few[1] > 5 * many[1]
    assert many[0] == pytest.approx(2.0, abs=0.02)


def test_a_search_that_has_found_the_least_value_is_over_and_one_that_began_is_not() -> None:
    found = [*told(40), *told(20, near=0.1)]
    said = not_worth_it(found, SPACE, MinGain(0.01, share=True))
    assert said.startswith("a better trial is not expected: by ")
    assert said.endswith("after 60 trials, where the best is about 2.0000 (--min-gain 1%)") or "about 2.00" in said
    assert not not_worth_it(found, SPACE, MinGain(1e-9, share=False))
    assert not not_worth_it(told(14), SPACE, MinGain(0.001, share=True))


def test_little_is_never_enough() -> None:
    least = max(LEAST, PER_PARAMETER * len(SPACE.searched)) + IN_A_ROW - 1
    assert not not_worth_it(told(least - 1), SPACE, MinGain(1e6, share=False))
    assert not_worth_it(told(least), SPACE, MinGain(1e6, share=False))


def test_the_luck_of_seeds_is_no_expected_gain() -> None:
    noisy = [*told(60, noise=0.02), *told(40, noise=0.02, near=0.1)]
    best, gain = expected_gain(noisy, SPACE)
    assert best > min(trial.values[0] for trial in noisy)
    assert gain < 0.02


@pytest.mark.parametrize("word", ["", "0", "-1", "nan", "inf", "abc", "5%%", "1 2"])
def test_a_share_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(BadInput, match="--min-gain"):
        parse_min_gain(word)


def test_a_share_and_a_number_are_two_things() -> None:
    assert parse_min_gain("0.5%").least(2.0) == pytest.approx(0.01)
    assert parse_min_gain("0.002").least(2.0) == 0.002
    assert str(parse_min_gain("0.5 %")) == "0.5%"


def test_a_study_ends_by_it_says_so_and_a_larger_total_goes_on(toys: Toys) -> None:
    limits = Limits(min_gain=MinGain(2.0, share=True))
    fewer = SPACE_OF_TOYS.replace("{low: 0.0, high: 0.3}", "0.1").replace("{choices: [adamw, sgd], prior: adamw}", "adamw")
    fewer = "\n".join(line for line in fewer.splitlines() if "momentum" not in line)
    study, ended = toys.run(30, slots=1, sampler="random", pruner="none", limits=limits, text=fewer)
    assert ended.startswith("a better trial is not expected")
    assert study.store.study("toy").finished_reason == ended
    first = len(study.store.trials(study.record.id))
    assert first == LEAST + IN_A_ROW - 1
    study, ended = toys.run(30, slots=1, limits=limits, text=fewer)
    assert (len(study.store.trials(study.record.id)), "not expected" in ended) == (first, True)
    study, ended = toys.run(31, slots=1, limits=limits, text=fewer)
    assert len(study.store.trials(study.record.id)) == first + IN_A_ROW
    study, ended = toys.run(31, slots=1, text=fewer)
    assert ended == "31 trials are done"


def test_patience_starts_anew_when_a_larger_total_is_asked_for(toys: Toys) -> None:
    limits = Limits(patience=2)
    study, ended = toys.run(30, slots=1, sampler="random", pruner="none", limits=limits, seed=1)
    assert "no better trial among the last 2" in ended
    first = len(study.store.trials(study.record.id))
    study, _ = toys.run(30, slots=1, limits=limits)
    assert len(study.store.trials(study.record.id)) == first
    study, _ = toys.run(40, slots=1, limits=limits)
    assert len(study.store.trials(study.record.id)) >= first + 2

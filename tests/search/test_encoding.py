"""What a Gaussian process reads of a space, and that choices of numbers have an order in it."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from hpsearch.sampling.gp import Encoding, Surrogate
from hpsearch.space.load import parse_space

TEXT = """\
name: choices
data: {text: pydoc}
budget: {tokens: 1e6}
parameters:
  d_model: {choices: [64, 24, 48, 32, 96]}
  optimizer: {choices: [adamw, sgd]}
  momentum: {low: 0.0, high: 0.9, when: optimizer == 'sgd'}
  num_heads: 1
"""
SPACE = parse_space(TEXT, "choices.yaml")


def trial(state: TrialState, value: float | None, **params: object) -> optuna.trial.FrozenTrial:
    every = SPACE.distributions()
    return create_trial(state=state, value=value, params=params, distributions={name: every[name] for name in params})


def test_numbers_become_ranks_and_come_back() -> None:
    encoding = Encoding(SPACE)
    for d_model, rank in ((24, 0), (32, 1), (48, 2), (64, 3), (96, 4)):
        params = {"d_model": d_model, "optimizer": "sgd", "momentum": 0.3}
        coded = encoding.encoded(trial(TrialState.COMPLETE, 1.0, **params))
        assert coded.params == {"d_model": rank, "optimizer": "sgd", "momentum": 0.3}
        assert encoding.decoded(coded.params) == params
    assert coded.distributions["d_model"] == IntDistribution(0, 4)
    assert coded.distributions["optimizer"] == CategoricalDistribution(("adamw", "sgd")), "words have no order"


def test_what_a_trial_does_not_have_is_in_the_middle_and_one_that_runs_stays_so() -> None:
    coded = Encoding(SPACE).encoded(trial(TrialState.RUNNING, None, d_model=48, optimizer="adamw"))
    assert coded.params["momentum"] == pytest.approx(0.45)
    assert (coded.state, coded.values) == (TrialState.RUNNING, None)


def test_a_choice_that_was_never_tried_is_told_by_its_neighbours() -> None:
    tried = [{"d_model": d_model, "optimizer": optimizer} for d_model in (24, 32, 64, 96) for optimizer in ("adamw", "sgd")]
    values = [{24: 4.0, 32: 3.5, 64: 2.5, 96: 2.0}[each["d_model"]] for each in tried]
    mean, _ = Surrogate(SPACE, tried, values).predict([{"d_model": 48, "optimizer": "adamw"}])
    assert mean[0] == pytest.approx(3.0, abs=0.1)
    gp = optuna.samplers.GPSampler(seed=0, n_startup_trials=1)
    encoding, study = Encoding(SPACE), optuna.create_study(sampler=gp)
    bowl = {24: 4.0, 32: 2.5, 64: 2.5, 96: 4.0}
    study.add_trials([encoding.encoded(trial(TrialState.COMPLETE, bowl[each["d_model"]], **each)) for each in tried])
    asked = study._storage.get_trial(study.ask()._trial_id)
    drawn = gp.sample_relative(study, asked, gp.infer_relative_search_space(study, asked))
    assert encoding.decoded(drawn)["d_model"] == 48

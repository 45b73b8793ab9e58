"""Proposals that would train the same model are known as such, and none is trained twice."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from hpsearch.sampling.dedup import Sameness
from hpsearch.sampling.samplers import make_sampler, suggest
from hpsearch.space.load import parse_space

SPACE = parse_space(
    """\
name: same
data: {text: pydoc}
budget: {tokens: 1e6}
parameters:
  num_heads: {choices: [2, 4]}
  num_groups: {choices: [null, 1, 2]}
  d_model: {choices: [64, 128]}
  embedding_dim: {choices: [null, 64]}
  learning_rate: {low: 1e-5, high: 1e-1, log: true}
  optimizer: {choices: [adamw, sgd]}
  momentum: {low: 0.0, high: 0.9, when: optimizer == 'sgd'}
  warmup_steps: {low: 0, high: 100}
  lr_decay_iters: {choices: [null, 400]}
""",
    "same.yaml",
)
PROPOSAL = {
    "num_heads": 2,
    "num_groups": None,
    "d_model": 64,
    "embedding_dim": None,
    "learning_rate": 0.1,
    "optimizer": "adamw",
    "warmup_steps": 20,
    "lr_decay_iters": None,
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_groups": 2},  # As many as there are heads.
        {"embedding_dim": 64},  # As wide as the model.
        {"learning_rate": 0.09999999999999998},
        {"momentum": 0.5},  # Of another optimizer.
    ],
)
def test_the_same_model_is_known(change: dict[str, Any]) -> None:
    sameness = Sameness(SPACE)
    assert sameness.key(PROPOSAL | change) == sameness.key(PROPOSAL)


@pytest.mark.parametrize(
    "change",
    [
        {"num_groups": 1},
        {"num_heads": 4},
        {"d_model": 128},
        {"learning_rate": 0.098},
        {"optimizer": "sgd", "momentum": 0.0},
        {"warmup_steps": 21},
        {"lr_decay_iters": 400},
    ],
)
def test_another_model_is_another(change: dict[str, Any]) -> None:
    sameness = Sameness(SPACE)
    assert sameness.key(PROPOSAL | change) != sameness.key(PROPOSAL)


def test_trials_that_wait_for_their_values_or_for_some_of_them_are_no_obstacle() -> None:
    sameness, study = Sameness(SPACE), optuna.create_study()
    study.enqueue_trial({"learning_rate": 0.1})
    assert sameness.keys(study.trials) == set()
    study.ask().suggest_float("learning_rate", 1e-5, 1e-1, log=True)  # And its coordinator was killed.
    (key,) = sameness.keys(study.trials)
    assert key != sameness.key(PROPOSAL)


def test_a_search_spends_nothing_on_a_model_that_it_has() -> None:
    space = parse_space(
        """\
name: few
data: {text: pydoc}
budget: {tokens: 1e6}
parameters:
  num_heads: 2
  num_groups: {choices: [null, 1, 2]}
  tie_embeddings: {choices: [true, false]}
  hidden_act: {choices: [gelu, silu, relu, relu2]}
""",
        "few.yaml",
    )
    sameness = Sameness(space)
    study = optuna.create_study(sampler=make_sampler("auto", space, 0, 0))
    for _ in range(12):  # Of 16.
        trial = study.ask()
        proposal = suggest(trial, space)
        study.tell(trial, len(str(proposal["hidden_act"])) + proposal["tie_embeddings"])
    assert len({sameness.key(trial.params) for trial in study.trials}) == 12

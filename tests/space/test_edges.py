from __future__ import annotations

from typing import Any

import pytest

from hpsearch.space.edges import edges
from hpsearch.space.load import parse_space

SPACE = """
name: edges
parameters:
  learning_rate: {low: 1e-7, high: 1e-3, log: true}
  weight_decay: {low: 1e-4, high: 0.5, log: true}
  batch_size: {low: 4, high: 64, log: true}
  beta2: {low: 0.9, high: 0.999}
  dropout: {low: 0.0, high: 0.3, step: 0.05}
  lr_decay_ratio: {low: 0.0, high: 1.0}
  num_layers: {low: 1, high: 6}
  d_model: {choices: [64, 128, 192, 256]}
  num_heads: {choices: [2, 4, 8]}
  num_groups: {choices: [null, 1, 2]}
  context_length: {choices: [32, 64]}
  z_loss_weight: {choices: [0.0, 1e-5, 1e-4]}
  position: {choices: [learned, rotary, sinusoidal]}
  tie_embeddings: {choices: [true, false]}
"""
WITHIN: dict[str, Any] = {"learning_rate": 1e-5, "d_model": 128, "num_heads": 4}


@pytest.fixture(scope="module")
def space() -> Any:
    return parse_space(SPACE, "edges.yaml")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("learning_rate", 1e-3, "learning_rate 0.001 is at the upper edge of its range [1e-07, 0.001]: widen it to 0.003 and"),
        ("learning_rate", 8.5e-4, "is at the upper edge"),
        ("learning_rate", 1.1e-7, "is at the lower edge of its range [1e-07, 0.001]: widen it to 3e-08 and"),
        ("batch_size", 4, "widen it to 2 and"),
        ("batch_size", 64, "widen it to 128 and"),
        ("beta2", 0.9985, "widen it to 0.9995 and"),
        ("dropout", 0.3, "widen it to 0.45 and"),
        ("num_layers", 6, "num_layers 6 is at the upper edge of its range [1, 6]: widen it to 9 and"),
        ("d_model", 256, "d_model 256 is the largest of its choices (64, 128, 192, 256): add 320 and"),
        ("d_model", 64, "d_model 64 is the smallest of its choices (64, 128, 192, 256): add 32 and"),
        ("num_heads", 8, "add 16 and"),
        ("num_heads", 2, "add 1 and"),
        ("z_loss_weight", 1e-4, "is the largest of its choices"),
    ],
)
def test_a_value_at_an_edge_is_pointed_out_with_the_remedy(space: Any, name: str, value: float, told: str) -> None:
    found = edges(space, WITHIN | {name: value})
    assert len(found) == 1
    assert found[0].startswith(f"{name} ")
    assert told in found[0]
    assert found[0].endswith("run again under another name (--study)")


def test_what_to_do_with_all_of_them_is_said_once(space: Any) -> None:
    found = edges(space, WITHIN | {"batch_size": 4, "beta2": 0.9985, "num_heads": 8})
    assert {sentence.partition(" ")[0] for sentence in found} == {"num_heads", "batch_size", "beta2"}
    assert [sentence.endswith("run again under another name (--study)") for sentence in found] == [False, False, True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 5e-4),  # inside on the logarithmic axis, though half of the range lies below
        ("dropout", 0.0),  # the hyperparameter ends there
        ("lr_decay_ratio", 0.0),
        ("lr_decay_ratio", 1.0),
        ("num_layers", 1),
        ("z_loss_weight", 0.0),
        ("num_groups", 2),  # null follows another hyperparameter: no order
        ("context_length", 64),  # of two choices each is at an end
        ("position", "learned"),
        ("tie_embeddings", True),
        ("weight_decay", None),
    ],
)
def test_what_says_nothing_is_not_pointed_out(space: Any, name: str, value: Any) -> None:
    assert edges(space, WITHIN | {name: value}) == []


def test_a_baseline_in_the_middle_has_no_edges(space: Any) -> None:
    assert edges(space, {}) == []

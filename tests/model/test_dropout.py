"""Dropout at ordinary probabilities and at both ends, on the CPU's own path and in written-out attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hpsearch.config import TrialConfig
from hpsearch.errors import ConfigError
from hpsearch.model.layers import attend, dropout

NAMES = ("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob")
ELEMENTS = 4_000_000


@pytest.mark.parametrize("probability", [1e-6, 1e-5, 1e-3, 0.1, 0.5, 0.9, 0.999, 0.9999, 0.99998, 0.9999924, 0.999999])
def test_as_many_are_dropped_as_asked_and_the_others_make_up_for_them(probability: float) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(ELEMENTS), probability, True)
    kept = int((out != 0).sum())
    expected, deviation = ELEMENTS * (1 - probability), math.sqrt(ELEMENTS * probability * (1 - probability))
    # 16 bits would be off by up to 1 in 131072 of all elements.
    assert abs(kept - expected) <= 5 * deviation + 1
    assert out[out != 0].unique().tolist() == pytest.approx([1 / (1 - probability)], rel=1e-6)


def test_next_to_one_all_are_dropped() -> None:
    assert not dropout(torch.ones(100_000), math.nextafter(1.0, 0.0), True).any()


def test_nothing_is_dropped_at_zero_next_to_it_or_out_of_training() -> None:
    x = torch.ones(1000)
    assert dropout(x, 0.0, True) is x
    assert dropout(x, 0.9999924, False) is x
    assert torch.equal(dropout(x, 5e-324, True), x)


def test_attention_weights_next_to_one_are_dropped_too() -> None:
    torch.manual_seed(0)
    query = key = value = torch.randn(2, 2, 16, 8)
    settings: dict[str, Any] = {"causal": True, "mask": None, "concentration": None}
    assert not attend(query, key, value, dropout_p=math.nextafter(1.0, 0.0), **settings).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [1, 1.0, 1.5, -0.1, float("nan")])
def test_dropping_all_or_less_than_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        TrialConfig.build({"max_iters": 1, name: value})

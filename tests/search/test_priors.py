from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.config import TrialConfig
from hpsearch.model.counting import count, step_flops
from hpsearch.space.load import parse_space
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import BudgetRecord
from hpsearch.workload import scaling_laws as priors
from hpsearch.workload.feasibility import plan
from hpsearch.workload.scaling_laws import Laws, Text

SPACE = """
name: laws
budget: {flops: 1e12, evaluations: 4}
parameters:
  learning_rate: {low: 1e-5, high: 1e-1, log: true, prior: auto}
  weight_decay: {low: 1e-6, high: 100.0, log: true, prior: auto, confidence: high}
  warmup_steps: {low: 0, high: 10000, prior: auto}
  beta2: {low: 0.9, high: 0.999, prior: auto, when: "optimizer in ['adamw', 'lion']"}
  batch_size: {choices: [1, 2, 4, 8, 16, 32], prior: auto}
  d_model: {choices: [64, 128, 512], prior: 128}
  optimizer: {choices: [adamw, sgd, lion], prior: adamw}
  num_heads: 4
  num_layers: 2
  d_ff: 4 * d_model
  context_length: 64
"""

sizes, lengths = st.floats(1e4, 1e12), st.floats(1e4, 1e13)


def budget(kind: str = "flops", amount: float = 1e12, flops: float | None = 1e12) -> BudgetRecord:
    return BudgetRecord(kind, amount, 4, flops)


def laws(space: SearchSpace, record: BudgetRecord | None = None) -> Laws:
    def text(settings: Mapping[str, Any]) -> Text:
        return Text(256, lambda context_length: 100_000 // context_length)

    return Laws(space, lambda: record or budget(), text)


def value(law: Laws, space: SearchSpace, name: str, settings: Mapping[str, Any]) -> float:
    parameter = next(each for each in space.searched if each.name == name)
    found = law(parameter, settings)
    assert found is not None
    return found


def test_the_laws_have_the_values_computed_by_hand() -> None:
    # 1.79 * 10^(9 * -0.713) * 10^(10.5 * 0.307): the exponents add to -3.1935.
    assert priors.learning_rate(1e9, 10**10.5) == pytest.approx(1.79 * 10**-3.1935)
    # 0.58 * 10^(10 * 0.571)
    assert priors.batch_tokens(1e10) == pytest.approx(0.58 * 10**5.71)
    # 100 tokens for a parameter: 100^-0.527 = 10^-1.054
    assert priors.timescale(1e8, 1e10) == pytest.approx(1.084 * 10**-1.054)
    # 1e5 tokens a step, 1e10 in all, a rate of 1e-3: 1e-5 / (1e-3 * timescale)
    assert priors.weight_decay(1e8, 1e10, 1e5, 1e-3) == pytest.approx(1e-2 / (1.084 * 10**-1.054))
    assert priors.beta2(2**12) == pytest.approx(0.99)
    assert priors.beta2(2**19) == pytest.approx(0.95)
    assert priors.beta2(2**17.5) == pytest.approx(1 - math.sqrt(0.01 * 0.05))
    assert (priors.warmup_steps(5000), priors.warmup_steps(10)) == (100, 1)


@given(sizes, lengths, st.floats(1.01, 100))
def test_the_laws_rise_and_fall_as_published(size: float, tokens: float, times: float) -> None:
    if (size < priors.SMALL_MODEL) == (times * size < priors.SMALL_MODEL):  # Only the smaller ones have a limit.
        assert priors.learning_rate(times * size, tokens) <= priors.learning_rate(size, tokens)
    assert priors.learning_rate(size, times * tokens) >= priors.learning_rate(size, tokens)
    assert priors.batch_tokens(times * tokens) > priors.batch_tokens(tokens)
    assert priors.batch_tokens(times * tokens) < times * priors.batch_tokens(tokens)
    assert priors.timescale(size, times * tokens) < priors.timescale(size, tokens)
    # Only tokens per parameter count for the timescale.
    assert priors.timescale(times * size, times * tokens) == pytest.approx(priors.timescale(size, tokens))
    assert priors.beta2(times * tokens) <= priors.beta2(tokens)
    assert 0.95 - 1e-9 <= priors.beta2(tokens) <= 0.99 + 1e-9


@given(st.floats(1e7, 1e12), lengths, st.floats(1e2, 1e7), st.floats(1e-5, 1e-2), st.floats(1.01, 100))
def test_the_timescale_does_not_change_with_batch_and_rate(
    size: float, tokens: float, step: float, rate: float, times: float
) -> None:
    decay = priors.weight_decay(size, tokens, step, rate)
    assert step / (rate * decay * tokens) == pytest.approx(priors.timescale(size, tokens))
    assert priors.weight_decay(size, tokens, times * step, times * rate) == pytest.approx(decay)


@given(st.floats(1e3, 9.9e6), st.floats(1e4, 1e13))
def test_the_rate_of_a_small_model_is_held_down(size: float, tokens: float) -> None:
    assert priors.learning_rate(size, tokens) <= max(6e-3, 0.57 * size**-0.406)


def test_the_smaller_a_small_model_is_the_higher_is_its_rate() -> None:
    """As measured: 2.4e-2 is best for 3,000 parameters, 1.2e-2 for 7,000, 6e-3 from 28,000 on."""
    rates = [priors.learning_rate(size, 20 * size) for size in (3_000, 7_000, 28_000, 100_000, 1_000_000)]
    assert rates == pytest.approx([0.0217, 0.0154, 0.0088, 6e-3, 6e-3], rel=0.01)


def test_a_law_goes_by_the_trials_own_size_and_the_tokens_that_its_budget_pays_for() -> None:
    space = parse_space(SPACE)
    law = laws(space)
    for width in (64, 128, 512):
        settings = space.settings({"d_model": width, "batch_size": 8, "learning_rate": 2e-3, "optimizer": "adamw"})
        counts = count(TrialConfig.build({"max_iters": 1} | settings | {"vocab_size": 256}))
        tokens, size = 1e12 / counts.flops_per_token, counts.non_embedding_parameters
        steps = plan(budget(), settings, step_flops=counts.flops_per_token * 8 * 64, windows_per_pass=1)["max_iters"]
        assert value(law, space, "learning_rate", settings) == priors.learning_rate(size, tokens)
        assert value(law, space, "batch_size", settings) == priors.batch_tokens(tokens) / 64
        assert value(law, space, "weight_decay", settings) == priors.weight_decay(size, tokens, 8 * 64, 2e-3)
        assert value(law, space, "warmup_steps", settings) == pytest.approx(max(1, 0.02 * steps), rel=0.01)
        muon = settings | {"optimizer": "muon"}
        config = TrialConfig.build({"max_iters": 1} | muon | {"vocab_size": 256})
        less = 1e12 / step_flops(config) * 8 * 64
        assert less < 0.99 * tokens, "what Muon multiplies buys no tokens"
        assert value(law, space, "learning_rate", muon) == pytest.approx(priors.learning_rate(size, less))


@pytest.mark.parametrize(
    ("record", "tokens"),
    [
        (budget("tokens", 5e5, None), 5e5),
        (budget("max_iters", 100, None), 100 * 8 * 64),
        (budget("num_epochs", 2, None), 2 * (100_000 // 64) * 64),
    ],
)
def test_every_kind_of_budget_gives_tokens(record: BudgetRecord, tokens: float) -> None:
    space = parse_space(SPACE)
    scale = laws(space, record).scale(space.settings({"d_model": 64, "batch_size": 8}))
    assert scale is not None
    assert (scale.tokens, scale.step_tokens, scale.max_iters) == (tokens, 512, tokens / 512)


def test_no_law_is_given_before_device_seconds_are_measured_nor_for_sgd_nor_for_a_shape_that_no_model_has() -> None:
    space = parse_space(SPACE)
    rate = next(each for each in space.searched if each.name == "learning_rate")
    adamw = {"d_model": 128, "batch_size": 8, "optimizer": "adamw"}
    assert laws(space, budget("device_seconds", 10, None))(rate, space.settings(adamw)) is None
    assert laws(space, budget("device_seconds", 10, 1e12))(rate, space.settings(adamw)) is not None
    assert laws(space)(rate, space.settings(adamw | {"optimizer": "sgd"})) is None
    assert laws(space)(rate, space.settings(adamw) | {"num_heads": 3}) is None


def test_lion_steps_less_and_decays_more() -> None:
    space = parse_space(SPACE)
    law = laws(space)
    adamw, lion = ({"d_model": 128, "batch_size": 8, "optimizer": name} for name in ("adamw", "lion"))
    rates = [value(law, space, "learning_rate", space.settings(each)) for each in (adamw, lion)]
    assert rates[1] == pytest.approx(rates[0] / 5)
    settings = (space.settings(each | {"learning_rate": rate}) for each, rate in zip((adamw, lion), rates, strict=True))
    decays = [value(law, space, "weight_decay", each) for each in settings]
    assert decays[1] == pytest.approx(5 * decays[0])


def test_the_baseline_has_the_laws_values_and_says_where_they_are_outside_a_range() -> None:
    space = parse_space(SPACE.replace("learning_rate: {low: 1e-5, high: 1e-1", "learning_rate: {low: 1e-5, high: 1e-4"))
    law = laws(space)
    baseline = space.prior(law)
    scale = law.scale(space.settings(baseline))
    assert scale is not None
    assert baseline["learning_rate"] == 1e-4
    step_law = priors.batch_tokens(scale.tokens) / 64
    assert baseline["batch_size"] == min((1, 2, 4, 8, 16, 32), key=lambda choice: abs(math.log(choice / step_law)))
    expected = priors.weight_decay(scale.non_embedding_parameters, scale.tokens, scale.step_tokens, 1e-4)
    assert baseline["weight_decay"] == pytest.approx(expected)
    assert baseline["beta2"] == pytest.approx(0.99)
    assert baseline["warmup_steps"] == round(0.02 * scale.max_iters)
    (sentence,) = priors.clamped(space, law)
    assert sentence.startswith("learning_rate: the scaling law says 0.00")
    assert sentence.endswith("above its range from 1e-05 to 0.0001; the prior is at that end")
    assert space.prior() != baseline


def test_the_shape_is_the_one_that_the_compute_pays_for() -> None:
    assert priors.model_size(1.2e14) == pytest.approx(1e6)
    assert priors.num_layers(85e6) == pytest.approx(12, abs=0.01)  # GPT-2's smallest model
    assert priors.d_model(85e6, 12) == pytest.approx(768, abs=1)
    assert priors.num_layers(10_000) == 1.0
    text = SPACE.replace("prior: 128}", "prior: auto}").replace("num_layers: 2", "num_layers: {low: 1, high: 4, prior: auto}")
    space = parse_space(text)
    baseline = space.prior(laws(space, budget(amount=1e15, flops=1e15)))  # 2.9 million parameters.
    assert (baseline["num_layers"], baseline["d_model"]) == (4, 128)
    tokens_only = space.prior(laws(space, budget(kind="tokens", amount=1e6, flops=None)))
    assert (tokens_only["num_layers"], tokens_only["d_model"]) == (2, 128)


def test_a_small_models_weight_decay_is_held_down() -> None:
    assert priors.weight_decay(10_000, 200_000, 256, 6e-3) == 0.1
    large = priors.weight_decay(1e8, 2e9, 2**19, 1e-3)
    assert large == pytest.approx(2**19 / (1e-3 * 2e9 * 1.084 * 20**-0.527))

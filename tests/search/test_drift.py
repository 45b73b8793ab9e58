from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from hpsearch.config import TrialConfig
from hpsearch.forecasting.trajectory import course, drifts, likely_loss
from hpsearch.model.counting import count
from hpsearch.workload.scaling_laws import model_size


def config(flops: float, **settings: int) -> TrialConfig:
    """A decoder that trains for `flops`."""
    usual = {"num_heads": 2, "context_length": 64, "batch_size": 8, "d_ff": 4 * settings["d_model"], "max_iters": 1}
    made = TrialConfig.build({**usual, **settings})
    step = count(made).flops_per_token * made.batch_size * made.context_length
    return made.model_copy(update={"max_iters": max(1, round(flops / step))})


@pytest.mark.parametrize("flops", [1e13, 1e15, 1e17])
def test_the_best_size_for_a_budget_is_about_that_of_chinchilla(flops: float) -> None:
    sizes = [config(flops, d_model=width, num_layers=layers) for layers in (1, 2, 4, 8) for width in range(16, 1025, 16)]
    best = count(min(sizes, key=likely_loss)).non_embedding_parameters
    assert 1 / 3 < best / model_size(flops) < 3


def test_small_steps_are_worth_more_and_more_tokens_too() -> None:
    losses = [likely_loss(config(1e12, d_model=64, num_layers=2, batch_size=batch)) for batch in (4, 16, 64, 256)]
    assert losses == sorted(losses)
    budgets = [likely_loss(config(flops, d_model=64, num_layers=2)) for flops in (1e14, 1e13, 1e12)]
    assert budgets == sorted(budgets)


def test_a_search_begins_at_the_baseline_draws_and_then_prefers_what_is_ranked_first() -> None:
    random, ranked = Random(0), list(range(1, 21))
    assert course(ranked, 1, random, drifting=True) == [0]
    assert course([], 3, random, drifting=True) == [0, 0, 0], "of a space of one configuration"
    orders = [course(ranked, 100, random, drifting=True) for _ in range(300)]
    assert all(order[0] == 0 for order in orders)
    early = Counter(index for order in orders for index in order[1:8])
    assert set(early) == set(ranked)
    assert max(early.values()) < 2 * min(early.values())
    late = [index for order in orders for index in order[90:]]
    assert sum(index <= 2 for index in late) > 0.9 * len(late)
    evenly = Counter(index for _ in range(300) for index in course(ranked, 100, random, drifting=False)[90:])
    assert max(evenly.values()) < 2 * min(evenly.values())


@pytest.mark.parametrize(
    ("sampler", "objectives", "expected"),
    [
        ("auto", ("val_bpb",), True),
        ("tpe", ("val_loss",), True),
        ("random", ("val_bpb",), False),
        ("grid", ("val_bpb",), False),
        ("auto", ("val_bpb", "num_parameters"), False),
        ("auto", ("generation_divergence",), False),
    ],
)
def test_who_drifts(sampler: str, objectives: tuple[str, ...], expected: bool) -> None:
    assert drifts(sampler, objectives) is expected

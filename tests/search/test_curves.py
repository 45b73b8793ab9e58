from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.scheduling.learning_curves import LEAST_POINTS, Curve, chance_to_beat, predict

PARTS = [rung / 12 for rung in range(1, 13)]


def power_law(floor: float, size: float, exponent: float) -> Curve:
    return [(part, floor + size * part**-exponent) for part in PARTS]


def with_late_decay(floor: float, size: float, gain: float) -> Curve:
    """A loss that falls slowly, and by `gain` more in the last fifth."""
    return [(part, floor + size * part**-0.3 - gain * max(0.0, part - 0.8) / 0.2) for part in PARTS]


def test_the_end_of_an_exact_power_law_is_found_closely() -> None:
    curve = power_law(2.0, 0.5, 0.6)
    mean, sd = predict(curve[:6])
    assert abs(mean - 2.5) < 0.02
    assert abs(mean - 2.5) < sd


def test_the_error_shrinks_as_the_curve_grows_and_with_references() -> None:
    curve = power_law(2.0, 0.5, 0.6)
    sds = [predict(curve[:known])[1] for known in range(4, 12)]
    assert sds == sorted(sds, reverse=True)
    others = [power_law(2.0 + 0.1 * place, 0.5, 0.6) for place in range(6)]
    assert predict(curve[:6], references=others)[1] < predict(curve[:6], references=others[:1])[1] < predict(curve[:6])[1]


def test_a_late_decay_is_foreseen_from_complete_curves_only() -> None:
    curve, others = with_late_decay(2.0, 0.3, 0.4), [with_late_decay(2.1 + 0.1 * place, 0.3, 0.4) for place in range(5)]
    end = curve[-1][1]
    alone, _ = predict(curve[:8])
    together, sd = predict(curve[:8], references=others)
    assert abs(together - end) < 0.3 * abs(alone - end)
    assert abs(together - end) < sd
    assert chance_to_beat(curve[:8], others[0][-1][1], references=others) > 0.5


def test_a_worse_curve_has_less_chance() -> None:
    others = [power_law(2.0 + 0.05 * place, 0.5, 0.6) for place in range(4)]
    best = others[0][-1][1]
    chances = [
        chance_to_beat(power_law(2.0 + gap, 0.5, 0.6)[:5], best, references=others) for gap in (-0.2, 0.0, 0.2, 0.5, 2.0)
    ]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.5 > chances[2]
    assert chances[-1] < 0.01


def test_a_prediction_before_the_end_lies_between_now_and_the_end() -> None:
    curve = power_law(2.0, 0.5, 0.6)
    assert curve[5][1] > predict(curve[:6], at=0.75)[0] > predict(curve[:6])[0]


def test_a_reference_that_does_not_reach_so_far_is_passed_over() -> None:
    curve = power_law(2.0, 0.5, 0.6)
    assert predict(curve[:6], references=[curve[:8]]) == predict(curve[:6])


def test_a_rising_curve_is_not_expected_to_fall_by_itself() -> None:
    rising = [(part, 3.0 + part) for part in PARTS]
    assert predict(rising[:6])[0] == pytest.approx(rising[5][1])


@pytest.mark.parametrize("wrong", [[], [(0.1, 2.0)] * (LEAST_POINTS - 1), [(0.1, 2), (0.2, math.nan), (0.3, 2), (0.4, 2)]])
def test_too_few_points_and_values_that_are_none_are_refused(wrong: Curve) -> None:
    with pytest.raises(ValueError, match="finite points"):
        predict(wrong)


def noisy(draw: random.Random, shape: Callable[[float], float]) -> Curve:
    """Curves as small models' are: the size and the exponent differ by trial, and each evaluation has some noise."""
    floor, size, exponent = draw.uniform(1.8, 2.6), math.exp(draw.gauss(-0.9, 0.4)), math.exp(draw.gauss(-0.7, 0.4))
    return [(part, floor + size * part**-exponent - size * shape(part) + draw.gauss(0, 0.005)) for part in PARTS]


@pytest.mark.parametrize("shape", [lambda part: 0.0, lambda part: max(0.0, part - 0.8)], ids=["smooth", "late decay"])
@pytest.mark.parametrize("known", [4, 6, 9])
def test_the_90_percent_interval_holds_at_least_85_percent_of_the_ends(known: int, shape: Callable[[float], float]) -> None:
    draw = random.Random(known)
    curves = [noisy(draw, shape) for _ in range(150)]
    held = []
    for number, curve in enumerate(curves):
        others = draw.sample([other for other in range(len(curves)) if other != number], 5)
        held.append(0.05 < chance_to_beat(curve[:known], curve[-1][1], references=[curves[other] for other in others]) < 0.95)
    assert np.mean(held) >= 0.85


@given(st.lists(st.floats(0.1, 20), min_size=4, max_size=12), st.floats(0.1, 20))
def test_any_curve_gives_a_finite_prediction_and_a_probability(values: list[float], best: float) -> None:
    curve = list(zip(PARTS, values, strict=False))
    mean, sd = predict(curve, references=[power_law(2.0, 0.5, 0.6)])
    assert math.isfinite(mean)
    assert 0 < sd < math.inf
    assert 0 <= chance_to_beat(curve, best) <= 1

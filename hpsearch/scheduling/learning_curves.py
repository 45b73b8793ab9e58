"""Where a learning curve will end, with an honest error.

Before its last fifth or so, a curve alone cannot tell what a decay of the learning rate will bring: under a cosine or a WSD
schedule the loss falls late and fast. What the complete trials of the same study gained from the same part of the budget on
tells it, since all have the same schedule on the same axis. So the predicted drop is a mean of both: what a power law through
the trial's own points says, and what the complete trials dropped by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Curve = Sequence[tuple[float, float]]
"""(part of the budget, held-out measure), in order."""

LEAST_POINTS = 4
"""Points before a curve is judged: a power law has three parameters."""

EXPONENTS = np.geomspace(0.1, 2.0, 16)
"""Exponents of the power law that are weighed against one another."""

_LOG_PRIOR = -0.5 * (np.log(EXPONENTS / 0.5) / 0.6) ** 2
"""Log-normal around 0.5: data and step exponents of published loss curves lie between 0.2 and 1 (arXiv:2001.08361,
arXiv:2203.15556)."""

_MEASURE_NOISE = 0.005
"""Relative noise of one evaluation that is assumed before the points say otherwise, as if by two more points."""

_SPREAD = 0.45
"""Standard deviation of a trial's real drop around the predicted one, as a part of it; measured (docs/method.md)."""

_SPREAD_WEIGHT = 4
"""Trials that _SPREAD counts for against the spread of a study's own complete trials."""


def predict(points: Curve, at: float = 1.0, references: Sequence[Curve] = ()) -> tuple[float, float]:
    """Mean and standard deviation of the measure at the part `at` of the budget.

    points: of the trial, at least LEAST_POINTS. references: whole curves with points at the same parts, of trials with the same
    schedule. Without one the standard deviation is wider, and no decay of the learning rate is foreseen.

    With m references the drop is (own + sum of theirs) / (1 + m), and its standard deviation relative to it is _SPREAD, shrunk
    towards the spread of the references' drops, times sqrt(1 + 1 / (1 + m)); see docs/method.md for how often it holds.
    Raises ValueError when the points are too few or not finite.
    """
    t_K, y_K = _arrays(points)
    if len(t_K) < LEAST_POINTS or not np.isfinite(y_K).all():
        raise ValueError(f"a prediction needs {LEAST_POINTS} finite points, there are {len(t_K)}")
    own, noise = _power_law_drop(t_K, y_K, at)
    drops_M = np.array([drop for curve in references if (drop := _drop(curve, float(t_K[-1]), at)) is not None])
    drop = (own + drops_M.sum()) / (1 + len(drops_M))
    size = math.hypot(drop, noise)
    spread = _SPREAD_WEIGHT * _SPREAD**2
    if len(drops_M) > 1:
        spread += float(((drops_M - drops_M.mean()) ** 2).sum()) / size**2
    spread /= _SPREAD_WEIGHT + max(0, len(drops_M) - 1)
    return float(y_K[-1] - drop), size * math.sqrt(spread * (1 + 1 / (1 + len(drops_M))))


def chance_to_beat(points: Curve, best: float, at: float = 1.0, references: Sequence[Curve] = ()) -> float:
    """Probability that the measure at the part `at` of the budget is less than `best` (Student's t around `predict`)."""
    from scipy.special import stdtr  # Here: few studies ask for it, and none should wait for scipy at its start.

    mean, sd = predict(points, at, references)
    freedom = _SPREAD_WEIGHT + len(references)
    return float(stdtr(freedom, (best - mean) / sd))


def _power_law_drop(t_K: F64, y_K: F64, at: float) -> tuple[float, float]:
    """How far c + a * t^-b falls from the last point to `at`, averaged over b, and the noise of a point around it."""
    # Later points weigh more: the warm-up is no part of a power law.
    weight_K = t_K / t_K.mean()
    prior = 2 * (_MEASURE_NOISE * abs(float(y_K[-1]))) ** 2
    drops, noises, logs = [], [], []
    for exponent in EXPONENTS:
        x_K = t_K**-exponent
        x_mean, y_mean = np.average(x_K, weights=weight_K), np.average(y_K, weights=weight_K)
        slope = (weight_K * (x_K - x_mean) * (y_K - y_mean)).sum() / (weight_K * (x_K - x_mean) ** 2).sum()
        slope = max(0.0, float(slope))  # The held-out loss of a run that is worth going on with does not rise.
        residual_K = y_K - y_mean - slope * (x_K - x_mean)
        squares = float((weight_K * residual_K**2).sum()) + prior
        drops.append(slope * (t_K[-1] ** -exponent - at**-exponent))
        noises.append(math.sqrt(squares / len(t_K)))
        logs.append(-0.5 * len(t_K) * math.log(squares))
    chance_E = np.exp(_LOG_PRIOR + logs - np.max(_LOG_PRIOR + logs))
    chance_E /= chance_E.sum()
    return float(chance_E @ drops), float(chance_E @ noises)


def _drop(curve: Curve, start: float, at: float) -> float | None:
    """What a whole curve fell by between two parts of the budget; None when it does not reach that far."""
    t_K, y_K = _arrays(curve)
    if not len(t_K) or t_K[-1] < at - 1e-9 or t_K[0] > start + 1e-9:
        return None
    before, after = np.interp([start, at], t_K, y_K)
    return float(before - after)


def _arrays(curve: Curve) -> tuple[F64, F64]:
    array_K2 = np.array(curve, dtype=np.float64).reshape(-1, 2)
    return array_K2[:, 0], array_K2[:, 1]

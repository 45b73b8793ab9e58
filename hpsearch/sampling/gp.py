"""A Gaussian process over the configurations of a space, where Optuna's own is out of reach: scikit-learn's, with noise."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna import samplers
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, create_trial

from hpsearch.space.parameters import Choices, Searched
from hpsearch.space.space import SearchSpace

FEW = 8
"""Parameters up to which Optuna's prior stays as it is. Chosen on searches of the `lm` space (benchmarks/RESULTS.md)."""

F64 = npt.NDArray[np.float64]

LENGTHS = (0.05, 10.0)
"""Bounds of a length scale in the unit cube; the longest says that the parameter does not matter."""
NOISES = (1e-5, 1.0)
"""Bounds of the noise's variance beside values of variance 1."""
OUTLYING = 2.0
"""Values further above the median than so many times the best is below it count as that far: how bad a bad one is says
nothing of what is near the best."""


class Surrogate:
    """A Matern 5/2 kernel with a length for each parameter, fitted by maximum likelihood. values: to be minimised."""

    def __init__(self, space: SearchSpace, configurations: Sequence[Mapping[str, Any]], values: Sequence[float]) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        self._space = space
        x_ND, y_N = self._places(configurations), winsorised(values)
        self._mean, self._scale = float(y_N.mean()), float(y_N.std()) or 1.0
        kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(np.full(x_ND.shape[1], 0.5), LENGTHS, nu=2.5)
        self._model = GaussianProcessRegressor(kernel + WhiteKernel(1e-2, NOISES), n_restarts_optimizer=1, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # A length at its bound.
            self._model.fit(x_ND, (y_N - self._mean) / self._scale)

    def predict(self, configurations: Sequence[Mapping[str, Any]]) -> tuple[F64, F64]:
        """Mean and standard deviation of the configurations' own values, without the luck of a seed."""
        mean_K, sd_K = self._model.predict(self._places(configurations), return_std=True)
        noise = float(self._model.kernel_.k2.noise_level)
        return self._mean + self._scale * mean_K, self._scale * np.sqrt(np.maximum(sd_K**2 - noise, 1e-12))

    def _places(self, configurations: Sequence[Mapping[str, Any]]) -> F64:
        return np.array([[x for each in self._space.searched for x in _place(each, params)] for params in configurations])


def winsorised(values: Sequence[float]) -> F64:
    """`values` with those far above the others brought down."""
    y_N = np.array(values, dtype=np.float64)
    middle, low = float(np.median(y_N)), float(y_N.min())
    return np.minimum(y_N, middle + OUTLYING * (middle - low))


def _place(parameter: Searched, params: Mapping[str, Any]) -> list[float]:
    """Where a value is in the unit cube: a range by its scale, a choice by its rank among numbers or else as one of several,
    in the middle what is not there."""
    absent = parameter.name not in params
    value = params.get(parameter.name)
    if isinstance(parameter, Choices):
        if parameter.ordered is not None:
            return [0.5 if absent else parameter.ordered.index(value) / max(1, len(parameter.ordered) - 1)]
        return [1 / len(parameter.choices) if absent else float(value == choice) for choice in parameter.choices]
    return [0.5 if absent else parameter.part(params[parameter.name])]


def gaussian_process(parameters: int, seed: int) -> samplers.GPSampler:
    """Optuna's sampler, from its first trial on, with the lengths of a space of so many searched parameters."""
    sampler = samplers.GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
    given, shorter = getattr(sampler, "_log_prior", None), max(1.0, parameters / FEW)
    if given is None:  # Not public: another version may have it elsewhere, and searches as Optuna does.
        return sampler

    def log_prior(process: Any) -> Any:
        """Optuna's own, of lengths that are brought down to those of a small space."""
        return given(
            SimpleNamespace(
                inverse_squared_lengthscales=process.inverse_squared_lengthscales * shorter,
                kernel_scale=process.kernel_scale,
                noise_var=process.noise_var,
            )
        )

    sampler._log_prior = log_prior
    return sampler


class Encoding:
    """Optuna's trials of a space, with the rank of each choice where choices are numbers, and all parameters in all trials."""

    def __init__(self, space: SearchSpace) -> None:
        self._ordered = {
            each.name: each.ordered for each in space.searched if isinstance(each, Choices) and each.ordered is not None
        }
        self._middle = {each.name: each.middle for each in space.searched}
        self._distributions = space.distributions() | {
            name: IntDistribution(0, len(ordered) - 1) for name, ordered in self._ordered.items()
        }

    def encoded(self, trial: FrozenTrial) -> FrozenTrial:
        """With the middle for the parameters that it does not have."""
        return create_trial(
            state=trial.state,
            values=trial.values,
            params={name: self._code(name, value) for name, value in (self._middle | trial.params).items()},
            distributions=self._distributions,
            constraints=trial.constraints or None,
        )

    def _code(self, name: str, value: Any) -> Any:
        return self._ordered[name].index(value) if name in self._ordered else value

    def decoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._ordered[name][value] if name in self._ordered else value for name, value in params.items()}

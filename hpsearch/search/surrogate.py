"""A Gaussian process over the configurations of a space, where Optuna's own is out of reach: scikit-learn's, with noise."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hpsearch.space.parameters import Choices, Searched
from hpsearch.space.space import SearchSpace

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

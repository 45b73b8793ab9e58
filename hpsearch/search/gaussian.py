"""Optuna's Gaussian process for spaces of many parameters.

Optuna's prior holds the length of each parameter near the width of its range, however many parameters there are. The distance
between two configurations grows with the root of their number, so in a space of thirty everything is far from everything, and
the model learns nothing but the neighbourhood of what was tried. Lengths that grow with the same root keep distances as
they are in a small space; Hvarfner, Hellsten and Nardi, "Vanilla Bayesian Optimization Performs Great in High Dimensions",
arXiv:2402.02229.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from optuna import samplers

FEW = 8
"""Parameters up to which Optuna's prior stays as it is. Chosen on searches of the `lm` space (benchmarks/RESULTS.md)."""


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

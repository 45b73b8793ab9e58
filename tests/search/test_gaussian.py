"""The Gaussian process of spaces with many parameters."""

from __future__ import annotations

import numpy as np
import optuna
import torch
from optuna._gp.gp import fit_kernel_params

from hpsearch.sampling.gp import FEW, gaussian_process

MANY = 30


def error(sampler: optuna.samplers.GPSampler, parameters: int) -> float:
    """Of what the sampler's process says of random configurations after forty others, as a part of their standard deviation.

    In the function a third of the parameters matter.
    """
    random = np.random.default_rng(0)
    x = random.random((240, parameters))
    y = ((x[:, :: 3 if parameters > 3 else 1] - 0.3) ** 2).sum(-1)
    y = (y - y.mean()) / y.std()
    process = fit_kernel_params(
        X=x[:40],
        Y=y[:40],
        is_categorical=np.zeros(parameters, dtype=bool),
        log_prior=sampler._log_prior,
        minimum_noise=1e-6,
        deterministic_objective=False,
    )
    mean, _ = process.posterior(torch.from_numpy(x[40:]))
    return float(np.sqrt(np.mean((mean.detach().numpy() - y[40:]) ** 2)))


def test_of_many_parameters_it_knows_more_than_optunas_own() -> None:
    assert error(gaussian_process(MANY, seed=0), MANY) < 0.9 * error(optuna.samplers.GPSampler(seed=0), MANY)


def test_of_few_parameters_it_is_optunas_own() -> None:
    assert error(gaussian_process(FEW, seed=0), FEW) == error(optuna.samplers.GPSampler(seed=0), FEW)

"""A short decay of the learning rate on the side of a run, which the run itself does not notice.

On the stable part of a WSD schedule the held-out loss stands above what a decay from there would give, by an amount that
depends on the learning rate; a short decay makes configurations comparable early (arXiv:2405.18392). The run then goes on from
where it branched off, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from hpsearch.training.heartbeat import beat


def decay_branch(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    rates: Sequence[float],
    step: Callable[[int, float], object],
    evaluate: Callable[[], dict[str, float]],
) -> dict[str, float]:
    """Metrics after one step per rate; model, optimizers and generators are then as they were.

    step: takes the optimizer step number 0, 1, … of the branch at a learning rate. evaluate: measures the model. The metrics'
    names begin with `branch_`. Needs memory for a second copy of weights and moments.
    """
    with set_back(model, optimizers):
        for number, rate in enumerate(rates):
            step(number, rate)
            beat()
        return {f"branch_{name}": value for name, value in evaluate().items()}


@contextlib.contextmanager
def set_back(model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Undo inside's changes to weights, moments and torch's generators (of the CPU and of the model's GPU)."""
    weights = copy.deepcopy(model.state_dict())
    moments = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
    place = next(model.parameters()).device
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        try:
            yield
        finally:
            model.load_state_dict(weights)
            for optimizer, state in zip(optimizers, moments, strict=True):
                optimizer.load_state_dict(state)

"""`prior: auto`: which hyperparameters may have a prior that follows from a trial's own size, and what it follows from.

The laws themselves need the size of a model and the study's budget; they are in `hpsearch.search.priors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hpsearch.config import HYPERPARAMETERS

if TYPE_CHECKING:
    from hpsearch.space.parameters import Searched

Law = Callable[["Searched", Mapping[str, Any]], float | None]
"""The value that a scaling law gives a parameter beside the settings that are known so far; None where none applies."""

_SIZE = (
    *(name for name, info in HYPERPARAMETERS.items() if info.section == "architecture"),
    *("sentence_loss_weight", "max_iters", "num_epochs", "optimizer"),
)
NEEDS: dict[str, tuple[str, ...]] = {
    "num_layers": (),
    "d_model": ("num_layers",),
    "batch_size": _SIZE,
    "learning_rate": (*_SIZE, "batch_size"),
    "weight_decay": (*_SIZE, "batch_size", "learning_rate"),
    "beta2": (*_SIZE, "batch_size"),
    "warmup_steps": (*_SIZE, "batch_size"),
}
"""The hyperparameters that `prior: auto` is for, and those whose values decide it."""

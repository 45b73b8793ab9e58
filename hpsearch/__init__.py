"""Hyperparameter search for compact transformer language models, and for trainers of one's own.

import hpsearch

study = hpsearch.run("lm", trials=20)                      # the built-in model
study = hpsearch.tune(train, space, trials=20, steps=100)  # any generator that yields hpsearch.Evaluation
study.best.config, study.frame()
"""

from typing import Any

__version__ = "0.1.0"

# What a type checker sees is in __init__.pyi: an import here, even for it alone, would be one of every module.
_PLACES = {
    "hpsearch.api": ("load_space", "run", "tune"),
    "hpsearch.errors": ("BadInput", "HpsearchError", "NoTrialSucceeded"),
    "hpsearch.trainers.user": ("Checkpoint", "Evaluation", "Run"),
    "hpsearch.results.study": ("Study", "Trial", "open_study"),
    "hpsearch.space.space": ("SearchSpace",),
}

__all__ = [
    "BadInput",
    "Checkpoint",
    "Evaluation",
    "HpsearchError",
    "NoTrialSucceeded",
    "Run",
    "SearchSpace",
    "Study",
    "Trial",
    "load_space",
    "open_study",
    "run",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Each name from its module when it is first asked for: `import hpsearch` costs nothing."""
    for module, names in _PLACES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'hpsearch' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

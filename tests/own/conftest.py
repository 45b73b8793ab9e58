from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_trainers
import pytest

import hpsearch

Tune = Callable[..., hpsearch.Study]


@pytest.fixture
def tune(tmp_path: Path) -> Tune:
    """`hpsearch.tune` in a folder of the test's own, without a view."""

    def call(train: Any, space: Any = own_trainers.SPACE, **options: Any) -> hpsearch.Study:
        whole = {"trials": 2, "slots": 2, "view": "none", "sampler": "random", "pruner": "none", "studies_dir": tmp_path}
        return hpsearch.tune(train, space, **(whole | options))

    return call

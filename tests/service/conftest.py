from __future__ import annotations

from pathlib import Path

import pytest
from toys import Toys


@pytest.fixture
def toys(tmp_path: Path, cache_dir: Path) -> Toys:
    return Toys(tmp_path, cache_dir)

"""What all tests share: the command as users run it, in an empty folder, with a cache of the test's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Slots are spawned with this path too, so that they find the trainers that cost nothing.
sys.path.append(str(Path(__file__).parent / "support"))

from cli import Cli

# No test fails because the machine is slow, and CI fails on what is wrong, not on what it was lucky to find.
settings.register_profile("here", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("here")


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenised texts, shared by the whole test session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(cache_dir: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HPSEARCH_")}
    return kept | {"HPSEARCH_CACHE_DIR": str(cache_dir), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.fixture
def cli(tmp_path: Path, environment: dict[str, str]) -> Cli:
    return Cli(tmp_path, environment)

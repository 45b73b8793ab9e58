from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cli import Cli
from tiny import SPACE

TRIALS = 8


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Cli:
    """A folder in which `hpsearch run` has finished a study; to be read only."""
    cli = Cli(tmp_path_factory.mktemp("finished"), environment)
    (cli.folder / "tiny.yaml").write_text(SPACE)
    done = cli.run("run", "--space", "tiny.yaml", "--trials", str(TRIALS))
    assert done.returncode == 0, done.stderr
    (cli.folder / "run.stdout").write_text(done.stdout)
    (cli.folder / "run.stderr").write_text(done.stderr)
    return cli


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's browser. Where there is none, tests that look at pages are left out, but never in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium: install the system's package")
        pytest.skip("no chromium on this machine")
    return found


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go; HPSEARCH_TEST_SHOTS keeps them."""
    folder = Path(os.environ.get("HPSEARCH_TEST_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""The arrows of docs/architecture.md, and what must stay out of the verbs that answer in a blink."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli import Cli

ROOT = Path(__file__).parents[2]


def test_imports_point_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("words", [("--help",), ("status",), ("trials",), ("studies",), ("params",), ("space", "check", "lm")])
def test_verbs_that_read_import_nothing_heavy(finished: Cli, words: tuple[str, ...]) -> None:
    script = (
        "import atexit, sys\n"
        f"sys.argv = ['hpsearch', *{words!r}]\n"
        "heavy = {'torch', 'optuna', 'alembic', 'plotly', 'numpy', 'tokenizers', 'sqlalchemy.orm'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules))))\n"
        "from hpsearch.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=finished.folder,
        env=finished.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"

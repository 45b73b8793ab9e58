"""The forecast's idea of where a search goes, against the searches that were measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "drift.py"


def test_searches_went_where_the_forecast_says() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    means = {line[:28].strip(): float(line[28:].split()[0]) for line in done.stdout.splitlines()[1:]}
    assert means["forecast, random"] == pytest.approx(means["random"], rel=0.25)
    for learning in ("auto+median", "auto+halving, no priors", "auto+halving"):
        assert means["forecast, learning"] == pytest.approx(means[learning], rel=0.3)
        assert means["forecast, random"] < 0.5 * means[learning], "random trials are another study"

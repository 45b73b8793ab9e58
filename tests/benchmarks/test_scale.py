"""The benchmark of many trials runs, with so few that its figures mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scale.py"


def test_scale_measures_both_sides_with_both_samplers(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--trials", "12", "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "own end/start" in done.stdout
    rows = json.loads(out.read_text("utf-8"))["rows"]
    assert [(row["sampler"], row["side"]) for row in rows] == [
        (sampler, side) for sampler in ("random", "tpe") for side in ("ours", "bare Optuna")
    ]
    assert all(row[name] > 0 for row in rows for name in ("own ms end", "own cpu ms end", "sampler ms end", "MB end"))
    assert all(row["status s"] > 0 for row in rows if row["side"] == "ours")

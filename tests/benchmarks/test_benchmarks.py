"""Every benchmark runs, in a setting so small that its figures mean nothing, and prints and writes its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TEXT = "".join(f"{number} is a number, and {number * number} is its square.\n" for number in range(2000))


def run(name: str, folder: Path, *options: str) -> tuple[str, list[dict[str, object]]]:
    """What it printed, and the rows that it wrote."""
    out = folder / "out.json"
    text = folder / "text.txt"
    text.write_text(TEXT, "utf-8")
    environment = os.environ | {"HPSEARCH_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options, "--out", str(out)]
    if name != "big_corpus":
        command += ["--data", str(text)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text("utf-8"))["rows"]


def test_throughput_measures_both_sides_and_the_machine(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    options = ["--widths", "16", "--contexts", "16", "--threads", "1", "--layers", "1", "--repeats", "2", "--seconds", "0.01"]
    printed, rows = run("throughput", tmp_path, *options)
    assert "ours/peer" in printed
    assert [(row["width"], row["context"], row["threads"]) for row in rows] == [(16, 16, 1)]
    assert all(float(str(rows[0][name])) > 0 for name in ("ours tokens/s", "peer tokens/s", "% of square", "% of best"))


def test_reference_trains_and_takes_turns_with_a_plain_loop(tmp_path: Path) -> None:
    printed, rows = run("reference", tmp_path, "--steps", "3", "--repeats", "2", "--turn", "1")
    assert "validation loss" in printed
    measured = {str(row["measure"]): float(str(row["value"])) for row in rows}
    assert 0 < measured["validation loss, nats per character"] < 10
    assert measured["plain / ours, CPU time"] > 0


def test_gpt2_curve_lies_on_top_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    options = ["--steps", "4", "--layers", "1", "--width", "16", "--heads", "2", "--context", "16", "--batch", "2"]
    printed, rows = run("gpt2_curve", tmp_path, *options)
    assert "largest difference" in printed
    assert len(rows) == 4
    assert all(float(str(row["difference"])) < 1e-4 for row in rows)


def test_big_corpus_opens_twice_and_removes_its_text(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    _, rows = run("big_corpus", tmp_path, "--gigabytes", "0.005", "--batches", "20", "--folder", str(scratch))
    assert [(row["text"], row["opened"]) for row in rows] == [
        ("small", "first"),
        ("small", "second"),
        ("large", "first"),
        ("large", "second"),
    ]
    assert not list(scratch.iterdir())

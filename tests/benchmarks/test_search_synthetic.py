"""The benchmark on functions with a known optimum: its functions are right, and it goes on where it was stopped."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search_synthetic.py"


@pytest.fixture(scope="module")
def synthetic() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_synthetic", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dimensions", [3, 6])
def test_hartmann_has_its_published_minimum_and_the_curve_ends_there(synthetic: ModuleType, dimensions: int) -> None:
    best = synthetic.OPTIMA[dimensions]
    assert synthetic.hartmann(best) == pytest.approx(synthetic.MINIMA[dimensions], abs=1e-4)
    for axis in range(dimensions):
        for step in (-0.02, 0.02):
            moved = tuple(place + step * (index == axis) for index, place in enumerate(best))
            assert synthetic.hartmann(moved) > synthetic.hartmann(best)
    points = list(synthetic.curve(best))
    assert [rung for rung, _ in points] == list(range(1, 11))
    assert points[-1][1] == synthetic.hartmann(best)
    assert points == list(synthetic.curve(best))


def test_a_bad_prior_is_bad_and_a_good_one_near_the_optimum(synthetic: ModuleType) -> None:
    for dimensions in (3, 6):
        regrets = {}
        for prior in ("good", "bad"):
            space = synthetic.make_space(dimensions, prior, 0)
            point = tuple(synthetic.place_of(each, space.prior()[each.name]) for each in space.searched)
            regrets[prior] = synthetic.hartmann(point) - synthetic.MINIMA[dimensions]
        assert regrets["good"] < 2
        assert regrets["bad"] > 3


def test_it_is_stopped_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def run(*systems: str) -> str:
        options = ["--seeds", "1", "--trials", "3", "--dimensions", "3", "--priors", "bad", "--out", str(out)]
        command = [sys.executable, str(SCRIPT), *options, "--systems", *systems]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("random")
    first = out.read_text()
    out.write_text(first + '{"dimensions": 3, "prior"')  # A line that was cut off.
    printed = run("random", "auto")
    assert out.read_text().startswith(first)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["system"], len(row["regrets"]), row["proposed_by"][0]) for row in rows] == [
        ("random", 3, "prior"),
        ("auto", 3, "prior"),
    ]
    assert "| Hartmann 3 | bad | auto |" in printed

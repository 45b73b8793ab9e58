"""The table of real runs goes on where it was interrupted, and is replayed as it was measured."""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hpsearch.config import TrialConfig
from hpsearch.execution.protocol import TrialTask
from hpsearch.training.events import Answer, CheckpointSaved, EvalPoint, Outcome, TrainResult

FOLDER = Path(__file__).parents[2] / "benchmarks"
TEXT = "".join(f"{number} is a number, and {number * number} is its square.\n" for number in range(2000))
SPACE = """\
name: small
objective: val_bpb
data: {{text: {text}, tokenizer: bytes, validation: 0.1}}
budget: {{flops: 3e7, evaluations: 4}}
parameters:
  learning_rate: {{low: 1e-4, high: 1e-1, log: true, prior: 1e-3}}
  d_model: {{choices: [8, 16], prior: 8}}
  d_ff: 2 * d_model
  num_heads: 2
  num_layers: 1
  batch_size: 4
  context_length: 16
  eval_iters: 1
  max_new_tokens: 2
"""


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


def make(folder: Path, rows: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "make_table.py"), "--space", str(folder / "small.yaml"), "--rows", str(rows)]
    command += ["--workers", "1", "--cache", str(folder / "cache"), "--out", str(folder / "table.jsonl")]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a table of two rows, made in two goes: the first one was cut off in the middle of a line."""
    place = tmp_path_factory.mktemp("table")
    (place / "text.txt").write_text(TEXT, "utf-8")
    (place / "small.yaml").write_text(SPACE.format(text=place / "text.txt"), "utf-8")
    done = make(place, 1)
    assert done.returncode == 0, done.stderr
    whole = (place / "table.jsonl").read_bytes()
    (place / "table.jsonl").write_bytes(whole[:-20])
    (place / "first.jsonl").write_bytes(whole)
    done = make(place, 2)
    assert done.returncode == 0, done.stderr
    assert "2 runs are in" in done.stdout
    return place


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_an_interrupted_table_goes_on_and_holds_each_run_once(folder: Path) -> None:
    header, *runs = lines(folder / "table.jsonl")
    assert header["shares"] == [0.25, 0.5, 1.0]
    assert sorted((run["row"], run["share"]) for run in runs) == [(row, share) for row in (0, 1) for share in header["shares"]]
    assert all(len(run["curve"]) == 4 for run in runs)
    first, again = ({(run["row"], run["share"]): run["curve"] for run in lines(folder / name)[1:]} for name in NAMES)
    assert {key: again[key] for key in first} == first


NAMES = ("first.jsonl", "table.jsonl")


def test_each_share_of_the_budget_has_a_run_of_its_own_length(folder: Path) -> None:
    steps = {run["share"]: run["max_iters"] for run in lines(folder / "table.jsonl")[1:] if run["row"] == 0}
    assert steps[0.25] == pytest.approx(steps[1.0] / 4, abs=4)
    assert steps[0.5] == pytest.approx(steps[1.0] / 2, abs=4)


def test_a_table_of_another_seed_is_not_mixed_with_this_one(folder: Path) -> None:
    text = (folder / "table.jsonl").read_text("utf-8").replace('"seed": 0', '"seed": 7')
    other = folder / "other"
    other.mkdir()
    (other / "table.jsonl").write_text(text, "utf-8")
    (other / "small.yaml").write_text((folder / "small.yaml").read_text("utf-8"), "utf-8")
    done = make(other, 2)
    assert done.returncode != 0
    assert "another space, text or seed" in done.stderr
    assert (other / "table.jsonl").read_text("utf-8") == text


@pytest.fixture
def replay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("HPSEARCH_REPLAY_TABLE", str(folder / "table.jsonl"))
    return module("replay")


def task(folder: Path, run: dict[str, Any], place: Path) -> TrialTask:
    settings = run["proposal"] | {"d_ff": 16, "num_heads": 2, "num_layers": 1, "batch_size": 4, "context_length": 16}
    settings |= {"vocab_size": 256, "max_iters": run["max_iters"], "eval_interval": run["max_iters"] / 4, "eval_iters": 1}
    place.mkdir(exist_ok=True)
    return TrialTask(
        number=0,
        attempt=1,
        config=TrialConfig.build(settings).concrete(),
        data={},
        data_fingerprint="",
        folder=place,
        cache_dir=folder,
        device="cpu",
        threads=1,
        objectives=("val_bpb",),
    )


def finish(replay: ModuleType, given: TrialTask, pause_at: int = 0) -> tuple[list[Any], TrainResult]:
    run, events, answer = replay.trainer(given), [], None
    while True:
        try:
            event = run.send(answer)
        except StopIteration as stop:
            return events, stop.value
        events.append(event)
        pausing = isinstance(event, EvalPoint) and event.rung == pause_at
        answer = Answer.PAUSE if pausing else Answer.CONTINUE


def values(events: list[Any]) -> list[float]:
    return [event.metrics["val_bpb"] for event in events if isinstance(event, EvalPoint)]


def test_a_row_is_replayed_as_it_was_measured(folder: Path, replay: ModuleType, tmp_path: Path) -> None:
    for number, run in enumerate(lines(folder / "table.jsonl")[1:]):
        events, result = finish(replay, task(folder, run, tmp_path / str(number)))
        assert values(events) == run["curve"]
        assert result.outcome is Outcome.COMPLETE
        assert result.metrics["val_bpb"] == run["curve"][-1]


def test_a_replayed_trial_can_be_paused_and_goes_on(folder: Path, replay: ModuleType, tmp_path: Path) -> None:
    run = lines(folder / "table.jsonl")[1]
    before, left = finish(replay, task(folder, run, tmp_path / "trial"), pause_at=2)
    assert left.outcome is Outcome.PAUSED
    assert isinstance(before[-1], CheckpointSaved)
    after, result = finish(replay, task(folder, run, tmp_path / "trial"))
    assert values(before) + values(after) == run["curve"]
    assert result.outcome is Outcome.COMPLETE


def test_near_a_row_the_curve_is_near_the_rows(folder: Path, replay: ModuleType, tmp_path: Path) -> None:
    first, last = (run for run in lines(folder / "table.jsonl")[1:] if run["share"] == 1.0)
    near = task(folder, first, tmp_path / "near")
    moved = replace(near, config=near.config | {"learning_rate": near.config["learning_rate"] * 1.01})
    curve = values(finish(replay, moved)[0])
    assert curve != first["curve"]
    assert curve == pytest.approx(first["curve"], abs=0.05 * abs(first["curve"][-1] - last["curve"][-1]))


def test_the_table_tells_what_it_was_not_shown(replay: ModuleType, tmp_path: Path) -> None:
    """Of the real table, a tenth is held out: the ends that are made up for it are far nearer to the measured ones than the
    nearest row's."""
    header, *runs = lines(FOLDER / "table.jsonl")
    held_out = {run["row"]: run for run in runs if run["row"] % 10 == 0 and run["share"] == 1.0}
    kept = [header, *(run for run in runs if run["row"] not in held_out)]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
    table = replay.read_table(tmp_path / "table.jsonl")
    errors, steps = [], []
    for run in held_out.values():
        ours = table.run(run["proposal"], 1e10)["curve"][-1]
        here_P = [scale(run["proposal"][name]) for name, scale in table.scales.items()]
        nearest = min(range(len(table.places_RP)), key=lambda row: math.dist(here_P, table.places_RP[row]))
        errors.append(abs(ours - run["curve"][-1]))
        steps.append(abs(table.runs[1.0][nearest]["curve"][-1] - run["curve"][-1]))
    assert statistics.median(errors) < 0.4 * statistics.median(steps)


def test_a_run_that_diverged_diverges_again(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    header, *runs = lines(folder / "table.jsonl")
    cut = [
        run | {"curve": run["curve"][:2], "outcome": "diverged", "reason": "the loss was nan"}
        for run in runs
        if run["row"] == 0
    ]
    kept = [header, *cut, *(run for run in runs if run["row"] == 1)]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
    monkeypatch.setenv("HPSEARCH_REPLAY_TABLE", str(tmp_path / "table.jsonl"))
    events, result = finish(module("replay"), task(folder, runs[0], tmp_path / "trial"))
    assert values(events) == runs[0]["curve"][:2]
    assert (result.outcome, result.reason) == (Outcome.DIVERGED, "the loss was nan")


def test_searches_are_replayed_from_the_table_and_those_that_are_done_are_not_done_again(folder: Path, tmp_path: Path) -> None:
    """What they find is about what the table's runs end with, and each spends what it has, but for its last evaluation."""
    command = [sys.executable, str(FOLDER / "replayed.py"), "--table", str(folder / "table.jsonl"), "--workers", "1"]
    command += ["--total", "3", "--cache", str(folder / "cache"), "--out", str(tmp_path / "replayed.jsonl"), "--systems"]
    for systems in (["optuna"], ["optuna", "auto+halving"]):
        done = subprocess.run([*command, *systems, "--seeds", "1"], capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, done.stderr
    rows = lines(tmp_path / "replayed.jsonl")
    assert [row["system"] for row in rows] == ["optuna", "auto+halving"]
    ends = [run["curve"][-1] for run in lines(folder / "table.jsonl")[1:] if run["share"] == 1.0]
    for row in rows:
        found = {value for _, rung, _, value in row["points"] if rung == row["rungs"]}
        assert found
        assert min(ends) - 0.5 < min(found) <= max(found) < max(ends) + 0.5
        assert 3.0 <= row["spent"] / row["trial_flops"] < 3.3

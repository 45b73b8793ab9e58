"""What a trainer of one's own reports, and what is heard of it: the values, the reasons, and what is left out."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import own_trainers
import pytest
import torch
from own_runs import points, printing, run

from hpsearch.execution.protocol import Ended, Failed, FunctionTrainer
from hpsearch.execution.slot_process import LONGEST_TEXT
from hpsearch.text import LONGEST_MESSAGE
from hpsearch.trainers import command as program
from hpsearch.trainers import reporter as own
from hpsearch.trainers.command import fill
from hpsearch.trainers.user import Checkpoint, Evaluation, Run
from hpsearch.training.events import Event, Outcome, Warned


def heard(tmp_path: Path, *lines: str, objectives: tuple[str, ...] = ("value",)) -> tuple[list[Event], Ended | Failed]:
    """A program that prints these lines."""
    return run(printing(tmp_path, "\n".join(lines).encode()), tmp_path, objectives)


def of(function: Callable[..., Any]) -> FunctionTrainer:
    return FunctionTrainer(f"{function.__module__}:{function.__name__}")


def ended(result: Ended | Failed) -> dict[str, float]:
    """The final metrics of a run that ended well."""
    assert isinstance(result, Ended), result
    assert result.result.outcome is Outcome.COMPLETE
    return result.result.metrics


def warnings(said: list[Event]) -> list[str]:
    return [each.message for each in said if isinstance(each, Warned)]


def test_the_own_name_of_an_objective_beats_value(tmp_path: Path) -> None:
    _, result = heard(tmp_path, '{"step": 8, "reward": 30.0, "value": -0.5}', objectives=("neg_reward",))
    assert ended(result) == {"reward": 30.0, "neg_reward": -30.0, "value": -0.5}


def test_value_is_the_first_objective_where_its_own_name_is_not_there(tmp_path: Path) -> None:
    assert ended(heard(tmp_path, '{"step": 8, "value": 2}', objectives=("loss",))[1]) == {"loss": 2.0}


def test_value_is_itself_where_it_is_an_objective(tmp_path: Path) -> None:
    _, result = heard(tmp_path, '{"step": 8, "value": 7, "loss": 0.5}', objectives=("loss", "value"))
    assert ended(result) == {"loss": 0.5, "value": 7.0}


def test_objectives_on_lines_of_their_own_are_one_evaluation(tmp_path: Path) -> None:
    lines = [f'{{"step": {step}, "{name}": {step}.5}}' for step in (2, 4, 6, 8) for name in ("acc", "loss", "size")]
    said, result = heard(tmp_path, *lines, objectives=("loss", "size"))
    assert points(said) == [(n, {"loss": 2 * n + 0.5, "size": 2 * n + 0.5, "acc": 2 * n + 0.5}) for n in (1, 2, 3, 4)]
    assert ended(result) == {"loss": 8.5, "size": 8.5, "acc": 8.5}


def test_an_objective_that_comes_only_at_the_end_holds_up_no_evaluation(tmp_path: Path) -> None:
    lines = ['{"step": 4, "loss": 2}', '{"step": 8, "loss": 1}', '{"step": 8, "size": 5}']
    said, result = heard(tmp_path, *lines, objectives=("loss", "size"))
    assert points(said) == [(2, {"loss": 2.0}), (4, {"loss": 1.0, "size": 5.0})]
    assert ended(result) == {"loss": 1.0, "size": 5.0}


def test_of_two_values_for_one_step_the_first_counts_in_curve_and_result(tmp_path: Path) -> None:
    said, result = heard(tmp_path, *(f'{{"step": 8, "value": {value}}}' for value in (1.0, 0.25)))
    assert points(said) == [(4, {"value": 1.0})]
    assert ended(result) == {"value": 1.0}
    assert warnings(said) == ["it reports value more than once for one step: the first value counts"]


def test_a_step_that_is_over_changes_no_result(tmp_path: Path) -> None:
    said, result = heard(tmp_path, '{"step": 8, "value": 1.0}', '{"step": 2, "value": 9.0}')
    assert (points(said), ended(result)) == ([(4, {"value": 1.0})], {"value": 1.0})
    assert warnings(said) == ["it reports steps that are over; what it measures there is left out"]


@pytest.mark.parametrize(
    "line",
    [
        '\r 3 of 8 \r{"step": 8, "value": 1}',
        '{"step": 8, "value": 1}\r100%|####| 8/8\r',
        '{"step": 8, "value": 1}\r',
        '\x1b[32m{"step": 8, \x1b[1m"value": 1}\x1b[0m',
        '\x1b]0;a title\x07\x1b[2K{"step": 8, "value": 1}\x1b[K',
        '\ufeff{"step": 8, "value": 1}',
        'INFO:train:{"step": 8, "value": 1}',
        '2026-11-29 [INFO] {rank 0} {"step": 8, "value": 1}  ',
        '{"step": 4, "value": 3} {"step": 8, "value": 1}',
        '{"step": 4, "value": 3}{"step": 8.0, "value": 1, "note": "{"}',
    ],
)
def test_a_report_that_ends_its_line_is_heard(tmp_path: Path, line: str) -> None:
    assert ended(heard(tmp_path, line)[1]) == {"value": 1.0}


def test_a_report_beyond_the_budget_is_heard_and_said_to_be_left_out(tmp_path: Path) -> None:
    said, result = heard(tmp_path, '{"step": 300, "loss": 1}', objectives=("loss",))
    assert warnings(said) == ["it goes beyond its budget of 8 steps; what it measures there is left out"]
    assert isinstance(result, Failed)
    assert "no line of its standard output is a report" not in result.message


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nothing",
        '{"step": 8, "value": 1} is what it said',
        '{"steps": 8, "value": 1}',
        '["step", 8]',
        '{"step": 8, "value": nan}',
        '{"step": "download", "status": "ok"}',
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"step": 8, "value": 1, "more": "' + "x" * program.LONGEST_LINE + '"}',
    ],
)
def test_where_nothing_was_heard_the_reason_says_so_and_names_the_log(tmp_path: Path, line: str) -> None:
    _, result = heard(tmp_path, line)
    assert isinstance(result, Failed)
    told = "no line of its standard output is a report, a JSON object with a step; see output.log in the trial's folder"
    assert result.message == f"ProgramFailed: it ended without a value of value; {told}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"step": 9300000000000000000, "value": 1}', "step is 9300000000000000000: give the number of finished steps"),
        ('{"step": 1e300, "value": 1}', "step is 1e+300"),
        ('{"step": Infinity, "value": 1}', "step is inf"),
        ('{"step": NaN, "value": 1}', "step is nan"),
        ('{"step": -1, "value": 1}', "step is -1"),
        ('{"step": 0.5, "value": 1}', "step is 0.5"),
        ('{"step": "8", "value": 1}', "step is '8'"),
        ('{"step": true, "value": 1}', "step is True"),
        ('{"step": 8, "value": "much"}', "value is 'much', which is no number"),
        ('{"step": 8, "value": [1]}', "value is [1], which is no number"),
        ('{"step": 8, "checkpoint": "\\ud800"}', "the checkpoint of step 8 is not there: "),
    ],
)
def test_a_report_that_cannot_be_fails_its_trial(tmp_path: Path, line: str, reason: str) -> None:
    _, result = heard(tmp_path, line)
    assert isinstance(result, Failed)
    assert f"ValueError: {reason}" in result.message
    result.message.encode()


def test_a_number_that_no_float_holds_is_infinite(tmp_path: Path) -> None:
    _, result = heard(tmp_path, f'{{"step": 4, "value": 1, "more": 1{"0" * 400}}}', f'{{"step": 8, "value": -1{"0" * 400}}}')
    assert isinstance(result, Ended)
    assert (result.result.outcome, result.result.reason) == (Outcome.DIVERGED, "value is -inf at step 8")
    assert result.result.metrics == {"value": 1.0}


def test_more_metrics_than_are_kept_cost_no_trial(tmp_path: Path) -> None:
    report = {"step": 8, **{f"layer{index}\ud800": index for index in range(5000)}, "value": 1}
    said, result = heard(tmp_path, json.dumps(report))
    metrics = ended(result)
    assert (metrics["value"], len(metrics)) == (1.0, own.MOST_METRICS)
    assert "layer0\\ud800" in metrics
    assert warnings(said) == ["it reports more than 1000 metrics; those after them are left out"]


def test_a_reason_of_five_megabytes_is_cut(tmp_path: Path) -> None:
    _, result = run(of(fails_at_length), tmp_path)
    assert isinstance(result, Failed)
    assert len(result.message) <= LONGEST_MESSAGE < len(result.traceback) <= LONGEST_TEXT
    assert result.message.startswith("ValueError: \\ud800xxx")
    result.traceback.encode()


def fails_at_length(config: dict[str, Any], run: Run) -> Iterator[Evaluation]:
    yield Evaluation(2, 1.0)
    raise ValueError("\ud800" + "x" * 5_000_000)


def exits(config: dict[str, Any], run: Run) -> Iterator[Evaluation]:
    yield Evaluation(2, 1.0)
    raise SystemExit("the wrong trousers")


def test_a_function_that_exits_fails_its_trial_and_not_its_slot(tmp_path: Path) -> None:
    _, result = run(of(exits), tmp_path)
    assert isinstance(result, Failed)
    assert (result.kind, result.message) == ("error", "SystemExit: the wrong trousers")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def fails_without_words(config: dict[str, Any], run: Run) -> Iterator[Evaluation]:
    yield Evaluation(2, 1.0)
    raise Unspeakable


def test_an_error_that_is_no_text_fails_its_trial_and_not_its_slot(tmp_path: Path) -> None:
    _, result = run(of(fails_without_words), tmp_path)
    assert isinstance(result, Failed)
    assert (result.kind, result.message) == ("error", "Unspeakable")


def breaks_a_pipe_of_its_own(config: dict[str, Any], run: Run) -> Iterator[Evaluation]:
    yield Evaluation(2, 1.0)
    raise BrokenPipeError("its data loader is gone")


def test_a_broken_pipe_of_its_own_fails_a_trial_and_not_its_slot(tmp_path: Path) -> None:
    _, result = run(of(breaks_a_pipe_of_its_own), tmp_path)
    assert isinstance(result, Failed)
    assert result.message == "BrokenPipeError: its data loader is gone"


def speaks_numpy(config: dict[str, Any], run: Run) -> Iterator[Evaluation | Checkpoint]:
    saved = run.folder / "saved"
    saved.touch()
    yield Checkpoint(np.int64(1), saved)  # type: ignore[arg-type]
    for step in (np.int64(2), np.array(4), torch.tensor(6), np.float32(8)):
        yield Evaluation(step, np.float32(0.5), {"array": np.array(2.0), "tensor": torch.tensor(3.0), "whole": np.int64(4)})  # type: ignore[arg-type]


def test_numbers_of_numpy_and_torch_are_taken_for_what_they_are(tmp_path: Path) -> None:
    said, result = run(of(speaks_numpy), tmp_path)
    whole = {"value": 0.5, "array": 2.0, "tensor": 3.0, "whole": 4.0}
    assert points(said) == [(rung, whole) for rung in (1, 2, 3, 4)]
    assert ended(result) == whole
    assert all(type(value) is float for value in ended(result).values())


# Going on


def saves_before_it_has_measured_all(config: dict[str, Any], run: Run) -> Iterator[Evaluation]:
    saved = run.folder / "saved"
    saved.touch()
    if run.resume is None:
        yield Evaluation(4, metrics={"loss": 2.0}, checkpoint=saved)
        yield Evaluation(4, metrics={"size": 5.0})
        raise InterruptedError
    yield Evaluation(8, metrics={"loss": 1.0, "size": 6.0})


def test_what_was_measured_beside_a_checkpoint_is_there_when_a_run_goes_on(tmp_path: Path) -> None:
    trainer = of(saves_before_it_has_measured_all)
    said, result = run(trainer, tmp_path, ("loss", "size"))
    assert isinstance(result, Failed)
    assert points(said) == [(2, {"loss": 2.0, "size": 5.0})]
    said, result = run(trainer, tmp_path, ("loss", "size"))
    assert points(said) == [(4, {"loss": 1.0, "size": 6.0})]
    assert ended(result) == {"loss": 1.0, "size": 6.0}


def lacks_one_when_it_ends(config: dict[str, Any], run: Run) -> Iterator[Evaluation]:
    saved = run.folder / "saved"
    saved.touch()
    if run.resume is None:
        yield Evaluation(4, metrics={"loss": 2.0}, checkpoint=saved)
        raise InterruptedError
    yield Evaluation(8, metrics={"loss": 1.0, "size": 6.0})


def test_an_evaluation_that_was_not_whole_is_told_when_the_run_goes_on(tmp_path: Path) -> None:
    trainer = of(lacks_one_when_it_ends)
    said, _ = run(trainer, tmp_path, ("loss", "size"))
    assert points(said) == []
    said, result = run(trainer, tmp_path, ("loss", "size"))
    assert points(said) == [(2, {"loss": 2.0}), (4, {"loss": 1.0, "size": 6.0})]
    assert ended(result) == {"loss": 1.0, "size": 6.0}


@pytest.mark.parametrize(
    "noted",
    [
        "",
        "[" * 100_000,
        "7",
        "[7, null, {}]",
        '[{"step": 9300000000000000000, "path": "saved", "seconds": 1.0, "rung": 4, "values": {"value": 1.0}}]',
        '[{"step": 8, "path": "saved", "seconds": 1.0, "rung": 4, "values": {"value": "1"}}]',
        '[{"step": 8, "path": "../0001/saved", "seconds": 1.0, "rung": 4, "values": {"value": 1.0}}]',
    ],
)
def test_checkpoints_that_cannot_have_been_noted_so_are_none(tmp_path: Path, noted: str) -> None:
    (tmp_path / "saved").touch()
    (tmp_path / own.RESUME).write_text(noted)
    assert ended(heard(tmp_path, '{"step": 8, "value": 2}')[1]) == {"value": 2.0}


# How a program ends


def ending(tmp_path: Path, shell: str) -> Failed:
    _, result = run(program.ProgramTrainer(f"sh -c {json.dumps(shell)}"), tmp_path)
    assert isinstance(result, Failed)
    return result


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (3, "exit code 3"),
        (128, "exit code 128"),
        (255, "exit code 255"),
        (137, "exit code 137 (how a shell says that signal 9 (SIGKILL) ended a child of it)"),
    ],
)
def test_an_exit_code_is_no_kill_and_the_last_words_are_kept(tmp_path: Path, code: int, told: str) -> None:
    failed = ending(tmp_path, f"echo first >&2; echo my config is wrong >&2; exit {code}")
    assert (failed.kind, failed.message) == ("error", f"ProgramFailed: {told}: my config is wrong")
    assert "first\nmy config is wrong" in failed.traceback


@pytest.mark.parametrize("signal", ["KILL", "TERM", "SEGV", "PIPE"])
def test_a_signal_is_a_kill_and_the_last_words_are_kept(tmp_path: Path, signal: str) -> None:
    failed = ending(tmp_path, f"echo it is dark >&2; kill -{signal} $$")
    assert failed.kind == "killed"
    assert failed.message.endswith(f"(SIG{signal}): it is dark")


NO_MORE = """
import sys
from pathlib import Path
from own_runs import run
from hpsearch.execution.protocol import FunctionTrainer

print(run(FunctionTrainer(f"own_trainers:{sys.argv[1]}"), Path(sys.argv[2]))[1].kind)
"""


@pytest.mark.parametrize("what", ["starts_a_thread", "starts_a_process", "forks"])
def test_a_system_that_starts_no_more_is_no_fault_of_the_trial(tmp_path: Path, what: str) -> None:
    tmp_path.chmod(0o777)
    support = Path(own_trainers.__file__).parent
    paths = os.pathsep.join([str(support), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", NO_MORE, what, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "out-of-threads\n"


# What it prints and is told


def test_the_log_of_a_program_that_prints_for_ever_keeps_beginning_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MOST_LOG", 200_000)
    monkeypatch.setattr(program, "KEPT_LOG", 50_000)
    lines = [f"line {number:07d}" for number in range(100_000)]
    heard(tmp_path, *lines, '{"step": 8, "value": 1}')
    log = (tmp_path / "output.log").read_text()
    assert len(log) <= 200_000 + 65_536
    assert log.startswith("line 0000000\nline 0000001\n")
    assert log.endswith('line 0099999\n{"step": 8, "value": 1}')
    assert "left out" in log


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (-1e-05, "-0.00001"),
        (-1.5e-07, "-0.00000015"),
        (-1e22, "-10000000000000000000000"),
        (-0.5, "-0.5"),
        (-3, "-3"),
        (1e-05, "1e-05"),
        (-0.0, "-0.0"),
    ],
)
def test_a_number_below_zero_is_written_without_an_exponent(value: float, word: str) -> None:
    assert fill(["{x}"], {"x": value}) == [word]
    assert float(word) == value
    assert math.copysign(1, float(word)) == math.copysign(1, value)

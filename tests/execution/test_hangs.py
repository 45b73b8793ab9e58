"""Hung runs told from slow ones, on real processes that really hang."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpsearch.execution import watchdog
from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.execution.protocol import Died, Ended, SlotMessage, TrialTask
from hpsearch.training.events import Answer, EvalPoint, Outcome

LIMIT_S = 2.0


@contextmanager
def executor(trainer: str) -> Iterator[LocalExecutor]:
    opened = LocalExecutor(1, 1, trainer=f"toy_trainers:{trainer}")
    try:
        yield opened
    finally:
        opened.close()


def task(folder: Path, number: int = 1) -> TrialTask:
    config = {"learning_rate": 1e-3, "eval_interval": 1, "max_iters": 3}
    trial = folder / "trials" / f"{number:04d}"
    trial.mkdir(parents=True, exist_ok=True)
    return TrialTask(number, 1, config, {}, "", trial, folder, "cpu", 1, ("val_bpb",), step_limit_s=LIMIT_S)


def until(opened: LocalExecutor, *kinds: type) -> SlotMessage:
    """The next message of one of `kinds`; evaluations are answered with CONTINUE."""
    for _ in range(300):
        for message in opened.messages(0.5):
            if isinstance(message.body, kinds):
                return message
            if isinstance(message.body, EvalPoint):
                opened.answer(message.slot, Answer.CONTINUE)
    raise AssertionError(f"none of {kinds} came")


def test_a_stopped_process_is_killed_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_S", 1.0)
    with executor("is_stopped_once") as opened:
        opened.submit(opened.idle()[0], task(tmp_path))
        died = until(opened, Died, Ended).body
        assert isinstance(died, Died)
        assert died.exit_code == -signal.SIGKILL
        assert died.reason.startswith("no step for 2 s, and it could not write its stacks")
        assert not (tmp_path / "trials" / "0001" / "stacks.txt").exists()
        opened.submit(opened.idle()[0], task(tmp_path))
        assert until(opened, Died, Ended).body.result.outcome is Outcome.COMPLETE


@pytest.mark.parametrize("trainer", ["steps_in_silence", "reads_for_long"])
def test_steps_without_a_report_and_a_long_reading_are_no_hang(tmp_path: Path, trainer: str) -> None:
    with executor(trainer) as opened:
        opened.submit(opened.idle()[0], task(tmp_path))
        assert until(opened, Died, Ended).body.result.outcome is Outcome.COMPLETE
        assert not (tmp_path / "trials" / "0001" / "stacks.txt").exists()


def test_waiting_for_the_coordinator_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_S", 0.0)
    with executor("curve") as opened:
        opened.submit(opened.idle()[0], task(tmp_path))
        point = until(opened, EvalPoint, Died)
        assert isinstance(point.body, EvalPoint)
        late = time.monotonic() + 1.5 * LIMIT_S
        while time.monotonic() < late:
            assert opened.messages(0.2) == []
        opened.answer(point.slot, Answer.CONTINUE)
        assert until(opened, Died, Ended).body.result.outcome is Outcome.COMPLETE


def test_a_pause_reaches_a_run_between_its_events(tmp_path: Path) -> None:
    with executor("steps_in_silence") as opened:
        slot = opened.idle()[0]
        opened.submit(slot, task(tmp_path))
        opened.answer(slot.name, Answer.PAUSE)
        assert until(opened, Died, Ended).body.result.outcome is Outcome.PAUSED


def test_a_run_killed_otherwise_is_not_said_to_hang(tmp_path: Path) -> None:
    with executor("kills_its_process") as opened:
        opened.submit(opened.idle()[0], task(tmp_path))
        assert until(opened, Died, Ended).body == Died(-signal.SIGKILL)
        assert not (tmp_path / "trials" / "0001" / "stacks.txt").exists()

"""The contract of an executor: on processes of this machine, and on a real Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import coordinates
import psutil
import pytest
from ray_nodes import ENVIRONMENT
from waiting import wait_for

from hpsearch.errors import SlotsUnable
from hpsearch.execution.protocol import Died, Ended, Executor, Failed, SlotMessage, TrialTask
from hpsearch.training.events import Answer, EvalPoint, Outcome, Progress

Opens = Callable[..., AbstractContextManager[Executor]]


def task(folder: Path, number: int = 0, **config: object) -> TrialTask:
    whole = {"learning_rate": 1e-3, "eval_interval": 1, "max_iters": 3, "seed": 0} | config
    return TrialTask(number, 1, whole, {}, "", folder, folder, "cpu", 1, ("val_bpb",))


def until(opened: Executor, kind: type) -> SlotMessage:
    """The next message of a kind; evaluations before it are answered with CONTINUE."""
    for _ in range(500):
        for message in opened.messages(1.0):
            if isinstance(message.body, kind):
                return message
            if isinstance(message.body, EvalPoint):
                opened.answer(message.slot, Answer.CONTINUE)
    raise AssertionError(f"no {kind.__name__} came")


def test_a_run_is_answered_at_each_evaluation_and_returns_its_result(executor: Opens, tmp_path: Path) -> None:
    with executor("curve") as opened:
        (slot,) = opened.idle()
        opened.submit(slot, task(tmp_path, number=4))
        assert opened.idle() == []
        point = until(opened, EvalPoint)
        assert (point.number, point.body.rung) == (4, 1)
        opened.answer(point.slot, Answer.CONTINUE)
        ended = until(opened, Ended)
        assert ended.body.result.outcome is Outcome.COMPLETE
        assert ended.body.result.metrics["val_bpb"] == pytest.approx(1e-3 + 1 / 3)
        assert opened.idle() == [slot]


def test_stop_ends_a_run_at_its_evaluation(executor: Opens, tmp_path: Path) -> None:
    with executor("curve") as opened:
        opened.submit(opened.idle()[0], task(tmp_path))
        point = until(opened, EvalPoint)
        opened.answer(point.slot, Answer.STOP)
        assert until(opened, Ended).body.result.outcome is Outcome.STOPPED


def test_pause_comes_through_between_evaluations(executor: Opens, tmp_path: Path) -> None:
    with executor("steps_until_told") as opened:
        opened.submit(opened.idle()[0], task(tmp_path))
        progress = until(opened, Progress)
        opened.answer(progress.slot, Answer.PAUSE)
        assert until(opened, Ended).body.result.outcome is Outcome.PAUSED


def test_a_late_answer_does_not_reach_the_next_trial(executor: Opens, tmp_path: Path) -> None:
    with executor("curve") as opened:
        slot = opened.idle()[0]
        opened.submit(slot, task(tmp_path / "a", max_iters=1))
        (tmp_path / "a").mkdir()
        point = until(opened, EvalPoint)
        opened.answer(point.slot, Answer.CONTINUE)
        opened.answer(point.slot, Answer.STOP)  # unasked, and maybe after the run has ended
        until(opened, Ended)
        (tmp_path / "b").mkdir()
        opened.submit(slot, task(tmp_path / "b", number=1))
        assert until(opened, Ended).body.result.outcome is Outcome.COMPLETE


def test_a_slot_stays_warm_between_trials(executor: Opens, tmp_path: Path) -> None:
    with executor("curve") as opened:
        before = opened.idle()
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            opened.submit(opened.idle()[0], task(folder, number))
            until(opened, Ended)
        assert opened.idle() == before


def test_a_slot_that_is_killed_is_reported_and_replaced(executor: Opens, tmp_path: Path) -> None:
    with executor("kills_its_process") as opened:
        slot = opened.idle()[0]
        opened.submit(slot, task(tmp_path, number=2))
        died = until(opened, Died)
        assert (died.number, died.body.exit_code) == (2, -signal.SIGKILL)
        (fresh,) = opened.idle()
        assert fresh.name == slot.name
        assert fresh.pid != slot.pid
        assert psutil.pid_exists(fresh.pid)


def test_an_idle_slot_that_is_killed_is_replaced_without_a_word(executor: Opens, tmp_path: Path) -> None:
    with executor("curve") as opened:
        slot = opened.idle()[0]
        os.kill(slot.pid, signal.SIGKILL)
        for _ in range(100):
            assert opened.messages(0.1) == []
            if opened.idle()[0].pid != slot.pid:
                break
        opened.submit(opened.idle()[0], task(tmp_path))
        assert until(opened, Ended).body.result.outcome is Outcome.COMPLETE


@pytest.mark.parametrize(
    ("seed", "kind", "message"),
    [
        (1, "error", "ValueError: a bug"),
        (2, "bad-input", "the text changed"),
        (3, "disk-full", "{folder}: no space left on device; make room, then run the same command again"),
        (4, "out-of-memory", "MemoryError: too much"),
    ],
)
def test_a_run_that_raises_says_why_and_leaves_a_slot_for_the_next_one(
    executor: Opens, tmp_path: Path, seed: int, kind: str, message: str
) -> None:
    with executor("raises") as opened:
        slot = opened.idle()[0]
        opened.submit(slot, task(tmp_path, seed=seed))
        failed = until(opened, Failed).body
        assert (failed.kind, failed.message) == (kind, message.replace("{folder}", str(tmp_path)))
        assert ("Traceback" in failed.traceback) == (kind != "bad-input")
        if kind == "out-of-memory":
            # A process that ran out of it may hold it in pieces: the next trial gets a clean one.
            assert failed.shortfall_bytes >= 1
            wait_for(lambda: opened.messages(0.1) == [] and opened.idle()[0].pid != slot.pid)
        assert [fresh.name for fresh in opened.idle()] == [slot.name]
        assert (opened.idle() == [slot]) == (kind != "out-of-memory")


def test_a_slot_has_the_threads_that_it_was_given(executor: Opens, tmp_path: Path) -> None:
    with executor("says_its_threads", threads=2) as opened:
        opened.submit(opened.idle()[0], task(tmp_path))
        assert until(opened, Progress).body.iteration == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_leaves_slots_running(executor: Opens, tmp_path: Path, number: signal.Signals) -> None:
    with executor("steps_until_told") as opened:
        slot = opened.idle()[0]
        opened.submit(slot, task(tmp_path))
        until(opened, Progress)
        os.kill(slot.pid, number)
        for _ in range(5):
            until(opened, Progress)
        opened.answer(slot.name, Answer.STOP)
        assert until(opened, Ended).body.result.outcome is Outcome.STOPPED


@contextmanager
def coordinator(folder: Path, address: str, silence_s: float) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A coordinator of its own, and its two slots at work."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, coordinates.__file__, str(folder), str(silence_s), *filter(None, [address])],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": path},
    ) as running:
        assert running.stdout is not None
        slots = [psutil.Process(int(pid)) for pid in running.stdout.readline().split()]
        assert len(slots) == 2
        try:
            yield running, slots
        finally:
            running.kill()


def ended(process: psutil.Process) -> bool:
    """Also one that a frozen parent has not heard of yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_slots_do_not_outlive_a_killed_coordinator(address: str, tmp_path: Path) -> None:
    with coordinator(tmp_path, address, silence_s=300) as (killed, slots):
        killed.kill()
        _, alive = psutil.wait_procs(slots, timeout=60)
        assert alive == []


def test_slots_end_when_their_coordinator_is_frozen_for_too_long_and_only_then(address: str, tmp_path: Path) -> None:
    with coordinator(tmp_path, address, silence_s=4) as (frozen, slots):
        time.sleep(6)
        assert not any(map(ended, slots))
        frozen.send_signal(signal.SIGSTOP)
        wait_for(lambda: all(map(ended, slots)))
        frozen.send_signal(signal.SIGCONT)
        assert frozen.stdout is not None
        assert {frozen.stdout.readline() for _ in slots} == {"its coordinator had not been heard of for too long\n"}


def test_a_run_that_hangs_leaves_its_stacks_and_goes_on_in_a_fresh_process(executor: Opens, tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "0001"
    folder.mkdir(parents=True)
    hangs = replace(task(folder, number=1), step_limit_s=2.0)
    with executor("hangs_once") as opened:
        slot = opened.idle()[0]
        opened.submit(slot, hangs)
        died = until(opened, Died).body
        assert died.reason == "no step for 2 s; its stacks are in trials/0001/stacks.txt"
        stacks = (folder / "stacks.txt").read_text()
        assert "in hangs_once" in stacks
        wait_for(lambda: opened.messages(0.1) == [] and len(opened.idle()) == 1)
        (fresh,) = opened.idle()
        assert fresh.pid != slot.pid
        opened.submit(fresh, hangs)
        assert until(opened, Ended).body.result.outcome is Outcome.COMPLETE
        assert (folder / "stacks.txt").read_text() == stacks


@pytest.mark.parametrize("trainer", ["steps_until_told", "reads_for_long"])
def test_a_slot_is_killed_with_its_trial_when_that_is_asked_for(executor: Opens, tmp_path: Path, trainer: str) -> None:
    with executor(trainer) as opened:
        (slot,) = opened.idle()
        opened.submit(slot, task(tmp_path, number=3))
        if trainer == "steps_until_told":
            until(opened, Progress)
        opened.kill(slot.name)  # Else maybe before its process has begun with it.
        assert until(opened, Died).number == 3
        wait_for(lambda: not opened.messages(0.1) and len(opened.idle()) == 1)


def test_slots_that_cannot_start_end_the_work_with_a_sentence_and_not_in_a_loop(executor: Opens, tmp_path: Path) -> None:
    with executor("no_such_trainer") as opened:
        opened.submit(opened.idle()[0], task(tmp_path))
        with pytest.raises(SlotsUnable, match="3 slot processes"):
            until(opened, Ended)


def test_a_task_whose_slot_dies_before_it_is_ready_is_begun_by_the_next_one(executor: Opens, tmp_path: Path) -> None:
    with executor("curve") as opened:
        slot = opened.idle()[0]
        opened.submit(slot, task(tmp_path))
        os.kill(slot.pid, signal.SIGKILL)
        for _ in range(100):
            for message in opened.messages(0.5):
                assert not isinstance(message.body, Died)
                opened.answer(message.slot, Answer.CONTINUE)
                if isinstance(message.body, Ended):
                    return
    raise AssertionError("it did not end")


def test_an_interrupt_of_the_whole_group_while_slots_start_is_not_theirs(executor: Opens, tmp_path: Path) -> None:
    with executor("curve") as opened:
        slot = opened.idle()[0]
        for _ in range(20):
            os.kill(slot.pid, signal.SIGINT)
            time.sleep(0.02)
        opened.submit(slot, task(tmp_path))
        assert until(opened, Ended).body.result.outcome is Outcome.COMPLETE
        assert opened.idle()[0].pid == slot.pid

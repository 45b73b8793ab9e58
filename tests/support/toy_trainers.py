"""Trainers that cost nothing, for tests of what is around a trainer. They run in real slot processes."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Generator
from dataclasses import replace

import psutil

from hpsearch.config import evaluations_in
from hpsearch.errors import DataError
from hpsearch.execution.protocol import TrialTask
from hpsearch.training.events import Answer, Began, CheckpointSaved, EvalPoint, Event, Outcome, Progress, TrainResult
from hpsearch.training.heartbeat import beat
from hpsearch.training.kept import step_name
from hpsearch.training.schedules import step_of

Run = Generator[Event, Answer, TrainResult]


def point(rung: int, value: float, iteration: int | None = None) -> EvalPoint:
    return EvalPoint(
        rung=rung,
        iteration=iteration or rung,
        tokens=100 * rung,
        flops=1e6 * rung,
        seconds=0.01 * rung,
        train_loss=value,
        metrics={"val_loss": value, "val_bpb": value},
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens_per_s=1e4,
    )


def curve(task: TrialTask) -> Run:
    """A curve that falls towards the trial's learning rate; honours its checkpoint, so that a resumed run goes on."""
    target = float(task.config["learning_rate"])
    interval, steps = task.config["eval_interval"], task.config["max_iters"]
    saved = task.folder / "step"
    start = int(saved.read_text()) if saved.exists() else 0
    rungs = evaluations_in(steps, interval)
    for rung in range(start + 1, rungs + 1):
        value = target + 1.0 / rung
        iteration = step_of(rung, steps, interval)
        answer = yield point(rung, value, iteration=iteration)
        if answer is Answer.STOP:
            return TrainResult(Outcome.STOPPED, iteration)
        saved.write_text(str(rung))
        told = yield CheckpointSaved(iteration, str(saved), "0" * 64, 1)
        if Answer.PAUSE in (answer, told):
            return TrainResult(Outcome.PAUSED, iteration)
    return TrainResult(Outcome.COMPLETE, steps, metrics={"val_loss": value, "val_bpb": value}, sample="words")


def sized_curve(task: TrialTask) -> Run:
    """`curve`, with the model's width as its size."""
    width = float(task.config["d_model"])
    result = yield from curve(task)
    return replace(result, metrics=result.metrics | {"num_parameters": width})


def slow_curve(task: TrialTask) -> Run:
    """`curve`, slow enough to be killed in."""
    run = curve(task)
    event = next(run)
    while True:
        time.sleep(0.05)
        answer = yield event
        try:
            event = run.send(answer)
        except StopIteration as stop:
            return stop.value


def tells_its_environment(task: TrialTask) -> Run:
    """Its environment, in the place of a sample."""
    yield from ()
    return TrainResult(Outcome.COMPLETE, 1, sample=json.dumps(dict(os.environ)))


def steps_until_told(task: TrialTask) -> Run:
    """Steps for ever, with a sign of life at each."""
    iteration = 0
    while True:
        iteration += 1
        time.sleep(0.01)
        answer = yield Progress(iteration, 1.0, 1e-3, 1e4)
        if answer is not Answer.CONTINUE:
            return TrainResult(Outcome.PAUSED if answer is Answer.PAUSE else Outcome.STOPPED, iteration)


def kills_its_process(task: TrialTask) -> Run:
    yield point(1, 1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def kills_its_process_once(task: TrialTask) -> Run:
    marker = task.folder / "killed"
    if task.number == 1 and not marker.exists():
        yield point(1, 9.0)
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return (yield from curve(task))


def poisons_the_second_trial(task: TrialTask) -> Run:
    return (yield from (kills_its_process(task) if task.number == 1 else curve(task)))


def raises(task: TrialTask) -> Run:
    """Fails in the way that the config's seed chooses."""
    yield Progress(1, 1.0, 1e-3, 1e4)
    raise {
        1: ValueError("a bug\nin two lines"),
        2: DataError("the text changed"),
        3: OSError(errno.ENOSPC, "No space left on device"),
        4: MemoryError("too much"),
    }[task.config["seed"]]


def fails_the_second_trial(task: TrialTask) -> Run:
    if task.number == 1:
        raise ValueError("a bug")
    return (yield from curve(task))


def diverges_when_steep(task: TrialTask) -> Run:
    if float(task.config["learning_rate"]) > 1e-3:
        return TrainResult(Outcome.DIVERGED, 7, reason="loss is nan at step 7")
    return (yield from curve(task))


def says_its_threads(task: TrialTask) -> Run:
    yield Progress(int(os.environ["OMP_NUM_THREADS"]), 1.0, 1e-3, 1e4)
    return TrainResult(Outcome.COMPLETE, 1)


def saves_elsewhere_and_diverges(task: TrialTask) -> Run:
    """Says that files of the user's own are its checkpoints."""
    place = task.folder.parents[2] / "elsewhere"
    place.mkdir(exist_ok=True)
    for name in ("step-00000001.pt", "best.safetensors"):
        (place / name).write_text("mine")
    yield CheckpointSaved(1, str(place / "step-00000001.pt"), "0" * 64, 1)
    return TrainResult(Outcome.DIVERGED, 1, reason="loss is nan at step 1")


def saves_and_diverges(task: TrialTask) -> Run:
    """A checkpoint where the command puts it, beside one of the user's own."""
    assert task.checkpoints is not None
    task.checkpoints.mkdir(parents=True)
    (task.checkpoints / "step-00000001.pt").write_text("weights")
    (task.checkpoints / "step-00000001.pt.sha256").write_text(f"{'0' * 64}  step-00000001.pt\n")
    (task.checkpoints / "step-99999999.pt").write_text("mine")
    yield CheckpointSaved(1, str(task.checkpoints / "step-00000001.pt"), "0" * 64, 1)
    return TrainResult(Outcome.DIVERGED, 1, reason="loss is nan at step 1")


def begins_anew(task: TrialTask) -> Run:
    """As where the checkpoint is there and does not fit its checksum."""
    (task.folder / "step").unlink(missing_ok=True)
    if task.from_iteration:
        yield Began(0)
    return (yield from curve(task))


def loses_its_folder(task: TrialTask) -> Run:
    """The folder is removed while the trial runs, and the trainer says so in its own way."""
    yield point(1, 1.0)
    shutil.rmtree(task.folder)
    raise RuntimeError("cannot open file")


def loses_the_study(task: TrialTask) -> Run:
    """A file stands in the place of the study's folder."""
    yield point(1, 1.0)
    study = task.folder.parents[1]
    shutil.rmtree(study)
    study.write_text("a file")
    (task.folder / "step").write_text("1")
    raise AssertionError


def short_of_memory(task: TrialTask) -> Run:
    """Trial 1 never has enough of it, trial 2 only in smaller parts."""
    if task.number == 1 or (task.number == 2 and task.micro_batches is None):
        raise MemoryError("too much")
    return (yield from curve(task))


def saves_and_waits(task: TrialTask) -> Run:
    """An evaluation and a checkpoint at each step, named as real ones, and a log; goes on from the newest checkpoint."""
    place, log = task.folder / "checkpoints", task.folder / "log"
    place.mkdir(exist_ok=True)
    start = max((int(path.stem.partition("-")[2]) for path in place.glob("step-*.pt")), default=0)
    for step in range(start + 1, task.config["max_iters"] + 1):
        with log.open("a") as file:
            file.write(f"{step}\n")
        answer = yield point(step, 1.0 / step)
        if answer is Answer.STOP:
            return TrainResult(Outcome.STOPPED, step)
        saved = place / step_name(step)
        saved.with_name(f"{saved.name}.sha256").write_text(f"{'0' * 64}  {saved.name}\n")
        saved.write_text(str(step))
        told = yield CheckpointSaved(step, str(saved), "0" * 64, 1)
        while told is Answer.CONTINUE and step == 1 and answer is not Answer.PAUSE:
            time.sleep(0.01)
            told = yield Progress(step, 1.0, 1e-3, 1e4)
        if Answer.PAUSE in (answer, told):
            return TrainResult(Outcome.PAUSED, step)
    return TrainResult(Outcome.COMPLETE, task.config["max_iters"])


def hangs_once(task: TrialTask) -> Run:
    """Trial 1 sleeps with the interpreter's lock held, so that no Python runs any more; its next attempt does not."""
    marker = task.folder / "hung"
    if task.number == 1 and not marker.exists():
        yield point(1, 9.0)
        marker.touch()
        ctypes.PyDLL(None).sleep(1000)
    return (yield from curve(task))


def is_stopped_once(task: TrialTask) -> Run:
    """Trial 1 is stopped, as by a debugger; its next attempt is not."""
    marker = task.folder / "stopped"
    if task.number == 1 and not marker.exists():
        yield point(1, 9.0)
        marker.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return (yield from curve(task))


def steps_in_silence(task: TrialTask) -> Run:
    """Steps for twice the time that one may take, or until it is told otherwise, and reports none of them."""
    assert task.step_limit_s is not None
    end = time.monotonic() + 2 * task.step_limit_s
    answer = beat()
    while time.monotonic() < end and answer is Answer.CONTINUE:
        time.sleep(0.01)
        answer = beat()
    yield Progress(1, 1.0, 1e-3, 1e4)
    return TrainResult(Outcome.PAUSED if answer is Answer.PAUSE else Outcome.COMPLETE, 1)


def reads_for_long(task: TrialTask) -> Run:
    """Its first step comes after twice the time that one may take."""
    assert task.step_limit_s is not None
    time.sleep(2 * task.step_limit_s)
    return (yield from curve(task))


ROOM_BYTES = 200 * 2**20
M_ARENA_MAX = -8


def transformer_in_little_memory(task: TrialTask) -> Run:
    """The built-in trainer in a process that may take ROOM_BYTES more than it has when its first trial begins."""
    import torch._dynamo  # noqa: F401 - it comes with the first optimizer, and is none of the run's memory

    from hpsearch.trainers.transformer import transformer

    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        # The limit is one of addresses, of which glibc takes 64 MiB for a thread that meets another one in malloc: by chance.
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
        limit = psutil.Process().memory_info().vms + ROOM_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return (yield from transformer(task))

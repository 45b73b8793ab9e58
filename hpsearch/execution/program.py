"""Programs as trainers: a command line with placeholders, which prints JSON lines with a step and a value.

    {"step": 100, "value": 0.31, "checkpoint": "runs/7/step-100.pt"}

`value` is the objective (its own name is as good); other numbers are kept as metrics. A `checkpoint` says that the run can go
on from that file or folder; it needs `{resume}` in the command to be told. All that is printed goes to `output.log` in the
trial's folder. The program runs in a process group of its own and never outlives its slot (`leash`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpsearch.execution import leash
from hpsearch.execution.own import Evaluation, Journal, Run, Said, run_of
from hpsearch.execution.protocol import ProgramTrainer, TrialTask
from hpsearch.files import write_atomically
from hpsearch.objectives import NEGATED
from hpsearch.training import heartbeat
from hpsearch.training.events import Answer, Outcome

OURS = ("folder", "trial", "resume", "config", "steps", "eval_interval", "seed", "device", "threads")
"""Placeholders beside the parameters of the space. A parameter of the same name stands for itself."""
GRACE_S = 10.0
"""What a program has to end after SIGTERM."""
LOG = "output.log"
LOOK_S = 0.1
LONGEST_LINE = 1_000_000
_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_.-]*)\}\}|\{([A-Za-z_][A-Za-z0-9_.-]*)\}")


class ProgramFailed(Exception):
    """A program that ended with an error."""


def placeholders(words: Sequence[str]) -> list[str]:
    """The names that a command asks for, in the order of their first mention."""
    found = (match[2] for word in words for match in _PLACEHOLDER.finditer(word))
    return list(dict.fromkeys(name for name in found if name))


def fill(words: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The words with their placeholders replaced. `{{name}}` is the text {name}; braces around anything else stay.

    A word that asks for a value that there is none of (a parameter that is off or without effect here, the checkpoint of a
    run that begins) is left out, and with it the option right before it: `--momentum {momentum}`.
    """
    filled: list[str] = []
    for word in words:
        names = [match[2] for match in _PLACEHOLDER.finditer(word) if match[2]]
        if any(values.get(name) is None for name in names):
            alone = _PLACEHOLDER.fullmatch(word) is not None
            if alone and filled and filled[-1].startswith("-"):
                filled.pop()
            continue
        filled.append(_PLACEHOLDER.sub(lambda match: f"{{{match[1]}}}" if match[1] else _text(values[match[2]]), word))
    return filled


def values_for(config: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """What placeholders stand for in one run."""
    ours: dict[str, Any] = {
        "folder": run.folder,
        "trial": run.trial,
        "resume": run.resume,
        "config": run.folder / "config.json",
        "steps": run.steps,
        "eval_interval": run.eval_interval,
        "seed": run.seed,
        "device": run.device,
        "threads": run.threads,
    }
    return ours | dict(config)


def program(task: TrialTask, trainer: ProgramTrainer) -> Said:
    """Run a trial's program. A slot's trainer; see `hpsearch.execution.own`."""
    journal = Journal(task)
    yield from journal.begin(resumes="resume" in placeholders(trainer.words))
    if journal.over:
        return journal.result(Outcome.COMPLETE)
    run = run_of(task, journal.resume)
    write_atomically(task.folder / "config.json", json.dumps(task.config, indent=2) + "\n")
    asked, outcome = Answer.CONTINUE, Outcome.COMPLETE
    with _Child(fill(trainer.words, values_for(task.config, run)), task) as child:
        heartbeat.beat()
        for line in child.lines():
            if line is not None or child.told:
                heartbeat.beat()  # Also while it is given time to end.
            said = None if line is None else _said(line, task.objectives[0])
            if said is not None and not journal.diverged and asked is not Answer.STOP:
                # What it still says on its way to a pause counts: it may have run ahead, and goes on from its last checkpoint.
                told = yield from journal.hear(said)
                asked = told if asked is Answer.CONTINUE or told is Answer.STOP else asked
            if asked is Answer.CONTINUE and not child.told:
                asked = heartbeat.asked()
            if journal.diverged or asked is not Answer.CONTINUE:
                child.end()
        code, complaint = child.code, child.complaint
    if journal.diverged:
        outcome = Outcome.DIVERGED
    elif asked is Answer.STOP:
        outcome = Outcome.STOPPED
    elif asked is Answer.PAUSE and (code or journal.step < run.steps):
        outcome = Outcome.PAUSED
    elif code > leash.SIGNALLED:
        # Its slot would have been killed in its place if it trained itself: the trial goes on, unless it always happens.
        os.kill(os.getpid(), signal.SIGKILL)
    elif code:
        raise ProgramFailed(f"exit code {code}{f': {complaint}' if complaint else ', and nothing on standard error'}")
    return journal.result(outcome)


def _said(line: str, objective: str) -> Evaluation | None:
    """What a line of standard output means; None for one that is no report."""
    if not line.startswith("{"):
        return None
    try:
        report = json.loads(line)
    except ValueError:
        return None
    if not isinstance(report, dict) or "step" not in report:
        return None
    step = report.pop("step")
    step = int(step) if isinstance(step, float) and step.is_integer() else step
    checkpoint = report.pop("checkpoint", None)
    value = report.pop("value", None)
    numbers = {name: number for name, number in report.items() if type(number) in (int, float)}
    if value is None:
        value = numbers.pop(objective.removeprefix(NEGATED), None)
    return Evaluation(step, value, numbers, None if checkpoint is None else str(checkpoint))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Child:
    """A running program, by way of its leash."""

    def __init__(self, words: list[str], task: TrialTask) -> None:
        self.told = False
        """Whether it was asked to end."""
        self.code = 0
        self._words, self._task = words, task
        self._errors: deque[str] = deque(maxlen=1)
        self._kill_at: float | None = None

    @property
    def complaint(self) -> str:
        """The last line on standard error that says something."""
        return self._errors[-1] if self._errors else ""

    def __enter__(self) -> _Child:
        control, self._control = os.pipe()
        try:
            self._leash = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, str(control), *self._words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | _visible(self._task.device),
                pass_fds=[control],
                start_new_session=True,
            )
        finally:
            os.close(control)
        self._log = (self._task.folder / LOG).open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._control)  # Whatever still runs is killed.
        self._leash.wait()
        self._log.close()
        for pipe in (self._leash.stdout, self._leash.stderr):
            assert pipe is not None
            pipe.close()

    def end(self) -> None:
        """SIGTERM now, and SIGKILL when its time is over. Calls after the first change nothing."""
        if not self.told:
            self.told, self._kill_at = True, time.monotonic() + GRACE_S
            self._order(b"T")

    def lines(self) -> Iterator[str | None]:
        """Lines of standard output until the program is gone; empty ones where it printed something else, None where it
        printed nothing for a moment."""
        out, err = self._leash.stdout, self._leash.stderr
        rests: dict[Any, bytes] = {out: b"", err: b""}
        with selectors.DefaultSelector() as ready:
            for each in rests:
                ready.register(each, selectors.EVENT_READ)
            while ready.get_map():
                if self._kill_at is not None and time.monotonic() > self._kill_at:
                    self._kill_at = None
                    self._order(b"K")
                found = ready.select(LOOK_S)
                if not found:
                    yield None
                for key, _ in found:
                    pipe = key.fileobj
                    read = os.read(key.fd, 65536)
                    if not read:
                        ready.unregister(pipe)
                    self._log.write(read)
                    *whole, rest = (rests[pipe] + read).split(b"\n")
                    if rest and (not read or len(rest) > LONGEST_LINE):
                        whole, rest = [*whole, rest], b""
                    rests[pipe] = rest
                    texts = [line.decode(errors="replace").strip() for line in whole]
                    if pipe is out:
                        yield from texts
                    else:
                        self._errors.extend(text for text in texts if text)
                    yield ""
                self._log.flush()
        self.code = self._leash.wait()

    def _order(self, word: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._control, word)


def _visible(device: str) -> dict[str, str]:
    """One GPU for each slot's program."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or not index:
        return {}
    there = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return {"CUDA_VISIBLE_DEVICES": there[int(index)] if int(index) < len(there) else index}


def log_of(folder: Path) -> Path:
    """Where a trial's program printed."""
    return folder / LOG

"""Programs as trainers: a command line with placeholders, which prints JSON lines with a step and a value.

    {"step": 100, "value": 0.31, "checkpoint": "runs/7/step-100.pt"}

The objective stands under its own name, or else as `value`; other numbers are kept as metrics. A `checkpoint` says that the
run can go on from that file or folder; it needs `{resume}` in the command to be told. A report ends its line: colour codes, and
what stands before it, such as a progress bar or a logger's prefix, do not matter. All that is printed goes to `output.log` in
the trial's folder. The program runs in a process group of its own and never outlives its slot (`supervisor`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from hpsearch.execution.protocol import SHORT, Killed, NoRoom, ProgramTrainer, TrialTask
from hpsearch.files import write_atomically
from hpsearch.objectives import NEGATED
from hpsearch.text import message
from hpsearch.trainers import supervisor
from hpsearch.trainers.reporter import Journal
from hpsearch.trainers.user import Evaluation, Run, Said, run_of
from hpsearch.training import heartbeat
from hpsearch.training.events import Answer, Outcome

OURS = ("folder", "trial", "resume", "config", "steps", "eval_interval", "seed", "device", "threads")
"""Placeholders beside the parameters of the space. A parameter of the same name stands for itself."""
GRACE_S = 10.0
"""What a program has to end after SIGTERM."""
LOG = "output.log"
LOOK_S = 0.1
LONGEST_LINE = 1_000_000
"""Bytes. A longer line is no report."""
MOST_LOG = 64 * 2**20
"""Bytes of `output.log`. Where there is more, its beginning and its end are kept, KEPT_LOG bytes each."""
KEPT_LOG = 16 * 2**20
LAST_LINES = 100
"""Of standard error: the last one is the reason of a program that fails, all of them are in `error.txt`."""
LONGEST_ERROR = 2_000
"""Characters of such a line that are kept."""
MOST_BRACES = 32
"""Of a line that are tried as the beginning of a report."""
_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
"""What steers a terminal: colours, a line that is cleared, a title."""
_JSON = json.JSONDecoder()
_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_.-]*)\}\}|\{([A-Za-z_][A-Za-z0-9_.-]*)\}")


class ProgramFailed(Exception):
    """A program that ended with an error, or said nothing that counts."""


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
    """Run a trial's program. A slot's trainer; see `hpsearch.trainers.reporter`."""
    journal = Journal(task)
    yield from journal.begin(resumes="resume" in placeholders(trainer.words))
    if journal.over:
        return (yield from journal.end())
    run = run_of(task, journal.resume)
    write_atomically(task.folder / "config.json", json.dumps(task.config, indent=2) + "\n")
    asked = Answer.CONTINUE
    with _Child(fill(trainer.words, values_for(task.config, run)), task) as child:
        heartbeat.beat()
        for line in child.lines():
            if line is not None or child.told:
                heartbeat.beat()  # Also while it is given time to end.
            for said in _said(line or "", task.objectives):
                if not journal.diverged and asked is not Answer.STOP:
                    # What it says on its way to a pause counts: it may have run ahead, and goes on from its last checkpoint.
                    told = yield from journal.hear(said)
                    asked = told if asked is Answer.CONTINUE or told is Answer.STOP else asked
            if asked is Answer.CONTINUE and not child.told:
                asked = heartbeat.asked()
            if journal.diverged or asked is not Answer.CONTINUE:
                child.end()
    code = child.code
    if journal.diverged:
        return journal.result(Outcome.DIVERGED)
    if asked is Answer.STOP:
        return journal.result(Outcome.STOPPED)
    if asked is Answer.PAUSE and (code or journal.step < run.steps):
        return journal.result(Outcome.PAUSED)
    if code < 0:
        # Its slot would have been killed in its place if it trained itself: the trial goes on, unless it always happens.
        raise Killed(_told(f"its program was ended by {_signal_name(-code)}", child))
    if code:
        shell = f" (how a shell says that {_signal_name(code - 128)} ended a child of it)" if _is_signal(code - 128) else ""
        raise ProgramFailed(_told(f"exit code {code}{shell}", child))
    try:
        return (yield from journal.end())
    except ValueError as error:
        heard = "no line of its standard output is a report, a JSON object with a step; " if journal.silent else ""
        raise ProgramFailed(f"{error}; {heard}see {LOG} in the trial's folder") from None


def _told(what: str, child: _Child) -> str:
    """How a program ended, with the last line on its standard error; the lines before that are for `error.txt`."""
    *before, last = child.complaints or ["and nothing on standard error"]
    sign = ":" if child.complaints else ","
    return "\n".join([f"{what}{sign} {last}", *(["", "The last lines on standard error:", *before, last] if before else [])])


def _is_signal(number: int) -> bool:
    return number in set(signal.Signals)


def _signal_name(number: int) -> str:
    return f"signal {number} ({signal.Signals(number).name})" if _is_signal(number) else f"signal {number}"


def _said(line: str, objectives: Sequence[str]) -> Iterator[Evaluation]:
    """What a line of standard output means; nothing for one that is no report."""
    names = [name.removeprefix(NEGATED) for name in objectives]
    for report in _objects(line):
        step = report.pop("step", None)
        checkpoint = report.pop("checkpoint", None) or None
        # Its own name beats the general one.
        value = None if "value" in names else report.pop("value", None)
        told = {name: report[name] for name in names if report.get(name) is not None}
        if type(step) not in (int, float) and (step is None or not (told or checkpoint or value is not None)):
            continue  # Something else that is written as JSON, as a structured log is.
        numbers = {name: number for name, number in report.items() if type(number) in (int, float)}
        yield Evaluation(step, value, numbers | told, None if checkpoint is None else str(checkpoint))


def _objects(line: str) -> list[dict[str, Any]]:
    """The JSON objects that a line ends with; what stands before them is left out."""
    if "}" not in line:
        return []
    line = _CODES.sub("", line).strip()
    at = -1
    for _ in range(MOST_BRACES if line.endswith("}") else 0):
        at = line.find("{", at + 1)
        if at < 0:
            break
        if found := _decoded(line, at):
            return found
    return []


def _decoded(line: str, at: int) -> list[dict[str, Any]]:
    """The JSON objects from `at` to the end; none where anything else is there."""
    found = []
    while at < len(line):
        try:
            each, at = _JSON.raw_decode(line, at)
        except (ValueError, RecursionError):
            return []
        if not isinstance(each, dict):
            return []
        found.append(each)
        while at < len(line) and line[at] in " \t,;":
            at += 1
    return found


def _text(value: Any) -> str:
    """A value as a word. A number below 0 has no exponent: argparse would take -1e-05 for an option."""
    if isinstance(value, bool):
        return str(value).lower()
    return format(Decimal(str(value)), "f") if isinstance(value, float) and value < 0 else str(value)


class _Child:
    """A running program, by way of its supervisor."""

    def __init__(self, words: list[str], task: TrialTask) -> None:
        self.told = False
        """Whether it was asked to end."""
        self.code = 0
        """How it ended: its exit code; below 0 the signal that killed it."""
        self.complaints: deque[str] = deque(maxlen=LAST_LINES)
        """The last lines on standard error that say something."""
        self._words, self._task = words, task
        self._kill_at: float | None = None

    def __enter__(self) -> _Child:
        supervisor.adopt_orphans()  # Where the leash is killed, this process is what is left to end what it held.
        self._others = frozenset(supervisor.children())
        self._control, control = socket.socketpair()
        with control:
            self._leash = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, str(control.fileno()), *self._words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | _visible(self._task.device),
                pass_fds=[control.fileno()],
                start_new_session=True,
            )
        self._log = _Log(self._task.folder / LOG)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)  # Whatever still runs is killed.
        self._leash.wait()
        supervisor.kill_children(self._others)
        self._control.close()
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
        printed nothing for a moment. Raises OSError where it cannot be started, NoRoom where that may pass."""
        out, err = self._leash.stdout, self._leash.stderr
        cuts = {out: _Lines(), err: _Lines()}
        with selectors.DefaultSelector() as ready:
            for each in cuts:
                assert each is not None
                ready.register(each, selectors.EVENT_READ)
            while ready.get_map():
                if self._kill_at is not None and time.monotonic() > self._kill_at:
                    self._kill_at = None
                    self._order(b"K")
                if self._leash.poll() is not None:
                    supervisor.kill_children(self._others)  # It was killed, or they would be gone: they hold the pipes open.
                found = ready.select(LOOK_S)
                if not found:
                    yield None
                for key, _ in found:
                    pipe: Any = key.fileobj
                    read = os.read(key.fd, 65536)
                    if not read:
                        ready.unregister(pipe)
                    self._log.write(read)
                    texts = cuts[pipe].cut(read)
                    if pipe is out:
                        yield from texts
                    else:
                        said = (message(_CODES.sub("", text), LONGEST_ERROR).strip() for text in texts)
                        self.complaints.extend(filter(None, said))
                    yield ""
        self._leash.wait()
        self.code = self._verdict()

    def _verdict(self) -> int:
        """How the program ended, as the leash says; one that says nothing was killed, and the program with it."""
        kind, _, number = self._control.recv(64).decode().rpartition(" ")
        if kind == "errno":
            error = OSError(int(number), os.strerror(int(number)), self._words[0])
            raise NoRoom(str(error)) if error.errno in SHORT else error
        return int(number) if number else -signal.SIGKILL

    def _order(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self._control.send(word)


class _Lines:
    """Cuts what comes through a pipe into lines. A carriage return, as of a progress bar, ends one too."""

    def __init__(self) -> None:
        self._rest = b""
        self._too_long = False
        """Whether the line that is not over yet is left out."""

    def cut(self, read: bytes) -> list[str]:
        """The lines that are whole with `read`; nothing read ends the last one."""
        *whole, rest = re.split(rb"[\r\n]", self._rest + read)
        if whole and self._too_long:
            whole, self._too_long = whole[1:], False
        if not read and not self._too_long:
            whole, rest = [*whole, rest], b""
        self._too_long = self._too_long or len(rest) > LONGEST_LINE
        self._rest = b"" if self._too_long else rest
        return [line.decode(errors="replace").strip() for line in whole if len(line) <= LONGEST_LINE]


class _Log:
    """`output.log`: all that a program printed, in each of its stays; of too much the beginning and the end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)

    def write(self, printed: bytes) -> None:
        self._file.write(printed)
        size = self._file.tell()
        if size > MOST_LOG:
            end = os.pread(self._file.fileno(), KEPT_LOG, size - KEPT_LOG)
            self._file.truncate(KEPT_LOG)
            self._file.write(b"\n[... what was printed here is left out ...]\n" + end)

    def close(self) -> None:
        self._file.close()


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

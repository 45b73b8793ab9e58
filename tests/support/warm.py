"""Commands in processes that are forked from one which has imported what they need.

Imports are most of a short command's time, and all tests together would spend a quarter of theirs on them. A command that is
run here is a process of its own in a session of its own, with its folder, arguments and environment, and runs what the entry
point runs. What is tested of imports, and of what the system shows of a process, starts the command as a shell does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import hpsearch.__main__
from hpsearch.cli.main import main
from hpsearch.execution.local_executor import begetting

_VERBS = ("confirm", "export", "look", "manage", "price", "run", "serve", "spaces", "steer", "take")
_LATER = (
    *("api", "console", "report.export", "report.gallery", "report.own", "report.page", "search.forecast", "service.notes"),
    *("storage.patient", "training.single", "working"),
)
_THEIRS = (
    *("alembic.command", "optuna.storages._rdb.models", "platformdirs", "plotly.graph_objects", "plotly.io"),
    *("pydoc_data.topics", "scipy.optimize", "sklearn.ensemble"),
    *("sqlalchemy.dialects.mysql", "sqlalchemy.dialects.postgresql"),
    *("torch", "torch._dynamo"),  # torch's own optimizers import the latter at their first step.
)
"""What verbs and slots import when they come to need it."""
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *(f"hpsearch.cli.{verb}" for verb in _VERBS),
        *(f"hpsearch.{module}" for module in _LATER),
        *_THEIRS,
    ]
)
_lock = threading.Lock()
"""Starting one process looks after the others that have ended."""
_EARLY = ("PYTHON", "LD_", "HPSEARCH_")
"""Beginnings of variables that are read while something is imported, or before, but for these."""
_LATE = ("HPSEARCH_STORAGE", "HPSEARCH_STUDIES_DIR", "HPSEARCH_CACHE_DIR", "HPSEARCH_TOKEN")
_HERE = dict(os.environ)


def begin() -> None:
    """Start the process that commands are forked from, before a test's own slots are, with fewer imports."""
    with begetting(os.environ):
        multiprocessing.forkserver.ensure_running()


def fits(environment: Mapping[str, str]) -> bool:
    """Whether what an environment changes is read late enough."""
    changed = {name for name in {*environment, *_HERE} if environment.get(name) != _HERE.get(name)}
    return all(name.startswith(_LATE) or not name.startswith(_EARLY) for name in changed)


class Forked(subprocess.Popen[str]):
    """A command as `subprocess.Popen` starts one in a session of its own, with its output in pipes, but forked."""

    def __init__(self, words: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> None:
        self.args, self.returncode, self.stdin, self.text_mode = ["hpsearch", *words], None, None, True
        self._child_created = self._communication_started = False
        self._input = None
        (ours, out), (ours_too, err) = _context.Pipe(duplex=False), _context.Pipe(duplex=False)
        self._process = _context.Process(target=_command, args=(words, folder, dict(environment), out, err))
        with _lock:
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.stdout, self.stderr = (os.fdopen(os.dup(each.fileno()), encoding="utf-8") for each in (ours, ours_too))
        for each in (ours, ours_too, out, err):
            each.close()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not multiprocessing.connection.wait([self._process.sentinel], timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            with _lock:
                self._process.join()
                self.returncode = self._process.exitcode
        assert self.returncode is not None
        return self.returncode


def run(
    words: tuple[str, ...], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with text that is captured. Raises TimeoutExpired."""
    process = Forked(words, folder, environment)
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def _command(words: tuple[str, ...], folder: Path, environment: dict[str, str], out: Connection, err: Connection) -> None:
    gc.freeze()  # To look through what was forked would copy it.
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, opened in enumerate((os.open(os.devnull, os.O_RDONLY), out.fileno(), err.fileno())):
        os.dup2(opened, number)
    out.close()
    err.close()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    sys.stdin = os.fdopen(0)
    sys.argv = [hpsearch.__main__.__file__, *words]
    sys.path.insert(0, str(folder))  # As `python -m` does.
    _serve_slots()
    code: object = 0
    try:
        main()
    except SystemExit as left:
        code = left.code
    # What an interpreter does at its end, and a forked process leaves out: databases are closed.
    atexit._run_exitfuncs()
    gc.collect()
    raise SystemExit(code)


def _serve_slots() -> None:
    """Fork from this process what the command would start, and load its imports anew: the server that its slots are forked
    from."""
    server: Any = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as listener:
        server._forkserver_address = multiprocessing.connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
        listener.bind(server._forkserver_address)
        listener.listen()
        alive, server._forkserver_alive_fd = os.pipe()
        server._forkserver_pid = os.fork()
        if server._forkserver_pid == 0:
            try:
                os.close(server._forkserver_alive_fd)
                server._forkserver_pid = server._forkserver_alive_fd = None  # It is the server, and has none.
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
                multiprocessing.forkserver.main(listener.detach(), alive, [])
            finally:
                os._exit(0)
        os.close(alive)

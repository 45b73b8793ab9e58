"""Commands in processes that are forked from one which has imported what they need.

Imports are most of a short command's time, and all tests together would spend a quarter of theirs on them. A command that is
run here is a process of its own in its folder, with its arguments and its environment, and runs what the entry point runs. What
is tested of imports, of signals and of whatever kills a process starts the command as a shell does.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hpsearch.__main__
from hpsearch.cli import main

_VERBS = ("confirm", "export", "look", "manage", "price", "run", "serve", "spaces", "steer", "take")
_LATER = ("api", "report.gallery", "report.page", "search.forecast", "service.notes", "training.single", "working")
"""What verbs import when they come to need it."""
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *(f"hpsearch.cli.{verb}" for verb in _VERBS),
        *(f"hpsearch.{module}" for module in _LATER),
        *("scipy.optimize", "sklearn.ensemble", "torch"),
    ]
)
_lock = threading.Lock()
"""Starting one process looks after the others that have ended."""
_LATE = (
    *("HPSEARCH_STORAGE", "HPSEARCH_STUDIES_DIR", "HPSEARCH_CACHE_DIR", "HPSEARCH_TOKEN"),
    *("NO_COLOR", "TERM", "OMP_", "PYTEST_", "RAY_"),
    "KMP_",  # What numerical libraries set when they are imported, here and in the other process.
)
"""Beginnings of variables that nothing reads while it is imported."""
_HERE = dict(os.environ)


def begin() -> None:
    """Start the process that commands are forked from, before a test's own slots are, with fewer imports."""
    multiprocessing.forkserver.ensure_running()


def fits(environment: Mapping[str, str]) -> bool:
    """Whether what an environment changes is read late enough."""
    changed = {name for name in {*environment, *_HERE} if environment.get(name) != _HERE.get(name)}
    return all(name.startswith(_LATE) for name in changed)


def run(
    words: tuple[str, ...], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with text that is captured. Raises TimeoutExpired."""
    with tempfile.TemporaryDirectory() as told:
        out, err = Path(told, "out"), Path(told, "err")
        process = _context.Process(target=_command, args=(words, folder, dict(environment), out, err))
        with _lock:
            process.start()
        in_time = multiprocessing.connection.wait([process.sentinel], timeout)
        if not in_time:
            assert process.pid is not None
            os.killpg(process.pid, signal.SIGKILL)
        with _lock:
            process.join()
        assert process.exitcode is not None
        said = [path.read_text("utf-8") if path.exists() else "" for path in (out, err)]
    if not in_time:
        raise subprocess.TimeoutExpired(["hpsearch", *words], timeout, *said)
    return subprocess.CompletedProcess(["hpsearch", *words], process.exitcode, *said)


def _command(words: tuple[str, ...], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    gc.freeze()  # To look through what was forked would copy it.
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, (path, how) in enumerate(((os.devnull, os.O_RDONLY), (out, os.O_WRONLY), (err, os.O_WRONLY))):
        opened = os.open(path, how | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
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
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
                multiprocessing.forkserver.main(listener.detach(), alive, [])
            finally:
                os._exit(0)
        os.close(alive)

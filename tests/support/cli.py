"""The command as users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import warm

COMMAND = [sys.executable, "-m", "hpsearch"]


@dataclass(frozen=True)
class Cli:
    """The real command in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *words: str, timeout: float = 300, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment | changes
        if warm.fits(environment):
            return warm.run(words, self.folder, environment, timeout)
        return subprocess.run(
            [*COMMAND, *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *words: str, timeout: float = 300) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*words, timeout=timeout)
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(*words, "--json"))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The command in a session of its own."""
        if not warm.fits(self.environment):
            return self.start_anew(*words)
        self.started.append(warm.Forked(words, self.folder, self.environment))
        return self.started[-1]

    def start_anew(self, *words: str) -> subprocess.Popen[str]:
        """The same, from an interpreter of its own, as a shell does."""
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """Kill what was started and still runs, frozen or not."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()

    def using(self, storage_url: str) -> Cli:
        """The same with another database."""
        return self.having(HPSEARCH_STORAGE=storage_url)

    def having(self, **changes: str) -> Cli:
        """The same with changes in the environment."""
        return replace(self, environment=self.environment | changes)

    def files(self) -> list[str]:
        """All but SQLite's own, which come and go with whoever has its database open."""
        found = (str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))
        return sorted(path for path in found if not path.endswith((".db-wal", ".db-shm")))

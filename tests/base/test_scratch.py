"""A folder for what lasts no longer than a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from hpsearch.scratch import sweep

HOLDS = """
import sys, time
from hpsearch.scratch import scratch, temporary_folder
with temporary_folder("price") as folder:
    (folder / "a").write_text("x")
    print(scratch(), flush=True)
    if len(sys.argv) > 1:
        time.sleep(600)
"""


def holder(place: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"TMPDIR": str(place)}
    return subprocess.Popen([sys.executable, "-c", HOLDS, *words], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_process_leaves_nothing_at_its_end(tmp_path: Path) -> None:
    assert holder(tmp_path).wait(60) == 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    killed, alive = holder(tmp_path, "wait"), holder(tmp_path, "wait")
    try:
        assert killed.stdout is not None
        assert alive.stdout is not None
        left, held = Path(killed.stdout.readline().strip()), Path(alive.stdout.readline().strip())
        killed.send_signal(signal.SIGKILL)
        killed.wait(60)
        foreign = {tmp_path / name for name in ("hps-notes", "hps-1-", f"hps-{killed.pid}-notes", "pymp-abc")}
        for folder in foreign:
            folder.mkdir()
        assert left.is_dir()
        assert holder(tmp_path).wait(60) == 0
        assert set(tmp_path.iterdir()) == foreign | {held}
        renamed = held.rename(tmp_path / f"hps-{killed.pid}-{held.name.rpartition('-')[2]}")
        sweep(tmp_path)  # The lock is held, whatever process the number names here: containers have numbers of their own.
        assert renamed.is_dir()
    finally:
        alive.kill()
        alive.wait(60)


def test_slots_keep_their_sockets_there(tmp_path: Path) -> None:
    program = """
from contextlib import closing
from hpsearch.execution.local_executor import LocalExecutor
with closing(LocalExecutor(1, 1, trainer="hpsearch.trainers.reporter:train")):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=False, timeout=60)
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == ["hps"]
    assert holder(tmp_path).wait(60) == 0
    assert list(tmp_path.iterdir()) == []

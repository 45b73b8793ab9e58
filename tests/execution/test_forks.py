"""What slots are forked from: a process that has loaded the trainer, with nothing that a fork would break or give away."""

from __future__ import annotations

import contextlib
import json
import multiprocessing.forkserver
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_for

from hpsearch.execution.local_executor import FORKED, LocalExecutor
from hpsearch.execution.protocol import TrialTask

ASKED_NOTHING = """
import torch

def refuse(*_, **__):
    raise SystemExit("CUDA was asked something")

for name in ("init", "_lazy_init", "is_available", "device_count", "current_device", "get_device_capability"):
    setattr(torch.cuda, name, refuse)
import hpsearch.trainers.transformer
"""

TRAINS = """
from pathlib import Path
from hpsearch.execution.local_executor import FORKED, LocalExecutor
from hpsearch.execution.protocol import Ended, TrialTask

if __name__ == "__main__":
    assert not FORKED
    executor = LocalExecutor(1, 1, trainer="toy_trainers:tells_its_environment")
    executor.submit(executor.idle()[0], TrialTask(0, 1, {}, {}, "", Path(), Path(), "cpu", 1, ("val_bpb",)))
    while not any(isinstance(message.body, Ended) for message in executor.messages(60.0)):
        pass
    executor.close()
"""

pytestmark = pytest.mark.skipif(not FORKED, reason="slots are spawned here")


def test_slots_are_spawned_where_temporary_files_are_too_deep_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    environment = os.environ | {"TMPDIR": str(deep), "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    subprocess.run([sys.executable, "-c", TRAINS], env=environment, check=True, timeout=120)


def test_loading_the_trainer_asks_nothing_of_cuda() -> None:
    subprocess.run([sys.executable, "-c", ASKED_NOTHING], check=True, timeout=120)


def test_a_slot_has_the_environment_of_its_own_executor_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for visible in ("0", "1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setenv("HPSEARCH_STORAGE", "postgresql://user:hidden@127.0.0.1/db")
        with contextlib.closing(LocalExecutor(1, 3, trainer="toy_trainers:tells_its_environment")) as executor:
            executor.submit(executor.idle()[0], TrialTask(0, 1, {}, {}, "", tmp_path, tmp_path, "cpu", 3, ("val_bpb",)))
            message = next(filter(None, (executor.messages(60.0) for _ in range(2))))[0]  # The first word is that it is ready.
            seen.append(json.loads(message.body.result.sample))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    assert [each["CUDA_VISIBLE_DEVICES"] for each in seen] == ["0", "1"]
    assert [each["OMP_NUM_THREADS"] for each in seen] == ["3", "3"]
    assert not any("HPSEARCH_STORAGE" in each for each in seen)


def test_slots_start_anew_where_what_they_are_forked_from_was_killed() -> None:
    with contextlib.closing(LocalExecutor(1, 1, trainer="toy_trainers:curve")) as executor:
        slot = executor.idle()[0]
        assert executor.messages(60.0) == []  # It is ready: before, it may not have asked to be told of its parent's end.
        server = psutil.Process(slot.pid).parent()
        assert server is not None
        assert server.pid != os.getpid()
        server.kill()
        wait_for(lambda: executor.messages(0.1) == [] and executor.idle()[0].pid != slot.pid)
        again = psutil.Process(executor.idle()[0].pid).parent()
        assert again is not None
        assert again.pid != server.pid


def test_a_slot_waits_while_a_server_refuses_that_has_not_ended_yet() -> None:
    known: Any = multiprocessing.forkserver._forkserver
    with (
        tempfile.TemporaryDirectory() as folder,  # Not pytest's: a socket's path has at most 107 bytes.
        contextlib.closing(LocalExecutor(1, 1, trainer="toy_trainers:curve")) as executor,
    ):
        slot = executor.idle()[0]
        assert executor.messages(60.0) == []
        server = psutil.Process(slot.pid).parent()
        assert server is not None
        with socket.socket(socket.AF_UNIX) as nobody:
            nobody.bind(f"{folder}/s")  # And nobody listens: as with a server that is being killed.
        known._forkserver_address = f"{folder}/s"
        ending = threading.Timer(0.5, server.kill)
        ending.start()
        executor.kill(slot.name)
        wait_for(lambda: executor.messages(0.1) == [] and executor.idle()[0].pid != slot.pid)
        ending.join()
        again = psutil.Process(executor.idle()[0].pid).parent()
        assert again is not None
        assert again.pid != server.pid

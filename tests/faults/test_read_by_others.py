"""Optuna's own command line and dashboard read the database at every moment of a study, running or dead."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import optuna.cli
import pytest
from cli import Cli
from databases import on
from invariants import assert_nothing_lost

from hpsearch.service.dashboard import open_server
from hpsearch.service.notes import artifact_files
from hpsearch.storage.urls import optuna_url, parse_url

RUN = ("run", "--space", "slow.yaml", "--trials", "4", "--slots", "2", "--device", "cpu", "--sampler", "auto")
STATES = {"WAITING", "RUNNING", "PRUNED", "COMPLETE"}


@pytest.fixture
def dashboard(any_storage_url: str, tmp_path: Path) -> Iterator[str]:
    server, address = open_server(any_storage_url, "127.0.0.1", 0, None, files=artifact_files(tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


def by_command(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `optuna trials` prints; nothing before there is a study."""
    storage = ("--storage", optuna_url(parse_url(url)).replace("%%", "%"))
    monkeypatch.setattr("sys.argv", ["optuna", "studies", *storage, "-f", "json"])
    assert not optuna.cli.main()
    if not json.loads(capsys.readouterr().out):
        return []
    monkeypatch.setattr("sys.argv", ["optuna", "trials", "--study-name", "slow", *storage, "-f", "json"])
    assert not optuna.cli.main()
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def by_dashboard(address: str) -> list[dict[str, Any]]:
    with urlopen(f"{address}/api/studies") as answer:
        studies = json.load(answer)["study_summaries"]
    if not studies:
        return []
    with urlopen(f"{address}/api/studies/{studies[0]['study_id']}?after=0") as answer:
        found: list[dict[str, Any]] = json.load(answer)["trials"]
    return found


@on("any_storage_url", "sqlite")
def test_others_read_the_study_at_every_moment(
    any_storage_url: str,
    dashboard: str,
    slow: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cli = slow.using(any_storage_url)
    readers = (lambda: by_command(any_storage_url, capsys, monkeypatch), lambda: by_dashboard(dashboard))
    ended: list[set[int]] = [set(), set()]  # The dashboard keeps trials for some seconds, so each reader has its own past.
    reads = 0

    def read() -> None:
        nonlocal reads
        for index, reader in enumerate(readers):
            trials = reader()
            assert [trial["number"] for trial in trials] == list(range(len(trials)))
            assert {trial["state"].upper() for trial in trials} <= STATES
            now = {trial["number"] for trial in trials if trial["state"].upper() in ("COMPLETE", "PRUNED")}
            assert now >= ended[index], "a trial that had ended is open again"
            ended[index] = now
        reads += 1

    def work(until: int) -> subprocess.Popen[str]:
        running = cli.start(*RUN)
        while running.poll() is None and len(ended[0]) < until:
            read()
        return running

    running = work(1)
    running.kill()
    running.communicate()
    read()
    running = work(99)
    _, told = running.communicate()
    assert running.returncode == 0, told
    read()
    assert ended[0] == {0, 1, 2, 3}
    assert reads >= 10
    assert_nothing_lost(any_storage_url, "slow", 4)

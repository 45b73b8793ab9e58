"""Studies on a disk that is read-only, and a database file that is copied alone: what was written is in the file itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from cli import Cli
from own_study import RUN, write_own
from waiting import wait_for

from hpsearch.service.dashboard import open_server

LEFT = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA wal_autocheckpoint=0")
connection.execute("UPDATE hps_studies SET finished_reason = 'said in the log'")
connection.commit()
os._exit(0)
"""
"""A program that is killed after it wrote: its row is in the log."""


@contextlib.contextmanager
def read_only(folder: Path, seen: Path) -> Iterator[None]:
    """`folder` seen at `seen`, where nothing can be written: by the disk for the superuser, by permissions for others."""
    if os.geteuid() != 0:
        seen.symlink_to(folder)
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    seen.mkdir()
    subprocess.run(["mount", "--bind", folder, seen], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", seen], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", seen], check=True)


@pytest.mark.parametrize("left", ["nothing", "the log", "the log without its index"])
def test_studies_on_a_read_only_disk_are_read_by_every_reading_verb(cli: Cli, left: str) -> None:
    write_own(cli)
    cli.ok(*RUN, "--trials", "2")
    folder = cli.folder / "studies"
    if left != "nothing":
        subprocess.run([sys.executable, "-c", LEFT, folder / "hpsearch.db"], check=True)
        assert (folder / "hpsearch.db-wal").stat().st_size
    if left == "the log without its index":
        (folder / "hpsearch.db-shm").unlink()
    before = {path.name: path.read_bytes() for path in folder.glob("hpsearch.db*")}
    with read_only(folder, cli.folder / "archive"):
        there = ("--studies-dir", "archive")
        for verb in ("studies", "trials", "show 0", "export", "report --out page.html", "watch", "db check"):
            cli.ok(*verb.split(), *there)
        told = json.loads(cli.ok("status", "--json", *there))
        assert told["trials"]["complete"] + told["trials"]["pruned"] == 2
        assert ("said in the log" in json.dumps(told)) == (left != "nothing")
        server, _ = open_server(f"sqlite:///{cli.folder}/archive/hpsearch.db", "127.0.0.1", 0, None)
        with server:
            threading.Thread(target=server.handle_request, daemon=True).start()
            with urlopen(f"http://127.0.0.1:{server.server_port}/api/studies") as answer:
                assert [study["study_name"] for study in json.load(answer)["study_summaries"]] == ["s"]
        for verb in ("enqueue --set lr=0.2", "delete --study s --yes", "confirm --top 1 --seeds 1"):
            done = cli.run(*verb.split(), *there)
            assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), (verb, done.stderr)
        done = cli.run(*RUN, "--trials", "3", *there)
        assert done.returncode == 2, done.stderr
        assert "cannot be written" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.glob("hpsearch.db*")} == before


@pytest.mark.parametrize("reader", [False, True], ids=["alone", "with a reader"])
def test_the_database_file_alone_holds_a_study_that_has_ended(cli: Cli, tmp_path: Path, reader: bool) -> None:
    write_own(cli)
    cli.ok(*RUN, "--trials", "1")
    with contextlib.ExitStack() as opened:
        if reader:
            connection = opened.enter_context(contextlib.closing(sqlite3.connect(cli.folder / "studies" / "hpsearch.db")))
            connection.execute("SELECT count(*) FROM hps_trials").fetchone()
        cli.ok(*RUN, "--trials", "2")
        cli.ok("enqueue", "--set", "lr=0.3")
        assert trials_in_a_copy(cli, tmp_path) == (2, 1)


def test_the_database_file_alone_holds_a_study_that_was_interrupted(slow: Cli, tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        running = slow.start("run", "--space", "slow.yaml", "--trials", "2", "--slots", "1", "--device", "cpu")
        wait_for(lambda: any((slow.folder / "studies").glob("*/trials/*/log.jsonl")), running)
        running.send_signal(number)
        running.communicate()
        assert trials_in_a_copy(slow, tmp_path)[0] >= 1


def trials_in_a_copy(cli: Cli, tmp_path: Path) -> tuple[int, int]:
    """Trials and requests in a copy of the database's file, without what lies beside it."""
    copy = tmp_path / "copy.db"
    shutil.copyfile(cli.folder / "studies" / "hpsearch.db", copy)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("hps_trials", "hps_requests")]
    for path in tmp_path.glob("copy.db*"):
        path.unlink()
    return counts[0], counts[1]

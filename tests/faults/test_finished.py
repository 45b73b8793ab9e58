"""Fault 9: a finished study that is started again; `--trials` is a total."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from cli import Cli
from databases import on
from invariants import assert_nothing_lost, rows
from tiny import SPACE


def run(cli: Cli, trials: int) -> str:
    """What is told."""
    done = cli.run("run", "--space", "tiny.yaml", "--trials", str(trials), "--slots", "1", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return done.stderr


def work(url: str) -> list[list[dict[str, Any]]]:
    """What was trained, and what came of it."""
    return [
        rows(url, f"SELECT * FROM {table} WHERE {number} < 2 ORDER BY {number}")
        for table, number in (("hps_trials", "number"), ("hps_attempts", "trial_number"), ("trials", "number"))
    ]


@on("storage_url", "sqlite")
def test_fault_09_a_finished_study_runs_nothing_again_and_a_larger_total_adds_the_difference(
    cli: Cli, storage_url: str
) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    cli = cli.using(storage_url)
    run(cli, 2)
    done = work(storage_url)
    for again in (2, 1):
        told = run(cli, again)
        assert ("--trials 1: the study's total is 2 already" in told) == (again == 1)
        assert_nothing_lost(storage_url, "tiny", 2)
        assert work(storage_url) == done
    run(cli, 4)
    assert_nothing_lost(storage_url, "tiny", 4)
    assert work(storage_url) == done
    assert cli.json("status")["trials"]["target"] == 4


def test_a_study_scored_in_another_way_is_read_but_not_gone_on_with(cli: Cli) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    run(cli, 1)
    # As a study has it that was made before the way of scoring was noted.
    with contextlib.closing(sqlite3.connect(cli.folder / "studies" / "hpsearch.db")) as database, database:
        database.execute("UPDATE hps_studies SET versions = json_remove(versions, '$.scoring')")
    for words in (("run", "--space", "tiny.yaml", "--trials", "2"), ("confirm", "--top", "1", "--seeds", "1")):
        done = cli.run(*words, "--slots", "1", "--device", "cpu")
        assert done.returncode == 2, done.stderr
        assert "scored held-out text in another way" in done.stderr
    assert cli.json("status")["trials"]["complete"] == 1
    assert cli.run("export", "--out", "best.yaml").returncode == 0

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest
from cli import Cli


@pytest.fixture
def own(finished: Cli, tmp_path: Path) -> Cli:
    """A copy of the finished study that may be changed."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Cli(tmp_path / "copy", finished.environment)


def test_a_deleted_study_leaves_neither_rows_nor_files(own: Cli) -> None:
    refused = own.run("delete", "--study", "tiny")
    assert (refused.returncode, "add --yes" in refused.stderr) == (2, True)
    own.ok("delete", "--study", "tiny", "--yes")
    assert not (own.folder / "studies" / "0001-tiny").exists()
    with sqlite3.connect(own.folder / "studies" / "hpsearch.db") as database:
        for table in ("hps_studies", "hps_trials", "hps_points", "hps_attempts", "studies", "trials", "trial_values"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    assert own.json("studies") == []
    done = own.run("status")
    assert (done.returncode, "no study yet" in done.stderr) == (2, True)
    again = own.run("delete", "--study", "tiny", "--yes")
    assert again.returncode == 2


def test_copies_of_a_deleted_study_are_deleted_too(own: Cli, tmp_path: Path) -> None:
    """Those of another study in the same place stay; a place that cannot be had is said before anything is deleted."""
    for name in ("0001-tiny", "0002-other"):
        (tmp_path / "copies" / name / "trials" / "0000").mkdir(parents=True)
        (tmp_path / "copies" / name / "trials" / "0000" / "step-1").write_text("weights")
    refused = own.run("delete", "--study", "tiny", "--yes", "--shared", "nosuch://copies")
    assert (refused.returncode, "--shared nosuch://copies" in refused.stderr) == (2, True), refused.stderr
    assert own.json("status")
    own.ok("delete", "--study", "tiny", "--yes", "--shared", f"file://{tmp_path}/copies")
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["0002-other"]
    assert (tmp_path / "copies" / "0002-other" / "trials" / "0000" / "step-1").exists()


def test_what_the_dashboard_left_of_a_study_can_be_deleted(own: Cli) -> None:
    storage = f"sqlite:///{own.folder / 'studies' / 'hpsearch.db'}"
    optuna.delete_study(study_name="tiny", storage=storage)
    done = own.run("run", "--space", "tiny.yaml", "--trials", "9")
    assert done.returncode == 3
    assert "hpsearch delete --study tiny" in done.stderr
    own.ok("delete", "--study", "tiny", "--yes")
    assert own.json("studies") == []


def test_the_storage_can_be_checked_and_is_not_upgraded_without_need(own: Cli) -> None:
    assert "sound, studies: 1" in own.ok("db", "check")
    assert "already" in own.ok("db", "upgrade")


def test_tables_of_another_version_are_refused_with_the_command_that_helps(own: Cli) -> None:
    with sqlite3.connect(own.folder / "studies" / "hpsearch.db") as database:
        database.execute("UPDATE hps_alembic_version SET version_num = '0000'")
    for words in (("status",), ("db", "check"), ("run", "--space", "tiny.yaml")):
        done = own.run(*words)
        assert (done.returncode, "hpsearch db upgrade" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("written", ["../mine", "", "0002-other", "{absolute}"])
def test_a_row_decides_nothing_of_what_delete_removes(own: Cli, written: str) -> None:
    mine = own.folder / "mine"
    for folder in (mine, own.folder / "studies" / "0002-other"):
        folder.mkdir()
        (folder / "notes").write_text("mine")
    with sqlite3.connect(own.folder / "studies" / "hpsearch.db") as database:
        database.execute("UPDATE hps_studies SET folder = ?", (written.format(absolute=mine),))
    own.ok("delete", "--study", "tiny", "--yes")
    assert (mine / "notes").read_text() == (own.folder / "studies" / "0002-other" / "notes").read_text() == "mine"
    assert not (own.folder / "studies" / "0001-tiny").exists()


def test_of_a_study_that_is_linked_only_the_link_is_deleted(own: Cli) -> None:
    (own.folder / "studies" / "0001-tiny").rename(own.folder / "moved")
    (own.folder / "studies" / "0001-tiny").symlink_to(own.folder / "moved")
    own.ok("delete", "--study", "tiny", "--yes")
    assert not (own.folder / "studies" / "0001-tiny").is_symlink()
    assert (own.folder / "moved" / "study.json").exists()

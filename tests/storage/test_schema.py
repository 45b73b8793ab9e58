"""Making, checking and upgrading the tables, beside Optuna's, from many processes, without heavy imports."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, inspect, text

import hpsearch.storage
from hpsearch.errors import BadInput, StorageUnreachable
from hpsearch.storage import schema, tables
from hpsearch.storage.engine import make_engine
from hpsearch.storage.optuna_storage import optuna_storage
from hpsearch.storage.records import EndReason, PauseKind, StudyRecord, TrialState
from hpsearch.storage.store import Store
from hpsearch.storage.tables import REVISION, VERSION_TABLE, metadata
from hpsearch.storage.transactions import Database
from hpsearch.storage.upsert import row_of
from hpsearch.storage.urls import parse_url

Start = Callable[..., subprocess.Popen[str]]

EVERYTHING_AT_ONCE = """
import os, sys, traceback
import alembic.command, optuna
from hpsearch.storage.optuna_storage import optuna_storage
from hpsearch.storage.records import BudgetRecord, StudyRecord
from hpsearch.storage.store import Store
optuna.logging.set_verbosity(optuna.logging.ERROR)

def work(seed):
    store = Store.open(sys.argv[1], create=True)
    storage = optuna_storage(sys.argv[1])
    budget = BudgetRecord("tokens", 1e6, 10)
    mine = StudyRecord("lm", "", "", ("val_bpb",), {}, "", budget, "tpe", "median", seed, {}, "", "cpu", 1, "", 1)
    study = store.create_study(mine)
    with store.setup_lock():
        theirs = optuna.create_study(storage=storage, study_name="lm", load_if_exists=True)
    trial = theirs.ask()
    # In one write: lines of sixteen processes in one pipe stay whole.
    os.write(1, f"{study.id} {study.seed} {theirs._study_id} {trial.number}\\n".encode())

wait, go = os.pipe()
for seed in range(16):
    if not os.fork():
        os.close(go)
        os.read(wait, 1)  # ends when the parent closes its end
        try:
            work(seed)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
os.close(go)
sys.exit(sum(os.wait()[1] != 0 for _ in range(16)))
"""

LIGHT = """
import sys
from hpsearch.storage.store import Store
with Store.open(sys.argv[1], create=False) as store:
    print(len(store.studies()), store.find_study("lm").name)
heavy = {"optuna", "alembic", "torch", "numpy", "sqlalchemy.orm", "psutil"}
print(sorted(heavy & set(sys.modules)))
"""

OPTUNA_CLI = "import sys; from optuna.cli import main; sys.exit(main())"


def stamp(url: str, revision: str) -> None:
    database = Database(make_engine(url))
    statement = text(f"UPDATE {VERSION_TABLE} SET version_num = :revision").bindparams(revision=revision)
    database.write(lambda connection: connection.execute(statement))
    database.engine.dispose()


def migrate(url: str, revision: str) -> None:
    """Our tables as an older program made them."""
    config = Config()
    config.set_main_option("script_location", str(Path(hpsearch.storage.__path__[0]) / "migrations"))
    database = Database(make_engine(url))

    def run(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    database.write(run)
    database.engine.dispose()


def test_sixteen_processes_set_up_one_fresh_database(storage_url: str, start_python: Start) -> None:
    process = start_python(EVERYTHING_AT_ONCE, storage_url)
    output, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    rows = [line.split() for line in output.splitlines()]
    assert len({tuple(row[:3]) for row in rows}) == 1
    assert sorted(int(row[3]) for row in rows) == list(range(16))


@pytest.mark.parametrize("storage_url", ["mysql"], indirect=True)
def test_a_schema_that_another_process_is_making_is_waited_for(storage_url: str) -> None:
    """MySQL commits each table, so that a migration is seen half done."""
    Store.open(storage_url, create=True).close()
    database = Database(make_engine(storage_url))
    with ThreadPoolExecutor(1) as pool:
        with schema.setup_lock(database):
            stamp(storage_url, "0001")
            opening = pool.submit(lambda: Store.open(storage_url, create=True).close())
            with pytest.raises(TimeoutError):
                opening.result(timeout=1.0)
            stamp(storage_url, REVISION)
        opening.result(timeout=60)
    database.engine.dispose()


def test_the_migrations_make_exactly_the_tables_and_do_not_see_optunas(storage_url: str, store: Store) -> None:
    storage = optuna_storage(storage_url)
    assert {"studies", "alembic_version"} <= set(inspect(storage.engine).get_table_names())
    with store._database.engine.connect() as connection:
        options = {
            "include_name": lambda name, kind, parents: kind != "table" or name in metadata.tables,
            # MySQL's MEDIUMTEXT stands only in the migration: the tables are for queries.
            "compare_type": lambda *arguments: False if "MEDIUMTEXT" in str(arguments[3]) else None,
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    scripts = Config()
    scripts.set_main_option("script_location", str(Path(hpsearch.storage.__path__[0]) / "migrations"))
    assert ScriptDirectory.from_config(scripts).get_current_head() == REVISION
    storage.engine.dispose()


def test_optunas_tables_may_be_there_before_ours(storage_url: str, study_record: StudyRecord) -> None:
    storage = optuna_storage(storage_url)
    optuna.create_study(storage=storage, study_name="theirs")
    with pytest.raises(BadInput, match="no study yet in "):
        Store.open(storage_url, create=False)
    with Store.open(storage_url, create=True) as store:
        store.create_study(study_record)
    assert optuna.get_all_study_names(storage) == ["theirs"]
    assert storage.get_current_version() == storage.get_head_version()
    storage.engine.dispose()


def test_optunas_command_line_reads_the_same_database(storage_url: str, store: Store, study: StudyRecord) -> None:
    storage = optuna_storage(storage_url)
    theirs = optuna.create_study(storage=storage, study_name=study.name)
    theirs.tell(theirs.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 0.5)
    storage.engine.dispose()
    url = parse_url(storage_url).render_as_string(hide_password=False)  # Optuna's own default for MySQL is a driver in C
    command = [sys.executable, "-c", OPTUNA_CLI, "studies", "--storage", url, "-f", "json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    (row,) = json.loads(listed.stdout)
    assert (row["name"], row["n_trials"]) == ("lm", 1)


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(("revision", "kind"), [("0000", "older"), ("9999", "newer")])
def test_another_schema_is_refused_and_untouched(storage_url: str, create: bool, revision: str, kind: str) -> None:
    Store.open(storage_url, create=True).close()
    stamp(storage_url, revision)
    with pytest.raises(BadInput, match=rf"revision {revision}, {kind} than this program's {REVISION}.*`hpsearch db upgrade`"):
        Store.open(storage_url, create=create)
    database = Database(make_engine(storage_url))
    assert database.read(schema.version) == revision
    database.engine.dispose()


def test_upgrading_a_current_database_changes_nothing(storage_url: str, store: Store, study: StudyRecord) -> None:
    optuna_storage(storage_url).engine.dispose()
    assert schema.upgrade(storage_url) == (REVISION, REVISION)
    assert store.studies() == [study]


@pytest.mark.parametrize(("revision", "reason"), [("9999", "cannot go back"), ("0000", "no hpsearch ever made")])
def test_upgrading_an_unknown_schema_is_refused(storage_url: str, store: Store, revision: str, reason: str) -> None:
    stamp(storage_url, revision)
    with pytest.raises(BadInput, match=reason):
        schema.upgrade(storage_url)


SENTENCES = [
    ("complete", "", "completed"),
    ("complete", "infeasible: train_seconds is 41 and constrained to at most 30", "infeasible"),
    ("pruned", "infeasible: train_seconds is 31 and constrained to at most 30", "infeasible"),
    ("pruned", "diverged: loss was nan at step 7", "diverged"),
    ("pruned", "diverged: the final evaluation is not finite", "diverged"),
    ("pruned", "median pruner at rung 2 of 4: 8.1, where the median of 9 complete trials is 2.7", "pruned_by_pruner"),
    ("pruned", "0.4 % chance to beat the best (2.1, trial 7): 3.1 ± 0.2 expected of 3.3 at 40 %", "pruned_by_scheduler"),
    ("pruned", "paused at rung 2, never promoted: 2.9 is place 5 of 9", "not_promoted"),
    ("pruned", "pruned by hand", "pruned_by_hand"),
    ("pruned", "out of memory, also with each batch in 4 parts: too much", "out_of_memory"),
    ("failed", "ValueError: infeasible is what I say", "failed"),
    ("failed", "diverged is what a program said of itself", "failed"),
    ("failed", "poisoned: its slot died 3 times, the last time killed by signal 9", "poisoned"),
    ("failed", "ended by another program", "ended_elsewhere"),
    ("failed", "d_model (65) must be a multiple of num_heads (2)", "bad_config"),
    ("running", "", None),
]
"""State, the sentence that programs of revision 0003 stored, and what it means."""
PAUSES = [
    ("interrupted", [], "interrupted"),
    ("place 3 of 4", [("pause", 5.0)], "by_scheduler"),
    ("interrupted", [("pause", 5.0), ("promote", 6.0)], "interrupted"),
    ("place 3 of 4", [("pause", 5.0), ("promote", 6.0), ("pause", 7.0)], "by_scheduler"),
    ("slot lost: killed by signal 9", [], "between_slots"),
    ("out of memory: goes on with each batch in 4 parts", [], "between_slots"),
]
"""The sentence, what the scheduler decided and when, and what it means."""


def test_an_upgrade_reads_the_ends_and_pauses_of_older_trials_from_their_sentences_once(
    storage_url: str, study_record: StudyRecord
) -> None:
    migrate(storage_url, "0003")
    storage = optuna_storage(storage_url)
    theirs = {name: optuna.create_study(storage=storage, study_name=name) for name in (study_record.name, "another")}
    empty: dict[str, object] = {"params": {}, "config": {}, "metrics": {}, "proposed_by": "tpe", "sample": "", "told": True}
    empty |= dict.fromkeys(("rung", "iteration", "tokens", "num_parameters"), 0)
    kept = {key: value for key, value in row_of(study_record).items() if key != "id"}
    rows = [
        {"state": TrialState(state), "reason": reason, "attempts": 0 if word == "bad_config" else 1}
        for state, reason, word in SENTENCES
    ]
    rows += [{"state": TrialState.PAUSED, "reason": reason, "attempts": 1} for reason, _, _ in PAUSES]

    def fill(connection: Connection) -> None:
        connection.execute(insert(tables.studies).values(kept | {"id": 1, "folder": "0001-lm", "created_at": 1.0}))
        for number, row in enumerate(rows):
            connection.execute(insert(tables.trials).values(empty | row | {"study_id": 1, "number": number}))
        for number, (_, decisions, _) in enumerate(PAUSES, len(SENTENCES)):
            for rung, (action, at) in enumerate(decisions):
                decision = {"action": action, "at": at, "rung": rung, "reason": "", "decided_by": "halving"}
                connection.execute(insert(tables.decisions).values(decision | {"study_id": 1, "trial_number": number}))

    database = Database(make_engine(storage_url))
    database.write(fill)
    database.engine.dispose()
    for study in theirs.values():
        for row in rows:
            study.ask().set_user_attr("reason", row["reason"])
    assert schema.upgrade(storage_url) == ("0003", REVISION)
    with Store.open(storage_url, create=False) as store:
        found = store.trials(1)
    ends = [None if word is None else EndReason(word) for _, _, word in SENTENCES] + [None] * len(PAUSES)
    assert [trial.end_reason for trial in found] == ends
    assert [trial.pause_kind for trial in found] == [None] * len(SENTENCES) + [PauseKind(word) for _, _, word in PAUSES]
    told = [trial.user_attrs.get("end_reason") for trial in theirs[study_record.name].trials]
    assert [number for number, word in enumerate(told) if word] == [3, 4], "samplers see which ones diverged"
    assert set(told) == {None, "diverged"}
    assert not any("end_reason" in trial.user_attrs for trial in theirs["another"].trials), "another program's study"
    storage.engine.dispose()


def test_upgrading_a_database_without_studies_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "hpsearch.db").touch()
    with pytest.raises(BadInput, match="no study yet"):
        schema.upgrade(sqlite_url)


def test_upgrading_brings_optunas_tables_along(sqlite_url: str, store: Store) -> None:
    storage = optuna_storage(sqlite_url)
    head = storage.get_head_version()
    older = storage.get_all_versions()[1]
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :older"), {"older": older})
    storage.engine.dispose()
    with pytest.raises(BadInput, match=r"belong to another version of Optuna; run `hpsearch db upgrade`"):
        optuna_storage(sqlite_url)
    Store.open(sqlite_url, create=True).close()
    schema.upgrade(sqlite_url)
    storage = optuna_storage(sqlite_url)
    assert storage.get_current_version() == head
    storage.engine.dispose()


def test_reading_a_missing_database_is_refused_and_creates_nothing(sqlite_url: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"no study yet in {sqlite_url}; start one with `hpsearch run`"):
        Store.open(sqlite_url, create=False)
    assert list(tmp_path.iterdir()) == []


def test_opening_an_existing_store_writes_nothing(sqlite_url: str, store: Store, study: StudyRecord, tmp_path: Path) -> None:
    with Store.open(sqlite_url, create=True) as first:
        first.create_study(study)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.db")}
    for create in (False, True):
        with Store.open(sqlite_url, create=create) as reader:
            assert reader.studies()
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.db")}


def test_opening_an_existing_store_imports_nothing_heavy(
    storage_url: str, store: Store, study: StudyRecord, start_python: Start
) -> None:
    output, error = start_python(LIGHT, storage_url).communicate()
    assert output.splitlines() == ["1 lm", "[]"], error


def test_nothing_but_the_database_is_left_in_its_folder(sqlite_url: str, tmp_path: Path) -> None:
    with Store.open(sqlite_url, create=True), Store.open(sqlite_url, create=True) as store:
        optuna_storage(sqlite_url).engine.dispose()
        assert store.studies() == []
    assert {path.name for path in tmp_path.iterdir()} <= {"hpsearch.db", "hpsearch.db-wal", "hpsearch.db-shm"}


def test_who_may_only_read_the_folder_cannot_hold_up_who_sets_it_up(sqlite_url: str, tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    Store.open(sqlite_url, create=True).close()
    os.close(handle)


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o200), (0o775, 0o220), (0o777, 0o222)])
def test_only_who_may_write_in_the_folder_can_open_its_lock(sqlite_url: str, tmp_path: Path, folder: int, file: int) -> None:
    tmp_path.chmod(folder)
    database = Database(make_engine(sqlite_url))
    with schema.setup_lock(database):
        (lock,) = tmp_path.iterdir()
        assert stat.S_IMODE(lock.stat().st_mode) == file
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_holds_the_lock_for_long_is_named_and_then_given_up(
    storage_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schema, "_LOCK_SILENT_S", 0.0)
    monkeypatch.setattr(schema, "_LOCK_WAIT_S", 1.5)
    first, second = Database(make_engine(storage_url)), Database(make_engine(storage_url))
    held = pytest.raises(StorageUnreachable, match="another process has been setting it up")
    with schema.setup_lock(first), held, schema.setup_lock(second):
        raise AssertionError("two were inside")
    assert "waiting for another process that is setting it up" in caplog.text
    with schema.setup_lock(second):  # It was given back.
        pass
    first.engine.dispose()
    second.engine.dispose()


def test_a_lock_file_that_a_killed_process_left_behind_is_taken_over(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "hpsearch.db-setup").touch(0o200)
    Store.open(sqlite_url, create=True).close()
    assert [path.name for path in tmp_path.iterdir()] == ["hpsearch.db"]

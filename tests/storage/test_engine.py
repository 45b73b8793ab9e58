"""URLs that work, URLs that are refused, and no password in anything that can be shown."""

from __future__ import annotations

import re
import resource
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import optuna
import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import OperationalError

from hpsearch.errors import BadInput, StoppedForNow, StorageUnreachable, StudyGone
from hpsearch.storage.engine import make_engine
from hpsearch.storage.optuna_storage import optuna_storage
from hpsearch.storage.records import StudyRecord
from hpsearch.storage.store import Store
from hpsearch.storage.transactions import Database
from hpsearch.storage.urls import masked, optuna_url, parse_url
from hpsearch.storage.urls import sqlite_url as sqlite_url_of

PASSWORDS = ["p@ss", "{}", "{0}", "100%", "%41", "a:b/c?d#e", "pass word", "密码"]


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_quoted_password_reaches_both_engines_and_is_never_shown(password: str) -> None:
    url = f"postgresql://me:{quote(password, safe='')}@db.example:5433/hps"
    assert parse_url(url).password == password
    assert make_url(optuna_url(parse_url(url)).format(SCHEMA_VERSION=12)).password == password
    assert masked(url) == masked(parse_url(url)).replace("+psycopg", "") == "postgresql://me:***@db.example:5433/hps"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@h:port/db",
        "oracle://me:secret@h/db",
        "mysql:/me:secret@h",
        "postgresql+asyncpg://me:secret@h/db",
        "me:secret@h",
        "postgresql://me:sec/secret@h:x/db",
        "postgresq://me:x@h:1/db?password=secret",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_engine(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_passwords_among_the_options_are_masked() -> None:
    assert masked("postgresql://h/db?password=geheim&sslmode=require") == "postgresql://h/db?password=***&sslmode=require"


def test_an_unknown_scheme_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"unknown kind of database 'postgresq'; did you mean 'postgres"):
        parse_url("postgresq://h/db")


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgresql://h/db", "postgresql+psycopg"),
        ("postgres://h/db", "postgresql+psycopg"),
        ("mysql://h/db", "mysql+pymysql"),
        ("mariadb://h/db", "mysql+pymysql"),
        ("postgresql+psycopg2://h/db", "postgresql+psycopg2"),
    ],
)
def test_a_url_without_a_driver_means_the_supported_one(given: str, driver: str) -> None:
    assert parse_url(given).drivername == driver


@pytest.mark.parametrize(("scheme", "module"), [("postgresql", "psycopg"), ("mysql", "pymysql")])
def test_a_missing_driver_names_the_extra_to_install(scheme: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        BadInput, match=rf"driver {module} is missing; .*pip install -c constraints.txt '\.\[{scheme}\]'"
    ) as caught:
        make_engine(f"{scheme}://me:secret@h/db")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [("postgresql+psycopg2", "psycopg2", "psycopg2-binary"), ("mysql+mysqldb", "MySQLdb", "mysqlclient")],
)
def test_a_driver_that_no_extra_brings_names_its_package(
    scheme: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    driver = scheme.partition("+")[2]
    with pytest.raises(BadInput, match=rf"run: pip install {package}, or leave '\+{driver}' out of the URL"):
        make_engine(f"{scheme}://me:secret@h/db")


@pytest.mark.parametrize(
    ("scheme", "known"),
    [
        ("postgresql+asyncpg", "psycopg or psycopg2"),
        ("postgresql+pg8000", "psycopg or psycopg2"),
        ("mysql+mysqlconnector", "pymysql or mysqldb"),
        ("mariadb+mariadbconnector", "pymysql or mysqldb"),
        ("sqlite+aiosqlite", "pysqlite"),
        ("oracle+oracledb", "postgresql://"),
        ("mssql+pyodbc", "postgresql://"),
    ],
)
def test_an_unsupported_driver_is_refused_with_those_that_are(scheme: str, known: str) -> None:
    with pytest.raises(BadInput, match=known):
        make_engine(f"{scheme}://me:secret@h/db")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://h/db?connect_timeout=abc", "connect_timeout=abc: give a whole number"),
        ("postgresql://h/db?connect_timeout=-1", "give a whole number"),
        ("postgresql://h/db?prepare_threshold=often", "prepare_threshold=often: give a whole number"),
        ("postgresql+psycopg2://h/db?prepare_threshold=0", "psycopg2 has no such option"),
        ("postgresql://h/db?sslmode=requires", "sslmode=requires: give disable, allow, prefer"),
        ("postgresql://h/db?sslmode=require&sslmode=require", "sslmode is given 2 times"),
        ("postgresql://h/db?sslrootcert=/no/such", "there is no such file"),
        ("postgresql://h/db?client_encoding=latin1", "client_encoding=latin1: give utf8"),
        ("postgresql://h/db?conect_timeout=5", "no such option; did you mean 'connect_timeout'?"),
        ("postgresql://h/db?row_factory=dict_row", "no such option"),
        ("postgresql://h/db?autocommit=true", "no such option"),
        ("mysql://h/db?connect_timeout=1.5", "give a whole number"),
        ("mysql://h/db?charset=latin1", "charset=latin1: give utf8mb4"),
        ("mysql://h/db?charset=utf8", "give utf8mb4"),
        ("mysql://h/db?ssl_ca=/no/such", "ssl_ca=/no/such: there is no such file"),
        ("mysql://h/db?ssl_disabled=maybe", "give true or false"),
        ("mysql://h/db?cursorclass=x", "no such option"),
        ("mysql://h/db?use_unicode=0", "no such option"),
        ("mysql://h/db?autocommit=1", "no such option"),
        ("sqlite:///x.db?mode=ro", "mode: pysqlite has no such option"),
        ("sqlite:///x.db?timeout=soon", "give a number of seconds"),
    ],
)
def test_an_option_of_a_url_that_cannot_be_used_is_refused_in_one_line(url: str, told: str) -> None:
    with pytest.raises(BadInput, match=re.escape(told)) as caught:
        make_engine(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("postgresql://h/db?connect_timeout=5&prepare_threshold=0", {"connect_timeout": 5, "prepare_threshold": None}),
        ("postgresql://h/db?prepare_threshold=5", {"connect_timeout": 10, "prepare_threshold": None}),
        ("postgresql://h/db?sslmode=require", {"sslmode": "require", "prepare_threshold": None}),
        ("mysql://h/db?connect_timeout=5&read_timeout=7&charset=utf8mb4", {"connect_timeout": 5, "read_timeout": 7}),
        ("mysql://h/db?ssl_disabled=false", {"ssl_disabled": False, "charset": "utf8mb4"}),
    ],
)
def test_options_of_a_url_reach_the_driver_as_what_they_are(
    url: str, taken: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(url)
    given: dict[str, object] = {}

    def connect(*_: object, **named: object) -> object:
        given.update(named)
        raise engine.dialect.loaded_dbapi.OperationalError("no server here")

    monkeypatch.setattr(engine.dialect, "connect", connect)
    with pytest.raises(OperationalError):
        engine.connect()
    assert {name: given[name] for name in taken} == taken


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="in memory"):
        make_engine(url)


def test_a_missing_folder_is_named_and_not_created(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    with pytest.raises(BadInput, match=f"the folder {folder} does not exist"):
        Store.open(f"sqlite:///{folder}/hpsearch.db", create=True)
    assert not folder.exists()


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "notes.db"
    path.write_text("not a database, but long enough to be taken for one by its length alone\n" * 20)
    before = path.read_bytes()
    with pytest.raises(BadInput, match="not a sound SQLite database"):
        Store.open(f"sqlite:///{path}", create=create)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.db"]


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a folder"):
        Store.open(f"sqlite:///{tmp_path}", create=True)


def test_a_path_with_any_characters_works(tmp_path: Path) -> None:
    folder = tmp_path / "a {b} %20 ?c#d é"
    folder.mkdir()
    url = sqlite_url_of(folder / "hpsearch.db")
    Store.open(url, create=True).close()
    storage = optuna_storage(url)
    assert storage.get_all_studies() == []
    storage.engine.dispose()
    assert (folder / "hpsearch.db").exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_sqlite_connections_are_set_up(sqlite_url: str) -> None:
    with Store.open(sqlite_url, create=True) as store, store._database.engine.connect() as connection:
        pragmas = {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 60_000, "synchronous": 1}
        assert pragmas == {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas}


def test_a_locked_database_is_tried_again_until_it_is_free(sqlite_url: str, tmp_path: Path) -> None:
    Store.open(sqlite_url, create=True).close()
    blocker = sqlite3.connect(tmp_path / "hpsearch.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    database = Database(make_engine(sqlite_url))
    event.listen(database.engine, "checkout", lambda connection, *_: connection.execute("PRAGMA busy_timeout=0"))
    refusals: list[str] = []

    def refused(context: object) -> None:
        refusals.append(str(context.original_exception))  # type: ignore[attr-defined]
        if len(refusals) == 3:
            blocker.rollback()

    event.listen(database.engine, "handle_error", refused)
    assert database.write(lambda connection: connection.execute(text("SELECT 7")).scalar()) == 7
    assert refusals == ["database is locked"] * 3
    database.engine.dispose()
    blocker.close()


def test_both_storages_call_whoever_sits_out_a_lock_and_go_on_after_it(
    sqlite_url: str, tmp_path: Path, study_record: StudyRecord
) -> None:
    blocker = sqlite3.connect(tmp_path / "hpsearch.db", isolation_level=None)
    lasted: list[float] = []

    class Unlocking:
        def waiting(self, seconds: float, reason: str) -> None:
            assert seconds == 0, "a short one is nothing to speak of"
            assert reason.endswith("hpsearch.db: another process keeps it locked")
            with ThreadPoolExecutor() as pool, pytest.raises(StorageUnreachable, match="keeps it locked"):
                pool.submit(store.request, 1, "stop", {}).result()  # Those of other threads do not wait.
            blocker.rollback()

        def over(self, seconds: float) -> None:
            lasted.append(seconds)

    with Store.open(sqlite_url, create=True) as store:
        storage = optuna_storage(sqlite_url)
        study = optuna.create_study(storage=storage)
        store.sit_out(Unlocking())
        storage.sit_out(Unlocking())
        for write in (lambda: store.create_study(study_record), study.ask):
            blocker.execute("BEGIN IMMEDIATE")
            write()
        assert len(lasted) == 2
        assert (len(store.studies()), len(study.trials)) == (1, 1)
        storage.engine.dispose()
    blocker.close()


def test_writes_of_both_engines_are_immediate_and_reads_of_ours_are_not(sqlite_url: str, tmp_path: Path) -> None:
    Store.open(sqlite_url, create=True).close()
    storage = optuna_storage(sqlite_url)
    database = Database(make_engine(sqlite_url))
    other = sqlite3.connect(tmp_path / "hpsearch.db", isolation_level=None, timeout=0)

    def locked() -> bool:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        other.rollback()
        return False

    assert database.write(lambda connection: locked())
    assert not database.read(lambda connection: locked())
    with storage.engine.begin():
        assert locked()
    assert not locked()
    for used in (storage.engine, database.engine):
        used.dispose()
    other.close()


def test_a_database_that_is_removed_while_it_is_used_is_gone(
    sqlite_url: str, tmp_path: Path, study_record: StudyRecord
) -> None:
    with Store.open(sqlite_url, create=True) as store:
        study = store.create_study(study_record)
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(StudyGone):
            store.request(study.id, "stop", {})


def test_a_disk_that_takes_no_more_writes_stops_for_now(sqlite_url: str, study_record: StudyRecord) -> None:
    with Store.open(sqlite_url, create=True) as store:
        study = store.create_study(study_record)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            with pytest.raises(StoppedForNow, match="run the same command again"):
                store.request(study.id, "stop", {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        store.request(study.id, "stop", {})
        assert len(store.requests(study.id)) == 1

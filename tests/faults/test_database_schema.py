"""Fault 15: tables of an older or a newer program are refused with the command that helps, and not touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from cli import Cli
from sqlalchemy import MetaData, create_engine, text
from tiny import SPACE

import hpsearch.storage
from hpsearch.storage import schema
from hpsearch.storage.engine import make_engine
from hpsearch.storage.tables import REVISION, VERSION_TABLE
from hpsearch.storage.transactions import Database
from hpsearch.storage.urls import parse_url


def dump(url: str) -> dict[str, Any]:
    """Every table of the database, Optuna's too: its columns and its rows."""
    engine = create_engine(parse_url(url))
    tables = MetaData()
    with engine.connect() as connection:
        tables.reflect(connection)
        found = {
            table.name: (
                [(column.name, str(column.type)) for column in table.columns],
                sorted(map(repr, connection.execute(table.select()).all())),
            )
            for table in tables.sorted_tables
        }
    engine.dispose()
    return found


def stamp(url: str, revision: str) -> None:
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = :revision"), {"revision": revision})
    engine.dispose()


def make_first(url: str) -> None:
    """The tables as the first program made them."""
    config = Config()
    config.set_main_option("script_location", str(Path(hpsearch.storage.__path__[0]) / "migrations"))
    database = Database(make_engine(url))

    def run(connection: object) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")

    database.write(run)
    assert database.read(schema.version) == "0001"
    database.engine.dispose()


def refuse(there: Cli, url: str, *words: str) -> None:
    """Each command says `words` in one line, and leaves every row, every column and every file as it was."""
    before, files = dump(url), there.files()
    for command_line in (["run", "--space", "tiny.yaml", "--trials", "2"], ["status"], ["db", "check"]):
        done = there.run(*command_line)
        assert done.returncode == 2, (command_line, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
        for word in words:
            assert word in done.stderr
    assert dump(url) == before
    assert there.files() == files


def test_fault_15_another_schema_is_refused_naming_the_command_and_nothing_is_touched(any_storage_url: str, cli: Cli) -> None:
    url = any_storage_url
    (cli.folder / "tiny.yaml").write_text(SPACE)
    there = cli.using(url)
    make_first(url)
    refuse(there, url, f"revision 0001, older than this program's {REVISION}", "run `hpsearch db upgrade`")
    assert f"upgraded from revision 0001 to {REVISION}" in there.ok("db", "upgrade")
    there.ok("run", "--space", "tiny.yaml", "--trials", "1", "--slots", "1")
    stamp(url, "9999")
    refuse(there, url, f"revision 9999, newer than this program's {REVISION}", "`hpsearch db upgrade` cannot go back")
    before = dump(url)
    upgraded = there.run("db", "upgrade")
    assert upgraded.returncode == 2
    assert "cannot go back" in upgraded.stderr
    assert dump(url) == before

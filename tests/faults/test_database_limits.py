"""What a database does not hold is refused before anything is made, and what one takes is taken or refused by all."""

from __future__ import annotations

import pytest
from cli import Cli
from own_study import write_own
from sqlalchemy import create_engine, inspect

from hpsearch.storage.urls import parse_url

RUN = ("run", "--space", "s.yaml", "--slots", "1", "--command", "python t.py {lr} {config}")


def choices(size: int) -> str:
    names = ", ".join(f"part-{number:05d}-{'x' * 500}" for number in range(size // 513))
    return f"  shard: {{choices: [{names}]}}\n"


def test_choices_beyond_what_the_database_keeps_are_refused_and_nothing_is_made(any_storage_url: str, cli: Cli) -> None:
    write_own(cli, choices(70_000))
    done = cli.using(any_storage_url).run(*RUN, "--trials", "1")
    if not any_storage_url.startswith("mysql"):
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "s.yaml:6:3: the choices of shard take" in line
    assert "PostgreSQL or SQLite" in line
    engine = create_engine(parse_url(any_storage_url))
    assert inspect(engine).get_table_names() == []
    engine.dispose()


@pytest.mark.parametrize("any_storage_url", ["mysql"], indirect=True)
def test_choices_that_the_database_just_keeps_are_searched(any_storage_url: str, cli: Cli) -> None:
    write_own(cli, choices(64_000))
    cli.using(any_storage_url).ok(*RUN, "--trials", "2")


@pytest.mark.parametrize("any_storage_url", ["mysql"], indirect=True)
def test_a_configuration_of_many_long_values_is_refused(any_storage_url: str, cli: Cli) -> None:
    write_own(cli, "".join(f"  p{number}: {{choices: [{'x' * 20_000}, y]}}\n" for number in range(4)))
    done = cli.using(any_storage_url).run(*RUN, "--trials", "1")
    assert (done.returncode, "a configuration takes up to" in done.stderr) == (2, True), done.stderr

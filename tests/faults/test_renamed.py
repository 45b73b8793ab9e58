"""A study that was renamed in the dashboard: every verb still finds it, by the name that it has here and by the new one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen
from wsgiref.simple_server import make_server

import optuna
import pytest
from cli import Cli
from databases import on
from optuna_dashboard import wsgi
from own_study import RUN, write_own

from hpsearch.service.dashboard import open_server
from hpsearch.storage.optuna_storage import optuna_storage
from hpsearch.storage.store import Store


@contextmanager
def ours(url: str) -> Iterator[int]:
    server, _ = open_server(url, "127.0.0.1", 0, None)
    with serving(server) as port:
        yield port


@contextmanager
def theirs(url: str) -> Iterator[int]:
    """optuna-dashboard as it is: it makes a new study of the renamed one."""
    storage = optuna_storage(url)
    with serving(make_server("127.0.0.1", 0, wsgi(storage))) as port:
        yield port
    storage.engine.dispose()


@contextmanager
def serving(server: object) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever)  # type: ignore[attr-defined]
    thread.start()
    yield server.server_port  # type: ignore[attr-defined]
    server.shutdown()  # type: ignore[attr-defined]
    thread.join()
    server.server_close()  # type: ignore[attr-defined]


def rename(port: int, study_id: int, name: str) -> None:
    body = json.dumps({"study_name": name}).encode()
    there = f"http://127.0.0.1:{port}/api/studies/{study_id}/rename"
    with urlopen(Request(there, body, {"Content-Type": "application/json"})) as answer:
        assert answer.status == 201
        assert json.load(answer)["study_name"] == name


@pytest.mark.parametrize("dashboard", [ours, theirs], ids=["ours", "optuna's own"])
@on("any_storage_url", "sqlite")
def test_every_verb_finds_a_study_that_was_renamed_in_the_dashboard(any_storage_url: str, dashboard: object, cli: Cli) -> None:
    write_own(cli)
    there = cli.using(any_storage_url)
    there.ok(*RUN, "--trials", "2")
    with dashboard(any_storage_url) as port:  # type: ignore[operator]
        rename(port, 1, "a better name")
    storage = optuna_storage(any_storage_url)
    assert [study.study_name for study in storage.get_all_studies()] == ["a better name"]
    for names in ((), ("--study", "s"), ("--study", "a better name")):
        for verb in (("status",), ("trials",), ("show", "0"), ("export",), ("report", "--out", "r.html"), ("watch",)):
            there.ok(*verb, *names)
        assert json.loads(there.ok("status", "--json", *names))["study"] == "s", "the name that people see stays"
    there.ok(*RUN, "--trials", "3")
    (renamed,) = storage.get_all_studies()
    trials = optuna.load_study(study_name=renamed.study_name, storage=storage).trials
    assert (renamed.study_name, [trial.number for trial in trials]) == ("a better name", [0, 1, 2])
    there.ok("delete", "--study", "s", "--yes")
    assert storage.get_all_studies() == []
    storage.engine.dispose()
    with Store.open(any_storage_url, create=False) as store:
        assert store.studies() == []

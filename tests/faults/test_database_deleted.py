"""Fault 14: the study is deleted by another program, Optuna's or the dashboard's, while it runs."""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Callable

import optuna
import psutil
from cli import Cli
from databases import on
from invariants import count, rows
from waiting import wait_for

from hpsearch.storage.urls import parse_url

RUN = ("run", "--space", "slow.yaml", "--trials", "1000", "--slots", "2", "--device", "cpu")


def require_clean_stop(cli: Cli, url: str, delete: Callable[[], object]) -> None:
    running = cli.start(*RUN)
    wait_for(lambda: count(url, "hps_points") >= 1, running)
    slots = psutil.Process(running.pid).children(recursive=True)
    delete()
    _, told = running.communicate(timeout=60)
    assert running.returncode == 3, told
    assert told.splitlines()[-1].startswith("hpsearch: study 'slow' was deleted while it ran")
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(slots, timeout=20)
    assert alive == []
    assert count(url, "trials") == 0
    (study,) = rows(url, "SELECT lease_token FROM hps_studies")
    assert study["lease_token"] is None, "the lease was not given back"
    again = cli.run(*RUN)
    assert again.returncode == 3
    assert "`hpsearch delete --study slow` removes what is left of it" in again.stderr


@on("any_storage_url", "sqlite", "postgresql")
def test_fault_14_a_study_deleted_through_optunas_interface_stops_cleanly(any_storage_url: str, slow: Cli) -> None:
    optunas = parse_url(any_storage_url).render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")

    def delete() -> None:
        # Optuna takes an evaluation that arrives meanwhile for a reason to delete nothing, and says nothing (seen on MariaDB).
        while count(any_storage_url, "studies"):
            with contextlib.suppress(KeyError):
                optuna.delete_study(study_name="slow", storage=optunas)

    require_clean_stop(slow.using(any_storage_url), any_storage_url, delete)


def test_fault_14_a_study_deleted_in_the_dashboard_stops_cleanly(slow: Cli) -> None:
    url = f"sqlite:///{slow.folder}/hpsearch.db"
    cli = slow.using(url)

    def delete() -> None:
        dashboard = cli.start("dashboard", "--port", "0")
        try:
            assert dashboard.stderr is not None
            line = dashboard.stderr.readline()
            found = re.search(r"http://(127\.0\.0\.1:\d+)/", line)
            assert found, line
            connection = http.client.HTTPConnection(found[1], timeout=30)
            connection.request("DELETE", "/api/studies/1", headers={"Origin": f"http://{found[1]}"})
            assert connection.getresponse().status == 204
        finally:
            dashboard.terminate()
            dashboard.communicate(timeout=20)

    require_clean_stop(cli, url, delete)

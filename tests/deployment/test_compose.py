"""What docker-compose.yml would run, run: each service's own command and environment as plain processes, to a finished study.

Hosts, ports and folders of the containers are replaced by those of this machine; PostgreSQL and Ray are real.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from invariants import assert_nothing_lost
from ruamel.yaml import YAML
from servers import PASSWORD, USER, Server
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from tiny import SPACE
from waiting import wait_for

ROOT = Path(__file__).parents[2]
TRIALS = 4
TOKEN = "a-long-random-word"


def compose_file(folder: Path, profile: str, **settings: str) -> dict[str, Any]:
    """The file as docker-compose reads it, with the variables filled in."""
    command = shutil.which("docker-compose")
    if command is None:
        if os.environ.get("CI"):
            pytest.fail("no docker-compose: install the system's package")
        pytest.skip("no docker-compose on this machine")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HPSEARCH_", "TORCH_", "COMPOSE_"))}
    done = subprocess.run(
        [command, "--file", str(ROOT / "docker-compose.yml"), "--profile", profile, "config"],
        cwd=folder,
        env=kept | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = YAML(typ="safe").load(done.stdout.replace("$$", "$"))
    return document


@pytest.fixture(params=["cpu", "gpu"])
def services(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """All services of one profile, without the other profile's."""
    found: dict[str, Any] = compose_file(tmp_path, request.param)["services"]
    return {name: service for name, service in found.items() if request.param in service.get("profiles", [request.param])}


def test_every_service_is_watched_and_stops_in_good_order(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["stop_signal"], name
        assert service["stop_grace_period"], name
        assert name in ("database-user", "tables") or service["healthcheck"]["retries"], name
    (coordinator,) = [name for name in services if name.startswith("coordinator")]
    (worker,) = [name for name in services if name.startswith("worker")]
    assert worker in services[coordinator]["depends_on"], "slots would end before the coordinator has paused their trials"
    assert services[coordinator]["environment"]["HPSEARCH_DEVICE"] == ("cuda" if worker.endswith("gpu") else "cpu")
    assert ("deploy" in services[worker]) == worker.endswith("gpu")


def test_nothing_but_the_dashboard_is_published_and_that_on_loopback(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert ports == {"dashboard": ["127.0.0.1:8080:8080/tcp"]}
    assert any(word.startswith("--token-file=") for word in services["dashboard"]["command"])


def test_trials_reach_neither_the_database_nor_the_dashboard(services: dict[str, Any]) -> None:
    on: dict[str, set[str]] = {}
    for name, service in services.items():
        for network in service["networks"]:
            on.setdefault(network, set()).add(name.removesuffix("-gpu"))
    assert on == {
        "database": {"postgres", "database-user", "tables", "coordinator", "dashboard"},
        "cluster": {"ray-head", "worker", "coordinator"},
        "published": {"dashboard"},
    }
    given = {name: {secret["source"] for secret in service.get("secrets", [])} for name, service in services.items()}
    assert {name for name, secrets in given.items() if "postgres_admin_password" in secrets} == {"postgres", "database-user"}
    for name in services:
        assert name.startswith(("worker", "ray-head")) != bool(given[name]), "those that train know no secret"


def test_the_applications_user_owns_its_database_and_can_do_nothing_else(
    processes: Processes, postgresql_server: Server
) -> None:
    for _ in range(2):  # At each start of the services.
        made = processes.start("database-user")
        assert made.wait(timeout=60) == 0, processes.log("database-user")
    tables = processes.start("tables")
    assert tables.wait(timeout=60) == 0, processes.log("tables")
    engine = create_engine(processes.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        rights = "rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        row = connection.execute(text(f"SELECT {rights} FROM pg_roles WHERE rolname = current_user")).one()
        assert not any(row)
        assert connection.execute(text("SELECT count(*) FROM hps_studies")).scalar() == 0
    for statement in ("COPY hps_studies FROM PROGRAM 'true'", "SELECT pg_read_file('/etc/passwd')", "CREATE ROLE another"):
        with engine.connect() as connection, pytest.raises(ProgrammingError, match=r"permission denied|must be|not be"):
            connection.execute(text(statement))
    engine.dispose()
    other = create_engine(make_url(processes.url).set(drivername="postgresql+psycopg", database="postgres"))
    with pytest.raises(OperationalError, match="permission denied for database"):
        other.connect()
    other.dispose()


def test_no_password_stands_in_the_file(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or value.startswith("/run/secrets/"), name
            assert "hpsearch:" not in str(value), name


def test_the_image_has_a_user_of_its_own_and_all_that_the_services_need() -> None:
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:]
    assert len(stages) == 2
    assert "\nUSER hpsearch\n" in stages[-1]
    assert "[postgresql,mysql,ray]" in stages[0]
    copied = [word for line in stages[0].splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed
    assert all((ROOT / name).exists() for name in copied)


@dataclass
class Processes:
    """The services of the file as processes of this machine."""

    folder: Path
    services: Mapping[str, Any]
    places: Mapping[str, str]
    """Words of the file, and what stands for them here."""
    url: str
    """Of the database, with the application's password."""
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    """In the environment of every process, its children's too."""
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self, service: str, copy: int = 1) -> subprocess.Popen[str]:
        name = f"{service}-{copy}"
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                self.here(self.services[service]["command"]),
                cwd=self.folder,
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        return self.running[name]

    def environment(self, service: str) -> dict[str, str]:
        """The service's own, and what every container has."""
        own = self.services[service].get("environment", {})
        bin_folder = Path(sys.executable).parent
        path = [str(ROOT / "tests" / "support" / "loopback"), os.environ.get("PYTHONPATH", "")]
        return {
            "PATH": f"{self.folder}/bin:{bin_folder}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "HPSEARCH_TEST_MARK": self.mark,
            "OMP_NUM_THREADS": "1",
            **dict(zip(own, self.here(list(map(str, own.values()))), strict=True)),
        }

    def here(self, words: list[str]) -> list[str]:
        for theirs, ours in self.places.items():
            words = [word.replace(theirs, ours) for word in words]
        return words

    def healthy(self, service: str) -> bool:
        """Whether the service's own health check says so."""
        kind, *words = self.services[service]["healthcheck"]["test"]
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        done = subprocess.run(
            self.here(command), env=self.environment(service), cwd=self.folder, capture_output=True, timeout=60, check=False
        )
        return done.returncode == 0

    def log(self, service: str, copy: int = 1) -> str:
        return (self.folder / f"{service}-{copy}.log").read_text(errors="replace")

    def stop(self, service: str, copy: int = 1) -> int:
        """As `docker stop` does it: the service's signal, and its time to end."""
        process = self.running.pop(f"{service}-{copy}")
        process.send_signal(signal.Signals[self.services[service]["stop_signal"]])
        return process.wait(timeout=float(self.services[service]["stop_grace_period"].rstrip("s")))

    def close(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HPSEARCH_TEST_MARK") == self.mark:
                    process.kill()
        for started in self.running.values():
            started.wait(timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def processes(tmp_path: Path, postgresql_server: Server) -> Iterator[Processes]:
    # The server of the tests has one superuser, who has the name of the application's here.
    application, password = f"app_{secrets.token_hex(4)}", f"it's \\ {secrets.token_hex(8)}"
    url = f"postgresql://{application}:{quote(password)}@127.0.0.1:{postgresql_server.port}/{application}"
    given, input_folder = tmp_path / "secrets", tmp_path / "input"
    for folder in (given, input_folder, tmp_path / "studies", tmp_path / "cache"):
        folder.mkdir()
    (given / "postgres_admin_password").write_text(f"{PASSWORD}\n")
    (given / "postgres_password").write_text(f"{password}\n")
    (given / "dashboard_token").write_text(f"{TOKEN}\n")
    (input_folder / "tiny.yaml").write_text(SPACE)
    program = tmp_path / "bin" / "hpsearch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m hpsearch "$@"\n')
    program.chmod(0o755)
    read = compose_file(
        tmp_path,
        "cpu",
        HPSEARCH_SPACE="/input/tiny.yaml",
        HPSEARCH_STUDY="composed",
        HPSEARCH_TRIALS=str(TRIALS),
        HPSEARCH_RUN_OPTIONS="--slots 2 --json",
        HPSEARCH_SECRETS=str(given),
    )
    ray, dashboard = free_port(), free_port()
    opened = Processes(
        tmp_path,
        read["services"],
        {
            "hpsearch@postgres:5432/hpsearch": f"{application}@127.0.0.1:{postgresql_server.port}/{application}",
            "--host=postgres": "--host=127.0.0.1",
            "--port=5432": f"--port={postgresql_server.port}",
            "--username=postgres": f"--username={USER}",
            "--set=name=hpsearch": f"--set=name={application}",
            "ray-head:6379": f"127.0.0.1:{ray}",
            "--port=6379": f"--port={ray}",
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=8080": f"--port={dashboard}",
            '"127.0.0.1", 8080': f'"127.0.0.1", {dashboard}',
            "/run/secrets/": f"{given}/",
            "/input/": f"{input_folder}/",
            "/studies": str(tmp_path / "studies"),
            "/cache": str(tmp_path / "cache"),
        },
        url,
    )
    try:
        yield opened
    finally:
        opened.close()
        postgresql_server.drop(url)
        postgresql_server.execute(f"DROP ROLE IF EXISTS {application}")


@pytest.mark.timeout(300)
def test_the_services_bring_a_study_to_its_end(processes: Processes, postgresql_server: Server) -> None:
    assert processes.healthy("postgres")
    assert processes.start("database-user").wait(timeout=60) == 0, processes.log("database-user")
    tables = processes.start("tables")
    assert tables.wait(timeout=60) == 0, processes.log("tables")
    head = processes.start("ray-head")
    wait_for(lambda: processes.healthy("ray-head"))
    workers = []
    for copy in (1, 2):  # One after the other: on one machine they would take one another's sockets.
        worker = processes.start("worker", copy)
        wait_for(lambda copy=copy: "Ray runtime started" in processes.log("worker", copy), worker)
        workers.append(worker)
    dashboard = processes.start("dashboard")
    wait_for(lambda: processes.healthy("dashboard"))
    coordinator = processes.start("coordinator")
    wait_for(lambda: processes.healthy("coordinator"))
    assert coordinator.wait(timeout=150) == 0, processes.log("coordinator")

    log = processes.log("coordinator")
    result = json.loads(log[log.rindex("\n{") :])
    assert result["trials"]["complete"] + result["trials"]["pruned"] == TRIALS, result
    assert_nothing_lost(processes.url, "composed", TRIALS)
    assert (next((processes.folder / "studies").glob("*-composed")) / "best.yaml").is_file()
    for service in ("coordinator", "dashboard", "ray-head", "worker"):
        assert PASSWORD not in processes.log(service)
        assert TOKEN not in processes.log(service)
    for process in (head, dashboard, *workers):
        assert process.poll() is None
    assert processes.healthy("worker")
    assert processes.stop("dashboard") == 0
    for copy in (1, 2):
        processes.stop("worker", copy)
    processes.stop("ray-head")

"""Real database servers for tests: PostgreSQL and MariaDB from the system's packages, on loopback, in a folder of their own.

A server keeps its port and its data when it is stopped, killed and started again. Nothing is forced to the disk: what a killed
server has committed is in the system's memory, and only a crash of the machine would lose it.
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

USER = "hpsearch"
PASSWORD = "hps-secret-7"
DEADLINE_S = 60.0


class NoServer(Exception):
    """The database's programs are not on this machine; the text names the package."""


@dataclass
class Server:
    """One database server whose user may do everything. `kind` is the scheme of its URLs: postgresql or mysql."""

    kind: str
    folder: Path
    command: Sequence[str]
    port: int
    account: str | None
    """The system's user that it runs as; None for the one that runs the tests."""
    stop_signal: signal.Signals
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        """The URL of `database`, its password readable."""
        url = URL.create(self.kind, user, password, "127.0.0.1", self.port, database)
        return url.render_as_string(hide_password=False)

    @property
    def admin_url(self) -> str:
        """The URL of the database that is always there."""
        return self.url("postgres" if self.kind == "postgresql" else "mysql")

    def execute(self, *statements: str, database: str | None = None) -> None:
        """Run SQL, each statement in a transaction of its own."""
        url = self.url(database) if database else self.admin_url
        engine = create_engine(_with_driver(url), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                for statement in statements:
                    connection.exec_driver_sql(statement.replace("%", "%%"))
        finally:
            engine.dispose()

    def fresh_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"hps_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove the database of `url` whoever uses it."""
        force = " WITH (FORCE)" if self.kind == "postgresql" else ""
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]}{force}")

    def start(self) -> None:
        """Start it and wait until it answers. A server that was killed repairs its data first."""
        assert self.process is None
        deadline = time.monotonic() + DEADLINE_S
        while not self._answers():
            if self.process is None or self.process.poll() is not None:  # after a kill its memory is held for a moment
                with self.log.open("ab") as log:
                    self.process = subprocess.Popen(
                        self.command,
                        cwd=self.folder,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # a test that ends its own process group does not end the server
                        **_as(self.account),
                    )
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.command[0]} does not answer:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in good order; sessions are cut."""
        if self.process is not None:
            self.process.send_signal(self.stop_signal)
            self._wait()

    def kill(self) -> None:
        """End all its processes at once with SIGKILL."""
        if self.process is not None:
            main = psutil.Process(self.process.pid)
            main.suspend()  # so that it starts no more children, and takes no death of one for a reason to restart them
            for process in [*main.children(recursive=True), main]:
                process.kill()
            self._wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        assert self.process is not None
        self.process.wait(timeout=DEADLINE_S)
        self.process = None

    def _answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            return False
        engine = create_engine(_with_driver(self.admin_url))
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        finally:
            engine.dispose()
        return True


def start_postgresql(folder: Path | None = None) -> Server:
    """A running PostgreSQL. Raises NoServer where its programs are not found.

    folder: a path that does not exist yet, below folders that everyone may enter; by default a temporary one.
    """
    # Debian has a folder for each major version; the newest, by number.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        raise NoServer("no initdb: install the system's package postgresql")
    account = _account("postgres")
    folder = _folder(folder, account)
    data, word = folder / "data", folder / "password"
    word.write_text(PASSWORD)
    word.chmod(0o644)
    _run(
        [
            initdb,
            "--no-sync",
            f"--pgdata={data}",
            f"--username={USER}",
            f"--pwfile={word}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        ],
        folder,
        account,
    )
    port = _free_port()
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "full_page_writes": "off",
        "max_connections": 200,
        "shared_buffers": "32MB",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    server = Server(
        "postgresql",
        folder,
        [str(Path(initdb).with_name("postgres")), "-D", str(data), *options],
        port,
        account,
        signal.SIGINT,  # its fast shutdown; SIGTERM would wait for all sessions to end
    )
    return _started(server)


def start_mariadb(folder: Path | None = None) -> Server:
    """A running MariaDB. Raises NoServer where its programs are not found. folder: as for PostgreSQL."""
    mariadbd = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    install = shutil.which("mariadb-install-db")
    if mariadbd is None or install is None:
        raise NoServer("no mariadbd: install the system's package mariadb-server")
    account = _account("mysql")
    folder = _folder(folder, account)
    data, setup = folder / "data", folder / "setup.sql"
    setup.write_text(
        f"CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {USER}@'%' WITH GRANT OPTION;\n"
    )
    _run([install, "--no-defaults", f"--datadir={data}", "--skip-test-db"], folder, account)
    port = _free_port()
    command = [
        mariadbd,
        "--no-defaults",
        f"--datadir={data}",
        f"--init-file={setup}",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={folder}/socket",
        f"--pid-file={folder}/pid",
        "--skip-name-resolve",
        "--character-set-server=utf8mb4",
        "--innodb-flush-log-at-trx-commit=2",  # written at each commit, but not forced to the disk
        "--innodb-flush-method=nosync",
        "--innodb-buffer-pool-size=32M",
        "--max-connections=200",
    ]
    return _started(Server("mysql", folder, command, port, account, signal.SIGTERM))


def start_pgbouncer(server: Server) -> Server:
    """pgbouncer before a PostgreSQL, with a session of it for each transaction. Raises NoServer where it is not found."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise NoServer("no pgbouncer: install the system's package")
    account = _account("postgres")
    folder = _folder(None, account)
    port = _free_port()
    (folder / "users.txt").write_text(f'"{USER}" "{PASSWORD}"\n')
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "auth_type": "plain",
        "auth_file": folder / "users.txt",
        "pool_mode": "transaction",
        "default_pool_size": 3,
        "max_client_conn": 100,
        "logfile": folder / "log",
        "pidfile": folder / "pid",
        "unix_socket_dir": "",
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    (folder / "pgbouncer.ini").write_text(
        "\n".join(["[databases]", f"* = host=127.0.0.1 port={server.port}", "[pgbouncer]", *lines, ""])
    )
    return _started(Server("postgresql", folder, [program, str(folder / "pgbouncer.ini")], port, account, signal.SIGINT))


def _started(server: Server) -> Server:
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://").replace("mysql://", "mysql+pymysql://")


def _account(name: str) -> str | None:
    """Whom a server runs as: database servers refuse the superuser."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        return "nobody"


def _as(account: str | None) -> dict[str, object]:
    if account is None:
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _folder(folder: Path | None, account: str | None) -> Path:
    """A new folder that belongs to `account`. A short path: that of a socket is in it."""
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="hps-db-"))
    else:
        folder.mkdir()
    if account is not None:
        shutil.chown(folder, account, pwd.getpwnam(account).pw_gid)
    folder.chmod(0o755)
    return folder


def _run(command: Sequence[object], folder: Path, account: str | None) -> None:
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False, **_as(account)
    )
    assert done.returncode == 0, f"{command[0]}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"


def _free_port() -> int:
    """A port below those that the system gives to outgoing connections, so that it is still free after a restart."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port

"""A password of any characters works on the real servers, and is shown nowhere; a wrong one is refused, masked."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from cli import Cli
from invariants import count
from servers import Server
from sqlalchemy import URL
from waiting import wait_for

from hpsearch.storage.urls import masked

PASSWORD = "s3cr3t@{x}{}%41 %s:/?#&'é"
SPELLINGS = ("s3cr3t", "s3cr3t%40")


def account(server: Server, user: str) -> str:
    """A new database with a user of its own; its URL."""
    url = server.fresh_database()
    database = url.rpartition("/")[2]
    quoted = PASSWORD.replace("'", "''")
    if server.kind == "mysql":
        server.execute(f"CREATE USER {user}@'%' IDENTIFIED BY '{quoted}'", f"GRANT ALL ON {database}.* TO {user}@'%'")
    else:
        server.execute(f"CREATE USER {user} PASSWORD '{quoted}'", f"GRANT ALL ON DATABASE {database} TO {user}")
        server.execute(f"GRANT ALL ON SCHEMA public TO {user}", database=database)
    return url_of(server, user, PASSWORD, database)


def url_of(server: Server, user: str, password: str, database: str) -> str:
    return URL.create(server.kind, user, password, "127.0.0.1", server.port, database).render_as_string(hide_password=False)


@pytest.fixture(params=["postgresql_server", "mariadb_server"])
def server(request: pytest.FixtureRequest) -> Server:
    running: Server = request.getfixturevalue(request.param)
    return running


def test_a_password_of_odd_characters_works_and_is_shown_nowhere(server: Server, slow: Cli) -> None:
    url = account(server, "odd")
    cli = slow.using(url)
    running = cli.start_anew("run", "--space", "slow.yaml", "--trials", "1000", "--slots", "2", "--device", "cpu")
    wait_for(lambda: count(url, "hps_points") >= 1, running)
    coordinator = psutil.Process(running.pid)
    slots = coordinator.children(recursive=True)
    assert slots
    for process in (coordinator, *slots):
        require_hidden("its command line", Path(f"/proc/{process.pid}/cmdline").read_bytes())
    for process in slots:
        require_hidden("the environment of a slot", Path(f"/proc/{process.pid}/environ").read_bytes())
    dashboard = cli.start("dashboard", "--port", "0")
    try:
        assert dashboard.stderr is not None
        line = dashboard.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        for page in ("/dashboard/", "/api/studies", "/api/meta"):
            require_hidden(f"the dashboard's {page}", fetch(found.group() + page))
    finally:
        dashboard.terminate()
        require_hidden("what the dashboard said", "".join(dashboard.communicate(timeout=20)).encode())
    status = cli.run("status", "--json")
    assert status.returncode == 0, status.stderr
    checked = cli.run("db", "check")
    assert checked.returncode == 0, checked.stderr
    os.killpg(running.pid, signal.SIGINT)
    said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    everything = [*said, status.stdout, status.stderr, checked.stdout, checked.stderr]
    require_hidden("a terminal", "".join(everything).encode())
    for path in cli.folder.rglob("*"):
        if path.is_file():
            require_hidden(str(path), path.read_bytes())
    server.drop(url)


def test_a_password_in_an_option_leaves_the_list_of_processes(postgresql_server: Server, slow: Cli) -> None:
    url = account(postgresql_server, "typed")
    words = ("--storage", url, "--space", "slow.yaml", "--trials", "1000", "--slots", "1", "--device", "cpu")
    running = slow.start_anew("run", *words)
    coordinator = psutil.Process(running.pid)
    wait_for(lambda: bool(coordinator.children()) and count(url, "hps_studies") == 1, running)
    shown = coordinator.cmdline()
    assert [word.strip() for word in shown[-len(words) :]] == [word if word != url else masked(url) for word in words]
    for process in (coordinator, *coordinator.children(recursive=True)):
        require_hidden("its command line", Path(f"/proc/{process.pid}/cmdline").read_bytes())
    for process in coordinator.children(recursive=True):
        require_hidden("the environment of a slot", Path(f"/proc/{process.pid}/environ").read_bytes())
    os.killpg(running.pid, signal.SIGINT)
    said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    require_hidden("a terminal", "".join(said).encode())
    postgresql_server.drop(url)


WORDS = """
import sys
from hpsearch.cli.secrets import take_words
print([take_words(), sys.argv[1:], open("/proc/self/cmdline").read().split("\\0")[3:-1]])
"""


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:s3cr3t%40@h/db", "postgresql://me:***@h/db"),
        ("--storage=mysql+pymysql://me:s3cr3t@h/db", "--storage=mysql+pymysql://me:***@h/db"),
        ("--from=postgresql://me:s3cr3t@h/db#lm", "--from=postgresql://me:***@h/db%23lm"),
        ("postgresql://h/db?password=s3cr3t", "postgresql://h/db?password=***"),
        ("postgresql://me:s3cr3t@h:what/db", "postgresql://***@h:what/db"),
        ("postgresql://me:p@h/db", "postgresql://me:***@h/"),  # as long as it was
        ("postgresql://me@h/db", "postgresql://me@h/db"),
        ("sqlite:////tmp/a b@c.db", "sqlite:////tmp/a b@c.db"),
        ("--note=écrit à: me:s3cr3t@h", "--note=écrit à: me:s3cr3t@h"),
    ],
)
def test_words_are_read_whole_and_shown_without_passwords(given: str, shown: str, environment: dict[str, str]) -> None:
    words = ["before", given, "after", given]
    done = subprocess.run([sys.executable, "-c", WORDS, *words], env=environment, capture_output=True, text=True, check=True)
    taken, kept, listed = ast.literal_eval(done.stdout)
    assert taken == words
    assert kept == ["before", masked(given) if shown.endswith("h/") else shown, "after", kept[1]]
    assert [len(word.encode()) for word in listed] == [len(word.encode()) for word in words]
    assert [word.rstrip() for word in listed] == ["before", shown, "after", shown]


def test_a_wrong_password_is_refused_and_masked(server: Server, slow: Cli) -> None:
    url = account(server, "wrong")
    database = url.rpartition("/")[2]
    before = slow.files()
    cli = slow.using(url_of(server, "wrong", "wrong-s3cr3t@ 100%", database))
    for words in (["run", "--space", "slow.yaml", "--trials", "1"], ["status"], ["db", "check"]):
        done = cli.run(*words)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert ":***@127.0.0.1" in done.stderr
        assert "check the user, the password" in done.stderr
        require_hidden("the message", (done.stdout + done.stderr).encode())
    assert slow.files() in (before, sorted([*before, "studies"]))
    server.drop(url)


def require_hidden(where: str, text: bytes) -> None:
    for spelling in SPELLINGS:
        assert spelling.encode() not in text, f"the password is in {where}"


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
        return body

"""The dashboard's server by real sockets: what connections without a request can do to it, and what every answer says."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from hpsearch.service import serving
from hpsearch.service.dashboard import HEADERS, open_server
from hpsearch.storage.store import Store

TOKEN = "a-long-random-word"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a dashboard that needs a token."""
    url = f"sqlite:///{tmp_path / 'hpsearch.db'}"
    Store.open(url, create=True).close()
    server, _ = open_server(url, "127.0.0.1", 0, None, token=TOKEN)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def ask(port: int, method: str = "GET", path: str = "/api/studies", **headers: str) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def connected(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(sent)
    return connection


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", f"POST /api/studies HTTP/1.1\r\nHost: 127.0.0.1\r\n{TOKEN}: x".encode()],
    ids=["nothing", "half a head", "half a header"],
)
def test_many_silent_connections_keep_nobody_out_and_the_oldest_is_closed(port: int, sent: bytes) -> None:
    with contextlib.ExitStack() as opened:
        silent = [opened.enter_context(connected(port, sent)) for _ in range(2 * serving.READING)]
        assert ask(port, **WITH_TOKEN).status == 200
        assert silent[0].recv(1000) == b"", "closed without an answer"
        silent[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent[-1].recv(1)


def test_bodies_that_never_come_keep_nobody_out(port: int) -> None:
    head = f"POST /api/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\n"
    with contextlib.ExitStack() as opened:
        for _ in range(2 * serving.READING):
            opened.enter_context(connected(port, head.encode()))
        assert ask(port, **WITH_TOKEN).status == 200


def test_a_head_that_comes_byte_by_byte_has_an_end(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_S", 0.3)
    with connected(port) as slow, contextlib.suppress(ConnectionError):  # However much is sent, and however often.
        while True:
            slow.sendall(b"x")
            slow.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                if not slow.recv(1000):
                    break


def test_a_head_of_megabytes_is_refused(port: int) -> None:
    line = b"X-Long: " + b"x" * 30_000 + b"\r\n"
    with connected(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + 2 * line) as long:
        answer = b""
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                long.sendall(line)
            long.shutdown(socket.SHUT_WR)
            answer = long.recv(1000)
    assert answer == b"" or b" 431 " in answer.partition(b"\r\n")[0]
    assert ask(port, **WITH_TOKEN).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Length": "a"}, 400),
        ({"Content_Length": "-1"}, 400),
        ({"Content_Length": "9" * 30}, 413),
        ({"Content_Length": str(2**28 + 1)}, 413),
        ({"Transfer_Encoding": "chunked"}, 411),
    ],
)
def test_a_body_without_an_end_is_refused_before_it_is_read(port: int, headers: dict[str, str], status: int) -> None:
    assert ask(port, "POST", **headers, **WITH_TOKEN).status == status


@pytest.mark.parametrize("path", ["/dashboard", "/api/studies", "/api/studies/99", "/static/none", "/artifacts/1/2"])
@pytest.mark.parametrize("headers", [WITH_TOKEN, {}, {"Host": "evil.example"}], ids=["let in", "no token", "other host"])
def test_every_answer_keeps_other_sites_apart(port: int, path: str, headers: dict[str, str]) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    for name, value in HEADERS:
        assert answer.msg.get_all(name) == [value], name
    (policy,) = answer.msg.get_all("Content-Security-Policy") or [""]
    assert policy.split("; ")[-1] == "frame-ancestors 'none'"
    if path == "/dashboard" and answer.status == 200:
        assert "script-src 'self'" in policy, "the page's own policy stays"
    if path.startswith("/artifacts"):
        assert "sandbox" in policy


def test_a_name_that_optuna_cannot_keep_is_refused(port: int) -> None:
    for name in ("", "x" * 600, "a\nb", 7, None):
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        body = json.dumps({"study_name": name})
        connection.request("POST", "/api/studies/1/rename", body, WITH_TOKEN | {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, "printable" in answer.read().decode()) == (400, True), name
        connection.close()

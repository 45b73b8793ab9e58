"""optuna-dashboard behind a door: its own application knows neither authentication nor which site a request comes from.

On loopback it is open to who is on this machine; beyond it, and wherever a token is given, every request needs the token: as
`Authorization: Bearer TOKEN`, or as a cookie that `?token=TOKEN` sets once. A page of another site that a person has open must
not reach it either: requests whose Host is unknown (DNS rebinding) and changes that another origin sends are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import socket
import socketserver
from collections.abc import Callable, Iterable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from hpsearch.errors import BadInput
from hpsearch.storage.engine import optuna_storage

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore
    from optuna.storages import BaseStorage
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
EVERYWHERE = ("0.0.0.0", "::")
"""Addresses to listen on, and no names to be reached by."""
COOKIE = "hpsearch"
SHORTEST_TOKEN = 16
"""Characters; a shorter one can be guessed."""


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """What lets a request through. token: empty where none is needed. hosts: names beside loopback's that are ours."""

    def __init__(self, token: str = "", hosts: Iterable[str] = ()) -> None:
        self._token, self._hosts = token.encode(), frozenset(host.lower() for host in hosts)
        # The browser keeps this, not the token: it opens this door only.
        self._cookie = hmac.new(self._token, b"hpsearch dashboard", hashlib.sha256).hexdigest()

    def guard(self, application: Application) -> Application:
        """`application`, for requests that may pass."""

        def guarded(environ: dict[str, Any], answer: Start) -> Iterable[bytes]:
            start_response = as_download(answer) if "/artifacts/" in environ.get("PATH_INFO", "") else answer
            reason = self.refusal(environ)
            if reason:
                return _text(start_response, "403 Forbidden", reason)
            if not self._token:
                return application(environ, start_response)
            query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
            given = next((value for name, value in query if name == "token"), None)
            if given is not None and environ["REQUEST_METHOD"] == "GET" and self._is_token(given):
                # Once: the address is not to stay in the history with the token in it.
                rest = urlencode([(name, value) for name, value in query if name != "token"])
                path = "/" + environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace").lstrip("/\\")
                location = quote(path) + (f"?{rest}" if rest else "")
                cookie = f"{COOKIE}={self._cookie}; HttpOnly; SameSite=Strict; Path=/"
                return _text(start_response, "303 See Other", "", ("Location", location), ("Set-Cookie", cookie))
            scheme, _, bearer = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
            if scheme.lower() == "bearer" and self._is_token(bearer.strip()):
                return application(environ, start_response)
            if not self._has_cookie(environ):
                told = "a token is needed: open this address once with ?token=TOKEN, or send Authorization: Bearer TOKEN"
                return _text(start_response, "401 Unauthorized", told, ("WWW-Authenticate", "Bearer"))
            if environ["REQUEST_METHOD"] not in SAFE_METHODS and "HTTP_ORIGIN" not in environ:
                return _text(start_response, "403 Forbidden", "a change that does not say from which origin it comes")
            return application(environ, start_response)

        return guarded

    def refusal(self, environ: dict[str, Any]) -> str:
        """Why a request is refused whoever sends it; empty when it is not."""
        host = environ.get("HTTP_HOST", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if not is_loopback(name) and name not in self._hosts:
            return f"unknown host '{host}'"
        origin = environ.get("HTTP_ORIGIN")
        if environ["REQUEST_METHOD"] not in SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
            return f"a change sent by another origin, '{origin}'"
        return ""

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)

    def _has_cookie(self, environ: dict[str, Any]) -> bool:
        try:
            cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._cookie.encode())


def as_download(start_response: Start) -> Start:
    """`start_response` for files that people or models wrote: the browser saves them, and never runs them as pages of ours."""

    def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() != "access-control-allow-origin"]
        added = [
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Disposition", "attachment"),
            ("Content-Security-Policy", "sandbox"),
        ]
        return start_response(status, kept + added, *rest)

    return started


def _text(start_response: Start, status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"), *headers])
    return [text.encode()]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """The dashboard polls; a line for each request would bury the address."""


def feasible_front(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """The Pareto front of the trials that break no constraint; the dashboard's own knows none."""
    from optuna_dashboard._pareto_front import get_pareto_front_trials

    feasible = [trial for trial in trials if all(value <= 0 for value in trial.constraints.values())]
    front: list[FrozenTrial] = get_pareto_front_trials(feasible, directions)
    return front


def delete_artifacts(files: ArtifactStore, storage: BaseStorage, study_id: int) -> None:
    """As the dashboard's; a study that is gone has none, and is then answered as not found."""
    from optuna_dashboard.artifact._backend import delete_all_artifacts

    with contextlib.suppress(KeyError):
        delete_all_artifacts(files, storage, study_id)


def open_server(
    storage_url: str,
    host: str,
    port: int,
    study: str,
    *,
    token: str = "",
    hosts: Iterable[str] = (),
    files: ArtifactStore | None = None,
) -> tuple[WSGIServer, str]:
    """A server that listens, and the address to open: of `study`, or of the list of studies when that is empty.

    files: what it shows beside the database; none without it.
    token: what every request must know; needed beyond loopback. hosts: names by which it is reached there.
    Raises BadInput for an address beyond loopback without a token, OSError when the port is taken.
    """
    import optuna
    from optuna_dashboard import _app as dashboard_app
    from optuna_dashboard import wsgi

    if not is_loopback(host) and not token:
        raise BadInput(
            f"--host {host}: beyond loopback the dashboard needs a token (--token-file, or HPSEARCH_TOKEN); "
            "or use 127.0.0.1, and a tunnel (ssh -L) from another machine"
        )
    if token and len(token) < SHORTEST_TOKEN:
        raise BadInput(
            f"the dashboard's token has {len(token)} characters, which can be guessed; give {SHORTEST_TOKEN} or more"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dashboard_app.get_pareto_front_trials = feasible_front
    dashboard_app.delete_all_artifacts = delete_artifacts
    storage = optuna_storage(storage_url)
    kind = _Server6 if ":" in host else _Server
    door = Door(token, hosts if host in EVERYWHERE else [*hosts, host])
    server = make_server(
        host, port, door.guard(wsgi(storage, artifact_store=files)), server_class=kind, handler_class=_QuietHandler
    )
    page = ""
    if study:
        page = f"/dashboard/studies/{storage.get_study_id_from_name(study)}"
    name = f"[{host}]" if ":" in host else host
    return server, f"http://{name}:{server.server_port}{page}"

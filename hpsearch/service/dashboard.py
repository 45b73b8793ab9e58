"""optuna-dashboard behind a door: its own application knows neither authentication nor which site a request comes from.

Only loopback is served. A page of another site that a person has open must not reach it either: requests whose Host is not
loopback (DNS rebinding) and changes that another origin sends are refused.
"""

from __future__ import annotations

import ipaddress
import socket
import socketserver
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from hpsearch.errors import BadInput
from hpsearch.storage.engine import optuna_storage

Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guarded(application: Application) -> Application:
    """`application` for requests that a page of its own, or a program on this machine, sends."""

    def guard(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        reason = refusal(environ)
        if reason:
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [reason.encode()]
        return application(environ, start_response)

    return guard


def refusal(environ: dict[str, Any]) -> str:
    """Why a request is refused; empty when it may pass."""
    host = environ.get("HTTP_HOST", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        return f"unknown host '{host}'"
    origin = environ.get("HTTP_ORIGIN")
    if environ["REQUEST_METHOD"] not in SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
        return f"a change sent by another origin, '{origin}'"
    return ""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """The dashboard polls; a line for each request would bury the address."""


def open_server(storage_url: str, host: str, port: int, study: str) -> tuple[WSGIServer, str]:
    """A server that listens, and the address to open: of `study`, or of the list of studies when that is empty.

    Raises BadInput for an address beyond loopback, OSError when the port is taken.
    """
    import optuna
    from optuna_dashboard import wsgi

    if not is_loopback(host):
        raise BadInput(
            f"--host {host}: the dashboard has no authentication and is served on loopback only; "
            "use 127.0.0.1, and a tunnel (ssh -L) from another machine"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna_storage(storage_url)
    kind = _Server6 if ":" in host else _Server
    server = make_server(host, port, guarded(wsgi(storage)), server_class=kind, handler_class=_QuietHandler)
    page = ""
    if study:
        page = f"/dashboard/studies/{storage.get_study_id_from_name(study)}"
    name = f"[{host}]" if ":" in host else host
    return server, f"http://{name}:{server.server_port}{page}"

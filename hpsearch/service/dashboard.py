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
import json
from collections.abc import Callable, Iterable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from wsgiref.simple_server import WSGIServer, make_server

from hpsearch.errors import BadInput
from hpsearch.service.serving import Handler, Server, Server6
from hpsearch.storage.limits import LONGEST_NAME
from hpsearch.storage.optuna_storage import optuna_storage

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore
    from optuna.storages import BaseStorage
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

    from hpsearch.storage.optuna_storage import PatientStorage
    from hpsearch.storage.records import StudyRecord

Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
EVERYWHERE = ("0.0.0.0", "::")
"""Addresses to listen on, and no names to be reached by."""
COOKIE = "hpsearch"
MOST_BYTES = 2**28
"""Of a request's body: files that a person adds to a trial."""
HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
"""Of every answer. A page of another site must not show this one in a frame, where clicks could be led to it."""
FRAMES = "frame-ancestors 'none'"
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
            start_response = kept_apart(answer)
            if "/artifacts/" in environ.get("PATH_INFO", ""):
                start_response = as_download(start_response)
            reason = self.refusal(environ)
            if reason:
                return _text(start_response, "403 Forbidden", reason)
            status = unreadable(environ)
            if status:
                return _text(start_response, status, "a body has a Content-Length, of at most 256 MiB")
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


def unreadable(environ: dict[str, Any]) -> str:
    """The status that a request is refused with before its body is read; empty where it can be."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return "411 Length Required"
    if not (length.isascii() and length.isdecimal()):
        return "400 Bad Request"
    return "413 Content Too Large" if len(length) > 12 or int(length) > MOST_BYTES else ""


def kept_apart(start_response: Start) -> Start:
    """`start_response` with what keeps pages of other sites apart from ours, beside what the application says itself."""

    def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        policies = [value for name, value in headers if name.lower() == "content-security-policy"]
        ours = {"content-security-policy", *(name.lower() for name, _ in HEADERS)}
        kept = [(name, value) for name, value in headers if name.lower() not in ours]
        return start_response(status, [*kept, *HEADERS, ("Content-Security-Policy", "; ".join([*policies, FRAMES]))], *rest)

    return started


def as_download(start_response: Start) -> Start:
    """`start_response` for files that people or models wrote: the browser saves them, and never runs them as pages of ours."""

    def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() != "access-control-allow-origin"]
        added = [("Content-Disposition", "attachment"), ("Content-Security-Policy", "sandbox")]
        return start_response(status, kept + added, *rest)

    return started


def _text(start_response: Start, status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [text.encode()]


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


def rename_in_place(application: Any, storage: PatientStorage) -> None:
    """Have the dashboard rename a study. Its own way makes a new study with copies of the trials and deletes the old one, which
    ends a coordinator that works on it."""
    from bottle import request, response
    from optuna.exceptions import DuplicatedStudyError
    from optuna_dashboard._app import get_study
    from optuna_dashboard._serializer import serialize_frozen_study

    def rename(study_id: int) -> str:
        response.content_type = "application/json"
        given = request.json
        name = given.get("study_name") if isinstance(given, dict) else None
        try:
            if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
                raise ValueError(f"give a name of 1 to {LONGEST_NAME} printable characters as study_name")
            storage.rename_study(study_id, name)
        except (ValueError, DuplicatedStudyError) as error:
            response.status = 400
            return json.dumps({"reason": str(error)})
        except KeyError:
            response.status = 404
            return json.dumps({"reason": f"study_id={study_id} is not found"})
        study = get_study(storage, study_id)
        response.status = 201 if study else 404
        return json.dumps(serialize_frozen_study(study) if study else {"reason": f"study_id={study_id} is not found"})

    (route,) = (route for route in application.routes if route.rule.endswith("/rename"))
    route.callback = rename
    route.reset()


def open_server(
    storage_url: str,
    host: str,
    port: int,
    study: StudyRecord | None,
    *,
    token: str = "",
    hosts: Iterable[str] = (),
    files: ArtifactStore | None = None,
) -> tuple[WSGIServer, str]:
    """A server that listens, and the address to open: of `study`, or of the list of studies where that is None.

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
    kind = Server6 if ":" in host else Server
    door = Door(token, hosts if host in EVERYWHERE else [*hosts, host])
    application = wsgi(storage, artifact_store=files)
    rename_in_place(application, storage)
    server = make_server(host, port, door.guard(application), server_class=kind, handler_class=Handler)
    page = ""
    if study is not None:
        with contextlib.suppress(KeyError):  # It was deleted in the dashboard.
            page = f"/dashboard/studies/{storage.id_of(study)}"
    name = f"[{host}]" if ":" in host else host
    return server, f"http://{name}:{server.server_port}{page}"

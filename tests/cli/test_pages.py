"""The report and the dashboard in the system's browser."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import Cli
from playwright.sync_api import Browser, Page, sync_playwright

from hpsearch.files import WROTE
from hpsearch.service.dashboard import Door, open_server

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def dashboard(finished: Cli) -> Iterator[str]:
    """The address of a running dashboard."""
    running = finished.start("dashboard", "--port", "0")
    assert running.stderr is not None
    line = running.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/\S+", line)
    assert found, line
    yield found.group()
    running.terminate()
    running.wait(timeout=20)


def open_page(browser: Browser, url: str, width: int = 1400) -> tuple[Page, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 1000})
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(url)
    return page, troubles


def test_the_dashboard_shows_the_history_and_the_intermediate_values(browser: Browser, dashboard: str, shots: Path) -> None:
    page, _ = open_page(browser, dashboard)
    for plot, at_least in (("plot-history", 6), ("graph-intermediate-values", 8)):
        points = page.locator(f"#{plot} .scatterlayer path.point")
        points.first.wait_for(state="attached", timeout=60_000)
        assert points.count() >= at_least
    assert page.get_by_text(re.compile(r"Best Trial \(number=\d+\)")).count() == 1
    for name in ("compute-to-quality", "learning-curves"):
        page.locator(f"[id='user-defined-plot:hpsearch-{name}'] .main-svg").first.wait_for(state="attached", timeout=60_000)
    assert page.get_by_text("best.yaml").count() == 1
    page.screenshot(path=shots / "dashboard.png", full_page=True)
    page.goto(f"{dashboard}/note")
    page.get_by_text(re.compile(r"Best: trial \d+, val_bpb")).first.wait_for(timeout=60_000)
    page.close()


def request(address: str, method: str, path: str, **headers: str) -> int:
    host = address.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_dashboard_refuses_other_hosts_and_other_origins(dashboard: str) -> None:
    own = f"http://{dashboard.split('/')[2]}"
    assert request(dashboard, "GET", "/api/studies") == 200
    assert request(dashboard, "GET", "/api/studies", Host="evil.example") == 403
    assert request(dashboard, "DELETE", "/api/studies/99", Origin="http://evil.example") == 403
    assert request(dashboard, "DELETE", "/api/studies/99", Origin="null") == 403
    assert request(dashboard, "DELETE", "/api/studies/99", Origin=own) == 404


TOKEN = "a-long-random-word"


@pytest.fixture(scope="module")
def guarded(finished: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dashboard that needs a token, and that other machines could reach were it not bound to loopback."""
    file = tmp_path_factory.mktemp("secrets") / "token"
    file.write_text(f"{TOKEN}\n")
    running = finished.start("dashboard", "--port", "0", "--token-file", str(file), "--allow-host", "hpsearch.example")
    assert running.stderr is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", running.stderr.readline())
    assert found
    yield found.group()
    running.terminate()
    assert running.wait(timeout=20) == 0


def test_a_token_is_needed_on_every_route(guarded: str) -> None:
    for path in ("/", "/dashboard", "/api/studies", "/static/bundle.js", "/no/such/page"):
        assert request(guarded, "GET", path) == 401
        assert request(guarded, "GET", path, Authorization="Bearer a-long-random-worm") == 401
    assert request(guarded, "GET", "/?token=a-long-random-worm") == 401
    assert request(guarded, "DELETE", "/api/studies/99") == 401
    assert request(guarded, "POST", f"/?token={TOKEN}") == 401
    assert request(guarded, "GET", "/api/studies", Authorization=f"Bearer {TOKEN}") == 200
    assert request(guarded, "DELETE", "/api/studies/99", Authorization=f"bearer {TOKEN}") == 404
    assert request(guarded, "GET", "/api/studies", Authorization=f"Bearer {TOKEN}", Host="evil.example") == 403
    assert request(guarded, "GET", "/api/studies", Authorization=f"Bearer {TOKEN}", Host="hpsearch.example:80") == 200


def test_a_browser_gives_the_token_once(browser: Browser, guarded: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    assert page.goto(f"{guarded}/dashboard").status == 401  # type: ignore[union-attr]
    page.goto(f"{guarded}/dashboard?token={TOKEN}")
    assert page.url == f"{guarded}/dashboard"
    page.get_by_text("tiny").first.wait_for(timeout=60_000)
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert TOKEN not in cookie["value"]
    own = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    assert request(guarded, "DELETE", "/api/studies/99", **own) == 403
    assert request(guarded, "DELETE", "/api/studies/99", Origin="http://evil.example", **own) == 403
    assert request(guarded, "DELETE", "/api/studies/99", Origin=guarded, **own) == 404
    assert request(guarded, "GET", "/api/studies", Cookie=f"{cookie['name']}={'0' * 64}") == 401
    context.close()


def test_a_login_never_leads_to_another_site(guarded: str) -> None:
    connection = http.client.HTTPConnection(guarded.split("/")[2], timeout=20)
    connection.request("GET", f"//evil.example/?token={TOKEN}&page=a%0d%0ab")
    response = connection.getresponse()
    assert (response.status, response.getheader("Location")) == (303, "/evil.example/?page=a%0D%0Ab")
    connection.close()


def test_beyond_loopback_a_long_token_is_needed(finished: Cli) -> None:
    done = finished.run("dashboard", "--host", "0.0.0.0", "--port", "0")
    assert (done.returncode, "needs a token (--token-file, or HPSEARCH_TOKEN)" in done.stderr) == (2, True)
    done = finished.run("dashboard", "--host", "0.0.0.0", "--port", "0", HPSEARCH_TOKEN="short")
    assert (done.returncode, "16 or more" in done.stderr) == (2, True)


def test_a_taken_port_is_named(finished: Cli, dashboard: str) -> None:
    port = re.search(r":(\d+)/", dashboard)
    assert port
    done = finished.run("dashboard", "--port", port.group(1))
    assert (done.returncode, f"--port {port.group(1)}" in done.stderr) == (2, True)


def test_the_report_opens_without_an_error_and_draws_its_figures(
    browser: Browser, finished: Cli, tmp_path: Path, shots: Path
) -> None:
    out = tmp_path / "report.html"
    finished.ok("report", "--out", str(out))
    page, troubles = open_page(browser, out.as_uri())
    figures = page.locator(".js-plotly-plot")
    page.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached", timeout=60_000)
    page.screenshot(path=shots / "report.png", full_page=True)
    assert figures.count() >= 1
    assert troubles == []
    page.close()


def test_figures_are_written_as_files(finished: Cli, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    words = ("report", "--out", str(out), "--format", "svg")
    finished.ok(*words, "--figure", "history", "--figure", "slice-learning_rate")
    assert sorted(path.name for path in out.iterdir()) == ["history.svg", WROTE, "slice-learning_rate.svg"]
    for more, said in (
        (("--figure", "histroy"), "did you mean 'history'?"),
        (("--format", "gif"), "use html, png, svg, pdf or json"),
        (("--format", "html", "--figure", "history"), "the page has all figures"),
    ):
        done = finished.run(*words, *more)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_the_report_asks_for_nothing_else(finished: Cli, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    finished.ok("report", "--study", "tiny", "--out", str(out))
    text = re.sub(r"<script.*?</script>", "", out.read_text(), flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text)


def test_a_host_that_cannot_be_read_is_refused() -> None:
    assert "unknown host" in Door().refusal({"HTTP_HOST": "[::1", "REQUEST_METHOD": "GET"})
    assert Door().refusal({"HTTP_HOST": "[::1]:80", "REQUEST_METHOD": "POST", "HTTP_ORIGIN": "http://[::1]:80"}) == ""


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_the_dashboard_listens_on_the_other_loopback_too(finished: Cli) -> None:
    server, address = open_server(f"sqlite:///{finished.folder / 'studies' / 'hpsearch.db'}", "::1", 0, None)
    with server:
        assert address.startswith("http://[::1]:")

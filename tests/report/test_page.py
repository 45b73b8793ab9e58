from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from playwright.sync_api import Page as Tab
from plotly.offline import get_plotlyjs

from hpsearch.errors import BadInput, StoppedForNow
from hpsearch.report.effects import marginal_effects
from hpsearch.report.gallery import gallery
from hpsearch.report.page import render_report, write_report
from hpsearch.results.view import Scale, StudyView
from hpsearch.storage.records import TrialState

MakeView = Callable[..., StudyView]
MakeOptuna = Callable[[StudyView], optuna.Study]

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """A strict reader: every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        self.texts.append((self.open[-1] if self.open else "", data))

    def script(self, name: str) -> str:
        return next(text for attributes, text in self.scripts if attributes.get("id") == name)

    def packed(self, name: str) -> Any:
        return json.loads(gzip.decompress(base64.b64decode(self.script(name))))

    @property
    def policy(self) -> str:
        return next(
            value for tag, name, value in self.attributes if (tag, name) == ("meta", "content") and "default-src" in value
        )


@pytest.fixture(scope="module")
def text(view: StudyView, session_optuna: optuna.Study, searched: dict[str, Scale]) -> str:
    return render_report(view, session_optuna, searched)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_loads_nothing_from_anywhere(page: Page, text: str) -> None:
    assert not [found for found in page.attributes if found[1] in ("src", "href", "srcset", "action", "data")]
    outside = text.replace(page.script("library"), "") + json.dumps(page.packed("figures"))
    assert not re.findall(r"@import|url\(|https?://", outside)
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    for word in ("unsafe-eval", "http", "*"):
        assert word not in page.policy
    assert "unsafe-inline" not in page.policy.split("style-src")[0]


def test_the_policy_admits_exactly_the_two_scripts_of_the_page(page: Page) -> None:
    library = gzip.decompress(base64.b64decode(page.script("library"))).decode()
    assert library == get_plotlyjs()
    run = [text for attributes, text in page.scripts if "type" not in attributes]
    assert len(run) == 1
    hashes = {base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in (library, run[0])}
    assert set(re.findall(r"'sha256-([^']+)'", page.policy)) == hashes


def test_the_page_holds_every_figure_that_it_shows(page: Page, view: StudyView) -> None:
    figures = page.packed("figures")["figures"]
    shown = [value for _, name, value in page.attributes if name == "data-figure"]
    assert sorted(shown) == sorted(figures)
    assert {"history", "quality", "curves", "curves-flops", "importances", "rate-size", "parallel", "timeline"} <= set(shown)
    assert {"slice-learning_rate", "slice-momentum"} <= set(shown)
    assert all(figure["data"] and "template" not in figure["layout"] for figure in figures.values())


def test_the_page_says_what_came_out_and_how_to_get_it_again(page: Page, view: StudyView) -> None:
    words = " ".join(" ".join(data.split()) for parent, data in page.texts if parent not in ("script", "style"))
    assert "It ended: all 50 trials are done." in words
    assert "27 pruned" in words
    assert "6.8 % lower" in words
    for fact in (view.study.space_digest, view.study.data_fingerprint, "torch 2.13.0", "workstation", "15 device seconds"):
        assert fact in words
    assert "is worse than the median" in words, "reasons of pruned trials"
    assert "The class statement returns" in words, "the sample"
    assert "hpsearch run --space 0007-lm/space.yaml --study lm --trials 50 --sampler tpe" in words
    assert "diverged: the loss is not finite" in words or "its slot was killed" in words, "what failed"


def test_a_study_that_started_from_others_names_them(view: StudyView, searched: dict[str, Scale]) -> None:
    here = {"study": "lm", "storage": "", "trials": [{}, {}], "digest": "d1"}
    elsewhere = {"study": "old", "storage": "sqlite:///old/hpsearch.db", "trials": [{}], "digest": "<d2>"}
    warm = replace(view, study=replace(view.study, extras={"earlier": [here, elsewhere]}))
    page = Page(render_report(warm, None, searched, earlier=["from lm: 2 of 3 trials inform the sampler, by <rank>"]))
    assert ("li", "From lm: 2 of 3 trials inform the sampler, by <rank>.") in page.texts
    words = " ".join(" ".join(data.split()) for _, data in page.texts)
    assert "lm: 2 trials, digest d1" in words
    assert "sqlite:///old/hpsearch.db#old: 1 trial, digest <d2>" in words
    assert "--from lm --from 'sqlite:///old/hpsearch.db#old'" in words, "the command that runs it again"


def test_differences_from_the_baseline_are_marked(text: str) -> None:
    differing = re.findall(r'<tr class="differs"><td><code>(\w+)</code> ≠', text)
    assert {"learning_rate", "num_layers"} <= set(differing)
    assert "d_model" not in differing


def test_what_users_and_models_wrote_cannot_run(
    make_view: MakeView, make_optuna: MakeOptuna, searched: dict[str, Scale]
) -> None:
    attack = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>"
    view = make_view(12, sample=attack)
    trials = [replace(trial, reason=attack, proposed_by=attack) for trial in view.trials]
    hostile = StudyView(replace(view.study, name=attack, host=attack, space_text=attack), trials, view.points)
    text = render_report(hostile, make_optuna(view), searched | {attack: Scale()})
    page = Page(text)
    assert [tag for tag, name, _ in page.attributes if name == "onerror" or tag == "img"] == []
    assert len(page.scripts) == 4
    assert any(attack in data for parent, data in page.texts if parent == "pre")


@pytest.mark.parametrize("trials", [0, 2])
def test_a_page_of_few_trials_says_what_is_missing(
    trials: int, make_view: MakeView, make_optuna: MakeOptuna, searched: dict[str, Scale]
) -> None:
    view = make_view(trials)
    page = Page(render_report(view, make_optuna(view), searched))
    words = " ".join(data for _, data in page.texts)
    assert "Needs 10 complete trials" in words
    assert ("No trial is complete yet" in words) == (trials == 0)


def test_an_unfinished_study_says_so(view: StudyView, searched: dict[str, Scale]) -> None:
    going = StudyView(replace(view.study, finished_reason="", trials_target=80), view.trials, view.points)
    words = " ".join(data for _, data in Page(render_report(going, None, searched)).texts)
    assert "It has not ended: 50 of 80 trials so far" in words


@pytest.fixture(scope="module")
def large(thousand: StudyView, searched: dict[str, Scale], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 1,000 trials with 100 points each."""
    path = tmp_path_factory.mktemp("large") / "report.html"
    write_report(thousand, None, searched, path)
    return path


def test_a_thousand_trials_of_a_hundred_points_stay_under_five_megabytes(large: Path) -> None:
    assert large.stat().st_size < 5_000_000
    assert [path.name for path in large.parent.iterdir()] == ["report.html"]


def test_what_is_said_of_a_trial_is_in_the_page_once(large: Path, thousand: StudyView) -> None:
    kept = Page(large.read_text("utf-8")).packed("figures")
    assert len(kept["words"]) == len(set(kept["words"])) <= 3 * len(thousand.trials)
    (text, *_) = (trace["text"] for trace in kept["figures"]["history"]["data"] if "text" in trace)
    assert kept["words"][text[0]].startswith("<b>trial ")


def test_a_reason_of_a_page_of_many_is_cut(view: StudyView, searched: dict[str, Scale]) -> None:
    long = [replace(trial, reason="x" * 4000) for trial in view.trials]
    text = render_report(StudyView(view.study, long, view.points), None, searched)
    assert "x" * 250 in text
    assert "x" * 301 not in text


def test_a_failed_write_leaves_the_report_of_before(view: StudyView, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot write the report"):
        write_report(view, None, {}, tmp_path / "none" / "report.html")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(BadInput, match="cannot write the report"):
        write_report(view, None, {}, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_report_that_finds_the_disk_full_can_be_written_later(
    view: StudyView, session_optuna: optuna.Study, searched: dict[str, Scale]
) -> None:
    with pytest.raises(StoppedForNow, match="/dev/full: cannot write the report: no space left on device; make room"):
        write_report(view, session_optuna, searched, Path("/dev/full"))


@pytest.mark.filterwarnings("error")
def test_values_at_the_end_of_the_numbers_are_drawn_as_they_are(
    view: StudyView, session_optuna: optuna.Study, searched: dict[str, Scale]
) -> None:
    size = 1.7e308 / max(abs(trial.values[0]) for trial in view.trials if trial.values)
    trials = [
        replace(trial, values=trial.values and ((-1) ** trial.number * size * trial.values[0], *trial.values[1:]))
        for trial in view.trials
    ]
    drawn = gallery(StudyView(view.study, trials, view.points), session_optuna, searched)
    heights = {y for trace in drawn["history"].data for y in trace.y}
    assert min(trial.values[0] for trial in trials if trial.values) in heights
    for figure in drawn.values():
        assert "Infinity" not in figure.to_json()
        assert all(np.isfinite(limit) for limit in figure.layout.yaxis.range or ())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e299])
def test_an_effect_is_told_whatever_the_size_of_the_numbers(view: StudyView, size: float) -> None:
    complete = [trial for trial in view.trials if trial.state is TrialState.COMPLETE]
    trials = [
        replace(trial, params={"x": size * at}, values=(size * (at % 7),)) for at, trial in enumerate(complete[:20], start=1)
    ]
    found = marginal_effects(StudyView(view.study, trials, []), {"x": Scale(log=False, choices=None)})["x"]
    assert found.places[0] == size
    assert found.places[-1] == 20 * size
    assert 2 * size < max(found.mean) - min(found.mean) < 6 * size


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's browser. Where there is none, tests that look at pages are left out, but never in CI."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium: install the system's package")
        pytest.skip("no chromium on this machine")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextmanager
def opened(browser: Browser, path: Path, figures: int, width: int, scheme: Literal["light", "dark"]) -> Iterator[Tab]:
    """The page with all `figures` that a reader sees drawn; nothing may go wrong, and nothing be asked of any host."""
    complaints: list[str] = []
    requests: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 20_000}, color_scheme=scheme)
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    visible = tab.locator(".plot:visible")  # Without height before it is drawn, by a library that unpacks in the background.
    expect(visible).to_have_count(figures, timeout=90_000)
    for index in range(figures):
        visible.nth(index).locator(".main-svg").first.wait_for(timeout=90_000)
    yield tab
    tab.close()
    assert complaints == []
    assert len(requests) == 1


def test_a_browser_draws_every_figure_in_either_colour_scheme(text: str, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    with opened(browser, tmp_path / "report.html", 23, 420, "dark") as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == 420, "nothing is wider than the window"
        title = tab.locator(".plot .xtitle").first
        assert title.evaluate("node => getComputedStyle(node).fill") == "rgb(228, 230, 234)"
        tab.emulate_media(color_scheme="light")
        expect(title).to_have_css("fill", "rgb(31, 35, 40)")
        pages = re.findall(rb"/Type */Page\b", tab.pdf(format="A4"))
        assert len(pages) > 5, "it prints"


@pytest.mark.parametrize("width", [420, 1400])
def test_a_thousand_trials_are_drawn_too(large: Path, browser: Browser, width: int) -> None:
    without_importances = 22  # Those need Optuna's study.
    with opened(browser, large, without_importances, width, "light") as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        curves = tab.locator("[data-figure=curves] .scatterlayer .js-line")
        assert curves.count() >= 4

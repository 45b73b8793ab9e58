"""The report: one HTML page that needs nothing but itself and a browser.

plotly.js goes in once, compressed, and is unpacked by the page (DecompressionStream), which makes the file a third of
its size. The Content-Security-Policy names the two scripts by their hashes, so that nothing that came from a model, a
trial or a file name can ever run, and allows no request of any kind.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from hpsearch.files import write_atomically
from hpsearch.report import style
from hpsearch.report.gallery import NAMES, SLICE, gallery
from hpsearch.report.plotting import unwritten
from hpsearch.results.failures import failures
from hpsearch.results.formatting import amount, duration, in_few_words, short
from hpsearch.results.verdict import row_of
from hpsearch.results.view import Scale, StudyView
from hpsearch.storage.records import TrialRecord, TrialState
from hpsearch.text import TOLD, shortened

if TYPE_CHECKING:
    import optuna


def write_report(
    view: StudyView,
    study: optuna.Study | None,
    searched: Mapping[str, Scale],
    path: Path,
    *,
    edges: Sequence[str] = (),
    earlier: Sequence[str] = (),
    chosen: TrialRecord | None = None,
) -> None:
    """Write the page of a study to `path`, whole or not at all.

    study: Optuna's side of it, for the importances; without it they are left open. searched: in the order of the space.
    edges: what is to be said of values at the edge of what was searched. earlier: what is to be said of the studies that this
    one started from. chosen: the trial that is taken; by default the best.
    Raises BadInput when `path` cannot be written, and StoppedForNow where that passes: a full disk, one that is gone.
    """
    page = render_report(view, study, searched, edges=edges, earlier=earlier, chosen=chosen)
    try:
        write_atomically(path, page)
    except BrokenPipeError:
        raise  # The reader has seen enough.
    except OSError as error:
        raise unwritten(path, "report", error) from None


def render_report(
    view: StudyView,
    study: optuna.Study | None,
    searched: Mapping[str, Scale],
    *,
    edges: Sequence[str] = (),
    earlier: Sequence[str] = (),
    chosen: TrialRecord | None = None,
) -> str:
    """The page as text."""
    drawn = _figures(view, study, searched, chosen)
    words: dict[str, int] = {}
    shown = {
        name: {"data": _numbered(figure["data"], words), "layout": figure["layout"]}
        for name, figure in drawn.items()
        if figure["data"]
    }
    library, packed = _plotly()
    script, css = _asset("page.js"), _asset("page.css")
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (library, script))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(
        coded=_coded, counted=counted, short=short, told=told, amount=amount, when=_when, duration=duration
    )
    return environment.from_string(_asset("page.html")).render(
        view=view,
        record=view.study,
        best=view.best,
        baseline=view.baseline,
        states=[(state.value, view.counts[state]) for state in TrialState if view.counts[state]],
        ended=_ended(view),
        edges=edges,
        earlier=earlier,
        verdict=view.verdict,
        verdict_rows=[row_of(view.verdict, each) for each in view.verdict.confirmed] if view.verdict else [],
        forecast=view.study.extras.get("forecast", {}),
        differing=_compared(view, searched, same=False),
        same=_compared(view, searched, same=True),
        sections=_sections(drawn),
        searched={name: (scale, _doc(view, name)) for name, scale in searched.items()},
        slices={name.removeprefix(SLICE): _doc(view, name.removeprefix(SLICE)) for name in drawn if name.startswith(SLICE)},
        failures=failures(view),
        samples=_samples(view),
        command=command(view),
        sources=sources(view),
        missing={name: figure["layout"]["annotations"][0]["text"] for name, figure in drawn.items() if not figure["data"]},
        rows=[(trial, ", ".join(in_few_words(trial, view.baseline, limit=5)), told(trial.reason)) for trial in view.trials],
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'",
        css=Markup(css),
        script=Markup(script),
        packed=Markup(packed),
        figures=Markup(_packed(json.dumps({"words": list(words), "figures": shown}, separators=(",", ":")))),
        templates=_json({"light": style.LIGHT, "dark": style.DARK}),
    )


def _figures(
    view: StudyView, study: optuna.Study | None, searched: Mapping[str, Scale], chosen: TrialRecord | None
) -> dict[str, dict[str, Any]]:
    plain: dict[str, dict[str, Any]] = {}
    for name, figure in gallery(view, study, searched, chosen).items():
        plain[name] = json.loads(figure.to_json())
        # The page puts the title above the figure, where it wraps, and the template of the reader's colour scheme below it.
        plain[name]["title"] = plain[name]["layout"].pop("title")["text"]
        plain[name]["layout"].pop("template")
        legend = name not in ("importances", "rate-size") and any(
            trace.get("showlegend", True) for trace in plain[name]["data"]
        )
        plain[name]["layout"].setdefault("margin", {})["t"] = 48 if legend else 24
    return plain


def _numbered(data: list[dict[str, Any]], words: dict[str, int]) -> list[dict[str, Any]]:
    """The traces with numbers in place of their texts, which go to `words`: what is said of a trial stands in several figures,
    and thousands of trials are megabytes of it."""
    return [
        trace | {"text": [words.setdefault(text, len(words)) for text in trace["text"]]}
        if isinstance(trace.get("text"), list)
        else trace
        for trace in data
    ]


def _sections(drawn: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    notes = {
        "history": "Each trial by its number; lower is better. The line is the lowest value so far; a triangle on the upper "
        "edge is a trial above the axis or without a value.",
        "quality": "The lowest value found by the time that all trials together had taken so much compute: whether more of it "
        "would still have paid.",
        "confirmation": "A search picks the lowest of noisy values. The same configurations trained again from seeds that no "
        "trial had, on the same text in the same order for each seed, say what is left of the difference.",
        "curves": "Held-out loss at each evaluation; every trial may spend the same budget. A cross is where a trial was "
        "pruned, an open square where it was set aside, a triangle where it was taken back. Point at the end of a curve to "
        "read its configuration.",
        "trade-off": "On the front no other trial is as good in both. `hpsearch export --prefer` takes another one than the "
        "best: the smallest or the fastest within a stated distance of it.",
        "importances": "How much each parameter decides whether a trial is among the best tenth (at least five) of the "
        "complete ones (PED-ANOVA). The whisker is where the share lies in eight of ten resamplings of the trials. It says "
        "what mattered within the ranges searched, not which value is right.",
        "rate-size": "The value of complete trials, averaged over neighbours; dots are the trials, and where none is near "
        "nothing is drawn.",
        "parallel": "One line for each complete trial, the most important parameters first; the last axis is its value.",
        "timeline": "A bar is the stay of one trial in one slot, coloured by how the trial ended.",
    }
    return [
        {"id": name, "title": Markup(drawn[name]["title"]), "note": notes[name]}
        for name in NAMES
        if name in notes and name in drawn
    ]


def _compared(view: StudyView, searched: Mapping[str, Scale], *, same: bool) -> list[dict[str, Any]]:
    """Hyperparameters of the best beside the baseline's: those searched or different, or (`same`) all others."""
    if view.best is None:
        return []
    usual = view.baseline.config if view.baseline else {}
    rows = []
    for name, value in view.best.config.items():
        differs = view.baseline is not None and usual.get(name) != value
        if (differs or name in searched) is not same:
            doc = _doc(view, name)
            rows.append({"name": name, "best": value, "baseline": usual.get(name), "differs": differs, "doc": doc})
    return rows


def _doc(view: StudyView, name: str) -> str:
    info = view.study.hyperparameter(name)
    return info.doc if info else ""


def _samples(view: StudyView) -> list[tuple[str, str]]:
    """Text of the best, the next best, the middle and the baseline, each with what it is."""
    ranked = [trial for trial in view.ranked if trial.sample]
    wanted = [("the best", view.best), *[("the next best", each) for each in ranked[1:2]]]
    wanted += [("in the middle", each) for each in ranked[len(ranked) // 2 :][:1] if len(ranked) > 4]
    wanted.append(("the baseline", view.baseline))
    kept: dict[int, tuple[str, str]] = {}
    for what, trial in wanted:
        if trial is not None and trial.sample:
            kept.setdefault(
                trial.number, (f"Trial {trial.number}, {what}, {view.objective} {short(trial.value)}", trial.sample)
            )
    return list(kept.values())


def command(view: StudyView) -> str:
    """What runs the study again in an empty storage, from the space that its folder keeps."""
    study = view.study
    options = {
        "space": f"{study.folder}/space.yaml",
        "study": study.name,
        "trials": study.trials_target,
        "sampler": study.sampler,
        "pruner": study.pruner,
        "scheduler": study.scheduler,
        "seed": study.seed,
        "device": study.device,
    }
    if "function" in study.data:
        return (
            f"hpsearch.tune({study.data['function']}, {options['space']!r}, study={study.name!r}, trials={study.trials_target})"
        )
    options |= study.data if study.own else {}
    words = [*options.items(), *(("from", label) for label, _ in sources(view))]
    return " ".join(["hpsearch run", *(f"--{name} {shlex.quote(str(value))}" for name, value in words)])


def sources(view: StudyView) -> list[tuple[str, dict[str, Any]]]:
    """The earlier studies, as `--from` names them, and what the record keeps of each."""
    kept = view.study.extras.get("earlier", [])
    return [(f"{each['storage']}#{each['study']}" if each["storage"] else each["study"], each) for each in kept]


def _ended(view: StudyView) -> str:
    if view.study.finished_reason:
        return f"It ended: {view.study.finished_reason}."
    return f"It has not ended: {len(view.trials)} of {view.study.trials_target} trials so far; `hpsearch run` goes on with it."


def told(reason: str) -> str:
    """As much of a reason as a table of many has room for; `hpsearch show` has the whole."""
    return shortened(reason, TOLD)


def _coded(text: str) -> Markup:
    """What stands between backticks as code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts))


def counted(value: float) -> str:
    """An amount for the eye: 60,000 in full, what is longer as a power of ten."""
    return f"{value:,.0f}" if 1000 <= value < 1e7 else short(value)


def _when(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds)) if seconds else "—"


def _asset(name: str) -> str:
    return files("hpsearch.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> tuple[str, str]:
    """plotly.js, and the same compressed in base64."""
    library = get_plotlyjs()
    return library, _packed(library)


def _packed(text: str) -> str:
    """`text` compressed, in base64, as page.js unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """JSON that is safe inside a script element: a `<` in a text cannot end it."""
    return Markup(json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))

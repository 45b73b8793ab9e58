"""What a person reads when a search is over: the best beside the default, what decided, what to beware of, what to do next."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.text import measured

if TYPE_CHECKING:
    from hpsearch.report.importance import Importance
    from hpsearch.results.view import StudyView
    from hpsearch.storage.records import TrialRecord

TIE = 0.001
"""Share of the best value within which another trial counts as a tie where no seeds were compared: about what another seed
alone changes at 124M parameters (0.001 to 0.002 nats); smaller models vary more."""
TOLD = 5
"""Importances and ties that are listed."""


def print_summary(
    view: StudyView,
    searched: Sequence[str],
    importance: dict[str, Importance],
    warnings: Sequence[str],
    folder: Path,
    place: str = "",
) -> None:
    """The summary of a study with a best trial, on standard output. place: options by which another command finds it."""
    best, baseline = view.best, view.baseline
    assert best is not None
    assert best.value is not None
    against = f" (trial 0, the baseline: {measured(baseline.value)})" if baseline and baseline.value is not None else ""
    print(f"best: trial {best.number}, {view.objective} {measured(best.value)}{against}")
    for line in config_lines(view, searched, _columns()):
        print(line)
    if importance:
        told = [
            f"{name} {100 * each.share:.0f} % ({100 * each.low:.0f}-{100 * each.high:.0f})" for name, each in importance.items()
        ]
        print(f"decided by: {', '.join(told[:TOLD])}")
    if len(view.front) > 1:
        print(f"front of {', '.join(view.study.objectives)}: {_trials(view.front)}")
    for warning in warnings:
        print(f"beware: {warning}")
    print_verdict(view)
    name, own = view.study.name, view.study.own
    form = " --format cli" if "command" in view.study.data else ""
    again = f"hpsearch train --config {folder / 'best.yaml'} --out model"
    steps = [
        f"hpsearch report --study {name} --out report.html{place}",
        f"hpsearch export --study {name}{form}{place}" if own else again,
    ]
    if len(view.front) > 1:
        kind = "fastest" if own else "smallest"
        steps.append(f"hpsearch export --study {name} --prefer '{kind}-within 1%'{place}")
    if view.verdict is None and best.number != 0 and not own:
        steps.insert(0, f"hpsearch confirm --study {name}{place}")
    for index, step in enumerate(steps):
        print(f"{'next: ' if index == 0 else '      '}{step}")


def config_lines(view: StudyView, searched: Sequence[str], width: int) -> list[str]:
    """What was searched, as the best has it beside the default, with the differences marked."""
    from hpsearch.results.formatting import short

    assert view.best is not None
    usual = view.baseline.config if view.baseline is not None else {}
    rows = []
    follows = 0
    for name, value in view.best.config.items():
        differs = bool(usual) and usual.get(name) != value
        if name in searched:
            rows.append((_mark() if differs else " ", name, short(value), short(usual.get(name)) if usual else ""))
        else:
            follows += differs
    if not rows:
        return []
    rest = [f"  and {follows} that follow{'s' if follows == 1 else ''} from these, in best.yaml"] if follows else []
    if not usual or view.best.number == 0:
        return [f"  {name} {value}" for _, name, value, _ in rows]
    table = [(" ", "", "best", "default"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    if sum(widths) + 6 <= width:
        told = [f"{mark} {name:<{widths[1]}}  {value:<{widths[2]}}  {usually}".rstrip() for mark, name, value, usually in table]
    else:
        told = [
            f"{mark} {name} {value}{f' (default {usually})' if mark.strip() else ''}" for mark, name, value, usually in rows
        ]
    return told + rest


def warnings_of(view: StudyView, at_edge: Sequence[str], place: str = "") -> list[str]:
    """What a person should know before believing the best: edges of ranges, and ties with what the seed alone changes.

    place: options by which another command finds the study.
    """
    return [*at_edge, *_ties(view, place)]


def _ties(view: StudyView, place: str) -> list[str]:
    best = view.best
    if best is None or best.value is None or (view.verdict is not None and view.verdict.noise is None):
        return []
    noise = view.verdict.noise if view.verdict is not None else None
    limit = best.value + (noise if noise is not None else TIE * abs(best.value))
    near = [trial for trial in view.ranked[1:] if trial.value is not None and trial.value <= limit]
    if not near:
        return []
    trials = f"{_trials(near)} {'are' if len(near) > 1 else 'is'}"
    if noise is not None:
        return [f"{trials} within the seed noise of {noise:.2g} of the best: a tie"]
    told = f"within {100 * TIE:.1g} % of the best, which another seed alone may change"
    how = "--confirm" if view.study.own else f"hpsearch confirm --study {view.study.name}{place}"
    return [f"{trials} {told}: `{how}` tells"]


def _trials(trials: Sequence[TrialRecord]) -> str:
    """`trials 3, 4 and 7 more`."""
    listed = ", ".join(str(trial.number) for trial in trials[:TOLD])
    more = f" and {len(trials) - TOLD} more" if len(trials) > TOLD else ""
    return f"trial{'s' if len(trials) > 1 else ''} {listed}{more}"


def _mark() -> str:
    """`≠` where the output can show it."""
    try:
        "≠".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return "*"
    return "≠"


def _columns() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**6


def print_verdict(view: StudyView) -> None:
    from hpsearch.cli.terminal import print_table
    from hpsearch.results.verdict import row_of

    verdict = view.verdict
    if verdict is None:
        return
    print(f"confirmation over seeds {', '.join(map(str, verdict.seeds))} ({verdict.objective}, lower is better)")
    print_table(
        ["trial", "search", "confirmed", "95 %", "runs", "against the default"], [row_of(verdict, e) for e in verdict.confirmed]
    )
    for sentence in verdict.sentences:
        print(f"{sentence[0].upper()}{sentence[1:]}.")

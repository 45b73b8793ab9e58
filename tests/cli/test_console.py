"""The live view, drawn into terminals of many kinds from the events that a coordinator sends."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from hpsearch.console import LiveView, PlainLines
from hpsearch.storage.records import BudgetRecord, PauseKind, StudyRecord, TrialRecord, TrialState
from hpsearch.training.events import EvalPoint, Progress

STUDY = StudyRecord(
    name="lm",
    space_text="",
    space_digest="",
    objectives=("val_bpb",),
    data={},
    data_fingerprint="",
    budget=BudgetRecord("tokens", 1e6, 10),
    sampler="tpe",
    pruner="median",
    seed=0,
    versions={},
    host="here",
    device="cpu",
    threads=1,
    folder="",
    trials_target=20,
)
REASON = "val_bpb 7.1 at rung 4 is worse than the median 5.2 of 9 trials"
PARAMS = {"learning_rate": 0.0012345, "d_model": 256, "optimizer": "adamw", "hidden_act": "swiglu", "lr_schedule": "wsd"}


def trial(number: int, state: TrialState = TrialState.RUNNING, value: float | None = None, reason: str = "") -> TrialRecord:
    values = None if value is None else (value,)
    return TrialRecord(number, state, PARAMS, {"max_iters": 1000}, "tpe", values=values, reason=reason, attempts=1)


def point(rung: int, value: float) -> EvalPoint:
    return EvalPoint(rung, 100 * rung, 0, 0.0, 0.0, value, {"val_bpb": value, "val_loss": value}, 1e-3, 1.0, 12_345.0)


def feed(view: LiveView | PlainLines) -> None:
    view.opened(STUDY, [trial(0, TrialState.COMPLETE, 6.0)])
    for number in (1, 2):
        view.started(trial(number), "slot-0", 0)
        for rung in range(1, 5):
            view.evaluated(trial(number), point(rung, 9.0 - rung * number / 2))
    view.progress(trial(1), Progress(432, 4.2, 1e-3, 12_345.0))
    view.started(trial(3), "slot-1", 0)
    pruned = trial(3, TrialState.PRUNED, reason=REASON)
    view.ended(pruned, trial(0, TrialState.COMPLETE, 6.0))


def drawn(width: int, *, encoding: str = "utf-8", colours: bool = True) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    console = Console(file=file, width=width, force_terminal=True, no_color=not colours, color_system="truecolor")
    view = LiveView(2, console)
    feed(view)
    console.print(view)
    file.flush()
    return raw.getvalue().decode(encoding)


def plain(text: str) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in text.splitlines()]


@pytest.mark.parametrize("width", [30, 40, 60, 72, 80, 90, 120, 200])
def test_the_view_fits_any_width_and_cuts_nothing(width: int) -> None:
    lines = plain(drawn(width))
    assert max(map(len, lines)) <= width
    whole = " ".join(" ".join(lines).split())
    assert REASON in whole  # Why it was pruned, over as many lines as it takes.
    for part in ("lm 2 of 20 trials", "7.0000", "█▆▃▁", "best trial 0: val_bpb 6.0000", "lr_schedule wsd"):
        assert part in whole, part
    assert ("432/1000" in whole) == (width >= 60)
    assert ("tokens/s" in whole) == (width >= 90)
    assert "…" not in whole


def screen(width: int, height: int) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, height=height, force_terminal=True, color_system="truecolor"), file


@pytest.mark.parametrize("height", [10, 16, 40])
def test_the_view_fits_any_height_and_says_what_it_leaves_out(height: int) -> None:
    console, file = screen(90, height)
    view = LiveView(12, console)
    feed(view)
    for number in range(4, 14):
        view.started(trial(number), "slot", 0)
    console.print(view)
    lines = plain(file.getvalue())
    assert len(lines) < height
    shown = sum(bool(re.match(r" +\d+  .*0/1000", line)) for line in lines)
    left_out = re.search(r"and (\d+) more running", file.getvalue())
    assert shown + (int(left_out[1]) if left_out else 0) >= 10
    assert (left_out is None) == (height == 40)
    assert "best" in file.getvalue()


def test_a_frame_that_wrapped_when_the_terminal_became_narrower_is_erased_whole() -> None:
    console, file = screen(110, 40)
    view = LiveView(2, console)
    feed(view)
    with view:
        view._live.refresh()
        frame = [line.rstrip("\r") for line in plain(file.getvalue())]
        rows = frame[-frame[::-1].index(next(line for line in frame[::-1] if line.startswith("lm  2 of"))) - 1 :]
        file.seek(0)
        file.truncate()
        console.width = 40
        view._live.refresh()
        wrapped = sum(-(-max(1, len(line)) // 40) for line in rows)
        assert wrapped > len(rows)
        assert file.getvalue().count("\x1b[2K") == wrapped


def codes(text: str) -> set[str]:
    """The parameters of all escape sequences that set a style."""
    return {code for found in re.findall(r"\x1b\[([0-9;]*)m", text) for code in found.split(";")}


def test_without_colours_nothing_is_coloured() -> None:
    assert codes(drawn(100, colours=False)) <= {"", "0", "1", "2"}  # Bold and dim are no colours.
    assert codes(drawn(100)) & {"32", "33", "36", "38"}


def test_a_terminal_that_knows_ascii_only_gets_it() -> None:
    told = drawn(100, encoding="ascii", colours=False)
    assert "#" in told
    assert "\\" not in told  # Nothing had to be escaped.


HALVING = replace(STUDY, scheduler="halving")


def halved(view: LiveView | PlainLines) -> None:
    """One trial ended, two set aside, of which one is promoted."""
    view.opened(HALVING, [])
    for number in range(3):
        view.started(trial(number), "slot-0", 0)
    view.ended(trial(0, TrialState.COMPLETE, 6.0), None)
    for number in (1, 2):
        view.ended(trial(number).paused(PauseKind.BY_SCHEDULER, "not in the best part"), None)
    view.started(trial(1), "slot-0", 200)


def test_trials_that_are_set_aside_are_counted_and_no_time_is_guessed_meanwhile() -> None:
    console, file = screen(120, 30)
    view = LiveView(1, console)
    halved(view)
    console.print(view)
    (head,) = [line for line in plain(file.getvalue()) if line.startswith("lm")]
    assert head.startswith("lm  1 ended, 1 set aside of 20 trials · 1 complete")
    assert "left" not in head
    view.ended(trial(1, TrialState.COMPLETE, 5.0), None)
    view.ended(trial(2, TrialState.PRUNED), None)
    console.print(view)
    assert "lm  3 of 20 trials" in file.getvalue().replace("\x1b[1mlm\x1b[0m", "lm")
    assert "left" in file.getvalue()


def test_plain_lines_count_what_is_set_aside_too(capsys: pytest.CaptureFixture[str]) -> None:
    halved(PlainLines(1))
    assert "1 ended, 2 set aside of 20 trials (1 complete, 0 pruned, 0 failed)\n" in capsys.readouterr().err


def test_an_interrupted_trial_is_not_counted_as_paused_by_the_scheduler(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainLines(1)
    interrupted = trial(1).paused(PauseKind.INTERRUPTED, "interrupted")
    view.opened(HALVING, [trial(0, TrialState.COMPLETE, 6.0), interrupted, trial(2).paused(PauseKind.BY_SCHEDULER, "halving")])
    assert "resumed: 1 ended, 1 set aside of 20 trials" in capsys.readouterr().err


def test_the_best_of_the_view_breaks_no_constraint() -> None:
    view = LiveView(1, Console(file=io.StringIO(), width=100))
    infeasible = replace(trial(1, TrialState.COMPLETE, 1.0), constraints={"num_parameters": 0.5})
    view.opened(STUDY, [trial(0, TrialState.COMPLETE, 6.0), infeasible])
    console = Console(file=io.StringIO(), width=100)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    assert "trial 0: val_bpb 6.0000" in console.file.getvalue()


def test_what_ended_is_told_with_its_curve() -> None:
    console, file = screen(120, 30)
    view = LiveView(2, console)
    feed(view)
    view.ended(trial(1, TrialState.PRUNED, reason=REASON), None)
    console.print(view)
    assert f"█▆▃▁ trial 1 pruned ({REASON})" in "\n".join(plain(file.getvalue()))


def test_plain_lines_say_why_a_trial_was_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    feed(PlainLines(2))
    told = capsys.readouterr().err
    assert f"trial 3 pruned ({REASON})" in told
    assert "\x1b" not in told


def test_no_text_steers_the_terminal_or_is_markup() -> None:
    console, file = screen(100, 40)
    hostile = "\x1b]0;owned\x07[red]x[/red]:smile:"
    view = LiveView(1, console)
    view.opened(replace(STUDY, objectives=("a[red]b",)), [])
    best = replace(trial(1, TrialState.COMPLETE, 1.0, hostile), params={"text": hostile})
    view.started(best, "slot-0", 0)
    view.ended(best, best)
    view.note(hostile)
    view.started(trial(2), "slot-0", 0)
    console.print(view)
    told = "\n".join(plain(file.getvalue()))
    assert "\x1b" not in told
    assert told.count(r"\x1b]0;owned\x07[red]x[/red]:smile:") == 3, "reason, best, note"
    assert "a[red]b" in told


def test_progress_that_cannot_be_written_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as gone, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", gone)
        feed(PlainLines(1))
        patched.undo()
        with contextlib.suppress(BrokenPipeError):
            gone.close()

"""The live view of a study, and the plain lines where output is not a terminal. Everything goes to standard error."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlCode, ControlType, Segment
from rich.table import Table
from rich.text import Text

from hpsearch.results.formatting import described, duration
from hpsearch.results.sparkline import BLOCKS, levels_for, sparkline
from hpsearch.results.view import StudyView
from hpsearch.storage.records import PauseKind, StudyRecord, TrialRecord, TrialState
from hpsearch.text import TOLD, measured, printable, shortened
from hpsearch.training.events import EvalPoint, Progress

WIDE = 90
"""Columns of a terminal from which all columns of the table are shown."""
NARROW = 60
"""Columns below which the steps are left out, and the sparklines are shorter."""
CURVE = 10
"""Characters of a sparkline."""
LEAST = 3
"""Running trials that are shown however low the terminal is."""


@dataclass
class Tally:
    """What both views know of the study so far."""

    slots: int
    study: StudyRecord | None = None
    states: dict[int, TrialState] = field(default_factory=dict)
    paused_by_scheduler: set[int] = field(default_factory=set)
    begun: float = field(default_factory=time.monotonic)
    ended_here: int = 0

    def open(self, study: StudyRecord, trials: Sequence[TrialRecord]) -> None:
        self.study = study
        self.states, self.paused_by_scheduler = {}, set()
        for trial in trials:
            self._note(trial)
        self.begun = time.monotonic()

    def start(self, trial: TrialRecord) -> None:
        self._note(trial)

    def end(self, trial: TrialRecord) -> None:
        """The trial left its slot."""
        self._note(trial)
        self.ended_here += trial.state.ended

    def _note(self, trial: TrialRecord) -> None:
        self.states[trial.number] = trial.state
        if trial.pause_kind is PauseKind.BY_SCHEDULER:
            self.paused_by_scheduler.add(trial.number)
        else:
            self.paused_by_scheduler.discard(trial.number)

    @property
    def counts(self) -> Counter[TrialState]:
        return Counter(tuple(self.states.values()))

    @property
    def ended(self) -> int:
        return sum(state.ended for state in tuple(self.states.values()))  # Drawn by a thread while trials end.

    @property
    def aside(self) -> int:
        """Trials that the scheduler has paused, to be promoted or not."""
        return len(self.paused_by_scheduler)

    @property
    def stands(self) -> str:
        """How far the study is: `2 of 20 trials`, `2 ended, 5 set aside of 20 trials`."""
        assert self.study is not None
        so_far = f"{self.ended} ended, {self.aside} set aside" if self.aside else f"{self.ended}"
        return f"{so_far} of {self.study.trials_target} trials"

    def remaining_s(self, progress: float) -> float | None:
        """Seconds to the end of the study at the pace so far. progress: trials' worth of work done in the running ones."""
        assert self.study is not None
        done = self.ended_here + progress
        if done < 1 or self.aside:  # How many of those that are set aside will be promoted, nobody knows.
            return None
        left = self.study.trials_target - self.ended - progress
        return max(0.0, left) * (time.monotonic() - self.begun) / done


class PlainLines:
    """One line per event."""

    def __init__(self, slots: int) -> None:
        self._tally = Tally(slots)

    def opened(self, study: StudyRecord, trials: list[TrialRecord]) -> None:
        self._tally.open(study, trials)
        if trials:
            self._say(f"resumed: {self._tally.stands}{'' if self._tally.aside else ' are done'}")

    def started(self, trial: TrialRecord, slot: str, from_iteration: int) -> None:
        self._tally.start(trial)
        again = f" from step {from_iteration}" if from_iteration else ""
        self._say(f"trial {trial.number} started in {slot}{again}: {described(trial.params)}")

    def progress(self, trial: TrialRecord, progress: Progress) -> None:
        """Said at each evaluation only."""

    def evaluated(self, trial: TrialRecord, point: EvalPoint) -> None:
        assert self._tally.study is not None
        name = self._tally.study.objectives[0]
        value = point.metrics.get(name)
        shown = (
            f"{name} {measured(value)}"
            if value is not None
            else f"val_loss {measured(point.metrics.get('val_loss', math.nan))}"
        )
        pace = f"step {point.iteration}" if self._tally.study.own else f"{point.tokens_per_s:,.0f} tokens/s"
        self._say(f"trial {trial.number} rung {point.rung}/{self._tally.study.budget.evaluations} {shown} ({pace})")

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        self._tally.end(trial)
        assert self._tally.study is not None
        self._say(ending(trial, self._tally.study.objectives[0]))
        counts = self._tally.counts
        parts = [f"{counts[state]} {state}" for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)]
        so_far = f"; best trial {best.number}: {measured(best.value)}" if best and best.value is not None else ""
        left = self._tally.remaining_s(0.0)
        eta = f"; about {duration(left)} left" if left else ""
        self._say(f"{self._tally.stands} ({', '.join(parts)}){so_far}{eta}")

    def note(self, text: str) -> None:
        self._say(text)

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def _say(self, text: str) -> None:
        say(text)


def say(text: str) -> None:
    """One line on standard error. Where it cannot be written, as on a full disk, the work goes on without it."""
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def ending(trial: TrialRecord, objective: str) -> str:
    """How a trial ended, in one line, with as much of its reason as people read."""
    value = f" {objective} {measured(trial.value)}" if trial.value is not None else ""
    reason = f" ({shortened(trial.reason, TOLD)})" if trial.reason else ""
    return f"trial {trial.number} {trial.state}{value}{reason}"


@dataclass
class _Row:
    trial: TrialRecord
    slot: str
    iteration: int = 0
    train_loss: float | None = None
    value: float | None = None
    tokens_per_s: float = 0.0
    curve: list[float] = field(default_factory=list)
    """What was measured at each evaluation that this view saw."""

    steps: int | None = None
    """Of the whole run."""

    @property
    def done(self) -> float:
        return self.iteration / max(1, self.steps or 1)


class _Live(Live):
    """Erases the whole of its last frame, also where the terminal has become narrower and wrapped its lines meanwhile."""

    _lengths: Sequence[int] = ()
    _width = 0

    def drawn(self, lengths: Sequence[int], width: int) -> None:
        """Columns of each line of the frame that is being drawn, and of the terminal."""
        self._lengths, self._width = lengths, width

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        width = self.console.width
        if self.console.is_terminal and 0 < width < self._width:
            wrapped = sum(max(0, math.ceil(length / width) - 1) for length in self._lengths)
            up: list[ControlCode] = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
            renderables = [Control(*up * wrapped), *renderables]
            self._width = width
        return super().process_renderables(renderables)


class LiveView:
    """The running trials with their bars, the best so far, the counts and the time that is left."""

    RECENT = 5

    def __init__(self, slots: int, console: Console | None = None) -> None:
        self._tally = Tally(slots)
        self._console = console or Console(stderr=True)
        self._rows: dict[int, _Row] = {}
        self._recent: list[str] = []
        self._best: TrialRecord | None = None
        self._baseline: TrialRecord | None = None
        self._levels = levels_for(self._console.encoding)
        self._live = _Live(console=self._console, get_renderable=lambda: self, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def opened(self, study: StudyRecord, trials: list[TrialRecord]) -> None:
        self._tally.open(study, trials)
        seen = StudyView(study, trials)
        self._best = seen.best
        self._baseline = seen.baseline if seen.baseline in seen.ranked else None

    def started(self, trial: TrialRecord, slot: str, from_iteration: int) -> None:
        assert self._tally.study is not None
        self._tally.start(trial)
        self._rows[trial.number] = _Row(trial, slot, iteration=from_iteration, steps=self._tally.study.steps(trial))

    def progress(self, trial: TrialRecord, progress: Progress) -> None:
        row = self._rows[trial.number]
        row.iteration, row.train_loss, row.tokens_per_s = progress.iteration, progress.train_loss, progress.tokens_per_s

    def evaluated(self, trial: TrialRecord, point: EvalPoint) -> None:
        row = self._rows[trial.number]
        assert self._tally.study is not None
        row.trial, row.iteration, row.tokens_per_s = trial, point.iteration, point.tokens_per_s
        row.value = point.metrics.get(self._tally.study.objectives[0])
        row.curve.append(point.metrics.get("val_loss", math.nan) if row.value is None else row.value)

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        self._tally.end(trial)
        row = self._rows.pop(trial.number, None)
        self._best = best
        if trial.number == 0 and trial.state is TrialState.COMPLETE:
            self._baseline = trial
        assert self._tally.study is not None
        curve = sparkline(row.curve, CURVE, self._levels) if row else ""
        self.note(f"{curve} {ending(trial, self._tally.study.objectives[0])}".lstrip())

    def note(self, text: str) -> None:
        self._recent = [*self._recent, printable(text)][-self.RECENT :]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Drawn anew for the width that the terminal has at this moment."""
        study = self._tally.study
        if study is None:
            return
        counts, dot = self._tally.counts, "·" if self._levels == BLOCKS else "-"
        head = Text.assemble((study.name, "bold"), f"  {self._tally.stands}")
        for state, style in ((TrialState.COMPLETE, "green"), (TrialState.PRUNED, "yellow"), (TrialState.FAILED, "red")):
            head.append(f" {dot} {counts[state]} {state}", style if counts[state] else "dim")
        left = self._tally.remaining_s(sum(row.done for row in tuple(self._rows.values())))
        if not self._tally.aside:
            head.append(f" {dot} {f'about {duration(left)} left' if left is not None else 'time left: measuring'}", "cyan")
        best = self._best_lines(study)
        recent = [Text(line, "dim") for line in self._recent]

        def lines(*parts: Text) -> int:
            return sum(len(console.render_lines(part, options)) for part in parts)

        running = sorted(self._rows.items())
        free = console.height - 2 - lines(head, *best)
        room = max(LEAST, free - 1 - lines(*recent[-1:]))
        free -= min(len(running), room + 1)
        while recent and lines(*recent) > free:
            recent.pop(0)
        more = [Text(f"and {len(running) - room} more running", "dim")] if len(running) > room else []
        parts: list[Text | Table] = [head, self._running(study, options.max_width, running[:room]), *more, *best, *recent]
        drawn = [line for part in parts for line in console.render_lines(part, options, pad=False)]
        self._live.drawn([Segment.get_line_length(line) for line in drawn], options.max_width)
        yield from parts

    def _running(self, study: StudyRecord, width: int, rows: Sequence[tuple[int, _Row]]) -> Table:
        """The running trials; a narrow terminal gets fewer columns, not cut ones."""
        wide, narrow, unit = width >= WIDE, width < NARROW, study.unit(study.objectives[0])
        compute = wide and not study.own
        curve = CURVE // 2 if narrow else CURVE
        table = Table(box=None, pad_edge=False, expand=True)
        table.add_column("trial", justify="right", no_wrap=True)
        table.add_column("", ratio=1, min_width=4 if narrow else 8)
        if not narrow:
            table.add_column("step", justify="right", no_wrap=True)
        if compute:
            table.add_column("train loss", justify="right", no_wrap=True)
        # As a Text: in a string, rich would read `[red]` as markup.
        table.add_column(Text(f"{printable(study.objectives[0])}{f' ({unit})' if unit and wide else ''}"), justify="right")
        table.add_column("curve", no_wrap=True, min_width=curve)
        if compute:
            table.add_column("tokens/s", justify="right", no_wrap=True)
        none = "–" if self._levels == BLOCKS else "-"
        for number, row in rows:
            cells: list[RenderableType] = [
                str(number),
                ProgressBar(total=1.0, completed=min(1.0, row.done)),
                *([] if narrow else [f"{row.iteration}/{row.steps or '?'}"]),
                none if row.value is None else measured(row.value),
                sparkline(row.curve, curve, self._levels),
            ]
            if compute:
                cells.insert(3, none if row.train_loss is None else f"{row.train_loss:.3f}")
                cells.append(f"{row.tokens_per_s:,.0f}" if row.tokens_per_s else none)
            table.add_row(*cells)
        return table

    def _best_lines(self, study: StudyRecord) -> list[Text]:
        if self._best is None or self._best.value is None:
            return [Text("best: no trial has finished yet", "dim")]
        line = Text.assemble(
            ("best", "bold green"),
            f" trial {self._best.number}: {printable(study.objectives[0])} ",
            (measured(self._best.value), "bold"),
        )
        if self._baseline is not None and self._baseline.value is not None and self._best.number != 0:
            line.append(f" (trial 0, the baseline: {measured(self._baseline.value)})")
        return [line, Text(described(self._best.params), "green")]

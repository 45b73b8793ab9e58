"""Results of studies as typed objects and data frames, and for the eyes of a notebook's reader."""

from __future__ import annotations

import dataclasses
import html
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.errors import BadInput, install
from hpsearch.objectives import NEGATED
from hpsearch.paths import STUDIES_DIR
from hpsearch.results.formatting import short
from hpsearch.results.tables import Columns
from hpsearch.results.view import StudyView
from hpsearch.storage.records import TrialRecord
from hpsearch.storage.urls import storage_url

if TYPE_CHECKING:
    import pandas

    from hpsearch.results.verdict import Verdict


@dataclass(frozen=True)
class Trial:
    """One trial, as its study has it."""

    number: int
    state: str
    """running, paused, complete, pruned or failed."""
    value: float | None
    """The objective, as the trainer reported it; None while it is unknown."""
    values: tuple[float, ...] | None
    """One for each objective."""
    metrics: dict[str, float]
    config: dict[str, Any]
    """Every hyperparameter; None where it is off or without effect."""
    params: dict[str, Any]
    """What was proposed."""
    rung: int
    """Evaluations so far."""
    step: int
    seconds: float
    """Of training."""
    reason: str
    """Why it was pruned, paused or failed, in a sentence."""
    folder: Path
    """Its files."""
    end_reason: str | None
    """Why it ended: completed, infeasible, diverged, …, the values of `EndReason`; None while it has not."""
    pause_kind: str | None
    """What a paused trial waits for: by_scheduler, interrupted or between_slots; else None."""


@dataclass(frozen=True)
class Study:
    """A study as it stood when it was read; `refresh` reads it again."""

    name: str
    storage: str
    """The database's URL."""
    studies_dir: Path
    view: StudyView = dataclasses.field(repr=False)
    """What the command line's readers see."""

    @property
    def folder(self) -> Path:
        """Its files: `best.yaml`, `report.html`, `trials/`."""
        return self.studies_dir / self.view.study.folder

    @property
    def objective(self) -> str:
        """The first objective, as the trainer reports it."""
        return self.view.objective.removeprefix(NEGATED) if self.view.study.own else self.view.objective

    @property
    def trials(self) -> list[Trial]:
        """In the order of their numbers."""
        return [self._trial(record) for record in self.view.trials]

    @property
    def best(self) -> Trial | None:
        """The best complete trial; None while there is none."""
        return None if self.view.best is None else self._trial(self.view.best)

    @property
    def baseline(self) -> Trial | None:
        """Trial 0: the configuration of all priors."""
        return None if self.view.baseline is None else self._trial(self.view.baseline)

    @property
    def finished_reason(self) -> str:
        """Why it ended; empty while it can be gone on with."""
        return self.view.study.finished_reason

    @property
    def confirmation(self) -> Verdict | None:
        """What fresh seeds say of the best; None where nothing was confirmed. Its values are minimised ones."""
        return self.view.verdict

    def curve(self, number: int) -> list[tuple[int, float | None]]:
        """(step, objective) at each evaluation of a trial."""
        name, sign = self.view.objective, self._sign(self.view.objective)
        points = [(point.iteration, point.metrics.get(name)) for point in self.view.curve(self.view.pick(number).number)]
        return [(step, None if value is None else sign * value) for step, value in points]

    def frame(self) -> pandas.DataFrame:
        """A data frame with a row a trial: number, state, value, every hyperparameter, the other metrics, and what it cost.
        Where a name means something else here, a hyperparameter is `config.NAME`, a metric `metrics.NAME`, and an objective
        (of several) `objective.NAME`.

        Needs pandas, which the extra `notebook` installs.
        """
        pandas = _pandas("Study.frame")
        trials = self.trials
        columns = Columns(("number", "state", "value", "rung", "step", "seconds", "reason", "end_reason", "pause_kind"))
        settings = {name: columns.add("config", name) for name in _names(trial.config for trial in trials)}
        metrics = {
            name: self._column(columns, name) for name in _names(trial.metrics for trial in trials) if name != self.objective
        }
        rows = []
        for trial in trials:
            row: dict[str, Any] = {"number": trial.number, "state": trial.state, "value": trial.value}
            row |= {column: trial.config[name] for name, column in settings.items() if name in trial.config}
            row |= {column: trial.metrics[name] for name, column in metrics.items() if name in trial.metrics}
            row |= {"rung": trial.rung, "step": trial.step, "seconds": trial.seconds, "reason": trial.reason}
            row |= {"end_reason": trial.end_reason, "pause_kind": trial.pause_kind}
            rows.append(row)
        return pandas.DataFrame(rows)

    def curves(self) -> pandas.DataFrame:
        """A data frame with a row an evaluation: trial, rung, step, seconds, and what was measured (as `metrics.NAME`, or
        `objective.NAME`, where the name means something else here). Needs pandas."""
        pandas = _pandas("Study.curves")
        columns = Columns(("trial", "rung", "step", "seconds"))
        metrics = {name: self._column(columns, name) for name in _names(point.metrics for point in self.view.points)}
        rows = [
            {"trial": point.trial_number, "rung": point.rung, "step": point.iteration, "seconds": point.seconds}
            | {metrics[name]: value for name, value in point.metrics.items() if not self._hidden(name)}
            for point in self.view.points
        ]
        return pandas.DataFrame(rows)

    def refresh(self) -> Study:
        """The study as it stands now."""
        return open_study(self.name, storage=self.storage, studies_dir=self.studies_dir)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.view.counts.items() if count)
        best = self.best
        told = "" if best is None else f"; best: trial {best.number}, {self.objective} {short(best.value)}"
        return f"<Study '{self.name}': {counts or 'no trial yet'}{told}>"

    def _repr_html_(self) -> str:
        """For notebooks: the counts, and the best trials beside the baseline."""
        names = list(dict.fromkeys(name for record in self.view.trials for name in record.params))
        shown = [self._trial(record) for record in self.view.ranked[:5]]
        baseline = self.baseline
        if baseline is not None and baseline.number not in [trial.number for trial in shown]:
            shown.append(baseline)
        head = "".join(f"<th>{html.escape(word)}</th>" for word in ("trial", self.objective, *names))
        rows = []
        for trial in shown:
            label = f"{trial.number} (baseline)" if trial.number == 0 else str(trial.number)
            cells = (label, short(trial.value), *(short(trial.params.get(name)) for name in names))
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{table}"

    def _trial(self, record: TrialRecord) -> Trial:
        names = self.view.study.objectives
        values = None
        if record.values is not None:
            values = tuple(self._sign(name) * value for name, value in zip(names, record.values, strict=True))
        return Trial(
            number=record.number,
            state=str(record.state),
            value=None if values is None else values[0],
            values=values,
            metrics={name: value for name, value in record.metrics.items() if not self._hidden(name)},
            config=dict(record.config),
            params=dict(record.params),
            rung=record.rung,
            step=record.iteration,
            seconds=record.seconds,
            reason=record.reason,
            folder=self.folder / "trials" / f"{record.number:04d}",
            end_reason=None if record.end_reason is None else str(record.end_reason),
            pause_kind=None if record.pause_kind is None else str(record.pause_kind),
        )

    def _column(self, columns: Columns, name: str) -> str:
        """The column of what was measured."""
        objectives = self.view.study.objectives
        return columns.add("objective" if name in objectives or NEGATED + name in objectives else "metrics", name)

    def _sign(self, name: str) -> float:
        return -1.0 if self.view.study.own and name.startswith(NEGATED) else 1.0

    def _hidden(self, name: str) -> bool:
        """Whether a metric is an objective with its sign turned, which stands beside it as it is."""
        return self._sign(name) < 0 and name in self.view.study.objectives


def open_study(name: str | None = None, *, storage: str | None = None, studies_dir: str | Path = STUDIES_DIR) -> Study:
    """A study that exists; without a name the only one there. Raises BadInput with the names there are."""
    from hpsearch.storage.store import Store

    folder = Path(studies_dir)
    if storage is None and not (folder / "hpsearch.db").exists():
        raise BadInput(f"no study yet in {folder}/")
    url = storage_url(storage, folder)
    store = Store.open(url, create=False)
    try:
        if name is None:
            records = store.studies()
            if len(records) != 1:
                names = ", ".join(record.name for record in records) or "none"
                raise BadInput(f"which study? There are {names}")
            name = records[0].name
        return Study(name, url, folder, StudyView.load(store, store.study(name)))
    finally:
        store.close()


def _names(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all, in the order of their first mention."""
    return list(dict.fromkeys(name for table in tables for name in table))


def _pandas(what: str) -> Any:
    try:
        return importlib.import_module("pandas")
    except ImportError:
        raise BadInput(f"{what}: the library pandas is missing; {install('notebook')}") from None

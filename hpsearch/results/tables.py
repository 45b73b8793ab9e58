"""The trials of a study as one table, a row a trial: CSV, and Parquet with the extra `tables`."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpsearch.errors import BadInput, install
from hpsearch.files import write_atomically
from hpsearch.results.view import StudyView
from hpsearch.text import escaped, storable

FACTS = (
    "rung",
    "iteration",
    "tokens",
    "flops",
    "seconds",
    "num_parameters",
    "reason",
    "proposed_by",
    "attempts",
    "end_reason",
    "pause_kind",
)
"""What stands in the columns after the hyperparameters."""


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def rows(view: StudyView) -> list[dict[str, Any]]:
    """One mapping a trial, all with the same keys: number, state, value (the first objective), the objectives where there are
    several, every hyperparameter, and FACTS. An objective is `objective.NAME` and a hyperparameter `config.NAME` where the name
    means something else here. What is unknown is None, and so is a number that is not finite."""
    facts = facts_of(view)
    columns = Columns(("number", "state", "value", *facts))
    objectives = [columns.add("objective", name) for name in view.study.objectives] if len(view.study.objectives) > 1 else []
    names = dict.fromkeys(name for trial in view.trials for name in trial.config or trial.params)
    settings = {name: columns.add("config", name) for name in names}
    table = []
    for trial in view.trials:
        row: dict[str, Any] = {"number": trial.number, "state": str(trial.state), "value": trial.value}
        row |= dict(zip(objectives, trial.values or (None,) * len(objectives), strict=False))
        row |= {column: (trial.config or trial.params).get(name) for name, column in settings.items()}
        row |= {fact: getattr(trial, fact) for fact in facts}
        table.append({column: None if isinstance(v, float) and not math.isfinite(v) else v for column, v in row.items()})
    return table


class Columns:
    """Names of columns, no two alike. taken: those that are ours, with a meaning of their own."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def add(self, kind: str, name: str) -> str:
        """The column of something that a person named; `KIND.NAME` where another one has its name."""
        while name in self._taken:
            name = f"{kind}.{name}"
        self._taken.add(name)
        return name


def facts_of(view: StudyView) -> tuple[str, ...]:
    """FACTS, but for those that nobody knows of a trainer of one's own."""
    return tuple(fact for fact in FACTS if not (view.study.own and fact in ("tokens", "flops", "num_parameters")))


def to_csv(view: StudyView) -> str:
    """RFC 4180 but for the line end, with a header; what is unknown is an empty field. See `_cell` of texts."""
    table = rows(view)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, table[0] if table else ["number", "state", "value", *facts_of(view)]))
    writer.writerows([_cell(value) for value in row.values()] for row in table)
    return text.getvalue()


def write_parquet(view: StudyView, path: Path) -> None:
    """The table with one type a column. Raises BadInput where the library for it is not installed."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise BadInput(f"--format parquet: the library pyarrow is missing; use csv, or {install('tables')}") from None
    table = rows(view)
    columns = {name: _of_one_type([row[name] for row in table]) for name in (table[0] if table else ())}
    written = io.BytesIO()
    parquet.write_table(arrow.table(columns), written)
    write_atomically(path, written.getbuffer())


def _cell(value: Any) -> Any:
    """As in the file. A spreadsheet would compute a text that begins as a formula does: an apostrophe makes it a text there."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return storable(f"'{value}" if value.startswith(_FORMULA) else value)
    return escaped(json.dumps(value, ensure_ascii=False)) if isinstance(value, list | tuple | Mapping) else value


def _of_one_type(values: list[Any]) -> list[Any]:
    """Whole numbers beside fractions become fractions; anything else that is mixed becomes text."""
    values = [storable(value) if isinstance(value, str) else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2 and not kinds & {list, tuple, dict}:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else value if isinstance(value, str) else str(_cell(value)) for value in values]

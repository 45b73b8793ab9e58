"""The trials of a study as one table, a row a trial: CSV, and Parquet with the extra `tables`."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpsearch.errors import BadInput
from hpsearch.files import write_atomically
from hpsearch.report.view import StudyView

FACTS = ("rung", "iteration", "tokens", "flops", "seconds", "num_parameters", "reason", "proposed_by", "attempts")
"""What stands in the columns after the hyperparameters."""


def rows(view: StudyView) -> list[dict[str, Any]]:
    """One mapping a trial, all with the same keys: number, state, value, the objectives where there are several, every
    hyperparameter (as `config.NAME` where the name means something else here), and FACTS. What is unknown is None, and so is
    a number that is not finite."""
    objectives = view.study.objectives if len(view.study.objectives) > 1 else ()
    facts = facts_of(view)
    before, names = ("number", "state", "value", *objectives), dict[str, str]()
    for trial in view.trials:
        for name in trial.config or trial.params:
            names.setdefault(name, f"config.{name}" if name in (*before, *facts) else name)
    table = []
    for trial in view.trials:
        row: dict[str, Any] = {"number": trial.number, "state": str(trial.state), "value": trial.value}
        row |= dict(zip(objectives, trial.values or (None,) * len(objectives), strict=False))
        row |= {column: (trial.config or trial.params).get(name) for name, column in names.items()}
        row |= {fact: getattr(trial, fact) for fact in facts}
        table.append({column: None if isinstance(v, float) and not math.isfinite(v) else v for column, v in row.items()})
    return table


def facts_of(view: StudyView) -> tuple[str, ...]:
    """FACTS, but for those that nobody knows of a trainer of one's own."""
    return tuple(fact for fact in FACTS if not (view.study.own and fact in ("tokens", "flops", "num_parameters")))


def to_csv(view: StudyView) -> str:
    """RFC 4180 but for the line end, with a header; what is unknown is an empty field."""
    table = rows(view)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table[0] if table else ["number", "state", "value", *facts_of(view)])
    writer.writerows([_cell(value) for value in row.values()] for row in table)
    return text.getvalue()


def write_parquet(view: StudyView, path: Path) -> None:
    """The table with one type a column. Raises BadInput where the library for it is not installed."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise BadInput("--format parquet needs the library pyarrow: pip install 'hpsearch[tables]', or use csv") from None
    table = rows(view)
    columns = {name: _of_one_type([row[name] for row in table]) for name in (table[0] if table else ())}
    written = io.BytesIO()
    parquet.write_table(arrow.table(columns), written)
    write_atomically(path, written.getbuffer())


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | Mapping) else value


def _of_one_type(values: list[Any]) -> list[Any]:
    """Whole numbers beside fractions become fractions; anything else that is mixed becomes text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2 and not kinds & {list, tuple, dict}:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(_cell(value)) for value in values]

"""The pages of docs/reference, written from the code: `python docs/make_reference.py`. A test compares them with the code."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import hpsearch.cli
from hpsearch import errors
from hpsearch.cli.app import app
from hpsearch.config import HYPERPARAMETERS, DataConfig
from hpsearch.hyperparameter import Hyperparameter
from hpsearch.objectives import OBJECTIVES
from hpsearch.space.schema import space_schema
from hpsearch.storage import records, tables

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/make_reference.py from the code; edit that. -->\n"


def pages() -> dict[str, str]:
    """File name → text."""
    written = {
        "hyperparameters.md": hyperparameters(),
        "space.md": space(),
        "command-line.md": command_line(),
        "exit-codes.md": exit_codes(),
        "tables.md": database(),
    }
    return {name: NOTE + "\n".join(lines).rstrip() + "\n" for name, lines in written.items()}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    cells.insert(1, ["---"] * len(head))
    return ["| " + " | ".join(row) + " |" for row in cells]


def hyperparameters() -> Iterator[str]:
    yield "# Hyperparameters"
    yield ""
    yield "What a space may search and a config may set; `hpsearch params` prints the same. Bounds are what the program accepts;"
    yield "the documented range, where there is one, is what the bundled space `lm` searches."
    section = ""
    rows: list[tuple[str, ...]] = []
    head = ("name", "default", "accepts", "what it is")
    for info in HYPERPARAMETERS.values():
        if info.section != section:
            yield from table(head, rows) if rows else ()
            yield from ("", f"## {info.section.capitalize()}", "")
            section, rows = info.section, []
        rows.append((f"`{info.name}`", info.default_text, _accepts(info), _doc(info)))
    yield from table(head, rows)


def _accepts(info: Hyperparameter) -> str:
    if info.kind == "choice":
        return ", ".join(f"`{choice}`" for choice in info.choices)
    low = "" if info.low is None else f"{'>' if info.low_open else '≥'} {info.low:g}"
    high = "" if info.high is None else f"{'<' if info.high_open else '≤'} {info.high:g}"
    return f"{info.kind} {', '.join(filter(None, (low, high)))}".strip()


def _doc(info: Hyperparameter) -> str:
    parts = [info.doc]
    if info.unit:
        parts.append(f"in {info.unit}")
    if info.aliases:
        parts.append("also " + ", ".join(f"`{alias}`" for alias in info.aliases))
    if info.documented:
        parts.append("documented range {:g} to {:g}".format(*info.documented))
    if info.fixed:
        parts.append(f"not searched: {info.fixed}")
    parts += [f"only with `{key}` {' or '.join(needed)}" for key, needed in info.needs.items()]
    return "; ".join(parts)


def space() -> Iterator[str]:
    schema = space_schema()["else"]["properties"]
    yield "# The space language"
    yield ""
    yield "A space is a YAML file of these entries; only `parameters` is needed. `hpsearch space schema` prints the JSON Schema, with"
    yield "which editors complete and check; `hpsearch space check FILE` also checks what depends on several entries."
    yield from (
        "",
        "## Objective",
        "",
        "One name, or a list of them for a Pareto front; the first decides where one best is needed.",
        "",
    )
    yield from table(("name", "unit", "what it is"), [(f"`{each.name}`", each.unit, each.doc) for each in OBJECTIVES.values()])
    yield from ("", "## Data", "")
    yield from table(
        ("key", "default", "what it is"),
        [
            (f"`{name}`", f"`{field.default}`", field.description or "")
            for name, field in DataConfig.model_fields.items()
            if name in schema["data"]["properties"]
        ],
    )
    yield from (
        "",
        "## Budget",
        "",
        "One of these for every trial, and `evaluations`: the rungs at which trials are compared.",
        "",
    )
    kinds = schema["budget"]["properties"].items()
    yield from table(
        ("key", "what it is"), [(f"`{name}`", value["description"]) for name, value in kinds if "$ref" not in value]
    )
    yield ""
    yield "## Parameters"
    yield ""
    yield "Each entry is named as in [Hyperparameters](hyperparameters.md) and has one of these forms:"
    yield ""
    yield from table(
        ("form", "means"),
        [
            ("`num_layers: 4`", "a fixed value"),
            (
                "`d_ff: 4 * d_model`",
                "an expression over other parameters; `+ - * / // % **`, comparisons, `and`, `or`, `not`, `min`, `max`",
            ),
            (
                "`{low: 1e-4, high: 1e-2, log: true}`",
                "a range, both ends included; `log: true` searches its logarithm, `step` goes in steps",
            ),
            ("`{choices: [gelu, silu]}`", "one of these"),
            ("`{value: 0.9, when: optimizer == 'sgd'}`", "a fixed value under a condition"),
        ],
    )
    yield ""
    yield "A range and a choice also take:"
    yield ""
    yield from table(
        ("key", "means"),
        [
            (
                "`prior`",
                "where the search starts; all priors together are trial 0, the baseline. `auto`: from scaling laws, for each trial's own size and tokens",
            ),
            ("`confidence`", "`low`, `medium` or `high`: how near the prior values are first looked for"),
            ("`when`", "a condition under which the parameter is there at all, as `optimizer == 'sgd'`"),
        ],
    )
    yield from ("", "## Rules and constraints", "")
    yield "`require` lists rules that every configuration satisfies, as `d_model % num_heads == 0`; a draw that breaks one costs nothing."
    yield "`constraints` bounds these (`min`, `max`), by formula before training where that is possible, and tells Optuna how far a trial broke them:"
    yield ""
    yield ", ".join(f"`{name}`" for name in schema["constraints"]["properties"]) + "."


def command_line() -> Iterator[str]:
    for module in pkgutil.iter_modules(hpsearch.cli.__path__):
        importlib.import_module(f"hpsearch.cli.{module.name}")
    yield "# Command line"
    yield ""
    yield "Every verb also takes `--help`. Environment variables stand for options where they are named. Exit codes: [a page of their own](exit-codes.md)."
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in sorted(commands.items()):
        group: dict[str, Any] = getattr(command, "commands", {})
        for verb, each in {f"{name} {sub}": found for sub, found in group.items()}.items() if group else [(name, command)]:
            yield from ("", f"## {verb}", "", " ".join((each.help or "").split()), "")
            yield from table(
                ("option", "what it does"), [_option(parameter) for parameter in each.params if parameter.name != "help"]
            )


def _option(parameter: Any) -> tuple[str, str]:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`", parameter.help or ""
    told = [parameter.help or ""]
    default = parameter.default
    if parameter.required:
        told.append("Needed.")
    elif default not in (None, False, (), []) and "default" not in told[0]:
        told.append(f"By default {default}.")
    if parameter.envvar:
        told.append(f"`{parameter.envvar}`")
    word = "" if parameter.is_flag else f" {parameter.metavar or 'VALUE'}"
    return f"`{', '.join(parameter.opts)}{word}`", " ".join(filter(None, told))


def exit_codes() -> Iterator[str]:
    yield "# Exit codes"
    yield ""
    tree = re.findall(r"(\w+) \((\d+)\) +(?:… )?(.+)", errors.__doc__ or "")
    rows = [("0", "done, or paused by SIGTERM"), ("1", "an unexpected error: a traceback is in the file that the line names")]
    rows += [(code, f"{told} (`{name}`)") for name, code, told in tree]
    rows.append((str(errors.INTERRUPTED), "interrupted by Ctrl-C; the same command goes on"))
    yield from table(("code", "means"), sorted(rows, key=lambda row: int(row[0])))
    yield ""
    yield "Each error is one line on standard error: where, what, what to do next. In Python each is an exception of that name in"
    yield "`hpsearch.errors`, all below `HpsearchError`."


def database() -> Iterator[str]:
    yield "# Tables"
    yield ""
    yield "Ours stand beside Optuna's in the same database, with names that begin with `hps_`. Times are seconds since 1970 on the"
    yield f"database's clock; durations are the worker's own. This is revision {tables.REVISION}; `hpsearch db upgrade` brings an older one here."
    told = _field_docs()
    by_table = {
        "hps_studies": records.StudyRecord,
        "hps_trials": records.TrialRecord,
        "hps_attempts": records.AttemptRecord,
        "hps_points": records.PointRecord,
        "hps_decisions": records.DecisionRecord,
        "hps_checkpoints": records.CheckpointRecord,
        "hps_confirmations": records.ConfirmationRecord,
        "hps_requests": records.RequestRecord,
    }
    for found in tables.metadata.sorted_tables:
        yield from ("", f"## {found.name}", "")
        record = by_table.get(found.name)
        if record is not None and record.__doc__ and not record.__doc__.startswith(f"{record.__name__}("):
            yield from (" ".join(record.__doc__.split()), "")
        rows = []
        for column in found.columns:
            plain = column.type.impl if isinstance(column.type, tables.Line | tables.Whole) else column.type
            kind = type(plain).__name__.lower() + ("" if column.nullable is False else ", may be null")
            rows.append((f"`{column.name}`", kind, told.get(record.__name__, {}).get(column.name, "") if record else ""))
        yield from table(("column", "type", "what it holds"), rows)


def _field_docs() -> dict[str, dict[str, str]]:
    """Class → field → the text below it in records.py."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(records)).body:
        if isinstance(node, ast.ClassDef) and dataclasses.is_dataclass(getattr(records, node.name)):
            texts = found.setdefault(node.name, {})
            for field, text in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                ):
                    texts[field.target.id] = " ".join(str(text.value.value).split())
    return found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")

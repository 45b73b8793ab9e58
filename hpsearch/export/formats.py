"""An export in the forms of other programs' input: TOML, shell variables, a command line."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from hpsearch.errors import BadInput
from hpsearch.export.command_line import bare, command_of
from hpsearch.export.config_file import best_config_yaml, document, provenance, scalar, to_json
from hpsearch.results.view import StudyView
from hpsearch.storage.records import TrialRecord
from hpsearch.text import escaped, printable, storable


def to_toml(view: StudyView, trial: TrialRecord) -> str:
    """The export as TOML 1.0; `read_config` reads it too. TOML has no null: what is unknown or off is left out.

    Raises BadInput where a null is inside a value.
    """
    content = document(view, trial)
    lines = [*comments(view, trial), *_off(content), "", f"hpsearch = {content.pop('hpsearch')}"]
    for section, settings in content.items():
        lines += ["", f"[{section}]"]
        lines += [f"{_toml_key(key)} = {_toml(value)}" for key, value in settings.items() if value is not None]
    return "\n".join(lines) + "\n"


def to_env(view: StudyView, trial: TrialRecord) -> str:
    """Lines `HPSEARCH_LEARNING_RATE=0.0003` that a POSIX shell can source (`set -a` before it exports them).

    Raises BadInput where two names are one variable, and for a text that no shell can hold.
    """
    content = document(view, trial)
    values = [(f"data_{key}", value) for key, value in content["data"].items()] + [*content["hyperparameters"].items()]
    lines: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, value in values:
        if value is None:
            continue
        variable = f"HPSEARCH_{bare(name).upper()}"
        if variable in names:
            raise BadInput(
                f"--format env: '{printable(names[variable])}' and '{printable(name)}' would both be {variable}; "
                "use --format yaml, json or toml"
            )
        names[variable] = name
        lines[variable] = f"{variable}={shlex.quote(_word(name, value))}"
    return "\n".join([*comments(view, trial), *_off(content), "", *lines.values()]) + "\n"


def to_command(view: StudyView, trial: TrialRecord) -> str:
    """The `hpsearch train` that trains it, or the program of one's own, for a POSIX shell."""
    if view.study.own:
        return "\n".join([*comments(view, trial), "", command_of(view, trial)]) + "\n"
    content = document(view, trial)
    values: dict[str, Any] = {f"data.{key}": value for key, value in content["data"].items()} | content["hyperparameters"]
    words = [["hpsearch", "train"]]
    if content["run"]["device"] is not None:
        words.append(["--device", content["run"]["device"]])
    if content["run"]["threads"] is not None:
        words.append(["--threads", str(content["run"]["threads"])])
    words += [["--set", f"{name}={scalar(value)}"] for name, value in values.items() if value is not None]
    return "\n".join([*comments(view, trial), "", " \\\n  ".join(shlex.join(part) for part in words)]) + "\n"


WRITERS: dict[str, Callable[[StudyView, TrialRecord], str]] = {
    "yaml": best_config_yaml,
    "json": to_json,
    "toml": to_toml,
    "env": to_env,
    "cli": to_command,
}
"""`--format` of an export that is one text."""


def comments(view: StudyView, trial: TrialRecord) -> list[str]:
    """What produced the trial, as comments in all languages that begin them with `#`."""
    return [f"# {line}".rstrip() for line in provenance(view, trial)]


def _off(content: Mapping[str, Any]) -> list[str]:
    """A comment on the hyperparameters that are null, for the forms that have none."""
    off = [printable(name) for name, value in content["hyperparameters"].items() if value is None]
    return [f"# Null, and so left out: {', '.join(off)}"] if off else []


def _word(name: str, value: Any) -> str:
    """A value as a program reads it from its environment: a text as it is, anything else as JSON."""
    if not isinstance(value, str):
        return escaped(json.dumps(value, ensure_ascii=False))
    if "\0" in value:
        raise BadInput(f"--format env: {printable(name)} holds a NUL, which no variable can; use --format yaml, json or toml")
    return storable(value)


_BARE = re.compile(r"[A-Za-z0-9_-]+")


def _toml_key(name: str) -> str:
    """In quotes where it is no bare key; a dot would begin a table."""
    return name if _BARE.fullmatch(name) else _toml(name)


def _toml(value: Any) -> str:
    if value is None:
        raise BadInput("--format toml: a hyperparameter holds null inside a list, which TOML cannot say; use yaml or json")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):  # A string of JSON is one of TOML, once it has no unpaired surrogate.
        value = "\0".join(map(storable, value.split("\0")))
    return escaped(json.dumps(value, ensure_ascii=False))

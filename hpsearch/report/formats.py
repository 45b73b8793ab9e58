"""An export in the forms of other programs' input: TOML, shell variables, a command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from hpsearch.report.export import best_config_yaml, document, provenance, scalar, to_json
from hpsearch.report.own import bare, command_of
from hpsearch.report.view import StudyView
from hpsearch.storage.records import TrialRecord


def to_toml(view: StudyView, trial: TrialRecord) -> str:
    """The export as TOML 1.0; `read_config` reads it too. TOML has no null: what is unknown is left out."""
    content = document(view, trial)
    lines = [*comments(view, trial), "", f"hpsearch = {content.pop('hpsearch')}"]
    for section, settings in content.items():
        lines += ["", f"[{section}]"]
        lines += [f"{_toml_key(key)} = {_toml(value)}" for key, value in settings.items() if value is not None]
    return "\n".join(lines) + "\n"


def to_env(view: StudyView, trial: TrialRecord) -> str:
    """Lines `HPSEARCH_LEARNING_RATE=0.0003` that a POSIX shell can source (`set -a` before it exports them)."""
    content = document(view, trial)
    values: dict[str, Any] = {f"data_{key}": value for key, value in content["data"].items()} | content["hyperparameters"]
    lines = [
        f"HPSEARCH_{bare(name).upper()}={shlex.quote(_word(value))}" for name, value in values.items() if value is not None
    ]
    return "\n".join([*comments(view, trial), "", *lines]) + "\n"


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


def _word(value: Any) -> str:
    """A value as a program reads it from its environment: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _toml_key(name: str) -> str:
    """A dot in a bare key would begin a table."""
    return json.dumps(name) if "." in name else name


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # A string of JSON is one of TOML, but for the one control character that JSON lets stand.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

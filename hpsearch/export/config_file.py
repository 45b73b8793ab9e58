"""One trial as a file that stands alone, and such a file read back.

The file says what produced it; `hpsearch train --config` needs nothing else. A short one written by hand does as well:
`hyperparameters:` with an optional `data:`, or the hyperparameters alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpsearch.config import ALIASES, HYPERPARAMETERS, DataConfig, TrialConfig, canonical, shown
from hpsearch.errors import BadInput, ConfigError, SpaceError, did_you_mean
from hpsearch.export.command_line import again
from hpsearch.hyperparameter import Hyperparameter
from hpsearch.paths import MOST_THREADS
from hpsearch.results.formatting import amount, finite, jsonable, searched_by, short
from hpsearch.results.verdict import comment_lines, verdict_dict
from hpsearch.results.view import StudyView
from hpsearch.space.yaml_nodes import CONFIG, Node, plain, read_text, read_toml, read_word, read_yaml
from hpsearch.space.yaml_nodes import Mapping as MappingNode
from hpsearch.storage.records import TrialRecord
from hpsearch.text import escaped, printable

_AGAIN = "Train it again, to the same score on the same CPU with the same threads"

FORMAT = 1
"""Raised when a file of before could be misread."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NOT_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


class Run(BaseModel):
    """Where the trial ran; the same score needs the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    device: str | None = None
    threads: int | None = Field(default=None, ge=1, le=MOST_THREADS)


class Origin(BaseModel):
    """The trial that the file was written from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    trial: int
    objective: str
    value: float | None = Field(None, allow_inf_nan=False)


class _Data(DataConfig):
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class ExportedConfig:
    settings: dict[str, Any]
    """The hyperparameters as written; max_iters is missing where num_epochs stands for it."""
    config: TrialConfig
    """With everything that follows from them; of one step where only the text can say how many."""
    data: DataConfig
    data_fingerprint: str = ""
    """Of the text and its split at the time; empty where the file does not say."""
    run: Run = field(default_factory=Run)
    study: Origin | None = None
    """None for a file written by hand."""
    text: str = field(default="", compare=False, repr=False)
    """What was read."""


def document(view: StudyView, trial: TrialRecord) -> dict[str, Any]:
    """What an export holds, whatever its format. Hyperparameters that are off or do nothing are left out."""
    study = view.study
    return {
        "hpsearch": FORMAT,
        "study": {
            "name": study.name,
            "trial": trial.number,
            "objective": view.objective,
            "value": trial.value if finite(trial.value) else None,
        },
        "data": {**study.data, "fingerprint": study.data_fingerprint},
        "run": {"device": study.device, "threads": study.threads},
        "hyperparameters": {name: trial.config[name] for name in _names(view, trial)},
    }


def _names(view: StudyView, trial: TrialRecord) -> Iterable[str]:
    """Of what is written: all that a trainer of one's own was given, null too; of the built-in model's what has an effect."""
    return trial.config if view.study.own else [name for name in HYPERPARAMETERS if trial.config.get(name) is not None]


def to_json(view: StudyView, trial: TrialRecord) -> str:
    """The export as JSON; `read_config` reads it too. JSON has no comments: what fresh seeds said is a section of its own."""
    content = document(view, trial) | {"confirmation": confirmation(view, trial)}
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise BadInput("--format json: a hyperparameter is infinite or NaN, which JSON cannot say; use yaml or toml") from None
    return escaped(text) + "\n"


def confirmation(view: StudyView, trial: TrialRecord) -> dict[str, Any] | None:
    """What `status --json` has under this name; None where the trial was not retrained."""
    verdict = view.verdict
    found: dict[str, Any] | None = jsonable(verdict_dict(verdict)) if verdict and verdict.of(trial.number) else None
    return found


def best_config_yaml(view: StudyView, trial: TrialRecord) -> str:
    """The export as YAML with a comment on every line that needs one."""
    content = document(view, trial)
    lines = [f"# {line}".rstrip() for line in provenance(view, trial)]
    lines += ["", f"hpsearch: {FORMAT}  # of this file's form"]
    for section in ("study", "data", "run"):
        lines += ["", f"{section}:", *(f"  {key}: {scalar(value)}" for key, value in content[section].items())]
    lines += ["", "hyperparameters:"]
    if view.study.own:
        lines += [f"  {scalar(name)}: {scalar(value)}" for name, value in content["hyperparameters"].items()]
        return "\n".join(lines) + "\n"
    for section, members in groupby(HYPERPARAMETERS.values(), key=lambda info: info.section):
        infos = list(members)
        lines += [""] * (lines[-1] != "hyperparameters:") + [f"  # {section}"]
        for info in infos:
            if info.name in content["hyperparameters"]:
                setting = f"  {info.name}: {scalar(content['hyperparameters'][info.name])}"
                lines.append(f"{setting:<42}  # {_doc(info)}")
        left_out = [info.name for info in infos if info.name not in content["hyperparameters"]]
        if left_out:
            lines.append(f"  # off, or without effect here: {', '.join(left_out)}")
    return "\n".join(lines) + "\n"


def read_config(path: Path | None, changes: Mapping[str, Any] | None = None) -> ExportedConfig:
    """Read an export (YAML, JSON or, where the name ends in `.toml`, TOML), or a file of the same form written by hand.

    changes: values that replace or join those of the file, by name: `learning_rate`, `data.tokenizer`. Without a path they
    are all there is. Raises SpaceError with file:line:column for what cannot be used, BadInput for a file that cannot be read
    and for a change.
    """
    content, places, text = _parse(path) if path is not None else ({"hyperparameters": {}}, {}, "")
    source = str(path) if path is not None else "--set"
    hyperparameters = content.pop("hyperparameters", None)
    content.pop("confirmation", None)  # Of the search; training needs nothing of it.
    sections: dict[str, Any] = {name: content.pop(name) for name in ("hpsearch", "study", "data", "run") if name in content}
    where: tuple[str, ...] = ("hyperparameters",)
    if hyperparameters is None:
        hyperparameters, where = content, ()
    elif content:
        name = next(iter(content))
        hint = did_you_mean(name, ["hpsearch", "study", "data", "run", "hyperparameters"])
        if name in HYPERPARAMETERS:
            hint = "; it is a hyperparameter: move it below 'hyperparameters'"
        raise _error(source, places, (name,), f"unknown section '{name}'{hint}")
    if not isinstance(hyperparameters, dict) or not (hyperparameters or changes):
        raise _error(source, places, where, "no hyperparameters here: write one `name: value` a line")
    changed = _changed(hyperparameters, sections, changes or {})
    data = sections.get("data")
    if isinstance(data, dict) and ("command" in data or "function" in data):
        what = data.get("command") or data.get("function")
        raise _error(source, places, ("data",), f"this is no config of the built-in model but of a trainer of your own: {what}")
    if sections.get("hpsearch", FORMAT) != FORMAT:
        message = (
            f"written in form {sections['hpsearch']}, and this hpsearch reads form {FORMAT}: use the version that wrote it"
        )
        raise _error(source, places, ("hpsearch",), message)
    try:
        given = canonical(hyperparameters)
        config = TrialConfig.build(({"max_iters": 1} if "num_epochs" in given else {}) | given)
    except ConfigError as error:
        if error.name in changed or path is None:
            raise BadInput(f"--set {error.name}: {str(error).removeprefix(f'{error.name}: ')}") from None
        raise _error(source, places, (*where, _spelling(hyperparameters, error.name)), str(error)) from None
    data = _section(_Data, "data", sections, source, places) or _Data.model_validate({})
    return ExportedConfig(
        settings=given,
        config=config,
        data=DataConfig(text=data.text, tokenizer=data.tokenizer, validation=data.validation),
        data_fingerprint=data.fingerprint,
        run=_section(Run, "run", sections, source, places) or Run(),
        study=_section(Origin, "study", sections, source, places),
        text=text,
    )


def _changed(hyperparameters: dict[str, Any], sections: dict[str, Any], changes: Mapping[str, Any]) -> set[str]:
    """Put `changes` in their places; the hyperparameters among them, by their canonical names."""
    changed: set[str] = set()
    for written, value in changes.items():
        section, dot, key = written.partition(".")
        if dot and section == "data":
            try:
                _Data.model_validate({key: value})
            except ValidationError as error:
                hint = did_you_mean(key, _Data.model_fields) if key not in _Data.model_fields else ""
                raise BadInput(f"--set {written}: {error.errors()[0]['msg']}, got {shown(value)}{hint}") from None
            written_there = sections.get("data") or {}
            sections["data"] = written_there | {key: value} if isinstance(written_there, dict) else written_there
            continue
        name = ALIASES.get(written, written)
        for spelled in [spelled for spelled in hyperparameters if ALIASES.get(spelled, spelled) == name]:
            del hyperparameters[spelled]
        hyperparameters[name] = value
        changed.add(name)
    return changed


def parse_value(text: str) -> Any:
    """The value of `--set NAME=VALUE`, as a file would have it after the name. Raises BadInput."""
    try:
        return plain(read_word(text, "--set"))
    except SpaceError as error:
        raise BadInput(f"--set …={text[:200]}: {error.message}") from None


def config_yaml(asked: ExportedConfig) -> str:
    """A config that was read, as a file that gives it again."""
    sections: dict[str, Mapping[str, Any]] = {
        "data": {**asked.data.model_dump(mode="json"), "fingerprint": asked.data_fingerprint},
        "run": asked.run.model_dump(),
        "hyperparameters": asked.settings,
    }
    lines = [f"hpsearch: {FORMAT}"]
    for section, values in sections.items():
        lines += [f"{section}:", *(f"  {name}: {scalar(value)}" for name, value in values.items() if value is not None)]
    return "\n".join(lines) + "\n"


def provenance(view: StudyView, trial: TrialRecord) -> list[str]:
    """What produced the trial, for the comments at the top of an export. No line holds a line break."""
    study, budget, baseline = view.study, view.study.budget, view.baseline
    what = "The best trial" if trial is view.best else "A trial"
    score = f"{view.objective} {short(trial.value)}" + (f" {view.unit}" if view.unit else "")
    beside = f" (baseline, trial 0: {short(baseline.value)})" if baseline and baseline is not trial else ""
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    spent = f" = {amount(budget.flops, 'FLOP')}" if budget.flops else ""
    compute = f"{trial.tokens:,} tokens, {amount(trial.flops, 'FLOP')}, "
    lines = [
        f"{what} of study {study.name}: trial {trial.number}, {trial.state.value}, {score}{beside}.",
        *([f"Reason: {trial.reason}"] if trial.reason else []),
        *(comment_lines(view.verdict, trial.number) if view.verdict else []),
        again(view, trial) if study.own else f"{_AGAIN}: hpsearch train --config FILE",
        "",
        f"Versions: {versions}",
        f"Budget: {short(budget.amount)} {budget.kind}{spent} per trial, {budget.evaluations} evaluations",
        f"Spent: {trial.iteration} steps, {'' if study.own else compute}{trial.seconds:.1f} s",
        f"Device: {study.device}, {study.threads} thread{'s' if study.threads != 1 else ''}, on {study.host}",
        f"Data: {study.data_fingerprint}",
        f"Space: {study.space_digest}",
        f"Search: {searched_by(study)}, seed {study.seed}; proposed by {trial.proposed_by}",
    ]
    # A line break in a name or a reason would end the comment.
    return [printable(" ".join(line.split())) for line in lines]


def _doc(info: Hyperparameter) -> str:
    return f"{info.doc} ({info.unit})" if info.unit and info.unit not in info.doc else info.doc


def scalar(value: Any) -> str:
    """A value in flow form that YAML 1.1 and 1.2 read back as exactly itself."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, str):
        plain = _WORD.fullmatch(value) and value.lower() not in _NOT_WORDS
        return value if plain else _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(scalar(key))}: {scalar(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    return str(value)


def _key(written: str) -> str:
    """With the mark of a key where it is long: YAML finds a key without one only within 1024 characters."""
    return f"? {written} " if len(written) > 1000 else written


def _quoted(text: str) -> str:
    """Double quotes as in JSON, in which the escapes of YAML are the same, but for characters beyond 16 bits."""
    return "".join(json.dumps(c)[1:-1] if c < "\U00010000" else f"\\U{ord(c):08x}" for c in text).join('""')


_Places = dict[tuple[str, ...], tuple[int, int]]


def _parse(path: Path) -> tuple[dict[str, Any], _Places, str]:
    """The content, where each key of it is, and the text."""
    text = read_text(path, CONFIG)
    node = read_toml(text, str(path)) if path.suffix.lower() == ".toml" else read_yaml(text, str(path), CONFIG)
    if not isinstance(node, MappingNode):
        raise SpaceError("no configuration here: write one `name: value` a line", path=str(path))
    places: _Places = {}
    _note_places(node, (), places)
    content = plain(node)
    assert isinstance(content, dict)
    return content, places, text


def _note_places(node: Node, prefix: tuple[str, ...], places: _Places) -> None:
    if isinstance(node, MappingNode):
        for key, value in node.items.items():
            here, at = (*prefix, key), node.places[key]
            places[here] = (at.line, at.column)
            _note_places(value, here, places)


def _section(model: type[Any], name: str, sections: Mapping[str, Any], path: str, places: _Places) -> Any:
    content = sections.get(name)
    if content is None:
        return None
    if not isinstance(content, dict):
        raise _error(path, places, (name,), f"'{name}' must hold one `key: value` a line")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise _error(path, places, (name, key), f"unknown key '{key}'{did_you_mean(key, model.model_fields)}") from None
        raise _error(path, places, (name, key), f"{name}.{key}: {first['msg']}, got {shown(first['input'])}") from None


def _spelling(settings: Mapping[str, Any], name: str) -> str:
    """How hyperparameter `name` is written in `settings`: possibly by an alias; the last one, where two disagree."""
    written = [key for key in settings if name in (key, ALIASES.get(key))]
    return str(written[-1]) if written else name


def _error(path: str, places: _Places, where: tuple[str, ...], message: str) -> SpaceError:
    line, column = places.get(where) or places.get(where[:-1]) or (1, 1)
    return SpaceError(message, path=path, line=line, column=column)

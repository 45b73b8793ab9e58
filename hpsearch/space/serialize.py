"""A space as plain data, as canonical YAML, and the differences between two of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from hpsearch.objectives import NEGATED
from hpsearch.space.names import OWN
from hpsearch.space.yaml_nodes import resolve

if TYPE_CHECKING:
    from hpsearch.space.space import SearchSpace

BUDGET_PARAMETERS = ("max_iters", "num_epochs")
"""As parameters, they are the budget."""


def content(space: SearchSpace) -> dict[str, Any]:
    budget: dict[str, Any] = {}
    if space.own or not any(name in space.parameters for name in BUDGET_PARAMETERS):
        budget[space.budget.kind] = _tidy(space.budget.amount)
    if space.own or "eval_interval" not in space.parameters:
        budget["evaluations"] = space.budget.evaluations
    objectives = [_objective(name) if space.own else name for name in space.objectives]
    whole: dict[str, Any] = {
        "name": space.name,
        "trainer": OWN if space.own else {},
        "objective": objectives[0] if len(objectives) == 1 else objectives,
        "data": {} if space.own else space.data.model_dump(mode="json"),
        "budget": budget,
        "parameters": {name: parameter.document() for name, parameter in space.parameters.items()},
        "require": [rule.expression.text for rule in space.rules],
        "constraints": {
            name: {key: _tidy(value) for key, value in (("min", bound.min), ("max", bound.max)) if value is not None}
            for name, bound in space.constraints.items()
        },
    }
    return {key: value for key, value in whole.items() if value not in ({}, [])}


def _objective(name: str) -> Any:
    """What a space for a trainer of one's own says of an objective."""
    return {"maximize": name.removeprefix(NEGATED)} if name.startswith(NEGATED) else name


def to_yaml(document: dict[str, Any]) -> str:
    top = CommentedMap()
    for key, value in document.items():
        nested = key in ("parameters", "constraints", "hyperparameters")
        top[key] = CommentedMap({name: _styled(item) for name, item in value.items()}) if nested else _styled(value)
        if key == "require":
            top[key] = CommentedSeq(_styled(rule) for rule in value)
    yaml = YAML()
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    written = io.StringIO()
    yaml.dump(top, written)
    return written.getvalue()


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    sentences: list[str] = []
    for section in dict.fromkeys([*before, *after]):
        empty: Any = [] if section == "require" else {}
        old, new = before.get(section, empty), after.get(section, empty)
        if old == new or section == "name":
            continue
        if section == "require":
            sentences += [f"rule removed: {rule}" for rule in old if rule not in new]
            sentences += [f"rule added: {rule}" for rule in new if rule not in old]
        elif section in ("objective", "trainer") or (section == "budget" and set(old) != set(new)):
            sentences.append(f"{section}: {_shown(old)} → {_shown(new)}")
        else:
            prefix = "" if section == "parameters" else f"{section}."
            sentences += _mapping_differences(prefix, old, new)
    return sentences


def _mapping_differences(prefix: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    sentences = []
    for name in dict.fromkeys([*old, *new]):
        label = f"{prefix}{name}"
        if name not in new:
            sentences.append(f"{label}: removed (was {_shown(old[name])})")
        elif name not in old:
            sentences.append(f"{label}: added ({_shown(new[name])})")
        elif old[name] != new[name]:
            before, after = old[name], new[name]
            if isinstance(before, dict) and isinstance(after, dict) and _form(before) == _form(after):
                keys = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
                parts = [f"{key} {_shown(before.get(key))} → {_shown(after.get(key))}" for key in keys]
                sentences.append(f"{label}: {', '.join(parts)}")
            else:
                sentences.append(f"{label}: {_shown(before)} → {_shown(after)}")
    return sentences


def _form(declared: dict[str, Any]) -> str:
    return next((key for key in ("low", "choices", "value") if key in declared), "bound")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _styled(value: Any) -> Any:
    """Small collections on one line; strings that would read as something else in quotes."""
    if isinstance(value, dict):
        mapping = CommentedMap({_styled(key): _styled(item) for key, item in value.items()})
        mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list):
        sequence = CommentedSeq(_styled(item) for item in value)
        sequence.fa.set_flow_style()
        return sequence
    if isinstance(value, str) and (not isinstance(resolve(value), str) or not value.isprintable() or value.startswith("?")):
        return DoubleQuotedScalarString(value)
    return value


def _tidy(value: float | None) -> int | float | None:
    return int(value) if value is not None and value.is_integer() and abs(value) < 1e15 else value

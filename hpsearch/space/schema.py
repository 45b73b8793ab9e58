"""The JSON Schema of a search space, from HYPERPARAMETERS: completion and checks while typing in an editor.

It knows every key, value, bound and choice. What depends on several entries (rules, priors inside their range, conditions)
only `load_space` can tell.
"""

from __future__ import annotations

from typing import Any, get_args

from hpsearch.config import HYPERPARAMETERS, DataConfig, TokenizerKind
from hpsearch.hyperparameter import Hyperparameter
from hpsearch.objectives import OBJECTIVES
from hpsearch.space.budget import BUDGET_KINDS, MAX_EVALUATIONS, WHOLE_KINDS
from hpsearch.space.load import NAME
from hpsearch.space.names import NAME as PARAMETER
from hpsearch.space.names import OWN
from hpsearch.space.parameters import AUTO, CONFIDENCES, NEEDS, may_be_empty
from hpsearch.space.parse import CONSTRAINTS

Schema = dict[str, Any]
_EXPRESSION: Schema = {"type": "string", "minLength": 1, "description": "an expression, as in `4 * d_model`"}
_WHEN: Schema = {"type": "string", "minLength": 1, "description": "a condition, as in `optimizer == 'sgd'`"}
_CONFIDENCE: Schema = {"enum": list(CONFIDENCES), "description": "how near the prior values are first looked for"}
_CONFIDENT: Schema = {"dependentRequired": {"confidence": ["prior"]}}
_POSITIVE: Schema = {"type": "number", "exclusiveMinimum": 0}
_NAME: Schema = {"type": "string", "pattern": f"^{NAME.pattern}$", "description": "the study's name, unless --study"}
_RULES: Schema = {
    "description": "rules that every configuration satisfies, as in `d_model % num_heads == 0`",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}},
    ],
}


def space_schema() -> Schema:
    """JSON Schema (draft 2020-12) of a search-space file: under `else` of one for the built-in model."""
    parameters: dict[str, Schema] = {}
    for name, info in HYPERPARAMETERS.items():
        parameters[name] = _parameter(info)
        for alias in info.aliases:
            parameters[alias] = {"$ref": f"#/else/properties/parameters/properties/{name}", "description": f"alias of {name}"}
    objective = {"enum": list(OBJECTIVES)}
    told = "\n".join(f"{each.name} ({each.unit}): {each.doc}" for each in OBJECTIVES.values())
    model = _closed(
        {
            "name": _NAME,
            "objective": {
                "description": told,
                "anyOf": [objective, {"type": "array", "items": objective, "minItems": 1, "uniqueItems": True}],
            },
            "data": _data(),
            "budget": _budget(),
            "parameters": {**_closed(parameters), "minProperties": 1},
            "require": _RULES,
            "constraints": _closed({name: _bound() for name in CONSTRAINTS}),
        },
        required=["parameters"],
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hpsearch search space",
        "if": {"type": "object", "properties": {"trainer": {"const": OWN}}, "required": ["trainer"]},
        "then": _own(),
        "else": model,
    }


def _own() -> Schema:
    """A space for a trainer of one's own, whose parameters may have any name."""
    name: Schema = {"type": "string", "pattern": f"^{PARAMETER.pattern}$"}
    directed = _closed({"minimize": name, "maximize": name})
    objective: Schema = {"anyOf": [name, {**directed, "minProperties": 1, "maxProperties": 1}]}
    count: Schema = {"type": "integer", "minimum": 1}
    single: list[Schema] = [{"type": kind} for kind in ("number", "string", "boolean", "null")]
    listed: Schema = {"type": ["number", "string", "boolean", "null"]}
    step: Schema = {**_POSITIVE, "description": "in steps of this"}
    number: Schema = {"type": "number"}
    confident: Schema = {"confidence": _CONFIDENCE, "when": _WHEN}
    ranged: Schema = {"low": number, "high": number, "log": {"type": "boolean"}, "step": step, "prior": number, **confident}
    choices: Schema = {"type": "array", "items": listed, "minItems": 1, "uniqueItems": True}
    forms = [
        *single,
        _closed({"value": {"anyOf": single}, "when": _WHEN}, required=["value"]),
        {**_closed(ranged, required=["low", "high"]), **_CONFIDENT},
        {**_closed({"choices": choices, "prior": listed, **confident}, required=["choices"]), **_CONFIDENT},
    ]
    return _closed(
        {
            "name": _NAME,
            "trainer": {"const": OWN, "description": "for a trainer of one's own: `--command`, or `hpsearch.tune`"},
            "objective": {"anyOf": [objective, {"type": "array", "items": objective, "minItems": 1}]},
            "budget": _closed({"steps": count, "evaluations": {**count, "maximum": MAX_EVALUATIONS}}, required=["steps"]),
            "parameters": {
                "type": "object",
                "propertyNames": {"pattern": f"^{PARAMETER.pattern}$"},
                "additionalProperties": {"anyOf": forms},
                "minProperties": 1,
            },
            "require": _RULES,
        },
        required=["parameters", "budget"],
    )


def _parameter(info: Hyperparameter) -> Schema:
    value = _value(info)
    empty: list[Schema] = [{"type": "null"}] if may_be_empty(info) else []
    single = [value, *empty]
    if info.kind in ("int", "float", "number", "bool"):
        single.append(_EXPRESSION)
    elif info.kind == "choice":
        # A quote tells an expression from a misspelt choice.
        single.append({**_EXPRESSION, "pattern": "['\"]"})
    forms = [*single, _closed({"value": {"anyOf": single}, "when": _WHEN}, required=["value"])]
    if not info.fixed:
        listed = {"anyOf": [value, *empty]}
        choices = {"type": "array", "items": listed, "minItems": 1, "uniqueItems": True}
        keys: Schema = {"choices": choices, "prior": _prior(info, listed), "confidence": _CONFIDENCE, "when": _WHEN}
        forms.append({**_closed(keys, required=["choices"]), **_CONFIDENT})
        if info.kind in ("int", "float"):
            forms.append(_range(info, value))
    return {"description": _doc(info), "anyOf": forms}


def _range(info: Hyperparameter, value: Schema) -> Schema:
    step = {**_POSITIVE, "type": "integer" if info.kind == "int" else "number"}
    ends: Schema = {"low": value, "high": value, "log": {"type": "boolean"}, "step": step}
    keys: Schema = {**ends, "prior": _prior(info, value), "confidence": _CONFIDENCE, "when": _WHEN}
    form = {**_closed(keys, required=["low", "high"]), **_CONFIDENT}
    logarithmic = {"properties": {"log": {"const": True}}, "required": ["log"]}
    return {**form, "if": logarithmic, "then": {"properties": {"low": {"exclusiveMinimum": 0}, "step": False}}}


def _prior(info: Hyperparameter, value: Schema) -> Schema:
    if info.name not in NEEDS:
        return value
    law: Schema = {"const": AUTO, "description": "from scaling laws, for each trial's own size and tokens"}
    return {"anyOf": [value, law]}


def _value(info: Hyperparameter) -> Schema:
    if info.kind == "choice":
        return {"enum": list(info.choices)}
    if info.kind == "str":
        return {"type": "string", "minLength": 1}
    if info.kind == "bool":
        return {"type": "boolean"}
    schema: Schema = {"type": "integer" if info.kind == "int" else "number"}
    if info.low is not None:
        schema["exclusiveMinimum" if info.low_open else "minimum"] = info.low
    if info.high is not None:
        schema["exclusiveMaximum" if info.high_open else "maximum"] = info.high
    return schema


def _doc(info: Hyperparameter) -> str:
    parts = [info.doc, f"default {info.default_text}"]
    if info.unit:
        parts.append(f"in {info.unit}")
    if info.documented:
        parts.append("documented range {:g} to {:g}".format(*info.documented))
    if info.fixed:
        parts.append(f"not searched: {info.fixed}")
    for key, needed in info.needs.items():
        parts.append(f"only with {key} {' or '.join(needed)}")
    return "; ".join(parts)


def _data() -> Schema:
    text = {"type": "string", "minLength": 1}
    weights = {"type": "object", "additionalProperties": _POSITIVE, "minProperties": 1}
    values: dict[str, Schema] = {
        "text": {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}, weights]},
        "tokenizer": {"enum": list(get_args(TokenizerKind))},
        "validation": {"anyOf": [{**_POSITIVE, "exclusiveMaximum": 1}, text]},
    }
    return _closed({key: {"description": DataConfig.model_fields[key].description, **each} for key, each in values.items()})


def _budget() -> Schema:
    units = {
        "device_seconds": "seconds on this device, measured once and frozen as FLOPs",
        "flops": "floating-point operations",
        "tokens": "training tokens",
        "max_iters": "optimizer steps",
        "num_epochs": "passes over the training text",
    }
    kinds: dict[str, Schema] = {
        kind: {
            **_POSITIVE,
            "type": "integer" if kind in WHOLE_KINDS else "number",
            "description": f"what a trial may spend: {unit}",
        }
        for kind, unit in units.items()
    }
    assert set(units) == set(BUDGET_KINDS)
    evaluations = {"type": "integer", "minimum": 1, "maximum": MAX_EVALUATIONS, "description": "evaluations per trial"}
    steps = {"$ref": "#/else/properties/budget/properties/max_iters"}
    aliases = dict.fromkeys(HYPERPARAMETERS["max_iters"].aliases, steps)
    return {
        **_closed({**kinds, **aliases, "evaluations": evaluations}),
        "anyOf": [{"maxProperties": 1}, {"required": ["evaluations"], "maxProperties": 2}],
    }


def _bound() -> Schema:
    limit = {"type": "number", "minimum": 0}
    return {**_closed({"min": limit, "max": limit}), "minProperties": 1}


def _closed(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema

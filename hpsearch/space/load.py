"""A search-space file → SearchSpace, or a SpaceError that says where, what, and what to do."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Collection
from collections.abc import Mapping as AnyMapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpsearch.config import ALIASES, HYPERPARAMETERS, DataConfig
from hpsearch.errors import BadInput, SpaceError, did_you_mean, hint
from hpsearch.objectives import NEGATED, OBJECTIVES
from hpsearch.space.budget import DEFAULT_BUDGET, read_budget, read_steps
from hpsearch.space.checks import check
from hpsearch.space.mistakes import Mistakes
from hpsearch.space.names import BUILT_IN, OWN, Names, own_names
from hpsearch.space.parameters import Fixed, Parameter
from hpsearch.space.parse import CONSTRAINTS, read_expression, read_parameter
from hpsearch.space.serialize import BUDGET_PARAMETERS
from hpsearch.space.space import Bound, Rule, SearchSpace
from hpsearch.space.yaml_nodes import Mapping, Node, Place, Scalar, Sequence, node_of, plain, read_text, read_word, read_yaml
from hpsearch.text import path_word

SECTIONS = ("name", "trainer", "objective", "data", "budget", "parameters", "require", "constraints")
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_.@:/-]{0,99}")
"""An objective of a trainer of one's own: the names that trainers give their metrics (`eval/loss`, `acc@1`)."""
ELSEWHERE_SECTIONS = {
    "metric": "write `objective: NAME`, or `objective: {maximize: NAME}`",
    "metrics": "write `objective: [NAME, NAME]`",
    "method": "choose it with --sampler",
    "sampler": "choose it with --sampler",
    "algorithm": "choose it with --sampler",
    "pruner": "choose it with --pruner",
    "early_terminate": "choose it with --pruner",
    "program": "give it with --command",
    "command": "give it with --command",
    "run_cap": "give it with --trials",
    "num_trials": "give it with --trials",
    "trials": "give it with --trials",
    **dict.fromkeys(("hyperparameters", "search_space", "params", "space"), "write `parameters:`"),
}
"""What other tools' files have at their top."""


def load_space(path: Path, *, own: bool = False) -> SearchSpace:
    """The space in a file. own: it is for a trainer of one's own, whether or not it says so (`trainer: own`).

    Raises SpaceError (what is in the file) or BadInput (a file that cannot be read).
    """
    return parse_space(read_text(path), str(path), own=own)


def parse_space(text: str, path: str = "<space>", *, own: bool = False) -> SearchSpace:
    """The space that a text is; see `load_space`. Raises SpaceError."""
    mistakes = Mistakes()
    return _from_node(read_yaml(text, path, mistakes=mistakes), own, mistakes)


def space_of(content: AnyMapping[str, Any], path: str = "<space>", *, own: bool = False) -> SearchSpace:
    """The space that a mapping of a Python program is; see `load_space`, and `node_of` for the values. Raises SpaceError."""
    return _from_node(node_of(content, Place(path)), own, Mistakes())


def _from_node(root: Node, own: bool, mistakes: Mistakes) -> SearchSpace:
    if not isinstance(root, Mapping):
        mistakes.check()
        found = "is empty" if plain(root) is None else "is no mapping"
        raise root.place.error(f"this search space {found}; it needs `parameters:` with at least one of them")
    if own and "trainer" not in root.items:
        root = _with(root, "trainer", Scalar(OWN, root.place))
    return _build(root, mistakes)


def override(
    space: SearchSpace,
    settings: AnyMapping[str, Any] | None = None,
    budget: AnyMapping[str, Any] | None = None,
    data: AnyMapping[str, Any] | None = None,
) -> SearchSpace:
    """The space with some of it replaced, checked anew: `--set name=value`, `--budget kind=amount`, `--data`.

    Strings are read as YAML scalars, so that `"3e-4"` is a number and `"4 * d_model"` an expression. Parameters whose `when`
    can no longer hold are dropped. Raises BadInput.
    """
    settings, budget, data = settings or {}, budget or {}, data or {}
    root = space.document
    try:
        parameters = root.items["parameters"]
        assert isinstance(parameters, Mapping)
        aliases = space.names.aliases
        by_name = {aliases.get(written, written): written for written in parameters.items}
        for written, value in settings.items():
            place = Place(f"--set {written}={value}")
            name = aliases.get(written, written)
            if space.own and name not in space.parameters:
                raise place.error(f"unknown parameter '{name}'{did_you_mean(name, space.parameters)}")
            parameter = space.parameters.get(name)
            given = _given(value, place, text=parameter is not None and parameter.info.kind == "str")
            if parameter is not None and parameter.when is not None:
                condition = Scalar(parameter.when.text, parameter.when_place or place)
                given = Mapping({"value": given, "when": condition}, {"value": place, "when": condition.place}, place)
            parameters = _with(_without(parameters, by_name.get(name, name)), written, given, place)
        if budget:
            root, parameters = _rebudgeted(space, root, parameters, budget)
        root = _with(root, "parameters", parameters)
        for key, value in data.items():
            place = Place(f"--data {key}={value}")
            old = root.items.get("data")
            whole = old if isinstance(old, Mapping) else Mapping({}, {}, place)
            # A text's or a tokenizer's name stays a name, whatever it looks like.
            if key == "text" and isinstance(value, str):
                with contextlib.suppress(UnicodeEncodeError):  # What can be no path is refused below.
                    value = path_word(value)
            node = _given(value, place) if key == "validation" else node_of(value, place)
            root = _with(root, "data", _with(whole, key, node, place), place)
        named = root if "name" in root.items else _with(root, "name", Scalar(space.name, root.place))
        return _build(named, Mistakes(), explicit={aliases.get(name, name) for name in settings})
    except SpaceError as error:
        if error.path.startswith("--"):
            raise BadInput(f"{error.path}: {error.message}") from None
        raise


def _rebudgeted(
    space: SearchSpace, root: Mapping, parameters: Mapping, budget: AnyMapping[str, Any]
) -> tuple[Mapping, Mapping]:
    old = root.items.get("budget")
    place = Place("--budget " + ",".join(f"{key}={value}" for key, value in budget.items()))
    kept = old if isinstance(old, Mapping) else Mapping({}, {}, place)
    if set(budget) - {"evaluations"}:
        for key in [key for key in kept.items if key != "evaluations"]:
            kept = _without(kept, key)
        for written in [] if space.own else list(parameters.items):
            if ALIASES.get(written, written) in BUDGET_PARAMETERS:
                parameters = _without(parameters, written)
    for key, value in budget.items():
        kept = _with(kept, key, _given(value, place), place)
    return _with(root, "budget", kept, place), parameters


def _build(root: Mapping, mistakes: Mistakes, explicit: Collection[str] | None = None) -> SearchSpace:
    """mistakes: of the reading. explicit: the parameters that an override sets; None when this is no override.

    Raises SpaceError with all that is wrong: what depends on a mistake is left out, everything else is looked at.
    """
    for key, place in root.places.items():
        if key not in SECTIONS:
            mistakes.append(place.error(f"unknown key '{key}'{_unknown_section(key)}"))
    try:
        own = _is_own(root, mistakes)
        declared = _declarations(root)
    except SpaceError as error:  # Nothing is known of the names.
        mistakes.append(error)
        mistakes.check()
        raise
    names = own_names(declared, mistakes) if own else BUILT_IN
    parameters = _parameters(declared, names, mistakes)
    unread = {names.aliases.get(written, written) for written in declared.items} - parameters.keys()
    sections: set[str] = set()
    """Those that could not be read."""

    def read(section: str, otherwise: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        before = len(mistakes)
        found = mistakes.attempt(otherwise, function, *arguments)
        if len(mistakes) > before:
            sections.add(section)
        return found

    node = root.items.get("budget")
    if own:
        budget = read("budget", DEFAULT_BUDGET, read_steps, node, root)
    elif not unread & {*BUDGET_PARAMETERS, "eval_interval"}:
        budget = read("budget", DEFAULT_BUDGET, read_budget, node, parameters)
    else:
        budget = DEFAULT_BUDGET
        sections.add("budget")
    space = SearchSpace(
        name=read("name", "space", _name, root),
        objectives=read("objective", (), _own_objectives, root)
        if own
        else read("objective", (), _objectives, root, parameters),
        data=read("data", DataConfig.model_validate({}), _data, root.items.get("data")),
        budget=budget,
        parameters=parameters,
        rules=_rules(root.items.get("require"), names, mistakes),
        constraints=read("constraints", {}, _constraints, root.items.get("constraints")),
        document=root,
        names=names,
    )
    space = check(space, mistakes, unread, sections, explicit)
    mistakes.check()
    return space


def _unknown_section(key: str) -> str:
    if key in HYPERPARAMETERS or key in ALIASES:
        return "; it belongs under `parameters:`"
    return hint(key, SECTIONS, ELSEWHERE_SECTIONS) or "; known: " + ", ".join(SECTIONS)


def _is_own(root: Mapping, mistakes: Mistakes) -> bool:
    """Whether the space is for a trainer of one's own; what such a space cannot have is noted. Raises SpaceError."""
    node = root.items.get("trainer")
    if node is None:
        return False
    if plain(node) != OWN:
        raise node.place.error(
            f"trainer is `{OWN}`, or left out for the built-in model; --command names the program itself, never a space"
        )
    for key in ("data", "constraints"):
        if key in root.places:
            told = f"{key} is for the built-in model; a trainer of your own takes it as a parameter"
            mistakes.append(root.places[key].error(told))
    return True


def _declarations(root: Mapping) -> Mapping:
    node = root.items.get("parameters")
    if not isinstance(node, Mapping) or not node.items:
        place = node.place if node else root.place
        raise place.error(
            "`parameters:` is missing or empty; give at least one: learning_rate: {low: 1e-5, high: 1e-2, log: true}"
        )
    return node


def _parameters(node: Mapping, names: Names, mistakes: Mistakes) -> dict[str, Parameter]:
    """Those that can be read."""
    parameters: dict[str, Parameter] = {}
    spelled: dict[str, str] = {}
    disputed: set[str] = set()
    """Said twice, differently: neither is what was meant, so nothing that depends on it is looked at."""
    for written, item in node.items.items():
        place = node.places[written]
        if written in names.broken:
            continue
        with mistakes.noting():
            parameter = read_parameter(names, written, place, item)
            name = parameter.name
            if name in parameters and parameters[name] != parameter:
                disputed.add(name)
                raise place.error(
                    f"'{written}' and '{spelled[name]}' (line {parameters[name].place.line}) are two names of {name} and "
                    "disagree; keep one"
                )
            parameters.setdefault(name, parameter)
            spelled.setdefault(name, written)
    return {name: parameter for name, parameter in parameters.items() if name not in disputed}


def _name(root: Mapping) -> str:
    node = root.items.get("name")
    if node is None:
        stem = Path(root.place.path).stem.strip("<>")
        if not NAME.fullmatch(stem):
            raise root.place.error(f"'{stem}' cannot be a study's name; add `name:` with letters, digits, '.', '_' or '-'")
        return stem
    if not isinstance(node, Scalar) or not isinstance(node.value, str) or not NAME.fullmatch(node.value):
        raise node.place.error("a name has 1 to 128 letters, digits, '.', '_' or '-', and is in quotes if it is a number")
    return node.value


def _objectives(root: Mapping, parameters: dict[str, Parameter]) -> tuple[str, ...]:
    node = root.items.get("objective")
    if node is None:
        architecture = parameters.get("architecture")
        encoder = isinstance(architecture, Fixed) and architecture.value == "encoder"
        return ("val_masked_bpb" if encoder else "val_bpb",)
    items = node.items if isinstance(node, Sequence) else (node,)
    found: list[str] = []
    for item in items:
        name = plain(item)
        if not isinstance(name, str) or name not in OBJECTIVES:
            near = did_you_mean(name, OBJECTIVES) if isinstance(name, str) else ""
            raise item.place.error(f"unknown objective '{name}'{near or '; known: ' + ', '.join(OBJECTIVES)}")
        if name in found:
            raise item.place.error(f"objective {name} is given twice; keep one")
        found.append(name)
    if not found:
        raise node.place.error(f"objective is empty; give one of {', '.join(OBJECTIVES)}")
    return tuple(found)


def _own_objectives(root: Mapping) -> tuple[str, ...]:
    """What a trainer of one's own reports: `loss`, or `{maximize: accuracy}`, or a list of such; `value` by default."""
    node = root.items.get("objective")
    if node is None:
        return ("value",)
    found: list[str] = []
    for item in node.items if isinstance(node, Sequence) else (node,):
        name, sign = plain(item), ""
        if isinstance(item, Mapping) and len(item.items) == 1:
            ((direction, name),) = ((key, plain(value)) for key, value in item.items.items())
            if direction not in ("minimize", "maximize"):
                hint = did_you_mean(direction, ("minimize", "maximize")) or "; known: minimize, maximize"
                raise item.places[direction].error(f"objective: unknown direction '{direction}'{hint}")
            sign = NEGATED if direction == "maximize" else ""
        if not isinstance(name, str) or not METRIC.fullmatch(name):
            raise item.place.error(
                "objective is a name that your trainer reports, as in loss or {maximize: eval/accuracy}: a letter, then "
                "at most 99 letters, digits, '_', '.', '-', '/', '@' or ':'"
            )
        if not sign and name.startswith(NEGATED):
            raise item.place.error(
                f"objective {name}: '{NEGATED}' before a name is how hpsearch itself writes one that is maximized; "
                f"write {{maximize: {name.removeprefix(NEGATED) or 'name'}}}, or give it another name"
            )
        if f"{sign}{name}" in found:
            raise item.place.error(f"objective {name} is given twice; keep one")
        found.append(f"{sign}{name}")
    if not found:
        raise node.place.error("objective is empty; give a name that your trainer reports")
    return tuple(found)


def _data(node: Node | None) -> DataConfig:
    if node is None:
        return DataConfig.model_validate({})
    if not isinstance(node, Mapping):
        raise node.place.error("data is written {text: pydoc, tokenizer: bytes, validation: 0.1}")
    fields = DataConfig.model_fields
    mistakes = Mistakes()
    for key, place in node.places.items():
        if key not in fields:
            near = did_you_mean(key, fields) or "; known: " + ", ".join(fields)
            mistakes.append(place.error(f"data: unknown key '{key}'{near}"))
    mistakes.check()
    written = {key: plain(item) for key, item in node.items.items()}
    tokenizer, validation = written.get("tokenizer"), written.get("validation", 0.1)
    try:
        config = DataConfig.model_validate(written)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        near = did_you_mean(tokenizer, ("bytes", "chars", "bpe")) if key == "tokenizer" and isinstance(tokenizer, str) else ""
        raise node.items[key].place.error(f"data: {key} is {fields[key].description}{near}") from None
    texts = [config.text] if isinstance(config.text, str) else list(config.text)
    weights = list(config.text.values()) if isinstance(config.text, dict) else []
    if not texts or not all(texts) or not all(0 < weight < math.inf for weight in weights):
        raise node.items["text"].place.error("data: text needs at least one text, each with a name, and weights above 0")
    if (
        validation is True
        or (isinstance(config.validation, float) and not 0 < config.validation < 1)
        or config.validation == ""
    ):
        raise node.items["validation"].place.error(
            f"data: validation {validation} is neither a share above 0 and below 1 nor a file; 0.1 is usual"
        )
    return config


def _rules(node: Node | None, names: Names, mistakes: Mistakes) -> tuple[Rule, ...]:
    if node is None:
        return ()
    items = node.items if isinstance(node, Sequence) else (node,)
    rules: list[Rule] = []
    for item in items:
        with mistakes.noting():
            rule = Rule(read_expression(names, item, "boolean", "a rule"), item.place)
            if rule not in rules:
                rules.append(rule)
    return tuple(rules)


def _constraints(node: Node | None) -> dict[str, Bound]:
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        raise node.place.error("constraints are written num_parameters: {max: 5e6}")
    found: dict[str, Bound] = {}
    mistakes = Mistakes()
    for name, item in node.items.items():
        with mistakes.noting():
            if name not in CONSTRAINTS:
                raise node.places[name].error(
                    f"unknown constraint '{name}'{did_you_mean(name, CONSTRAINTS) or '; known: ' + ', '.join(CONSTRAINTS)}"
                )
            found[name] = _bound(name, item)
    mistakes.check()
    return found


def _bound(name: str, item: Node) -> Bound:
    if not isinstance(item, Mapping) or not item.items:
        raise item.place.error(f"{name} is limited as in {{max: 5e6}} or {{min: 1e5, max: 5e6}}")
    sides: dict[str, float] = {}
    for side, limit in item.items.items():
        if side not in ("min", "max"):
            raise item.places[side].error(f"{name}: unknown key '{side}'; known: min, max")
        value = plain(limit)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e300:
            raise limit.place.error(
                f"{name}: {side} is a number from 0, not {value if isinstance(limit, Scalar) else 'a list'}"
            )
        sides[side] = float(value)
    bound = Bound(**sides)
    if bound.min is not None and bound.max is not None and bound.min > bound.max:
        raise item.items["min"].place.error(f"{name}: min {bound.min:g} is above max {bound.max:g}; swap them")
    return bound


def _given(value: Any, place: Place, *, text: bool = False) -> Node:
    """A value that replaces another: a word is read as in a file. text: it is for a parameter that is a text."""
    if not isinstance(value, str):
        return node_of(value, place)
    node = read_word(value, place.path)
    other = isinstance(node, Scalar) and node.value is not None and not isinstance(node.value, str)
    return Scalar(value, place) if text and other else node


def _with(mapping: Mapping, key: str, node: Node, place: Place | None = None) -> Mapping:
    at = place or mapping.places.get(key, mapping.place)
    return Mapping(mapping.items | {key: node}, mapping.places | {key: at}, mapping.place)


def _without(mapping: Mapping, key: str) -> Mapping:
    items = {each: node for each, node in mapping.items.items() if each != key}
    return Mapping(items, {each: mapping.places[each] for each in items}, mapping.place)

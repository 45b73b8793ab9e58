"""What is known of the names under `parameters:`: those of the built-in model, or those that a space gives its own trainer.

A space for a trainer of one's own (`trainer: own`) may name anything. What a parameter is (a whole number, a number, a
truth, a text) then follows from how it is declared, and nothing else is known of it: no default, bounds, aliases or unit.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hpsearch.config import ALIASES, HYPERPARAMETERS, TrialConfig, canonical_name
from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.hyperparameter import Hyperparameter
from hpsearch.space.expressions import ExpressionError, Kind, NoExpression, UnknownValue, Value, dotted_names, parse_expression
from hpsearch.space.mistakes import Mistakes
from hpsearch.space.yaml_nodes import Mapping as MappingNode
from hpsearch.space.yaml_nodes import Node, Scalar, Sequence

SHAPE = ("d_model", "num_heads", "num_groups", "position", "max_position_embeddings", "context_length")
"""What `TrialConfig.build` checks against each other."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
"""A parameter of a trainer of one's own."""
_SINGLE = re.compile(r"[\w.]+")
"""A word by itself, which is more likely a text than a name with a mistake in it."""


@dataclass(frozen=True)
class Names:
    """The parameters that a space may speak of."""

    infos: Mapping[str, Hyperparameter]
    aliases: Mapping[str, str]
    own: bool = False
    """Whether they are those of a trainer of one's own."""
    broken: frozenset[str] = frozenset()
    """Declared in a way that does not tell what they are; what is said of them is left alone."""

    @property
    def shape(self) -> tuple[str, ...]:
        """Those whose values must fit together whatever the rules say."""
        return () if self.own else SHAPE

    @functools.cached_property
    def kinds(self) -> dict[str, Kind]:
        """The kinds of names in expressions."""
        return {name: kind_of(info) for name, info in self.infos.items()}

    def canonical(self, written: str) -> str:
        """The name that a word stands for. Raises ConfigError with the nearest one."""
        if not self.own:
            return canonical_name(written)
        if written not in self.infos:
            raise ConfigError(written, f"unknown parameter '{written}'", did_you_mean(written, self.infos))
        return written

    def lookup(self, name: str, settings: Mapping[str, Any], unknown: Collection[str] = ()) -> Value:
        """The value of a parameter beside `settings`; see `lookup`."""
        return lookup(name, settings, unknown, self.infos)

    def told(self, names: Collection[str], settings: Mapping[str, Any]) -> str:
        """`d_model 128, num_heads 3`"""
        return told(names, settings, self.infos)

    def misfit(self, settings: Mapping[str, Any]) -> ConfigError | None:
        """Why no trainer takes these settings; only of the built-in one is that known beforehand."""
        if self.own:
            return None
        try:
            TrialConfig.build({"max_iters": 1, **settings})
        except ConfigError as error:
            return error
        return None


def kind_of(info: Hyperparameter) -> Kind:
    if info.kind in ("int", "float", "number"):
        return "number"
    return "boolean" if info.kind == "bool" else "string"


OWN = "own"
"""`trainer:` in a space, and the section of its parameters."""

BUILT_IN = Names(HYPERPARAMETERS, ALIASES)


RESERVED = ("and", "or", "not", "in", "if", "else", "is", "true", "false", "True", "False", "None")
"""Words of the language of expressions, which could not be told from a parameter there."""


def own_names(parameters: MappingNode, mistakes: Mistakes) -> Names:
    """The names that a space gives to the parameters of its own trainer, with what their declarations say they are.

    A text that reads as an expression over other parameters is one; every other text is itself. What is wrong is noted.
    """
    infos: dict[str, Hyperparameter] = {}
    texts: dict[str, Scalar] = {}
    broken: set[str] = set()
    for name, item in parameters.items.items():
        if not NAME.fullmatch(name):
            told = "the name of a parameter begins with a letter and has at most 100 letters, digits, '_', '.' or '-'"
            mistakes.append(parameters.places[name].error(f"'{name}': {told}"))
            broken.add(name)
            continue
        if name in RESERVED:
            told = f"'{name}' is a word of the language of expressions; give the parameter another name, such as {name}_"
            mistakes.append(parameters.places[name].error(told))
            broken.add(name)
            continue
        single = item.items.get("value") if isinstance(item, MappingNode) else item
        if isinstance(single, Scalar) and isinstance(single.value, str):
            texts[name] = single
        elif kind := mistakes.attempt("", _declared_kind, name, item):
            infos[name] = _info(name, kind)
        else:
            broken.add(name)
    while texts:
        kinds = {name: kind_of(info) for name, info in infos.items()}
        found: dict[str, str] = {}
        for name, text in texts.items():
            read = mistakes.attempt(BROKEN, _kind_of_text, name, text, kinds, texts, parameters.items, broken)
            if read:
                found[name] = read
        if not found:
            cycle = " and ".join(texts)
            told = f"values that need each other: {cycle}; give one of them a value of its own"
            mistakes.append(parameters.places[next(iter(texts))].error(told))
            broken |= texts.keys()
            break
        for name, kind in found.items():
            if kind == BROKEN:
                broken.add(name)
            else:
                infos[name] = _info(name, kind)
            del texts[name]
    known = {name: infos[name] for name in parameters.items if name in infos}
    return Names(known, {}, own=True, broken=frozenset(broken))


BROKEN = "broken"


def _kind_of_text(
    name: str,
    node: Scalar,
    kinds: Mapping[str, Kind],
    waiting: Collection[str],
    declared: Collection[str],
    broken: Collection[str],
) -> str:
    """`str` for a text that is itself, the kind of the value that an expression comes to; empty when it depends on one of
    `waiting`, BROKEN when on one of `broken`. declared: all names of the space."""
    text = str(node.value)
    try:
        expression = parse_expression(text, kinds, also=declared)
    except NoExpression:
        return "str"
    except ExpressionError as error:
        if error.unknown in waiting and error.unknown != name:
            return ""
        if error.unknown in broken:
            return BROKEN
        if not error.unknown:
            if not error.names:
                return "str"
            told = f"{name}: `{text}`: {error.message}; a text that only looks like an expression is written {{choices: [...]}}"
            raise node.place.error(told) from None
        alike = dotted_names(kinds) if "." in error.unknown else kinds
        near = "" if _SINGLE.fullmatch(text.strip()) else did_you_mean(error.unknown, alike)
        if near:
            raise node.place.error(f"{name}: `{text}` names '{error.unknown}', which is no parameter{near}") from None
        return "str"
    if not expression.names:
        return "str"
    # A choice without choices: read as an expression that comes to a text.
    return {"number": "number", "boolean": "bool", "string": "choice"}[expression.kind]


def _declared_kind(name: str, node: Node) -> str:
    if not isinstance(node, MappingNode):
        return _kind(name, [node])
    if "choices" in node.items:
        listed = node.items["choices"]
        return _kind(name, list(listed.items)) if isinstance(listed, Sequence) else "str"
    if "low" in node.items or "high" in node.items:
        ends = [node.items[key] for key in ("low", "high", "step", "prior") if key in node.items]
        return "int" if all(isinstance(end, Scalar) and type(end.value) is int for end in ends) else "float"
    return _kind(name, [node.items["value"]]) if "value" in node.items else "str"


def _kind(name: str, nodes: list[Node]) -> str:
    """What values of one parameter are; null is any of them."""
    types = {type(node.value) for node in nodes if isinstance(node, Scalar) and node.value is not None}
    if types <= {int, float}:
        return "int" if types == {int} else "float" if types else "str"
    if len(types) > 1:
        raise nodes[0].place.error(f"{name}: its values are of several kinds; use numbers, texts, or true and false")
    return "bool" if types == {bool} else "str"


def _info(name: str, kind: Any) -> Hyperparameter:
    return Hyperparameter(
        name=name,
        section=OWN,
        doc="",
        kind=kind,
        default=None,
        derived=None,
        optional=True,
        choices=(),
        low=None,
        low_open=False,
        high=None,
        high_open=False,
        aliases=(),
        unit="",
        fixed="",
        needs={},
        documented=None,
    )


def lookup(
    name: str,
    settings: Mapping[str, Any],
    unknown: Collection[str] = (),
    infos: Mapping[str, Hyperparameter] = HYPERPARAMETERS,
) -> Value:
    """The value of a hyperparameter beside `settings`: its own, else what its default follows, else its default.

    Raises UnknownValue where only the budget knows it, where it is off, and for `unknown` names.
    """
    if name in unknown:
        raise UnknownValue(name)
    value = settings.get(name)
    if value is None:
        info = infos[name]
        if info.derived == "budget":
            raise UnknownValue(name)
        value = lookup(info.derived, settings, unknown, infos) if info.derived else info.default
    if value is None:
        raise UnknownValue(name)
    result: Value = value
    return result


def told(names: Iterable[str], settings: Mapping[str, Any], infos: Mapping[str, Hyperparameter] = HYPERPARAMETERS) -> str:
    """`d_model 128, num_heads 3`"""
    parts = []
    for name in dict.fromkeys(names):
        try:
            parts.append(f"{name} {lookup(name, settings, infos=infos)}")
        except UnknownValue:
            parts.append(f"{name} not known")
    return ", ".join(parts)

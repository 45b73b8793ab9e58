"""One entry under `parameters:` → Parameter, with errors at the place of what is wrong."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Literal

from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.hyperparameter import LARGEST, Hyperparameter
from hpsearch.space.expressions import Expression, ExpressionError, Kind, parse_expression
from hpsearch.space.mistakes import Follows, Mistakes
from hpsearch.space.names import OWN, Names
from hpsearch.space.parameters import (
    AUTO,
    CONFIDENCES,
    NEEDS,
    Choices,
    Confidence,
    Derived,
    Fixed,
    Parameter,
    Range,
    Setting,
    may_be_empty,
)
from hpsearch.space.yaml_nodes import Mapping, Node, Place, Scalar, Sequence, plain

FORMS: dict[str, tuple[str, ...]] = {
    "value": ("value", "when"),
    "choices": ("choices", "prior", "confidence", "when"),
    "low": ("low", "high", "log", "step", "prior", "confidence", "when"),
}
"""The keys of each way to declare a parameter, by the key that tells which one it is."""
CONSTRAINTS = ("num_parameters", "flops_per_token", "memory_bytes", "train_seconds")
MOST = 1e300
"""Of a number for a trainer of one's own: differences and small multiples of such numbers are still numbers."""
_CHOICES = "write {choices: [...]}"
_LOG = "write {low: …, high: …, log: true}"
_RANGE = "write {low: …, high: …}"
KEYS = {
    **dict.fromkeys(
        ("values", "options", "categories", "categorical", "choice", "items", "list", "enum", "grid", "grid_search", "ordinal"),
        _CHOICES,
    ),
    **dict.fromkeys(("min", "lower", "minimum", "lo", "lower_bound", "from", "start"), "write low"),
    **dict.fromkeys(("max", "upper", "maximum", "hi", "upper_bound", "to", "end", "stop"), "write high"),
    **dict.fromkeys(("bounds", "range", "uniform", "randint", "int", "float", "finrange"), _RANGE),
    **dict.fromkeys(("loguniform", "log_uniform", "log_uniform_values", "lograndint", "logfinrange"), _LOG),
    **dict.fromkeys(("quniform", "qrandint"), "write {low: …, high: …, step: …}"),
    **dict.fromkeys(("q", "quantization", "increment", "quantum"), "write step"),
    **dict.fromkeys(
        ("log_scale", "logscale", "is_log", "use_log", "scale", "distribution", "dist"), "for a log scale write log: true"
    ),
    **dict.fromkeys(("default", "default_value", "initial", "init", "initial_value", "mode"), "write prior"),
    **dict.fromkeys(("const", "constant", "fixed"), "write value"),
    **dict.fromkeys(("condition", "conditions", "if", "depends_on", "parent"), "write when: an expression"),
    **dict.fromkeys(("mu", "sigma", "mean", "std"), "no distribution here has one; write {low: …, high: …, prior: …}"),
    **dict.fromkeys(("probabilities", "weights", "p"), "choices are equally likely at first; leave it out"),
    "type": "leave it out: 3 is a whole number and 3.0 is not",
}
"""What the keys of other tools (W&B, Ray Tune, Optuna, Syne Tune, Nevergrad) are here; for hints only."""
DISTRIBUTIONS = (
    (("log_uniform_values", "loguniform", "log-uniform", "log", "logarithmic", "lograndint"), "write log: true"),
    (("q_log_uniform_values", "qloguniform"), "write log: true, and leave the step out"),
    (("log_uniform", "q_log_uniform"), "write log: true, with low and high themselves, not their exponents"),
    (("q_uniform", "quniform", "qrandint"), "write step: …"),
    (("categorical", "choice", "ordinal"), _CHOICES),
    (("constant",), "write value: …"),
    (("uniform", "int_uniform", "randint", "linear"), "leave it out: low and high say it"),
    (("int", "integer", "float", "double"), "leave it out: 3 is a whole number and 3.0 is not"),
    (("normal", "q_normal", "log_normal", "q_log_normal", "beta", "inv_log_uniform_values"), "there is none such; " + _RANGE),
)
MAX_STEPS = 1_000_000_000


def read_parameter(names: Names, written: str, key: Place, node: Node) -> Parameter:
    try:
        info = names.infos[names.canonical(written)]
    except ConfigError as error:
        near = "" if error.hint else "; `hpsearch params` lists them (`trainer: own` lets a space name any)"
        raise key.error(f"{error}{near}") from None
    match node:
        case Scalar():
            return _single(names, info, node, key, None, None)
        case Sequence():
            raise node.place.error(f"{written}: a list of choices is written {{choices: [...]}}")
        case Mapping():
            return _declared(names, info, node, key)


def read_expression(names: Names, node: Node, wanted: Kind, label: str) -> Expression:
    """label: what it is, for the messages (`when`, `a rule`, or the hyperparameter)."""
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise node.place.error(f"{label} is an expression such as `d_model % num_heads == 0`, not {_shown(node)}")
    try:
        expression = parse_expression(node.value, names.kinds, names.aliases, names.broken)
    except ExpressionError as error:
        if error.unknown in names.broken:
            raise Follows from None
        message = _unknown_name(names, error) if error.unknown else error.message
        raise _inside(node, error.offset).error(f"{label}: {message}") from None
    for name, string, offset in expression.literals:
        choices = names.infos[name].choices
        if choices and string not in choices:
            raise _inside(node, offset).error(f"{label}: {_no_choice(names.infos[name], string)}")
    if expression.kind != wanted:
        hint = f"; did you mean `{expression.text} == 0`?" if (wanted, expression.kind) == ("boolean", "number") else ""
        needed = "true or false" if wanted == "boolean" else f"a {wanted}"
        raise node.place.error(f"{label} must come to {needed}; `{expression.text}` comes to a {expression.kind}{hint}")
    return expression


def _declared(names: Names, info: Hyperparameter, node: Mapping, key: Place) -> Parameter:
    known = tuple(dict.fromkeys(each for keys in FORMS.values() for each in keys))
    mistakes = Mistakes()
    for each, place in node.places.items():
        if each not in known:
            told = _elsewhere(each, node.items[each]) or did_you_mean(each, known) or f"; known: {', '.join(known)}"
            mistakes.append(place.error(f"{info.name}: unknown key '{each}'{told}"))
    form = next((form for form in FORMS if form in node.items), "low" if "high" in node.items else None)
    if form is None:
        mistakes.check()
        raise node.place.error(f"{info.name}: give a value, {{low, high}} or {{choices}}")
    for each, place in node.places.items():
        if each in known and each not in FORMS[form]:
            mistakes.append(place.error(f"{info.name}: '{each}' does not go with '{form}'; remove one of them"))
    when = when_place = None
    if "when" in node.items:
        when_place = node.items["when"].place
        with mistakes.noting():
            when = read_expression(names, node.items["when"], "boolean", f"{info.name}: when")

    def read() -> Parameter:
        if form == "value":
            return _single(names, info, node.items["value"], key, when, when_place)
        if info.fixed:
            raise key.error(f"a range on {info.name} is refused: {info.fixed}; give it one value")
        return (_choices if form == "choices" else _range)(info, node, key, when, when_place)

    parameter = mistakes.attempt(None, read)
    mistakes.check()
    assert parameter is not None
    return parameter


def _elsewhere(key: str, node: Node) -> str:
    """What a key of another tool is here, or an empty string."""
    word = key.lower()
    if word in ("distribution", "dist", "type", "scale") and isinstance(node, Scalar):
        kind = str(node.value).lower()
        told = next((told for words, told in DISTRIBUTIONS if kind in words), "")
        if told:
            return f"; {told}"
    return f"; {KEYS[word]}" if word in KEYS else ""


def _single(
    names: Names, info: Hyperparameter, node: Node, key: Place, when: Expression | None, when_place: Place | None
) -> Parameter:
    if not isinstance(node, Scalar):
        raise node.place.error(f"{info.name}: one value is needed, not {_shown(node)}")
    expression = _expression(names, info, node)
    if expression is not None:
        if expression.names:
            return Derived(name=info.name, info=info, when=when, place=key, when_place=when_place, expression=expression)
        node = Scalar(_constant(expression, node, info), node.place)
    return Fixed(name=info.name, info=info, when=when, place=key, when_place=when_place, value=read_value(info, node))


def read_given(names: Names, info: Hyperparameter, node: Node) -> Setting:
    """One value without names in it: `128`, `2 ** 7`. Raises SpaceError."""
    expression = _expression(names, info, node) if isinstance(node, Scalar) else None
    if expression is not None:
        if expression.names:
            raise node.place.error(f"{info.name}: one value is needed, not an expression over {' and '.join(expression.names)}")
        assert isinstance(node, Scalar)
        node = Scalar(_constant(expression, node, info), node.place)
    return read_value(info, node)


def _expression(names: Names, info: Hyperparameter, node: Scalar) -> Expression | None:
    """The expression that a text is; None for what is a value by itself."""
    if not isinstance(node.value, str) or info.kind == "str":
        return None
    word = node.value.strip()
    if info.kind == "bool" and word.lower() in ("yes", "no", "on", "off", "y", "n"):
        raise node.place.error(f"{info.name}: write true or false, not {word}")
    if info.choices and (word in info.choices or word.isidentifier()):
        return None
    return read_expression(names, node, names.kinds[info.name], info.name)


def _constant(expression: Expression, node: Scalar, info: Hyperparameter) -> bool | int | float | str:
    try:
        return expression.evaluate(lambda name: 0)
    except ExpressionError as error:
        raise node.place.error(f"{info.name}: {error.message}") from None


def read_value(info: Hyperparameter, node: Node, what: str = "") -> Setting:
    """A value of the hyperparameter's own type, within its bounds. what: `low`, `prior`…, for the messages."""
    label = f"{info.name}: {what}" if what else info.name
    value = node.value if isinstance(node, Scalar) else None
    if not isinstance(node, Scalar):
        raise node.place.error(f"{label}: one value is needed, not {_shown(node)}")
    if value is None:
        if may_be_empty(info) and what in ("", "a choice", "prior"):
            return None
        raise node.place.error(f"{label} has no value; give {_wanted(info)}")
    if info.kind == "choice":
        if value not in info.choices:
            raise node.place.error(f"{label}: {_no_choice(info, value)}")
        return value
    if info.kind == "str":
        if not isinstance(value, str) or not value:
            raise node.place.error(f"{label} is {_wanted(info)}, not {_shown(node)}")
        return value
    if info.kind == "bool":
        if not isinstance(value, bool):
            raise node.place.error(f"{label} is true or false, not {_shown(node)}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise node.place.error(f"{label} is {_wanted(info)}, not {_shown(node)}")
    number = _typed(info, value, node.place, label)
    reason = _out_of_bounds(info, number)
    if reason:
        raise node.place.error(f"{label} {number} is out of bounds: {reason}")
    return number


def _typed(info: Hyperparameter, value: int | float, place: Place, label: str) -> int | float:
    if info.kind == "float":
        try:
            return float(value)
        except OverflowError:
            raise place.error(f"{label} {value} is too large") from None
    if isinstance(value, float) and not value.is_integer():
        if info.kind == "number":
            return value
        near = [str(whole) for whole in (math.floor(value), math.ceil(value)) if not _out_of_bounds(info, whole)]
        raise place.error(
            f"{label} must be a whole number, not {value}{'; ' if near else ''}{' or '.join(near)}{'?' if near else ''}"
        )
    return int(value)


def _range(info: Hyperparameter, node: Mapping, key: Place, when: Expression | None, when_place: Place | None) -> Range:
    if info.kind not in ("int", "float"):
        raise key.error(f"{info.name} is {_wanted(info)}, so it has no low and high; write {{choices: [...]}}")
    for side, other in (("low", "high"), ("high", "low")):
        if side not in node.items:
            raise node.place.error(f"{info.name} has {other} but no {side}; give both")
    mistakes = Mistakes()
    ends: dict[str, int | float] = {}
    for side in ("low", "high"):
        with mistakes.noting():
            value = read_value(info, node.items[side], side)
            assert isinstance(value, int | float)
            ends[side] = value
    log = mistakes.attempt(False, _log, info, node)
    confidence = mistakes.attempt(None, _confidence, info, node)
    mistakes.check()
    low, high = ends["low"], ends["high"]
    if low > high:
        raise node.items["low"].place.error(f"{info.name}: low {low} is above high {high}; swap them")
    if log and low <= 0:
        raise node.items["low"].place.error(f"{info.name}: a log scale needs low above 0, not {low}; raise low or remove log")
    step, prior = None, None
    if "step" in node.items:
        step = mistakes.attempt(None, _step, info, node.items["step"], low, high, log)
    if "prior" in node.items:
        prior = mistakes.attempt(None, _prior_number, info, node.items["prior"], low, high)
    mistakes.check()
    return Range(
        name=info.name,
        info=info,
        when=when,
        place=key,
        when_place=when_place,
        low=low,
        high=high,
        log=log,
        step=step,
        prior=prior,
        confidence=confidence,
    )


def _log(info: Hyperparameter, node: Mapping) -> bool:
    if "log" not in node.items:
        return False
    written = plain(node.items["log"])
    if not isinstance(written, bool):
        raise node.items["log"].place.error(f"{info.name}: log is true or false, not {_shown(node.items['log'])}")
    return written


def _step(info: Hyperparameter, node: Node, low: int | float, high: int | float, log: bool) -> int | float | None:
    label = f"{info.name}: step"
    value = plain(node)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise node.place.error(f"{label} is a number above 0, not {_shown(node)}")
    step = _typed(info, value, node.place, label)
    if log:
        raise node.place.error(f"{info.name}: step does not go with log; remove one of them")
    first, last, width = Decimal(str(low)), Decimal(str(high)), Decimal(str(step))
    if width > last - first:
        raise node.place.error(f"{label} {step} is larger than the range from {low} to {high}; make it smaller or remove it")
    if (last - first) / width > MAX_STEPS:
        raise node.place.error(f"{label} {step} is too fine for the range from {low} to {high}; remove it")
    if (last - first) % width:
        reached = last - (last - first) % width
        raise node.place.error(
            f"{label} {step} does not reach high {high} from {low}; write high: {reached} or {reached + width}"
        )
    return None if info.kind == "int" and step == 1 else step


def _confidence(info: Hyperparameter, node: Mapping) -> Confidence | None:
    """How sure the prior is; None where there is no prior."""
    given = node.items.get("confidence")
    if "prior" not in node.items:
        if given is not None:
            raise node.places["confidence"].error(
                f"{info.name}: confidence says how sure a prior is, and there is none; add `prior:` or remove confidence"
            )
        return None
    if given is None:
        return "medium"
    word = plain(given)
    for known in CONFIDENCES:
        if word == known:
            return known
    near = did_you_mean(word, CONFIDENCES) if isinstance(word, str) else ""
    raise given.place.error(f"{info.name}: confidence is {', '.join(CONFIDENCES)}, not {_shown(given)}{near}")


def _is_auto(info: Hyperparameter, node: Node) -> bool:
    if plain(node) != AUTO or info.section == OWN:
        return False
    if info.name not in NEEDS:
        raise node.place.error(
            f"{info.name}: prior auto exists for {', '.join(NEEDS)}, for which scaling laws are known; give a value"
        )
    return True


def _prior_number(info: Hyperparameter, node: Node, low: int | float, high: int | float) -> int | float | Literal["auto"]:
    if _is_auto(info, node):
        return "auto"
    prior = read_value(info, node, "prior")
    if prior is None:
        raise node.place.error(f"{info.name}: prior has no value; give a number from {low} to {high}")
    assert isinstance(prior, int | float)
    if not low <= prior <= high:
        raise node.place.error(f"{info.name}: prior {prior} is outside the range from {low} to {high}")
    return prior


def _choices(info: Hyperparameter, node: Mapping, key: Place, when: Expression | None, when_place: Place | None) -> Choices:
    listed = node.items["choices"]
    if not isinstance(listed, Sequence):
        raise listed.place.error(f"{info.name}: choices is a list, as in {{choices: [...]}}, not {_shown(listed)}")
    if not listed.items:
        raise listed.place.error(f"{info.name}: choices is empty; list at least one value, or give one value without choices")
    values: list[Setting] = []
    mistakes = Mistakes()
    seen: set[Setting] = set()
    for item in listed.items:
        with mistakes.noting():
            value = read_value(info, item, "a choice")
            if value in seen:
                raise item.place.error(f"{info.name}: {_shown(item)} is among the choices twice; keep one")
            seen.add(value)
            values.append(value)
    mistakes.check()
    prior: Setting = None
    if "prior" in node.items:
        auto = _is_auto(info, node.items["prior"])
        prior = AUTO if auto else read_value(info, node.items["prior"], "prior")
        if not auto and prior not in values:
            shown = ", ".join(_shown(item) for item in listed.items)
            raise node.items["prior"].place.error(f"{info.name}: prior {_shown(node.items['prior'])} is not one of {shown}")
    return Choices(
        name=info.name,
        info=info,
        when=when,
        place=key,
        when_place=when_place,
        choices=tuple(values),
        prior=prior,
        confidence=_confidence(info, node),
    )


def _out_of_bounds(info: Hyperparameter, value: int | float) -> str:
    if info.section == OWN:
        most = LARGEST if isinstance(value, int) else MOST
        return f"{info.name} is from {-most:g} to {most:g}" if abs(value) > most else ""
    if info.low is not None and (value < info.low or (info.low_open and value == info.low)):
        return f"{info.name} is {'above' if info.low_open else 'at least'} {info.low:g}"
    if info.high is None and value > LARGEST:
        return f"{info.name} is at most {LARGEST}"
    if info.high is not None and (value > info.high or (info.high_open and value == info.high)):
        return f"{info.name} is {'below' if info.high_open else 'at most'} {info.high:g}"
    return ""


def _wanted(info: Hyperparameter) -> str:
    if info.kind == "choice":
        return f"one of {', '.join(info.choices)}"
    text = "a text" if info.section == OWN else "a path"
    return {"int": "a whole number", "bool": "true or false", "str": text}.get(info.kind, "a number")


def _no_choice(info: Hyperparameter, value: object) -> str:
    near = did_you_mean(value, info.choices) if isinstance(value, str) else ""
    return f"'{value}' is not one of {info.name}'s values ({', '.join(info.choices)}){near}"


def _inside(node: Scalar, offset: int) -> Place:
    return node.text_place.shifted(offset) if node.text_place else node.place


def _unknown_name(names: Names, error: ExpressionError) -> str:
    name = error.unknown
    if any(name in info.choices for info in names.infos.values()):
        return f"unknown name '{name}'; a word that is a value stands in quotes: '{name}'"
    if name in CONSTRAINTS:
        return f"unknown name '{name}'; limits on it stand under `constraints:`"
    if names.own:
        hint = f"known: {', '.join(names.infos)}; a text stands in quotes: '{name}'"
    else:
        hint = "`hpsearch params` lists the names"
    return error.message if error.hint else f"{error.message}; {hint}"


def _shown(node: Node) -> str:
    match node:
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=bool() as value):
            return str(value).lower()
        case Scalar(value=value):
            return f"'{value}'" if isinstance(value, str) else f"{value}"
        case Sequence():
            return "a list"
        case Mapping():
            return "a mapping"

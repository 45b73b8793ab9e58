"""The language of rules, conditions and derived values: a small, safe part of Python's expressions.

Names of hyperparameters, numbers, strings, `true` and `false`; `+ - * / // % **`; comparisons, also chained; `in` with a
list; `and`, `or`, `not`; `a if c else b`; and the functions min, max, abs, round, floor, ceil, log2 and sqrt. Anything else is
refused when it is read. What is accepted means what it means in Python, is checked for its kinds (number, boolean, string)
beforehand, and is bounded: it cannot run long or grow large.
"""

from __future__ import annotations

import ast
import keyword
import math
import operator
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hpsearch.errors import did_you_mean

Kind = Literal["number", "boolean", "string"]
Value = bool | int | float | str
Lookup = Callable[[str], Value]
"""The value of a name; may raise UnknownValue."""
Run = Callable[[Lookup], Any]

MAX_CHARACTERS = 500
MAX_NESTING = 30
MAX_EXPONENT = 64
MAX_BITS = 256


class ExpressionError(Exception):
    """`offset` is where in the text, in characters from 0; `unknown` the name that is not known, if that is the matter; `hint`
    (`; did you mean 'x'?`) ends the message where a known name is near; `names` those that are known."""

    names: tuple[str, ...] = ()

    def __init__(self, message: str, offset: int = 0, unknown: str = "", hint: str = "") -> None:
        self.message, self.offset, self.unknown, self.hint = message + hint, offset, unknown, hint
        super().__init__(self.message)


class NoExpression(ExpressionError):
    """A text that does not read as an expression at all."""


class UnknownValue(Exception):
    """The value of a name is not known yet (the budget decides it) or is off."""


@dataclass(frozen=True)
class Expression:
    """A checked expression. Two are equal when they are spelled alike after normalisation."""

    text: str
    """Normalised: canonical names, Python's spacing."""
    kind: Kind = field(compare=False)
    names: tuple[str, ...] = field(compare=False)
    """The hyperparameters that it mentions, canonical, in the order of first mention."""
    literals: tuple[tuple[str, str, int], ...] = field(compare=False, repr=False)
    """Strings that a name is compared with: (name, string, offset)."""
    _run: Run = field(compare=False, repr=False)

    def evaluate(self, lookup: Lookup) -> Value:
        """Raises ExpressionError (division by zero, a result out of bounds), and what `lookup` raises."""
        try:
            result: Value = self._run(lookup)
        except ZeroDivisionError:
            raise ExpressionError("division by zero") from None
        except OverflowError:
            raise ExpressionError("the result is too large") from None
        except ValueError as error:
            raise ExpressionError(str(error)) from None
        return result


def parse_expression(
    text: str, kinds: Mapping[str, Kind], aliases: Mapping[str, str] | None = None, also: Collection[str] = ()
) -> Expression:
    """`kinds`: what may be mentioned. `aliases`: other names of those. `also`: names that are read as such, though nothing is
    known of them. Raises ExpressionError, NoExpression for what is none."""
    lead = len(text) - len(text.lstrip())
    source = " ".join(text.strip().splitlines())
    if not source:
        raise NoExpression("an expression is empty")
    if len(source) > MAX_CHARACTERS:
        raise NoExpression(f"an expression has at most {MAX_CHARACTERS} characters; this one has {len(source)}")
    if not (source.isascii() and source.isprintable()):
        raise NoExpression("an expression is written in plain ASCII characters")
    written = _Written.of(source, lead, {*kinds, *also})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(written.text, mode="eval")
    except SyntaxError as error:
        told = "" if error.msg == "invalid syntax" else f" ({error.msg})"
        at = written.offset(max((error.offset or 1) - 1, 0))
        raise NoExpression(f"'{source}' is not an expression{told}", at) from None
    except (RecursionError, MemoryError, ValueError):
        raise NoExpression(f"an expression nests at most {MAX_NESTING} levels deep") from None
    compiler = _Compiler(kinds, aliases or {}, written)
    try:
        mentioned = compiler.resolve(tree)
        kind, run = compiler.compile(tree.body, 0)
    except ExpressionError as error:
        error.names = compiler.known
        raise
    return Expression(ast.unparse(tree), kind, mentioned, tuple(compiler.literals), run)


_QUOTED = "'[^']*'|\"[^\"]*\""


@dataclass(frozen=True)
class _Written:
    """An expression as Python reads it: names that are none to Python, such as `lambda` and `opt.lr`, have others there."""

    text: str
    lead: int
    """Characters before it."""
    names: dict[str, str] = field(default_factory=dict)
    """What stands there → the name."""
    ends: tuple[tuple[int, int], ...] = ()
    """Where such a name ends, and how many characters it is shorter than it was."""

    @classmethod
    def of(cls, source: str, lead: int, known: Collection[str]) -> _Written:
        """A name with a '-' in it is that name where it stands without spaces; a difference has spaces."""
        odd = sorted((name for name in known if _is_odd(name)), key=len, reverse=True)
        if not odd:
            return cls(source, lead)
        prefix = "_"
        while prefix in source:
            prefix += "_"
        names: dict[str, str] = {}
        ends: list[tuple[int, int]] = []
        parts: list[str] = []
        at = length = 0
        # Behind a dot or a dash that belongs to another word it is a part of that word.
        pattern = rf"{_QUOTED}|(?<![\w.])(?<!\w-)(?P<name>{'|'.join(map(re.escape, odd))})(?![\w]|\.\w)"
        for found in re.finditer(pattern, source):
            name = found["name"]
            if name is None:
                continue
            pieces = name.split("-")
            if len(pieces) > 1 and all(piece in known or piece.isdecimal() for piece in pieces):
                ambiguous = ExpressionError(
                    f"'{name}' is a parameter, and could be a difference of others as well; write the difference with spaces "
                    "around '-', or give that parameter another name",
                    lead + found.start(),
                )
                ambiguous.names = (name,)
                raise ambiguous
            stand_in = f"{prefix}{len(names)}"
            names[stand_in] = name
            parts += [source[at : found.start()], stand_in]
            length += found.start() - at + len(stand_in)
            ends.append((length, len(name) - len(stand_in)))
            at = found.end()
        return cls("".join([*parts, source[at:]]), lead, names, tuple(ends))

    def offset(self, column: int) -> int:
        """Where in what was written a column of `text` is."""
        return self.lead + column + sum(shorter for end, shorter in self.ends if end <= column)


def dotted_names(names: Iterable[str]) -> list[str]:
    return [name for name in names if "." in name]


def _is_odd(name: str) -> bool:
    return not name.isidentifier() or (keyword.iskeyword(name) and name not in ("True", "False", "None"))


def _bounded(value: Any) -> Any:
    if isinstance(value, complex):
        raise ValueError("a fractional power of a negative number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("the result is not a finite number")
    elif value.bit_length() > MAX_BITS:
        raise ValueError("the result is too large")
    return value


def _power(base: Any, exponent: Any) -> Any:
    if abs(exponent) > MAX_EXPONENT:
        raise ValueError(f"an exponent is at most {MAX_EXPONENT}")
    return base**exponent


_ARITHMETIC: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", _power),
}
_ORDER: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}
_EQUAL: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
}
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., Any]]] = {
    "min": (2, 16, min),
    "max": (2, 16, max),
    "abs": (1, 1, abs),
    "round": (1, 1, round),
    "floor": (1, 1, math.floor),
    "ceil": (1, 1, math.ceil),
    "log2": (1, 1, math.log2),
    "sqrt": (1, 1, math.sqrt),
}
"""Fewest and most arguments, and the function."""
_WORDS = {"true": True, "false": False}
_REFUSED: dict[type[ast.AST], str] = {
    ast.Attribute: "an attribute",
    ast.Subscript: "an index",
    ast.Lambda: "a lambda",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.NamedExpr: "an assignment",
    ast.JoinedStr: "an f-string",
    ast.Await: "await",
    ast.Dict: "a dictionary",
    ast.Set: "a set",
    ast.Starred: "a star",
    ast.List: "a list without `in`",
    ast.Tuple: "a list without `in`",
}


_NOT_PART = "not part of this language; use names, numbers, arithmetic, comparisons, and/or/not"


class _Compiler:
    """One walk: refuses, resolves names, infers kinds, and returns a function that computes."""

    def __init__(self, kinds: Mapping[str, Kind], aliases: Mapping[str, str], written: _Written) -> None:
        self.kinds, self.aliases, self.written = kinds, aliases, written
        self.known: tuple[str, ...] = ()
        """Names of parameters that it mentions, canonical, in the order of first mention."""
        self.literals: list[tuple[str, str, int]] = []

    def at(self, node: ast.expr) -> int:
        return self.written.offset(node.col_offset)

    def fail(self, node: ast.expr, message: str) -> ExpressionError:
        return ExpressionError(message, self.at(node))

    def resolve(self, tree: ast.Expression) -> tuple[str, ...]:
        """Put the canonical names in their places. Raises ExpressionError for the first that is not known: before anything
        else, as a text with unknown words in it need not be an expression."""
        functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        dotted = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        unknown: list[tuple[int, str, str, str]] = []
        found: list[tuple[int, str]] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and id(node) not in dotted and (name := self.dotted(node)):
                near = did_you_mean(name, dotted_names(self.kinds))
                told = f"unknown name '{name}'" if near else f"an attribute is {_NOT_PART}"
                unknown.append((self.at(node), name, told, near))
            if not isinstance(node, ast.Name):
                continue
            node.id = self.written.names.get(node.id, node.id)
            if node.id in _WORDS or id(node) in functions or id(node) in dotted:
                continue
            name = self.aliases.get(node.id, node.id)
            if name in self.kinds:
                found.append((self.at(node), name))
            else:
                near = did_you_mean(node.id, [*self.kinds, *self.aliases])
                unknown.append((self.at(node), node.id, f"unknown name '{node.id}'", near))
        self.known = tuple(dict.fromkeys(name for _, name in sorted(found)))
        if unknown and not bound:  # Else what binds a name is refused.
            at, name, told, near = min(unknown)
            raise ExpressionError(told, at, name, near)
        return self.known

    def dotted(self, node: ast.Attribute) -> str:
        """`opt.lr`, of names alone."""
        if isinstance(node.value, ast.Attribute):
            before = self.dotted(node.value)
        else:
            before = self.written.names.get(node.value.id, node.value.id) if isinstance(node.value, ast.Name) else ""
        return f"{before}.{node.attr}" if before else ""

    def want(self, node: ast.expr, kind: Kind, what: str, depth: int) -> Run:
        found, run = self.compile(node, depth)
        if found != kind:
            raise self.fail(node, f"{what} needs a {kind}; '{ast.unparse(node)}' is a {found}")
        return run

    def compile(self, node: ast.expr, depth: int) -> tuple[Kind, Run]:
        if depth > MAX_NESTING:
            raise self.fail(node, f"an expression nests at most {MAX_NESTING} levels deep")
        below = depth + 1
        match node:
            case ast.Constant(value=value):
                return self.constant(node, value)
            case ast.Name(id=name):
                return self.name(node, name)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                sign, apply = _ARITHMETIC[type(op)]
                a, b = self.want(left, "number", sign, below), self.want(right, "number", sign, below)
                return "number", lambda look: _bounded(apply(a(look), b(look)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                truth = self.want(operand, "boolean", "not", below)
                return "boolean", lambda look: not truth(look)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
                number = self.want(operand, "number", "a sign", below)
                return "number", (lambda look: -number(look)) if isinstance(op, ast.USub) else number
            case ast.BoolOp(op=op, values=values):
                word = "and" if isinstance(op, ast.And) else "or"
                parts = [self.want(value, "boolean", word, below) for value in values]
                every = all if word == "and" else any
                return "boolean", lambda look: every(part(look) for part in parts)
            case ast.Compare():
                return "boolean", self.comparison(node, below)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition = self.want(test, "boolean", "if", below)
                kind, yes = self.compile(body, below)
                no = self.want(orelse, kind, "the other branch", below)
                return kind, lambda look: yes(look) if condition(look) else no(look)
            case ast.Call():
                return "number", self.call(node, below)
        what = _REFUSED.get(type(node), f"'{ast.unparse(node)}'")
        raise self.fail(node, f"{what} is {_NOT_PART}")

    def constant(self, node: ast.Constant, value: object) -> tuple[Kind, Run]:
        if isinstance(value, bool):
            return "boolean", lambda look: value
        if isinstance(value, int | float):
            try:
                _bounded(value)
            except ValueError as error:
                raise self.fail(node, str(error)) from None
            return "number", lambda look: value
        if isinstance(value, str):
            return "string", lambda look: value
        raise self.fail(node, f"'{ast.unparse(node)}' is neither a number, a string, true nor false")

    def name(self, node: ast.Name, written: str) -> tuple[Kind, Run]:
        if written in _WORDS:
            truth = _WORDS[written]
            node.id = str(truth)
            return "boolean", lambda look: truth
        name = self.aliases.get(written, written)
        if name not in self.kinds:
            raise self.fail(node, f"unknown name '{written}'")
        node.id = name
        return self.kinds[name], lambda look: look(name)

    def comparison(self, node: ast.Compare, depth: int) -> Run:
        kind, first = self.compile(node.left, depth)
        left: ast.expr = node.left
        links: list[tuple[Run, Callable[[Any, Any], bool]]] = []
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                if len(node.ops) > 1:
                    raise self.fail(right, "`in` cannot be chained with another comparison; use `and`")
                return self.membership(left, kind, first, right, isinstance(op, ast.In), depth)
            if type(op) in _EQUAL:
                sign, apply = _EQUAL[type(op)]
                run = self.want(right, kind, f"comparing with '{ast.unparse(left)}'", depth)
                self.literal(left, right)
                self.literal(right, left)
            elif type(op) in _ORDER:
                sign, apply = _ORDER[type(op)]
                if kind != "number":
                    raise self.fail(left, f"{sign} needs a number; '{ast.unparse(left)}' is a {kind}")
                run = self.want(right, "number", sign, depth)
            else:
                raise self.fail(right, "`is` is not part of this language; use ==")
            links.append((run, apply))
            left = right

        def chain(look: Lookup) -> bool:
            value = first(look)
            for run, apply in links:
                following = run(look)
                if not apply(value, following):
                    return False
                value = following
            return True

        return chain

    def membership(self, left: ast.expr, kind: Kind, first: Run, right: ast.expr, inside: bool, depth: int) -> Run:
        if not isinstance(right, ast.List | ast.Tuple):
            raise self.fail(right, f"`in` needs a list, as in `{ast.unparse(left)} in [1, 2]`")
        items = [self.want(item, kind, "`in` this list", depth) for item in right.elts]
        for item in right.elts:
            self.literal(left, item)

        def contains(look: Lookup) -> bool:
            value = first(look)
            return any(item(look) == value for item in items) is inside

        return contains

    def literal(self, name: ast.expr, string: ast.expr) -> None:
        if isinstance(name, ast.Name) and isinstance(string, ast.Constant) and isinstance(string.value, str):
            self.literals.append((name.id, string.value, self.at(string)))

    def call(self, node: ast.Call, depth: int) -> Run:
        if not isinstance(node.func, ast.Name):
            raise self.fail(node, "only functions by name can be called: " + ", ".join(_FUNCTIONS))
        if node.func.id not in _FUNCTIONS:
            word = node.func.id
            raise self.fail(
                node, f"unknown function '{word}'{did_you_mean(word, _FUNCTIONS) or '; known: ' + ', '.join(_FUNCTIONS)}"
            )
        fewest, most, function = _FUNCTIONS[node.func.id]
        if node.keywords or not fewest <= len(node.args) <= most:
            count = str(fewest) if fewest == most else f"{fewest} or more"
            raise self.fail(node, f"{node.func.id} takes {count} number{'' if most == 1 else 's'}")
        arguments = [self.want(argument, "number", node.func.id, depth) for argument in node.args]
        return lambda look: _bounded(function(*(argument(look) for argument in arguments)))

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.space.expressions import ExpressionError, Kind, Value, parse_expression

EXAMPLES = int(os.environ.get("HPSEARCH_EXAMPLES", "300"))
thorough = settings(max_examples=EXAMPLES, derandomize=EXAMPLES == 300, deadline=None)

KINDS: dict[str, Kind] = {"a": "number", "b": "number", "flag": "boolean", "word": "string"}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "log2": math.log2,
    "sqrt": math.sqrt,
}


def evaluate(text: str, **values: Value) -> Value:
    return parse_expression(text, KINDS).evaluate(values.__getitem__)


def _numbers(below: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "**"])
    one, two = st.sampled_from(["abs", "round", "floor", "ceil", "log2", "sqrt"]), st.sampled_from(["min", "max"])
    return st.one_of(
        st.tuples(below, operators, below).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        below.map(lambda text: f"-{text}"),
        st.tuples(one, below).map(lambda parts: f"{parts[0]}({parts[1]})"),
        st.tuples(two, below, below).map(lambda parts: f"{parts[0]}({parts[1]}, {parts[2]})"),
        st.tuples(below, below, below).map(lambda parts: f"({parts[0]} if {parts[1]} <= 1 < {parts[2]} else {parts[1]})"),
    )


literals = st.one_of(st.integers(0, 300).map(str), st.floats(0, 1e6, allow_nan=False).map(repr))
numbers = st.recursive(st.one_of(literals, st.sampled_from(["a", "b"])), _numbers, max_leaves=12)
conditions = st.recursive(
    st.one_of(
        st.tuples(numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers).map(lambda parts: " ".join(parts)),
        st.sampled_from(["flag", "True", "word == 'x'", "word != 'y'", "word in ['x', 'z']", "word not in ('x', 'z')"]),
        st.tuples(numbers, numbers).map(lambda parts: f"{parts[0]} in [{parts[1]}, 1, 2]"),
    ).map(lambda text: f"({text})"),
    lambda below: st.one_of(
        st.tuples(below, st.sampled_from(["and", "or"]), below).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        below.map(lambda text: f"(not {text})"),
    ),
    max_leaves=6,
)


@thorough
@given(
    text=st.one_of(numbers, conditions).filter(lambda text: len(text) <= 500),
    a=st.integers(-20, 300),
    b=st.floats(-2, 2),
    flag=st.booleans(),
    word=st.sampled_from("xyz"),
)
def test_an_expression_means_what_it_means_in_python(text: str, a: int, b: float, flag: bool, word: str) -> None:
    values: dict[str, Value] = {"a": a, "b": b, "flag": flag, "word": word}
    try:
        ours = parse_expression(text, KINDS).evaluate(values.__getitem__)
    except ExpressionError as error:
        bounded = ("too large", "exponent is at most", "not a finite number", "fractional power", "levels deep")
        if any(part in error.message for part in bounded):
            return
        with pytest.raises((ZeroDivisionError, OverflowError, ValueError)):
            eval(text, {"__builtins__": {}, **FUNCTIONS}, values)
        return
    theirs = eval(text, {"__builtins__": {}, **FUNCTIONS}, values)
    assert (ours, type(ours)) == (theirs, type(theirs))


@thorough
@given(st.one_of(numbers, conditions).filter(lambda text: len(text) <= 200))
def test_a_normalised_expression_is_its_own_normal_form(text: str) -> None:
    try:
        once = parse_expression(text, KINDS)
    except ExpressionError:
        return
    assert parse_expression(once.text, KINDS) == once


@thorough
@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert parse_expression(text, KINDS).text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a.real", "an attribute"),
        ("a.__class__ == 1", "an attribute"),
        ("word[0] == 'x'", "an index"),
        ("__import__('os')", "unknown function '__import__'"),
        ("eval('1')", "unknown function 'eval'"),
        ("mxa(a, b)", "did you mean 'max'?"),
        ("(lambda: 1)()", "only functions by name"),
        ("lambda: 1", "a lambda"),
        ("[a for a in [1]]", "a comprehension"),
        ("{a for a in [1]}", "a comprehension"),
        ("sum(a for a in [1])", "unknown function 'sum'"),
        ("(c := 3)", "an assignment"),
        ("f'{a}' == word", "an f-string"),
        ("{'x': a}", "a dictionary"),
        ("min(*[a, b])", "min takes 2 or more numbers"),
        ("round(a, 2)", "round takes 1 number"),
        ("max(a, key=b)", "max takes 2 or more numbers"),
        ("[a]", "a list without `in`"),
        ("a is b", "use =="),
        ("a & 1", "not part of this language"),
        ("a @ b", "not part of this language"),
        ("~a", "not part of this language"),
        ("a << 9", "not part of this language"),
        ("None", "neither a number"),
        ("1j", "neither a number"),
        ("b'x' == word", "neither a number"),
        ("...", "neither a number"),
        ("a in b", "`in` needs a list"),
        ("a < b in [1]", "cannot be chained"),
        ("c + 1", "unknown name 'c'"),
        ("flog", "did you mean 'flag'?"),
        ("a; b", "is not an expression"),
        ("import os", "is not an expression"),
        ("a = 1", "is not an expression"),
        ("", "is empty"),
        ("   ", "is empty"),
        ("а + 1", "plain ASCII"),
        ("a\x00", "plain ASCII"),
        ("a + " * 200 + "a", "at most 500 characters"),
        ("-" * 200 + "a", "levels deep"),
        ("(" * 240 + "a" + ")" * 240, "nest"),
        ("9" * 400, "too large"),
        ("1e999", "not a finite number"),
        ("a + word", "+ needs a number; 'word' is a string"),
        ("a + flag", "+ needs a number; 'flag' is a boolean"),
        ("word < 'y'", "< needs a number"),
        ("a == 'x'", "needs a number; ''x'' is a string"),
        ("a and flag", "and needs a boolean"),
        ("not a", "not needs a boolean"),
        ("a if b else 1", "if needs a boolean"),
        ("a if flag else 'x'", "the other branch needs a number"),
    ],
)
def test_what_is_no_part_of_the_language_is_refused_when_read(text: str, what: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text, KINDS)
    assert what in caught.value.message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("9 ** 9 ** 9", "exponent"),
        ("2.0 ** 1e9", "exponent"),
        ("(10 ** 60) ** 60", "too large"),
        ("a ** 64 ", "too large"),
        ("1e308 * 10", "not a finite number"),
        ("(-8) ** 0.5", "fractional power"),
        ("a // 0", "division by zero"),
        ("a % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("sqrt(-a)", "math domain error"),
        ("log2(0)", "math domain error"),
    ],
)
def test_what_is_large_or_undefined_is_refused_when_computed(text: str, what: str) -> None:
    expression = parse_expression(text, KINDS)
    with pytest.raises(ExpressionError) as caught:
        expression.evaluate({"a": 999}.__getitem__)
    assert what in caught.value.message or "positive" in caught.value.message or "nonnegative" in caught.value.message


def test_true_and_false_are_written_as_in_yaml_or_python() -> None:
    assert evaluate("flag == true", flag=True) is True
    assert evaluate("flag == False", flag=True) is False


def test_and_or_stop_at_the_first_answer() -> None:
    assert evaluate("a == 0 or 1 / a > 2", a=0) is True
    assert evaluate("a != 0 and 1 / a > 2", a=0) is False


def test_a_conditional_computes_one_branch_only() -> None:
    assert evaluate("1 / a if a > 0 else 7", a=0) == 7


def test_names_are_listed_once_under_their_canonical_name() -> None:
    expression = parse_expression("width * b + a - width", KINDS, {"width": "a"})
    assert expression.names == ("a", "b")
    assert expression.text == "a * b + a - a"


def test_an_error_knows_its_column() -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression("  a + xyz", KINDS)
    assert caught.value.offset == 6

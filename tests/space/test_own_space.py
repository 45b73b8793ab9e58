from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpsearch.api import load_space
from hpsearch.errors import BadInput, SpaceError
from hpsearch.space.load import override, parse_space, space_of
from hpsearch.space.parameters import Choices, Derived, Fixed, Range
from hpsearch.space.space import SearchSpace

SPACE = """
trainer: own
name: mine
objective: {maximize: accuracy}
budget: {steps: 100, evaluations: 5}
parameters:
  learning_rate: {low: 1e-4, high: 1e-1, log: true, prior: 1e-2}
  layers: {low: 1, high: 4}
  width: {choices: [16, 32, 64], prior: 32}
  act: {choices: [relu, gelu, auto], prior: auto}
  alpha: {low: 0.1, high: 0.9, when: act == 'relu'}
  hidden: 4 * width
  deep: layers > 2
  both: hidden + layers
  data: some/path
  num_heads: 7
  dropout: 12
  bias: true
  clip: {choices: [null, 0.5, 1]}
require:
  - layers * width <= 128
"""

ONE = {"low": 1, "high": 3}
PRINTED = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


class Kind(StrEnum):
    A = "a"
    B = "007"


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return parse_space(SPACE)


def test_a_space_for_a_trainer_of_ones_own_may_name_anything(space: SearchSpace) -> None:
    kinds = {name: (type(each), each.info.kind) for name, each in space.parameters.items()}
    assert kinds["layers"] == (Range, "int")
    assert kinds["learning_rate"] == (Range, "float")
    assert kinds["act"] == (Choices, "str")
    assert kinds["clip"] == (Choices, "float")
    assert kinds["hidden"] == (Derived, "number")
    assert kinds["deep"] == (Derived, "bool")
    assert kinds["data"] == (Fixed, "str")
    # Of the built-in model neither of these would be possible.
    assert space.parameters["dropout"] == Fixed(name="dropout", info=space.names.infos["dropout"], value=12)


def test_conditions_derived_values_and_rules_hold(space: SearchSpace) -> None:
    proposal = space.prior()
    assert proposal == {"learning_rate": 0.01, "layers": 2, "width": 32, "act": "auto", "clip": None}
    settings = space.settings(proposal | {"layers": 3, "act": "relu", "alpha": 0.5})
    assert (settings["hidden"], settings["deep"], settings["both"], settings["alpha"]) == (128, True, 131, 0.5)
    assert "alpha" not in space.settings(proposal)
    assert space.violation(space.settings(proposal | {"layers": 3, "width": 64})) == (
        "layers * width <= 128 does not hold: layers 3, width 64"
    )


def test_it_is_read_again_from_its_own_text(space: SearchSpace) -> None:
    again = parse_space(space.to_yaml())
    assert again == space
    assert again.digest == space.digest
    assert space.objectives == ("neg_accuracy",)
    assert "data:" not in space.to_yaml().partition("parameters:")[0]


def test_a_mapping_is_read_like_a_file(space: SearchSpace) -> None:
    content = space.content()
    assert space_of(content) == space
    del content["trainer"]
    assert space_of(content, own=True) == space


def test_whole_numbers_are_whole_only_where_all_that_is_written_is_whole() -> None:
    text = (
        "budget: {steps: 4}\nparameters:\n  a: {low: 0, high: 1}\n  b: {low: 0, high: 1, prior: 0.5}\n  c: {low: 0, high: 1.0}"
    )
    assert [each.info.kind for each in parse_space(text, own=True).searched] == ["int", "float", "float"]


def test_values_and_budget_can_be_replaced(space: SearchSpace) -> None:
    changed = override(space, settings={"width": "64", "data": "other"}, budget={"steps": "50"})
    assert changed.settings(changed.prior())["hidden"] == 256
    assert changed.settings({})["data"] == "other"
    assert (changed.budget.amount, changed.budget.evaluations) == (50, 5)
    with pytest.raises(BadInput, match=re.escape("--set widht=64: unknown parameter 'widht'; did you mean 'width'?")):
        override(space, settings={"widht": "64"})


@pytest.mark.parametrize(("steps", "evaluations"), [(1000, 10), (12, 6), (7, 7), (11, 10), (22, 10), (1009, 10), (3, 3)])
def test_five_to_ten_evaluations_that_divide_the_steps_if_they_can_when_nobody_says_how_many(
    steps: int, evaluations: int
) -> None:
    space = parse_space(f"budget: {{steps: {steps}}}\nparameters: {{a: {{low: 0, high: 1}}}}", own=True)
    assert space.budget.evaluations == evaluations


BUDGET = "budget: {steps: 10, evaluations: 5}\n"
LR = "parameters: {lr: {low: 0.1, high: 1.0}}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LR, "how long a trial trains is missing: give budget: {steps: 1000, evaluations: 10}"),
        (LR + "budget: {tokens: 10}", "give budget: {steps: 1000, evaluations: 10}"),
        (LR + "budget: {steps: 10, tokens: 3}", "'tokens' is for the built-in model"),
        (LR + "budget: {steps: 10, evaluations: 11}", "11 evaluations need as many steps, and there are 10; lower the first"),
        (LR + "budget: {steps: 0}", "steps is a number above 0"),
        (LR + BUDGET + "data: {text: pydoc}", "data is for the built-in model"),
        (LR + BUDGET + "constraints: {num_parameters: {max: 1}}", "constraints is for the built-in model"),
        (LR + BUDGET + "trainer: mine.py", "trainer is `own`, or left out for the built-in model; --command names the program"),
        (LR + BUDGET + "objective: {maximise: a}", "unknown direction 'maximise'; did you mean 'maximize'?"),
        (LR + BUDGET + "objective: {maximize: a b}", "objective is a name that your trainer reports"),
        (LR + BUDGET + "objective: [a, a]", "objective a is given twice"),
        (BUDGET + "parameters: {a b: 1}", "the name of a parameter begins with a letter"),
        (BUDGET + "parameters: {a: {choices: [1, x]}}", "its values are of several kinds"),
        (BUDGET + "parameters: {a: {low: 2, high: 1}}", "low 2 is above high 1"),
        (BUDGET + "parameters: {a: {low: 0.1, high: 1.0, prior: auto}}", "prior is a number, not 'auto'"),
        (
            BUDGET + "parameters: {width: {choices: [1, 2]}, a: 4 * widht}",
            "'widht', which is no parameter; did you mean 'width'",
        ),
        (BUDGET + "parameters: {w: {choices: [1, 2]}, a: w + b, b: w + a}", "values that need each other: a and b"),
        (BUDGET + "parameters: {w: {choices: [x, y], when: v == 1}}", "unknown name 'v'; known: w"),
        (BUDGET + "parameters: {w: 1}", "nothing is searched"),
        (LR + BUDGET + "require: lr > 2", "no configuration satisfies `lr > 2`"),
    ],
)
def test_what_it_cannot_be_is_said_with_the_place(text: str, told: str) -> None:
    with pytest.raises(BadInput, match=f"^own.yaml:[0-9]+:[0-9]+: .*{re.escape(told)}"):
        parse_space(text, "own.yaml", own=True)


def test_names_that_only_another_trainer_knows_hint_at_such_spaces() -> None:
    with pytest.raises(BadInput, match=r"unknown hyperparameter 'zzz'.*`trainer: own` lets a space name any"):
        parse_space("parameters: {zzz: {low: 0.1, high: 1.0}}")


ODD = [
    *(
        "1.10",
        "1e10",
        "null",
        "true",
        "007",
        "32",
        "~",
        "0x10",
        "2024-01-01",
        "'q'",
        '"',
        "a: b",
        "- x",
        "# c",
        "?0",
        "@x",
        "*a",
    ),
    *("{a}", "[b]", "<<", "|", ">", "a\nb", "\tx", "\u2028", "\x85", "\ufeffx", "\U0001f600", " padded ", "\x1b[0m"),
]


@given(texts=st.lists(st.one_of(st.sampled_from(ODD), st.text(PRINTED, min_size=1)), min_size=1, max_size=4, unique=True))
@example(texts=ODD)
def test_texts_of_a_python_mapping_stay_what_they_are_also_in_the_stored_record(texts: list[str]) -> None:
    read = load_space({"name": "s", "budget": {"steps": 1}, "parameters": {"x": {"choices": texts}, "y": ONE}}, own=True)
    again = parse_space(read.to_yaml())
    for space in (read, again):
        choices = space.parameters["x"]
        assert isinstance(choices, Choices)
        assert list(choices.choices) == texts
    assert again.digest == read.digest


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        ({"choices": np.arange(3)}, (0, 1, 2)),
        ({"choices": range(0, 6, 2)}, (0, 2, 4)),
        ({"choices": list(np.linspace(0, 1, 3))}, (0.0, 0.5, 1.0)),
        ({"choices": [np.True_, np.False_]}, (True, False)),
        ({"choices": np.array(["a", "1"])}, ("a", "1")),
        ({"choices": [np.str_("a"), np.str_("null")]}, ("a", "null")),
        ({"choices": list(Kind)}, ("a", "007")),
        ({"choices": [Decimal("0.5"), np.float16(0.25)]}, (0.5, 0.25)),
        ({np.str_("choices"): (Path("a/b"), "c")}, ("a/b", "c")),
    ],
)
def test_values_of_numpy_and_its_like_are_what_they_are(declared: Any, values: tuple[Any, ...]) -> None:
    read = load_space({"budget": {"steps": 1}, "parameters": {"x": declared, "y": ONE}}, own=True).parameters["x"]
    assert isinstance(read, Choices)
    assert read.choices == values
    assert [type(value) for value in read.choices] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"value": 10**5000}, "x.value: int cannot be read: a whole number of 16610 bits is too large"),
        (float("nan"), "x is a number, not nan"),
        ("a\0b", "x: a text holds a NUL character"),
        ("\ud800", "which is no character"),
        (b"x", "a bytes is neither a number nor a text"),
        ({"choices": {"a", "b"}}, "a set has no order; give a list"),
        ({"choices": range(10**30)}, "too many to list"),
        ({"low": -(10**400), "high": 1}, "x.low: int cannot be read"),
        ({"low": -1e308, "high": 1e308}, "x is from -1e+300 to 1e+300"),
    ],
)
def test_values_that_no_space_can_hold_are_refused_in_one_line(value: Any, told: str) -> None:
    with pytest.raises(SpaceError) as caught:
        load_space({"budget": {"steps": 1}, "parameters": {"x": value, "y": ONE}}, own=True)
    assert told in str(caught.value)
    assert str(caught.value).splitlines() == [str(caught.value)]


@pytest.mark.parametrize(
    ("written", "value"),
    [("2 * lambda", 4), ("2 * opt.lr", 4), ("lambda + a-b", 4), ("opt.lr * class", 4), ("lambda", 2), ("2*layers.0.lr", 4)],
)
def test_names_that_python_does_not_have_are_names_in_expressions(written: str, value: int) -> None:
    names = ("lambda", "opt.lr", "a-b", "class", "layers.0.lr")
    parameters = "".join(f"  {name}: {{low: 1, high: 3}}\n" for name in names)
    head = f"trainer: own\nname: s\nbudget: {{steps: 1}}\nparameters:\n{parameters}"
    space = parse_space(f"{head}  x: {written}\n  y: {{low: 1, high: 2, when: {written} > 1}}\nrequire: {written} > 1\n")
    again = parse_space(space.to_yaml())
    for read in (space, again):
        assert read.settings(read.prior())["x"] == value
    assert again.digest == space.digest


@pytest.mark.parametrize(("key", "told"), [("2 * opt.rl", "did you mean 'opt.lr'?"), ("2 * Lambda", "did you mean 'lambda'?")])
def test_a_name_with_a_mistake_in_an_expression_is_refused_at_its_place(key: str, told: str) -> None:
    text = "trainer: own\nbudget: {steps: 1}\nparameters:\n  lambda: {low: 1, high: 3}\n  opt.lr: {low: 1, high: 3}\n"
    with pytest.raises(SpaceError, match=r"6:6: .*" + re.escape(told)):
        parse_space(f"{text}  x: {key}\n")


def test_a_text_of_one_dotted_word_is_no_name_with_a_mistake() -> None:
    space = parse_space("trainer: own\nbudget: {steps: 1}\nparameters:\n  opt.lr: {low: 1, high: 3}\n  x: opt.lrs\n")
    assert space.settings(space.prior())["x"] == "opt.lrs"


def test_all_mistakes_are_told_in_the_order_of_the_file() -> None:
    text = (
        "trainer: own\nbudget: {steps: 1}\nparameters:\n  a: {values: [1]}\n  b: {low: 3, high: 1}\n  in: 3\nrequire: c > 1\n"
    )
    with pytest.raises(SpaceError) as caught:
        parse_space(text)
    assert [each.line for each in caught.value.all] == [4, 5, 6, 7]
    assert "write {choices: [...]}" in str(caught.value)
    assert "and 3 more" in str(caught.value)

from __future__ import annotations

import re

import pytest

from hpsearch.errors import BadInput
from hpsearch.space.load import parse_space, space_of
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
    changed = space.override(settings={"width": "64", "data": "other"}, budget={"steps": "50"})
    assert changed.settings(changed.prior())["hidden"] == 256
    assert changed.settings({})["data"] == "other"
    assert (changed.budget.amount, changed.budget.evaluations) == (50, 5)
    with pytest.raises(BadInput, match=re.escape("--set widht=64: unknown parameter 'widht'; did you mean 'width'?")):
        space.override(settings={"widht": "64"})


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

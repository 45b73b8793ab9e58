from __future__ import annotations

import re
from typing import Any

import pytest

from hpsearch.config import ALIASES, HYPERPARAMETERS
from hpsearch.errors import BadInput
from hpsearch.space.bundled import bundled_spaces
from hpsearch.space.load import load_space, parse_space
from hpsearch.space.schema import space_schema
from hpsearch.space.yaml_nodes import plain, read_yaml

jsonschema = pytest.importorskip("jsonschema")


def accepts(document: object) -> bool:
    return bool(jsonschema.Draft202012Validator(space_schema()).is_valid(document))


def data(text: str) -> object:
    return plain(read_yaml(text, "test"))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(space_schema())


@pytest.mark.parametrize("name", sorted(bundled_spaces()))
def test_the_schema_accepts_every_bundled_space_and_its_canonical_form(name: str) -> None:
    path = bundled_spaces()[name]
    assert accepts(data(path.read_text()))
    assert accepts(data(load_space(path).to_yaml()))


def test_the_schema_describes_every_hyperparameter_and_alias() -> None:
    properties: dict[str, Any] = space_schema()["else"]["properties"]["parameters"]["properties"]
    assert set(properties) == set(HYPERPARAMETERS) | set(ALIASES)
    assert all(info.doc in properties[name]["description"] for name, info in HYPERPARAMETERS.items())


GOOD = [
    "hidden_size: {choices: [64]}",
    "d_model: 2e2",
    "d_ff: 4 * d_model",
    "num_groups: {choices: [null, 2]}",
    "top_k: null",
    "norm: \"'rmsnorm' if d_model > 64 else 'layernorm'\"",
    "momentum: {value: 0.9, when: optimizer == 'sgd'}",
    "seed: 3",
    "tie_embeddings: {choices: [true, false], prior: true}",
    "dropout: {low: 0, high: 0.5, prior: 0.1, confidence: high}",
    "d_model: {choices: [64, 128], prior: 64, confidence: low}",
    "learning_rate: {low: 1e-5, high: 1e-2, log: true, prior: auto, confidence: medium}",
    "batch_size: {choices: [8, 16], prior: auto}",
]


@pytest.mark.parametrize("entry", GOOD)
def test_the_schema_accepts_every_form(entry: str) -> None:
    assert accepts(data(f"parameters:\n  {entry}\n"))


BROKEN = [
    "nam: x\nparameters: {dropout: {low: 0, high: 0.5}}",
    "name: a b\nparameters: {dropout: {low: 0, high: 0.5}}",
    "name: lm",
    "parameters: {}",
    "parameters: {learning_rte: {low: 1e-5, high: 1e-3}}",
    "parameters: {dropout: {low: 0.1}}",
    "parameters: {dropout: {low: 0, high: 1}}",
    "parameters: {dropout: {low: 0.1, high: 0.5, log: true, step: 0.1}}",
    "parameters: {dropout: {low: 0, high: 0.5, log: true}}",
    "parameters: {dropout: {low: 0, high: 0.5, stp: 0.1}}",
    "parameters: {dropout: {low: 0, high: 0.5, step: 0}}",
    "parameters: {dropout: {low: 0, high: 0.5, confidence: high}}",
    "parameters: {dropout: {low: 0, high: 0.5, prior: 0.1, confidence: sure}}",
    "parameters: {dropout: {low: 0, high: 0.5, prior: auto}}",
    "parameters: {d_ff: {choices: [64, 128], prior: auto}}",
    "parameters: {d_model: {low: 0, high: 5}}",
    "parameters: {d_model: {low: 1.5, high: 5}}",
    "parameters: {d_model: {choices: []}}",
    "parameters: {d_model: {choices: [64, 64]}}",
    "parameters: {d_model: [64, 128]}",
    "parameters: {d_model: true}",
    "parameters: {d_model: {}}",
    "parameters: {d_model: null}",
    "parameters: {optimizer: adamv}",
    "parameters: {optimizer: {choices: [adamw, sdg]}}",
    "parameters: {optimizer: {low: 1, high: 2}}",
    "parameters: {seed: {choices: [1, 2]}}",
    "parameters: {eval_interval: {low: 1, high: 2}}",
    "parameters: {tie_embeddings: 1}",
    "objective: val_los\nparameters: {dropout: {low: 0, high: 0.5}}",
    "objective: []\nparameters: {dropout: {low: 0, high: 0.5}}",
    "budget: {device_second: 5}\nparameters: {dropout: {low: 0, high: 0.5}}",
    "budget: {tokens: 5, flops: 5}\nparameters: {dropout: {low: 0, high: 0.5}}",
    "budget: {flops: 0}\nparameters: {dropout: {low: 0, high: 0.5}}",
    "data: {validation: 2}\nparameters: {dropout: {low: 0, high: 0.5}}",
    "data: {tokenizer: byte}\nparameters: {dropout: {low: 0, high: 0.5}}",
    "require: [1]\nparameters: {dropout: {low: 0, high: 0.5}}",
    "constraints: {num_param: {max: 5}}\nparameters: {dropout: {low: 0, high: 0.5}}",
    "constraints: {num_parameters: {}}\nparameters: {dropout: {low: 0, high: 0.5}}",
]


@pytest.mark.parametrize("text", BROKEN)
def test_the_schema_refuses_what_the_check_refuses(text: str) -> None:
    assert not accepts(data(text))
    from hpsearch.errors import SpaceError

    with pytest.raises(SpaceError, match=re.compile(r"^test:1:\d+: |^test:2:\d+: ")):
        parse_space(text, "test")


OWN = "trainer: own\nbudget: {steps: 10, evaluations: 5}\n"
MINE = "parameters: {lr: {low: 0.1, high: 1, log: true, prior: 0.5}, act: {choices: [a, b], when: lr > 0.2}, twice: 2 * lr}\n"


@pytest.mark.parametrize("more", ["", "objective: loss\n", "objective: [{maximize: acc}, size]\n", "require: lr > 0.1\n"])
def test_the_schema_accepts_spaces_for_other_trainers(more: str) -> None:
    text = OWN + MINE + more
    assert accepts(data(text))
    assert accepts(data(parse_space(text).to_yaml()))


@pytest.mark.parametrize(
    "text", [MINE, OWN, "trainer: own\n" + MINE, OWN + MINE + "data: {text: pydoc}\n", OWN + "parameters: {lr: {low: 1}}\n"]
)
def test_the_schema_refuses_what_no_space_for_another_trainer_is(text: str) -> None:
    assert not accepts(data(text))
    with pytest.raises(BadInput):
        parse_space(text)

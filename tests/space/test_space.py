from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpsearch.config import TrialConfig
from hpsearch.errors import BadInput, SpaceError
from hpsearch.space.load import load_space, override, parse_space
from hpsearch.space.parameters import Choices, Derived, Fixed, Range
from hpsearch.space.space import Bound, BudgetSpec, SearchSpace

SPACE = """
name: lm
objective: val_bpb
data: {text: pydoc, tokenizer: bytes, validation: 0.1}
budget: {device_seconds: 15, evaluations: 10}
parameters:
  learning_rate: {low: 1e-7, high: 1.0e-3, log: true, prior: 3e-4}
  d_model:       {choices: [64, 128, 256, 384], prior: 128}
  d_ff:          4 * d_model
  num_heads:     {choices: [2, 4, 8]}
  momentum:      {low: 0.8, high: 0.99, when: optimizer == 'sgd'}
  optimizer:     {choices: [adamw, sgd]}
  dropout:       {low: 0.0, high: 0.3, step: 0.05}
  warmup_steps:  {low: 0, high: 200}
  hidden_act:    gelu
require:
  - d_model % num_heads == 0
constraints:
  num_parameters: {max: 5e6}
"""
LR = "learning_rate: {low: 1e-7, high: 1e-3, log: true}"


def fixed(space: SearchSpace) -> dict[str, object]:
    """The values that are given, by name."""
    return {name: each.value for name, each in space.parameters.items() if isinstance(each, Fixed)}


def entries(*lines: str) -> str:
    return "parameters:\n" + "".join(f"  {line}\n" for line in lines)


def test_the_documented_space_is_read_as_it_is_meant() -> None:
    space = parse_space(SPACE)
    assert space.name == "lm"
    assert space.objectives == ("val_bpb",)
    assert space.budget == BudgetSpec("device_seconds", 15.0, 10)
    assert space.constraints == {"num_parameters": Bound(max=5e6)}
    assert [rule.expression.text for rule in space.rules] == ["d_model % num_heads == 0"]
    kinds = {name: type(parameter) for name, parameter in space.parameters.items()}
    assert kinds == {
        "learning_rate": Range,
        "d_model": Choices,
        "d_ff": Derived,
        "num_heads": Choices,
        "momentum": Range,
        "optimizer": Choices,
        "dropout": Range,
        "warmup_steps": Range,
        "hidden_act": Fixed,
    }
    assert space.parameters["momentum"].place.line == 11


def test_searched_parameters_follow_those_that_their_condition_names() -> None:
    names = [parameter.name for parameter in parse_space(SPACE).searched]
    assert names == ["learning_rate", "d_model", "num_heads", "optimizer", "momentum", "dropout", "warmup_steps"]


def test_distributions_are_optunas() -> None:
    assert parse_space(SPACE).distributions() == {
        "learning_rate": FloatDistribution(1e-7, 1e-3, log=True),
        "d_model": CategoricalDistribution((64, 128, 256, 384)),
        "num_heads": CategoricalDistribution((2, 4, 8)),
        "optimizer": CategoricalDistribution(("adamw", "sgd")),
        "momentum": FloatDistribution(0.8, 0.99),
        "dropout": FloatDistribution(0.0, 0.3, step=0.05),
        "warmup_steps": IntDistribution(0, 200),
    }


def test_distributions_of_whole_numbers_keep_step_and_log() -> None:
    space = parse_space(entries("d_model: {low: 64, high: 256, step: 64}", "batch_size: {low: 4, high: 64, log: true}"))
    assert space.distributions() == {
        "d_model": IntDistribution(64, 256, step=64),
        "batch_size": IntDistribution(4, 64, log=True),
    }


def test_a_parameter_is_active_only_where_its_condition_holds() -> None:
    space = parse_space(SPACE)
    assert "momentum" not in space.active({"optimizer": "adamw"})
    assert "momentum" in space.active({"optimizer": "sgd"})
    proposal = {"optimizer": "adamw", "momentum": 0.9}
    assert "momentum" not in space.settings(proposal)
    assert space.settings(proposal | {"optimizer": "sgd"})["momentum"] == 0.9


def test_conditions_chain() -> None:
    space = parse_space(
        entries(
            "dropout: {low: 0, high: 0.5, when: norm == 'rmsnorm'}",
            "norm: {choices: [layernorm, rmsnorm], when: d_model > 64}",
            "d_model: {choices: [64, 128]}",
            "num_heads: 1",
        )
    )
    assert [each.name for each in space.searched] == ["d_model", "norm", "dropout"]
    assert space.active({"d_model": 64, "norm": "rmsnorm"}) == ("d_model",)
    assert space.active({"d_model": 128, "norm": "layernorm"}) == ("d_model", "norm")
    assert space.active({"d_model": 128, "norm": "rmsnorm"}) == ("d_model", "norm", "dropout")


def test_the_baseline_is_the_priors_and_then_the_defaults() -> None:
    assert parse_space(SPACE).prior() == {
        "learning_rate": 3e-4,
        "d_model": 128,
        "num_heads": 8,
        "optimizer": "adamw",
        "dropout": 0.1,
        "warmup_steps": 0,
    }


def test_the_baseline_takes_the_middle_where_the_default_is_outside() -> None:
    space = parse_space(
        entries(
            "learning_rate: {low: 1e-3, high: 1e-1, log: true}",
            "dropout: {low: 0.2, high: 0.4}",
            "num_layers: {low: 1, high: 4}",
            "d_model: {choices: [64, 128, 256]}",
            "batch_size: {low: 32, high: 64, step: 16, prior: 50}",
        )
    )
    prior = space.prior()
    assert prior["learning_rate"] == pytest.approx(1e-2)
    assert prior["dropout"] == pytest.approx(0.3)
    assert prior["num_layers"] == 2
    assert prior["d_model"] == 128
    assert prior["batch_size"] == 48


def test_a_prior_has_a_confidence_and_its_default_is_medium() -> None:
    space = parse_space(
        entries(
            "dropout: {low: 0.0, high: 0.5, prior: 0.1, confidence: high}",
            "d_model: {choices: [64, 128], prior: 64, confidence: low}",
            "num_layers: {low: 1, high: 4, prior: 2}",
            "num_groups: {choices: [null, 1], prior: null}",
            "weight_decay: {low: 0, high: 0.1}",
        )
    )
    found = {each.name: each.confidence for each in space.searched}
    assert found == {"dropout": "high", "d_model": "low", "num_layers": "medium", "num_groups": "medium", "weight_decay": None}
    assert parse_space(space.to_yaml()) == space
    stated = parse_space(space.to_yaml().replace("prior: 2", "prior: 2, confidence: medium"))
    assert stated.digest == space.digest
    assert space.differences(parse_space(space.to_yaml().replace("confidence: high", "confidence: low"))) == [
        "dropout: confidence high → low"
    ]


def test_an_automatic_prior_comes_after_what_decides_it_and_is_the_middle_without_a_law() -> None:
    space = parse_space(
        entries(
            "weight_decay: {low: 1e-4, high: 1.0, log: true, prior: auto}",
            "learning_rate: {low: 1e-4, high: 1e-2, log: true, prior: auto}",
            "batch_size: {choices: [8, 16, 64], prior: auto}",
            "d_model: {choices: [64, 128], prior: 64}",
        )
    )
    assert [each.name for each in space.searched] == ["d_model", "batch_size", "learning_rate", "weight_decay"]
    assert [each.name for each in space.automatic] == ["batch_size", "learning_rate", "weight_decay"]
    assert space.prior() == {
        "d_model": 64,
        "batch_size": 16,
        "learning_rate": pytest.approx(1e-3),
        "weight_decay": pytest.approx(1e-2),
    }
    given = {"batch_size": 40.0, "learning_rate": 3e-3, "weight_decay": 7.0}
    # The choice nearest by ratio, the law itself, and the end of a range that ends before it.
    expected = {"d_model": 64, "batch_size": 64, "learning_rate": 3e-3, "weight_decay": 1.0}
    assert space.prior(lambda parameter, settings: given[parameter.name]) == expected
    assert space.content()["parameters"]["batch_size"] == {"choices": [8, 16, 64], "prior": "auto"}


def test_the_baseline_follows_another_value_as_the_default_does() -> None:
    groups = "num_groups: {choices: [2, 4, 8]}"
    space = parse_space(entries("dropout: 0.25", "hidden_dropout_prob: {low: 0, high: 0.5}", groups))
    assert space.prior() == {"hidden_dropout_prob": 0.25, "num_groups": 8}


def test_null_among_the_choices_means_as_by_default() -> None:
    space = parse_space(entries("num_groups: {choices: [null, 1, 2]}", "num_heads: {choices: [2, 4]}", LR))
    prior = space.prior()
    assert prior["num_groups"] is None
    config = TrialConfig.build({"max_iters": 10, **space.settings(prior | {"num_heads": 4})})
    assert config.num_groups == 4


def test_a_condition_on_a_value_that_follows_another_waits_for_that() -> None:
    space = parse_space(
        entries(
            "dropout: {low: 0, high: 0.5, when: num_groups == 2}",
            "num_groups: {choices: [null, 1]}",
            "num_heads: {choices: [2, 4]}",
        )
    )
    assert [each.name for each in space.searched] == ["num_groups", "num_heads", "dropout"]
    assert "dropout" in space.active({"num_groups": None, "num_heads": 2})
    assert "dropout" not in space.active({"num_groups": None, "num_heads": 4})
    assert "dropout" not in space.active({"num_groups": 1, "num_heads": 2})


def test_the_baseline_moves_values_that_nobody_gave_to_satisfy_a_rule() -> None:
    space = parse_space(
        entries("d_model: {choices: [96, 128], prior: 96}", "num_heads: {choices: [3, 5, 8]}", "position: {choices: [rotary]}")
        + "require: num_heads < 8\n"
    )
    assert space.prior() == {"d_model": 96, "num_heads": 3, "position": "rotary"}


def test_a_derived_value_is_a_whole_number_where_it_must_be() -> None:
    width = "d_model: {choices: [64, 100]}"
    space = parse_space(entries(width, "num_heads: 4", "d_ff: 8 / 3 * d_model", "dropout: 10 / d_model"))
    settings = space.settings({"d_model": 100})
    assert (settings["d_ff"], type(settings["d_ff"])) == (267, int)
    assert settings["dropout"] == 0.1
    assert space.settings({"d_model": 64})["d_ff"] == 171


def test_a_derived_choice_is_an_expression_in_quotes() -> None:
    space = parse_space(entries("d_model: {choices: [64, 128]}", "norm: \"'rmsnorm' if d_model > 64 else 'layernorm'\""))
    assert space.settings({"d_model": 128})["norm"] == "rmsnorm"
    assert space.settings({"d_model": 64})["norm"] == "layernorm"


def test_an_expression_without_names_is_a_fixed_value() -> None:
    space = parse_space(entries("d_model: 2 ** 7", "dropout: '0.2'", LR))
    assert fixed(space) == {"d_model": 128, "dropout": 0.2}


def test_what_depends_on_the_budget_waits_for_it() -> None:
    space = parse_space(
        entries(LR, "warmup_steps: max_iters // 20", "log_interval: warmup_steps + 1")
        + "require: [warmup_steps > 0, max_iters < 1000]\n"
    )
    prior = space.prior()
    assert space.settings(prior) == prior
    settings = space.settings(prior, {"max_iters": 500, "eval_interval": 50})
    assert (settings["warmup_steps"], settings["log_interval"]) == (25, 26)
    assert (settings["max_iters"], settings["eval_interval"]) == (500, 50)
    assert space.violation(settings) is None
    assert space.violation(space.settings(prior)) is None
    assert space.violation(space.settings(prior, {"max_iters": 2000})) == "max_iters < 1000 does not hold: max_iters 2000"


def test_a_violation_names_the_rule_and_the_values() -> None:
    space = parse_space(entries("d_model: {choices: [96, 128], prior: 128}", "num_heads: {choices: [3, 4], prior: 4}"))
    told = space.violation(space.settings({"d_model": 128, "num_heads": 3}))
    assert told == "d_model (128) must be a multiple of num_heads (3)"
    ruled = parse_space(entries("d_model: {choices: [64, 128], prior: 64}") + "require: d_model < 100\n")
    assert ruled.violation({"d_model": 128}) == "d_model < 100 does not hold: d_model 128"
    assert ruled.violation({"d_model": 64}) is None


@pytest.mark.parametrize("rule", ["require: d_model % num_heads == 0", "require: [hidden_size%num_attention_heads==0]"])
def test_require_is_a_rule_or_a_list_of_rules(rule: str) -> None:
    space = parse_space(entries("d_model: {choices: [64]}") + rule + "\n")
    assert [each.expression.text for each in space.rules] == ["d_model % num_heads == 0"]


def test_both_spellings_of_small_numbers_are_numbers() -> None:
    for text in ("1e-4", "1.0e-4", "1E-4", ".0001", "+1e-4", "0.0001"):
        assert fixed(parse_space(entries(f"weight_decay: {text}", LR)))["weight_decay"] == 1e-4


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert fixed(parse_space(entries("d_model: 2e2", "num_heads: 8.0", LR)))["d_model"] == 200


def test_intervals_are_written_as_they_were_given() -> None:
    text = entries(LR, "max_iters: 46")
    space = parse_space(text + "  eval_interval: 4.6\n  save_interval: 23\n")
    assert "  eval_interval: 4.6\n  save_interval: 23\n" in space.to_yaml()
    assert parse_space(space.to_yaml()).digest == space.digest
    assert parse_space(text + "  eval_interval: 4.60\n  save_interval: 23.0\n").digest == space.digest
    assert parse_space(text + "  save_interval: max_iters / 4\n").settings({}, {"max_iters": 46})["save_interval"] == 11.5


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        (entries(LR), BudgetSpec("device_seconds", 15.0, 10)),
        ("budget: {evaluations: 4}\n" + entries(LR), BudgetSpec("device_seconds", 15.0, 4)),
        ("budget: {flops: 1e12}\n" + entries(LR), BudgetSpec("flops", 1e12, 10)),
        ("budget: {training_steps: 500}\n" + entries(LR), BudgetSpec("max_iters", 500.0, 10)),
        ("budget: {max_iters: 4}\n" + entries(LR), BudgetSpec("max_iters", 4.0, 4)),
        (entries(LR, "max_steps: 500"), BudgetSpec("max_iters", 500.0, 10)),
        ("budget: {evaluations: 7}\n" + entries(LR, "num_epochs: 1.5"), BudgetSpec("num_epochs", 1.5, 7)),
        (entries("max_iters: {low: 100, high: 1000}"), BudgetSpec("max_iters", None, 10)),
        (entries(LR, "max_iters: 500", "eval_interval: 100"), BudgetSpec("max_iters", 500.0, 5)),
        # An evaluation at 490 and another at 500 would be one too many: the rule leaves the first out.
        (entries(LR, "max_iters: 500", "eval_interval: 70"), BudgetSpec("max_iters", 500.0, 7)),
        (entries(LR, "max_iters: 500", "eval_interval: 60"), BudgetSpec("max_iters", 500.0, 8)),
        (entries(LR, "max_iters: 46", "eval_interval: 4.6"), BudgetSpec("max_iters", 46.0, 10)),
    ],
)
def test_the_budget(text: str, budget: BudgetSpec) -> None:
    space = parse_space(text)
    assert space.budget == budget
    assert parse_space(space.to_yaml()).budget == budget


def test_the_default_objective_fits_the_architecture() -> None:
    assert parse_space(entries(LR)).objectives == ("val_bpb",)
    assert parse_space(entries(LR, "architecture: encoder")).objectives == ("val_masked_bpb",)


def test_sampling_settings_are_searched_under_an_objective_that_they_change() -> None:
    space = parse_space("objective: generation_divergence\n" + entries("temperature: {low: 0.5, high: 1.5}"))
    assert [each.name for each in space.searched] == ["temperature"]


def test_several_objectives_make_a_pareto_front() -> None:
    assert parse_space("objective: [val_bpb, num_parameters]\n" + entries(LR)).objectives == ("val_bpb", "num_parameters")


def test_the_digest_ignores_spelling() -> None:
    other = """# comments, order, aliases, the name and the spelling of numbers do not matter
constraints: {num_parameters: {max: 5000000}}
require: hidden_size%num_attention_heads==0
parameters:
  hidden_act: gelu
  optimizer: {choices: ["adamw", sgd]}
  momentum: {when: "optimizer=='sgd'", high: 99e-2, low: 0.80}
  warmup_steps: {low: 0, high: 2e2, step: 1}
  dropout_rate: {low: 0, high: 0.30, step: 5e-2, }
  num_attention_heads: {choices: [2, 4.0, 8]}
  intermediate_size: (4*hidden_size)
  hidden_size: {prior: 128, choices: [64, 128, 256, 384]}
  learning_rate: {log: true, low: 0.0000001, high: 0.001, prior: 0.0003}
budget: {evaluations: 10, device_seconds: 15.0}
name: other
"""
    assert parse_space(other).digest == parse_space(SPACE).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.0e-3", "1e-2"),
        ("prior: 128", "prior: 64"),
        ("[2, 4, 8]", "[2, 8, 4]"),
        ("d_model % num_heads == 0", "d_model > 1"),
        ("max: 5e6", "max: 6e6"),
        ("device_seconds: 15", "device_seconds: 16"),
        ("evaluations: 10", "evaluations: 11"),
        ("text: pydoc", "text: stdlib"),
        ("objective: val_bpb", "objective: val_loss"),
        ("gelu", "relu"),
    ],
)
def test_the_digest_tells_spaces_apart(old: str, new: str) -> None:
    assert old in SPACE
    assert parse_space(SPACE.replace(old, new)).digest != parse_space(SPACE).digest


def test_differences_are_sentences() -> None:
    changed = (
        SPACE.replace("1.0e-3", "1e-2")
        .replace("prior: 128", "prior: 64")
        .replace("hidden_act:    gelu", "num_layers: 3")
        .replace("d_model % num_heads == 0", "d_model > 1")
        .replace("max: 5e6", "max: 6e6")
        .replace("text: pydoc", "text: stdlib")
        .replace("device_seconds: 15", "tokens: 100")
        .replace("objective: val_bpb", "objective: val_loss")
        .replace("{choices: [2, 4, 8]}", "4")
    )
    assert parse_space(SPACE).differences(parse_space(changed)) == [
        "objective: val_bpb → val_loss",
        "data.text: pydoc → stdlib",
        "budget: {device_seconds: 15, evaluations: 10} → {tokens: 100, evaluations: 10}",
        "learning_rate: high 0.001 → 0.01",
        "d_model: prior 128 → 64",
        "num_heads: {choices: [2, 4, 8]} → 4",
        "hidden_act: removed (was gelu)",
        "num_layers: added (3)",
        "rule removed: d_model % num_heads == 0",
        "rule added: d_model > 1",
        "constraints.num_parameters: max 5000000 → 6000000",
    ]
    assert parse_space(SPACE).differences(parse_space(SPACE)) == []


def test_override_fixes_values() -> None:
    space = override(parse_space(SPACE), {"learning_rate": "1e-2", "hidden_size": 256, "d_ff": "2 * d_model"})
    assert fixed(space)["learning_rate"] == 1e-2
    assert space.settings(space.prior())["d_ff"] == 512
    assert space.name == "lm"


def test_override_drops_what_can_no_longer_take_part() -> None:
    space = override(parse_space(SPACE), {"optimizer": "adamw"})
    assert "momentum" not in space.parameters
    assert parse_space(space.to_yaml()).digest == space.digest


def test_override_keeps_the_condition_of_what_it_fixes() -> None:
    space = override(parse_space(SPACE), {"momentum": "0.95"})
    assert space.settings({"optimizer": "sgd"})["momentum"] == 0.95
    assert "momentum" not in space.settings({"optimizer": "adamw"})


def test_override_replaces_the_budget_and_the_data() -> None:
    space = override(parse_space(SPACE), budget={"tokens": "1e6"}, data={"text": "book.txt"})
    assert space.budget == BudgetSpec("tokens", 1e6, 10)
    assert (space.data.text, space.data.tokenizer) == ("book.txt", "bytes")
    assert override(parse_space(SPACE), data={"text": "1984", "validation": "0.2"}).data.model_dump() == {
        "text": "1984",
        "tokenizer": "bytes",
        "validation": 0.2,
    }
    own = override(parse_space(entries(LR, "max_iters: 100")), budget={"flops": 1e9, "evaluations": 3})
    assert own.budget == BudgetSpec("flops", 1e9, 3)
    assert "max_iters" not in own.parameters


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rte": 1}, "--set learning_rte=1: unknown hyperparameter 'learning_rte'; did you mean 'learning_rate'?"),
        ({"d_model": "sixty"}, "--set d_model=sixty: d_model: unknown name 'sixty'"),
        ({"num_layers": 0}, "--set num_layers=0: num_layers 0 is out of bounds: num_layers is at least 1"),
        ({"max_iters": 10}, "--set max_iters=10: max_iters and budget.device_seconds both say how long to train"),
        (
            {"num_heads": 3},
            "--set num_heads=3: no configuration can be built: d_model (64) must be a multiple of",
        ),
    ],
)
def test_override_refuses_with_the_option_as_place(settings: dict[str, object], message: str) -> None:
    space = parse_space(entries("d_model: {choices: [64, 128]}") + "budget: {device_seconds: 9}\n")
    with pytest.raises(BadInput) as caught:
        override(space, settings)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2


def test_override_refuses_a_setting_that_its_other_settings_make_idle() -> None:
    with pytest.raises(SpaceError, match="momentum does nothing"):
        override(parse_space(SPACE), {"momentum": 0.9, "optimizer": "adamw"})


def test_every_random_proposal_of_a_space_gives_values_of_its_distributions() -> None:
    space = parse_space(SPACE)
    distributions, random = space.distributions(), Random(3)
    for _ in range(300):
        proposal = space.propose(lambda parameter, _: parameter.draw(random))
        assert tuple(proposal) == space.active(proposal)
        for name, value in proposal.items():
            assert distributions[name]._contains(distributions[name].to_internal_repr(value))
        assert space.violation(space.settings(proposal)) is None


def test_load_space_names_a_space_after_its_file(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text("\ufeff" + entries(LR), encoding="utf-8")
    assert load_space(file).name == "tiny"

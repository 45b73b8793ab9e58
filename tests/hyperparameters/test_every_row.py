"""Every row of the documented hyperparameters is real: it can be declared, is kept, and does what its row says.

`hyper_rows.DOCUMENT` is the document's tables, word for word. ROWS holds a proof for each of them, in the same order: sides
that differ in that row alone, and the check of what must differ between them (`hyper_checks`).
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import hyper_checks as check
import pytest
from hyper_rows import SMALL, Documented, Lab, Row, Side, documented, space_of

from hpsearch.config import ALIASES, HYPERPARAMETERS, TrialConfig
from hpsearch.errors import ConfigError, SpaceError
from hpsearch.export.config_file import best_config_yaml, read_config
from hpsearch.results.view import StudyView
from hpsearch.space.parameters import Choices, Range
from hpsearch.storage.records import BudgetRecord, StudyRecord, TrialRecord, TrialState
from hpsearch.workload.feasibility import concrete

ENCODER = {"architecture": "encoder"}
SEQ2SEQ = {"architecture": "encoder_decoder"}
ONE_STEP = {"max_iters": 1, "lr_schedule": "constant", "dropout": 0.0, "grad_clip": 0.0}
TWO_STEPS = ONE_STEP | {"max_iters": 2}
EACH_STEP = {"log_interval": 1}
BOLD = {"initializer_range": 0.5}  # Weights far from 0, so that attention is far from even.
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LEARNT = {"max_iters": 60, "eval_interval": 60, "learning_rate": 1e-2, "batch_size": 16}
TALKATIVE = LEARNT | {"max_new_tokens": 60}

ROWS = {
    # Architecture
    "architecture": Row(("decoder", "encoder", "encoder_decoder"), check.stacks_sight_and_task_follow_the_architecture, BOLD),
    "num_layers": Row((1, 3), check.blocks_of_the_stack_and_by_default_of_both),
    "num_encoder_layers": Row((1, 3), check.blocks_of_the_encoder, SEQ2SEQ | {"num_layers": 2}),
    "num_decoder_layers": Row((1, 3), check.blocks_of_the_decoder, SEQ2SEQ | {"num_layers": 2}),
    "d_model": Row((16, 32), check.width_of_the_residual),
    "d_ff": Row((32, 48), check.width_of_the_feed_forward),
    "num_heads": Row((2, 4), check.query_heads, BOLD),
    "num_groups": Row((4, 2, 1), check.shared_key_value_heads, BOLD | {"num_heads": 4}),
    "embedding_dim": Row((16, 8), check.width_of_the_token_table_and_its_projection),
    "vocab_size": Row((270, 300), check.tokens_of_the_trained_tokenizer, tokenizer="bpe"),
    "type_vocab_size": Row((1, 2), check.segments_that_are_told_apart, ENCODER | BOLD),
    "context_length": Row((8, 16), check.tokens_of_a_sequence),
    "max_position_embeddings": Row((16, 40), check.rows_of_the_position_table),
    "position": Row(("learned", "rotary", "sinusoidal"), check.how_places_are_told, BOLD),
    "hidden_act": Row(("gelu", "relu", "silu", "relu2", "swiglu", "geglu"), check.the_activations_formula, BOLD),
    "norm": Row(("layernorm", "rmsnorm"), check.mean_and_deviation_or_root_mean_square),
    "layer_norm_epsilon": Row((1e-12, 1.0), check.added_to_the_variance),
    "initializer_range": Row((0.02, 0.08), check.deviation_of_the_initial_weights),
    "initializer_factor": Row((1.0, 3.0), check.scale_of_every_drawn_weight),
    "tie_embeddings": Row((True, False), check.one_matrix_or_two),
    # Training
    "learning_rate": Row((0.01, 0.03), check.size_of_the_step, ONE_STEP | {"optimizer": "sgd", "weight_decay": 0.0}),
    "batch_size": Row((4, 8), check.sequences_of_a_step),
    "max_iters": Row((6, 12), check.steps_of_the_run, EACH_STEP),
    "num_epochs": Row((1.0, 2.0), check.passes_over_the_text),
    "optimizer": Row(
        ("adamw", "adam", "sgd", "muon", "adafactor", "lion"),
        check.the_update_of_each_optimizer,
        ONE_STEP | {"learning_rate": 0.01, "weight_decay": 0.5},
    ),
    "beta1": Row((0.5, 0.9), check.decay_of_the_first_moment, ONE_STEP),
    "beta2": Row((0.9, 0.99), check.decay_of_the_second_moment, ONE_STEP),
    "adam_epsilon": Row((1e-8, 1e-2), check.added_to_adams_denominator, ONE_STEP | {"weight_decay": 0.0}),
    "momentum": Row(
        (0.5, 0.9), check.share_of_the_last_update_that_is_kept, TWO_STEPS | {"optimizer": "sgd", "weight_decay": 0.0}
    ),
    "ce_loss_weight": Row((1.0, 3.0), check.weight_of_the_cross_entropy),
    "attention_loss_weight": Row((0.0, 0.5), check.weight_of_the_attention_entropy, BOLD),
    "z_loss_weight": Row((0.0, 0.01), check.weight_of_the_squared_log_partition),
    "sentence_loss_weight": Row((0.0, 0.5), check.weight_of_the_sentence_order, ENCODER | {"batch_size": 8}),
    "warmup_steps": Row((0, 4), check.ramp_of_the_learning_rate, EACH_STEP | {"lr_schedule": "constant"}),
    "lr_schedule": Row(("cosine", "linear", "constant", "wsd"), check.shape_of_the_decay, EACH_STEP),
    "lr_decay_iters": Row((6, 12), check.end_of_the_decay, EACH_STEP),
    "lr_decay_ratio": Row((0.1, 0.5), check.what_is_left_of_the_peak, EACH_STEP | {"lr_decay_iters": 6}),
    "eval_interval": Row((4, 5), check.steps_between_evaluations),
    "eval_iters": Row((1, 2), check.held_out_text_of_an_evaluation),
    "save_interval": Row((4, 3), check.steps_between_checkpoints),
    "max_save_num": Row((1, 2), check.checkpoints_that_are_kept),
    "save_dir": Row((None, "elsewhere"), check.place_of_the_checkpoints),
    "log_interval": Row((3, 5), check.steps_between_log_lines),
    "log_file": Row((None, "logs/words.jsonl"), check.place_of_the_log),
    "log_file_level": Row(("debug", "info", "warning", "error"), check.least_level_in_the_log),
    "seed": Row((0, 1), check.everything_random),
    # Regularisation
    "dropout": Row((0.0, 0.5), check.dropout_of_the_embedding_and_default_of_the_others, STILL),
    "hidden_dropout_prob": Row(
        (0.0, 0.5), check.dropout_of_each_sub_layers_output, BOLD | {"dropout": 0.0, "attention_probs_dropout_prob": 0.0}
    ),
    "attention_probs_dropout_prob": Row(
        (0.0, 0.5), check.dropout_of_the_attention_probabilities, {"dropout": 0.0, "hidden_dropout_prob": 0.0}
    ),
    "weight_decay": Row((0.0, 0.5), check.decay_of_matrices_only, ONE_STEP),
    "grad_clip": Row(
        (0.0, 0.01, 100.0),
        check.longest_gradient,
        {
            "max_iters": 1,
            "lr_schedule": "constant",
            "dropout": 0.0,
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "weight_decay": 0.0,
        },
    ),
    # Generation
    "temperature": Row((0.0, 1.0, 5.0), check.how_far_the_text_strays, TALKATIVE),
    "top_k": Row((None, 3), check.only_the_k_likeliest, TALKATIVE),
    "top_p": Row((None, 0.5), check.only_the_likeliest_that_hold_p, TALKATIVE),
    "num_samples": Row((1, 3), check.texts_for_a_prompt),
    "max_new_tokens": Row((5, 40), check.length_of_the_text, LEARNT),
}

TABLE = {row.name: row for row in documented()}
NAMES = list(TABLE)
FIXED = [name for name, row in TABLE.items() if row.search == "fixed"]
SEARCHED = [name for name, row in TABLE.items() if row.search == "yes"]
SAMPLING = [name for name, row in TABLE.items() if row.search == "see below"]


@pytest.fixture
def lab(small_text: Path, cache_dir: Path, tmp_path: Path) -> Lab:
    (tmp_path / "runs").mkdir()
    return Lab(small_text, cache_dir, tmp_path / "runs")


@pytest.mark.parametrize("name", ROWS)
def test_runs_that_differ_in_one_row_differ_as_it_says(name: str, lab: Lab) -> None:
    row = ROWS[name]
    row.check(*(lab.side({**row.beside, name: value}, row.tokenizer) for value in row.values))


def test_no_row_is_missing_and_none_is_made_up() -> None:
    assert list(ROWS) == NAMES == list(HYPERPARAMETERS)
    assert len({row.check for row in ROWS.values()}) == len(ROWS)


@pytest.mark.parametrize("row", TABLE.values(), ids=NAMES)
def test_defaults_and_aliases_are_the_documents(row: Documented) -> None:
    info = HYPERPARAMETERS[row.name]
    assert info.aliases == row.aliases
    if info.derived:
        assert row.default == info.default_text
    else:
        assert (info.default, type(info.default)) == (row.default, type(row.default))


def test_the_documented_range_of_the_learning_rate_is_kept() -> None:
    assert {name: info.documented for name, info in HYPERPARAMETERS.items() if info.documented} == {
        "learning_rate": (1e-7, 1e-3)
    }


@pytest.mark.parametrize("row", [row for row in TABLE.values() if row.aliases], ids=lambda row: row.name)
def test_aliases_mean_the_same_and_may_not_disagree(row: Documented, lab: Lab) -> None:
    one, other = ROWS[row.name].values[:2]
    beside = {name: value for name, value in SMALL.items() if name != row.name} | dict(ROWS[row.name].beside)
    plain = TrialConfig.build(beside | {row.name: one})
    for alias in row.aliases:
        assert ALIASES[alias] == row.name
        assert TrialConfig.build(beside | {alias: one}) == plain
        assert TrialConfig.build(beside | {alias: one, row.name: one}) == plain
    for first, second in itertools.combinations((row.name, *row.aliases), 2):
        with pytest.raises(ConfigError, match=f"'{first}: {one}' and '{second}: {other}' are two names of {row.name}"):
            TrialConfig.build(beside | {first: one, second: other})
        with pytest.raises(SpaceError, match=rf"'{second}' and '{first}' \(line 1\) are two names of {row.name}"):
            space_of(lab, {first: one, second: other}, objective="val_bpb")


def declared(lab: Lab, name: str, how: Any, objective: str | None = None) -> Any:
    """A space in which `name` is declared in some way, beside what it needs."""
    row = ROWS[name]
    beside = {key: value for key, value in row.beside.items() if key not in ("max_iters", "eval_interval", "learning_rate")}
    if objective is None:
        objective = "val_masked_bpb" if beside.get("architecture") == "encoder" else "val_bpb"
        if name == "architecture":
            objective = "train_seconds"
        if name in SAMPLING:
            objective = "generation_divergence"
    return space_of(lab, beside | {name: how}, objective=objective, tokenizer=row.tokenizer)


def a_range(name: str) -> dict[str, float] | None:
    """Around the row's values; None where they are words."""
    numbers = [value for value in ROWS[name].values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not numbers:
        return None
    low, high = min(numbers), max(numbers)
    return {"low": low, "high": high if high > low else 1.5 * high if isinstance(high, float) else 2 * high}


@pytest.mark.parametrize("name", FIXED)
def test_a_range_on_a_fixed_row_is_refused_with_its_reason(name: str, lab: Lab) -> None:
    values = [value for value in ROWS[name].values if value is not None]
    ways: list[Any] = [{"choices": values if len(values) > 1 else [*values, "another"]}]
    ways += [numbers] if (numbers := a_range(name)) else []
    for how in ways:
        with pytest.raises(SpaceError) as caught:
            declared(lab, name, how)
        assert f"a range on {name} is refused: {HYPERPARAMETERS[name].fixed}" in str(caught.value)
    assert len(HYPERPARAMETERS[name].fixed) > 10


@pytest.mark.parametrize("name", [*SEARCHED, *SAMPLING])
def test_a_searchable_row_takes_choices_and_a_range(name: str, lab: Lab) -> None:
    choices = declared(lab, name, {"choices": list(ROWS[name].values)}).parameters[name]
    assert isinstance(choices, Choices)
    assert choices.choices == ROWS[name].values
    if numbers := a_range(name):
        found = declared(lab, name, numbers).parameters[name]
        assert isinstance(found, Range)
        assert (found.low, found.high) == (numbers["low"], numbers["high"])


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("objective", ["val_bpb", "val_loss", "num_parameters", "flops_per_token", "train_seconds"])
def test_sampling_is_searched_only_where_it_can_change_the_objective(name: str, objective: str, lab: Lab) -> None:
    with pytest.raises(SpaceError, match=f"{name} cannot change {objective}"):
        declared(lab, name, a_range(name), objective)
    assert declared(lab, name, a_range(name), "generation_divergence").varies(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_declared_recorded_and_exported(name: str, lab: Lab, tmp_path: Path) -> None:
    for value in ROWS[name].values:
        space = declared(lab, name, value if name in FIXED else {"choices": list(ROWS[name].values)})
        proposal = space.propose(
            lambda parameter, _, space=space, value=value: (
                value if parameter.name == name else space.prior().get(parameter.name)
            )
        )
        budget = BudgetRecord(space.budget.kind, space.budget.amount or 0.0, space.budget.evaluations)
        config = concrete(space, proposal, budget, lab.cache, {})
        trial = TrialRecord(
            number=0,
            state=TrialState.COMPLETE,
            params=proposal,
            config=json.loads(json.dumps(config.concrete())),
            proposed_by="prior",
            values=(1.0,),
        )
        study = StudyRecord(
            name="rows",
            space_text=space.to_yaml(),
            space_digest=space.digest,
            objectives=space.objectives,
            data=space.data.model_dump(mode="json"),
            data_fingerprint="0" * 64,
            budget=budget,
            sampler="tpe",
            pruner="median",
            seed=0,
            versions={},
            host="host",
            device="cpu",
            threads=1,
            folder="",
            trials_target=1,
        )
        path = tmp_path / "best.yaml"
        path.write_text(best_config_yaml(StudyView(study, [trial]), trial), "utf-8")
        exported = read_config(path).config
        assert exported == config
        assert getattr(exported, name) == trial.config[name] == value


def test_two_sides_are_equal_where_nothing_differs(lab: Lab) -> None:
    """The checks above compare; here is nothing to be found."""
    sides: list[Side] = [lab.side({}), lab.side({})]
    assert sides[0].config == sides[1].config
    check.close(check.flat(sides[0].moved), check.flat(sides[1].moved), rtol=0, atol=0)
    assert [point.metrics for point in sides[0].points] == [point.metrics for point in sides[1].points]

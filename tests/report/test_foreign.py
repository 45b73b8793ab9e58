"""A configuration under other programs' names: they exist there, mean the same, and nothing is dropped without a word."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from ruamel.yaml import YAML

from hpsearch.config import HYPERPARAMETERS, TrialConfig
from hpsearch.errors import BadInput, ConfigError
from hpsearch.export.frameworks import NEUTRAL, PROGRAMS, as_json, as_text, translate
from hpsearch.training.schedules import learning_rate_at

NANOGPT = set(
    """
    out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from wandb_log wandb_project
    wandb_run_name dataset gradient_accumulation_steps batch_size block_size n_layer n_head n_embd dropout bias learning_rate
    max_iters weight_decay beta1 beta2 grad_clip decay_lr warmup_iters lr_decay_iters min_lr backend device dtype compile
    """.split()  # noqa: SIM905
)
"""Every name that nanoGPT's train.py lets a configuration set."""
LITGPT = {
    "": """
        model_name model_config out_dir precision initial_checkpoint_dir resume data train eval optimizer devices num_nodes
        tokenizer_dir logger_name seed
    """,
    "model_config": """
        name hf_config block_size n_layer n_embd vocab_size padding_multiple padded_vocab_size norm_class_name norm_eps norm_qk
        parallel_residual n_head head_size n_query_groups attn_bias rope_base rotary_percentage intermediate_size bias
        mlp_class_name gelu_approximate lm_head_bias
    """,
    "train": """
        save_interval log_interval global_batch_size micro_batch_size lr_warmup_steps lr_warmup_fraction max_tokens
        max_seq_length tie_embeddings max_norm min_lr
    """,
    "eval": "interval max_iters initial_validation final_validation",
}
"""Names of litgpt's `pretrain`; of `train` and `eval` those that it supports."""

GPT2 = {"layer_norm_epsilon": 1e-5, "max_iters": 200, "d_model": 64, "d_ff": 256, "vocab_size": 256, "num_heads": 4}
LLAMA = GPT2 | {"position": "rotary", "norm": "rmsnorm", "hidden_act": "swiglu", "num_groups": 2, "dropout": 0.0}


def config(**changes: Any) -> TrialConfig:
    return TrialConfig.build(GPT2 | {"max_position_embeddings": 128, "learning_rate": 3e-4} | changes)


ALL = [
    config(),
    config(optimizer="sgd", lr_schedule="linear", grad_clip=0, dropout=0.2, hidden_dropout_prob=0.1, top_k=5, d_ff=100),
    config(optimizer="muon", lr_schedule="wsd", warmup_steps=20, tie_embeddings=False, z_loss_weight=1e-4),
    config(optimizer="adam", lr_schedule="constant", warmup_steps=10, embedding_dim=32, initializer_factor=0.5, num_epochs=2),
    config(optimizer="lion", position="sinusoidal", attention_loss_weight=0.1, lr_decay_iters=100),
    config(**LLAMA, optimizer="adafactor"),
    config(architecture="encoder", sentence_loss_weight=1.0, type_vocab_size=3),
    config(architecture="encoder_decoder", num_encoder_layers=2),
]


def without_effect(program: str, asked: TrialConfig) -> set[str]:
    """Hyperparameters that change nothing of what `program` would train."""
    idle = {"log_file_level"}
    if asked.position != "learned" or program == "litgpt":
        idle |= {"max_position_embeddings"}
    if asked.architecture == "encoder_decoder":
        idle |= {"num_layers"}
    if program == "transformers" and (asked.position == "sinusoidal" or asked.embedding_dim != asked.d_model):
        # There is no such model, which is said once.
        idle |= {name for name, info in HYPERPARAMETERS.items() if info.section == "architecture"}
    if asked.lr_schedule == "constant":
        idle |= {"lr_decay_ratio", "lr_decay_iters"}
    return idle


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("asked", ALL, ids=range(len(ALL)))
def test_every_setting_is_passed_on_or_named(program: str, asked: TrialConfig) -> None:
    if asked.architecture != "decoder" and program != "transformers":
        with pytest.raises(ConfigError, match=f"^architecture: {asked.architecture} cannot"):
            translate(program, asked, "cpu")
        return
    told = as_json(translate(program, asked, "cpu"))
    dropped = set()
    other = {
        "int": lambda v: v * 2 or 2,
        "number": lambda v: v * 2,
        "float": lambda v: v / 2 if v else 0.25,
        "bool": lambda v: not v,
    }
    for name, value in asked.concrete().items():
        info = HYPERPARAMETERS[name]
        if value is None or info.kind not in other or name == "num_epochs":
            continue
        changed = TrialConfig.model_construct(**(asked.model_dump() | {name: other[info.kind](value)}))
        if as_json(translate(program, changed, "cpu")) == told:
            dropped.add(name)
    assert dropped <= without_effect(program, asked)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_built_in_over_there_is_not_called_missing(program: str) -> None:
    asked = config(**LLAMA) if program == "litgpt" else config(dropout=0.1, max_position_embeddings=128)
    named = {sentence.partition(" ")[0] for sentence in translate(program, asked, "cpu").missing}
    allowed = {"seed", "initializer_range", "max_save_num", "eval_iters", "temperature"}
    assert named <= allowed
    assert not named & NEUTRAL.keys()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_whole_steps_gets_whole_intervals_and_it_is_said(program: str) -> None:
    asked = config(max_iters=46, eval_interval=4.6)
    told = translate(program, asked, "cpu")
    flat = {**told.settings, **{k: v for each in told.settings.values() if isinstance(each, dict) for k, v in each.items()}}
    names = {
        "nanogpt": ["eval_interval"],
        "litgpt": ["interval", "save_interval"],
        "transformers": ["eval_steps", "save_steps"],
    }
    assert [repr(flat[name]) for name in names[program]] == ["5"] * len(names[program])
    assert any(sentence.startswith("eval_interval 4.6: ") for sentence in told.differs)
    assert not any("eval_interval" in sentence for sentence in translate(program, config(eval_interval=5), "cpu").differs)


def test_nanogpt_gets_a_python_file_of_names_that_it_knows() -> None:
    told = translate("nanogpt", config(batch_size=6, warmup_steps=7, lr_decay_ratio=0.2), "cpu")
    found: dict[str, Any] = {}
    exec(as_text(told, ["trial 3"]), {}, found)  # As nanoGPT's configurator does.
    assert found.keys() <= NANOGPT
    assert (found["batch_size"], found["n_embd"], found["block_size"], found["bias"]) == (6, 64, 128, True)
    assert found["min_lr"] == pytest.approx(6e-5)
    constant = translate("nanogpt", config(lr_schedule="constant"), "cpu").settings
    assert constant["min_lr"] == constant["learning_rate"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"d_ff": 100}, "d_ff 100: built in as 4 * n_embd (256)"),
        ({"hidden_act": "relu2"}, "hidden_act relu2: the activation is gelu"),
        ({"optimizer": "lion"}, "optimizer lion: nanoGPT has AdamW only"),
        ({"lr_schedule": "wsd"}, "lr_schedule wsd: nanogpt decays by a cosine"),
        ({"z_loss_weight": 1e-4}, "z_loss_weight 0.0001: no such setting"),
        ({"num_groups": 2}, "num_groups 2: every head has its own"),
    ],
)
def test_what_nanogpt_lacks_is_said(changes: dict[str, Any], sentence: str) -> None:
    told = translate("nanogpt", config(**changes), "cpu")
    assert any(line.startswith(sentence) for line in told.missing), told.missing
    assert f"#   {sentence}" in as_text(told, [])


def test_litgpt_gets_yaml_of_names_that_it_knows() -> None:
    told = translate("litgpt", config(**LLAMA, batch_size=4), "cuda")
    found = YAML(typ="safe").load(as_text(told, []))
    assert found.keys() <= set(LITGPT[""].split())
    for section in ("model_config", "train", "eval"):
        assert found[section].keys() <= set(LITGPT[section].split())
    assert found["model_name"], "its pretrain does not start without"
    model, train = found["model_config"], found["train"]
    assert (model["mlp_class_name"], model["norm_class_name"], model["bias"], model["n_query_groups"]) == (
        "LLaMAMLP",
        "RMSNorm",
        False,
        2,
    )
    # Its number of steps: tokens over the tokens of a step.
    assert train["max_tokens"] // (train["micro_batch_size"] * model["block_size"]) == 200
    module, _, name = found["optimizer"]["class_path"].rpartition(".")
    assert module == "torch.optim"
    getattr(torch.optim, name)(torch.nn.Linear(2, 2).parameters(), **found["optimizer"]["init_args"])


def python(told: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(told, found)
    return found


@pytest.mark.parametrize("asked", ALL, ids=range(len(ALL)))
def test_the_trainers_arguments_can_be_made(asked: TrialConfig) -> None:
    made = python(as_text(translate("transformers", asked, "cpu"), ["a line"]))["training_arguments"]
    assert isinstance(made, transformers.TrainingArguments)
    assert (made.max_steps, made.learning_rate, made.warmup_steps) == (200, asked.learning_rate, asked.warmup_steps)
    assert (made.weight_decay, made.max_grad_norm, made.seed) == (asked.weight_decay, asked.grad_clip, asked.seed)


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_schedule": "cosine", "warmup_steps": 20},
        {"lr_schedule": "linear", "warmup_steps": 0},
        {"lr_schedule": "linear", "lr_decay_ratio": 0.0},
        {"lr_schedule": "wsd", "warmup_steps": 20},
        {"lr_schedule": "wsd", "lr_decay_iters": 150},
        {"lr_schedule": "constant", "warmup_steps": 20},
        {"lr_schedule": "cosine", "lr_decay_ratio": 1.0},
    ],
)
def test_the_trainers_schedule_is_ours_at_every_step_after_the_warm_up(changes: dict[str, Any]) -> None:
    asked = config(**changes)
    arguments = translate("transformers", asked, "cpu").settings["TrainingArguments"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments["learning_rate"])
    scheduler = transformers.get_scheduler(
        arguments["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=arguments["warmup_steps"],
        num_training_steps=arguments["max_steps"],
        scheduler_specific_kwargs=arguments.get("lr_scheduler_kwargs"),
    )
    for iteration in range(asked.max_iters):
        if iteration >= asked.warmup_steps:
            assert scheduler.get_last_lr()[0] == pytest.approx(learning_rate_at(iteration, asked), rel=1e-6, abs=1e-12), (
                iteration
            )
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("changes", "kind"), [({}, "GPT2Config"), (LLAMA, "LlamaConfig"), ({"architecture": "encoder"}, "BertConfig")]
)
def test_the_model_of_transformers_has_our_number_of_parameters(changes: dict[str, Any], kind: str) -> None:
    from hpsearch.model.counting import count

    asked = config(**changes)
    made = python(as_text(translate("transformers", asked, "cpu"), []))["model_config"]
    assert type(made).__name__ == kind
    auto = transformers.AutoModelForMaskedLM if kind == "BertConfig" else transformers.AutoModelForCausalLM
    assert sum(p.numel() for p in auto.from_config(made).parameters()) == count(asked).num_parameters


@pytest.mark.parametrize("changes", [{}, LLAMA, {"architecture": "encoder"}, {"architecture": "encoder_decoder"}])
def test_no_real_token_has_a_special_part_in_the_model_of_transformers(changes: dict[str, Any]) -> None:
    told = translate("transformers", config(**changes), "cpu")
    made = python(as_text(told, []))["model_config"]
    ids = {name: value for name, value in made.to_dict().items() if name.endswith("_token_id")}
    assert {"pad_token_id", "bos_token_id", "eos_token_id"} <= ids.keys()
    assert set(ids.values()) == {None}
    assert any("pad_token_id" in sentence for sentence in told.differs) == ("architecture" in changes)


def test_a_model_that_transformers_lacks_is_said_and_the_arguments_stay() -> None:
    told = translate("transformers", config(norm="rmsnorm"), "cpu")
    assert told.settings.keys() == {"TrainingArguments"}
    assert any("norm: rmsnorm cannot be expressed as gpt2" in line for line in told.missing)


def test_an_unknown_program_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'nanogpt'"):
        translate("nanogtp", config(), "cpu")
    assert json.loads(as_json(translate("nanogpt", config(), "cpu")))["program"] == "nanogpt"

"""A configuration under the names of other programs: nanoGPT, litgpt, and the `Trainer` of transformers.

Each hyperparameter ends in one of three places: in a setting over there, in `differs` (there is one, and it does not mean
quite the same), or in `missing` (there is none). What is at the value that the other program has built in needs no word.

Sources of the names: nanoGPT (github.com/karpathy/nanoGPT) `train.py`, `model.py`; litgpt (github.com/Lightning-AI/litgpt)
`litgpt/args.py`, `litgpt/config.py`, `litgpt/pretrain.py`; transformers `training_args.py`, `optimization.py`,
`trainer_optimizer.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpsearch.config import HYPERPARAMETERS, TrialConfig
from hpsearch.errors import BadInput, ConfigError, did_you_mean
from hpsearch.export.config_file import scalar
from hpsearch.results.formatting import short

NEUTRAL: dict[str, Any] = {
    "ce_loss_weight": 1.0,
    "attention_loss_weight": 0.0,
    "z_loss_weight": 0.0,
    "sentence_loss_weight": 0.0,
    "initializer_factor": 1.0,
    "type_vocab_size": 2,
    "log_file_level": "info",
}
"""Settings that do nothing at these values, so that a program without them lacks nothing."""
GENERATION = tuple(name for name, info in HYPERPARAMETERS.items() if info.section == "generation")
_HEADS = {
    "nanogpt": "A configuration of nanoGPT: python train.py THIS_FILE.py",
    "litgpt": "A configuration of litgpt: litgpt pretrain --config THIS_FILE.yaml",
    "transformers": "Arguments for the Trainer of transformers",
}

NAME = "hpsearch"
"""Of the model in litgpt, which knows no such one; so it takes what the configuration says."""


def translate(program: str, config: TrialConfig, device: str) -> Translation:
    """`config` for `program` (a key of PROGRAMS). device: `cpu` or `cuda`, where the trial ran.

    Raises BadInput for another program, and ConfigError where the architecture has no counterpart there at all.
    """
    if program not in PROGRAMS:
        raise BadInput(f"--for {program}: use {', '.join(PROGRAMS)}{did_you_mean(program, PROGRAMS)}")
    return PROGRAMS[program](Reader(program, config), config, device)


def _decoder_only(program: str, config: TrialConfig) -> None:
    if config.architecture != "decoder":
        raise ConfigError(
            "architecture",
            f"architecture: {config.architecture} cannot be expressed for {program}, which trains decoders only; "
            "use --for transformers",
        )


def _nanogpt(read: Reader, config: TrialConfig, device: str) -> Translation:
    _decoder_only("nanoGPT", config)
    take = read.take
    take("architecture")
    read.told.settings = {
        "eval_interval": _whole_steps(read, "eval_interval"),
        "eval_iters": take("eval_iters"),
        "log_interval": take("log_interval"),
        "gradient_accumulation_steps": 1,
        "batch_size": take("batch_size"),
        "block_size": take("context_length"),
        "n_layer": take("num_layers"),
        "n_head": take("num_heads"),
        "n_embd": take("d_model"),
        "dropout": take("dropout"),
        "bias": config.norm == "layernorm",
        "learning_rate": take("learning_rate"),
        "max_iters": take("max_iters"),
        "weight_decay": take("weight_decay"),
        **({"beta1": take("beta1"), "beta2": take("beta2")} if config.optimizer in ("adamw", "adam") else {}),
        "grad_clip": take("grad_clip"),
        "decay_lr": True,
        "warmup_iters": take("warmup_steps"),
        "lr_decay_iters": take("lr_decay_iters"),
        "min_lr": _floor(read, config),
        "device": device,
        "dtype": "bfloat16" if device == "cuda" else "float32",
        "compile": device == "cuda",
    }
    read.differs(
        "dataset: set it; nanoGPT reads token ids from data/<dataset>/train.bin and val.bin, which a prepare.py writes"
    )
    read.differs(f"vocab_size {take('vocab_size')}: read from data/<dataset>/meta.pkl, else 50304")
    read.differs("max_iters: nanoGPT counts from 0 and trains one step more")
    read.differs("eval_iters: nanoGPT draws random batches of both parts at every evaluation; here the held-out text is fixed")
    if config.warmup_steps:
        read.differs("warmup_iters: older copies of train.py begin the warm-up at 0, newer ones at the first step as here")
    read.built_in("optimizer", "adamw", "nanoGPT has AdamW only; with it, learning_rate and weight_decay mean something else")
    read.built_in("adam_epsilon", 1e-8, "built in as 1e-8")
    read.built_in("d_ff", 4 * config.d_model, f"built in as 4 * n_embd ({4 * config.d_model})")
    read.built_in("num_groups", config.num_heads, "every head has its own keys and values")
    read.built_in("embedding_dim", config.d_model, "the embedding is as wide as n_embd")
    read.built_in("position", "learned", "positions are learned")
    read.built_in("hidden_act", "gelu", "the activation is gelu")
    read.built_in("norm", "layernorm", "the normalisation is LayerNorm")
    read.built_in("layer_norm_epsilon", 1e-5, "built in as 1e-5")
    read.built_in("initializer_range", 0.02, "built in as 0.02")
    read.built_in("tie_embeddings", True, "the output projection is always tied to the embedding")
    if config.position == "learned":
        read.built_in("max_position_embeddings", config.context_length, "the position table has block_size rows")
    read.values.pop("max_position_embeddings", None)
    read.built_in("hidden_dropout_prob", config.dropout, "one dropout for all places")
    read.built_in("attention_probs_dropout_prob", config.dropout, "one dropout for all places")
    read.lacks("seed", "built in as 1337")
    read.built_in("save_interval", config.eval_interval, "nanoGPT saves at evaluations")
    read.built_in("max_save_num", 1, "nanoGPT keeps one checkpoint")
    return read.done()


def _floor(read: Reader, config: TrialConfig) -> float:
    """min_lr of a cosine. A constant rate is one that falls to itself."""
    ratio, schedule = read.take("lr_decay_ratio"), read.take("lr_schedule")
    if schedule in ("linear", "wsd"):
        read.told.missing.append(f"lr_schedule {schedule}: {read.told.program} decays by a cosine")
    return config.learning_rate * (1.0 if schedule == "constant" else ratio)


def _whole_steps(read: Reader, name: str) -> int:
    """An interval for a program that counts whole steps only."""
    value: float = read.take(name)
    steps = max(1, round(value))
    if steps != value:
        read.differs(
            f"{name} {value:.6g}: {read.told.program} has whole steps only, so the last ones come a little earlier or later"
        )
    return steps


def _litgpt(read: Reader, config: TrialConfig, device: str) -> Translation:
    _decoder_only("litgpt", config)
    take = read.take
    take("architecture")
    gated = {"swiglu": "LLaMAMLP", "geglu": "GemmaMLP"}
    tokens = config.max_iters * config.batch_size * config.context_length
    classes = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "adafactor": "Adafactor"}
    arguments: dict[str, Any] = {"lr": take("learning_rate"), "weight_decay": take("weight_decay")}
    if config.optimizer in ("adamw", "adam"):
        arguments |= {"betas": [take("beta1"), take("beta2")], "eps": take("adam_epsilon")}
    if config.optimizer == "sgd":
        arguments["momentum"] = take("momentum")
    take("max_iters")
    read.told.settings = {
        # litgpt asks for it, and builds from model_config.
        "model_name": NAME,
        "model_config": {
            "name": NAME,
            "block_size": take("context_length"),
            "n_layer": take("num_layers"),
            "n_head": take("num_heads"),
            "n_embd": take("d_model"),
            "n_query_groups": take("num_groups"),
            "vocab_size": config.vocab_size,
            "padded_vocab_size": take("vocab_size"),
            "norm_class_name": "LayerNorm" if config.norm == "layernorm" else "RMSNorm",
            "norm_eps": take("layer_norm_epsilon"),
            "mlp_class_name": gated.get(config.hidden_act, "GptNeoxMLP"),
            "intermediate_size": take("d_ff"),
            "bias": take("norm") == "layernorm",
            "parallel_residual": False,
            "rotary_percentage": 1.0,
        },
        "precision": "bf16-mixed" if device == "cuda" else "32-true",
        "train": {
            "save_interval": _whole_steps(read, "save_interval"),
            "log_interval": take("log_interval"),
            "global_batch_size": config.batch_size,
            "micro_batch_size": take("batch_size"),
            "lr_warmup_steps": take("warmup_steps"),
            "max_tokens": tokens,
            "tie_embeddings": take("tie_embeddings"),
            "max_norm": config.grad_clip or 1e9,
            "min_lr": _floor(read, config),
        },
        "eval": {"interval": _whole_steps(read, "eval_interval"), "max_iters": take("eval_iters")},
        "devices": 1,
        "seed": take("seed"),
    }
    if config.optimizer in classes:
        take("optimizer")
        class_path = f"torch.optim.{classes[config.optimizer]}"
        read.told.settings["optimizer"] = {"class_path": class_path, "init_args": arguments}
    else:
        read.told.settings["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": arguments}
        read.lacks(
            "optimizer", "no class of torch that takes all parameters; AdamW stands here, and its best learning rate is another"
        )
    read.differs("data, tokenizer_dir: set them; for a text file --data TextFiles and a folder with a tokenizer")
    read.differs(f"max_iters {config.max_iters}: litgpt pretrain counts tokens (max_tokens {tokens}), and decays to their end")
    read.differs("weight_decay: litgpt decays every parameter, biases and norms too; here matrices only")
    if config.warmup_steps:
        read.differs("lr_warmup_steps: the first step has learning rate 0; here it has a share of the peak")
    read.differs("eval.max_iters: batches of the loader's order; here the held-out text is fixed")
    if not take("grad_clip"):
        read.differs("max_norm: litgpt needs one; 1e9 never clips")
    read.built_in("lr_decay_iters", config.max_iters, "litgpt decays until max_tokens")
    read.built_in("position", "rotary", "litgpt has rotary positions only")
    read.values.pop("max_position_embeddings", None)
    if take("hidden_act") not in (*gated, "gelu"):
        read.told.missing.append(f"hidden_act {config.hidden_act}: litgpt has gelu, swiglu (LLaMAMLP) and geglu (GemmaMLP)")
    read.built_in("embedding_dim", config.d_model, "the embedding is as wide as n_embd")
    for name in ("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        read.built_in(name, 0.0, "litgpt has no dropout")
    read.lacks("initializer_range", "litgpt initialises as GPT-NeoX, by sqrt(2 / (5 n_embd))")
    read.lacks("max_save_num", "litgpt keeps every checkpoint")
    return read.done()


def _transformers(read: Reader, config: TrialConfig, device: str) -> Translation:
    from hpsearch.model.convert import hf_settings, target_of

    take = read.take
    arguments: dict[str, Any] = {
        "output_dir": "out",
        "per_device_train_batch_size": take("batch_size"),
        "gradient_accumulation_steps": 1,
        "max_steps": take("max_iters"),
        "learning_rate": take("learning_rate"),
        "warmup_steps": take("warmup_steps"),
        "weight_decay": take("weight_decay"),
        "max_grad_norm": take("grad_clip"),
        "eval_strategy": "steps",
        "eval_steps": _whole_steps(read, "eval_interval"),
        "save_strategy": "steps",
        "save_steps": _whole_steps(read, "save_interval"),
        "save_total_limit": take("max_save_num"),
        "logging_steps": take("log_interval"),
        "seed": take("seed"),
        "report_to": "none",
        **({"bf16": True} if device == "cuda" else {"use_cpu": True}),
    }
    arguments |= _scheduler(read, config) | _optimizer(read, config)
    read.told.settings["TrainingArguments"] = arguments
    context = take("context_length")
    read.differs(f"context_length {context}: cut the text into blocks of it (run_clm.py: --block_size {context})")
    read.differs(
        "the text and its tokenizer: a data set and a tokenizer of your own; `export --format hf` writes this tokenizer"
    )
    read.lacks("eval_iters", "the Trainer evaluates the whole evaluation set")
    shape = [name for name, info in HYPERPARAMETERS.items() if info.section == "architecture"]
    try:
        target = target_of(config)
        kind, settings = hf_settings(config)
        read.told.settings[kind] = settings
        if target in ("bert", "bart"):
            roles = ", ".join(name for name in settings if name.endswith("_token_id"))
            read.differs(f"{roles}: set them to your tokenizer's ids; None means that there is no such token")
    except ConfigError as error:
        read.told.missing.append(f"{error}; so there is no config of its model here")
        for name in shape:
            read.values.pop(name, None)
        return read.done()
    read.built_in("initializer_factor", 1.0, "only initializer_range is known")
    if target == "llama":
        read.differs("initial weights: transformers does not scale the projections into the residual stream by 1/√(2 layers)")
        read.built_in("hidden_dropout_prob", 0.0, "Llama has dropout on the attention only")
        read.built_in("dropout", 0.0, "Llama has no dropout of the embedding")
    elif target != "gpt2":
        read.built_in("dropout", config.hidden_dropout_prob, "the embedding has the dropout of the sub-layers")
    for name in (*shape, "dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        read.values.pop(name, None)
    return read.done()


def _scheduler(read: Reader, config: TrialConfig) -> dict[str, Any]:
    """The learning rate's arguments. Theirs begin the warm-up at 0 and end at max_steps."""
    ratio, schedule, end = read.take("lr_decay_ratio"), read.take("lr_schedule"), read.take("lr_decay_iters")
    if config.warmup_steps:
        read.differs("warmup_steps: the first step has learning rate 0; here it has a share of the peak")
    if schedule == "constant" or ratio == 1:
        return {"lr_scheduler_type": "constant_with_warmup"}
    if end != config.max_iters and schedule != "wsd":
        read.told.missing.append(f"lr_decay_iters {end}: the Trainer decays until max_steps ({config.max_iters})")
    if schedule == "cosine":
        return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": ratio}}
    if schedule == "linear":
        # A polynomial of power 1 is the line that may end above 0.
        kwargs = {"lr_end": config.learning_rate * ratio, "power": 1.0}
        return {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": kwargs}
    from hpsearch.training.schedules import WSD_DECAY_FRACTION

    decay = min(round(end * WSD_DECAY_FRACTION), max(0, end - config.warmup_steps))
    kwargs = {
        "num_decay_steps": decay,
        "num_stable_steps": max(0, end - decay - config.warmup_steps),
        "decay_type": "linear",
        "min_lr_ratio": ratio,
    }
    return {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": kwargs}


def _optimizer(read: Reader, config: TrialConfig) -> dict[str, Any]:
    if config.optimizer == "adamw" or (config.optimizer == "adam" and config.weight_decay == 0):
        read.take("optimizer")
        betas = {"adam_beta1": read.take("beta1"), "adam_beta2": read.take("beta2")}
        return {"optim": "adamw_torch", **betas, "adam_epsilon": read.take("adam_epsilon")}
    if config.optimizer == "sgd":
        read.take("optimizer")
        return {"optim": "sgd", "optim_args": f"momentum={read.take('momentum')!r}"}
    if config.optimizer == "adafactor":
        read.take("optimizer")
        read.differs("optim adafactor: transformers' own, with a clip and a decay of its own; here it is torch's")
        return {"optim": "adafactor"}
    if config.optimizer == "lion":
        read.take("optimizer")
        read.differs("optim lion_32bit: needs the library bitsandbytes and a GPU")
        return {"optim": "lion_32bit", "adam_beta1": read.take("beta1"), "adam_beta2": read.take("beta2")}
    why = "L2 in the gradient" if config.optimizer == "adam" else "no such rule"
    read.lacks("optimizer", f"{why} is not among the names of `optim`; give the Trainer an optimizer of your own (optimizers=)")
    return {}


PROGRAMS: dict[str, Callable[[Reader, TrialConfig, str], Translation]] = {
    "nanogpt": _nanogpt,
    "litgpt": _litgpt,
    "transformers": _transformers,
}
"""`--for`."""


@dataclass
class Translation:
    """What another program is to be told."""

    program: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Under the other program's names; a mapping inside is a section of its own."""
    differs: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Reader:
    """Hands out the hyperparameters of a config and knows which were not asked for."""

    def __init__(self, program: str, config: TrialConfig) -> None:
        self.told = Translation(program)
        self.values = {name: value for name, value in config.concrete().items() if value is not None}
        # Says in other words what max_iters says.
        self.values.pop("num_epochs", None)

    def take(self, name: str) -> Any:
        return self.values.pop(name)

    def built_in(self, name: str, there: Any, why: str) -> None:
        """There is no setting: `there` is what the program does always."""
        value = self.values.pop(name, None)
        if value is not None and value != there:
            self.told.missing.append(f"{name} {short(value)}: {why}")

    def lacks(self, name: str, why: str) -> None:
        value = self.values.pop(name, None)
        if value is not None:
            self.told.missing.append(f"{name} {short(value)}: {why}")

    def differs(self, sentence: str) -> None:
        self.told.differs.append(sentence)

    def done(self) -> Translation:
        for name, value in self.values.items():
            if name in GENERATION:
                continue
            if NEUTRAL.get(name) != value:
                self.told.missing.append(f"{name} {short(value)}: no such setting")
        sampling = [f"{name} {short(self.values[name])}" for name in GENERATION if name in self.values]
        if sampling:
            self.told.missing.append(f"{', '.join(sampling)}: of sampling, not of training")
        return self.told


def as_text(told: Translation, provenance: Sequence[str]) -> str:
    """The translation as a file of the program's own form: Python for nanoGPT and transformers, YAML for litgpt."""
    lines = [f"# {line}".rstrip() for line in (_HEADS[told.program], "", *provenance)]
    for title, sentences in (("Differs in meaning", told.differs), ("Has no counterpart", told.missing)):
        lines += ["#", f"# {title}:", *(f"#   {' '.join(line.split())}" for line in sentences or ["nothing"])]
    lines.append("")
    if told.program == "nanogpt":
        lines += [f"{name} = {value!r}" for name, value in told.settings.items()]
    elif told.program == "litgpt":
        for name, value in told.settings.items():
            inside = value.items() if isinstance(value, dict) else ()
            lines += (
                [f"{name}:", *(f"  {key}: {scalar(part)}" for key, part in inside)] if inside else [f"{name}: {scalar(value)}"]
            )
    else:
        lines += [f"from transformers import {', '.join(sorted(told.settings))}", ""]
        for kind, settings in told.settings.items():
            variable = "training_arguments" if kind == "TrainingArguments" else "model_config"
            lines += [f"{variable} = {kind}(", *(f"    {name}={value!r}," for name, value in settings.items()), ")", ""]
    return "\n".join(lines).rstrip() + "\n"


def as_json(told: Translation, confirmation: Mapping[str, Any] | None = None) -> str:
    """The translation as one JSON object: program, settings, differs, missing, confirmation."""
    content = {**vars(told), "confirmation": confirmation}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

"""Every hyperparameter, once: name, type, default, bounds, aliases and what it does.

`TrialConfig` is one concrete training run. The check of a search space, its JSON Schema, `hpsearch params`, the reference
table and the columns of every result come from its fields; nothing else states a default or a bound. The source document is
the Chinese list of language-model hyperparameters that the table of the documentation is made from.

Adding a hyperparameter is one field here plus its use.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from hpsearch.errors import ConfigError, DataError, did_you_mean
from hpsearch.files import OutsideFolder, require_place
from hpsearch.hyperparameter import FIXED, LARGEST, Hyperparameter, described, hyperparameter
from hpsearch.text import path_word

Architecture = Literal["decoder", "encoder", "encoder_decoder"]
Position = Literal["learned", "rotary", "sinusoidal"]
Activation = Literal["gelu", "relu", "silu", "relu2", "swiglu", "geglu"]
Norm = Literal["layernorm", "rmsnorm"]
OptimizerName = Literal["adamw", "adam", "sgd", "muon", "adafactor", "lion"]
Schedule = Literal["cosine", "linear", "constant", "wsd"]
LogLevel = Literal["debug", "info", "warning", "error"]
TokenizerKind = Literal["bytes", "chars", "bpe"]


def _whole(value: Any) -> Any:
    """2000.0 and 2e3 are the whole number 2000 (YAML writes them as floats); true is no number."""
    if isinstance(value, bool):
        raise ValueError("a whole number is needed, not true or false")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _real(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _interval(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("should be a finite number")
    return _whole(_real(value))


CHECKPOINTS, LOG_FILE = "checkpoints", "log.jsonl"
"""Where a run keeps its checkpoints and its log, in its folder, where its config does not say."""

OURS = frozenset(
    {
        *("config.yaml", "config.json", "sample.txt", "error.txt", "stacks.txt", "output.log", "resume.json"),
        *("model.safetensors", "tokenizer.json", "best.safetensors", "hpsearch-wrote.json"),
        *("space.yaml", "study.json", "best.yaml", "report.html", "hpsearch.db", "trials", "confirm"),
    }
)
"""What is written into folders of trials, models and studies under a name of ours. A config cannot name these."""


def _place(name: str) -> str:
    """A place in the run's folder: what a config from someone else names can be nowhere else."""
    try:
        place = require_place(name)
    except OutsideFolder as error:
        raise ValueError(
            f"a name inside the run's folder is needed, such as 'kept/here', and this one {error}; another place is for the "
            "command line (`train --save-dir`, `train --log-file`, `run --checkpoints-dir`)"
        ) from None
    first = place.partition("/")[0]
    if first.casefold() in OURS:
        raise ValueError(f"'{first}' is a name that hpsearch writes itself; choose another")
    return place


Int = Annotated[int, BeforeValidator(_whole)]
Place = Annotated[str, AfterValidator(_place)]
Real = Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)]
Interval = Annotated[int | float, BeforeValidator(_interval)]
"""Steps between two of something, maybe a fraction; what is given as a whole number stays one, wherever it is written."""

arch = functools.partial(hyperparameter, section="architecture")
training = functools.partial(hyperparameter, section="training")
regular = functools.partial(hyperparameter, section="regularisation")
generation = functools.partial(hyperparameter, section="generation")

_SEQ2SEQ = {"architecture": ("encoder_decoder",)}
_ENCODER = {"architecture": ("encoder",)}


class TrialConfig(BaseModel):
    """One training run, every value concrete. Build it with `TrialConfig.build`, which fills the derived defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Architecture
    architecture: Architecture = arch(
        "decoder",
        "decoder: causal language model; encoder: masked language model; encoder_decoder: denoising sequence-to-sequence",
    )
    num_layers: Int = arch(
        6,
        "blocks in the stack; in encoder_decoder the default of both stacks",
        aliases=("num_hidden_layers", "num_blocks"),
        ge=1,
    )
    num_encoder_layers: Int = arch(6, "blocks of the encoder of encoder_decoder", derived="num_layers", needs=_SEQ2SEQ, ge=1)
    num_decoder_layers: Int = arch(6, "blocks of the decoder of encoder_decoder", derived="num_layers", needs=_SEQ2SEQ, ge=1)
    d_model: Int = arch(512, "residual width", aliases=("hidden_size",), ge=1)
    d_ff: Int = arch(2048, "feed-forward width", aliases=("intermediate_size",), ge=1)
    num_heads: Int = arch(8, "query heads; divides d_model", aliases=("num_attention_heads",), ge=1)
    num_groups: Int = arch(
        8,
        "grouped-query attention: key/value heads shared by the query heads; divides num_heads",
        derived="num_heads",
        aliases=("num_key_value_heads",),
        ge=1,
    )
    embedding_dim: Int = arch(
        512,
        "width of the token embedding; when it differs from d_model a projection follows it",
        derived="d_model",
        aliases=("input_embedding_dim", "embedding_size"),
        ge=1,
    )
    vocab_size: Int = arch(
        30522,
        "size of the tokenizer's vocabulary: a BPE tokenizer is trained at that size; "
        "for characters or bytes it follows from the text",
        unit="tokens",
        ge=2,
        le=2**24,
    )
    type_vocab_size: Int = arch(2, "segment (token type) embeddings, for sentence pairs", needs=_ENCODER, ge=1)
    context_length: Int = arch(128, "tokens per training sequence", aliases=("max_seq_length",), unit="tokens", ge=2)
    max_position_embeddings: Int = arch(
        512,
        "rows of the learned position table (of the decoder too); at least context_length",
        aliases=("decoder_max_position_embeddings",),
        unit="tokens",
        ge=1,
    )
    position: Position = arch("learned", "how a token's place is told to the model")
    hidden_act: Activation = arch("gelu", "activation of the feed-forward layers; swiglu and geglu are gated")
    norm: Norm = arch("layernorm", "normalisation before each sub-layer")
    layer_norm_epsilon: Real = arch(1e-12, "the normalisation's epsilon", ge=0)
    initializer_range: Real = arch(0.02, "standard deviation of the initial weights", gt=0)
    initializer_factor: Real = arch(1.0, "scale on every initial weight", gt=0)
    tie_embeddings: bool = arch(True, "the output projection shares the token embedding")

    # Training
    learning_rate: Real = training(1e-4, "peak step size", documented=(1e-7, 1e-3), gt=0)
    batch_size: Int = training(
        12,
        "sequences per optimizer step (in micro-batches when memory is short, with the same result)",
        unit="sequences",
        ge=1,
    )
    max_iters: Int = training(
        1, "optimizer steps", derived="budget", aliases=("training_steps", "max_steps"), unit="steps", ge=1
    )
    num_epochs: Real | None = training(None, "passes over the training text; an alternative to max_iters", unit="passes", gt=0)
    optimizer: OptimizerName = training("adamw", "the update rule")
    beta1: Real = training(
        0.9,
        "decay of the first moment",
        needs={"optimizer": ("adamw", "adam", "lion", "muon")},
        ge=0,
        lt=1,
    )
    beta2: Real = training(
        0.999,
        "decay of the second moment",
        needs={"optimizer": ("adamw", "adam", "lion", "muon")},
        ge=0,
        lt=1,
    )
    adam_epsilon: Real = training(
        1e-8, "added to the denominator of Adam's step", needs={"optimizer": ("adamw", "adam", "muon")}, gt=0
    )
    momentum: Real = training(0.9, "momentum of sgd and muon", needs={"optimizer": ("sgd", "muon")}, ge=0, lt=1)
    ce_loss_weight: Real = training(1.0, "weight of the token cross-entropy", ge=0)
    attention_loss_weight: Real = training(0.0, "weight of an attention-entropy penalty (keeps heads from collapsing)", ge=0)
    z_loss_weight: Real = training(0.0, "weight of the squared log-partition penalty", ge=0)
    sentence_loss_weight: Real = training(
        0.0, "weight of the sentence-order head, the reason for type_vocab_size", needs=_ENCODER, ge=0
    )
    warmup_steps: Int = training(0, "linear ramp of the learning rate", unit="steps", ge=0)
    lr_schedule: Schedule = training("cosine", "shape of the decay; wsd is warm-up, stable, decay")
    lr_decay_iters: Int = training(1, "step at which the decay ends", derived="max_iters", unit="steps", ge=1)
    lr_decay_ratio: Real = training(0.1, "final learning rate / peak", ge=0, le=1)
    eval_interval: Interval = training(
        1,
        "steps between evaluations, each a pruning point; may be a fraction: the k-th comes after k times as many steps, "
        "rounded, and the last one at max_iters",
        derived="budget",
        unit="steps",
        fixed="the rungs of all trials must be the same fractions of the budget",
        ge=1,
    )
    eval_iters: Int = training(20, "batches per evaluation", unit="batches", fixed=f"{FIXED} held-out batches", ge=1)
    save_interval: Interval = training(
        1,
        "steps between checkpoints; may be a fraction, as eval_interval",
        derived="eval_interval",
        unit="steps",
        fixed="it does not change what is learned",
        ge=1,
    )
    max_save_num: Int = training(
        2, "checkpoints kept per trial; the best is kept too", fixed="it does not change what is learned", ge=1
    )
    save_dir: Place | None = training(
        None,
        "folder in the trial's folder that checkpoints go to; `checkpoints` when empty",
        fixed="it does not change what is learned",
    )
    log_interval: Int = training(
        10, "steps between training log lines", unit="steps", fixed="it does not change what is learned", ge=1
    )
    log_file: Place | None = training(
        None,
        "structured log in the trial's folder, one JSON object a line; `log.jsonl` when empty",
        fixed="it does not change what is learned",
    )
    log_file_level: LogLevel = training("info", "least level written to the log", fixed="it does not change what is learned")
    seed: Int = training(
        0, "seed of everything random in a trial", fixed="a lucky seed is not a better configuration", ge=0, lt=2**63
    )

    # Regularisation
    dropout: Real = regular(
        0.1,
        "the default of the two below, and the embedding dropout",
        aliases=("dropout_rate",),
        ge=0,
        lt=1,
    )
    hidden_dropout_prob: Real = regular(0.1, "dropout on each sub-layer's output", derived="dropout", ge=0, lt=1)
    attention_probs_dropout_prob: Real = regular(0.1, "dropout on the attention probabilities", derived="dropout", ge=0, lt=1)
    weight_decay: Real = regular(0.01, "decoupled decay of matrices only (not biases, norms); L2 for sgd and adam", ge=0)
    grad_clip: Real = regular(
        1.0,
        "global gradient-norm clip; 0 turns it off",
        aliases=("gradient_clipping_threshold", "max_grad_norm"),
        ge=0,
    )

    # Generation
    temperature: Real = generation(1.0, "softmax temperature while sampling; 0 is greedy", ge=0)
    top_k: Int | None = generation(None, "sample among the k likeliest tokens; off when empty", unit="tokens", ge=1)
    top_p: Real | None = generation(
        None, "sample among the likeliest tokens that hold this probability; off when empty", gt=0, le=1
    )
    num_samples: Int = generation(1, "texts sampled per prompt", fixed="it does not change what is learned", ge=1)
    max_new_tokens: Int = generation(
        200,
        "longest text sampled",
        aliases=("max_generation_length",),
        unit="tokens",
        fixed="it does not change what is learned",
        ge=1,
    )

    @classmethod
    def build(cls, settings: Mapping[str, Any]) -> TrialConfig:
        """The concrete config of `settings`, in which only what differs from the defaults need stand.

        A value of None means "not given". Raises ConfigError, which names the hyperparameter, for an unknown name, two
        aliases that disagree, a value out of bounds, a setting that does nothing beside the others, and shapes that no
        model can have.
        """
        given = canonical(settings)
        for name, value in given.items():
            idle = idle_reason(name, given)
            if idle:
                raise ConfigError(name, f"{name}: {shown(value)} does nothing: {idle}")
        values = dict(given)
        for name, info in HYPERPARAMETERS.items():
            if name in values:
                continue
            if info.derived == "budget":
                # A config without a budget (`hpsearch train`) needs max_iters; evaluations then come ten times.
                if name == "max_iters":
                    raise ConfigError(name, "max_iters is missing: give the number of optimizer steps")
                if isinstance(values["max_iters"], int | float) and values["max_iters"] >= 1:
                    values[name] = interval_of(values["max_iters"], 10)
            elif info.derived:
                values[name] = values.get(info.derived, HYPERPARAMETERS[info.derived].default)
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise ConfigError(name, f"{name}: {_plain(first['msg'])}, got {shown(first['input'])}") from None
        for name, value in values.items():
            most = 1e100 if isinstance(value, float) else LARGEST
            if HYPERPARAMETERS[name].high is None and isinstance(value, int | float) and value > most:
                raise ConfigError(name, f"{name}: {shown(value)} is too large: at most {most}")
        config._check_shapes()
        return config

    def _check_shapes(self) -> None:
        if self.d_model % self.num_heads:
            raise ConfigError("num_heads", f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads})")
        if self.num_heads % self.num_groups:
            raise ConfigError(
                "num_groups", f"num_heads ({self.num_heads}) must be a multiple of num_groups ({self.num_groups})"
            )
        if self.position == "rotary" and (self.d_model // self.num_heads) % 2:
            raise ConfigError(
                "num_heads",
                f"rotary positions need an even width per head; d_model / num_heads is {self.d_model // self.num_heads}",
            )
        if self.position == "learned" and self.max_position_embeddings < self.context_length:
            raise ConfigError(
                "max_position_embeddings",
                f"max_position_embeddings ({self.max_position_embeddings}) must be at least "
                f"context_length ({self.context_length}) with learned positions",
            )
        kept, log = (self.save_dir or CHECKPOINTS).casefold(), (self.log_file or LOG_FILE).casefold()
        if f"{log}/".startswith(f"{kept}/") or kept.startswith(f"{log}/"):
            name = "log_file" if self.log_file else "save_dir"
            raise ConfigError(name, f"{name}: the log ({log}) and the checkpoints ({kept}) need a place each; choose another")

    def concrete(self) -> dict[str, Any]:
        """Every hyperparameter and its value; None where it does nothing in this config or is off."""
        values = self.model_dump()
        return {name: None if idle_reason(name, values) else value for name, value in values.items()}


HYPERPARAMETERS: dict[str, Hyperparameter] = {name: described(name, field) for name, field in TrialConfig.model_fields.items()}
"""Every hyperparameter by its canonical name, in the order of the document."""

ALIASES: dict[str, str] = {alias: name for name, info in HYPERPARAMETERS.items() for alias in info.aliases}
"""The other names that the document uses, and ours."""


OTHER_NAMES: dict[str, str] = {
    **dict.fromkeys(("lr", "eta", "max_lr", "peak_lr", "init_lr", "base_lr", "initial_lr", "step_size"), "learning_rate"),
    **dict.fromkeys(("bs", "batch", "bsz", "train_batch_size", "per_device_train_batch_size", "batchsize"), "batch_size"),
    **dict.fromkeys(("wd", "l2", "decay", "weightdecay", "l2_reg"), "weight_decay"),
    **dict.fromkeys(("n_layers", "n_layer", "layers", "depth", "nlayers", "num_layer", "n_blocks"), "num_layers"),
    **dict.fromkeys(
        ("hidden_dim", "n_embd", "dim", "width", "embed_dim", "n_embed", "model_dim", "hidden", "d", "dmodel", "emb_dim"),
        "d_model",
    ),
    **dict.fromkeys(("n_head", "n_heads", "heads", "nhead", "num_head", "attention_heads"), "num_heads"),
    **dict.fromkeys(("n_kv_heads", "n_kv_head", "num_kv_heads", "kv_heads", "n_head_kv", "num_query_groups"), "num_groups"),
    **dict.fromkeys(
        ("ffn_dim", "d_inner", "n_inner", "ff_dim", "dim_feedforward", "mlp_dim", "ffn_hidden_size", "dff"), "d_ff"
    ),
    **dict.fromkeys(
        ("seq_len", "seq_length", "sequence_length", "block_size", "max_seq_len", "ctx_len", "n_ctx", "context", "max_length"),
        "context_length",
    ),
    **dict.fromkeys(("n_positions", "max_positions"), "max_position_embeddings"),
    **dict.fromkeys(("n_vocab", "vocab", "vocabulary_size"), "vocab_size"),
    **dict.fromkeys(("activation", "activation_function", "act", "act_fn", "hidden_activation"), "hidden_act"),
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type", "scheduler", "schedule", "lr_decay_style"), "lr_schedule"),
    **dict.fromkeys(("min_lr_ratio", "lr_min_ratio", "final_lr_ratio", "min_lr"), "lr_decay_ratio"),
    **dict.fromkeys(("warmup", "warmup_iters", "num_warmup_steps", "lr_warmup_steps", "n_warmup"), "warmup_steps"),
    **dict.fromkeys(("epochs", "epoch", "n_epochs", "max_epochs", "num_train_epochs", "nb_epoch"), "num_epochs"),
    **dict.fromkeys(
        ("steps", "iters", "iterations", "num_steps", "train_steps", "n_steps", "num_iters", "train_iters"), "max_iters"
    ),
    **dict.fromkeys(("opt", "optim", "optimiser", "optimizer_name", "optimizer_type"), "optimizer"),
    **dict.fromkeys(("b1", "adam_beta1", "adam_b1"), "beta1"),
    **dict.fromkeys(("b2", "adam_beta2", "adam_b2"), "beta2"),
    **dict.fromkeys(("eps", "epsilon", "adam_eps"), "adam_epsilon"),
    **dict.fromkeys(("layer_norm_eps", "norm_eps", "rms_norm_eps", "layernorm_epsilon", "norm_epsilon"), "layer_norm_epsilon"),
    **dict.fromkeys(
        ("clip", "clip_grad", "gradient_clip_val", "max_norm", "grad_norm_clip", "clip_norm", "gradient_clipping"), "grad_clip"
    ),
    **dict.fromkeys(("drop", "dropout_prob", "p_dropout", "dropout_p", "resid_pdrop"), "dropout"),
    **dict.fromkeys(("attn_pdrop", "attention_dropout", "attn_dropout"), "attention_probs_dropout_prob"),
    **dict.fromkeys(("hidden_dropout", "residual_dropout"), "hidden_dropout_prob"),
    **dict.fromkeys(("init_std", "initializer_std", "init_range"), "initializer_range"),
    **dict.fromkeys(("tie_word_embeddings", "tied_embeddings", "weight_tying", "tie_weights"), "tie_embeddings"),
    **dict.fromkeys(("pos_emb", "position_embedding_type", "pos_encoding", "positional_encoding"), "position"),
    **dict.fromkeys(("norm_type", "normalization", "normalisation"), "norm"),
    **dict.fromkeys(("arch", "model_type", "model"), "architecture"),
    **dict.fromkeys(("random_seed", "random_state", "rng_seed"), "seed"),
    **dict.fromkeys(("temp",), "temperature"),
    **dict.fromkeys(("topk",), "top_k"),
    **dict.fromkeys(("topp", "nucleus_p"), "top_p"),
    **dict.fromkeys(("eval_every", "eval_steps", "val_interval", "eval_freq"), "eval_interval"),
    **dict.fromkeys(("save_every", "save_steps", "checkpoint_interval"), "save_interval"),
    **dict.fromkeys(("logging_steps", "log_every"), "log_interval"),
    **dict.fromkeys(("output_dir", "checkpoint_dir"), "save_dir"),
}
"""What other programs call a hyperparameter; not read, but named in the error."""


def shown(value: Any) -> str:
    """A value in an error: short, and of a whole number of thousands of digits only how many there are."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    told = repr(value)
    return told if len(told) <= 200 else f"{told[:200]}…"


def interval_of(steps: float, evaluations: int) -> float:
    """Steps between the evaluations of a run of `steps`, so that there are `evaluations` of them, or one after each step.

    A whole number where it can be one, and where a fraction would have no meaning.
    """
    whole = steps % evaluations == 0 or steps >= 2**53
    return max(1, steps // evaluations if whole else steps / evaluations)


def evaluations_in(steps: float, interval: float) -> int:
    """Evaluations of a run of `steps` with one every `interval` steps: the last at the end, none less than half an interval
    before it.
    """
    return max(1, math.floor(steps / interval + 0.5))


def canonical_name(name: str) -> str:
    """Our name of a hyperparameter or of one of its aliases. Raises ConfigError with the nearest match."""
    if name in HYPERPARAMETERS:
        return name
    if name in ALIASES:
        return ALIASES[name]
    near = OTHER_NAMES.get(name.lower())
    told = f"; did you mean '{near}'?" if near else did_you_mean(name, [*HYPERPARAMETERS, *ALIASES])
    raise ConfigError(name, f"unknown hyperparameter '{name}'", told)


def canonical(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` under canonical names, without those that are None. Two names of one thing must agree."""
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for written, value in settings.items():
        if value is None:
            continue
        name = canonical_name(written)
        if name in values and values[name] != value:
            raise ConfigError(
                name,
                f"'{spelled[name]}: {shown(values[name])}' and '{written}: {shown(value)}' are two names of {name} and "
                "disagree; keep one",
            )
        values[name], spelled[name] = value, written
    return values


def idle_reason(name: str, values: Mapping[str, Any]) -> str:
    """Why hyperparameter `name` does nothing beside `values` (canonical names), or an empty string when it does."""
    for key, needed in HYPERPARAMETERS[name].needs.items():
        value = values.get(key, HYPERPARAMETERS[key].default)
        if value not in needed:
            return f"{key} {value} has no such setting; it belongs to {' and '.join(needed)}"
    return ""


def _plain(message: str) -> str:
    """pydantic's sentence in the middle of ours."""
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


class DataConfig(BaseModel):
    """The text that a study trains on, and how it becomes tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | tuple[str, ...] | dict[str, float] = Field(
        "pydoc",
        description="`pydoc` or `stdlib` (texts inside every Python), `hf:NAME` (with the extra `hf`), a file, a folder, "
        "a list of those, or a mapping of those to their sampling weights",
    )
    tokenizer: TokenizerKind = Field("bytes", description="bytes, chars, or bpe (trained at vocab_size)")
    validation: float | str = Field(
        0.1, description="share of the text's end that is held out (above 0, below 1), or a file of held-out text"
    )

    @field_validator("text", "validation", mode="before")
    @classmethod
    def _paths(cls, given: Any) -> Any:
        """Paths as every file and database can hold them. Raises DataError for what no path can be."""
        try:
            match given:
                case str():
                    return path_word(given)
                case Mapping():
                    return {path_word(word) if isinstance(word, str) else word: weight for word, weight in given.items()}
                case list() | tuple():
                    return [path_word(word) if isinstance(word, str) else word for word in given]
            return given
        except UnicodeEncodeError as error:
            raise DataError(f"data: {error.object}: no file has such a name (an unpaired surrogate); give a path") from None

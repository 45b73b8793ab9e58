"""To and from the models of the library `transformers` (extra `hf`), weight for weight: the logits are the same.

decoder with learned positions ↔ GPT-2, decoder with rotary positions ↔ Llama, encoder ↔ BERT, encoder_decoder ↔ BART. What the
other side has no place for is refused with the name of the hyperparameter. Dropouts are settings of training and are passed on
where there is a place for them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hpsearch.config import TrialConfig
from hpsearch.errors import BadInput, ConfigError, install
from hpsearch.model.counting import is_gated
from hpsearch.model.hf_names import Target, parameter_names
from hpsearch.model.layers import ROTARY_BASE
from hpsearch.model.transformer import Transformer

BART_EPSILON = 1e-5
"""BART's is a constant of its code."""

ACTIVATION_NAMES = {"gelu": "gelu", "relu": "relu", "silu": "silu", "relu2": "relu2", "swiglu": "silu", "geglu": "gelu"}


def target_of(config: TrialConfig) -> Target:
    """Which architecture of `transformers` this config is. Raises ConfigError naming the hyperparameter that fits none."""
    if config.architecture == "decoder":
        target: Target = "llama" if config.position == "rotary" else "gpt2"
    else:
        target = "bert" if config.architecture == "encoder" else "bart"
    llama = target == "llama"
    must: dict[str, tuple[Any, bool]] = {
        "position": ("rotary" if llama else "learned", config.position == ("rotary" if llama else "learned")),
        "norm": ("rmsnorm" if llama else "layernorm", config.norm == ("rmsnorm" if llama else "layernorm")),
        "hidden_act": ("swiglu or geglu" if llama else "gelu, relu, silu or relu2", is_gated(config) == llama),
        "num_groups": (f"num_heads ({config.num_heads})", llama or config.num_groups == config.num_heads),
        "embedding_dim": (f"d_model ({config.d_model})", config.embedding_dim == config.d_model),
        "layer_norm_epsilon": (BART_EPSILON, target != "bart" or config.layer_norm_epsilon == BART_EPSILON),
    }
    for name, (needed, holds) in must.items():
        if not holds:
            raise ConfigError(
                name, f"{name}: {getattr(config, name)} cannot be expressed as {target} of transformers, which needs {needed}"
            )
    return target


def class_of(config: TrialConfig) -> str:
    """The class of `transformers` that has every part of the model, the sentence-order head too. Raises as `target_of`."""
    return {
        "gpt2": "GPT2LMHeadModel",
        "llama": "LlamaForCausalLM",
        "bert": "BertForPreTraining" if config.sentence_loss_weight > 0 else "BertForMaskedLM",
        "bart": "BartForConditionalGeneration",
    }[target_of(config)]


def to_hf(model: Transformer, specials: Mapping[str, int] | None = None) -> Any:
    """The same model as a class of `transformers`, in evaluation mode, on the CPU.

    Of the class `class_of` the config. specials: ids of the tokenizer's special tokens.
    """
    config = model.config
    theirs = getattr(require_transformers(), class_of(config))(hf_config(config, specials)).eval()
    missing, unknown = theirs.load_state_dict(hf_state(config, model.state_dict()), strict=False)
    # BART's is a buffer of zeros, and BERT does not read its own when the output is free.
    assert set(missing) <= {"final_logits_bias", "cls.predictions.bias"}, f"no weights for {missing}"
    assert not unknown, f"no place for {unknown}"
    return theirs


def from_hf(theirs: Any, settings: Mapping[str, Any] | None = None) -> Transformer:
    """Our form of a model of the classes that `to_hf` gives, in evaluation mode.

    settings: hyperparameters that a model does not hold (context_length, by default all its positions; learning_rate …).
    Raises BadInput for another class, and ConfigError for what our model has no place for.
    """
    config = TrialConfig.build({"max_iters": 1, **settings_of(theirs), **(settings or {})})
    state = theirs.state_dict()
    if target_of(config) == "bart" and bool(state["final_logits_bias"].any()):
        raise BadInput("final_logits_bias is not 0; our encoder_decoder has no bias on its logits")
    model = Transformer(config)
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for pair in parameter_names(config, target_of(config)):
            parts = [state[name][pair.offset :] for name in pair.theirs]
            if not pair.sizes and any(not torch.equal(parts[0], part) for part in parts[1:]):
                raise BadInput(f"{' and '.join(pair.theirs)} differ; our model has one tensor for them")
            tensor = torch.cat(parts) if pair.sizes else parts[0]
            parameters.pop(pair.ours).copy_(tensor.t() if pair.transposed else tensor)
    assert not parameters, f"no weights for {sorted(parameters)}"
    return model.eval()


def hf_config(config: TrialConfig, specials: Mapping[str, int] | None = None) -> Any:
    """The `transformers` config of `config`."""
    name, settings = hf_settings(config, specials)
    return getattr(require_transformers(), name)(**settings)


def hf_settings(config: TrialConfig, specials: Mapping[str, int] | None = None) -> tuple[str, dict[str, Any]]:
    """The class of the `transformers` config of `config`, and what it is called with.

    specials: ids of the tokenizer's special tokens. A role that none of them has is None, said in so many words: each class has
    ids of its own for what is not said, and they are real tokens here (whose row it zeroes, or at which it stops to generate).
    """
    target = target_of(config)
    ids = {name.strip("[]").lower(): index for name, index in (specials or {}).items()}
    act = ACTIVATION_NAMES[config.hidden_act]
    common = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "pad_token_id": ids.get("pad"),
        "bos_token_id": ids.get("bos", ids.get("cls")),
        "eos_token_id": ids.get("eos", ids.get("sep")),
    }
    match target:
        case "gpt2":
            return "GPT2Config", dict(
                **common,
                n_positions=config.max_position_embeddings,
                n_embd=config.d_model,
                n_layer=config.num_layers,
                n_head=config.num_heads,
                n_inner=config.d_ff,
                activation_function=act,
                layer_norm_epsilon=config.layer_norm_epsilon,
                initializer_range=config.initializer_range,
                embd_pdrop=config.dropout,
                resid_pdrop=config.hidden_dropout_prob,
                attn_pdrop=config.attention_probs_dropout_prob,
            )
        case "llama":
            return "LlamaConfig", dict(
                **common,
                hidden_size=config.d_model,
                intermediate_size=config.d_ff,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_groups,
                hidden_act=act,
                max_position_embeddings=config.max_position_embeddings,
                rms_norm_eps=config.layer_norm_epsilon,
                initializer_range=config.initializer_range,
                attention_dropout=config.attention_probs_dropout_prob,
                rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
            )
        case "bert":
            return "BertConfig", dict(
                **common,
                hidden_size=config.d_model,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.d_ff,
                hidden_act=act,
                hidden_dropout_prob=config.hidden_dropout_prob,
                attention_probs_dropout_prob=config.attention_probs_dropout_prob,
                max_position_embeddings=config.max_position_embeddings,
                type_vocab_size=config.type_vocab_size,
                initializer_range=config.initializer_range,
                layer_norm_eps=config.layer_norm_epsilon,
            )
        case "bart":
            return "BartConfig", dict(
                **common,
                decoder_start_token_id=ids.get("bos"),
                forced_eos_token_id=None,
                max_position_embeddings=config.max_position_embeddings,
                d_model=config.d_model,
                encoder_layers=config.num_encoder_layers,
                decoder_layers=config.num_decoder_layers,
                encoder_attention_heads=config.num_heads,
                decoder_attention_heads=config.num_heads,
                encoder_ffn_dim=config.d_ff,
                decoder_ffn_dim=config.d_ff,
                activation_function=act,
                dropout=config.hidden_dropout_prob,
                attention_dropout=config.attention_probs_dropout_prob,
                init_std=config.initializer_range,
                scale_embedding=False,
            )


def hf_state(config: TrialConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under their names and in their form."""
    theirs: dict[str, Tensor] = {}
    for pair in parameter_names(config, target_of(config)):
        tensor = state[pair.ours].detach().cpu()
        if pair.offset:
            tensor = torch.cat([tensor.new_zeros(pair.offset, tensor.shape[1]), tensor])
        parts = torch.split(tensor, list(pair.sizes)) if pair.sizes else (tensor,) * len(pair.theirs)
        for name, part in zip(pair.theirs, parts, strict=True):
            theirs[name] = (part.t() if pair.transposed else part).clone(memory_format=torch.contiguous_format)
    return theirs


def settings_of(theirs: Any) -> dict[str, Any]:
    """Hyperparameters of a `transformers` model."""
    other = theirs.config
    kind = type(theirs).__name__
    if kind == "GPT2LMHeadModel":
        _refuse(other, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
        found = _shape(other.n_embd, other.n_inner or 4 * other.n_embd, other.n_head, other.activation_function)
        found |= {"num_layers": other.n_layer, "layer_norm_epsilon": other.layer_norm_epsilon}
    elif kind == "LlamaForCausalLM":
        _refuse(other, attention_bias=False, mlp_bias=False, head_dim=other.hidden_size // other.num_attention_heads)
        rope = other.rope_parameters
        if rope["rope_type"] != "default" or rope["rope_theta"] != ROTARY_BASE:
            raise ConfigError(
                "position", f"rotary positions of the form {rope} cannot be expressed; ours have base {ROTARY_BASE:g}"
            )
        found = _shape(other.hidden_size, other.intermediate_size, other.num_attention_heads, other.hidden_act, gated=True)
        found |= {"position": "rotary", "norm": "rmsnorm", "num_groups": other.num_key_value_heads}
        found |= {"num_layers": other.num_hidden_layers, "layer_norm_epsilon": other.rms_norm_eps}
    elif kind in ("BertForMaskedLM", "BertForPreTraining"):
        _refuse(other, is_decoder=False)
        found = _shape(other.hidden_size, other.intermediate_size, other.num_attention_heads, other.hidden_act)
        found |= {"architecture": "encoder", "type_vocab_size": other.type_vocab_size, "num_layers": other.num_hidden_layers}
        found |= {"layer_norm_epsilon": other.layer_norm_eps, "sentence_loss_weight": float(kind == "BertForPreTraining")}
    elif kind == "BartForConditionalGeneration":
        _refuse(
            other,
            scale_embedding=False,
            decoder_attention_heads=other.encoder_attention_heads,
            decoder_ffn_dim=other.encoder_ffn_dim,
        )
        found = _shape(other.d_model, other.encoder_ffn_dim, other.encoder_attention_heads, other.activation_function)
        found |= {"architecture": "encoder_decoder", "layer_norm_epsilon": BART_EPSILON}
        found |= {"num_encoder_layers": other.encoder_layers, "num_decoder_layers": other.decoder_layers}
    else:
        raise BadInput(f"a model of the class {kind} cannot be converted; GPT-2, Llama, BERT and BART can")
    return found | {
        "vocab_size": other.vocab_size,
        "tie_embeddings": other.tie_word_embeddings,
        "max_position_embeddings": other.max_position_embeddings,
        "context_length": other.max_position_embeddings,
    }


def _shape(d_model: int, d_ff: int, num_heads: int, act: str, *, gated: bool = False) -> dict[str, Any]:
    """Widths and activation, from their names of them."""
    names = {theirs: ours for ours, theirs in ACTIVATION_NAMES.items() if (ours in ("swiglu", "geglu")) == gated}
    if act not in names:
        raise ConfigError("hidden_act", f"the activation {act} has no counterpart in hidden_act; {', '.join(names)} have one")
    return {"d_model": d_model, "d_ff": d_ff, "num_heads": num_heads, "hidden_act": names[act]}


def _refuse(other: Any, **needed: Any) -> None:
    for name, value in needed.items():
        if getattr(other, name) != value:
            raise BadInput(f"a model with {name}={getattr(other, name)} cannot be converted; ours has only {name}={value}")


def require_transformers() -> Any:
    """The library. Raises BadInput where it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise BadInput(f"the library transformers is missing; {install('hf')}") from None

"""The names and forms that our parameters have in the state dicts of `transformers`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from hpsearch.config import TrialConfig

Target = Literal["gpt2", "llama", "bert", "bart"]

BART_OFFSET = 2
"""Unused rows at the start of BART's position tables."""


class Pair(NamedTuple):
    """One tensor of ours and what it is over there."""

    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    """Where ours is several of theirs, one below the other: the rows of each. Empty: each of theirs is all of ours."""
    transposed: bool = False
    """Theirs is (in, out), as in GPT-2."""
    offset: int = 0
    """Rows at the start of theirs that nothing reads."""


def parameter_names(config: TrialConfig, target: Target) -> Iterator[Pair]:
    """Every parameter of ours once."""
    match target:
        case "gpt2":
            return _gpt2(config)
        case "llama":
            return _llama(config)
        case "bert":
            return _bert(config)
        case "bart":
            return _bart(config)


def _layer(ours: str, *theirs: str, sizes: tuple[int, ...] = (), transposed: bool = False, bias: bool = True) -> Iterator[Pair]:
    """A linear layer or a norm."""
    yield Pair(f"{ours}.weight", tuple(f"{name}.weight" for name in theirs), sizes, transposed)
    if bias:
        yield Pair(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs), sizes)


def _gpt2(config: TrialConfig) -> Iterator[Pair]:
    tied = ("lm_head.weight",) if config.tie_embeddings else ()
    yield Pair("tokens.weight", ("transformer.wte.weight", *tied))
    yield Pair("decoder.positions.weight", ("transformer.wpe.weight",))
    for index in range(config.num_layers):
        ours, theirs = f"decoder.blocks.{index}", f"transformer.h.{index}"
        yield from _layer(f"{ours}.attention_norm", f"{theirs}.ln_1")
        yield from _layer(f"{ours}.attention.query_key_value", f"{theirs}.attn.c_attn", transposed=True)
        yield from _layer(f"{ours}.attention.output", f"{theirs}.attn.c_proj", transposed=True)
        yield from _layer(f"{ours}.feed_forward_norm", f"{theirs}.ln_2")
        yield from _layer(f"{ours}.feed_forward.up", f"{theirs}.mlp.c_fc", transposed=True)
        yield from _layer(f"{ours}.feed_forward.down", f"{theirs}.mlp.c_proj", transposed=True)
    yield from _layer("decoder.output_norm", "transformer.ln_f")
    if not config.tie_embeddings:
        yield Pair("output.weight", ("lm_head.weight",))


def _llama(config: TrialConfig) -> Iterator[Pair]:
    tied = ("lm_head.weight",) if config.tie_embeddings else ()
    yield Pair("tokens.weight", ("model.embed_tokens.weight", *tied))
    kv = config.num_groups * (config.d_model // config.num_heads)
    for index in range(config.num_layers):
        ours, theirs = f"decoder.blocks.{index}", f"model.layers.{index}"
        three = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
        yield from _layer(f"{ours}.attention_norm", f"{theirs}.input_layernorm", bias=False)
        yield from _layer(f"{ours}.attention.query_key_value", *three, sizes=(config.d_model, kv, kv), bias=False)
        yield from _layer(f"{ours}.attention.output", f"{theirs}.self_attn.o_proj", bias=False)
        yield from _layer(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm", bias=False)
        for name in ("gate", "up", "down"):
            yield from _layer(f"{ours}.feed_forward.{name}", f"{theirs}.mlp.{name}_proj", bias=False)
    yield from _layer("decoder.output_norm", "model.norm", bias=False)
    if not config.tie_embeddings:
        yield Pair("output.weight", ("lm_head.weight",))


def _bert(config: TrialConfig) -> Iterator[Pair]:
    tied = ("cls.predictions.decoder.weight",) if config.tie_embeddings else ()
    yield Pair("tokens.weight", ("bert.embeddings.word_embeddings.weight", *tied))
    yield Pair("encoder.positions.weight", ("bert.embeddings.position_embeddings.weight",))
    yield Pair("encoder.segments.weight", ("bert.embeddings.token_type_embeddings.weight",))
    yield from _layer("encoder.input_norm", "bert.embeddings.LayerNorm")
    for index in range(config.num_layers):
        ours, theirs = f"encoder.blocks.{index}", f"bert.encoder.layer.{index}"
        three = [f"{theirs}.attention.self.{name}" for name in ("query", "key", "value")]
        yield from _layer(f"{ours}.attention.query_key_value", *three, sizes=(config.d_model,) * 3)
        yield from _layer(f"{ours}.attention.output", f"{theirs}.attention.output.dense")
        yield from _layer(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm")
        yield from _layer(f"{ours}.feed_forward.up", f"{theirs}.intermediate.dense")
        yield from _layer(f"{ours}.feed_forward.down", f"{theirs}.output.dense")
        yield from _layer(f"{ours}.feed_forward_norm", f"{theirs}.output.LayerNorm")
    yield from _layer("masked_head.dense", "cls.predictions.transform.dense")
    yield from _layer("masked_head.norm", "cls.predictions.transform.LayerNorm")
    # Their second name of the bias is read by nobody when the output is free.
    yield Pair("output_bias", ("cls.predictions.decoder.bias", *(("cls.predictions.bias",) if tied else ())))
    if not config.tie_embeddings:
        yield Pair("output.weight", ("cls.predictions.decoder.weight",))
    if config.sentence_loss_weight > 0:
        yield from _layer("order_head.pooler", "bert.pooler.dense")
        yield from _layer("order_head.classifier", "cls.seq_relationship")


def _bart(config: TrialConfig) -> Iterator[Pair]:
    tied = ("lm_head.weight",) if config.tie_embeddings else ()
    tables = ("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    yield Pair("tokens.weight", (*tables, *tied))
    for stack, depth in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        yield Pair(f"{stack}.positions.weight", (f"model.{stack}.embed_positions.weight",), offset=BART_OFFSET)
        yield from _layer(f"{stack}.input_norm", f"model.{stack}.layernorm_embedding")
        for index in range(depth):
            ours, theirs = f"{stack}.blocks.{index}", f"model.{stack}.layers.{index}"
            three = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
            yield from _layer(f"{ours}.attention.query_key_value", *three, sizes=(config.d_model,) * 3)
            yield from _layer(f"{ours}.attention.output", f"{theirs}.self_attn.out_proj")
            yield from _layer(f"{ours}.attention_norm", f"{theirs}.self_attn_layer_norm")
            if stack == "decoder":
                two = [f"{theirs}.encoder_attn.{name}_proj" for name in "kv"]
                yield from _layer(f"{ours}.cross_attention.query", f"{theirs}.encoder_attn.q_proj")
                yield from _layer(f"{ours}.cross_attention.key_value", *two, sizes=(config.d_model,) * 2)
                yield from _layer(f"{ours}.cross_attention.output", f"{theirs}.encoder_attn.out_proj")
                yield from _layer(f"{ours}.cross_attention_norm", f"{theirs}.encoder_attn_layer_norm")
            yield from _layer(f"{ours}.feed_forward.up", f"{theirs}.fc1")
            yield from _layer(f"{ours}.feed_forward.down", f"{theirs}.fc2")
            yield from _layer(f"{ours}.feed_forward_norm", f"{theirs}.final_layer_norm")
    if not config.tie_embeddings:
        yield Pair("output.weight", ("lm_head.weight",))

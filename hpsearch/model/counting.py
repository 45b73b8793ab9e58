"""Parameters, FLOPs and memory of a config, by formula: nothing is allocated and torch is not imported.

Everything follows from `parameter_shapes`: a matrix of a linear layer costs two FLOPs per weight and position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpsearch.config import TrialConfig
from hpsearch.data.corruption import infilled_length

Shape = tuple[int, ...]

FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Counts:
    num_parameters: int
    """All weights; a tied output is counted once."""
    non_embedding_parameters: int
    """Without the token, position and segment tables and without a free output projection."""
    flops_per_token: float
    """Forward and backward, FLOPs per position of a training sequence of context_length."""
    forward_flops_per_token: float
    memory_bytes: int
    """Estimated peak of a training step in float32: weights, gradients, optimizer state, activations."""


def count(config: TrialConfig) -> Counts:
    """Size and cost of training `config`.

    FLOPs are those of the matrix products, two for a multiplication and an addition, as torch's FlopCounterMode counts
    them with SDPA's MATH backend: full (not halved) T x T score matrices under a causal mask, and a backward pass of twice
    the forward. Pointwise work is not counted.

    They are for whole training sequences of context_length, per position. An encoder_decoder's decoder reads context_length
    positions and its encoder what infilling leaves of them; both are counted into one token. An encoder's sentence-order
    head runs once in a sequence, so its share of a token is a fraction.
    """
    shapes = counted_shapes(config)
    forward = forward_flops(config, shapes) / config.context_length
    return Counts(
        num_parameters=sum(times * math.prod(shape) for _, shape, times in shapes),
        non_embedding_parameters=sum(times * math.prod(shape) for name, shape, times in shapes if not _is_table(name)),
        flops_per_token=3 * forward,
        forward_flops_per_token=forward,
        memory_bytes=weight_bytes(config, shapes) + activation_bytes(config),
    )


def parameter_shapes(config: TrialConfig) -> dict[str, Shape]:
    """Name and shape of every parameter of `Transformer(config)`, in no particular order."""
    D, E, V = config.d_model, config.embedding_dim, config.vocab_size
    kv = config.num_groups * (D // config.num_heads)
    biased = config.norm == "layernorm"
    encoder_layers, decoder_layers = stack_depths(config)
    shapes: dict[str, Shape] = {"tokens.weight": (V, E)}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if biased:
            shapes[f"{name}.bias"] = (rows,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = (D,)
        if biased:
            shapes[f"{name}.bias"] = (D,)

    def stack(name: str, depth: int, cross: bool) -> None:
        if config.position == "learned":
            shapes[f"{name}.positions.weight"] = (config.max_position_embeddings, D)
        if config.architecture == "encoder":
            shapes[f"{name}.segments.weight"] = (config.type_vocab_size, D)
        norm(f"{name}.output_norm" if config.architecture == "decoder" else f"{name}.input_norm")
        for block in (f"{name}.blocks.{index}" for index in range(depth)):
            linear(f"{block}.attention.query_key_value", D + 2 * kv, D)
            linear(f"{block}.attention.output", D, D)
            norm(f"{block}.attention_norm")
            if cross:
                linear(f"{block}.cross_attention.query", D, D)
                linear(f"{block}.cross_attention.key_value", 2 * kv, D)
                linear(f"{block}.cross_attention.output", D, D)
                norm(f"{block}.cross_attention_norm")
            for matrix in ("gate", "up") if is_gated(config) else ("up",):
                linear(f"{block}.feed_forward.{matrix}", config.d_ff, D)
            linear(f"{block}.feed_forward.down", D, config.d_ff)
            norm(f"{block}.feed_forward_norm")

    if E != D:
        shapes["tokens_projection.weight"] = (D, E)
    if encoder_layers:
        stack("encoder", encoder_layers, cross=False)
    if decoder_layers:
        stack("decoder", decoder_layers, cross=encoder_layers > 0)
    if config.architecture == "encoder":
        linear("masked_head.dense", D, D)
        norm("masked_head.norm")
        if biased:
            shapes["output_bias"] = (V,)
        if config.sentence_loss_weight > 0:
            linear("order_head.pooler", D, D)
            linear("order_head.classifier", 2, D)
    if not config.tie_embeddings:
        shapes["output.weight"] = (V, D)
    return shapes


def counted_shapes(config: TrialConfig) -> list[tuple[str, Shape, int]]:
    """Name and shape of every parameter of one block of each stack and of all else, and how many of it there are: a model of
    ten million blocks is counted as fast as one of six."""
    encoder_layers, decoder_layers = stack_depths(config)
    one = dict.fromkeys(("num_layers", "num_encoder_layers", "num_decoder_layers"), 1)
    depths = {"encoder": encoder_layers, "decoder": decoder_layers}
    return [
        (name, shape, depths[name.partition(".")[0]] if ".blocks." in name else 1)
        for name, shape in parameter_shapes(config.model_copy(update=one)).items()
    ]


def forward_flops(config: TrialConfig, shapes: list[tuple[str, Shape, int]]) -> int:
    """FLOPs of one sequence forward."""
    T, S = config.context_length, source_length(config)
    encoder_layers, decoder_layers = stack_depths(config)
    if not decoder_layers:
        T = S
    total = 0
    for name, shape, blocks in shapes:
        if len(shape) != 2 or name == "tokens.weight" or ".positions." in name or ".segments." in name:
            continue
        if name.startswith("order_head."):
            times = 1
        elif name.startswith("encoder.") or ".key_value." in name:
            times = S
        elif name == "tokens_projection.weight":
            times = (S if encoder_layers else 0) + (T if decoder_layers else 0) + (T if config.tie_embeddings else 0)
        else:
            times = T
        total += 2 * math.prod(shape) * times * blocks
    if config.tie_embeddings:
        total += 2 * config.vocab_size * config.embedding_dim * T
    pairs = encoder_layers * S * S + decoder_layers * T * T + (decoder_layers * T * S if encoder_layers else 0)
    return total + 4 * config.d_model * pairs


def weight_bytes(config: TrialConfig, shapes: list[tuple[str, Shape, int]]) -> int:
    """Weights, gradients and the optimizer's state."""

    def state(name: str, shape: Shape) -> int:
        size = math.prod(shape)
        match config.optimizer:
            case "adamw" | "adam":
                return 2 * size
            case "sgd":
                return size if config.momentum else 0
            case "lion":
                return size
            case "muon":
                return size if by_muon(name, shape) else 2 * size
            case "adafactor":
                return sum(shape) if len(shape) == 2 else size

    return FLOAT * sum(times * (2 * math.prod(shape) + state(name, shape)) for name, shape, times in shapes)


def step_flops(config: TrialConfig) -> float:
    """FLOPs of one optimizer step, as budgets, limits and reports count them: forward and backward of a batch, and the update's
    products (`update_flops`). What an optimizer does to each element is left out, as is pointwise work of the model.
    """
    return count(config).flops_per_token * (config.batch_size * config.context_length) + update_flops(config)


def update_flops(config: TrialConfig) -> int:
    """FLOPs of the matrix products of one update, which depend on no batch: those of Muon, which makes the update of each
    matrix of the blocks (`muon_rows`) nearly orthogonal in five Newton-Schulz iterations (X Xᵀ, its square, their product
    with X).

    Source: torch.optim.Muon.
    """
    if config.optimizer != "muon":
        return 0
    return sum(
        times * 5 * (4 * min(rows, shape[1]) ** 2 * max(rows, shape[1]) + 2 * min(rows, shape[1]) ** 3)
        for name, shape, times in counted_shapes(config)
        if by_muon(name, shape)
        for rows in muon_rows(config, name, shape)
    )


def by_muon(name: str, shape: Shape) -> bool:
    """Whether Muon updates it: the matrices of the blocks. Everything else is AdamW's."""
    return len(shape) == 2 and "blocks." in name


def muon_rows(config: TrialConfig, name: str, shape: Shape) -> tuple[int, ...]:
    """The rows of each matrix that lies in one parameter of `by_muon`: the model keeps queries, keys and values in one tensor
    for speed, and Muon makes each of them orthogonal by itself.
    """
    kv = config.num_groups * (config.d_model // config.num_heads)
    if name.endswith(".query_key_value.weight"):
        return shape[0] - 2 * kv, kv, kv
    return (kv, kv) if name.endswith(".key_value.weight") else (shape[0],)


def stack_depths(config: TrialConfig) -> tuple[int, int]:
    """Blocks of the encoder and of the decoder; 0 where there is none."""
    if config.architecture == "encoder_decoder":
        return config.num_encoder_layers, config.num_decoder_layers
    return (config.num_layers, 0) if config.architecture == "encoder" else (0, config.num_layers)


def max_length(config: TrialConfig) -> int:
    """Longest sequence that the model has positions for: the rows of the learned table.

    The other positions have no table to end; they are prepared for max_position_embeddings and for context_length.
    """
    if config.position == "learned":
        return config.max_position_embeddings
    return max(config.max_position_embeddings, config.context_length)


def source_length(config: TrialConfig) -> int:
    """Tokens that the encoder reads of a training sequence; 0 without an encoder.

    In an encoder_decoder the text is one token shorter than the context, which holds its begin or end too.
    """
    if config.architecture == "decoder":
        return 0
    return config.context_length if config.architecture == "encoder" else infilled_length(max(1, config.context_length - 1))


def is_gated(config: TrialConfig) -> bool:
    """Whether the feed-forward has a gate: three matrices instead of two."""
    return config.hidden_act in ("swiglu", "geglu")


def _is_table(name: str) -> bool:
    return name in ("tokens.weight", "output.weight") or ".positions." in name or ".segments." in name


def activation_bytes(config: TrialConfig) -> int:
    """What a step keeps for its backward pass in float32, and the logits with their gradient, for batch_size sequences.

    Counted as the CPU keeps them: dropout masks are float32 there. An attention with dropout or with the entropy penalty
    keeps its score matrices, the others keep none.
    """
    D, F, H = config.d_model, config.d_ff, config.num_heads
    kv = config.num_groups * (D // H)
    T, S = config.context_length, source_length(config)
    encoder_layers, decoder_layers = stack_depths(config)
    if not decoder_layers:
        T = S
    hidden_mask = D if config.hidden_dropout_prob else 0
    # Input and output, and two statistics or one.
    norm = 2 * D + (2 if config.norm == "layernorm" else 1)
    around = norm + hidden_mask

    def attention(queries: int, keys: int, project: int) -> int:
        matrices = 2 if config.attention_loss_weight else 0
        if config.attention_probs_dropout_prob:
            matrices = max(matrices, 1) + 2
        return project + queries * (around + D + H) + matrices * H * queries * keys

    def self_attention(length: int) -> int:
        # Where values are read in place, the queries and keys beside them stay too: with fused attention, and for one head.
        rotary = config.position == "rotary"
        if config.attention_loss_weight > 0 or config.attention_probs_dropout_prob > 0:
            unread = D + kv * rotary if config.num_groups == 1 else 0
        else:
            unread = (D + kv) * rotary
        return attention(length, length, length * (D + 2 * kv + unread))

    act = {"relu": F, "swiglu": 4 * F, "geglu": 4 * F}.get(config.hidden_act, 2 * F)
    feed_forward = around + act
    ends = norm + (D if config.dropout else 0)
    floats = encoder_layers * (self_attention(S) + S * feed_forward) + (S * ends if encoder_layers else 0)
    floats += decoder_layers * (self_attention(T) + T * feed_forward) + (T * ends if decoder_layers else 0)
    if encoder_layers and decoder_layers:
        floats += decoder_layers * attention(T, S, T * D + S * 2 * kv)
    if config.embedding_dim != D:
        floats += config.embedding_dim * (S * bool(encoder_layers) + T * bool(decoder_layers) + T * config.tie_embeddings)
    if config.architecture == "encoder":
        floats += T * (norm + (D if config.hidden_act != "relu" else 0))
    floats += T * 3 * config.vocab_size
    return FLOAT * config.batch_size * floats

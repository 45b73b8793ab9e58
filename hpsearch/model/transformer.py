"""The model: one transformer in three forms, by `architecture`.

decoder: pre-norm causal language model; GPT-2's form with learned positions, LayerNorm and gelu, Llama's with rotary positions,
RMSNorm and swiglu. encoder: post-norm masked language model, BERT's form. encoder_decoder: post-norm denoiser, BART's form.

Shape suffixes of tensors: B batch, T time, M time of the source text, V vocabulary, E embedding_dim, D d_model, G key/value
heads, K width of a head. The sizes may differ between calls; everything runs under autocast and torch.compile, and nothing in
`forward` waits for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hpsearch.config import TrialConfig
from hpsearch.errors import ConfigError
from hpsearch.model.cache import KeyValueCache, LayerCache
from hpsearch.model.counting import max_length, stack_depths
from hpsearch.model.layers import ACTIVATIONS, Block, Concentration, dropout, make_norm, rotary_table
from hpsearch.model.linear import Linear, linear

if TYPE_CHECKING:
    from hpsearch.data.batches import Batch


@dataclass
class ModelOutput:
    logits_BTV: Tensor
    hidden_BTD: Tensor
    """Output of the last stack, before the head."""
    order_logits_B2: Tensor | None = None
    """encoder with sentence_loss_weight: scores of the sentence order."""
    concentration_sum: Tensor | None = None
    """With attention_loss_weight: `layers.Concentration` summed over layers, heads and counted positions."""


class Stack(nn.Module):
    """Positions and blocks over embedded tokens.

    post-norm stacks normalise their input, pre-norm ones their output.
    """

    sinusoids_TD: Tensor
    rotary_2TK: Tensor

    def __init__(self, config: TrialConfig, num_layers: int, *, causal: bool, cross: bool = False) -> None:
        super().__init__()
        pre_norm = config.architecture == "decoder"
        self.position = config.position
        self.dropout_p = config.dropout
        self.max_length = max_length(config)
        if self.position == "learned":
            self.positions = nn.Embedding(config.max_position_embeddings, config.d_model)
        elif self.position == "sinusoidal":
            # Scaled by the initial width of the token embedding: the paper's ratio of the two (arXiv:1706.03762, 3.4).
            table = sinusoid_table(self.max_length, config.d_model) * (config.initializer_range * config.initializer_factor)
            self.register_buffer("sinusoids_TD", table, persistent=False)
        else:
            table = rotary_table(self.max_length, config.d_model // config.num_heads)
            self.register_buffer("rotary_2TK", table, persistent=False)
        self.segments = nn.Embedding(config.type_vocab_size, config.d_model) if config.architecture == "encoder" else None
        self.input_norm = None if pre_norm else make_norm(config)
        self.blocks = nn.ModuleList(Block(config, causal=causal, cross=cross, pre_norm=pre_norm) for _ in range(num_layers))
        self.output_norm = make_norm(config) if pre_norm else None

    def forward(
        self,
        x_BTD: Tensor,
        *,
        segments_BT: Tensor | None = None,
        mask: Tensor | None = None,
        memory_BGMK: list[tuple[Tensor, Tensor]] | None = None,
        memory_mask_B11M: Tensor | None = None,
        past: list[LayerCache] | None = None,
        start: int = 0,
        concentration: Concentration | None = None,
    ) -> Tensor:
        """memory_BGMK: for each block, the keys and values of the encoder's output. past: see `Attention.forward`."""
        end = start + x_BTD.shape[1]
        if end > self.max_length:
            raise ConfigError(
                "max_position_embeddings",
                f"a sequence of {end} tokens is longer than the {self.max_length} positions of the model; "
                f"raise max_position_embeddings or shorten the sequence",
            )
        rotary_2TK = None
        if self.position == "learned":
            x_BTD = x_BTD + self.positions.weight[start:end]
        elif self.position == "sinusoidal":
            x_BTD = x_BTD + self.sinusoids_TD[start:end]
        else:
            rotary_2TK = self.rotary_2TK[:, start:end]
        if self.segments is not None:
            rows = self.segments.weight
            # A table of one row cannot tell segments apart: all are of the one type.
            one_type = segments_BT is None or rows.shape[0] == 1
            x_BTD = x_BTD + (rows[0] if one_type else self.segments(segments_BT))
        if self.input_norm is not None:
            x_BTD = self.input_norm(x_BTD)
        x_BTD = dropout(x_BTD, self.dropout_p, self.training)
        for index, block in enumerate(self.blocks):
            x_BTD = block(
                x_BTD,
                rotary_2TK=rotary_2TK,
                mask=mask,
                memory_BGMK=None if memory_BGMK is None else memory_BGMK[index],
                memory_mask_B11M=memory_mask_B11M,
                past=None if past is None else past[index],
                start=start,
                concentration=concentration,
            )
        return x_BTD if self.output_norm is None else self.output_norm(x_BTD)


class MaskedHead(nn.Module):
    """BERT's transform before the masked tokens' logits."""

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        self.dense = Linear(config.d_model, config.d_model, config.norm == "layernorm")
        self.act = ACTIVATIONS[config.hidden_act]
        self.norm = make_norm(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.norm(self.act(self.dense(x_BTD)))
        return out_BTD


class OrderHead(nn.Module):
    """BERT's pooler and two-way classifier over the first token: are the two segments swapped?"""

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        bias = config.norm == "layernorm"
        self.pooler = Linear(config.d_model, config.d_model, bias)
        self.classifier = Linear(config.d_model, 2, bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_B2: Tensor = self.classifier(torch.tanh(self.pooler(x_BTD[:, 0])))
        return logits_B2


class Transformer(nn.Module):
    """The model of a config, its weights drawn from the config's seed.

    Weights: normal with deviation initializer_range · initializer_factor for every matrix and table; in a decoder the two
    projections into the residual stream are further divided by sqrt(2 · num_layers) (GPT-2). Biases 0, norms 1.

    embedding_dim ≠ d_model factorises the token embedding (ALBERT, arXiv:1909.11942): a projection follows the table, and
    the tied output goes back through both, transposed.
    """

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        self.config = config
        bias = config.norm == "layernorm"
        self.tokens = nn.Embedding(config.vocab_size, config.embedding_dim)
        factorised = config.embedding_dim != config.d_model
        self.tokens_projection = Linear(config.embedding_dim, config.d_model, bias=False) if factorised else None
        encoder_layers, decoder_layers = stack_depths(config)
        self.encoder = Stack(config, encoder_layers, causal=False) if encoder_layers else None
        self.decoder = Stack(config, decoder_layers, causal=True, cross=encoder_layers > 0) if decoder_layers else None
        masked = config.architecture == "encoder"
        self.masked_head = MaskedHead(config) if masked else None
        self.order_head = OrderHead(config) if masked and config.sentence_loss_weight > 0 else None
        self.output = None if config.tie_embeddings else Linear(config.d_model, config.vocab_size, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size)) if masked and bias else None
        self.initialise()

    @property
    def max_length(self) -> int:
        """Longest sequence that the model has positions for."""
        return max_length(self.config)

    def initialise(self) -> None:
        """Draw all weights anew from the config's seed."""
        generator = torch.Generator().manual_seed(self.config.seed)
        std = self.config.initializer_range * self.config.initializer_factor
        residual_std = std / math.sqrt(2 * self.config.num_layers) if self.config.architecture == "decoder" else std
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue
            if parameter.ndim == 2:
                into_residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
                nn.init.normal_(parameter, 0.0, residual_std if into_residual else std, generator=generator)
            else:
                nn.init.constant_(parameter, 1.0 if name.endswith("norm.weight") else 0.0)

    def forward(self, batch: Batch) -> ModelOutput:
        """Logits at every position. Padding is on the right, so a causal stack needs no mask for it."""
        watched = self.config.attention_loss_weight > 0
        mask_B11M = None if batch.padding_BT is None else batch.padding_BT[:, None, None, :]
        sums: list[Tensor] = []
        hidden_BTD, memory = self._embed(batch.inputs_BT), None
        if self.encoder is not None:
            concentration = None
            if watched:
                real_BT = torch.ones_like(batch.inputs_BT, dtype=torch.bool) if batch.padding_BT is None else batch.padding_BT
                concentration = Concentration(real_BT, sums)
            hidden_BTD = self.encoder(hidden_BTD, segments_BT=batch.segments_BT, mask=mask_B11M, concentration=concentration)
        if self.decoder is not None:
            if self.encoder is not None:
                assert batch.decoder_inputs_BT is not None
                memory = self._memory(hidden_BTD)
                hidden_BTD = self._embed(batch.decoder_inputs_BT)
            concentration = Concentration(batch.targets_BT != -100, sums) if watched else None
            hidden_BTD = self.decoder(hidden_BTD, memory_BGMK=memory, memory_mask_B11M=mask_B11M, concentration=concentration)
        return ModelOutput(
            logits_BTV=self._logits(hidden_BTD),
            hidden_BTD=hidden_BTD,
            order_logits_B2=None if self.order_head is None else self.order_head(hidden_BTD),
            concentration_sum=torch.stack(sums).sum() if watched else None,
        )

    def start(
        self,
        batch_size: int,
        max_length: int,
        source_BT: Tensor | None = None,
        padding_BT: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> KeyValueCache:
        """An empty cache for `batch_size` sequences of at most `max_length` tokens.

        source_BT: the text that an encoder_decoder reads, encoded here once; padding_BT: True on its real tokens. dtype:
        of the keys and values; the autocast type where one is used.
        """
        if self.decoder is None:
            raise ConfigError("architecture", "an encoder fills masks and cannot generate; use decoder or encoder_decoder")
        if max_length > self.max_length:
            raise ConfigError(
                "max_position_embeddings",
                f"{max_length} tokens are more than the {self.max_length} positions of the model; generate fewer at a time",
            )
        shape = (batch_size, self.config.num_groups, max_length, self.config.d_model // self.config.num_heads)
        device = self.tokens.weight.device
        cache = KeyValueCache(max_length, [LayerCache(shape, device, dtype) for _ in self.decoder.blocks])
        if self.encoder is not None:
            assert source_BT is not None
            cache.memory_mask_B11M = None if padding_BT is None else padding_BT[:, None, None, :]
            memory_BMD = self.encoder(self._embed(source_BT), mask=cache.memory_mask_B11M)
            cache.memory_BGMK = self._memory(memory_BMD)
        return cache

    def prefill(self, tokens_BT: Tensor, cache: KeyValueCache) -> Tensor:
        """Read tokens (all sequences of one length) after those in the cache; logits (B, V) of the token that follows."""
        assert self.decoder is not None
        hidden_BTD = self.decoder(
            self._embed(tokens_BT),
            memory_BGMK=cache.memory_BGMK or None,
            memory_mask_B11M=cache.memory_mask_B11M,
            past=cache.layers,
            start=cache.length,
        )
        cache.length += tokens_BT.shape[1]
        return self._logits(hidden_BTD[:, -1])

    def decode_step(self, tokens_B: Tensor, cache: KeyValueCache) -> Tensor:
        """Read one token of each sequence; logits (B, V) of the next."""
        return self.prefill(tokens_B[:, None], cache)

    def _embed(self, tokens_BT: Tensor) -> Tensor:
        x_BTE: Tensor = self.tokens(tokens_BT)
        return x_BTE if self.tokens_projection is None else self.tokens_projection(x_BTE)

    def _memory(self, memory_BMD: Tensor) -> list[tuple[Tensor, Tensor]]:
        assert self.decoder is not None
        return [block.cross_attention.memory(memory_BMD) for block in self.decoder.blocks]  # type: ignore[union-attr, operator]

    def _logits(self, x: Tensor) -> Tensor:
        if self.masked_head is not None:
            x = self.masked_head(x)
        if self.output is not None:
            return linear(x, self.output.weight, self.output_bias)
        if self.tokens_projection is not None:
            x = linear(x, self.tokens_projection.weight.mT)
        return linear(x, self.tokens.weight, self.output_bias)


def sinusoid_table(length: int, width: int) -> Tensor:
    """Sines and cosines of positions, (length, width), arXiv:1706.03762."""
    angles = torch.outer(torch.arange(length).float(), 10_000.0 ** (-torch.arange(0, width, 2).float() / width))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]

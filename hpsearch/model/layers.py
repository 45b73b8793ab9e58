"""The parts of the transformer: dropout, rotary positions, attention, feed-forward, block.

Shape suffixes of tensors: B batch, T time (query positions), S positions that are attended to, M positions of the encoder's
output, D d_model, H query heads, G key/value heads, K width of a head, F d_ff. 1 is a dimension that broadcasts.

Linear layers have biases with norm=layernorm (GPT-2, BERT, BART) and none with norm=rmsnorm (Llama).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hpsearch.config import TrialConfig
from hpsearch.model.cache import LayerCache
from hpsearch.model.counting import is_gated
from hpsearch.model.linear import Linear

ROTARY_BASE = 10_000.0


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)², arXiv:2109.08668."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "relu2": squared_relu,
    "swiglu": F.silu,
    "geglu": F.gelu,
}
"""The pointwise function of each `hidden_act`."""


USUAL_DROPOUT = (0.01, 0.99)
"""Probabilities that a few bits express to a thousandth, of what is dropped and of what is kept."""


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """`F.dropout`, on a CPU with half of its cost."""
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu" or not _usual(probability):
        return F.dropout(x, probability, training)
    # Torch's CPU generator is serial, and torch draws 64 bits for each element; 16 bits are enough for a usual probability.
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[: x.numel()]
    kept = bits.view(x.shape) >= round(probability * 65536) - 32768
    return x * kept.to(x.dtype).mul_(1.0 / (1.0 - probability))


def _usual(probability: float) -> bool:
    return USUAL_DROPOUT[0] <= probability <= USUAL_DROPOUT[1]


class _RMSNorm(torch.autograd.Function):
    """Torch has no kernel of it for a CPU and composes it of many; this needs half of the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        rstd = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(epsilon).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight_D, rstd)
        normal: Tensor = x * rstd
        return normal.mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_D, rstd = ctx.saved_tensors
        normal = x * rstd
        grad_weight_D = (grads[0] * normal).flatten(0, -2).sum(0)
        grad = grads[0] * weight_D
        along = torch.linalg.vecdot(grad, normal).div_(x.shape[-1]).unsqueeze(-1)
        return grad.addcmul_(normal, along, value=-1.0).mul_(rstd), grad_weight_D, None


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation, arXiv:1910.07467."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != self.weight.dtype:
            return super().forward(x)
        out: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out


def make_norm(config: TrialConfig) -> nn.Module:
    kind = nn.LayerNorm if config.norm == "layernorm" else RMSNorm
    return kind(config.d_model, eps=config.layer_norm_epsilon)


def rotary_table(length: int, width: int) -> Tensor:
    """Cosines and sines of RoPE (arXiv:2104.09864) in Llama's half-split form: (2, length, width), width even."""
    frequencies = 1.0 / ROTARY_BASE ** (torch.arange(0, width, 2).float() / width)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
    sines = angles.sin()
    # The sign of the rotation is in the table, so that rotating is a roll and two products.
    sines[:, : width // 2].neg_()
    return torch.stack([angles.cos(), sines])


def rotate(x_BTHK: Tensor, table_2TK: Tensor) -> Tensor:
    """Turn each pair (k, k + K/2) of a head by the angle of its position."""
    cosines_T1K, sines_T1K = table_2TK.to(x_BTHK.dtype).unsqueeze(2)
    turned: Tensor = x_BTHK * cosines_T1K + x_BTHK.roll(x_BTHK.shape[-1] // 2, -1) * sines_T1K
    return turned


@dataclass
class Concentration:
    """Collects how far each attention distribution is from the even one: 1 - entropy / log(number of visible keys).

    0 is an even look at all visible keys, 1 a head collapsed onto one key. Positions that see fewer than two keys have no
    choice and count nothing.
    """

    counted_BT: Tensor
    """True where a query position counts."""
    sums: list[Tensor] = field(default_factory=list)
    """One scalar for each attention: summed over batch, heads and positions."""


def attend(
    query_BHTK: Tensor,
    key_BGSK: Tensor,
    value_BGSK: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    dropout_p: float,
    concentration: Concentration | None,
) -> Tensor:
    """softmax(query key' / sqrt K) value, (B, H, T, K); key/value heads are shared by H / G query heads each.

    mask: broadcasts to (B, H, T, S), True where a key is visible. causal: query t sees keys up to t (T = S).
    """
    # On a CPU torch has no kernel with dropout, and composes one that costs up to twice of what stands below. Those of a GPU
    # may draw as few as 8 bits for each weight.
    if concentration is None and (dropout_p == 0.0 or (query_BHTK.device.type != "cpu" and _usual(dropout_p))):
        grouped = key_BGSK.shape[1] != query_BHTK.shape[1]
        return F.scaled_dot_product_attention(
            query_BHTK, key_BGSK, value_BGSK, mask, dropout_p, is_causal=causal, enable_gqa=grouped
        )
    B, H, T, K = query_BHTK.shape
    G, S = key_BGSK.shape[1:3]
    # Query heads that share keys are rows of one product.
    scores_BHTS = ((query_BHTK * K**-0.5).reshape(B, G, -1, K) @ key_BGSK.mT).view(B, H, T, S).float()
    visible = None if mask is None and not causal else _visible(T, S, causal, mask, scores_BHTS.device)
    if visible is not None:
        # The least finite number, not -inf: 0 · -inf would make the entropy's gradient NaN.
        scores_BHTS = scores_BHTS + torch.zeros_like(visible, dtype=torch.float32).masked_fill_(
            ~visible, torch.finfo(torch.float32).min
        )
    if concentration is None:
        p_BHTS = scores_BHTS.softmax(-1)
    else:
        log_p_BHTS = scores_BHTS.log_softmax(-1)
        p_BHTS = log_p_BHTS.exp()
        seen = torch.full((1,), S, device=p_BHTS.device) if visible is None else visible.sum(-1)
        excess_BHT = 1.0 + (p_BHTS * log_p_BHTS).sum(-1) / seen.clamp(min=2).log()
        counted = (seen >= 2) & concentration.counted_BT[:, None]
        concentration.sums.append((excess_BHT * counted).sum())
    p_BHTS = dropout(p_BHTS, dropout_p, True).to(value_BGSK.dtype)
    return (p_BHTS.view(B, G, -1, S) @ value_BGSK).view(B, H, T, K)


def _visible(T: int, S: int, causal: bool, mask: Tensor | None, device: torch.device) -> Tensor:
    """Which keys a query may look at, True; broadcasts to (B, H, T, S)."""
    visible = torch.ones(T, S, dtype=torch.bool, device=device)
    visible = visible.tril() if causal else visible
    return visible if mask is None else visible & mask


class Attention(nn.Module):
    """Multi-head attention with `num_groups` key/value heads (arXiv:2305.13245)."""

    def __init__(self, config: TrialConfig, *, causal: bool, cross: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.dropout_p = config.attention_probs_dropout_prob
        self.width = config.d_model // config.num_heads
        self.kv_size = config.num_groups * self.width
        bias = config.norm == "layernorm"
        if cross:
            self.query = Linear(config.d_model, config.d_model, bias)
            self.key_value = Linear(config.d_model, 2 * self.kv_size, bias)
        else:
            self.query_key_value = Linear(config.d_model, config.d_model + 2 * self.kv_size, bias)
        self.output = Linear(config.d_model, config.d_model, bias)

    def forward(
        self,
        x_BTD: Tensor,
        *,
        rotary_2TK: Tensor | None = None,
        mask: Tensor | None = None,
        past: LayerCache | None = None,
        start: int = 0,
        concentration: Concentration | None = None,
    ) -> Tensor:
        """Self-attention. past: cached keys and values of the first `start` positions, to which these are added."""
        B, T, D = x_BTD.shape
        query, key, value = self.query_key_value(x_BTD).split((D, self.kv_size, self.kv_size), -1)
        query_BTHK, key_BTGK = query.view(B, T, -1, self.width), key.view(B, T, -1, self.width)
        if rotary_2TK is not None:
            query_BTHK, key_BTGK = rotate(query_BTHK, rotary_2TK), rotate(key_BTGK, rotary_2TK)
        key_BGSK, value_BGSK = key_BTGK.transpose(1, 2), self._heads(value)
        causal = self.causal
        if past is not None:
            key_BGSK, value_BGSK = past.append(key_BGSK, value_BGSK, start)
            causal = causal and start == 0
            if start and T > 1:
                mask = torch.ones(T, start + T, dtype=torch.bool, device=x_BTD.device).tril(start)
        return self._project(query_BTHK.transpose(1, 2), key_BGSK, value_BGSK, causal, mask, concentration)

    def memory(self, memory_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's output, for `cross`."""
        key, value = self.key_value(memory_BMD).split(self.kv_size, -1)
        return self._heads(key), self._heads(value)

    def cross(
        self,
        x_BTD: Tensor,
        memory_BGMK: tuple[Tensor, Tensor],
        mask_B11M: Tensor | None,
        concentration: Concentration | None = None,
    ) -> Tensor:
        """Attention to the encoder's output."""
        return self._project(self._heads(self.query(x_BTD)), *memory_BGMK, False, mask_B11M, concentration)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.width).transpose(1, 2)

    def _project(
        self,
        query_BHTK: Tensor,
        key_BGSK: Tensor,
        value_BGSK: Tensor,
        causal: bool,
        mask: Tensor | None,
        concentration: Concentration | None,
    ) -> Tensor:
        out_BHTK = attend(
            query_BHTK,
            key_BGSK,
            value_BGSK,
            causal=causal,
            mask=mask,
            dropout_p=self.dropout_p if self.training else 0.0,
            concentration=concentration,
        )
        projected: Tensor = self.output(out_BHTK.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """down(act(up x)), or down(act(gate x) * up x) with a gated activation (arXiv:2002.05202); F = d_ff wide each."""

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        bias = config.norm == "layernorm"
        self.act = ACTIVATIONS[config.hidden_act]
        self.gate = Linear(config.d_model, config.d_ff, bias) if is_gated(config) else None
        self.up = Linear(config.d_model, config.d_ff, bias)
        self.down = Linear(config.d_ff, config.d_model, bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.gate is None:
            hidden_BTF = self.act(self.up(x_BTD))
        else:
            hidden_BTF = self.act(self.gate(x_BTD)) * self.up(x_BTD)
        out_BTD: Tensor = self.down(hidden_BTF)
        return out_BTD


class Block(nn.Module):
    """Self-attention, cross-attention where there is an encoder to look at, feed-forward; each with its norm and residual.

    pre_norm: x + f(norm x) (GPT-2, Llama); otherwise norm(x + f x) (BERT, BART).
    """

    def __init__(self, config: TrialConfig, *, causal: bool, cross: bool, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.dropout_p = config.hidden_dropout_prob
        self.attention = Attention(config, causal=causal)
        self.attention_norm = make_norm(config)
        self.cross_attention = Attention(config, causal=False, cross=True) if cross else None
        self.cross_attention_norm = make_norm(config) if cross else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = make_norm(config)

    def forward(
        self,
        x_BTD: Tensor,
        *,
        rotary_2TK: Tensor | None = None,
        mask: Tensor | None = None,
        memory_BGMK: tuple[Tensor, Tensor] | None = None,
        memory_mask_B11M: Tensor | None = None,
        past: LayerCache | None = None,
        start: int = 0,
        concentration: Concentration | None = None,
    ) -> Tensor:
        def attention(x: Tensor) -> Tensor:
            out: Tensor = self.attention(
                x, rotary_2TK=rotary_2TK, mask=mask, past=past, start=start, concentration=concentration
            )
            return out

        x_BTD = self._residual(x_BTD, self.attention_norm, attention)
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            assert memory_BGMK is not None
            cross, memory = self.cross_attention.cross, memory_BGMK
            x_BTD = self._residual(
                x_BTD, self.cross_attention_norm, lambda x: cross(x, memory, memory_mask_B11M, concentration)
            )
        return self._residual(x_BTD, self.feed_forward_norm, self.feed_forward)

    def _residual(self, x_BTD: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x_BTD + dropout(sublayer(norm(x_BTD)), self.dropout_p, self.training)
        out_BTD: Tensor = norm(x_BTD + dropout(sublayer(x_BTD), self.dropout_p, self.training))
        return out_BTD

"""The terms of the loss, as sums and counts, so that micro-batches add up to exactly the whole batch's gradient.

    counts = loss_counts(batch, config)
    for part in batch.split(n):
        loss_terms(model(part), part, config, counts).total.backward()

Shape suffixes of tensors: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hpsearch.config import TrialConfig
from hpsearch.errors import HpsearchError
from hpsearch.model.counting import stack_depths
from hpsearch.model.transformer import ModelOutput

if TYPE_CHECKING:
    from hpsearch.data.batches import Batch

IGNORED = -100
"""The target of a position that is not counted."""


class EmptyEvaluation(HpsearchError):
    """No held-out byte was left to evaluate on."""


@dataclass(frozen=True)
class LossCounts:
    """What the terms of a batch are divided by: scalars on the batch's device, known before the model runs."""

    targets: Tensor
    """Counted targets: divides the cross-entropy and the z-loss."""
    order: Tensor
    """Labels of the sentence order."""
    attention: Tensor
    """Layers times heads times positions with a choice of keys."""


@dataclass(frozen=True)
class Losses:
    """`total` is the term to differentiate; the sums are over this (micro-)batch, in nats."""

    total: Tensor
    """ce_loss_weight · cross-entropy + z_loss_weight · z-loss + attention_loss_weight · penalty + sentence_loss_weight ·
    cross-entropy of the order, each the sum here divided by the count of the whole batch."""
    ce_sum: Tensor
    count: Tensor
    """Counted targets here."""
    z_sum: Tensor | None = None
    attention_sum: Tensor | None = None
    order_sum: Tensor | None = None


def loss_counts(batch: Batch, config: TrialConfig) -> LossCounts:
    """The counts of a whole batch."""
    counted_BT = batch.targets_BT != IGNORED
    order_B = batch.order_B
    return LossCounts(
        targets=counted_BT.sum(),
        # Filled there: a tensor made of a number here would be copied, and the copy waits for a GPU.
        order=torch.full((), 0 if order_B is None else len(order_B), device=counted_BT.device),
        attention=_attention_count(batch, config, counted_BT),
    )


def loss_terms(output: ModelOutput, batch: Batch, config: TrialConfig, counts: LossCounts | None = None) -> Losses:
    """The weighted sum of the config's loss terms, and their parts.

    counts: those of the whole batch of which `batch` is a part; None when it is the whole.
    z-loss: squared log-partition at the counted targets (PaLM, arXiv:2204.02311, 5). Attention penalty: see
    `layers.Concentration`; its mean is over layers, heads and positions that see two keys or more.
    """
    counts = counts or loss_counts(batch, config)
    logits_NV, targets_N = output.logits_BTV.flatten(0, 1), batch.targets_BT.flatten()
    ce_sum = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")
    total = ce_sum * config.ce_loss_weight / counts.targets.clamp(min=1)
    z_sum = order_sum = None
    if config.z_loss_weight > 0:
        log_partition_N = logits_NV.float().logsumexp(-1)
        z_sum = (log_partition_N.square() * (targets_N != IGNORED)).sum()
        total = total + z_sum * config.z_loss_weight / counts.targets.clamp(min=1)
    if output.concentration_sum is not None:
        total = total + output.concentration_sum * config.attention_loss_weight / counts.attention.clamp(min=1)
    if output.order_logits_B2 is not None and batch.order_B is not None:
        order_sum = F.cross_entropy(output.order_logits_B2, batch.order_B, reduction="sum")
        total = total + order_sum * config.sentence_loss_weight / counts.order.clamp(min=1)
    return Losses(
        total=total,
        ce_sum=ce_sum,
        count=(batch.targets_BT != IGNORED).sum(),
        z_sum=z_sum,
        attention_sum=output.concentration_sum,
        order_sum=order_sum,
    )


def bits_per_byte(nats_sum: float, bytes_sum: float) -> float:
    """Held-out loss in bits per UTF-8 byte, comparable across tokenizers.

    nats_sum: cross-entropy summed over all counted targets, in nats. bytes_sum: UTF-8 bytes of those targets.
    Raises EmptyEvaluation when no byte is left.
    """
    if bytes_sum <= 0:
        raise EmptyEvaluation("the held-out text has no byte to evaluate on; give a longer text or a larger validation part")
    return nats_sum / (bytes_sum * math.log(2))


def _attention_count(batch: Batch, config: TrialConfig, counted_BT: Tensor) -> Tensor:
    """The positions of `concentration_sum`, as `Transformer.forward` counts them; 0 where it has no weight."""
    encoder_layers, decoder_layers = stack_depths(config)
    positions = torch.zeros((), dtype=torch.long, device=counted_BT.device)
    if config.attention_loss_weight == 0:
        return positions
    real_BT = torch.ones_like(batch.inputs_BT, dtype=torch.bool) if batch.padding_BT is None else batch.padding_BT
    choice_B1 = real_BT.sum(-1, keepdim=True) >= 2
    if encoder_layers:
        positions = positions + encoder_layers * (real_BT & choice_B1).sum()
    if decoder_layers:
        positions = positions + decoder_layers * counted_BT[:, 1:].sum()
    if encoder_layers and decoder_layers:
        positions = positions + decoder_layers * (counted_BT & choice_B1).sum()
    return positions * config.num_heads

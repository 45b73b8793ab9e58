from collections.abc import Callable
from typing import Any

import pytest
import torch

from hpsearch.config import TrialConfig
from hpsearch.data.batches import Batch
from hpsearch.model.counting import source_length

TINY: dict[str, Any] = {
    "num_layers": 2,
    "d_model": 24,
    "d_ff": 40,
    "num_heads": 4,
    "vocab_size": 31,
    "context_length": 12,
    "max_position_embeddings": 16,
    "layer_norm_epsilon": 1e-5,
    "dropout": 0.0,
    "batch_size": 3,
    "max_iters": 1,
    "initializer_range": 0.3,
}


@pytest.fixture
def tiny() -> Callable[..., TrialConfig]:
    """A config of a tiny model, with the given changes."""
    return lambda **changes: TrialConfig.build({**TINY, **changes})


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A batch of random tokens with the shapes of a training batch; padded: the rows have different lengths."""

    def make(config: TrialConfig, *, padded: bool = False, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        B, T = config.batch_size, config.context_length
        S = source_length(config) or T

        def tokens(length: int) -> torch.Tensor:
            return torch.randint(config.vocab_size, (B, length), generator=generator)

        seq2seq, encoder = config.architecture == "encoder_decoder", config.architecture == "encoder"
        targets_BT = tokens(T if seq2seq else S)
        targets_BT[torch.rand(targets_BT.shape, generator=generator) < 0.3] = -100
        targets_BT[:, 3] = 1
        lengths = torch.randint(4, S + 1, (B, 1), generator=generator)
        return Batch(
            inputs_BT=tokens(S),
            targets_BT=targets_BT,
            bytes_BT=(targets_BT >= 0).long(),
            segments_BT=(torch.arange(S) >= S // 2).long().expand(B, S) * (config.type_vocab_size > 1) if encoder else None,
            padding_BT=torch.arange(S) < lengths if padded and config.architecture != "decoder" else None,
            order_B=torch.arange(B) % 2 if config.sentence_loss_weight > 0 else None,
            decoder_inputs_BT=tokens(T) if seq2seq else None,
        )

    return make

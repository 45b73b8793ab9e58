"""Keys and values of the tokens that a generation has already read, in tensors allocated once.

B batch, S longest sequence, M tokens of the source text, G key/value heads, K width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


class LayerCache:
    """One attention layer's keys and values, filled from the left."""

    def __init__(self, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self.keys_BGSK = torch.empty(shape, device=device, dtype=dtype)
        self.values_BGSK = torch.empty(shape, device=device, dtype=dtype)

    def append(self, key_BGTK: Tensor, value_BGTK: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Write at positions `start` and on; all keys and values up to there."""
        end = start + key_BGTK.shape[2]
        self.keys_BGSK[:, :, start:end] = key_BGTK
        self.values_BGSK[:, :, start:end] = value_BGTK
        return self.keys_BGSK[:, :, :end], self.values_BGSK[:, :, :end]


@dataclass
class KeyValueCache:
    """What `Transformer.prefill` and `decode_step` keep between two tokens; `Transformer.start` makes one."""

    max_length: int
    """Tokens that it has room for."""
    layers: list[LayerCache]
    length: int = 0
    """Tokens read so far; setting it back forgets those after it."""
    memory_BGMK: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """encoder_decoder: each layer's keys and values of the source text."""
    memory_mask_B11M: Tensor | None = None
    """encoder_decoder: True where the source text is not padding; None when nothing is padded."""

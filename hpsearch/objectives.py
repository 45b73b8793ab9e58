"""What a study can minimise: one table, read by the space check, the trainer and the reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Objective:
    name: str
    unit: str
    doc: str
    known: Literal["while training", "at the end", "before training"]
    """When a trial's value is known; only what is known while training can be pruned on."""
    architectures: tuple[str, ...] = ("decoder", "encoder", "encoder_decoder")
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Where its values do not compare between architectures: of what each architecture's value is, and given what."""
    sampled: bool = False
    """Whether the generation settings (temperature, top_k, top_p) can change it."""


_GIVEN = {
    "decoder": "each byte given the text before it",
    "encoder": "masked tokens given those around them",
    "encoder_decoder": "the text given its corrupted form",
}

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(
            "val_bpb",
            "bits/byte",
            "bits per UTF-8 byte of held-out text, comparable whatever the tokenizer; "
            "in encoder_decoder the bits of the original text given its corrupted form",
            "while training",
            ("decoder", "encoder_decoder"),
            given={name: _GIVEN[name] for name in ("decoder", "encoder_decoder")},
        ),
        Objective(
            "val_masked_bpb",
            "bits/byte",
            "bits per UTF-8 byte of the masked tokens of held-out text (a pseudo-measure: not comparable with val_bpb)",
            "while training",
            ("encoder",),
        ),
        Objective(
            "val_loss",
            "nats/token",
            "cross-entropy of held-out tokens; comparable only between trials with the same tokens",
            "while training",
            given=_GIVEN,
        ),
        Objective("num_parameters", "parameters", "size of the model, embeddings included", "before training"),
        Objective("flops_per_token", "FLOP/token", "forward and backward cost of one training token", "before training"),
        Objective("train_seconds", "s", "seconds spent training, evaluations left out", "at the end"),
        Objective(
            "generation_divergence",
            "bits",
            "Jensen-Shannon divergence between the character n-grams of generated and of held-out text",
            "at the end",
            ("decoder", "encoder_decoder"),
            sampled=True,
        ),
    )
}
"""Every objective by name; all are minimised."""

NEGATED = "neg_"
"""An objective that a trainer of one's own wants to be large is minimised under its name after this, with the other sign (as
scikit-learn's `neg_log_loss`, the other way round)."""

"""What another program is told of a configuration, and the file that tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpsearch.config import HYPERPARAMETERS, TrialConfig
from hpsearch.report.export import scalar
from hpsearch.report.view import short

NEUTRAL: dict[str, Any] = {
    "ce_loss_weight": 1.0,
    "attention_loss_weight": 0.0,
    "z_loss_weight": 0.0,
    "sentence_loss_weight": 0.0,
    "initializer_factor": 1.0,
    "type_vocab_size": 2,
    "log_file_level": "info",
}
"""Settings that do nothing at these values, so that a program without them lacks nothing."""

GENERATION = tuple(name for name, info in HYPERPARAMETERS.items() if info.section == "generation")


@dataclass
class Translation:
    """What another program is to be told."""

    program: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Under the other program's names; a mapping inside is a section of its own."""
    differs: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Reader:
    """Hands out the hyperparameters of a config and knows which were not asked for."""

    def __init__(self, program: str, config: TrialConfig) -> None:
        self.told = Translation(program)
        self.values = {name: value for name, value in config.concrete().items() if value is not None}
        # Says in other words what max_iters says.
        self.values.pop("num_epochs", None)

    def take(self, name: str) -> Any:
        return self.values.pop(name)

    def built_in(self, name: str, there: Any, why: str) -> None:
        """There is no setting: `there` is what the program does always."""
        value = self.values.pop(name, None)
        if value is not None and value != there:
            self.told.missing.append(f"{name} {short(value)}: {why}")

    def lacks(self, name: str, why: str) -> None:
        value = self.values.pop(name, None)
        if value is not None:
            self.told.missing.append(f"{name} {short(value)}: {why}")

    def differs(self, sentence: str) -> None:
        self.told.differs.append(sentence)

    def done(self) -> Translation:
        for name, value in self.values.items():
            if name in GENERATION:
                continue
            if NEUTRAL.get(name) != value:
                self.told.missing.append(f"{name} {short(value)}: no such setting")
        sampling = [f"{name} {short(self.values[name])}" for name in GENERATION if name in self.values]
        if sampling:
            self.told.missing.append(f"{', '.join(sampling)}: of sampling, not of training")
        return self.told


_HEADS = {
    "nanogpt": "A configuration of nanoGPT: python train.py THIS_FILE.py",
    "litgpt": "A configuration of litgpt: litgpt pretrain --config THIS_FILE.yaml",
    "transformers": "Arguments for the Trainer of transformers",
}


def as_text(told: Translation, provenance: Sequence[str]) -> str:
    """The translation as a file of the program's own form: Python for nanoGPT and transformers, YAML for litgpt."""
    lines = [f"# {line}".rstrip() for line in (_HEADS[told.program], "", *provenance)]
    for title, sentences in (("Differs in meaning", told.differs), ("Has no counterpart", told.missing)):
        lines += ["#", f"# {title}:", *(f"#   {' '.join(line.split())}" for line in sentences or ["nothing"])]
    lines.append("")
    if told.program == "nanogpt":
        lines += [f"{name} = {value!r}" for name, value in told.settings.items()]
    elif told.program == "litgpt":
        for name, value in told.settings.items():
            inside = value.items() if isinstance(value, dict) else ()
            lines += (
                [f"{name}:", *(f"  {key}: {scalar(part)}" for key, part in inside)] if inside else [f"{name}: {scalar(value)}"]
            )
    else:
        lines += [f"from transformers import {', '.join(sorted(told.settings))}", ""]
        for kind, settings in told.settings.items():
            variable = "training_arguments" if kind == "TrainingArguments" else "model_config"
            lines += [f"{variable} = {kind}(", *(f"    {name}={value!r}," for name, value in settings.items()), ")", ""]
    return "\n".join(lines).rstrip() + "\n"


def as_json(told: Translation, confirmation: Mapping[str, Any] | None = None) -> str:
    """The translation as one JSON object: program, settings, differs, missing, confirmation."""
    content = {**vars(told), "confirmation": confirmation}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

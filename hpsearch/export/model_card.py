"""The model card of an exported model: what it is, where it is from, how good it is, and how to load it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hpsearch.config import HYPERPARAMETERS, TrialConfig
from hpsearch.export.config_file import ExportedConfig, scalar
from hpsearch.results.formatting import amount, short
from hpsearch.results.view import StudyView
from hpsearch.storage.records import TrialRecord
from hpsearch.text import printable


@dataclass(frozen=True)
class Subject:
    """The model that a card is about."""

    config: TrialConfig
    auto_class: str
    """The class of transformers that loads it."""
    data: dict[str, Any]
    fingerprint: str
    title: str
    facts: Sequence[str] = field(default_factory=tuple)
    """Sentences about the score and its confirmation."""
    versions: dict[str, str] = field(default_factory=dict)


def of_trial(view: StudyView, trial: TrialRecord, auto_class: str) -> Subject:
    """The subject of a card for a trial of a study."""
    from hpsearch.results.verdict import comment_lines

    study = view.study
    facts = [
        f"Score: {view.objective} {short(trial.value)}{f' {view.unit}' if view.unit else ''} on held-out text.",
        *(f"{name}: {short(value)}." for name, value in sorted(trial.metrics.items()) if name != view.objective),
        *(f"{line}." for line in (comment_lines(view.verdict, trial.number) if view.verdict else ())),
        f"Trained for {trial.iteration:,} steps, {trial.tokens:,} tokens, {amount(trial.flops, 'FLOP')}, on {study.device}.",
    ]
    if not view.verdict or view.verdict.of(trial.number) is None:
        facts.append("Not confirmed: the score is of one seed, and the best of several trials looks better than it is.")
    return Subject(
        TrialConfig.build(trial.config),
        auto_class,
        study.data,
        study.data_fingerprint,
        f"Trial {trial.number} of the hyperparameter search {study.name}",
        facts,
        study.versions,
    )


def of_config(config: TrialConfig, asked: ExportedConfig | None, auto_class: str, tokenizer: str) -> Subject:
    """The subject of a card for a model that was trained alone. asked: the file that it was trained from, where it is there."""
    facts = ["Trained by itself, not as a trial: its score is in the log of its training."]
    if asked is not None and asked.study is not None:
        origin = asked.study
        reached = f"which reached {origin.objective} {short(origin.value)}"
        facts = [f"Its config is that of trial {origin.trial} of study {origin.name}, {reached}."]
    data = {"tokenizer": tokenizer} if asked is None else asked.data.model_dump(mode="json")
    fingerprint = "" if asked is None else asked.data_fingerprint
    return Subject(config, auto_class, data, fingerprint, "A model trained with hpsearch", facts)


def model_card(subject: Subject) -> str:
    """Markdown with the metadata that model hubs read."""
    config = subject.config
    tag = {"decoder": "text-generation", "encoder": "fill-mask"}.get(config.architecture)
    lines = ["---", "library_name: transformers", *([f"pipeline_tag: {tag}"] if tag else []), "tags: [hpsearch]", "---", ""]
    lines += [f"# {_inline(subject.title)}", ""]
    lines += [f"- {_inline(fact)}" for fact in subject.facts]
    if "text" in subject.data:
        lines += [f"- Text: `{_inline(scalar(subject.data['text']))}`."]
    lines += [f"- Tokenizer: `{subject.data.get('tokenizer')}`."]
    if subject.fingerprint:
        lines += [f"- Fingerprint of the text and its split: `{subject.fingerprint}`."]
    if subject.versions:
        lines += [f"- Versions: {', '.join(f'{name} {version}' for name, version in subject.versions.items())}."]
    lines += ["", "## Loading", "", "```python", *_loading(subject.auto_class), "```", ""]
    lines += [*_notes(config), "", "## Configuration", "", "```yaml"]
    lines += [f"{name}: {scalar(value)}" for name, value in config.concrete().items() if value is not None]
    lines += ["```", "", f"`hpsearch train --config` trains it again. All {len(HYPERPARAMETERS)} names: `hpsearch params`.", ""]
    return "\n".join(lines)


def _loading(auto_class: str) -> list[str]:
    return [
        f"from transformers import {', '.join(sorted([auto_class, 'AutoTokenizer']))}",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
        f'model = {auto_class}.from_pretrained("THIS_FOLDER")',
    ]


def _notes(config: TrialConfig) -> list[str]:
    notes = [f"It was trained on sequences of {config.context_length} tokens; longer ones are out of what it knows."]
    if config.architecture == "encoder":
        notes.append("It was trained on `[CLS] first half [SEP] second half [SEP]`: give the tokenizer a pair of texts.")
    if config.architecture == "encoder_decoder":
        notes.append(
            "Its encoder reads text with `[MASK]` for each gap; its decoder begins with `[BOS]` and writes the whole text."
        )
    if config.architecture == "decoder":
        notes.append("It has no end-of-text token: generate a fixed number of tokens.")
    return notes


def _inline(text: str) -> str:
    return printable(" ".join(text.replace("`", "'").split()))

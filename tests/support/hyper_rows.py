"""The documented hyperparameters as data, and two runs to compare."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpsearch.config import DataConfig, TrialConfig, canonical_name
from hpsearch.data.batches import Batch, train_batch
from hpsearch.data.corpus import Corpus, open_corpus
from hpsearch.model.losses import Losses, loss_terms
from hpsearch.model.transformer import ModelOutput, Transformer
from hpsearch.space.load import parse_space
from hpsearch.space.space import SearchSpace
from hpsearch.training.checkpoints import CheckpointStore, load_checkpoint
from hpsearch.training.events import CheckpointSaved, EvalPoint, Event, Progress, TrainResult
from hpsearch.training.generation import generate
from hpsearch.training.loop import backward, train

DOCUMENT = """\
## Architecture
| name | aliases | default | search | what it does |
|---|---|---|---|---|
| `architecture` | | `decoder` | yes | `decoder` (causal LM), `encoder` (masked LM, BERT-style), `encoder_decoder` (denoising sequence-to-sequence) |
| `num_layers` | `num_hidden_layers`, `num_blocks` | 6 | yes | blocks in the stack; in `encoder_decoder` the default of both stacks |
| `num_encoder_layers`, `num_decoder_layers` | | = `num_layers` | yes | depth of each stack of `encoder_decoder` |
| `d_model` | `hidden_size` | 512 | yes | residual width |
| `d_ff` | `intermediate_size` | 2048 | yes | feed-forward width |
| `num_heads` | `num_attention_heads` | 8 | yes | query heads; `d_model % num_heads == 0` |
| `num_groups` | `num_key_value_heads` | = `num_heads` | yes | grouped-query attention: key/value heads shared by the query heads; `num_heads % num_groups == 0` |
| `embedding_dim` | `input_embedding_dim`, `embedding_size` | = `d_model` | yes | width of the token embedding; when it differs from `d_model` a projection follows it |
| `vocab_size` | | 30522 | yes | size of the tokenizer's vocabulary: a BPE tokenizer is trained at that size; for a character or byte tokenizer it follows from the text |
| `type_vocab_size` | | 2 | yes | segment (token type) embeddings; used by `encoder` with sentence pairs |
| `context_length` | `max_seq_length` | 128 | yes | tokens per training sequence |
| `max_position_embeddings` | `decoder_max_position_embeddings` | 512 | yes | rows of the learned position table (of the decoder too); must be ≥ `context_length` |
| `position` | | `learned` | yes | `learned`, `rotary`, `sinusoidal` |
| `hidden_act` | | `gelu` | yes | `gelu`, `relu`, `silu`, `relu2`, `swiglu`, `geglu` |
| `norm` | | `layernorm` | yes | `layernorm`, `rmsnorm` |
| `layer_norm_epsilon` | | 1e-12 | yes | the normalisation's epsilon |
| `initializer_range` | | 0.02 | yes | standard deviation of the initial weights |
| `initializer_factor` | | 1.0 | yes | scale on every initial weight |
| `tie_embeddings` | | true | yes | output projection shares the embedding |

## Training
| name | aliases | default | search | what it does |
|---|---|---|---|---|
| `learning_rate` | | 1e-4 | yes | peak step size; documented range 1e-7 … 1e-3 |
| `batch_size` | | 12 | yes | sequences per optimizer step (micro-batched when memory is short, same result) |
| `max_iters` | `training_steps`, `max_steps` | from the budget | yes | optimizer steps |
| `num_epochs` | | – | yes | passes over the training text; an alternative to `max_iters` |
| `optimizer` | | `adamw` | yes | `adamw`, `adam`, `sgd`, `muon`, `adafactor`, `lion` (torch's own wherever it has one) |
| `beta1`, `beta2`, `adam_epsilon`, `momentum` | | 0.9, 0.999, 1e-8, 0.9 | yes | the optimizer's own settings; refused where the optimizer has no such setting |
| `ce_loss_weight` | | 1.0 | yes | weight of the token cross-entropy |
| `attention_loss_weight` | | 0.0 | yes | weight of an attention-entropy penalty (keeps heads from collapsing) |
| `z_loss_weight` | | 0.0 | yes | weight of the squared log-partition penalty |
| `sentence_loss_weight` | | 0.0 | yes | `encoder` only: weight of the sentence-order head, the reason for `type_vocab_size` |
| `warmup_steps` | | 0 | yes | linear ramp of the learning rate |
| `lr_schedule` | | `cosine` | yes | `cosine`, `linear`, `constant`, `wsd` (warm-up, stable, decay) |
| `lr_decay_iters` | | = `max_iters` | yes | step at which the decay ends |
| `lr_decay_ratio` | | 0.1 | yes | final learning rate / peak |
| `eval_interval` | | from the budget | fixed | steps between evaluations, each a pruning point |
| `eval_iters` | | 20 | fixed | batches per evaluation; the same held-out batches for every trial of a study |
| `save_interval` | | = `eval_interval` | fixed | steps between checkpoints |
| `max_save_num` | | 2 | fixed | checkpoints kept per trial; the best is kept too |
| `save_dir` | | in the study's folder | fixed | where checkpoints go |
| `log_interval` | | 10 | fixed | steps between training log lines |
| `log_file` | | in the trial's folder | fixed | structured log, one JSON object a line |
| `log_file_level` | | `info` | fixed | `debug`, `info`, `warning`, `error` |
| `seed` | | 0 | fixed | seed of everything random in a trial |

## Regularisation
| name | aliases | default | search | what it does |
|---|---|---|---|---|
| `dropout` | `dropout_rate` | 0.1 | yes | the default of the two below, and of the embedding dropout |
| `hidden_dropout_prob` | | = `dropout` | yes | dropout on each sub-layer's output |
| `attention_probs_dropout_prob` | | = `dropout` | yes | dropout on the attention probabilities |
| `weight_decay` | | 0.01 | yes | decoupled decay of matrices only (not biases, norms); L2 for `sgd` and `adam` |
| `grad_clip` | `gradient_clipping_threshold`, `max_grad_norm` | 1.0 | yes | global gradient-norm clip; 0 turns it off |

## Generation
| name | aliases | default | search | what it does |
|---|---|---|---|---|
| `temperature` | | 1.0 | see below | softmax temperature while sampling; 0 is greedy |
| `top_k`, `top_p` | | off | see below | truncation while sampling |
| `num_samples` | | 1 | fixed | texts sampled per prompt |
| `max_new_tokens` | `max_generation_length` | 200 | fixed | longest text sampled |
"""  # noqa: E501
"""The tables of the document, word for word."""

SMALL: dict[str, Any] = {
    "d_model": 16,
    "d_ff": 32,
    "num_heads": 2,
    "num_layers": 1,
    "context_length": 16,
    "batch_size": 4,
    "max_iters": 12,
    "eval_interval": 4,
    "eval_iters": 1,
    "log_interval": 3,
    "learning_rate": 3e-3,
    "max_new_tokens": 8,
}
"""A run of a moment: 12 steps, 3 evaluations."""

CPU = torch.device("cpu")
WORDS = "the a model learns text from bytes and tokens of long short lines with some noise it reads then writes"


@dataclass(frozen=True)
class Documented:
    """One hyperparameter as the document has it."""

    name: str
    aliases: tuple[str, ...]
    default: Any
    """None where it is off or a place; the document's words where another value is taken (`= d_model`)."""
    search: str


def documented() -> list[Documented]:
    """The rows of DOCUMENT, in its order."""
    found = []
    for line in DOCUMENT.splitlines():
        if line.startswith("| `"):
            first, aliases, default, search = (cell.strip() for cell in line.split("|")[1:5])
            names, defaults = _words(first), default.split(", ")
            for name, written in zip(names, defaults if len(defaults) > 1 else defaults * len(names), strict=True):
                found.append(Documented(name, tuple(_words(aliases)), _default(written), search))
    return found


def _words(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def _default(written: str) -> Any:
    if written in ("–", "off") or written.startswith("in the "):
        return None
    word = written.replace("`", "")
    try:
        return json.loads(word)
    except ValueError:
        return word


@dataclass
class Lab:
    """Where runs take place: a small text, a cache and an empty folder."""

    text: Path
    cache: Path
    folder: Path

    def side(self, settings: Mapping[str, Any], tokenizer: str = "bytes") -> Side:
        return Side(self, dict(settings), tokenizer)

    def data(self, tokenizer: str) -> DataConfig:
        return DataConfig.model_validate({"text": str(self.text), "tokenizer": tokenizer, "validation": 0.1})


@dataclass
class Side:
    """One of the configs that a row compares: its model, its batches, and its run, each made when it is asked for."""

    lab: Lab
    settings: dict[str, Any]
    tokenizer: str

    def but(self, **settings: Any) -> Side:
        """The same with some settings changed."""
        return Side(self.lab, self.settings | settings, self.tokenizer)

    @cached_property
    def corpus(self) -> Corpus:
        return open_corpus(
            self.lab.data(self.tokenizer),
            vocab_size=self.settings.get("vocab_size", 300),
            architecture=self.settings.get("architecture", "decoder"),
            cache_dir=self.lab.cache,
        )

    @cached_property
    def config(self) -> TrialConfig:
        return TrialConfig.build(SMALL | {"vocab_size": self.corpus.tokenizer.vocab_size} | self.settings)

    @cached_property
    def model(self) -> Transformer:
        """As it starts, in evaluation mode."""
        return Transformer(self.config).eval()

    @property
    def decoder(self) -> Any:
        return self.model.decoder

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weights.shape) for name, weights in self.start.items()}

    @cached_property
    def start(self) -> dict[str, Tensor]:
        """The initial weights."""
        return {name: weights.clone() for name, weights in self.model.state_dict().items()}

    def depth(self, stack: str) -> int:
        """Blocks of `encoder` or `decoder`."""
        return len({name.split(".")[2] for name in self.shapes if name.startswith(f"{stack}.blocks.")})

    @cached_property
    def batch(self) -> Batch:
        """The first training batch."""
        return train_batch(self.corpus, self.config, 0)

    def output(self, batch: Batch | None = None) -> ModelOutput:
        with torch.no_grad():
            found: ModelOutput = self.model(batch or self.batch)
        return found

    def losses(self) -> Losses:
        """Of the first batch under the initial weights, without dropout."""
        return loss_terms(self.output(), self.batch, self.config)

    @cached_property
    def gradient(self) -> dict[str, Tensor]:
        """Of the first batch's loss at the initial weights, without dropout."""
        model = Transformer(self.config).eval()
        backward(model, self.batch, self.config, 1, CPU)
        return {name: weights.grad for name, weights in model.named_parameters() if weights.grad is not None}

    @cached_property
    def folder(self) -> Path:
        return self.lab.folder / f"run-{len(list(self.lab.folder.iterdir()))}"

    @cached_property
    def run(self) -> tuple[list[Event], TrainResult]:
        """The real training loop, to its end."""
        self.folder.mkdir(exist_ok=True)
        events: list[Event] = []
        run = train(self.config, self.corpus, self.folder)
        while True:
            try:
                events.append(next(run))
            except StopIteration as stop:
                return events, stop.value

    @property
    def result(self) -> TrainResult:
        return self.run[1]

    @property
    def points(self) -> list[EvalPoint]:
        return [event for event in self.run[0] if isinstance(event, EvalPoint)]

    @property
    def progress(self) -> list[Progress]:
        return [event for event in self.run[0] if isinstance(event, Progress)]

    @property
    def saved(self) -> list[CheckpointSaved]:
        return [event for event in self.run[0] if isinstance(event, CheckpointSaved)]

    @property
    def rates(self) -> list[float]:
        """The learning rate of every step (with a log_interval of 1)."""
        assert self.config.log_interval == 1
        return [event.learning_rate for event in self.progress]

    def log(self, name: str = "log.jsonl") -> list[dict[str, Any]]:
        assert self.result
        return [json.loads(line) for line in (self.folder / name).read_text("utf-8").splitlines()]

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The newest one of the run."""
        assert self.result
        return load_checkpoint(CheckpointStore(self.folder / "checkpoints", 99).paths()[0])

    @property
    def moved(self) -> dict[str, Tensor]:
        """How far the run took each weight."""
        return {name: weights - self.start[name] for name, weights in self.checkpoint["model"].items()}

    def moment(self, name: str) -> Tensor:
        """The optimizer's state of that name after the run, of all weights in one vector."""
        state = self.checkpoint["optimizers"][0]["state"]
        return torch.cat([state[index][name].flatten() for index in sorted(state)])

    @cached_property
    def trained(self) -> Transformer:
        assert self.result
        model = Transformer(self.config)
        model.load_state_dict(self.checkpoint["model"])
        return model.eval()

    def write(self, prompt: str = "The ", seed: int = 0) -> list[str]:
        """What the trained model writes with the config's generation settings."""
        return generate(self.trained, self.corpus.tokenizer, prompt, seed=seed)

    def likeliest_ranks(self, text: str) -> list[tuple[int, float]]:
        """For each token of `text` but the first: its rank (from 0), and the probability of all likelier tokens."""
        ids = torch.from_numpy(self.corpus.tokenizer.encode(text)).long()
        found = []
        for end in range(1, len(ids)):
            window_1T = ids[max(0, end - self.config.context_length) : end][None]
            with torch.no_grad():
                p_V = self.trained(decoder_batch(window_1T)).logits_BTV[0, -1].softmax(-1)
            likelier = p_V > p_V[ids[end]]
            found.append((int(likelier.sum()), float(p_V[likelier].sum())))
        return found


def decoder_batch(inputs_BT: Tensor) -> Batch:
    return Batch(inputs_BT=inputs_BT, targets_BT=inputs_BT, bytes_BT=torch.ones_like(inputs_BT))


def text() -> str:
    """About 46 KB of English words, the same on every machine."""
    chance, words = random.Random(0), WORDS.split()
    lines = (" ".join(chance.choices(words, weights=range(len(words), 0, -1), k=chance.randint(3, 12))) for _ in range(1200))
    return "".join(f"{line.capitalize()}.\n" for line in lines)


Check = Callable[..., None]
"""Gets one side for each value of a row, and fails where they do not differ as the document says."""


@dataclass(frozen=True)
class Row:
    """A hyperparameter's proof: sides that differ in it alone, and what must differ between them."""

    values: tuple[Any, ...]
    check: Check
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Settings of all sides."""
    tokenizer: str = "bytes"


def space_of(lab: Lab, parameters: Mapping[str, Any], *, objective: str, tokenizer: str = "bytes") -> SearchSpace:
    """A space with these parameters beside what they need: something that is searched, and a budget."""
    given = {canonical_name(name) for name in parameters}
    beside = {name: value for name, value in SMALL.items() if name not in given and name not in ("max_iters", "eval_interval")}
    if "learning_rate" not in given:
        beside["learning_rate"] = {"low": 1e-4, "high": 1e-2, "log": True}
    content: dict[str, Any] = {
        "name": "rows",
        "objective": objective,
        "data": lab.data(tokenizer).model_dump(mode="json"),
        "parameters": beside | dict(parameters),
    }
    if "eval_interval" in given:
        content["budget"] = {"max_iters": SMALL["max_iters"]}
    elif not given & {"max_iters", "num_epochs"}:
        content["budget"] = {"tokens": 64 * SMALL["max_iters"], "evaluations": 3}
    return parse_space(json.dumps(content), "rows.yaml")

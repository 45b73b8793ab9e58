"""A small text and small configs, and a driver that runs the loop to its end."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.corpus import Corpus, open_corpus
from hpsearch.training.checkpoints import CheckpointStore, load_checkpoint
from hpsearch.training.events import Answer, EvalPoint, Event, TrainResult
from hpsearch.training.loop import train

WORDS = "the a model learns text from bytes and tokens of long short lines with some noise it reads then writes"


def fixed_text() -> str:
    """About 46 KB of English words in a random order that no machine changes."""
    chance, words = random.Random(0), WORDS.split()
    lines = (" ".join(chance.choices(words, weights=range(len(words), 0, -1), k=chance.randint(3, 12))) for _ in range(1200))
    return "".join(f"{line.capitalize()}.\n" for line in lines)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataConfig, Path]:
    folder = tmp_path_factory.mktemp("text")
    (folder / "fixed.txt").write_text(fixed_text(), "utf-8")
    return DataConfig(text=str(folder / "fixed.txt"), tokenizer="bytes", validation=0.1), folder / "cache"


@pytest.fixture(scope="session")
def corpora(data: tuple[DataConfig, Path]) -> Callable[[str], Corpus]:
    def corpus(architecture: str) -> Corpus:
        return open_corpus(data[0], vocab_size=256, architecture=architecture, cache_dir=data[1])

    return corpus


@pytest.fixture(scope="session")
def corpus(corpora: Callable[[str], Corpus]) -> Corpus:
    return corpora("decoder")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Runs:
    """Drives the loop over the small text."""

    def __init__(self, corpora: Callable[[str], Corpus]) -> None:
        self.corpora = corpora

    def config(self, architecture: str = "decoder", **settings: Any) -> TrialConfig:
        """A run of 12 steps with 3 evaluations."""
        return TrialConfig.build(
            {
                "architecture": architecture,
                "vocab_size": self.corpora(architecture).tokenizer.vocab_size,
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
                **settings,
            }
        )

    def start(self, config: TrialConfig, folder: Path, **options: Any) -> Generator[Event, Answer | None, TrainResult]:
        return train(config, self.corpora(config.architecture), folder, **options)

    def finish(
        self, config: TrialConfig, folder: Path, answers: dict[int, Answer] | None = None, **options: Any
    ) -> tuple[list[Event], TrainResult]:
        """Run to the end; `answers` is what to say to which event (from 0), CONTINUE elsewhere."""
        run = self.start(config, folder, **options)
        events: list[Event] = []
        answer: Answer | None = None
        while True:
            try:
                events.append(run.send(answer))
            except StopIteration as end:
                return events, end.value
            answer = (answers or {}).get(len(events) - 1, Answer.CONTINUE)

    def leave(self, config: TrialConfig, folder: Path, count: int, **options: Any) -> list[Event]:
        """Take `count` events, then drop the run without an answer, as a killed process does."""
        run = self.start(config, folder, **options)
        events = [next(run) for _ in range(count)]
        run.close()
        return events

    @staticmethod
    def points(events: list[Event]) -> list[dict[str, Any]]:
        """The evaluations without what the clock said."""
        kept = [name for name in EvalPoint.__dataclass_fields__ if name not in ("seconds", "tokens_per_s")]
        return [{name: getattr(event, name) for name in kept} for event in events if isinstance(event, EvalPoint)]

    @staticmethod
    def weights(folder: Path) -> str:
        """sha256 of the weights in the newest checkpoint."""
        state = load_checkpoint(CheckpointStore(folder / "checkpoints", 99).paths()[0])["model"]
        return hashlib.sha256(b"".join(name.encode() + state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


@pytest.fixture(scope="session")
def runs(corpora: Callable[[str], Corpus]) -> Runs:
    return Runs(corpora)

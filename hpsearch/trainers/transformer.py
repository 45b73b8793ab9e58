"""Trainers that a slot can run. Imported inside slots only: this is where torch comes in."""

from __future__ import annotations

from collections.abc import Generator

from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.corpus import open_corpus
from hpsearch.errors import DataError
from hpsearch.execution.protocol import TrialTask
from hpsearch.training.events import Answer, Event, TrainResult
from hpsearch.training.heartbeat import beat
from hpsearch.training.loop import train


def transformer(task: TrialTask) -> Generator[Event, Answer, TrainResult]:
    """The compact transformer on the study's text.

    Raises DataError when the text is no longer the one that the study began with, ConfigError when the vocabulary is not its.
    """
    config = TrialConfig.build(task.config)
    corpus = open_corpus(
        DataConfig.model_validate(task.data),
        vocab_size=config.vocab_size,
        architecture=config.architecture,
        cache_dir=task.cache_dir,
    )
    if task.data_fingerprint and corpus.data_fingerprint != task.data_fingerprint:
        raise DataError(
            f"the text changed since the study began (fingerprint {corpus.data_fingerprint[:12]}, "
            f"was {task.data_fingerprint[:12]}); bring the old text back or start another study"
        )
    corpus.require_vocabulary(config.vocab_size)
    beat()  # Reading a long text for the first time takes minutes, and is over.
    return (
        yield from train(
            config,
            corpus,
            task.folder,
            device=task.device,
            threads=task.threads,
            objectives=task.objectives,
            micro_batches=task.micro_batches,
            branch_rungs=task.branch_rungs,
            known_rungs=task.known_rungs,
            expected_iteration=task.from_iteration,
            checkpoints=task.checkpoints,
        )
    )

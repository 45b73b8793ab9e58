"""One config trained by itself, outside any study, and text from the weights that it left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.corpus import open_corpus
from hpsearch.errors import BadInput, DataError
from hpsearch.training.checkpoints import CheckpointStore, checkpoint_folder
from hpsearch.training.events import EvalPoint, Outcome, TrainResult, Warned
from hpsearch.training.generation import Sampling, generate
from hpsearch.training.loop import train
from hpsearch.training.weights import export_weights, load_model


def train_config(
    config: TrialConfig,
    data: DataConfig,
    folder: Path,
    *,
    cache_dir: Path,
    device: str,
    threads: int,
    fingerprint: str = "",
    say: Callable[[str], None],
) -> TrainResult:
    """Train `config` and leave weights, tokenizer, log and sample in `folder`; goes on from a checkpoint that is there.

    fingerprint: of the text that is expected; empty where any will do. say: gets a line for each evaluation.
    Raises DataError for another text, BadInput when the run diverges.
    """
    corpus = open_corpus(data, vocab_size=config.vocab_size, architecture=config.architecture, cache_dir=cache_dir)
    if fingerprint and corpus.data_fingerprint != fingerprint:
        raise DataError(
            f"the text is not the one that this config was found on (fingerprint {corpus.data_fingerprint[:12]}, "
            f"expected {fingerprint[:12]}); name the text to train on with --data"
        )
    config = config.model_copy(update={"vocab_size": corpus.tokenizer.vocab_size})
    corpus.require(config.context_length, config.eval_iters)
    run = train(config, corpus, folder, device=device, threads=threads)
    try:
        while True:
            match next(run):
                case EvalPoint() as point:
                    measured = ", ".join(f"{name} {value:.4f}" for name, value in point.metrics.items())
                    say(f"step {point.iteration}/{config.max_iters}: {measured} ({point.tokens_per_s:,.0f} tokens/s)")
                case Warned(message):
                    say(message)
    except StopIteration as stop:
        result: TrainResult = stop.value
    finally:
        run.close()
    if result.outcome is Outcome.DIVERGED:
        raise BadInput(f"the run diverged: {result.reason}; try a smaller learning_rate")
    newest = CheckpointStore(checkpoint_folder(config, folder), config.max_save_num).paths()[0]
    export_weights(config, newest, corpus.tokenizer, folder)
    return result


def generate_from(
    folder: Path, prompts: Sequence[str], given: Mapping[str, Any], *, seed: int, device: str
) -> list[tuple[str, list[str]]]:
    """Texts for each prompt from the weights in `folder`. given: generation settings that replace the config's."""
    config, model, tokenizer = load_model(folder, device)
    settings = replace(Sampling.of(config), **{name: value for name, value in given.items() if value is not None})
    return [(prompt, generate(model, tokenizer, prompt, settings=settings, seed=seed)) for prompt in prompts]

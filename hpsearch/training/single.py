"""One config trained by itself, outside any study, and text from the weights that it left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpsearch.config import DataConfig, TrialConfig, canonical
from hpsearch.data.corpus import Corpus, open_corpus
from hpsearch.errors import ConfigError, DataError, NoTrialSucceeded
from hpsearch.training import heartbeat
from hpsearch.training.checkpoints import CheckpointStore
from hpsearch.training.events import Answer, EvalPoint, Outcome, TrainResult, Warned
from hpsearch.training.generation import Sampling, generate
from hpsearch.training.kept import checkpoint_folder, is_ours
from hpsearch.training.loop import train
from hpsearch.training.memory import machine_memory, require_memory
from hpsearch.training.schedules import steps_for_epochs
from hpsearch.training.weights import export_weights, load_model


def train_config(
    settings: Mapping[str, Any],
    data: DataConfig,
    folder: Path,
    *,
    cache_dir: Path,
    device: str,
    threads: int,
    fingerprint: str = "",
    objectives: Sequence[str] = (),
    say: Callable[[str], None],
    asked: Callable[[], Answer] = lambda: Answer.CONTINUE,
    checkpoints: Path | None = None,
    log_file: Path | None = None,
    begin: Callable[[], object] = lambda: None,
) -> TrainResult:
    """Train one config and leave weights, tokenizer, log and sample in `folder`; goes on from a checkpoint that is there.

    settings: hyperparameters as `TrialConfig.build` takes them, with max_iters or num_epochs. fingerprint: of the text that
    is expected; empty where any will do. objectives: what must be among the metrics. say: gets a line for each evaluation.
    asked: called at each step; at PAUSE the run leaves a checkpoint, and returns without having exported anything.
    checkpoints, log_file: where a person's command says that they go, in place of what the config says.
    begin: called when all is known to be right, before anything is written.
    Raises DataError for another text, ConfigError for a vocabulary that is not the text's and for what can never fit into
    memory, NoTrialSucceeded when the run diverges.
    """
    draft = TrialConfig.build({"max_iters": 1} | canonical(settings))
    corpus = open_corpus(data, vocab_size=draft.vocab_size, architecture=draft.architecture, cache_dir=cache_dir)
    if fingerprint and corpus.data_fingerprint != fingerprint:
        raise DataError(
            f"the text is not the one that this config was found on (fingerprint {corpus.data_fingerprint[:12]}, "
            f"expected {fingerprint[:12]}); name the text to train on with --data"
        )
    corpus.require(draft.context_length, draft.eval_iters)
    for told in corpus.split.notes:
        say(told)
    given = canonical(settings)
    if "vocab_size" in given:
        corpus.require_vocabulary(draft.vocab_size)
    config = _on(corpus, given, draft)
    if device == "cpu":
        require_memory(config, machine_memory())
    begin()
    run = train(
        config,
        corpus,
        folder,
        device=device,
        threads=threads,
        objectives=objectives,
        checkpoints=checkpoints,
        log_file=log_file,
    )
    with heartbeat.listening(asked), contextlib.closing(run):
        try:
            event = next(run)
            while True:
                match event:
                    case EvalPoint() as point:
                        measured = ", ".join(f"{name} {value:.4f}" for name, value in point.metrics.items())
                        say(f"step {point.iteration}/{config.max_iters}: {measured} ({point.tokens_per_s:,.0f} tokens/s)")
                    case Warned(message):
                        say(message)
                event = run.send(asked())
        except StopIteration as stop:
            result: TrainResult = stop.value
    if result.outcome is Outcome.DIVERGED:
        raise NoTrialSucceeded(f"the run diverged: {result.reason}; try a smaller learning_rate")
    if result.outcome is not Outcome.COMPLETE:
        return result
    saved = CheckpointStore(checkpoint_folder(config.save_dir, folder, checkpoints), config.max_save_num).paths()
    newest = next(path for path in saved if is_ours(path))
    export_weights(config, newest, corpus.tokenizer, folder)
    return result


def _on(corpus: Corpus, settings: Mapping[str, Any], draft: TrialConfig) -> TrialConfig:
    """The config on this text: its vocabulary, and the steps that num_epochs means."""
    steps = settings.get("max_iters")
    if draft.num_epochs is not None:
        windows = corpus.windows_per_pass(draft.context_length)
        needed = steps_for_epochs(draft.num_epochs, windows, draft.batch_size)
        if steps not in (None, needed):
            raise ConfigError(
                "num_epochs", f"num_epochs {draft.num_epochs} is {needed} steps of this text and max_iters is {steps}; keep one"
            )
        steps = needed
    return TrialConfig.build(dict(settings) | {"max_iters": steps, "vocab_size": corpus.tokenizer.vocab_size})


def generate_from(
    folder: Path, prompts: Sequence[str], given: Mapping[str, Any], *, seed: int, device: str
) -> list[tuple[str, list[str]]]:
    """Texts for each prompt from the weights in `folder`. given: generation settings that replace the config's."""
    config, model, tokenizer = load_model(folder, device)
    settings = replace(Sampling.of(config), **{name: value for name, value in given.items() if value is not None})
    return [(prompt, generate(model, tokenizer, prompt, settings=settings, seed=seed)) for prompt in prompts]

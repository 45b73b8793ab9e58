"""The model that a finished trial left in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpsearch.config import DataConfig, TrialConfig, canonical
from hpsearch.data.corpus import open_corpus
from hpsearch.data.tokenizer import Tokenizer
from hpsearch.errors import BadInput, DataError
from hpsearch.model.transformer import Transformer
from hpsearch.scratch import temporary_folder
from hpsearch.training.kept import checkpoint_folder, step_name
from hpsearch.training.weights import export_weights, load_model


def trial_model(
    settings: Mapping[str, Any],
    data: DataConfig,
    fingerprint: str,
    folder: Path,
    *,
    iteration: int,
    cache_dir: Path,
    checkpoints: Path | None = None,
) -> tuple[TrialConfig, Transformer, Tokenizer]:
    """The weights of the trial in `folder` after its last step, `iteration`, in evaluation mode.

    checkpoints: where a person's command says that they are, in place of what the config says.
    Its tokenizer comes from the text, which must still be the one of `fingerprint`. Raises BadInput where the weights are
    gone or damaged, DataError where the text is another one, ConfigError where its vocabulary is.
    """
    config = TrialConfig.build(canonical(settings))
    place = checkpoint_folder(config.save_dir, folder, checkpoints)
    saved = place / step_name(iteration)
    if not saved.exists():
        raise BadInput(
            f"{place}: the weights of step {iteration} are not there; train them again with `hpsearch export --out best.yaml` "
            "and `hpsearch train --config best.yaml --out model`, then `hpsearch export --format hf --model model`; those of a "
            "study with --checkpoints-dir need that option here too"
        )
    corpus = open_corpus(data, vocab_size=config.vocab_size, architecture=config.architecture, cache_dir=cache_dir)
    if corpus.data_fingerprint != fingerprint:
        raise DataError(
            f"the text is not the one that this trial was trained on (fingerprint {corpus.data_fingerprint[:12]}, "
            f"expected {fingerprint[:12]}), so its tokenizer cannot be made again; bring the old text back"
        )
    corpus.require_vocabulary(config.vocab_size)
    with temporary_folder("model") as copy:
        export_weights(config, saved, corpus.tokenizer, copy)
        return load_model(copy)

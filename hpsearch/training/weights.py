"""A trained model as three files in a folder: `model.safetensors`, `config.json`, `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from hpsearch.config import DataConfig, TrialConfig, canonical
from hpsearch.data.corpus import open_corpus
from hpsearch.data.tokenizer import Tokenizer
from hpsearch.errors import BadInput, ConfigError, DataError
from hpsearch.files import write_atomically
from hpsearch.model.transformer import Transformer
from hpsearch.scratch import temporary_folder
from hpsearch.training.checkpoints import DamagedCheckpoint, load_checkpoint, safetensors_of
from hpsearch.training.kept import checkpoint_folder, step_name
from hpsearch.training.memory import disk_stops

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def export_weights(config: TrialConfig, source: Transformer | Path, tokenizer: Tokenizer, folder: Path) -> Path:
    """Write what `load_model` needs into `folder`, and return the path of the weights.

    source: the model, a checkpoint (`.pt`, checked against its checksum), or `best.safetensors`. Raises BadInput for a
    damaged file and StoppedForNow when the disk is full.
    """
    weights = dict(source.state_dict()) if isinstance(source, Transformer) else _read(source)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    path = folder / WEIGHTS
    with disk_stops(path, folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, safetensors_of(weights, {"format": "pt"}))
        write_atomically(folder / CONFIG, (json.dumps(config.concrete(), indent=2) + "\n").encode())
        tokenizer.save(folder)
    return path


def load_model(folder: Path, device: str = "cpu") -> tuple[TrialConfig, Transformer, Tokenizer]:
    """The model that `export_weights` wrote, in evaluation mode. Raises BadInput when a file is missing or does not fit."""
    try:
        config = TrialConfig.build(json.loads((folder / CONFIG).read_text("utf-8")))
        model = Transformer(config)
        model.load_state_dict(_read(folder / WEIGHTS))
    except FileNotFoundError as error:
        raise BadInput(f"{error.filename}: no such file; give the folder that `hpsearch train --out` wrote") from None
    except ConfigError as error:
        raise BadInput(f"{folder / CONFIG}: {error}") from None
    except (ValueError, AttributeError):
        raise BadInput(f"{folder / CONFIG}: not the config of a model; train it again") from None
    except RuntimeError:
        raise BadInput(f"{folder / WEIGHTS}: the weights do not fit {CONFIG} beside them; train the model again") from None
    return config, model.to(device).eval(), Tokenizer.load(folder)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".pt":
        try:
            weights: dict[str, Tensor] = load_checkpoint(path)["model"]
        except DamagedCheckpoint as error:
            raise BadInput(f"{error}") from None
        return weights
    try:
        return safetensors.torch.load(path.read_bytes())
    except SafetensorError as error:
        raise BadInput(f"{path}: no weights, or damaged ones ({error}); train the model again") from None


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

"""A trained model as three files in a folder: `model.safetensors`, `config.json`, `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from hpsearch.config import TrialConfig
from hpsearch.data.tokenizer import Tokenizer
from hpsearch.errors import BadInput, ConfigError
from hpsearch.files import write_atomically
from hpsearch.model.transformer import Transformer
from hpsearch.training.checkpoints import DamagedCheckpoint, load_checkpoint, safetensors_of
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

"""Weights that leave a run and come back as a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.errors import BadInput
from hpsearch.training.checkpoints import CheckpointStore
from hpsearch.training.generation import generate
from hpsearch.training.weights import export_weights, load_model


@pytest.fixture
def exported(runs: Any, tmp_path: Path) -> tuple[Path, Path]:
    """A finished run's folder, and the folder that its weights were exported to."""
    config = runs.config()
    runs.finish(config, tmp_path / "run")
    (newest, *_) = CheckpointStore(tmp_path / "run" / "checkpoints", 9).paths()
    export_weights(config, newest, runs.corpora("decoder").tokenizer, tmp_path / "out")
    return tmp_path / "run", tmp_path / "out"


def test_a_loaded_model_is_the_trained_one(runs: Any, exported: tuple[Path, Path]) -> None:
    run, out = exported
    config, model, tokenizer = load_model(out)
    assert config == runs.config()
    trained = torch.load(CheckpointStore(run / "checkpoints", 9).paths()[0], weights_only=True)["model"]
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    sample = (run / "sample.txt").read_text()
    assert generate(model, tokenizer, sample[:8], seed=0)[0].startswith(sample[:8])


def test_a_model_can_be_exported_itself_and_from_the_best(runs: Any, exported: tuple[Path, Path], tmp_path: Path) -> None:
    run, out = exported
    config, model, tokenizer = load_model(out)
    export_weights(config, model, tokenizer, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    export_weights(config, run / "checkpoints" / "best.safetensors", tokenizer, tmp_path / "best")
    assert load_model(tmp_path / "best")[0] == config


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_every_architecture_comes_back(runs: Any, tmp_path: Path, architecture: str) -> None:
    from hpsearch.model.transformer import Transformer

    config = runs.config(architecture)
    tokenizer = runs.corpora(architecture).tokenizer
    export_weights(config, Transformer(config), tokenizer, tmp_path)
    loaded_config, model, loaded = load_model(tmp_path)
    assert loaded_config == config
    assert loaded.specials == tokenizer.specials
    assert "<mask>" not in generate(model, loaded, "a <mask> b")[0]


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


def cut_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:-20])


def other_shape(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"d_model": 32, "embedding_dim": 32}))


def unknown_name(folder: Path) -> None:
    (folder / "config.json").write_text('{"max_iters": 1, "learning_rte": 1}')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_weights, "model.safetensors: no such file"),
        (remove_config, "config.json: no such file"),
        (remove_tokenizer, "tokenizer.json: no such file"),
        (cut_weights, "model.safetensors: no weights, or damaged ones"),
        (cut_config, "config.json: not the config of a model"),
        (other_shape, "the weights do not fit config.json"),
        (unknown_name, "did you mean 'learning_rate'"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(
    exported: tuple[Path, Path], damage: Callable[[Path], None], said: str
) -> None:
    damage(exported[1])
    with pytest.raises(BadInput) as refused:
        load_model(exported[1])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_damaged_checkpoint_is_not_exported(runs: Any, exported: tuple[Path, Path], tmp_path: Path) -> None:
    (newest, *_) = CheckpointStore(exported[0] / "checkpoints", 9).paths()
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(BadInput, match="damaged"):
        export_weights(runs.config(), newest, runs.corpora("decoder").tokenizer, tmp_path / "never")

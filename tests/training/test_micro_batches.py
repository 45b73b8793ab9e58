"""Batches in parts when memory is short."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.model.counting import activation_bytes, count
from hpsearch.training import device as devices
from hpsearch.training.checkpoints import CheckpointStore, load_checkpoint
from hpsearch.training.events import Answer, Warned

CPU = torch.device("cpu")
Short = Callable[..., None]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Short:
    """Let the machine have room for a model and so many of its sequences."""

    def set_to(config: Any, sequences: float) -> None:
        activations = activation_bytes(config)
        needed = count(config).memory_bytes - activations + sequences * activations / config.batch_size
        monkeypatch.setattr(devices, "free_memory", lambda device: round(needed / devices.MEMORY_SHARE) + 1)

    return set_to


def start_line(folder: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found: dict[str, Any] = [line for line in lines if line["event"] == "start"][-1]
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(CheckpointStore(folder / "checkpoints", 99).paths()[0])["model"]
    return found


@pytest.mark.parametrize(("sequences", "parts"), [(13, 1), (12, 1), (11, 2), (6, 2), (5.9, 3), (4, 3), (1, 12), (0.3, 12)])
def test_the_fewest_parts_that_fit_are_taken(runs: Any, memory: Short, sequences: float, parts: int) -> None:
    config = runs.config(batch_size=12)
    memory(config, sequences)
    assert devices.micro_batches_for(config, count(config), CPU) == parts


def test_even_the_weights_may_not_fit(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_memory", lambda device: 0)
    config = runs.config(batch_size=7)
    assert devices.micro_batches_for(config, count(config), CPU) == 7


def test_free_memory_is_that_of_this_machine() -> None:
    assert 2**20 < devices.free_memory(CPU) < 2**50


@pytest.mark.parametrize("architecture", ["decoder", "encoder", "encoder_decoder"])
def test_a_run_in_unequal_parts_gives_the_weights_of_the_whole_batches(
    runs: Any, memory: Short, tmp_path: Path, architecture: str
) -> None:
    config = runs.config(architecture, dropout=0.0, batch_size=7, optimizer="sgd", learning_rate=0.1)
    events, _ = runs.finish(config, tmp_path / "whole")
    assert not [event for event in events if isinstance(event, Warned)]
    assert start_line(tmp_path / "whole")["micro_batches"] == 1
    memory(config, 3)
    events, _ = runs.finish(config, tmp_path / "parts")
    assert [event.message for event in events if isinstance(event, Warned)] == [
        "batches of 7 are computed in 3 parts: memory is short"
    ]
    assert start_line(tmp_path / "parts")["micro_batches"] == 3
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sequences_later", [100, 2, 1])
def test_a_resumed_run_keeps_its_parts_unless_memory_is_shorter(
    runs: Any, memory: Short, tmp_path: Path, sequences_later: int
) -> None:
    config = runs.config(dropout=0.1)
    memory(config, 2)
    runs.finish(config, tmp_path / "undisturbed")
    events, _ = runs.finish(config, tmp_path / "left", {3: Answer.PAUSE})
    memory(config, sequences_later)
    events, _ = runs.finish(config, tmp_path / "left")
    assert start_line(tmp_path / "left")["micro_batches"] == (4 if sequences_later == 1 else 2)
    assert isinstance(events[0], Warned)
    same = runs.weights(tmp_path / "left") == runs.weights(tmp_path / "undisturbed")
    assert same == (sequences_later > 1)


def test_a_given_number_is_taken_without_a_warning(runs: Any, memory: Short, tmp_path: Path) -> None:
    config = runs.config()
    memory(config, 1)
    events, _ = runs.finish(config, tmp_path, micro_batches=2)
    assert start_line(tmp_path)["micro_batches"] == 2
    assert not [event for event in events if isinstance(event, Warned)]

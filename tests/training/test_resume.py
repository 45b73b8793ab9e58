"""A run that is killed, paused or damaged ends as the undisturbed one, bit for bit."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpsearch.config import DataConfig
from hpsearch.errors import StoppedForNow
from hpsearch.training.events import Answer, CheckpointSaved, EvalPoint, Outcome, Progress, Warned


def test_a_run_left_after_any_event_ends_as_the_undisturbed_one(runs: Any, tmp_path: Path) -> None:
    config = runs.config(dropout=0.2)
    undisturbed, _ = runs.finish(config, tmp_path / "whole")
    for count in range(1, len(undisturbed) + 1):
        folder = tmp_path / f"left-{count}"
        before = runs.leave(config, folder, count)
        after, result = runs.finish(config, folder)
        assert result.outcome is Outcome.COMPLETE
        assert result.metrics["val_bpb"] == undisturbed[-2].metrics["val_bpb"]
        assert runs.weights(folder) == runs.weights(tmp_path / "whole")
        # What was seen before and after covers the curve, and what was seen twice was the same.
        seen = {point["rung"]: point for point in runs.points(before)}
        again = {point["rung"]: point for point in runs.points(after)}
        whole = {point["rung"]: point for point in runs.points(undisturbed)}
        assert seen | again == whole
        assert again | seen == whole


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "muon", "adafactor", "lion"])
def test_every_optimizer_resumes_exactly(runs: Any, tmp_path: Path, optimizer: str) -> None:
    config = runs.config(optimizer=optimizer, dropout=0.1)
    runs.finish(config, tmp_path / "whole")
    runs.leave(config, tmp_path / "left", 6)
    runs.finish(config, tmp_path / "left")
    assert runs.weights(tmp_path / "left") == runs.weights(tmp_path / "whole")


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_every_architecture_resumes_exactly(runs: Any, tmp_path: Path, architecture: str) -> None:
    config = runs.config(architecture, dropout=0.1)
    undisturbed, _ = runs.finish(config, tmp_path / "whole")
    runs.leave(config, tmp_path / "left", 6)
    resumed, _ = runs.finish(config, tmp_path / "left")
    assert runs.weights(tmp_path / "left") == runs.weights(tmp_path / "whole")
    assert runs.points(resumed)[-1] == runs.points(undisturbed)[-1]


def test_an_evaluation_whose_checkpoint_was_written_is_not_repeated(runs: Any, tmp_path: Path) -> None:
    config = runs.config()
    events = runs.leave(config, tmp_path, 3)
    assert [type(event) for event in events] == [Progress, EvalPoint, CheckpointSaved]
    after, _ = runs.finish(config, tmp_path)
    assert [point["rung"] for point in runs.points(after)] == [2, 3]


def test_an_evaluation_without_its_checkpoint_is_repeated_identically(runs: Any, tmp_path: Path) -> None:
    config = runs.config()
    before = runs.leave(config, tmp_path, 2)
    after, _ = runs.finish(config, tmp_path)
    assert isinstance(before[-1], EvalPoint)
    assert runs.points(after)[0] == runs.points(before)[0]


@pytest.mark.parametrize("known", [0, 1, 2, 3])
def test_evaluations_that_nobody_kept_are_told_again_from_the_checkpoint(runs: Any, tmp_path: Path, known: int) -> None:
    config = runs.config(dropout=0.1)
    whole, _ = runs.finish(config, tmp_path / "whole")
    second = next(index for index, event in enumerate(whole) if isinstance(event, EvalPoint) and event.rung == 2)
    runs.leave(config, tmp_path / "left", second + 2)  # With its checkpoint.
    after, result = runs.finish(config, tmp_path / "left", known_rungs=known)
    assert runs.points(after) == runs.points(whole)[min(known, 2) :]
    assert result.iteration == 12
    assert runs.weights(tmp_path / "left") == runs.weights(tmp_path / "whole")


@pytest.mark.parametrize(("answer", "outcome"), [(Answer.PAUSE, Outcome.PAUSED), (Answer.STOP, Outcome.STOPPED)])
def test_an_evaluation_that_is_told_again_can_be_answered_as_ever(
    runs: Any, tmp_path: Path, answer: Answer, outcome: Outcome
) -> None:
    config = runs.config()
    whole, _ = runs.finish(config, tmp_path)
    events, result = runs.finish(config, tmp_path, {0: answer}, known_rungs=1)
    assert runs.points(events) == runs.points(whole)[1:2]
    assert result.outcome is outcome
    after, result = runs.finish(config, tmp_path, known_rungs=2)
    assert runs.points(after) == runs.points(whole)[2:]
    assert result.outcome is Outcome.COMPLETE


def test_a_finished_run_trains_and_evaluates_nothing_again(runs: Any, tmp_path: Path) -> None:
    config = runs.config()
    _, first = runs.finish(config, tmp_path)
    events, second = runs.finish(config, tmp_path)
    assert events == []
    assert second.outcome is Outcome.COMPLETE
    assert second.metrics == first.metrics
    assert second.sample == first.sample


def test_pause_at_any_event_saves_now_and_goes_on_later(runs: Any, tmp_path: Path) -> None:
    config = runs.config(dropout=0.2)
    undisturbed, _ = runs.finish(config, tmp_path / "whole")
    for index in range(len(undisturbed) - 1):
        folder = tmp_path / f"paused-{index}"
        events, result = runs.finish(config, folder, {index: Answer.PAUSE})
        assert result.outcome is Outcome.PAUSED
        saved = [event for event in events if isinstance(event, CheckpointSaved)][-1]
        assert saved.iteration == result.iteration
        after, result = runs.finish(config, folder)
        assert result.outcome is Outcome.COMPLETE
        assert runs.weights(folder) == runs.weights(tmp_path / "whole")
        assert runs.points(events) + runs.points(after) == runs.points(undisturbed)


def test_a_run_paused_at_every_event_still_arrives(runs: Any, tmp_path: Path) -> None:
    config = runs.config()
    runs.finish(config, tmp_path / "whole")
    for _ in range(20):
        _, result = runs.finish(config, tmp_path / "paused", {0: Answer.PAUSE})
        if result.outcome is Outcome.COMPLETE:
            break
    assert result.outcome is Outcome.COMPLETE
    assert runs.weights(tmp_path / "paused") == runs.weights(tmp_path / "whole")


def test_stop_returns_at_once_without_a_checkpoint(runs: Any, tmp_path: Path) -> None:
    events, result = runs.finish(runs.config(), tmp_path, {1: Answer.STOP})
    assert isinstance(events[-1], EvalPoint)
    assert result.outcome is Outcome.STOPPED
    assert result.iteration == 4
    assert result.metrics == events[-1].metrics
    assert list((tmp_path / "checkpoints").glob("*.pt")) == []


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(runs: Any, tmp_path: Path) -> None:
    config = runs.config(dropout=0.2)
    runs.finish(config, tmp_path / "whole")
    events = runs.leave(config, tmp_path / "hurt", 7)
    newest = Path([event for event in events if isinstance(event, CheckpointSaved)][-1].path)
    content = bytearray(newest.read_bytes())
    content[len(content) // 3] ^= 16
    newest.write_bytes(content)
    after, _ = runs.finish(config, tmp_path / "hurt")
    assert isinstance(after[0], Warned)
    assert newest.name in after[0].message
    assert [point["iteration"] for point in runs.points(after)] == [8, 12]
    assert runs.weights(tmp_path / "hurt") == runs.weights(tmp_path / "whole")
    assert '"level": "warning"' in (tmp_path / "hurt" / "log.jsonl").read_text()


def test_without_a_sound_checkpoint_it_starts_from_step_0(runs: Any, tmp_path: Path) -> None:
    config = runs.config()
    runs.finish(config, tmp_path / "whole")
    runs.leave(config, tmp_path / "hurt", 7)
    for path in (tmp_path / "hurt" / "checkpoints").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    after, _ = runs.finish(config, tmp_path / "hurt")
    assert [type(event) for event in after[:2]] == [Warned, Warned]
    assert [point["rung"] for point in runs.points(after)] == [1, 2, 3]
    assert runs.weights(tmp_path / "hurt") == runs.weights(tmp_path / "whole")


def test_pause_on_a_warning_trains_nothing(runs: Any, tmp_path: Path) -> None:
    config = runs.config()
    runs.leave(config, tmp_path, 3)
    (path,) = (tmp_path / "checkpoints").glob("*.pt")
    path.write_bytes(b"")
    events, result = runs.finish(config, tmp_path, {0: Answer.PAUSE})
    assert [type(event) for event in events] == [Warned, CheckpointSaved]
    assert (result.outcome, result.iteration) == (Outcome.PAUSED, 0)


def test_a_checkpoint_of_another_config_is_told_and_not_used(runs: Any, tmp_path: Path) -> None:
    runs.leave(runs.config(), tmp_path, 3)
    after, _ = runs.finish(runs.config(learning_rate=1e-3), tmp_path)
    assert isinstance(after[0], Warned)
    assert "another config" in after[0].message
    assert [point["rung"] for point in runs.points(after)] == [1, 2, 3]


def test_without_resume_old_checkpoints_are_removed(runs: Any, tmp_path: Path) -> None:
    config = runs.config()
    runs.finish(config, tmp_path)
    run = runs.start(config, tmp_path, resume=False)
    assert next(run).iteration == 3
    assert list((tmp_path / "checkpoints").iterdir()) == []
    run.close()


def test_a_full_disk_stops_for_now_and_the_run_goes_on_later(runs: Any, tmp_path: Path) -> None:
    config = runs.config(dropout=0.2)
    runs.finish(config, tmp_path / "whole")
    run = runs.start(config, tmp_path / "full")
    for _ in range(4):
        next(run)
    # The next event is the evaluation at step 8, the one after it would be its checkpoint.
    next(run)
    size = (tmp_path / "full" / "checkpoints" / "step-00000004.pt").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))  # As a quota on the disk.
    try:
        with pytest.raises(StoppedForNow, match="file too large"):
            next(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = sorted(path.name for path in (tmp_path / "full" / "checkpoints").iterdir())
    assert kept == ["best.safetensors", "step-00000004.pt", "step-00000004.pt.sha256"]
    after, _ = runs.finish(config, tmp_path / "full")
    assert [point["rung"] for point in runs.points(after)] == [2, 3]
    assert runs.weights(tmp_path / "full") == runs.weights(tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.corpus import open_corpus
from hpsearch.training.events import CheckpointSaved
from hpsearch.training.loop import train
data, config = DataConfig.model_validate_json(sys.argv[1]), TrialConfig.model_validate_json(sys.argv[2])
corpus = open_corpus(data, vocab_size=256, architecture="decoder", cache_dir=Path(sys.argv[3]))
for event in train(config, corpus, Path(sys.argv[4]), threads=1):
    if isinstance(event, CheckpointSaved) and event.iteration == 8:
        # The next file that is flushed belongs to the step-12 evaluation or checkpoint.
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_while_a_checkpoint_is_written(runs: Any, data: tuple[DataConfig, Path], tmp_path: Path) -> None:
    config = runs.config(dropout=0.2)
    runs.finish(config, tmp_path / "whole")
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, data[0].model_dump_json(), config.model_dump_json(), str(data[1]), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list((folder / "checkpoints").glob("*.hpsearch-tmp"))) == 1
    after, result = runs.finish(config, folder)
    assert result.outcome is Outcome.COMPLETE
    assert [point["rung"] for point in runs.points(after)] == [3]
    assert runs.weights(folder) == runs.weights(tmp_path / "whole")

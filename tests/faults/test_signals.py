"""Fault 10: SIGTERM and SIGINT to `hpsearch run` and `hpsearch train`."""

from __future__ import annotations

import hashlib
import json
import os
import signal

import psutil
import pytest
import steady
from cli import Cli
from databases import on
from invariants import assert_nothing_lost, snapshot
from steady import STUDY, attempts, checkpoints, saved, starts, trial
from waiting import wait_for

from hpsearch.cli.train import Pausing
from hpsearch.training.events import Answer

TWO = steady.words(2)

CONFIG = """\
data: {text: pydoc, tokenizer: bytes, validation: 0.1}
hyperparameters:
  {max_iters: 1500, eval_interval: 1500, save_interval: 1500, log_interval: 10, d_model: 16, num_heads: 2, num_layers: 1,
   d_ff: 32, context_length: 16, batch_size: 8, eval_iters: 2, max_new_tokens: 20, learning_rate: RATE}
"""
TRAIN = ("train", "--config", "config.yaml", "--out", "model", "--device", "cpu", "--threads", "1")


@on("storage_url", "sqlite")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_fault_10_a_signal_pauses_a_study_with_a_checkpoint_and_a_second_one_ends_it_at_once(
    cli: Cli, storage_url: str, number: signal.Signals, code: int
) -> None:
    steady.written(cli.folder)
    cli = cli.using(storage_url)
    running = cli.start(*TWO)
    wait_for(lambda: saved(storage_url, 0) > 0, running)
    os.killpg(running.pid, number)  # As a terminal does: the slots get it too.
    _, told = running.communicate(timeout=60)
    assert running.returncode == code, told
    assert f"study '{STUDY}' is paused; the same command goes on with it" in told
    assert "Traceback" not in told
    assert trial(storage_url, 0)["state"] == "paused"
    assert attempts(storage_url, 0)[-1]["outcome"] == "paused"
    assert cli.json("status")["owner"] is None
    paused_at = snapshot(storage_url, STUDY)
    assert paused_at.checkpoints[0] == int(checkpoints(cli, 0)[-1].stem.partition("-")[2]) > 0

    running = cli.start(*TWO)
    wait_for(lambda: len(starts(cli, 0)) == 2, running)
    assert starts(cli, 0)[1] == paused_at.checkpoints[0]
    slots = psutil.Process(running.pid).children(recursive=True)
    os.kill(attempts(storage_url, 0)[-1]["pid"], signal.SIGSTOP)  # It cannot pause: only a second signal ends this.
    os.kill(running.pid, number)
    assert running.stderr is not None
    assert any("interrupt once more to end at once" in line for line in iter(running.stderr.readline, ""))
    os.kill(running.pid, number)
    running.communicate(timeout=60)
    assert running.returncode == code
    assert psutil.wait_procs(slots, timeout=30)[1] == []

    done = cli.run(*TWO)
    assert done.returncode == 0, done.stderr
    assert_nothing_lost(storage_url, STUDY, 2, before=[paused_at])


@on("storage_url", "sqlite")
def test_fault_10_a_slot_that_cannot_pause_is_killed_within_the_grace_time_and_its_trial_goes_on(
    cli: Cli, storage_url: str
) -> None:
    steady.written(cli.folder)
    cli = cli.using(storage_url)
    running = cli.start(*TWO)
    wait_for(lambda: saved(storage_url, 0) > 0, running)
    os.kill(attempts(storage_url, 0)[-1]["pid"], signal.SIGSTOP)
    running.terminate()
    _, told = running.communicate(timeout=60)  # Long before it would be taken for hung.
    assert running.returncode == 0, told
    assert "trial 0: did not pause within 20 s; it goes on from its last checkpoint" in told
    assert f"study '{STUDY}' is paused; the same command goes on with it" in told
    assert cli.json("status")["owner"] is None
    assert [attempt["outcome"] for attempt in attempts(storage_url, 0)] == ["paused"]
    stopped_at = snapshot(storage_url, STUDY)

    done = cli.run(*TWO)
    assert done.returncode == 0, done.stderr
    assert_nothing_lost(storage_url, STUDY, 2, before=[stopped_at])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> str:
    """What an undisturbed `hpsearch train` leaves."""
    cli = Cli(tmp_path_factory.mktemp("trained"), environment)
    (cli.folder / "config.yaml").write_text(CONFIG.replace("RATE", "1e-3"))
    cli.ok(*TRAIN)
    return model(cli)


def model(cli: Cli) -> str:
    return hashlib.sha256((cli.folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def begun(cli: Cli) -> bool:
    log = cli.folder / "model" / "log.jsonl"
    return log.exists() and '"event": "step"' in log.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_fault_10_a_signal_to_train_leaves_a_checkpoint_between_two_steps_and_the_same_command_goes_on(
    cli: Cli, trained: str, number: signal.Signals, code: int
) -> None:
    (cli.folder / "config.yaml").write_text(CONFIG.replace("RATE", "1e-3"))
    running = cli.start(*TRAIN)
    wait_for(lambda: begun(cli), running)
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == code, told
    (kept,) = (cli.folder / "model" / "checkpoints").glob("step-*.pt")
    step = int(kept.stem.partition("-")[2])
    assert told == f"interrupted after step {step}; the same command goes on from the checkpoint in model\n"
    assert step < 1500
    assert not (cli.folder / "model" / "model.safetensors").exists()
    cli.ok(*TRAIN)
    entries = map(json.loads, (cli.folder / "model" / "log.jsonl").read_text().splitlines())
    assert [entry["iteration"] for entry in entries if entry["event"] == "start"] == [0, step]
    assert model(cli) == trained


def test_fault_10_a_second_signal_ends_train_at_once(cli: Cli) -> None:
    (cli.folder / "config.yaml").write_text(CONFIG.replace("RATE", "1e-3").replace("1500", "1000000"))
    running = cli.start(*TRAIN)
    wait_for(lambda: begun(cli), running)
    # Both wait for it to wake: it has no time for a step between them.
    running.send_signal(signal.SIGSTOP)
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGTERM)
    running.send_signal(signal.SIGCONT)
    _, told = running.communicate(timeout=60)
    assert running.returncode in (0, 130)  # Whichever of the two comes second.
    assert told == ""
    assert list((cli.folder / "model" / "checkpoints").iterdir()) == []


def test_a_run_that_diverges_has_an_exit_code_and_a_sentence_of_its_own(cli: Cli) -> None:
    (cli.folder / "config.yaml").write_text(CONFIG.replace("RATE", "1e15").replace("eval_iters", "optimizer: sgd, eval_iters"))
    done = cli.run(*TRAIN)
    assert done.returncode == 5, done.stderr
    assert "the run diverged: the " in done.stderr
    assert done.stderr.endswith("; try a smaller learning_rate\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_before_the_first_step_ends_train_without_waiting_for_one(
    number: signal.Signals, ends: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(ends), Pausing():
        signal.raise_signal(number)
    with Pausing() as pausing:
        assert pausing.asked() is Answer.CONTINUE
        signal.raise_signal(number)
        assert pausing.asked() is Answer.PAUSE
    assert signal.getsignal(number) == before

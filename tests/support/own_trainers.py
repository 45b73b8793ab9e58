"""Training functions of one's own, for tests of `hpsearch.tune`. They run in real slot processes."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpsearch import Checkpoint, Evaluation, Run

SPACE: dict[str, Any] = {
    "name": "toy",
    "budget": {"steps": 8, "evaluations": 4},
    "parameters": {
        "learning_rate": {"low": 0.001, "high": 100.0, "log": True, "prior": 1.0},
        "dropout": {"choices": ["light", "heavy"], "prior": "light"},
        "num_heads": 3,
        "momentum": {"low": 0.0, "high": 1.0, "when": "dropout == 'heavy'"},
    },
}
Said = Iterator[Evaluation | Checkpoint | None]


def score(config: dict[str, Any], step: int, seed: int = 0) -> float:
    return math.log10(config["learning_rate"]) ** 2 + 1 / step + 0.001 * seed


def curve(config: dict[str, Any], run: Run) -> Said:
    """A curve that falls; goes on from its checkpoint, and counts the steps that it took in `steps.log`."""
    for step in range(run.resume_step + 1, run.steps + 1):
        with (run.folder / "steps.log").open("a") as log:
            log.write(f"{step}\n")
        saved = run.folder / f"step-{step}"
        saved.write_text(str(step))
        yield Evaluation(step, score(config, step, run.seed), {"twice": 2.0 * step}, saved)
        yield None


def when_due(config: dict[str, Any], run: Run) -> Said:
    for step in range(1, run.steps + 1):
        if run.evaluation_due(step):
            yield Evaluation(step, score(config, step))


def every_interval(config: dict[str, Any], run: Run) -> Said:
    for step in [*range(run.eval_interval, run.steps, run.eval_interval), run.steps]:
        yield Evaluation(step, score(config, step))


def accurate(config: dict[str, Any], run: Run) -> Said:
    """Several objectives by name, the more the better; with what else it is given."""
    (run.folder / "given.json").write_text(json.dumps({"config": config, "trial": run.trial, "every": run.eval_interval}))
    for step in range(run.eval_interval, run.steps + 1, run.eval_interval):
        yield Evaluation(step, metrics={"accuracy": 1 - score(config, step) / 10, "size": 5.0})


def slow_curve(config: dict[str, Any], run: Run) -> Said:
    for said in curve(config, run):
        time.sleep(0.05)
        yield said


def killed_once(config: dict[str, Any], run: Run) -> Said:
    """The second trial's slot is killed in the middle of its first stay."""
    for said in curve(config, run):
        yield said
        if run.trial == 1 and run.resume is None and isinstance(said, Evaluation) and said.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def diverges(config: dict[str, Any], run: Run) -> Said:
    yield Evaluation(2, 1.0)
    yield Evaluation(4, math.nan if run.trial == 1 else 0.5)
    yield Evaluation(8, 0.25)


def raises(config: dict[str, Any], run: Run) -> Said:
    yield Evaluation(2, 1.0)
    if run.trial == 1:
        raise ValueError("the wrong trousers\nand more")
    yield Evaluation(8, 0.5)


def finishes_and_is_paused(config: dict[str, Any], run: Run) -> Said:
    """Ends after its last checkpoint, but its slot dies before it can say so."""
    assert run.resume is None, "there was nothing left to do"
    last = run.folder / "last"
    last.touch()
    yield Evaluation(8, 0.5, checkpoint=last)
    os.kill(os.getpid(), signal.SIGKILL)


def forgets_its_checkpoint(config: dict[str, Any], run: Run) -> Said:
    """Its newest checkpoint is gone when it comes back; it says from where it went on."""
    if run.resume is None:
        for step in (2, 4):
            saved = run.folder / f"step-{step}"
            saved.touch()
            yield Evaluation(step, 1.0, checkpoint=saved)
        (run.folder / "step-4").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    (run.folder / "resumed").write_text(f"{run.resume_step} {Path(run.resume).name}")
    yield Evaluation(8, 0.5)


def cleans_up(config: dict[str, Any], run: Run) -> Said:
    """Marks in its folder that it was closed."""
    try:
        for step in range(1, run.steps + 1):
            yield Evaluation(step, score(config, step) + (run.trial > 4) * 100)
    finally:
        (run.folder / "closed").touch()


def saves_here_and_there(config: dict[str, Any], run: Run) -> Said:
    """A file and a folder of its own, and something that is not its own, as checkpoints; then it diverges."""
    theirs = run.folder.parents[2] / "theirs"
    theirs.touch()
    own_file, own_folder = run.folder / "file", run.folder / "folder"
    own_file.touch()
    own_folder.mkdir()
    (own_folder / "part").touch()
    for step, path in enumerate((own_file, own_folder, theirs), 2):
        yield Checkpoint(step, path)
    yield Evaluation(8, math.nan if run.trial else 0.5)


def returns_a_number(config: dict[str, Any], run: Run) -> float:
    return 1.0


def yields_a_number(config: dict[str, Any], run: Run) -> Iterator[float]:
    yield 1.0


def says_nothing(config: dict[str, Any], run: Run) -> Said:
    yield Evaluation(8, metrics={"accuracy": 1.0})


def goes_beyond(config: dict[str, Any], run: Run) -> Said:
    yield Evaluation(8, 0.5)
    yield Evaluation(16, 0.1)


def sleeps(config: dict[str, Any], run: Run) -> Said:
    time.sleep(1000)
    yield None


def sleeps_once_when_confirmed(config: dict[str, Any], run: Run) -> Said:
    """Takes no step after the first one on a fresh seed, the first time."""
    marker = run.folder / "slept"
    yield Evaluation(4, 1.0)
    if run.seed and not marker.exists():
        marker.touch()
        time.sleep(1000)
    yield Evaluation(8, 0.5)


def has_children(config: dict[str, Any], run: Run) -> Said:
    """Nothing to do with slots: a child of its own."""
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    yield Evaluation(8, 0.5)


def scaled(by: float, config: dict[str, Any], run: Run) -> Said:
    """For `functools.partial`."""
    yield Evaluation(8, by * score(config, 8))


class Scaled:
    """An object that can be called, and a method that can."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, config: dict[str, Any], run: Run) -> Said:
        yield from scaled(self.by, config, run)

    def train(self, config: dict[str, Any], run: Run) -> Said:
        yield from scaled(self.by, config, run)

    @classmethod
    def twice(cls, config: dict[str, Any], run: Run) -> Said:
        yield from scaled(2.0, config, run)


def names_like_columns(config: dict[str, Any], run: Run) -> Said:
    yield Evaluation(8, metrics={"loss": 0.5, "seconds": 105.0, "rung": 7.0})


ODD_NAMES = ("acc@1", "acc_1", "a//b", "/root", "..", "", "50%", "eval/loss", "_step", "é", "n" * 300, "\ud800")


def odd_names(config: dict[str, Any], run: Run) -> Said:
    """Metrics that trackers have their own ideas of."""
    for step in (2, 8):
        yield Evaluation(step, 1 / step, {name: float(index) for index, name in enumerate(ODD_NAMES)} | {"seconds": 105.0})


def start_no_more() -> None:
    """From here on the system starts neither threads nor processes for this one, as on a machine that has no more of them."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    if os.getuid() == 0:  # It knows no such limit.
        os.setuid(65534)


def starts_a_thread(config: dict[str, Any], run: Run) -> Said:
    start_no_more()
    threading.Thread(target=print).start()
    yield None


def starts_a_process(config: dict[str, Any], run: Run) -> Said:
    start_no_more()
    subprocess.run(["true"], check=True)
    yield None


def forks(config: dict[str, Any], run: Run) -> Said:
    start_no_more()
    multiprocessing.get_context("fork").Process(target=print).start()
    yield None

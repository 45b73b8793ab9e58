"""A study that is killed two hundred times, and is what it would have been.

Slots and the coordinator are killed with SIGKILL at random moments: after so many new evaluations, which makes the pace the
same on any machine, or at once, which meets a coordinator while it starts. A trial whose slot dies three times would rightly
fail as poisoned, so where it has lost two, the coordinator is killed: its death counts against no trial.

Without a pruner every trial of a configuration has one curve, so each is compared with an undisturbed training of the same
configuration (which configurations a study tries depends on the kills: a resumed sampler goes on with fresh random numbers).

`HPSEARCH_SOAK_KILLS` and `HPSEARCH_SOAK_SEED` say how many (200), and which (0).
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli import COMMAND
from invariants import Snapshot, assert_nothing_lost, assert_one_at_a_time, snapshot
from servers import Server
from sqlalchemy import Engine, create_engine, text

from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.execution.protocol import Ended, TrialTask
from hpsearch.storage.records import PointRecord, StudyRecord, TrialRecord
from hpsearch.storage.store import Store
from hpsearch.storage.urls import parse_url
from hpsearch.training.events import Answer, EvalPoint, Outcome

KILLS = int(os.environ.get("HPSEARCH_SOAK_KILLS", "200"))
SEED = int(os.environ.get("HPSEARCH_SOAK_SEED", "0"))
TRIALS = 40
EVALUATIONS = 24
SHARE = 0.8
"""Part of the evaluations still to come that are to pass until the last kill; the others follow it undisturbed."""
PATIENCE_S = 300
"""Without a new evaluation for so long, the study is stuck."""
SPACE = f"""
name: soak
data: {{text: pydoc, tokenizer: bytes, validation: 0.1}}
budget: {{max_iters: {EVALUATIONS * 8}, evaluations: {EVALUATIONS}}}
parameters:
  learning_rate: {{low: 1e-4, high: 1e-2, log: true, prior: 1e-3}}
  weight_decay: {{low: 0.0, high: 0.3, prior: 0.1}}
  dropout: {{low: 0.0, high: 0.2, step: 0.05, prior: 0.1}}
  d_model: {{choices: [16, 32], prior: 16}}
  hidden_act: {{choices: [gelu, silu], prior: gelu}}
  num_layers: 1
  num_heads: 2
  context_length: 32
  batch_size: 4
  eval_iters: 1
  max_new_tokens: 20
"""
RUN = ["run", "--space", "soak.yaml", "--trials", str(TRIALS), "--slots", "2", "--device", "cpu", "--sampler", "random"]
RUN += ["--pruner", "none"]


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/hpsearch.db"
        return
    server: Server = request.getfixturevalue("postgresql_server")
    url = server.fresh_database()
    yield url
    server.drop(url)


@dataclass
class Soak:
    """One study, and what kills it."""

    folder: Path
    environment: dict[str, str]
    url: str
    random: random.Random
    snapshots: list[Snapshot] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=lambda: {"slots": 0, "coordinators": 0})
    coordinator: subprocess.Popen[bytes] | None = None
    seen: int = 0
    """Evaluations when it was time for the last kill."""
    passing: float = 2.0
    """How many more pass, in the mean, while one looks and kills."""

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log.txt").open("ab") as log:
            self.coordinator = subprocess.Popen(
                [*COMMAND, *RUN, "--storage", self.url],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.coordinator

    @cached_property
    def engine(self) -> Engine:
        return create_engine(parse_url(self.url))

    def rows(self, statement: str) -> list[Any]:
        """What the tables say; nothing before there is a study."""
        if not any(self.folder.glob("studies/*/study.json")):
            return []
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement)))

    def points(self) -> int:
        return sum(row[0] for row in self.rows("SELECT count(*) FROM hps_points"))

    def wait(self) -> None:
        """Until it is time for a kill."""
        before = self.points()
        if self.snapshots:
            self.passing += 0.1 * (before - self.seen - self.passing)
        most = SHARE * (TRIALS * EVALUATIONS - before)
        mean = most / (KILLS - sum(self.killed.values()))
        new = min(self.random.randint(0, max(1, round(2 * (mean - self.passing)))), int(most))  # The last few could outlast it.
        if new == 0:  # Any moment of a start is as good, but a study that trains does not wait.
            moment = time.monotonic() + self.random.uniform(0, 2)
            while time.monotonic() < moment and self.points() == before:
                time.sleep(0.02)
            self.seen = self.points()
            return
        wanted, deadline = before + new, time.monotonic() + PATIENCE_S
        while (seen := self.points()) < wanted:
            assert self.coordinator is not None
            assert self.coordinator.poll() is None, self.told(f"ended by itself after {self.killed}")
            assert time.monotonic() < deadline, self.told(f"no new evaluation in {PATIENCE_S} s")
            time.sleep(0.02)
        self.seen = seen

    def kill(self) -> None:
        """One slot or the coordinator, which takes its slots with it."""
        assert self.coordinator is not None
        assert self.coordinator.poll() is None, self.told(f"ended by itself after {self.killed}")
        victim = self.a_slot() if self.random.random() < 0.8 else None
        if self.points():
            self.snapshots.append(snapshot(self.url, "soak"))
        if victim is not None:
            with suppress(psutil.NoSuchProcess):  # It died of the kill before this one.
                victim.kill()
                self.killed["slots"] += 1
            return
        slots = psutil.Process(self.coordinator.pid).children(recursive=True)
        self.coordinator.kill()
        self.coordinator.wait()
        _, alive = psutil.wait_procs(slots, timeout=30)
        assert alive == [], "slots outlived their coordinator"
        self.killed["coordinators"] += 1
        self.start()

    def a_slot(self) -> psutil.Process | None:
        """A slot that trains, where its death can poison no trial."""
        deaths = Counter(row[0] for row in self.rows("SELECT trial_number FROM hps_attempts WHERE outcome = 'died'"))
        held = {row[0]: row[1] for row in self.rows("SELECT pid, trial_number FROM hps_attempts WHERE ended_at IS NULL")}
        assert self.coordinator is not None
        children = {child.pid: child for child in psutil.Process(self.coordinator.pid).children(recursive=True)}
        if not held.keys() <= children.keys():
            return None  # One whose pid is not among the children is dead, and its death not yet counted.
        slots = sorted(pid for pid, number in held.items() if deaths[number] < 2)
        return children[self.random.choice(slots)] if slots else None

    def told(self, text: str) -> str:
        return f"{text}\n{(self.folder / 'log.txt').read_text(errors='replace')[-3000:]}"


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_study_killed_two_hundred_times_is_what_it_would_have_been(
    storage_url: str, tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "soak.yaml").write_text(SPACE)
    soak = Soak(tmp_path, environment, storage_url, random.Random(SEED))
    began = time.monotonic()
    soak.start()
    try:
        while sum(soak.killed.values()) < KILLS:
            soak.wait()
            soak.kill()
        assert soak.coordinator is not None
        code = soak.coordinator.wait(timeout=1800)
    finally:
        if soak.coordinator is not None and soak.coordinator.poll() is None:
            soak.coordinator.kill()
            soak.coordinator.wait()
        soak.engine.dispose()
    killed_s = time.monotonic() - began
    assert code == 0, soak.told(f"exit code {code}")
    assert "Traceback" not in soak.told("")
    assert_nothing_lost(storage_url, "soak", TRIALS, before=soak.snapshots)
    assert_one_at_a_time(*tmp_path.glob("studies/0*"))
    with Store.open(storage_url, create=False) as store:
        study = store.study("soak")
        trials, points, attempts = store.trials(study.id), store.points(study.id), store.attempts(study.id)
    assert {trial.state.value for trial in trials} == {"complete"}
    alone = undisturbed(study, trials, tmp_path / "alone", Path(environment["HPSEARCH_CACHE_DIR"]))
    for trial in trials:
        curve = [measured(point) for point in points if point.trial_number == trial.number]
        assert curve == [measured(point) for point in alone[trial.number]], f"trial {trial.number}"
        assert trial.value == alone[trial.number][-1].metrics["val_bpb"]
    with capsys.disabled():
        print(
            f"\nsoak on {storage_url.partition(':')[0]}, seed {SEED}: {KILLS} kills ({soak.killed['slots']} of slots, "
            f"{soak.killed['coordinators']} of the coordinator) in {killed_s:.0f} s; {TRIALS} trials complete once each, "
            f"{len(attempts)} attempts, {len(points)} evaluations equal to the undisturbed ones"
        )


def measured(point: PointRecord | EvalPoint) -> tuple[object, ...]:
    """All of an evaluation but how long it took."""
    return (
        point.rung,
        point.iteration,
        point.tokens,
        point.flops,
        point.train_loss,
        point.metrics,
        point.learning_rate,
        point.grad_norm,
    )


def undisturbed(study: StudyRecord, trials: list[TrialRecord], folder: Path, cache_dir: Path) -> dict[int, list[EvalPoint]]:
    """The curves of the same configurations, trained from the start to the end."""
    curves: dict[int, list[EvalPoint]] = {trial.number: [] for trial in trials}
    waiting, running = list(trials), 0
    with closing(LocalExecutor(2, study.threads)) as executor:
        while waiting or running:
            for slot in executor.idle():
                if waiting:
                    executor.submit(slot, task(study, waiting.pop(), folder, cache_dir))
                    running += 1
            for message in executor.messages(1.0):
                if isinstance(message.body, EvalPoint):
                    curves[message.number].append(message.body)
                    executor.answer(message.slot, Answer.CONTINUE)
                elif isinstance(message.body, Ended):
                    assert message.body.result.outcome is Outcome.COMPLETE
                    running -= 1
    return curves


def task(study: StudyRecord, trial: TrialRecord, folder: Path, cache_dir: Path) -> TrialTask:
    place = folder / f"{trial.number:04d}"
    place.mkdir(parents=True)
    return TrialTask(
        number=trial.number,
        attempt=1,
        config={name: value for name, value in trial.config.items() if value is not None},
        data=study.data,
        data_fingerprint=study.data_fingerprint,
        folder=place,
        cache_dir=cache_dir,
        device="cpu",
        threads=study.threads,
        objectives=study.objectives,
    )

"""Training runs that are done once, and no further than anybody asked.

A run is a function of its configuration, bit for bit, and goes on from a checkpoint as if it had never stopped. So when several
searches ask for the same run, one trains it and the others read its evaluations; when one stops it early and another wants more
of it, it goes on. Each search is charged for it as if it were its own.

`runs:trainer` is a trainer for hpsearch's own slots; HPSEARCH_RUNS names the folder that it keeps the runs in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path

from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.corpus import open_corpus
from hpsearch.execution.protocol import TrialTask
from hpsearch.training.events import Answer, CheckpointSaved, EvalPoint, Event, Outcome, TrainResult


def follow(config: TrialConfig, data: DataConfig, cache_dir: Path, folder: Path) -> Iterator[EvalPoint | TrainResult]:
    """The evaluations of one run, and how it ended. It is trained while somebody asks for more."""
    corpus = open_corpus(data, vocab_size=config.vocab_size, architecture=config.architecture, cache_dir=cache_dir)
    whole = json.dumps([config.concrete(), corpus.fingerprint], sort_keys=True)
    place = folder / hashlib.sha256(whole.encode()).hexdigest()[:24]
    known, result = _read(place.with_suffix(".jsonl"))
    yield from known
    if result is None:
        yield from _train(config, corpus, place, len(known))
    else:
        yield result


def _train(config: TrialConfig, corpus: object, place: Path, known: int) -> Iterator[EvalPoint | TrainResult]:
    from hpsearch.training.loop import train

    training = train(config, corpus, place, threads=1)  # type: ignore[arg-type]
    with place.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
        answer = Answer.CONTINUE
        try:
            while True:
                event = training.send(None if answer is Answer.CONTINUE else answer)
                if isinstance(event, EvalPoint) and event.rung > known:  # Those before its last checkpoint come again.
                    file.write(json.dumps(asdict(event)) + "\n")
                    file.flush()
                    try:
                        yield event
                    except GeneratorExit:
                        _pause(training)
                        raise
        except StopIteration as stop:
            result: TrainResult = stop.value
            file.write(json.dumps(asdict(result)) + "\n")
    shutil.rmtree(place, ignore_errors=True)
    yield result


def _pause(training: Generator[Event, Answer | None, TrainResult]) -> None:
    with contextlib.suppress(StopIteration):
        training.send(Answer.PAUSE)
        while True:
            next(training)


def _read(path: Path) -> tuple[list[EvalPoint], TrainResult | None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    points: list[EvalPoint] = []
    for line in path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []:
        if not line.endswith("\n"):
            path.write_text(path.read_text("utf-8").removesuffix(line), encoding="utf-8")
            break
        found = json.loads(line)
        if "outcome" in found:
            return points, TrainResult(**found | {"outcome": Outcome(found["outcome"])})
        points.append(EvalPoint(**found))
    return points, None


def trainer(task: TrialTask) -> Generator[Event, Answer, TrainResult]:
    """A trial of hpsearch's. What a pause leaves behind is the run itself."""
    data = DataConfig.model_validate(task.data)
    run = follow(TrialConfig.build(task.config), data, task.cache_dir, Path(os.environ["HPSEARCH_RUNS"]))
    return (yield from as_trial(task, run))


def as_trial(task: TrialTask, run: Iterator[EvalPoint | TrainResult]) -> Generator[Event, Answer, TrainResult]:
    """A stay in a slot of what is told from its start each time."""
    saved = task.folder / "rung"
    seen = int(saved.read_text()) if saved.exists() else 0
    with contextlib.closing(run):  # type: ignore[type-var]
        for item in run:
            if isinstance(item, TrainResult):
                return item
            if item.rung <= seen:
                continue
            answer = yield item
            if answer is Answer.STOP:
                return TrainResult(Outcome.STOPPED, item.iteration, metrics=item.metrics)
            if answer is Answer.PAUSE:
                saved.write_text(f"{item.rung}")
                yield CheckpointSaved(item.iteration, str(saved), "0" * 64, 1)
                return TrainResult(Outcome.PAUSED, item.iteration, metrics=item.metrics)
    raise AssertionError("a run ends with its result")

"""Experiment trackers beside a study: TensorBoard, MLflow and Weights & Biases, each by its own library.

A trial is one run there: its config, each evaluation, the final value and how it ended. A thread writes, so that a tracker that
is slow or away never holds up the study, and one that fails is told of once and left alone.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import math
import os
import posixpath
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from hpsearch.errors import BadInput, did_you_mean, install
from hpsearch.results.tables import Columns
from hpsearch.storage.records import StudyRecord, TrialRecord, TrialState
from hpsearch.training.events import EvalPoint, Progress
from hpsearch.tuning.callbacks import Watcher

CLOSE_S = 60.0
"""How long the end of a study waits for what its trackers still have to write."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING", "WANDB_ERROR_REPORTING": "false"}
"""What the libraries read when they are imported, unless the user has set it: they would tell their makers how they are used,
and write into the live view."""


Say = Callable[[str], None]


class Tracker(Protocol):
    """One library. All calls come from one thread."""

    def begin(self, study: StudyRecord, trial: TrialRecord) -> None:
        """A trial is in a slot, for the first time or once more."""

    def log(self, trial: TrialRecord, step: int, measured: Mapping[str, float]) -> None: ...

    def end(self, trial: TrialRecord, final: Mapping[str, float]) -> None:
        """Complete, pruned, failed or paused. final: the objectives, as far as they are known."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files below `tensorboard` in the study's folder: `tensorboard --logdir`."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summaries: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._hparams: Any = importlib.import_module("tensorboard.plugins.hparams.summary_v2")
        self._tensors: Any = importlib.import_module("tensorboard.util.tensor_util")
        self._writer: Any = importlib.import_module("tensorboard.summary.writer.event_file_writer").EventFileWriter
        self._folder = folder / "tensorboard"
        self._open: dict[int, Any] = {}

    def begin(self, study: StudyRecord, trial: TrialRecord) -> None:
        self._open[trial.number] = self._writer(str(self._folder / _name(trial)))
        config = {name: value for name, value in trial.config.items() if isinstance(value, bool | int | float | str)}
        self._add(trial, 0, self._hparams.hparams_pb(config, trial_id=_name(trial)))

    def log(self, trial: TrialRecord, step: int, measured: Mapping[str, float]) -> None:
        values = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in measured.items()]
        self._add(trial, step, self._summaries.Summary(value=values))

    def end(self, trial: TrialRecord, final: Mapping[str, float]) -> None:
        self.log(trial, trial.iteration, {f"final/{name}": value for name, value in final.items()})
        plugin = self._summaries.SummaryMetadata.PluginData(plugin_name="text")
        state = self._summaries.Summary.Value(
            tag="state",
            metadata=self._summaries.SummaryMetadata(plugin_data=plugin),
            tensor=self._tensors.make_tensor_proto(f"{trial.state}{f': {trial.reason}' if trial.reason else ''}"),
        )
        self._add(trial, trial.iteration, self._summaries.Summary(value=[state]))
        self._open.pop(trial.number).close()

    def close(self) -> None:
        for writer in self._open.values():
            writer.close()

    def _add(self, trial: TrialRecord, step: int, summary: Any) -> None:
        self._open[trial.number].add_event(self._events.Event(wall_time=time.time(), step=step, summary=summary))


class MLflow:
    """Runs of an experiment with the study's name, at MLFLOW_TRACKING_URI or MLflow's own default.

    A name that MLflow takes for no metric or parameter is written in another form (`acc@1` as `acc_1`); what it refuses all the
    same is left out, and told of once.
    """

    STATUS: ClassVar = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAILED: "FAILED"}
    METRICS, PARAMS = 1_000, 100
    """Most that one request may have."""
    LONGEST_NAME, LONGEST_VALUE, SHORT_VALUE = 250, 6_000, 250
    """Characters of a name and of a parameter's value; of a value that every server takes."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._say = say
        self._names: dict[str, str] = {}
        """What is written in the place of a name."""
        self._refused: set[str] = set()
        mlflow: Any = importlib.import_module("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._errors: Any = importlib.import_module("mlflow.exceptions")
        self._client = mlflow.MlflowClient()
        self._runs: dict[int, str] = {}

    def begin(self, study: StudyRecord, trial: TrialRecord) -> None:
        known = self._client.get_experiment_by_name(study.name)
        experiment = known.experiment_id if known else self._client.create_experiment(study.name)
        which = f"tags.`hpsearch.trial` = '{trial.number}' and tags.`hpsearch.study` = '{_identity(study)}'"
        found = self._client.search_runs([experiment], which)
        if found:
            self._runs[trial.number] = found[0].info.run_id
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return
        tags = {
            "mlflow.runName": _name(trial),
            "hpsearch.trial": str(trial.number),
            "hpsearch.study": _identity(study),
            "hpsearch.space": study.space_digest,
            "hpsearch.proposed_by": trial.proposed_by,
        }
        self._runs[trial.number] = self._client.create_run(experiment, tags=tags).info.run_id
        run = self._runs[trial.number]
        params = {self._name(name): str(value) for name, value in trial.config.items() if value is not None}
        made = [self._entities.Param(name, value[: self.LONGEST_VALUE]) for name, value in params.items()]
        for first in range(0, len(made), self.PARAMS):
            for refused in self._logged(run, "params", made[first : first + self.PARAMS]):
                short = self._entities.Param(refused.key, refused.value[: self.SHORT_VALUE])
                self._leave_out(self._logged(run, "params", [short]))

    def log(self, trial: TrialRecord, step: int, measured: Mapping[str, float]) -> None:
        self._log(self._runs[trial.number], step, measured)

    def end(self, trial: TrialRecord, final: Mapping[str, float]) -> None:
        run = self._runs.pop(trial.number)
        self._log(run, trial.iteration, {f"final_{name}": value for name, value in final.items()})
        self._client.set_tag(run, "hpsearch.state", str(trial.state))
        self._client.set_tag(run, "hpsearch.reason", trial.reason[:500])  # Empty over that of an earlier pause.
        if trial.state in self.STATUS:
            self._client.set_terminated(run, self.STATUS[trial.state])

    def close(self) -> None: ...

    def _log(self, run: str, step: int, measured: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        made = [self._entities.Metric(self._name(name), value, now, step) for name, value in measured.items()]
        for first in range(0, len(made), self.METRICS):
            self._leave_out(self._logged(run, "metrics", made[first : first + self.METRICS]))

    def _logged(self, run: str, kind: str, entities: list[Any]) -> list[Any]:
        """Log all, or else each alone. Returns those that MLflow refuses."""
        try:
            self._client.log_batch(run, **{kind: entities})
        except self._errors.MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            return entities if len(entities) == 1 else [each for one in entities for each in self._logged(run, kind, [one])]
        return []

    def _leave_out(self, refused: list[Any]) -> None:
        for each in refused:
            if each.key not in self._refused:
                self._refused.add(each.key)
                self._say(f"--tracker mlflow: MLflow takes no {each.key!r}, which is left out there; the study has it")

    def _name(self, name: str) -> str:
        """A name as MLflow takes it: letters, digits, _, -, spaces, and / and . where that is no odd path. No two are alike."""
        if name not in self._names:
            fit = re.sub(r"[^/\w.\- ]", "_", name)[: self.LONGEST_NAME]
            if posixpath.normpath(fit) != fit or fit.startswith(("/", ".")):
                fit = re.sub(r"[/.]", "_", fit) or "_"
            taken, number, stem = set(self._names.values()), 2, fit
            while fit in taken:
                fit, number = f"{stem[: self.LONGEST_NAME - 8]}_{number}", number + 1
            self._names[name] = fit
        return self._names[name]


class WandB:
    """Runs of a project with the study's name, offline unless WANDB_MODE says otherwise: below `wandb` in its folder."""

    @staticmethod
    def mode() -> Any:
        return os.environ.get("WANDB_MODE", "offline")

    def __init__(self, folder: Path, say: Say) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        self._folder = folder
        self._runs: dict[int, Any] = {}

    def begin(self, study: StudyRecord, trial: TrialRecord) -> None:
        self._runs[trial.number] = self._wandb.init(
            project=study.name,
            name=_name(trial),
            id=f"{_identity(study)}-{trial.number}",
            resume="allow",
            config=dict(trial.config),
            dir=str(self._folder),
            mode=self.mode(),
            reinit="create_new",
            # The machine's load would be the coordinator's, and cloud hosts would be asked who they are.
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def log(self, trial: TrialRecord, step: int, measured: Mapping[str, float]) -> None:
        # Names that begin so are W&B's own, as `_step`.
        self._runs[trial.number].log({name.lstrip("_") or name: value for name, value in measured.items()}, step=step)

    def end(self, trial: TrialRecord, final: Mapping[str, float]) -> None:
        run = self._runs.pop(trial.number)
        told = {"state": str(trial.state), "reason": trial.reason}
        run.summary.update({f"final/{name}": value for name, value in final.items()} | told)
        run.finish(exit_code=1 if trial.state is TrialState.FAILED else 0)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)


TRACKERS: dict[str, tuple[str, Callable[[Path, Say], Tracker]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "mlflow": ("mlflow", MLflow),
    "wandb": ("wandb", WandB),
}
"""`--tracker`: the library, which is an extra of the same name, and what uses it."""


def require_trackers(names: Sequence[str]) -> None:
    """Raises BadInput for a tracker that there is not, whose library is not installed, or that would ask for a key."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    for name in names:
        if name not in TRACKERS:
            raise BadInput(f"--tracker {name}: use {', '.join(TRACKERS)}{did_you_mean(name, TRACKERS)}")
        try:
            library: Any = importlib.import_module(TRACKERS[name][0])
        except ImportError as error:
            raise BadInput(f"--tracker {name}: the library {TRACKERS[name][0]} is missing ({error}); {install(name)}") from None
        # Here, as it would ask for one in the middle of the live view.
        if name == "wandb" and WandB.mode() in ("online", "shared") and not library.login(prompt=False):
            raise BadInput(
                f"--tracker wandb: WANDB_MODE={WandB.mode()} needs a key: `wandb login`, or WANDB_API_KEY; "
                "without WANDB_MODE runs are kept on this machine"
            )


class Tracking:
    """A watcher that passes what it hears on to trackers, in a thread of its own.

    folder: the study's. say: gets a line when a tracker fails.
    """

    def __init__(self, names: Sequence[str], folder: Path, say: Say) -> None:
        self._names, self._folder, self._say = list(dict.fromkeys(names)), folder, say
        self._study: StudyRecord | None = None
        self._heard: queue.SimpleQueue[tuple[str, TrialRecord, EvalPoint | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="trackers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self._say(f"trackers: not all was written in {CLOSE_S:.0f} s; the study has everything")

    def opened(self, study: StudyRecord, trials: list[TrialRecord]) -> None:
        self._study = study

    def started(self, trial: TrialRecord, slot: str, from_iteration: int) -> None:
        self._heard.put(("begin", trial, None))

    def progress(self, trial: TrialRecord, progress: Progress) -> None: ...

    def evaluated(self, trial: TrialRecord, point: EvalPoint) -> None:
        self._heard.put(("log", trial, point))

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        self._heard.put(("end", trial, None))

    def note(self, text: str) -> None: ...

    def _work(self) -> None:
        trackers: dict[str, Tracker] = {}
        for name in self._names:
            self._safely(trackers, name, lambda: trackers.update({name: TRACKERS[name][1](self._folder, self._say)}))  # noqa: B023
        begun: set[int] = set()
        while (heard := self._heard.get()) is not None:
            what, trial, point = heard
            if trial.number not in begun:
                begun.add(trial.number)
                self._all(trackers, "begin", self._record, trial)
            if point is not None:
                self._all(trackers, "log", trial, point.iteration, self._measured(point))
            if what == "end":
                begun.discard(trial.number)
                final = dict(zip(self._record.objectives, trial.values or (), strict=False))
                self._all(trackers, "end", trial, final)
        self._all(trackers, "close")

    @property
    def _record(self) -> StudyRecord:
        assert self._study is not None, "a study is opened before its trials begin"
        return self._study

    def _measured(self, point: EvalPoint) -> dict[str, float]:
        names = ["seconds"]
        if not self._record.own:
            names += ["train_loss", "learning_rate", "grad_norm", "tokens_per_s", "tokens", "flops"]
        columns, objectives = Columns(names), self._record.objectives
        measured = {
            columns.add("objective" if name in objectives else "metrics", name): value for name, value in point.metrics.items()
        }
        measured |= {name: float(getattr(point, name)) for name in names}
        return {name: value for name, value in measured.items() if math.isfinite(value)}

    def _all(self, trackers: dict[str, Tracker], method: str, *arguments: Any) -> None:
        for name, tracker in list(trackers.items()):
            self._safely(trackers, name, functools.partial(getattr(tracker, method), *arguments))

    def _safely(self, trackers: dict[str, Tracker], name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # Each library has its own, and some exit; this thread hears no Ctrl-C.
            trackers.pop(name, None)
            text = " ".join(str(error).split())[:400]
            self._say(f"--tracker {name} failed and is left alone from here on: {type(error).__name__}: {text}")


class Both:
    """Two watchers of one study."""

    def __init__(self, first: Watcher, second: Watcher) -> None:
        self._each = (first, second)

    def opened(self, study: StudyRecord, trials: list[TrialRecord]) -> None:
        for watcher in self._each:
            watcher.opened(study, trials)

    def started(self, trial: TrialRecord, slot: str, from_iteration: int) -> None:
        for watcher in self._each:
            watcher.started(trial, slot, from_iteration)

    def progress(self, trial: TrialRecord, progress: Progress) -> None:
        for watcher in self._each:
            watcher.progress(trial, progress)

    def evaluated(self, trial: TrialRecord, point: EvalPoint) -> None:
        for watcher in self._each:
            watcher.evaluated(trial, point)

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        for watcher in self._each:
            watcher.ended(trial, best)

    def note(self, text: str) -> None:
        for watcher in self._each:
            watcher.note(text)


def _identity(study: StudyRecord) -> str:
    """The same for as long as the study exists, and no other's: neither a namesake's nor that of one made anew after it."""
    return hashlib.sha256(f"{study.host} {study.created_at} {study.folder} {study.space_digest}".encode()).hexdigest()[:12]


def _name(trial: TrialRecord) -> str:
    return f"trial-{trial.number:04d}"

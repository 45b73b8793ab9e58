"""The inside of an actor: one slot process of a node, behind calls that another machine makes. Nothing here knows Ray.

The trainer runs in a process of its own, as on one machine, so that a trial that kills its process, hangs or uses up the
memory is told apart from a node that is lost: the first is the slot's to report, the second is its silence.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hpsearch
from hpsearch.errors import BadInput, DataError, SlotsUnable
from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.execution.mirror import Mirror
from hpsearch.execution.protocol import Died, Ended, Failed, SlotInfo, TrialTask
from hpsearch.execution.slot_process import failure
from hpsearch.scratch import scratch
from hpsearch.text import path_of, path_word, printable
from hpsearch.training.events import Answer, CheckpointSaved, Outcome, Warned
from hpsearch.training.kept import checkpoint_folder, remove_all

WAKE_S = 1.0
SCRATCH = "trial-"


@dataclass(frozen=True)
class Place:
    """Where trials keep their files, for all nodes alike."""

    folder: Path | None = None
    """A folder that every node sees under the same path; `token` is the name of a file in it, to find out whether it does."""
    token: str = ""
    url: str = ""
    """Instead of such a folder: an fsspec URL that trials are copied to and from."""


@dataclass(frozen=True)
class Report:
    """What a slot said since the report before."""

    info: SlotInfo
    said: tuple[Any, ...] = ()
    """Bodies of `SlotMessage`s."""
    refused: str = ""
    """Why this node cannot be worked on at all."""
    unable: str = ""
    """Why no slot process gets as far as its first trial here."""


class SlotHost:
    """One slot. `listen` is called from one thread, `submit` and `answer` from another one, in order, `heard` from a third.

    version: the coordinator's; a node with another one is refused, as is one that does not see the shared folder.
    """

    def __init__(self, trainer: str, threads: int, place: Place, version: str) -> None:
        self._mirror: Mirror | None = None
        self._refused = self._refusal(place, version)
        self._executor = LocalExecutor(0 if self._refused else 1, threads, trainer=trainer, relayed=True)
        self._lock = threading.Lock()
        self._stay = 0
        self._task: TrialTask | None = None
        """As it was submitted."""
        self._folder: Path | None = None
        """The trial's on this node, where that is another one."""
        self._said: list[Any] = []
        """What did not come from the slot process."""
        self._reported: SlotInfo | None = None

    def submit(self, stay: int, task: TrialTask) -> None:
        """Begin with a task. stay: its number among all of this slot."""
        with self._lock:
            self._stay, self._task = stay, task
        try:
            placed = self._placed(task)
        except Exception as error:
            with self._lock:
                self._said.append(failure(error))
            return
        with self._lock:
            (slot,) = self._executor.idle()
            self._executor.submit(slot, placed)

    def answer(self, stay: int, answer: Answer) -> None:
        """Answer the trial of that stay; one that is over is not there to hear it."""
        with self._lock:
            if stay == self._stay:
                for slot in self._executor.open_ends():
                    self._executor.answer(slot.name, answer)

    def heard(self) -> None:
        """The coordinator lives. A slot that misses this for too long ends."""
        self._executor.heard()

    def listen(self) -> Report:
        """What the slot says, as soon as it says something or another process has taken its place."""
        if self._refused:
            return Report(SlotInfo("", socket.gethostname(), os.getpid()), refused=self._refused)
        while True:
            with self._lock:
                try:
                    found = [message.body for message in self._executor.messages(0.0)] + self._said
                except SlotsUnable as error:
                    return Report(next(iter(self._executor.open_ends())), unable=str(error))
                self._said = []
                ((info, end),) = self._executor.open_ends().items()
            if found or info != self._reported:
                self._reported = info
                return Report(info, tuple(body for each in found for body in self._carried(each)))
            multiprocessing.connection.wait([end], WAKE_S)

    def close(self) -> None:
        """End the slot process. (An actor is killed, and its slot dies with it.)"""
        with self._lock:
            self._executor.close()
            self._drop_folder()

    def _refusal(self, place: Place, version: str) -> str:
        """Why this node cannot be worked on; empty when it can."""
        node = f"node {socket.gethostname()}"
        if version != hpsearch.__version__:
            return f"{node} has hpsearch {hpsearch.__version__} and the coordinator {version}; install the same on all nodes"
        if place.folder is not None and not (place.folder / place.token).is_file():
            return (
                f"{node} does not see {place.folder}: put --studies-dir on a file system that all nodes mount at one path, "
                "or give --shared URL"
            )
        if place.url:
            try:
                self._mirror = Mirror(place.url)
            except BadInput as error:
                return str(error)
        return ""

    def _placed(self, task: TrialTask) -> TrialTask:
        """The task with folders of this node, and in them what the trial left behind on another one."""
        _require_texts(task.data)
        self._drop_folder()
        if not _writable(task.cache_dir):
            task = replace(task, cache_dir=scratch() / "cache")
        measures = task.number < 0  # It leaves nothing behind.
        if self._mirror is None and not measures:
            return task
        place = tempfile.mkdtemp(prefix=SCRATCH, dir=scratch())
        self._folder = Path(place, *task.folder.relative_to(task.folder.anchor).parts[-3:])
        self._folder.mkdir(parents=True)
        if self._mirror is not None and not measures and (left := self._mirror.open(self._folder)):
            named = printable(", ".join(left[:3]) + (", …" if len(left) > 3 else ""))
            self._said.append(Warned(f"{len(left)} objects at {self._mirror.url} are no files of this trial: {named}"))
        return replace(task, folder=self._folder)

    def _carried(self, body: Any) -> Iterator[Any]:
        """A message, once the files that it speaks of are where they outlive this node."""
        over = isinstance(body, Ended | Failed | Died)
        if self._folder is not None and self._task is not None:
            if self._mirror is not None and self._task.number >= 0 and (over or isinstance(body, CheckpointSaved)):
                never = isinstance(body, Ended) and body.result.outcome in (Outcome.STOPPED, Outcome.DIVERGED)
                if never and self._task.own is None:
                    # It never goes on, and its weights are of no use.
                    remove_all(checkpoint_folder(self._task.config.get("save_dir"), self._folder))
                try:
                    self._mirror.save()
                except OSError as error:
                    yield Warned(f"the copy at {self._mirror.url} is behind: {error}")
                if isinstance(body, CheckpointSaved):
                    path = Path(body.path)
                    if not path.is_relative_to(self._folder):
                        yield Warned(f"a checkpoint outside the trial's folder stays on this node: {path}")
                        return
                    name = path.relative_to(self._folder)
                    if not self._mirror.holds(str(name)):
                        return
                    body = replace(body, path=str(self._task.folder / name))
            if over:
                self._drop_folder()
        yield body

    def _drop_folder(self) -> None:
        if self._folder is not None:
            place = next(parent for parent in self._folder.parents if parent.name.startswith(SCRATCH))
            shutil.rmtree(place, ignore_errors=True)
        self._folder = None


def _require_texts(data: dict[str, Any]) -> None:
    """Say on which node a text is missing: the coordinator has it, or it would not have begun."""
    for path in text_paths(data):
        if not path.exists():
            raise DataError(
                f"{path_word(str(path))}: not on node {socket.gethostname()}; put the text at this path on every node"
            )


def text_paths(data: dict[str, Any]) -> list[Path]:
    """The files and folders that a study's text is made of; words such as `pydoc` are none."""
    text = data.get("text", ())
    words = [*([text] if isinstance(text, str) else text), data.get("validation")]
    return [Path(path_of(word)).expanduser() for word in words if isinstance(word, str) and _is_path(word)]


def absolute_texts(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with absolute paths: a node has another working directory."""

    def at(word: Any) -> Any:
        return path_word(str(Path(path_of(word)).expanduser().absolute())) if isinstance(word, str) and _is_path(word) else word

    match data.get("text", "pydoc"):
        case dict() as weights:
            text: object = {at(word): weight for word, weight in weights.items()}
        case str() as word:
            text = at(word)
        case words:
            text = [at(word) for word in words]
    return data | {"text": text} | ({"validation": at(data["validation"])} if "validation" in data else {})


def _is_path(word: str) -> bool:
    return word not in ("pydoc", "stdlib") and not word.startswith("hf:")


def _writable(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    return os.access(next(place for place in (folder, *folder.parents) if place.exists()), os.W_OK)

"""What a coordinator tells the person who watches. The terminal's views implement it."""

from __future__ import annotations

from typing import Protocol

from hpsearch.storage.records import StudyRecord, TrialRecord
from hpsearch.training.events import EvalPoint, Progress


class Watcher(Protocol):
    def opened(self, study: StudyRecord, trials: list[TrialRecord]) -> None:
        """The study is about to go on; `trials` are those that it has already."""

    def started(self, trial: TrialRecord, slot: str, from_iteration: int) -> None: ...

    def progress(self, trial: TrialRecord, progress: Progress) -> None: ...

    def evaluated(self, trial: TrialRecord, point: EvalPoint) -> None: ...

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        """Complete, pruned, paused or failed. `best` is the best complete trial so far."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


class Silent:
    """Nobody watches."""

    def opened(self, study: StudyRecord, trials: list[TrialRecord]) -> None: ...

    def started(self, trial: TrialRecord, slot: str, from_iteration: int) -> None: ...

    def progress(self, trial: TrialRecord, progress: Progress) -> None: ...

    def evaluated(self, trial: TrialRecord, point: EvalPoint) -> None: ...

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None: ...

    def note(self, text: str) -> None: ...

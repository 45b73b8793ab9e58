"""Real studies with trainers that cost nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from invariants import rows
from toy_spaces import SPACE
from waiting import wait_for

from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.space.load import parse_space
from hpsearch.storage.leases import this_process
from hpsearch.storage.records import TrialRecord
from hpsearch.tuning.callbacks import Silent, Watcher
from hpsearch.tuning.coordinator import Coordinator
from hpsearch.tuning.request import Request, check
from hpsearch.tuning.stopping import Limits
from hpsearch.tuning.study import Study, open_study


class Heard(Silent):
    """Remembers what a person would have been told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.started_from: list[int] = []

    def started(self, trial: TrialRecord, slot: str, from_iteration: int) -> None:
        self.started_from.append(from_iteration)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Toys:
    """Runs studies on one database."""

    folder: Path
    cache_dir: Path

    def request(self, trials: int = 6, text: str = SPACE, **changes: object) -> Request:
        space = parse_space(text, "toy.yaml")
        whole: dict[str, object] = {
            "space": space,
            "name": space.name,
            "trials": trials,
            "storage_url": f"sqlite:///{self.folder / 'hpsearch.db'}",
            "studies_dir": self.folder,
            "cache_dir": self.cache_dir,
        }
        return Request(**(whole | changes))  # type: ignore[arg-type]

    def stop_when(self, statement: str) -> Callable[[Coordinator], None]:
        """For `meanwhile`: stops the study once `statement` selects a row of its default database."""
        url = f"sqlite:///{self.folder / 'hpsearch.db'}"

        def watch(coordinator: Coordinator) -> None:
            def wait() -> None:
                wait_for(lambda: bool(rows(url, statement)))
                coordinator.stop("interrupted")

            threading.Thread(target=wait, daemon=True).start()

        return watch

    def run(
        self,
        trials: int = 6,
        *,
        trainer: str = "curve",
        slots: int = 2,
        text: str = SPACE,
        meanwhile: Callable[[Coordinator], None] | None = None,
        limits: Limits | None = None,
        step_limit_s: float = 600.0,
        watcher: Watcher | None = None,
        **changes: object,
    ) -> tuple[Study, str]:
        """Run until the total is reached; the study and why it ended. meanwhile: called before the work starts."""
        request = self.request(trials, text, **changes)
        owner = this_process()
        study = open_study(request, check(request), owner)
        try:
            with closing(LocalExecutor(slots, 1, trainer=f"toy_trainers:{trainer}")) as executor:
                coordinator = Coordinator(study, executor, watcher or Silent(), owner, limits, step_limit_s=step_limit_s)
                if meanwhile:
                    meanwhile(coordinator)
                return study, coordinator.run()
        finally:
            study.store.release(study.record.id, owner)

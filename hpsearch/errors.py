"""The exceptions that people see; each class knows the exit code of the command that raised it.

The codes are those of the documented interface. Anything that is not an `HpsearchError` is a bug: exit code 1, a traceback
in the log and one line on the terminal that says where.

HpsearchError
├── BadInput (2)             what the user gave cannot be used; nothing was changed
│   ├── SpaceError           … in a search-space file, with file:line:column
│   ├── ConfigError          … in one trial's hyperparameters, with the name
│   └── DataError            … in the text to train on
├── StudyGone (3)            deleted while it ran
├── StudyOwned (3)           another coordinator works on it
├── StorageUnreachable (4)   the database does not answer
├── ClusterUnreachable (4)   the Ray cluster does not answer, or has no room
├── NoTrialSucceeded (5)     finished, with nothing to show
├── StoppedForNow (75)       a reason that passes (disk full): run the same command again
└── SlotsUnable (1)          no process that trains can start here
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from hpsearch.text import printable


class HpsearchError(Exception):
    """Base of every error that is shown to users as one line, without a traceback: what would break the line, such as a line
    feed in a name that is quoted, is shown as it is written in Python."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))

    @property
    def lines(self) -> tuple[str, ...]:
        """What the terminal shows."""
        return (str(self),)


class BadInput(HpsearchError):
    exit_code = 2


class SpaceError(BadInput):
    """A search space that cannot be used. The text starts with `file:line:column: `.

    others: further mistakes of the same file. The text then says how many they are; `all` has them.
    """

    def __init__(
        self, message: str, *, path: str = "<space>", line: int = 1, column: int = 1, others: Sequence[SpaceError] = ()
    ) -> None:
        self.message, self.path, self.line, self.column, self.others = message, path, line, column, tuple(others)
        more = f"; and {len(others)} more: `hpsearch space check` lists them" if others else ""
        super().__init__(f"{path}:{line}:{column}: {message}{more}")

    @property
    def all(self) -> tuple[SpaceError, ...]:
        """Each mistake by itself, in the order of the file."""
        if not self.others:
            return (self,)
        return (SpaceError(self.message, path=self.path, line=self.line, column=self.column), *self.others)


class SpaceMistakes(SpaceError):
    """All mistakes of a file, each on a line of its own."""

    @classmethod
    def of(cls, error: SpaceError) -> SpaceMistakes:
        return cls(error.message, path=error.path, line=error.line, column=error.column, others=error.others)

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(str(each) for each in self.all)


class ConfigError(BadInput):
    """Hyperparameters that no model can have. `name` is the hyperparameter to mend; `hint` (`; did you mean 'x'?`) ends the
    message, and is empty where no name is near."""

    def __init__(self, name: str, message: str, hint: str = "") -> None:
        self.name, self.hint = name, hint
        super().__init__(message + hint)


class DataError(BadInput):
    """A text that cannot be trained on."""


class StudyGone(HpsearchError):
    exit_code = 3


class StudyOwned(HpsearchError):
    exit_code = 3


class StorageUnreachable(HpsearchError):
    exit_code = 4


class ClusterUnreachable(HpsearchError):
    exit_code = 4


class NoTrialSucceeded(HpsearchError):
    exit_code = 5


class StoppedForNow(HpsearchError):
    exit_code = 75


class SlotsUnable(HpsearchError):
    """Slot processes end before they have begun with a trial; what they wrote on the terminal says why."""


INTERRUPTED = 130
"""Exit code after Ctrl-C: the study is resumable."""


def install(extra: str) -> str:
    """The command that installs an optional dependency. hpsearch is on no package index yet, so it starts from a checkout."""
    return f"in the checkout of hpsearch, run: pip install -c constraints.txt '.[{extra}]'"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of `known`, or an empty string when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def hint(word: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    """`; …` with what `elsewhere` says of a word that other tools have for the thing, else the nearest of `known`."""
    told = elsewhere.get(word) or elsewhere.get(word.lower())
    return f"; {told}" if told else did_you_mean(word, known)

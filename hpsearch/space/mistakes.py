"""Mistakes that are found together: one is noted, and the reading goes on with what does not depend on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hpsearch.errors import SpaceError

Value = TypeVar("Value")


class Follows(Exception):
    """Nothing can be told here, because of a mistake that is noted elsewhere."""


class Mistakes(list[SpaceError]):
    """Those of one part: an entry, a section, a file. A part that has some is raised as one error, which holds them all."""

    follows = False
    """Whether something could not be told because of a mistake elsewhere."""

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """What is wrong inside is noted."""
        try:
            yield
        except SpaceError as error:
            self.extend(error.all)
        except Follows:
            self.follows = True

    def attempt(self, otherwise: Value, read: Callable[..., Value], *arguments: Any) -> Value:
        """What `read` returns; `otherwise` where it finds a mistake, which is noted."""
        found = otherwise
        with self.noting():
            found = read(*arguments)
        return found

    def check(self) -> None:
        """Raises SpaceError with all that was noted, in the order of the file; Follows where only that was."""
        if self:
            told = {(each.path, each.line, each.column, each.message): each for each in self}
            first, *others = sorted(told.values(), key=lambda each: (each.path, each.line, each.column))
            raise SpaceError(first.message, path=first.path, line=first.line, column=first.column, others=others) from None
        if self.follows:
            raise Follows

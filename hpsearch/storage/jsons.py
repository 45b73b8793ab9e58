"""JSON as every database takes it: Python's own has NaN, infinities and halves of surrogate pairs.

SQLite keeps any of it, PostgreSQL and MySQL refuse the numbers, and MySQL refuses the halves too. A number that is not finite
is written as an object, and comes back as it was.
"""

from __future__ import annotations

import json
import math
from typing import Any

from hpsearch.text import storable

_NUMBER = "$float"


def json_text(value: Any) -> str:
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:  # Not finite.
        return json.dumps(_plain(value), allow_nan=False)
    return json.dumps(_plain(value)) if r"\ud" in text else text  # A whole pair stays as it is.


def json_value(text: str | bytes) -> Any:
    if isinstance(text, bytes):
        text = text.decode()
    return json.loads(text, object_hook=_number if _NUMBER in text else None)


def _number(found: dict[str, Any]) -> Any:
    return float(found[_NUMBER]) if found.keys() == {_NUMBER} else found


def _plain(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case float() if not math.isfinite(value):
            return {_NUMBER: str(value)}
        case dict():
            return {storable(str(name)): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value

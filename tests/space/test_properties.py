"""Properties over many spaces. `HPSEARCH_EXAMPLES=5000 pytest tests/space` looks longer, at random."""

from __future__ import annotations

import os
import re
from typing import Any

from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from hpsearch.config import HYPERPARAMETERS
from hpsearch.errors import BadInput, SpaceError
from hpsearch.hyperparameter import Hyperparameter
from hpsearch.space import serialize
from hpsearch.space.bundled import bundled_spaces
from hpsearch.space.load import parse_space
from hpsearch.space.parameters import CONFIDENCES, NEEDS, may_be_empty

EXAMPLES = int(os.environ.get("HPSEARCH_EXAMPLES", "300"))
thorough = settings(max_examples=EXAMPLES, derandomize=EXAMPLES == 300, deadline=None)

BUNDLED = {name: path.read_text() for name, path in bundled_spaces().items()}
OWN_RULES = ("architecture", "vocab_size", "max_iters", "num_epochs", "temperature", "top_k", "top_p")
SEARCHABLE = [info for name, info in HYPERPARAMETERS.items() if not info.fixed and not info.needs and name not in OWN_RULES]
WORD = re.compile(r"[\w.+-]+")
WORDS = [
    *sorted({word for text in BUNDLED.values() for word in WORD.findall(text)}),
    "0",
    "-1",
    "1e999",
    "2 ** 99",
    "null",
    "[]",
]
NUMBERS = [word for word in WORDS if word[0].isdigit()]
JUNK = ["!!python/object:os.system", "&a", "*a", "[", "]", "{", "}", ",", "'", '"', "\n", "\t", "---", "|", ">", "? ", ": "]
JUNK += ["d_model ** 99", "when: d_model > 3", "9" * 400, "\\", "%", "@", "#", "é", "\x07", "\u2028", "\ufeff"]


def _value(info: Hyperparameter) -> st.SearchStrategy[Any]:
    if info.kind == "choice":
        return st.sampled_from(info.choices)
    if info.kind == "bool":
        return st.booleans()
    low = (info.low or 0) + (1e-9 if info.low_open and info.kind == "float" else 0)
    high = info.high - 1e-9 if info.high is not None and info.high_open else info.high if info.high is not None else 1e4
    return st.integers(int(low), int(high)) if info.kind == "int" else st.floats(low, high)


@st.composite
def _entry(draw: st.DrawFn, info: Hyperparameter) -> Any:
    value = _value(info)
    form = draw(st.sampled_from(["fixed", "choices", "range"]))
    if form == "choices":
        wider: st.SearchStrategy[Any] = st.one_of(st.none(), value) if may_be_empty(info) else value
        choices = draw(st.lists(wider, min_size=1, max_size=4, unique=True))
        given_prior = [each for each in choices if each is not None and draw(st.booleans())]
        return {"choices": choices} | (_prior(draw, info, given_prior[0]) if given_prior else {})
    if form == "range" and info.kind in ("int", "float"):
        low, high = sorted([draw(value), draw(value)])
        entry: dict[str, Any] = {"low": low, "high": high}
        if low > 0 and draw(st.booleans()):
            entry["log"] = True
        if draw(st.booleans()):
            prior = draw(st.integers(low, high) if info.kind == "int" else st.floats(low, high))
            entry |= _prior(draw, info, prior)
        return entry
    return draw(value)


def _prior(draw: st.DrawFn, info: Hyperparameter, value: Any) -> dict[str, Any]:
    prior = "auto" if info.name in NEEDS and draw(st.booleans()) else value
    confidence = draw(st.sampled_from([None, *CONFIDENCES]))
    return {"prior": prior} | ({"confidence": confidence} if confidence else {})


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    infos = draw(st.lists(st.sampled_from(SEARCHABLE), min_size=1, max_size=6, unique_by=lambda info: info.name))
    parameters = {draw(st.sampled_from((info.name, *info.aliases))): draw(_entry(info)) for info in infos}
    texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
    document: dict[str, Any] = {"name": draw(st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True)), "parameters": parameters}
    if draw(st.booleans()):
        weighted = st.dictionaries(texts, st.floats(0.1, 9), min_size=1)
        text = draw(st.one_of(texts, st.lists(texts, min_size=1, max_size=3), weighted))
        document["data"] = {"text": text, "validation": draw(st.one_of(st.floats(0.01, 0.9), texts))}
    if draw(st.booleans()):
        kind = draw(st.sampled_from(["device_seconds", "flops", "tokens"]))
        document["budget"] = {kind: draw(st.integers(1, 10**15)), "evaluations": draw(st.integers(1, 50))}
    if draw(st.booleans()):
        document["constraints"] = {"num_parameters": {"max": draw(st.floats(0, 1e9))}}
    return document


@settings(thorough, max_examples=EXAMPLES // 3)
@given(documents())
def test_a_space_survives_its_own_yaml(document: dict[str, Any]) -> None:
    try:
        space = parse_space(serialize.to_yaml(document))
    except SpaceError:
        assume(False)
    again = parse_space(space.to_yaml())
    assert again.digest == space.digest
    assert again == space
    assert again.to_yaml() == space.to_yaml()
    assert again.prior() == space.prior()
    assert space.violation(space.settings(space.prior())) is None
    assert space.differences(again) == []


@settings(thorough, max_examples=EXAMPLES // 10)
@given(st.data())
def test_the_order_of_entries_does_not_change_the_digest(data: st.DataObject) -> None:
    space = parse_space(BUNDLED[data.draw(st.sampled_from(sorted(BUNDLED)))])
    content = space.content()
    shuffled = {key: content[key] for key in data.draw(st.permutations(list(content)))}
    names = data.draw(st.permutations(list(content["parameters"])))
    shuffled["parameters"] = {name: content["parameters"][name] for name in names}
    assert parse_space(serialize.to_yaml(shuffled)).digest == space.digest


@thorough
@given(st.data())
def test_a_damaged_space_is_read_or_refused_and_never_a_crash(data: st.DataObject) -> None:
    text = BUNDLED[data.draw(st.sampled_from(sorted(BUNDLED)))]
    text = "\n".join(line.split("  #")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.sampled_from([0, 0, 1, 2, 5, 20])))
        piece = data.draw(st.one_of(st.sampled_from([*WORDS, *JUNK]), st.just(""), st.text(max_size=3)))
        text = text[:start] + piece + text[end:]
    _read_or_refused(text)


@thorough
@given(st.data())
def test_a_space_with_other_words_is_read_or_refused_and_never_a_crash(data: st.DataObject) -> None:
    text = BUNDLED[data.draw(st.sampled_from(sorted(BUNDLED)))]
    text = "\n".join(line.split("  #")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
    for _ in range(data.draw(st.integers(1, 2))):
        word = data.draw(st.sampled_from(list(WORD.finditer(text))))
        alike = NUMBERS if word[0][0].isdigit() else WORDS
        text = text[: word.start()] + data.draw(st.sampled_from(alike)) + text[word.end() :]
    _read_or_refused(text)


def _read_or_refused(text: str) -> None:
    try:
        space = parse_space(text, "fuzz.yaml")
    except BadInput as error:
        message: str | None = str(error)
    else:
        message = None
    event("read" if message is None else "refused")
    if message is not None:
        assert "\n" not in message
        return
    assert space.violation(space.settings(space.prior())) is None
    assert parse_space(space.to_yaml()).digest == space.digest

"""Damaged space files, configs and words of a command line, by the thousand: each is sound or refused in one line with its
place, and never a traceback.

`pytest -m soak tests/faults/test_fuzz_space.py` tries 5,000 of each kind; otherwise a few hundred, always the same ones.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from hpsearch.cli.control import proposal
from hpsearch.cli.options import parse_setting
from hpsearch.cli.spaces import check_space
from hpsearch.config import ALIASES, HYPERPARAMETERS, TrialConfig
from hpsearch.errors import HpsearchError
from hpsearch.export.config_file import config_yaml, parse_value, read_config
from hpsearch.objectives import OBJECTIVES
from hpsearch.space.budget import BUDGET_KINDS
from hpsearch.space.bundled import bundled_spaces
from hpsearch.space.load import load_space, override, parse_space
from hpsearch.space.names import BUILT_IN
from hpsearch.space.space import SearchSpace

PATIENCE_S = 60
"""No space takes so long to read, on any machine: one that does is a hang."""
PLACE = re.compile(r"fuzz\.yaml:[1-9]\d*:[1-9]\d*: .")

BUNDLED = {name: path.read_text(encoding="utf-8") for name, path in sorted(bundled_spaces().items())}
NAMES = [*HYPERPARAMETERS, *ALIASES]
TREES = {name: YAML(typ="safe", pure=True).load(text) for name, text in BUNDLED.items()}
CHOICES = sorted({choice for info in HYPERPARAMETERS.values() for choice in info.choices})

numbers = st.one_of(
    st.integers(-3, 600),
    st.floats(),
    st.sampled_from(
        [0, -1, 2**31, 2**53, 2**53 + 1, 10**18, 10**400, -(10**400), 5e-324, 1e308, 1e-7, 0.5, math.inf, math.nan]
    ),
)
words = st.one_of(
    st.sampled_from(
        [*NAMES, *CHOICES, *OBJECTIVES, *BUDGET_KINDS, "low", "high", "choices", "value", "when", "prior", "step", "log"]
    ),
    st.sampled_from(
        ["auto", "", " ", "null", "yes", "1_000", "0x1f", "1e999", "2020-01-01", "é", "\u2028", "\x00", "\ud7ff", "😀"]
    ),
    st.text(max_size=8),
)
TOKENS = [
    *"+-*/%()[]{}<>=,.:'\"@!~^&|\\;#",
    "**",
    "//",
    "==",
    "<=",
    "!=",
    " ",
    "and",
    "or",
    "not",
    "in",
    "if",
    "else",
    "is",
    "for",
]
TOKENS += ["lambda", "await", "yield", "None", "True", "true", "9**9**9", "1e308", "10" * 100, "0", "1", "2", "64", "0.5", "1j"]
TOKENS += ["min(", "max(", "abs(", "round(", "floor(", "ceil(", "log2(", "sqrt(", "__import__('os')", "'adamw'", "'sgd'", "..."]


@st.composite
def expressions(draw: st.DrawFn, depth: int = 0) -> str:
    """Mostly what the language accepts, of all kinds and sizes."""
    kind = draw(st.sampled_from(["name", "number", "binary", "binary", "call", "compare", "logic", "choice", "string", "in"]))
    if depth > 3 or kind in ("name", "number", "string"):
        leaf = {"number": numbers.map(str), "string": st.sampled_from(CHOICES).map(repr)}
        return str(draw(leaf.get(kind, st.sampled_from(NAMES))))
    below = expressions(depth=depth + 1)
    one, other = draw(below), draw(below)
    if kind == "call":
        function = draw(st.sampled_from(["min", "max", "abs", "round", "floor", "ceil", "log2", "sqrt", "pow"]))
        return f"{function}({one}, {other})" if function in ("min", "max", "pow") else f"{function}({one})"
    if kind == "choice":
        return f"({one} if {draw(below)} else {other})"
    if kind == "in":
        return f"({one} in [{other}, {draw(below)}])"
    operators = {
        "binary": ["+", "-", "*", "/", "//", "%", "**"],
        "compare": ["<", "<=", ">", ">=", "==", "!="],
        "logic": ["and", "or", "and not", "< 3 and"],
    }
    return f"({one} {draw(st.sampled_from(operators[kind]))} {other})"


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """An expression with words put in, left out or exchanged; or a heap of words."""
    pieces = re.findall(r"\w+|\W", draw(expressions()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(pieces)))
        pieces[at : at + draw(st.integers(0, 2))] = [draw(st.sampled_from([*TOKENS, *NAMES]))] * draw(
            st.sampled_from([0, 1, 1, 40])
        )
    return "".join(pieces)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words, mangled()),
    lambda below: st.one_of(st.lists(below, max_size=4), st.dictionaries(words, below, max_size=4)),
    max_leaves=6,
)


@st.composite
def entries(draw: st.DrawFn) -> Any:
    """What may stand behind a hyperparameter's name."""
    form = draw(st.sampled_from(["range", "choices", "value", "expression", "anything"]))
    entry: dict[str, Any] = {}
    if form == "range":
        entry = {"low": draw(numbers), "high": draw(numbers)}
        entry |= draw(st.fixed_dictionaries({}, optional={"log": st.booleans(), "step": numbers, "prior": values}))
    elif form == "choices":
        entry = {"choices": draw(st.lists(st.one_of(numbers, words, st.none(), st.booleans()), max_size=5))}
        entry |= draw(st.fixed_dictionaries({}, optional={"prior": values}))
    elif form == "value":
        entry = {"value": draw(values)}
    else:
        return draw(expressions() if form == "expression" else values)
    confidence = st.sampled_from(["low", "medium", "high", "sure", 1])
    return entry | draw(st.fixed_dictionaries({}, optional={"when": mangled(), "confidence": confidence}))


@st.composite
def changed_trees(draw: st.DrawFn) -> Any:
    """A bundled space with one to four changes in its structure."""
    tree = copy.deepcopy(TREES[draw(st.sampled_from(sorted(TREES)))])
    for _ in range(draw(st.integers(1, 4))):
        parameters = tree.setdefault("parameters", {})
        if not isinstance(parameters, dict):
            break
        match draw(st.sampled_from(["entry", "entry", "rule", "section", "replace", "rename", "remove", "swap"])):
            case "entry":
                parameters[draw(st.sampled_from(NAMES))] = draw(entries())
            case "rule":
                tree["require"] = draw(st.lists(mangled(), max_size=3))
            case "section":
                tree[draw(st.sampled_from(["objective", "data", "budget", "constraints", "name", "require"]))] = draw(sections)
            case change:
                _change(draw, change, tree)
    return tree


sections = st.one_of(
    values,
    st.sampled_from(sorted(OBJECTIVES)),
    st.lists(st.sampled_from(sorted(OBJECTIVES)), max_size=3),
    st.dictionaries(st.sampled_from([*BUDGET_KINDS, "evaluations"]), numbers, max_size=2),
    st.dictionaries(st.sampled_from(["text", "tokenizer", "validation"]), values, max_size=3),
    st.dictionaries(
        st.sampled_from(["num_parameters", "memory_bytes", "train_seconds"]),
        st.dictionaries(st.sampled_from(["min", "max"]), numbers, max_size=2),
        max_size=2,
    ),
)


def _change(draw: st.DrawFn, change: str, tree: dict[Any, Any]) -> None:
    """Change one place of the tree, drawn among all mappings in it."""
    mappings = [tree, *(each for each in tree.values() if isinstance(each, dict))]
    mappings += [each for each in tree.get("parameters", {}).values() if isinstance(each, dict)]
    place = draw(st.sampled_from([each for each in mappings if each] or [{"": None}]))
    key = draw(st.sampled_from(list(place)))
    if change == "replace":
        place[key] = draw(values)
    elif change == "remove":
        del place[key]
    elif change == "rename":
        place[draw(st.one_of(words, st.integers(0, 3)))] = place.pop(key)
    else:
        other = draw(st.sampled_from(list(place)))
        place[key], place[other] = place[other], place[key]


def dumped(tree: Any, flow: bool | None) -> bytes:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = flow
    yaml.allow_unicode = True
    out = io.BytesIO()
    yaml.dump(tree, out)
    return out.getvalue()


NUMERIC = [name for name, kind in BUILT_IN.kinds.items() if kind == "number"]
BOOLEAN = [name for name, kind in BUILT_IN.kinds.items() if kind == "boolean"]
WORDED = [info for info in HYPERPARAMETERS.values() if info.choices]


@st.composite
def sums(draw: st.DrawFn, depth: int = 0) -> str:
    """An expression that the language accepts as a number; computing it may still fail."""
    kind = draw(st.sampled_from(["name", "name", "number", "sign", "binary", "binary", "call", "two", "choice"]))
    if kind == "name" or depth > 4:
        return draw(st.sampled_from(NUMERIC))
    if kind == "number":
        return str(draw(st.sampled_from([0, 1, 2, 3, 4, 8, 63, 64, 65, 0.5, 1e-9, 1e308, 2**255, 10**75])))
    below = sums(depth=depth + 1)
    if kind == "sign":
        return f"(-{draw(below)})"
    if kind == "call":
        return f"{draw(st.sampled_from(['abs', 'round', 'floor', 'ceil', 'log2', 'sqrt']))}({draw(below)})"
    if kind == "two":
        return f"{draw(st.sampled_from(['min', 'max']))}({draw(below)}, {draw(below)})"
    if kind == "choice":
        return f"({draw(below)} if {draw(truths(depth=depth + 1))} else {draw(below)})"
    return f"({draw(below)} {draw(st.sampled_from(['+', '-', '*', '/', '//', '%', '**']))} {draw(below)})"


@st.composite
def truths(draw: st.DrawFn, depth: int = 0) -> str:
    """The same, as a boolean."""
    kind = draw(st.sampled_from(["compare", "compare", "chain", "in", "word", "logic", "not", "string"]))
    number = sums(depth=depth + 2)
    order = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    if kind == "compare" or depth > 3:
        return f"{draw(number)} {draw(order)} {draw(number)}"
    if kind == "chain":
        return f"{draw(number)} {draw(order)} {draw(number)} {draw(order)} {draw(number)}"
    if kind == "in":
        return f"{draw(number)} in [{draw(number)}, {draw(number)}]"
    if kind == "word":
        return draw(st.sampled_from([*BOOLEAN, "true", "false"]))
    if kind == "string":
        info = draw(st.sampled_from(WORDED))
        return f"{info.name} == {draw(st.sampled_from(info.choices))!r}"
    one = draw(truths(depth=depth + 1))
    if kind == "not":
        return f"(not ({one}))"
    return f"({one} {draw(st.sampled_from(['and', 'or']))} {draw(truths(depth=depth + 1))})"


@st.composite
def plausible_trees(draw: st.DrawFn) -> Any:
    """A bundled space with rules, conditions and derived values that could be meant."""
    tree = copy.deepcopy(TREES[draw(st.sampled_from(sorted(TREES)))])
    tree["require"] = draw(st.lists(truths(), max_size=2))
    parameters = tree["parameters"]
    for name in draw(st.lists(st.sampled_from(NUMERIC), max_size=2)):
        parameters[name] = draw(st.one_of(sums(), st.fixed_dictionaries({"value": sums(), "when": truths()})))
    searched = [name for name, entry in parameters.items() if isinstance(entry, dict)]
    for name in draw(st.lists(st.sampled_from(searched), max_size=2)):
        parameters[name]["when"] = draw(truths())
    return tree


PIECES = [
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!python/object/apply:os.system ",
    b"!t ",
    b"---\n",
    b"...\n",
    b"%YAML 1.1\n",
    b"? ",
    b"- ",
]
PIECES += [
    b": ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"'",
    b'"',
    b"\t",
    b"  ",
    b"\n",
    b"\r",
    b"|\n",
    b">-\n",
    b"#",
    b"\\x",
    b"\x00",
    b"\xff",
]
PIECES += [b"\xc3", "\ufeff".encode(), "\u2028".encode(), "\U0001f600".encode(), b"9" * 5000, b"1e999999999", b"[" * 1500]
PIECES += [b"{a: " * 1500, b"a: &b [*b]", b"0o17", b"1:30", b".inf", b"~", b"null", b"''", b"=", b"@", b"`"]


@st.composite
def edited(draw: st.DrawFn, text: bytes) -> bytes:
    """Bytes dropped, put in, doubled or moved; lines indented, doubled or left out."""
    for _ in range(draw(st.integers(1, 4))):
        lines = text.split(b"\n")
        at, line = draw(st.integers(0, len(text))), draw(st.integers(0, len(lines) - 1))
        until = min(len(text), at + draw(st.sampled_from([1, 1, 2, 5, 40])))
        match draw(st.sampled_from(["drop", "put", "double", "move", "bytes", "indent", "twice", "leave"])):
            case "drop":
                text = text[:at] + text[until:]
            case "put":
                text = text[:at] + draw(st.sampled_from(PIECES)) + text[at:]
            case "bytes":
                text = text[:at] + draw(st.binary(max_size=4)) + text[until:]
            case "double":
                text = text[:until] + text[at:until] + text[until:]
            case "move":
                rest = text[:at] + text[until:]
                to = draw(st.integers(0, len(rest)))
                text = rest[:to] + text[at:until] + rest[to:]
            case "indent":
                lines[line] = draw(st.sampled_from([b" ", b"  ", b"\t", b"      "])) + lines[line]
                text = b"\n".join(lines)
            case "twice":
                text = b"\n".join([*lines[:line], lines[line], *lines[line:]])
            case "leave":
                text = b"\n".join([*lines[:line], *lines[line + 1 :]])
    return text


bundled = st.sampled_from(sorted(BUNDLED)).map(lambda name: BUNDLED[name].encode())
KINDS = {
    "text": bundled.flatmap(edited),
    "structure": st.builds(dumped, changed_trees(), st.sampled_from([None, True, False])),
    "meaning": st.builds(dumped, plausible_trees(), st.just(None)),
    "both": st.builds(dumped, changed_trees(), st.sampled_from([None, True])).flatmap(edited),
}


@contextlib.contextmanager
def patience() -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise AssertionError(f"still at it after {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(path: Path, content: bytes) -> str:
    """How `hpsearch space check` refuses a file; empty where the space is sound, and a first trial can be made of it."""
    path.write_bytes(content)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), patience():
            check_space(str(path), as_json=False)
    except HpsearchError as error:
        refused = error
    else:
        out.getvalue().encode()
        space = load_space(path)
        TrialConfig.build({"max_iters": 1, **space.settings(space.prior())})
        return ""
    assert refused.exit_code == 2
    line = str(refused)
    assert line.splitlines() == [line]
    assert PLACE.search(line), line
    return line


def fuzzed(kind: str, examples: int) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
        @given(KINDS[kind])
        def check(content: bytes) -> None:
            event("refused" if refusal(folder / "fuzz.yaml", content) else "sound")

        check()

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_space_is_sound_or_refused_with_its_place(kind: str, tmp_path: Path) -> None:
    fuzzed(kind, 125)(tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_five_thousand_damaged_spaces_are_sound_or_refused_with_their_place(kind: str, tmp_path: Path) -> None:
    fuzzed(kind, 5_000)(tmp_path)


CONFIG = {
    "study": {"name": "s", "trial": 3, "objective": "val_bpb", "value": 2.5},
    "data": {"text": {"a.txt": 0.5, "b.txt": 1.5}, "tokenizer": "bpe", "validation": 0.1},
    "run": {"device": "cpu", "threads": 2},
    "hyperparameters": {"max_iters": 20, "learning_rate": 1e-3, "d_model": 32, "num_heads": 4, "norm": "rmsnorm"},
}


@st.composite
def changed_configs(draw: st.DrawFn) -> Any:
    """A config with one to four changes in its structure."""
    tree: dict[Any, Any] = copy.deepcopy(CONFIG)
    if draw(st.booleans()):
        tree = tree["hyperparameters"]
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from([tree, *(each for each in tree.values() if isinstance(each, dict))]))
        key = draw(st.one_of(st.sampled_from([*NAMES, *CONFIG, "<<", "text", "validation"]), words))
        place[key] = draw(values)
    return tree


def as_json(tree: Any) -> bytes:
    return json.dumps(tree, default=str).encode("utf-8", "surrogatepass")


def as_toml(tree: Any) -> bytes:
    """Each value in JSON, which is TOML's form for most of them."""
    lines = [f"{json.dumps(str(key))} = {json.dumps(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for section, content in tree.items():
        if isinstance(content, dict):
            lines += [f"[{json.dumps(str(section))}]", *(f"{json.dumps(str(k))} = {json.dumps(v)}" for k, v in content.items())]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


WRITERS: dict[str, Callable[[Any], bytes]] = {"yaml": lambda tree: dumped(tree, None), "json": as_json, "toml": as_toml}


def require_one_line(error: HpsearchError) -> None:
    assert error.exit_code == 2
    assert str(error).splitlines() == [str(error)]


def fuzzed_configs(form: str, examples: int, folder: Path) -> None:
    whole = changed_configs().map(WRITERS[form])
    path, again = folder / f"fuzz.{form}", folder / "again.yaml"

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.one_of(whole, whole.flatmap(edited), st.just(WRITERS[form](CONFIG)).flatmap(edited)))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            with patience():
                read = read_config(path)
        except HpsearchError as error:
            refused = error
        else:
            event("sound")
            again.write_text(config_yaml(read), encoding="utf-8")
            assert read_config(again).config == read.config
            return
        event("refused")
        require_one_line(refused)
        assert re.match(rf".*fuzz\.{form}:[1-9]\d*:[1-9]\d*: .", str(refused)), str(refused)

    check()


ODD_WORDS = [
    "?0",
    "- x",
    "a: b",
    "|",
    "'x",
    "{a",
    "[1, 2]",
    "\ud800",
    "a\0b",
    "9" * 5000,
    "[" * 3000,
    "1.10",
    "null",
    "0x10",
    "*a",
]


def fuzzed_words(examples: int) -> None:
    """`--set` of a space and of `train`, and `enqueue`."""
    built_in = parse_space(BUNDLED["lm"], "lm.yaml")
    own = parse_space(
        "trainer: own\nname: o\nbudget: {steps: 1}\nparameters:\n  lambda: {low: 1, high: 9}\n  opt.lr: {low: 0.1, high: 1.0}\n"
        "  rev: {choices: [2024-01-01, 0x10, '1.10', plain]}\n  on: {choices: [true, false]}\n  text: some text\n"
    )
    written = st.one_of(values.map(str), words, mangled(), st.sampled_from(ODD_WORDS))

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from([built_in, own]), st.data(), written)
    def check(space: SearchSpace, data: st.DataObject, value: str) -> None:
        name = data.draw(st.one_of(st.sampled_from([*space.parameters, *NAMES]), words))
        for use in (
            lambda: override(space, settings=dict([parse_setting(f"{name}={value}")])),
            lambda: proposal(space, [f"{name}={value}"], {}),
            lambda: read_config(None, {"max_iters": 3, name: parse_value(value)}),
        ):
            try:
                with patience():
                    use()
            except HpsearchError as error:
                require_one_line(error)

    check()


@pytest.mark.parametrize("form", WRITERS)
def test_a_damaged_config_is_sound_or_refused_with_its_place(form: str, tmp_path: Path) -> None:
    fuzzed_configs(form, 100, tmp_path)


def test_words_of_a_command_line_are_values_or_refused_in_one_line() -> None:
    fuzzed_words(100)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", WRITERS)
def test_thousands_of_damaged_configs_are_sound_or_refused_with_their_place(form: str, tmp_path: Path) -> None:
    fuzzed_configs(form, 5_000, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_thousands_of_words_are_values_or_refused_in_one_line() -> None:
    fuzzed_words(5_000)


LAUGHS = "a: &a [l, l]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ENTRY = "parameters:\n  learning_rate: {low: 1e-5, high: 1e-2}\n"
HOSTILE = {
    "a billion laughs": f"{LAUGHS}{ENTRY}",
    "an alias of itself": "parameters: &p\n  d_model: *p\n",
    "100,000 lists in one another": ENTRY + "require: " + "[" * 100_000,
    "100,000 mappings in one another": ENTRY + "require: " + "{a: " * 100_000,
    "100,000 lists as a block": ENTRY + "require:\n  " + "- " * 100_000 + "x",
    "a key that is a line feed": f'{ENTRY}? "\\n"\n: 1\n',
    "a name of a choice that is several lines": 'parameters:\n  optimizer: {choices: ["adamw\\u2028\\x85", "\\f"]}\n',
    "a key that is a list": ENTRY + "? " + "[" * 5_000,
    "a million digits": f"parameters:\n  d_model: {'9' * 900_000}\n",
    "a long file": "#" * 20_000_000,
    "a tower of powers": f"{ENTRY}  d_ff: 9**9**9**9\n",
    "a tower by steps": f"{ENTRY}  d_ff: ((((9**64)**64)**64)**64)**64 // d_model\n",
    "a long sum": f"{ENTRY}  d_ff: {'+'.join(['d_model'] * 50_000)}\n",
    "brackets in one another": f"{ENTRY}  d_ff: {'(' * 5_000}d_model{')' * 5_000}\n",
    "signs in a row": f"{ENTRY}  d_ff: {'-' * 490}d_model\n",
    "not, not, not": f"{ENTRY}require: {'not ' * 120}d_model\n",
    "a long string times a number": f"{ENTRY}require: \"'x' * 10**9 == 'adamw'\"\n",
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_space_is_refused(text: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / "fuzz.yaml", text.encode())


def test_choices_beyond_counting_are_read(tmp_path: Path) -> None:
    names = ("d_model", "d_ff", "num_heads", "num_groups", "embedding_dim", "num_layers")
    text = "parameters:\n" + "".join(f"  {name}: {{low: 1, high: 1000000}}\n" for name in names)
    assert refusal(tmp_path / "fuzz.yaml", f"{text}require: d_model * num_layers > d_ff\n".encode()) == ""

"""Whatever a trainer prints can fail its own trial and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_runs import printing, run

import hpsearch
from hpsearch.execution.protocol import Ended, Failed
from hpsearch.text import LONGEST_MESSAGE
from hpsearch.trainers import reporter as own
from hpsearch.training.events import CheckpointSaved, EvalPoint, Outcome, Progress, Warned

NASTY: tuple[bytes, ...] = (
    b'{"step": 9300000000000000000, "value": 1}',
    b'{"step": -9300000000000000000, "value": 1}',
    b'{"step": 1e30, "value": 1}',
    b'{"step": 1e400, "value": 1}',
    b'{"step": NaN, "value": 1}',
    b'{"step": 1' + b"0" * 5000 + b', "value": 1}',
    b'{"step": "\\ud800", "value": 1}',
    b'{"step": null, "value": 1}',
    b'{"step": [], "value": 1}',
    b'{"step": true, "value": 1}',
    b'{"step": 3, "value": NaN}',
    b'{"step": 3, "value": -Infinity}',
    b'{"step": 3, "value": 1e400}',
    b'{"step": 3, "value": -1' + b"0" * 400 + b"}",
    b'{"step": 3, "value": "\\ud800\\u0000"}',
    b'{"step": 3, "value": {"a": []}}',
    b'{"step": 3, "value": null}',
    b'{"step": 3, "value": 1, "value": 2, "step": 4}',
    b'{"step": 3, "value": 1.7976931348623157e308, "more": -1.7976931348623157e308}',
    b'{"step": 3, "value": 5e-324}',
    b'{"step": 3, "value": 1, "\\ud800\\udfff\\ud800": 2, "\\u0000": 3, "": 4, "a\\nb\\u001b[2J": 5}',
    b'{"step": 3, "value": 1, "' + b"n" * 70_000 + b'": 2}',
    b'{"step": 3, "value": 1, ' + b", ".join(b'"m%d": 1' % index for index in range(20_000)) + b"}",
    b'{"step": 3, "value": 1, "rung": 2, "seconds": 3, "number": 4, "state": 5, "__class__": 6, "neg_value": 7}',
    b'{"step": 3, "value": 1, "checkpoint": "/nowhere/at/all"}',
    b'{"step": 3, "value": 1, "checkpoint": "' + b"/x" * 5000 + b'"}',
    b'{"step": 3, "value": 1, "checkpoint": "a\\u0000b\\ud800"}',
    b'{"step": 3, "value": 1, "checkpoint": "/dev/null"}',
    b'{"step": 3, "value": 1, "checkpoint": {"a": 1}}',
    b'{"step": 3, "value": 1, "checkpoint": false}',
    b'{"a":' * 100_000,
    b'{"step": 3, "value": ' + b"[" * 100_000 + b"}",
    b"{" * 100_000 + b"}",
    b"[" * 100_000,
    b'{"step": 3, "value": 1',
    b'"step": 3, "value": 1}',
    b"\xff\xfe\x00{\x00}\x00",
    b'\xef\xbb\xbf{"step": 3, "value": 1}',
    b'{"step": 3, "value": 1, "\xff\xc3\x28": 2}',
    b"\x00" * 1000,
    b"\x1b]0;title\x07\x1b[31m",
    b"x" * 10_000_000,
    b'{"step": 3, "value": 1, "text": "' + b"x" * 2_000_000 + b'"}',
    b"\r" * 1000,
    b"",
)
EVERY = [b'{"step": %d, "value": %d.5}' % (step, 9 - step) for step in range(1, 9)]
"""What a trainer prints that is well."""


def whole(report: dict[str, Any]) -> bytes:
    return json.dumps(report).encode()


@st.composite
def outputs(draw: st.DrawFn) -> bytes:
    """What a trainer may print: good lines, bad ones, and good ones with a few bytes changed."""
    values = st.one_of(
        st.integers(),
        st.floats(),
        st.text(st.characters(), max_size=5),
        st.none(),
        st.booleans(),
        st.lists(st.none(), max_size=1),
    )
    names = st.one_of(st.sampled_from(["step", "value", "checkpoint", "more"]), st.text(st.characters(), max_size=5))
    small = [line for line in NASTY if len(line) < 10_000]
    lines: list[bytes] = []
    for _ in range(draw(st.integers(1, 12))):
        line = draw(
            st.one_of(
                st.sampled_from(EVERY),
                st.sampled_from(small),
                st.dictionaries(names, values, max_size=5).map(whole),
                st.builds(lambda step, value: whole({"step": step, "value": value}), st.integers(0, 9), values),
                st.binary(max_size=30),
            )
        )
        for _ in range(draw(st.integers(0, 2)) if line else 0):
            at = draw(st.integers(0, len(line) - 1))
            line = line[:at] + draw(st.binary(max_size=2)) + line[at + 1 :]
        lines.append(line)
    return draw(st.sampled_from([b"\n", b"\r\n", b"\r", b" "])).join(lines)


def require_sound(folder: Path, output: bytes, objectives: tuple[str, ...]) -> None:
    """All that a run says is as its coordinator, a database and a file take it."""
    said, ended = run(printing(folder, output), folder, objectives)
    rungs = [each.rung for each in said if isinstance(each, EvalPoint)]
    assert rungs == sorted(set(rungs))
    assert set(rungs) <= {1, 2, 3, 4}
    for each in said:
        match each:
            case EvalPoint():
                assert 0 <= each.iteration <= 8
                assert len(each.metrics) <= own.MOST_METRICS + len(objectives)
                assert all(type(value) is float and math.isfinite(value) for value in each.metrics.values())
                assert all(len(name.encode()) <= 4 * own.LONGEST_NAME for name in each.metrics)
            case Progress() | CheckpointSaved():
                assert 0 <= each.iteration <= own.LARGEST_STEP
            case Warned():
                assert len(each.message.encode()) <= 4 * LONGEST_MESSAGE
    match ended:
        case Failed():
            assert ended.kind == "error"
            assert len(ended.message) <= LONGEST_MESSAGE
            assert "\0" not in ended.message + ended.traceback
            (ended.message + ended.traceback).encode()
            assert ended.message.startswith(("ValueError: ", "ProgramFailed: ", "OSError: ")), ended.message
        case Ended(result):
            assert 0 <= result.iteration <= own.LARGEST_STEP
            assert len(result.reason.encode()) <= 4 * LONGEST_MESSAGE
            if result.outcome is Outcome.COMPLETE:
                assert all(math.isfinite(result.metrics[name]) for name in objectives)
    noted = folder / own.RESUME
    if noted.exists():
        json.loads(noted.read_text(), parse_constant=lambda word: pytest.fail(word))
        noted.unlink()


@given(output=outputs(), objectives=st.sampled_from([("value",), ("neg_value",), ("more", "value")]))
@settings(max_examples=40)
def test_whatever_is_printed_only_what_is_sound_is_said(
    tmp_path_factory: pytest.TempPathFactory, output: bytes, objectives: tuple[str, ...]
) -> None:
    require_sound(tmp_path_factory.mktemp("run"), output, objectives)


@pytest.mark.soak
@given(output=outputs(), objectives=st.sampled_from([("value",), ("neg_value",), ("more", "value")]))
@settings(max_examples=20_000)
def test_of_twenty_thousand_outputs_none_is_unsound(
    tmp_path_factory: pytest.TempPathFactory, output: bytes, objectives: tuple[str, ...]
) -> None:
    require_sound(tmp_path_factory.mktemp("run"), output, objectives)


@pytest.mark.parametrize("line", NASTY, ids=range(len(NASTY)))
def test_a_nasty_line_between_good_ones_is_sound(tmp_path: Path, line: bytes) -> None:
    require_sound(tmp_path, b"\n".join([*EVERY[:2], line, *EVERY[2:]]), ("value",))


def test_a_study_of_nasty_trainers_ends_and_can_be_gone_on_with(tmp_path: Path, any_storage_url: str) -> None:
    lines = [NASTY[0], *NASTY[4:7], *NASTY[10:24], b""]  # What comes as far as a database.
    for index, line in enumerate(lines):
        (tmp_path / f"{index}.out").write_bytes(b"\n".join([*EVERY[:2], line, *EVERY[2:]]))
    choices = {"choices": [f"{index}.out" for index in range(len(lines))], "prior": "0.out"}
    space = {"name": "nasty", "budget": {"steps": 8, "evaluations": 8}, "parameters": {"which": choices}}
    command = f"cat {tmp_path}/{{which}}"

    def tuned(trials: int) -> hpsearch.Study:
        options: Any = {"sampler": "grid", "slots": 2, "pruner": "none", "view": "none", "storage": any_storage_url}
        return hpsearch.tune(command, space, trials=trials, studies_dir=tmp_path, **options)

    first = tuned(len(lines) // 2)
    study = tuned(len(lines))
    assert study.trials[: len(first.trials)] == first.trials
    assert sorted(trial.config["which"] for trial in study.trials) == sorted(choices["choices"])
    assert {trial.state for trial in study.trials} == {"complete", "failed", "pruned"}
    assert study.best is not None
    assert [trial.value for trial in study.trials if trial.config["which"] == f"{lines.index(b'')}.out"] == [1.5]
    assert all(len(trial.reason) <= LONGEST_MESSAGE for trial in study.trials)
    assert all(len(trial.metrics) <= own.MOST_METRICS for trial in study.trials)
    study.frame()
    study.curves()

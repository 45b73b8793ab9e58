from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hpsearch.export.config_file import best_config_yaml
from hpsearch.results.verdict import (
    Verdict,
    comment_lines,
    compare,
    estimate,
    judge,
    pooled_sd,
    row_of,
    verdict_dict,
)
from hpsearch.results.view import StudyView
from hpsearch.storage.records import ConfirmationRecord

MakeView = Callable[..., StudyView]

DEFAULT = (2.50, 2.53, 2.48, 2.51, 2.49)
BETTER = (2.40, 2.44, 2.37, 2.42, 2.39)


def records(number: int, values: Sequence[float]) -> list[ConfirmationRecord]:
    return [ConfirmationRecord(number, seed, value, {"val_bpb": value}, 1.0, 1e9) for seed, value in enumerate(values, 1)]


def verdict_of(view: StudyView, **values: Sequence[float]) -> Verdict:
    """Of `default=…`, `first=…` and, for the second best trial, `second=…`."""
    first, second = view.ranked[:2]
    numbers = {"default": 0, "first": first.number, "second": second.number}
    found = judge(
        view.by_number,
        [record for name, each in values.items() for record in records(numbers[name], each)],
        "val_bpb",
        first.number,
    )
    assert found is not None
    return found


def test_a_mean_has_students_interval() -> None:
    found = estimate(DEFAULT)
    assert found is not None
    low, high = stats.t.interval(0.95, len(DEFAULT) - 1, np.mean(DEFAULT), stats.sem(DEFAULT))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.mean, found.sd) == (pytest.approx(np.mean(DEFAULT)), pytest.approx(np.std(DEFAULT, ddof=1)))
    single = estimate([2.5])
    assert single is not None
    assert (single.low, single.high, single.sd, single.half) == (None, None, None, None)
    assert estimate([]) is None


def test_a_difference_is_paired_by_seed() -> None:
    one, other = dict(enumerate(BETTER)), dict(enumerate(DEFAULT))
    found = compare(one, other | {99: 0.0}, noise=0.02)
    assert found.estimate is not None
    theirs = stats.ttest_rel(BETTER, DEFAULT).confidence_interval(0.95)
    assert (found.estimate.low, found.estimate.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert (found.word, found.estimate.n) == ("better", 5)
    assert compare(other, one, noise=0.02).word == "worse"


def test_a_difference_that_seeds_explain_is_a_tie() -> None:
    one = {1: 2.5, 2: 2.6, 3: 2.4}
    zero_inside = compare(one, {1: 2.55, 2: 2.5, 3: 2.45}, noise=0.1)
    assert (zero_inside.word, zero_inside.reason) == ("tie", "0 is in the interval of the difference")
    steady = {seed: value - 0.01 for seed, value in one.items()}
    below_noise = compare(steady, one, noise=0.1)
    assert below_noise.estimate is not None
    assert below_noise.estimate.high is not None
    assert below_noise.estimate.high < 0
    assert (below_noise.word, below_noise.reason) == ("tie", "the difference is below the seed noise of 0.1")
    assert compare(steady, one, noise=0.001).word == "better"


def test_few_seeds_say_that_they_are_few() -> None:
    assert compare({1: 2.0}, {1: 3.0}, noise=None).word == "unknown"
    assert compare({1: 2.0}, {2: 3.0}, noise=None).reason == "no seed on which both ended"
    wide = compare({1: 2.0, 2: 2.9}, {1: 3.0, 2: 3.1}, noise=0.3)
    assert (wide.word, wide.reason) == ("tie", "0 is in the interval of the difference, which more seeds would narrow")


def test_the_seed_noise_is_pooled_within_configurations() -> None:
    groups = [list(DEFAULT), [value + 9 for value in BETTER], [1.0]]
    expected = math.sqrt((np.var(DEFAULT, ddof=1) + np.var(BETTER, ddof=1)) / 2)
    assert pooled_sd(groups) == pytest.approx(expected)
    assert pooled_sd([[1.0], []]) is None


def test_a_best_that_beats_the_default_is_said_with_its_size(view: StudyView) -> None:
    found = verdict_of(view, default=DEFAULT, first=BETTER)
    assert found.beats_default is True
    assert found.default == 0
    assert [each.trial for each in found.confirmed] == [found.first, 0]
    assert f"trial {found.first}, is better than the default by 0.0980" in found.sentences[0]
    assert "5 seeds" in found.sentences[0]


def test_a_default_that_beats_the_best_is_said_plainly(view: StudyView) -> None:
    found = verdict_of(view, default=BETTER, first=DEFAULT)
    assert found.beats_default is False
    assert found.sentences[0].startswith("the default beats the search's best: trial")
    assert "worse than the default by 0.0980" in found.sentences[0]


def test_a_search_whose_best_is_the_default_found_nothing_better(view: StudyView) -> None:
    found = judge(view.by_number, records(0, DEFAULT), "val_bpb", first=0)
    assert found is not None
    assert found.beats_default is False
    assert found.sentences[0].startswith("the search found nothing better than the default")


def test_ties_among_the_best_and_a_better_runner_up_are_named(view: StudyView) -> None:
    near = [value + (0.003 if seed % 2 else -0.003) for seed, value in enumerate(BETTER)]
    tied = verdict_of(view, default=DEFAULT, first=BETTER, second=near)
    second = view.ranked[1].number
    assert f"a tie with trial {tied.first}: trial {second}" in tied.sentences
    lower = verdict_of(view, default=DEFAULT, first=BETTER, second=[value - 0.2 for value in BETTER])
    assert lower.confirmed[0].trial == second
    assert any(told.startswith(f"trial {second} is better than trial {lower.first}") for told in lower.sentences)


def test_regression_to_the_mean_is_the_search_value_against_fresh_seeds(view: StudyView) -> None:
    best = view.best
    assert best is not None
    assert best.value is not None
    found = verdict_of(view, default=DEFAULT, first=[best.value + 0.1, best.value + 0.3])
    mine = found.of(best.number)
    assert mine is not None
    assert mine.regression == pytest.approx(0.2)
    assert any("the search made it look better by 0.2000 than it is" in told for told in found.sentences)


def test_a_configuration_that_diverges_on_a_seed_does_not_beat_one_that_does_not(view: StudyView) -> None:
    found = verdict_of(view, default=DEFAULT, first=(*BETTER[:4], math.nan))
    mine = found.of(found.first)
    assert mine is not None
    assert (mine.diverged, mine.runs, len(mine.values)) == (1, 5, 4)
    assert found.beats_default is False
    assert "diverged on 1 of 5 seeds" in found.sentences[0]
    assert f"trial {found.first} diverged on 1 of 5 seeds" in found.sentences
    other_way = verdict_of(view, default=(math.nan, *DEFAULT[1:]), first=BETTER)
    assert other_way.beats_default is True


def test_without_the_default_or_with_one_seed_nothing_is_claimed(view: StudyView) -> None:
    assert verdict_of(view, first=BETTER).beats_default is None
    single = verdict_of(view, default=DEFAULT[:1], first=BETTER[:1])
    assert single.beats_default is None
    assert single.noise is None
    assert "one seed gives no interval" in single.sentences[0]
    assert judge(view.by_number, [], "val_bpb", first=1) is None


def test_the_verdict_in_json_has_the_documented_keys_and_no_nan(view: StudyView) -> None:
    found = verdict_of(view, default=DEFAULT, first=(*BETTER[:4], math.nan), second=BETTER[:1])
    document = json.loads(json.dumps(verdict_dict(found), allow_nan=False))
    assert set(document) == {
        *("objective", "first", "default", "seeds", "noise", "beats_default", "sentences", "confirmed"),
    }
    for each in document["confirmed"]:
        assert set(each) == {
            *("trial", "search_value", "values", "diverged", "mean", "low", "high", "sd", "n", "regression"),
            *("against_default", "against_first"),
        }
    default = next(each for each in document["confirmed"] if each["trial"] == 0)
    assert default["against_default"] is None
    assert set(default["against_first"]) == {"mean", "low", "high", "n", "verdict", "reason"}


def test_a_table_row_marks_the_default_and_the_best(view: StudyView) -> None:
    found = verdict_of(view, default=DEFAULT, first=BETTER)
    best, default = (row_of(found, each) for each in found.confirmed)
    assert best[0] == f"{found.first} (search best)"
    assert default[0] == "0 (default)"
    assert best[5].startswith("better, -0.0980 ± ")
    assert default[5] == "-"


def test_an_exported_config_carries_the_verdict(view: StudyView) -> None:
    best = view.best
    assert best is not None
    confirmed = replace(view, confirmations=[*records(0, DEFAULT), *records(best.number, BETTER)])
    text = best_config_yaml(confirmed, best)
    mean = estimate(BETTER)
    assert mean is not None
    assert f"# Confirmed: val_bpb {mean.mean:.4f} ± {mean.half:.4f} over 5 seeds" in text
    assert "# Default (trial 0): val_bpb 2.5020" in text
    assert "# Verdict: better than the default by 0.0980" in text
    assert confirmed.verdict is not None
    assert comment_lines(confirmed.verdict, view.ranked[1].number) == []
    assert "Confirmed" not in best_config_yaml(view, best)

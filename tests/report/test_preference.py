from __future__ import annotations

from dataclasses import replace

import pytest

from hpsearch.errors import BadInput
from hpsearch.results.preference import Preference, parse_preference, pick
from hpsearch.results.view import StudyView, status_dict
from hpsearch.storage.records import EndReason, TrialRecord, TrialState


def trial(number: int, values: tuple[float, ...], size: int, seconds: float = 1.0, **changes: object) -> TrialRecord:
    record = TrialRecord(
        number,
        TrialState.COMPLETE,
        {},
        {},
        "tpe",
        values=values,
        num_parameters=size,
        metrics={"train_seconds": seconds, "val_bpb": values[0], "num_parameters": float(size)},
    )
    return replace(record, **changes)  # type: ignore[arg-type]


@pytest.fixture
def few(view: StudyView) -> StudyView:
    """Four trials: the best is large, the third is 0.9 % worse and small, the fourth is 5 % worse and smallest."""
    trials = [
        trial(0, (2.10,), 500, 9.0),
        trial(1, (2.00,), 900, 5.0),
        trial(2, (2.018,), 300, 8.0),
        trial(3, (2.10,), 100, 2.0),
        trial(4, (1.50,), 10, 0.1, end_reason=EndReason.INFEASIBLE),
        trial(5, (1.50,), 10, 0.1, constraints={"memory_bytes": 0.2}),
    ]
    return StudyView(view.study, trials)


def two(view: StudyView, *values: tuple[float, float]) -> StudyView:
    study = replace(view.study, objectives=("val_bpb", "flops_per_token"))
    return StudyView(study, [trial(number, pair, 100) for number, pair in enumerate(values)])


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("first", 1),
        ("smallest-within 1%", 2),
        ("smallest-within 0.5%", 1),
        ("smallest-within 5%", 3),
        ("Smallest-within  5 %", 3),
        ("fastest-within 0.9%", 1),
        ("fastest-within=5%", 3),
    ],
)
def test_the_preferred_trial_is_the_smallest_or_fastest_near_the_best(few: StudyView, word: str, number: int) -> None:
    assert pick(few, parse_preference(word)).number == number


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("smalest-within 1%", "did you mean 'smallest-within'"),
        ("largest-within 1%", "use first, smallest-within 1% or fastest-within 1%"),
        ("smallest-within", "use first"),
        ("smallest-within 1", "use first"),
        ("smallest-within 1.2.3%", "1.2.3 is no number"),
        ("", "use first"),
        ("frist", "did you mean 'first'"),
    ],
)
def test_another_word_is_refused_with_the_nearest_form(word: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        parse_preference(word)


def test_a_preference_is_written_as_it_is_read() -> None:
    for preference in (Preference(), Preference("smallest", 0.01), Preference("fastest", 0.025)):
        assert parse_preference(str(preference)) == preference


def test_the_smallest_is_by_the_second_objective_where_that_is_a_size(view: StudyView) -> None:
    seen = two(view, (2.0, 900.0), (2.01, 800.0), (2.015, 850.0))
    assert pick(seen, parse_preference("smallest-within 1%")).number == 1


def test_the_front_holds_what_nothing_else_matches_in_all_objectives(view: StudyView) -> None:
    seen = two(view, (2.0, 900.0), (2.1, 500.0), (2.2, 600.0), (2.0, 900.0), (2.3, 100.0), (2.0, 950.0))
    assert [each.number for each in seen.front] == [0, 1, 4]
    assert status_dict(seen)["front"] == [0, 1, 4]


def test_the_front_of_one_objective_is_the_best(few: StudyView) -> None:
    assert few.front == [few.best]


def test_a_trial_outside_a_constraint_is_neither_best_nor_picked(few: StudyView) -> None:
    assert few.best is not None
    assert few.best.number == 1
    assert {each.number for each in few.ranked} == {0, 1, 2, 3}


def test_nothing_to_pick_is_said(view: StudyView) -> None:
    with pytest.raises(BadInput, match="no complete trial yet"):
        pick(StudyView(view.study, []), parse_preference("smallest-within 1%"))

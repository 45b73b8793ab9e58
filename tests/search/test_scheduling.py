"""Schedulers on simulated curves: no trainer, no database."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.errors import BadInput
from hpsearch.scheduling.curve_stopping import CurveStopper
from hpsearch.scheduling.halving import REDUCTION, Halving, decision_rungs, ordinal
from hpsearch.scheduling.pareto import ranked_by_fronts
from hpsearch.scheduling.protocol import Point, Scheduler
from hpsearch.scheduling.pruners import FIRST_DECISION
from hpsearch.scheduling.schedulers import check_scheduler, make_scheduler

RUNGS = 12
Make = Callable[[], Scheduler]


@dataclass
class Simulated:
    """A study with `slots` slots, whose trials' evaluations come in a random order."""

    curves: Sequence[Sequence[float]]
    scheduler: Scheduler
    slots: int = 2
    seed: int = 0
    rung: dict[int, int] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    complete: dict[int, float] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    decisions: list[tuple[int, int, str]] = field(default_factory=list)
    promoted: list[int] = field(default_factory=list)

    def steps(self) -> bool:
        """Fill the slots and let one running trial be evaluated; False when the study is over."""
        while len(self.running) < self.slots:
            if release := self.scheduler.promote(last=len(self.rung) == len(self.curves)):
                assert release.number not in self.running
                assert release.number not in self.ended
                assert self.rung[release.number] == release.rung
                self.decisions.append((release.number, release.rung, "promote"))
                self.promoted.append(release.number)
                self.running.add(release.number)
            elif len(self.rung) < len(self.curves):
                self.running.add(len(self.rung))
                self.rung[len(self.rung)] = 0
            else:
                break
        if not self.running:
            return False
        draw = random.Random(f"{self.seed} {len(self.points)}")
        number = draw.choice(sorted(self.running))
        self.rung[number] += 1
        value = self.curves[number][self.rung[number] - 1]
        self.points.append(Point(number, self.rung[number], value))
        verdict = self.scheduler.observe(number, self.rung[number], value)
        if verdict.decided:
            self.decisions.append((number, self.rung[number], verdict.action))
        if verdict.action != "continue" or self.rung[number] == RUNGS:
            self.running.remove(number)
        if verdict.action == "prune":
            self._end(number, verdict.reason)
        elif self.rung[number] == RUNGS:
            self.complete[number] = value
            self._end(number, "complete")
        assert not self.running & set(self.scheduler.paused)
        return True

    def run(self) -> Simulated:
        while self.steps():
            pass
        for release in self.scheduler.drain():
            self._end(release.number, release.reason)
        return self

    def _end(self, number: int, reason: str) -> None:
        assert number not in self.ended
        self.ended[number] = reason
        self.scheduler.ended(number)

    @property
    def compute(self) -> float:
        """In whole runs."""
        return len(self.points) / RUNGS


def curves(count: int, seed: int = 0, noise: float = 0.15) -> list[list[float]]:
    """Power laws whose early order is noisy, and whose noise fades towards the end."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        floor, size, exponent = draw.uniform(2.0, 3.0), draw.uniform(0.3, 0.6), draw.uniform(0.3, 0.7)
        wobble = draw.gauss(0, noise)
        found.append(
            [
                floor + size * (rung / RUNGS) ** -exponent + wobble * (1 - rung / RUNGS) + draw.gauss(0, 0.003)
                for rung in range(1, RUNGS + 1)
            ]
        )
    return found


def best_of(whole: Sequence[Sequence[float]]) -> float:
    return min(curve[-1] for curve in whole)


def halving() -> Halving:
    """Of the best third: its numbers are easier to see than those of the default."""
    return Halving(RUNGS, reduction=3)


MAKERS: list[Make] = [lambda: Halving(RUNGS), lambda: CurveStopper(Halving(RUNGS), RUNGS)]
both = pytest.mark.parametrize("make", MAKERS, ids=["halving", "with curves"])


# Where decisions fall


@pytest.mark.parametrize(
    ("evaluations", "rungs"),
    [(12, (3, 6)), (10, (3, 6)), (8, (2, 4)), (4, (1, 2)), (3, (1, 2)), (2, (1,)), (1, ()), (40, (10, 20))],
)
def test_decisions_fall_from_a_quarter_of_the_budget_in_doubling_steps(evaluations: int, rungs: tuple[int, ...]) -> None:
    assert decision_rungs(evaluations) == rungs
    assert all(rung >= FIRST_DECISION * evaluations for rung in rungs)


def test_between_decisions_a_trial_just_goes_on() -> None:
    scheduler = halving()
    for number in range(10):
        scheduler.observe(number, 3, float(number))
    for number, rung in ((11, 1), (11, 2), (0, 4), (0, 5), (0, 12)):
        verdict = scheduler.observe(number, rung, 99.0)
        assert (verdict.action, verdict.decided) == ("continue", False)


# Who goes on


def test_the_top_part_goes_on_at_once_and_the_others_are_set_aside() -> None:
    scheduler = halving()
    for number, value in enumerate((2.5, 2.6, 2.4, 2.3, 2.7, 2.2)):
        scheduler.observe(number, 3, value)
    verdict = scheduler.observe(6, 3, 2.314)
    assert verdict.action == "pause"
    assert verdict.reason == "3rd of 7 at rung 3 (25 % of the budget): 2.3140; the top 2 go on"
    assert verdict.decided_by == "halving"
    assert scheduler.observe(7, 3, 2.1).action == "continue"
    assert 6 in scheduler.paused


def test_the_first_ones_are_set_aside_until_there_is_something_to_rank_them_by() -> None:
    scheduler = halving()
    verdicts = [scheduler.observe(number, 3, float(number)) for number in (0, 1)]
    assert [verdict.action for verdict in verdicts] == ["pause", "pause"]
    assert verdicts[0].reason.endswith("0.0000; nobody goes on among fewer than 3")
    assert scheduler.promote() is None
    assert scheduler.observe(2, 3, 2.0).reason.endswith("; the best goes on")
    release = scheduler.promote()
    assert release is not None
    assert (release.number, release.reason) == (
        0,
        "promoted: 1st of 3 at rung 3 (25 % of the budget): 0.0000; the best goes on",
    )
    assert scheduler.promote() is None


def test_at_a_later_rung_the_best_so_far_goes_on() -> None:
    scheduler = halving()
    actions = [scheduler.observe(number, 6, value).action for number, value in ((4, 2.0), (5, 2.1), (6, 1.9))]
    assert actions == ["continue", "pause", "continue"]


def test_when_no_new_trial_will_come_the_best_goes_on_and_then_the_baseline() -> None:
    scheduler = halving()
    assert [scheduler.observe(number, 3, value).action for number, value in ((0, 9.0), (1, 2.0))] == ["pause", "pause"]
    assert scheduler.promote() is None
    best, baseline = scheduler.promote(last=True), scheduler.promote(last=True)
    assert best is not None
    assert baseline is not None
    assert (best.number, baseline.number) == (1, 0)
    assert baseline.reason.endswith("the best goes on; this trial runs whole in the end")
    assert scheduler.observe(1, 6, 1.9).action == "continue"
    assert scheduler.observe(0, 6, 8.0).action == "pause"
    again = scheduler.promote(last=True)
    assert again is not None
    assert (again.number, again.rung) == (0, 6)
    assert scheduler.promote(last=True) is None


def test_when_no_new_trial_will_come_one_in_three_gets_its_second_look() -> None:
    scheduler = Halving(RUNGS)
    for number in range(1, 13):
        scheduler.observe(number, 3, float(number))
    assert [release.number for _ in range(4) if (release := scheduler.promote())] == [1, 2]
    assert [release.number for _ in range(4) if (release := scheduler.promote(last=True))] == [3, 4]


def test_which_trials_run_whole_in_the_end_is_a_parameter() -> None:
    scheduler = Halving(RUNGS, reduction=3, whole=(5,))
    for number in (1, 2, 0, 5):
        scheduler.observe(number, 3, float(number % 5 + 1))
    promoted = [release.number for _ in range(3) if (release := scheduler.promote(last=True))]
    assert promoted == [5]


def test_of_equal_values_the_earlier_trial_is_better() -> None:
    scheduler = halving()
    actions = [scheduler.observe(number, 3, 2.0).action for number in (5, 4, 3, 2, 1)]
    assert actions == ["pause", "pause", "continue", "continue", "continue"]
    scheduler.ended(4)
    scheduler.ended(5)
    assert scheduler.observe(7, 3, 2.0).action == scheduler.observe(6, 3, 2.0).action == "pause"
    for number in range(8, 24):
        scheduler.observe(number, 3, 9.0)
    first, second = scheduler.promote(), scheduler.promote()
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (6, 7)


@both
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_ends_a_trial_at_any_rung(make: Make, value: float) -> None:
    scheduler = make()
    for rung in (1, 3, 12):
        verdict = scheduler.observe(1, rung, value)
        assert (verdict.action, verdict.decided_by) == ("prune", "divergence")
    assert scheduler.promote() is None
    for number in range(2, 5):
        verdict = scheduler.observe(number, 3, 2.0)
    assert "of 3 " in verdict.reason


def test_a_decay_branch_is_what_trials_are_ranked_by() -> None:
    scheduler = halving()
    for number in range(1, 6):
        scheduler.observe(number, 3, 3.0 + number, branch=2.0 + number)
    assert scheduler.observe(6, 3, 99.0, branch=1.5).action == "continue"
    verdict = scheduler.observe(7, 3, 0.1, branch=6.5)
    assert verdict.action == "pause"
    assert "6.5000" in verdict.reason
    assert scheduler.observe(8, 3, 0.1, branch=math.nan).action == "pause"


# Who comes back


def test_a_trial_that_others_turn_out_worse_than_is_promoted_with_its_reason() -> None:
    scheduler = halving()
    for number, value in ((1, 2.0), (2, 2.1), (3, 2.2)):
        scheduler.observe(number, 3, value)
    assert scheduler.observe(4, 3, 2.05).action == "pause"
    first = scheduler.promote()
    assert first is not None
    assert first.number == 1
    assert scheduler.promote() is None
    for number in (5, 6):
        scheduler.observe(number, 3, 2.5)
    release = scheduler.promote()
    assert release is not None
    assert (release.number, release.rung) == (4, 3)
    assert release.reason == "promoted: 2nd of 6 at rung 3 (25 % of the budget): 2.0500; the top 2 go on"
    assert 4 not in scheduler.paused
    assert scheduler.promote() is None


def test_the_highest_rung_is_promoted_first() -> None:
    scheduler = halving()
    for rung in (3, 6):
        for number in range(1, 4):
            scheduler.observe(number, rung, 2.0 + number)
    scheduler.observe(4, 3, 2.5)  # let through
    assert scheduler.observe(4, 6, 3.5).action == "pause"
    assert scheduler.observe(5, 3, 3.1).action == "pause"
    for number in (6, 7, 8):
        scheduler.observe(number, 3, 9.0)
    for number in (1, 2):  # they get worse at rung 6
        scheduler.observe(number, 6, 5.0)
    first = scheduler.promote()
    assert first is not None
    assert (first.number, first.rung) == (4, 6)


def test_an_ended_trial_is_never_promoted_and_still_counts() -> None:
    scheduler = halving()
    for number, value in ((1, 2.0), (2, 2.1), (3, 2.2), (4, 2.05)):
        scheduler.observe(number, 3, value)
    scheduler.ended(4)
    for number in range(5, 13):
        scheduler.observe(number, 3, 9.0)
    promoted = [release for _ in range(4) if (release := scheduler.promote())]
    assert [release.number for release in promoted] == [1, 2, 3]
    assert promoted[-1].reason.startswith("promoted: 4th of 12 ")


def test_what_is_left_at_the_end_is_drained_with_its_reason() -> None:
    scheduler = halving()
    for number in range(1, 7):
        scheduler.observe(number, 3, float(number))
    while scheduler.promote():
        pass
    left = scheduler.drain()
    assert [release.number for release in left] == [3, 4, 5, 6]
    assert left[0].reason.startswith("paused at rung 3, never promoted: 3rd of 6 at rung 3")
    assert not scheduler.paused
    assert scheduler.drain() == []


# How well it finds the best


@both
@pytest.mark.parametrize("slots", [1, 2, 8])
def test_the_best_of_64_is_found_with_far_less_compute(make: Make, slots: int) -> None:
    found, compute = [], []
    for seed in range(12):
        whole = curves(64, seed)
        study = Simulated(whole, make(), slots, seed).run()
        assert len(study.ended) == 64
        found.append(min(study.complete.values()) - best_of(whole))
        compute.append(study.compute / 64)
    assert sum(regret == 0 for regret in found) >= 6
    assert sum(found) / len(found) < 0.01, "of a spread of 1"
    assert max(found) < 0.1
    assert max(compute) < 0.45


def test_the_curve_model_saves_compute_and_loses_nothing_of_note() -> None:
    saved, lost = [], []
    for seed in range(8):
        whole = curves(64, seed)
        plain, stopped = (Simulated(whole, make(), 2, seed).run() for make in MAKERS)
        saved.append(1 - stopped.compute / plain.compute)
        lost.append(min(stopped.complete.values()) - min(plain.complete.values()))
    assert sum(saved) / len(saved) > 0.05
    assert sum(lost) / len(lost) < 0.01
    assert max(lost) < 0.05


def test_promotions_happen_and_a_promoted_trial_can_become_the_best() -> None:
    studies = [Simulated(curves(64, seed, noise=0.4), Halving(RUNGS), 2, seed).run() for seed in range(12)]
    assert all(study.promoted for study in studies)
    assert any(min(study.complete, key=study.complete.__getitem__) in study.promoted for study in studies)


def test_no_good_trial_starves() -> None:
    """Whoever is in the top part of its rung when the study ends has gone on."""
    for seed in range(6):
        whole = curves(40, seed)
        Simulated(whole, scheduler := Halving(RUNGS), 2, seed).run()
        at_first = sorted(range(40), key=lambda number: (whole[number][2], number))[: 40 // REDUCTION]
        reached = {point.number for point in replayed(whole, seed) if point.rung > 3}
        assert set(at_first) <= reached
        assert not scheduler.paused


def replayed(whole: Sequence[Sequence[float]], seed: int) -> list[Point]:
    return Simulated(whole, Halving(RUNGS), 2, seed).run().points


def test_the_order_in_which_evaluations_come_matters_little() -> None:
    whole = curves(64, 3)
    studies = [Simulated(whole, Halving(RUNGS), 4, seed).run() for seed in range(10)]
    regrets = [min(study.complete.values()) - best_of(whole) for study in studies]
    compute = [study.compute for study in studies]
    assert max(regrets) < 0.05
    assert max(compute) < 1.15 * min(compute)


# The curve model's rule


def test_a_hopeless_trial_is_stopped_with_its_chance_and_forecast() -> None:
    scheduler = CurveStopper(halving(), RUNGS)
    for number in range(3):
        for rung in range(1, 13):
            scheduler.observe(number, rung, 2.0 + 0.1 * number + 0.5 * (rung / RUNGS) ** -0.5)
        scheduler.ended(number)
    actions = {rung: scheduler.observe(7, rung, 6.0 + 0.5 * (rung / RUNGS) ** -0.5) for rung in range(1, 5)}
    assert [verdict.action for verdict in actions.values()] == ["continue", "continue", "pause", "prune"]
    assert actions[4].decided_by == "curve"
    assert "% chance to beat the best (2.5000, trial 0)" in actions[4].reason
    assert "rung 4 (33 % of the budget)" in actions[4].reason
    assert scheduler.paused == {}


def test_a_curve_is_not_judged_before_three_trials_are_complete_nor_the_baseline_ever() -> None:
    scheduler = CurveStopper(halving(), RUNGS)
    for number in (1, 2):
        for rung in range(1, 13):
            scheduler.observe(number, rung, 2.0 + rung**-0.5)
    assert all(scheduler.observe(3, rung, 9.0).decided_by != "curve" for rung in range(1, 13))
    for rung in range(1, 13):
        scheduler.observe(4, rung, 2.0 + rung**-0.5)
    assert "prune" not in [scheduler.observe(0, rung, 99.0).action for rung in range(1, 13)]
    assert scheduler.observe(5, 1, 9.0).action == "continue"


# State


def state_of(scheduler: Scheduler) -> dict[str, object]:
    inner = scheduler._inner if isinstance(scheduler, CurveStopper) else scheduler
    assert isinstance(inner, Halving)
    return {"values": inner._values, "paused": dict(scheduler.paused), "curves": getattr(scheduler, "_values", None)}


@both
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    trials=st.integers(1, 25),
    slots=st.integers(1, 5),
    crash_after=st.integers(0, 200),
    shuffled=st.randoms(use_true_random=False),
)
def test_what_is_stored_gives_the_same_state_and_the_same_end(
    make: Make, seed: int, trials: int, slots: int, crash_after: int, shuffled: random.Random
) -> None:
    whole = curves(trials, seed)
    study = Simulated(whole, make(), slots, seed)
    for _ in range(crash_after):
        if not study.steps():
            break
    points = list(study.points)
    shuffled.shuffle(points)
    again = make()
    again.restore(points, study.decisions, study.ended)
    assert state_of(again) == state_of(study.scheduler)
    undisturbed = Simulated(whole, make(), slots, seed).run()
    study.scheduler = again
    study.run()
    assert study.points == undisturbed.points
    assert study.decisions == undisturbed.decisions
    assert study.ended == undisturbed.ended


@both
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), trials=st.integers(1, 30), slots=st.integers(1, 6), noise=st.floats(0, 2))
def test_no_trial_gets_more_than_its_budget_and_each_ends_once(
    make: Make, seed: int, trials: int, slots: int, noise: float
) -> None:
    study = Simulated(curves(trials, seed, noise), make(), slots, seed).run()
    reached = [(point.number, point.rung) for point in study.points]
    assert len(reached) == len(set(reached))
    assert max(rung for _, rung in reached) <= RUNGS
    assert set(study.ended) == set(range(trials))
    assert study.complete, "the baseline at least is whole"
    assert 0 in study.complete


@both
def test_an_evaluation_that_is_repeated_after_a_crash_decides_nothing_anew(make: Make) -> None:
    scheduler = make()
    for number in range(1, 7):
        scheduler.observe(number, 3, 2.0 + number)
    assert scheduler.observe(9, 3, 1.0).action == "continue"
    for number in range(10, 22):
        scheduler.observe(number, 3, 0.5)
    assert scheduler.observe(9, 3, 1.0).action == "continue"
    assert 9 not in scheduler.paused
    assert scheduler.observe(3, 3, 5.0).action == scheduler.observe(3, 3, 5.0).action


@both
def test_a_promoted_trial_that_repeats_its_rung_goes_on(make: Make) -> None:
    scheduler = make()
    for number, value in ((1, 2.0), (2, 2.1), (3, 2.2), (4, 2.05), (5, 9.0), (6, 9.0)):
        scheduler.observe(number, 3, value)
    release = scheduler.promote()
    assert release is not None
    for number in range(7, 14):
        scheduler.observe(number, 3, 1.0)
    assert scheduler.observe(release.number, 3, 2.05).action == "continue"


def test_a_point_beyond_the_rung_says_that_a_paused_trial_went_on() -> None:
    scheduler = halving()
    scheduler.restore([Point(1, 3, 2.0), Point(1, 4, 1.9)], [(1, 3, "pause")], [])
    assert not scheduler.paused


# Names


def test_an_unknown_scheduler_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(BadInput, match=r"unknown scheduler 'halfing'.*halving"):
        check_scheduler("halfing")


def test_schedulers_by_name() -> None:
    assert make_scheduler("none", 12) is None
    assert isinstance(make_scheduler("halving", 12), CurveStopper)
    assert isinstance(make_scheduler("halving_only", 12), Halving)


@pytest.mark.parametrize(
    ("number", "word"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st"), (113, "113th")],
)
def test_ordinals(number: int, word: str) -> None:
    assert ordinal(number) == word


def test_with_costs_trials_are_ranked_by_fronts_and_a_front_by_how_far_its_trials_are_apart() -> None:
    #                best,        beaten,     smallest,     beaten twice, between
    measures = {0: (1.0, 100.0), 1: (1.5, 100.0), 2: (3.0, 10.0), 3: (3.5, 100.0), 4: (1.2, 80.0)}
    assert ranked_by_fronts(measures) == [0, 2, 4, 1, 3]
    assert ranked_by_fronts({5: (2.0,), 3: (2.0,), 1: (4.0,)}) == [3, 5, 1]
    assert ranked_by_fronts({}) == []


def test_a_small_trial_goes_on_beside_larger_ones_with_lower_loss() -> None:
    scheduler = halving()
    for number in range(1, 6):
        scheduler.observe(number, 3, 2.0 + number / 10, None, (1000.0,))
    assert scheduler.observe(6, 3, 9.0, None, (10.0,)).action == "continue"
    assert scheduler.observe(7, 3, 9.0, None, (1000.0,)).action == "pause"


def test_a_curve_is_judged_by_complete_trials_that_are_not_dearer() -> None:
    def after(costs: float) -> str:
        stopper = CurveStopper(halving(), RUNGS)
        for number in (1, 2, 3):
            for rung in range(1, RUNGS + 1):
                stopper.observe(number, rung, 1.0 + 1.0 / rung, None, (500.0,))
        verdicts = [stopper.observe(9, rung, 5.0 + 1.0 / rung, None, (costs,)) for rung in range(1, 7)]
        return next((verdict.action for verdict in verdicts if verdict.decided_by == "curve"), "continue")

    assert after(500.0) == "prune"
    assert after(100.0) == "continue"


def test_a_run_without_an_evaluation_at_a_rung_is_judged_at_the_next_one() -> None:
    scheduler = halving()
    for number in range(1, 6):
        scheduler.observe(number, 3, float(number))
    assert scheduler.observe(6, 2, 9.0).action == "continue"
    assert scheduler.observe(6, 4, 9.0).action == "pause"
    assert scheduler.paused == {6: 3} | {number: 3 for number in scheduler.paused if number != 6}
    assert scheduler.observe(1, 4, 1.0) == scheduler.observe(1, 5, 1.0)

"""What fresh seeds say of a study's best: means, intervals, ties, and whether the best beats the default.

Every interval is Student's, at 95 %. Differences are taken seed by seed (paired): what a seed does to all configurations
alike drops out. The best that is judged is the search's own, named before any retraining; the lowest confirmed mean would be
picked by noise once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from hpsearch.storage.records import ConfirmationRecord, TrialRecord

CONFIDENCE = 0.95

Word = Literal["better", "worse", "tie", "unknown"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its interval; the interval is None for fewer than two values."""

    mean: float
    low: float | None
    high: float | None
    sd: float | None
    """Standard deviation of one value."""
    n: int

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.high is None else self.high - self.mean


@dataclass(frozen=True, slots=True)
class Difference:
    """A configuration's value less another's on the same seeds; below 0 it is better, as all objectives are minimised."""

    estimate: Estimate | None
    """None without a seed on which both ended."""
    word: Word
    reason: str
    by_divergence: bool = False
    """Whether the word is for the seeds on which one of the two diverged, and not for the estimate."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One configuration."""

    trial: int
    search_value: float | None
    """The one value by which the search ranked it."""
    values: dict[int, float]
    """By seed; those that diverged are left out."""
    diverged: int
    estimate: Estimate | None
    against_default: Difference | None
    """None for the default itself, and where the default was not confirmed."""
    against_first: Difference | None
    """None for the search's best itself."""

    @property
    def regression(self) -> float | None:
        """Confirmed mean less the search's value: how much too good the search made it look."""
        return None if self.estimate is None or self.search_value is None else self.estimate.mean - self.search_value

    @property
    def runs(self) -> int:
        return len(self.values) + self.diverged


@dataclass(frozen=True, slots=True)
class Verdict:
    """All of it."""

    objective: str
    first: int
    """The search's best trial."""
    default: int | None
    """The baseline's trial, where it was retrained."""
    confirmed: tuple[Confirmed, ...]
    """Lowest mean first."""
    seeds: tuple[int, ...]
    noise: float | None
    """Standard deviation of one value over seeds, pooled over the configurations; None while no two values share one."""
    beats_default: bool | None
    """Of the search's best; None while it cannot be said."""
    sentences: tuple[str, ...]
    """For people; the first one is the verdict."""

    def of(self, number: int) -> Confirmed | None:
        """What was confirmed of a trial."""
        return next((each for each in self.confirmed if each.trial == number), None)


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean of `values` with Student's interval; None without values."""
    if not values:
        return None
    mean, n = fmean(values), len(values)
    if n < 2:
        return Estimate(mean, None, None, None, n)
    sd = stdev(values)
    half = _quantile(n - 1) * sd / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, sd, n)


def pooled_sd(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation within groups of values; None where no group has two."""
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    if not freedom:
        return None
    return math.sqrt(sum((len(group) - 1) * stdev(group) ** 2 for group in groups if len(group) > 1) / freedom)


def compare(one: Mapping[int, float], other: Mapping[int, float], noise: float | None) -> Difference:
    """`one` less `other` by seed. A tie: 0 is in the interval, or the mean difference is below the seed noise."""
    found = estimate([one[seed] - other[seed] for seed in one if seed in other])
    if found is None:
        return Difference(None, "unknown", "no seed on which both ended")
    if found.low is None or found.high is None:
        return Difference(found, "unknown", "one seed gives no interval")
    if found.low <= 0 <= found.high:
        hint = ", which more seeds would narrow" if noise is not None and abs(found.mean) >= noise else ""
        return Difference(found, "tie", f"0 is in the interval of the difference{hint}")
    if noise is not None and abs(found.mean) < noise:
        return Difference(found, "tie", f"the difference is below the seed noise of {noise:.2g}")
    return Difference(found, "better" if found.mean < 0 else "worse", "0 is outside the interval of the difference")


def judge(
    trials: Mapping[int, TrialRecord], records: Sequence[ConfirmationRecord], objective: str, first: int, default: int = 0
) -> Verdict | None:
    """The verdict on what is stored so far; None where nothing was retrained.

    trials: by number. records: in any order; those of trials that are not there are left out. first: the search's best trial.
    """
    by_trial: dict[int, dict[int, float]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        if record.trial_number in trials:
            by_trial.setdefault(record.trial_number, {})[record.seed] = record.value
    if not by_trial:
        return None
    ended = {
        number: {seed: value for seed, value in values.items() if math.isfinite(value)} for number, values in by_trial.items()
    }
    noise = pooled_sd([list(values.values()) for values in ended.values()])

    def against(number: int, other: int) -> Difference | None:
        if number == other or other not in by_trial:
            return None
        found = compare(ended[number], ended[other], noise)
        shared = by_trial[number].keys() & by_trial[other].keys()
        lost, theirs = (len(shared - ended[each].keys()) for each in (number, other))
        if not lost and not theirs:
            return found
        # A run that diverged is worth less than any value, so it decides whatever the others say.
        word: Word = "tie" if lost == theirs else "worse" if lost > theirs else "better"
        told = f"it diverged on {lost} of {len(shared)} seeds, trial {other} on {theirs}"
        return Difference(found.estimate, word, told, by_divergence=True)

    confirmed = [
        Confirmed(
            number,
            trials[number].value,
            ended[number],
            len(values) - len(ended[number]),
            estimate(list(ended[number].values())),
            against(number, default),
            against(number, first),
        )
        for number, values in by_trial.items()
    ]
    confirmed.sort(key=lambda each: (each.estimate.mean if each.estimate else math.inf, each.trial))
    seeds = tuple(sorted({seed for values in by_trial.values() for seed in values}))
    beats = None
    mine = next((each for each in confirmed if each.trial == first), None)
    if first == default:
        beats = False
    elif mine is not None and mine.against_default is not None and mine.against_default.word != "unknown":
        beats = mine.against_default.word == "better"
    there = default if default in by_trial else None
    told = _sentences(confirmed, mine, first, there, noise, objective)
    return Verdict(objective, first, there, tuple(confirmed), seeds, noise, beats, told)


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """As documented JSON: `objective`, `first`, `default`, `seeds`, `noise`, `beats_default`, `sentences`, and `confirmed`, a
    list with `trial`, `search_value`, `values` (by seed), `diverged`, `mean`, `low`, `high`, `sd`, `n`, `regression`,
    `against_default` and `against_first` (each null, or `mean`, `low`, `high`, `n`, `verdict`, `reason`)."""

    def of_estimate(found: Estimate | None) -> dict[str, Any]:
        return asdict(found) if found else {"mean": None, "low": None, "high": None, "sd": None, "n": 0}

    def of_difference(found: Difference | None) -> dict[str, Any] | None:
        if found is None:
            return None
        whole = of_estimate(found.estimate) | {"verdict": found.word, "reason": found.reason}
        return {key: whole[key] for key in ("mean", "low", "high", "n", "verdict", "reason")}

    return {
        "objective": verdict.objective,
        "first": verdict.first,
        "default": verdict.default,
        "seeds": list(verdict.seeds),
        "noise": verdict.noise,
        "beats_default": verdict.beats_default,
        "sentences": list(verdict.sentences),
        "confirmed": [
            {
                "trial": each.trial,
                "search_value": each.search_value,
                "values": {str(seed): value for seed, value in each.values.items()},
                "diverged": each.diverged,
                **of_estimate(each.estimate),
                "regression": each.regression,
                "against_default": of_difference(each.against_default),
                "against_first": of_difference(each.against_first),
            }
            for each in verdict.confirmed
        ],
    }


def comment_lines(verdict: Verdict, number: int) -> list[str]:
    """What an exported file says of trial `number`; nothing where it was not retrained."""
    mine = verdict.of(number)
    if mine is None:
        return []
    lines = [f"Confirmed: {_mean(mine, verdict.objective)} (the search measured {_plain(mine.search_value)})"]
    other = verdict.of(verdict.default) if verdict.default is not None else None
    if mine.against_default is not None and other is not None:
        lines.append(f"Default (trial {other.trial}): {_mean(other, verdict.objective)}")
        lines.append(f"Verdict: {told_difference(mine.against_default, 'the default')}")
    return lines


def told_difference(found: Difference, other: str) -> str:
    """`better than the default by 0.0123 (95 % interval 0.01 to 0.02, 5 seeds)`."""
    size = found.estimate
    against = {"tie": "a tie with", "unknown": "not yet told from"}.get(found.word, f"{found.word} than")
    if size is None:
        return f"{against} {other}: {found.reason}"
    if size.low is None or size.high is None:
        return f"{against} {other}: {found.reason} (difference {size.mean:+.4f})"
    interval = f"(difference {size.mean:+.4f}, 95 % interval {size.low:+.4f} to {size.high:+.4f}, {size.n} seeds)"
    if found.word in ("better", "worse") and not found.by_divergence:
        return f"{against} {other} by {abs(size.mean):.4f} {interval}"
    return f"{against} {other}: {found.reason} {interval}"


def row_of(verdict: Verdict, each: Confirmed) -> list[str]:
    """Cells for people: trial, the search's value, confirmed mean, interval, runs, against the default."""
    found = each.estimate
    interval = "-" if found is None or found.low is None else f"{found.low:.4f} to {found.high:.4f}"
    what = "default" if each.trial == verdict.default else "search best" if each.trial == verdict.first else ""
    difference = each.against_default
    against = "-"
    if difference is not None:
        size = difference.estimate
        half = "" if size is None or size.half is None else f" ± {size.half:.4f}"
        against = f"{difference.word}{'' if size is None else f', {size.mean:+.4f}{half}'}"
    return [
        f"{each.trial}{f' ({what})' if what else ''}",
        _plain(each.search_value),
        "-" if found is None else f"{found.mean:.4f}",
        interval,
        f"{each.runs}{f', {each.diverged} diverged' if each.diverged else ''}",
        against,
    ]


def _sentences(
    confirmed: Sequence[Confirmed],
    mine: Confirmed | None,
    first: int,
    default: int | None,
    noise: float | None,
    objective: str,
) -> tuple[str, ...]:
    told = []
    if first == 0:
        told.append("the search found nothing better than the default: trial 0 is its best")
    elif mine is None:
        told.append(f"the search's best, trial {first}, was not retrained yet: confirm it again")
    elif mine.against_default is None:
        told.append(f"the default was not retrained, so nothing says whether trial {first} beats it")
    elif mine.against_default.word == "worse":
        told.append(
            f"the default beats the search's best: trial {first} is {told_difference(mine.against_default, 'the default')}"
        )
    else:
        told.append(f"the search's best, trial {first}, is {told_difference(mine.against_default, 'the default')}")
    told += [
        f"trial {each.trial} is {told_difference(each.against_first, f'trial {first}, the search best,')}"
        for each in confirmed
        if each.trial != default and each.against_first is not None and each.against_first.word == "better"
    ]
    ties = [
        str(each.trial)
        for each in confirmed
        if each.trial != default and each.against_first is not None and each.against_first.word == "tie"
    ]
    if ties:
        told.append(f"a tie with trial {first}: trial{'s' if len(ties) > 1 else ''} {', '.join(ties)}")
    if noise is not None:
        told.append(f"seed noise: one value of {objective} varies by {noise:.2g} (standard deviation over seeds)")
    if mine is not None and mine.regression is not None:
        what = "no better than it is" if mine.regression <= 0 else f"better by {mine.regression:.4f} than it is"
        told.append(
            f"regression to the mean: the search measured {_plain(mine.search_value)} for trial {first}, fresh seeds "
            f"{mine.estimate.mean:.4f} on average; the search made it look {what}"  # type: ignore[union-attr]
        )
    told += [f"trial {each.trial} diverged on {each.diverged} of {each.runs} seeds" for each in confirmed if each.diverged]
    return tuple(told)


def _mean(each: Confirmed, objective: str) -> str:
    lost = f", diverged on {each.diverged} of {each.runs}" if each.diverged else ""
    if each.estimate is None:
        return f"{objective} unknown{lost}"
    half = "" if each.estimate.half is None else f" ± {each.estimate.half:.4f}"
    seeds = f"{each.estimate.n} seed{'s' if each.estimate.n > 1 else ''}"
    return f"{objective} {each.estimate.mean:.4f}{half} over {seeds}{lost}"


def _plain(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4f}"


def _quantile(freedom: int) -> float:
    """Of Student's distribution, for a two-sided interval at CONFIDENCE."""
    from scipy.special import stdtrit  # Here: `status` must not wait for scipy where nothing was confirmed.

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))

"""What a study will cost: short real runs of a few shapes of its space, and a cost model through them.

Speed depends on size: the baseline alone would price a space of other sizes wrong. A step costs a constant, something for each
layer (calls), for each value that passes through (memory) and for each FLOP, Muon's own included; the four rates are fitted to
what was measured, none below zero. The forecast is of trials drawn from the space as a search would go (`drift`), not pruned.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from statistics import fmean
from typing import Any

import numpy as np

from hpsearch.config import TrialConfig
from hpsearch.data.corpus import Corpus, window_shape
from hpsearch.data.held_out import LEAD_BYTES, windows_of
from hpsearch.errors import BadInput
from hpsearch.execution.protocol import Executor
from hpsearch.forecasting.benchmark import GLANCE_S, Bench, Measured, measure
from hpsearch.forecasting.trajectory import course, drifts, improved, likely_loss
from hpsearch.model.counting import count, stack_depths, step_flops
from hpsearch.sampling.auto import START_UP, modelled_share
from hpsearch.sampling.samplers import MODELLERS
from hpsearch.space.parameters import Searched, Setting, Settings
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import StudyRecord, TrialRecord, TrialState
from hpsearch.training.schedules import evaluations

DRAWS = 400
"""Configurations that stand for the space."""
TRIES = 20 * DRAWS
FOUND = 1 / 3
"""Configurations beside them, for each searched parameter, that a search finds which learns: the best of the draws, improved.
The more parameters, the emptier are the corners of the space."""

COURSES = 20
"""At least so many courses of a study are averaged, and as many as make SIMULATED trials."""
SIMULATED = 2000

ANSWER_S = 0.02
"""Between an evaluation and the next step: its record, the pruner's and scheduler's decision, the answer."""
ASK_S = 0.1
"""Between two trials in a slot: the outcome told, the next configuration asked for and stored."""
MODEL_S, MODEL_EACH_S = 0.15, 0.045
"""More where the sampler fits a Gaussian process, and again for each parameter that is searched; by the gaps before such trials
in studies of 34 parameters (1.5 to 1.8 s on two cores)."""
WRITTEN_CALLS, WRITTEN_VALUES = 0.15, 1.5
"""Attention weights that are written out take so many more calls of a layer, and each costs what so many values do: medians of
six shapes with and without (benchmarks/RESULTS.md). Rates of their own, fitted to few shapes, took the calls of a small shape
for the weights of a large one."""

MEAN_STEP = 1.05
"""The mean step of a whole run, over the median of those that are measured: the machine does something else now and then (1.03
to 1.06 in the logs of a study)."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    shapes: int
    enough_s: float = GLANCE_S
    """Seconds of steps for each."""


THOROUGH = Effort(6, 1.5)


def effort_for(study_s: float) -> Effort:
    """What a study of about so many seconds is worth, as far as its baseline tells: a small part of its time."""
    if study_s < 30:
        return Effort(2)
    return Effort(4, 1.0) if study_s < 180 else THOROUGH


Make = Callable[[Mapping[str, Any]], TrialConfig]
"""A proposal's config under the study's budget; raises BadInput where it cannot be a trial."""


@dataclass(frozen=True)
class TrialCost:
    """Of one trial, or of the mean trial."""

    seconds: float
    """In its slot, from one trial's end to its own."""
    tokens: float
    flops: float
    """Training only, as in every budget; evaluations are in the seconds."""
    evaluation_flops: float
    """Of all evaluations, which are in no budget: the text that they read is the same for every trial, so a large model's cost
    more."""
    disk_bytes: float
    """Checkpoints that stay when it is complete."""


@dataclass(frozen=True)
class Forecast:
    """Of `trials` trials at `slots` at a time, if none is pruned."""

    trials: int
    slots: int
    rungs: int
    seconds: float
    """From the start of the first trial to the end of the last."""
    slowest_seconds: float
    """The same if every trial is as the slowest drawn: nobody knows before where a search will go."""
    trial: TrialCost
    """The mean one of a study."""
    memory_bytes: int
    """All slots together with the largest model measured."""
    shapes: tuple[Measured, ...]
    baseline_evaluations: float
    """FLOPs of the baseline's evaluations over those of its training."""

    @property
    def disk_bytes(self) -> float:
        return self.trials * self.trial.disk_bytes

    def by_rung(self) -> list[TrialCost]:
        """The mean trial up to each rung, the last one whole; every rung is the same part of the budget."""
        parts = [rung / self.rungs for rung in range(1, self.rungs + 1)]
        whole = self.trial
        return [
            replace(
                whole,
                seconds=part * whole.seconds,
                tokens=part * whole.tokens,
                flops=part * whole.flops,
                evaluation_flops=part * whole.evaluation_flops,
            )
            for part in parts
        ]


def draw_configs(space: SearchSpace, make: Make, *, sampler: str) -> list[TrialConfig]:
    """The baseline, random configurations that may be trials, and what a search that drifts makes of the best of them; always
    the same ones.

    Vocabularies stay the baseline's: the others' tokenizers are not trained for a forecast.
    """
    random, prior = Random(0), space.prior()

    def choose(parameter: Searched, _: Settings) -> Setting:
        return prior[parameter.name] if parameter.name == "vocab_size" else parameter.draw(random)

    drawn: list[tuple[Settings, TrialConfig]] = []
    for _ in range(TRIES if space.searched else 0):
        with contextlib.suppress(BadInput):
            proposal = space.propose(choose)
            drawn.append((proposal, make(proposal)))
        if len(drawn) >= DRAWS:
            break
    most = round(FOUND * len(space.searched)) if drifts(sampler, space.objectives) else 0
    best = sorted(drawn, key=lambda one: likely_loss(one[1]))[:most]
    sizes = [name for name in SIZES if name != "vocab_size"]
    found = [improved(space, make, proposal, sizes) for proposal, _ in best]
    return [make(prior), *(config for _, config in drawn), *found]


def held_out_tokens(corpus: Corpus) -> Callable[[TrialConfig], int]:
    """Tokens that one evaluation of a config reads, about: those of its windows over the held-out spans."""
    per_byte = corpus.train_tokens / corpus.train_bytes

    @functools.cache
    def tokens(eval_iters: int, architecture: str, context_length: int) -> int:
        stride, width = window_shape(architecture, context_length)
        spans = [max(1, round(len(text.encode()) * per_byte)) for text in corpus.held_out(eval_iters)]
        lead = round(LEAD_BYTES * per_byte)
        cuts = (cut for length in spans for cut in windows_of(architecture, length, lead, stride=stride, width=width))
        return max(1, sum(cut.stop - cut.start for cut in cuts))

    return lambda config: tokens(config.eval_iters, config.architecture, config.context_length)


SIZES = (
    *("architecture", "num_layers", "num_encoder_layers", "num_decoder_layers", "d_model", "d_ff", "num_heads", "num_groups"),
    *("embedding_dim", "tie_embeddings", "vocab_size", "context_length", "max_position_embeddings", "batch_size"),
)
"""What tells shapes apart; another learning rate costs the same."""
NO_DROPOUT = dict.fromkeys(("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)


def choose_shapes(configs: Sequence[TrialConfig], most: int, *, drifting: bool = False) -> list[TrialConfig]:
    """The baseline (the first one), of a drifting search what it is likely to go to, and from the cheapest to the dearest step
    of `configs`, `most` in all; of those that cost the same by all that the model knows, one.

    All are the baseline in other sizes: a fit through a few of them would take what its optimizer or its dropout costs for a
    matter of size.
    """

    def resized(config: TrialConfig) -> TrialConfig:
        return configs[0].model_copy(update={name: getattr(config, name) for name in SIZES})

    shapes = [configs[0]]
    if drifting:  # Where no token is seen twice, dropout only costs, and a search finds that out.
        shapes.append(resized(min(configs, key=likely_loss)).model_copy(update=NO_DROPOUT))
    ordered, others = sorted(map(resized, configs), key=step_flops), most - len(shapes)
    for index in range(others):
        shapes.append(ordered[round((len(ordered) - 1) * index / max(1, others - 1))])
    chosen: dict[tuple[float, ...], TrialConfig] = {}
    for shape in shapes[:most]:
        chosen.setdefault(_features(shape), shape)
    return list(chosen.values())


def forecast(
    bench: Bench,
    executor: Executor,
    configs: Sequence[TrialConfig],
    trials: int,
    corpus: Corpus,
    *,
    sampler: str,
    effort: Effort = THOROUGH,
) -> Forecast:
    """Measure some of `configs` (see `draw_configs`) in the slots of `executor` and forecast `trials` like them.

    Raises BadInput when none of them can be trained.
    """
    slots = len(executor.idle())
    drifting = drifts(sampler, bench.space.objectives)
    found = measure(bench, executor, choose_shapes(configs, effort.shapes, drifting=drifting), effort.enough_s)
    if not found:
        raise bench.space.document.place.error("neither the baseline (the priors) nor another configuration can be trained")
    searched, rungs = len(bench.space.searched), bench.space.budget.evaluations
    modelled = sampler == "gp" or (sampler in MODELLERS and len(bench.space.objectives) == 1)
    fit_s = MODEL_S + MODEL_EACH_S * searched if modelled else 0.0
    held_out = held_out_tokens(corpus)
    model = _CostModel(found, held_out, fit_s, slots, fused=bench.devices[0] != "cpu")
    fits = 1.0 if sampler == "gp" else modelled_share(searched)
    first, later = ([model.trial(config, share) for config in configs] for share in (0.0, fits))
    ranked = sorted(range(1, len(configs)), key=lambda index: likely_loss(configs[index]))
    random = Random(0)
    studies = [
        [
            (first if number < START_UP else later)[index]
            for number, index in enumerate(course(ranked, trials, random, drifting=drifting))
        ]
        for _ in range(max(COURSES, SIMULATED // trials))
    ]
    every = [cost for study in studies for cost in study]
    mean = TrialCost(*(fmean(getattr(cost, each.name) for cost in every) for each in fields(TrialCost)))
    # A slot's process has peaked with the largest that was in it; those of a GPU are added up on it.
    memory = slots * max(each.peak_bytes for each in found)
    seconds = fmean(_makespan([cost.seconds for cost in study], slots) for study in studies)
    beside = evaluation_flops(configs[0], held_out) / trial_flops(configs[0])
    slowest = _makespan([max(cost.seconds for cost in later)] * trials, slots)
    return Forecast(trials, slots, rungs, seconds, slowest, mean, memory, tuple(found), beside)


def _makespan(seconds: Sequence[float], slots: int) -> float:
    """Until the last of the trials that take `seconds` ends, each started in the slot that is free first."""
    free = [0.0] * slots
    for cost in seconds:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


class _CostModel:
    """Seconds of any trial, through the shapes that were measured.

    fit_s: of the sampler's model, before a trial that it proposes. fused: see `_features`.
    """

    def __init__(
        self,
        measured: Sequence[Measured],
        held_out: Callable[[TrialConfig], int],
        fit_s: float,
        slots: int,
        *,
        fused: bool = False,
    ) -> None:
        self._held_out, self._fit_s, self._slots, self._fused = held_out, fit_s, slots, fused
        self._step = _fit([_features(each.config, fused) for each in measured], [each.step_s for each in measured])
        self._evaluation = _fit([self._read(each.config) for each in measured], [each.evaluation_s for each in measured])
        self._checkpoint = _fit(
            [(1.0, float(each.checkpoint_bytes)) for each in measured], [each.checkpoint_s for each in measured]
        )
        self._bytes = fmean(each.checkpoint_bytes / count(each.config).num_parameters for each in measured)
        depths = [(1.0, float(sum(stack_depths(each.config)))) for each in measured]
        self._around = _fit(depths, [each.start_s + each.end_s for each in measured])

    def trial(self, config: TrialConfig, fits: float = 0.0) -> TrialCost:
        """fits: how often the sampler's model is fitted for a trial, on average."""
        parameters = count(config).num_parameters
        step = MEAN_STEP * float(np.dot(self._step, _features(config, self._fused)))
        evaluation = float(np.dot(self._evaluation, self._read(config)))
        size = self._bytes * parameters
        checkpoint = float(np.dot(self._checkpoint, (1.0, size)))
        rungs = evaluations(config)
        around = float(np.dot(self._around, (1.0, sum(stack_depths(config)))))
        seconds = config.max_iters * step + rungs * (evaluation + checkpoint + ANSWER_S) + around + ASK_S + fits * self._fit_s
        # While the model is fitted for any slot, evaluations wait for their answer: half of that on average.
        seconds += rungs * self._fit_s / 2 * min(1.0, self._slots * fits * self._fit_s / seconds)
        # The best weights are kept beside the checkpoints.
        kept = size * min(config.max_save_num, rungs) + 4 * parameters
        tokens, read = config.max_iters * _step_tokens(config), evaluation_flops(config, self._held_out)
        return TrialCost(seconds, tokens, trial_flops(config), read, kept)

    def _read(self, config: TrialConfig) -> tuple[float, ...]:
        """What the seconds of an evaluation are made of: one, values through the layers, FLOPs."""
        tokens = self._held_out(config)
        return 1.0, tokens * _values(config), tokens * count(config).forward_flops_per_token


def _values(config: TrialConfig) -> float:
    """Numbers that a token becomes on its way through the layers."""
    return sum(stack_depths(config)) * (4 * config.d_model + config.d_ff) + config.vocab_size


def _written(config: TrialConfig, fused: bool) -> float:
    """How often attention weights are written out: for dropout among them, and twice for a loss on them."""
    dropped, told = config.attention_probs_dropout_prob > 0 and not fused, config.attention_loss_weight > 0
    return 2.5 if dropped and told else 2.0 * told + dropped


def _features(config: TrialConfig, fused: bool = False) -> tuple[float, ...]:
    """What the seconds of a step are made of: one, layers, values through the layers, FLOPs.

    fused: whether dropout of attention weights is part of a kernel that writes none of them out, as on a GPU.
    """
    layers, tokens, written = float(sum(stack_depths(config))), _step_tokens(config), _written(config, fused)
    weights = written * layers * config.num_heads * config.context_length
    return (
        1.0,
        layers * (1 + WRITTEN_CALLS * written),
        tokens * (_values(config) + WRITTEN_VALUES * weights),
        step_flops(config),
    )


def _fit(features: Sequence[Sequence[float]], targets: Sequence[float]) -> Any:
    """Rates, none below 0, that give `targets` with the least relative error, and without one on average."""
    rows = np.array(features, float)
    scale = rows.max(axis=0)
    scale[scale == 0] = 1.0
    weights = 1.0 / np.maximum(np.array(targets, float), 1e-9)
    from scipy.optimize import nnls  # Here: it takes a second, and a study that goes on has its forecast.

    rates, _ = nnls(rows / scale * weights[:, None], np.ones(len(targets)))
    rates /= scale
    # The least relative error lies too low where noise is large; on average the rates must give what was measured.
    predicted = rows @ rates
    return rates * fmean(np.array(targets) / predicted) if predicted.all() else rates


def _step_tokens(config: TrialConfig) -> int:
    return config.batch_size * config.context_length


def trial_flops(config: TrialConfig) -> float:
    """Training FLOPs of a whole trial."""
    return config.max_iters * step_flops(config)


def evaluation_flops(config: TrialConfig, held_out: Callable[[TrialConfig], int]) -> float:
    """FLOPs of all evaluations of a trial. held_out: tokens that one of them reads."""
    return evaluations(config) * held_out(config) * count(config).forward_flops_per_token


def dear_evaluations(noted: Mapping[str, Any]) -> str:
    """What a person should know of a study whose evaluations cost more than what they measure; empty otherwise."""
    share = noted.get("baseline_evaluations", 0.0)
    if share <= 1:
        return ""
    return (
        f"the baseline's evaluations cost {share:.1f} times what its training does, and are in no budget: a smaller eval_iters "
        "or fewer evaluations make the study cheaper, a larger budget makes them matter less"
    )


# What came of it


def note(found: Forecast) -> dict[str, Any]:
    """What a study remembers of its forecast, under `forecast` in its extras; tokens and FLOPs are a trial's."""
    return {
        "seconds": found.seconds,
        "slowest_seconds": found.slowest_seconds,
        "trials": found.trials,
        "slots": found.slots,
        "rungs": found.rungs,
        "trial_seconds": found.trial.seconds,
        "tokens": found.trial.tokens,
        "flops": found.trial.flops,
        "evaluation_flops": found.trial.evaluation_flops,
        "baseline_evaluations": found.baseline_evaluations,
        "disk_bytes": found.disk_bytes,
        "memory_bytes": found.memory_bytes,
    }


def compared(noted: Mapping[str, Any], study: StudyRecord, trials: Sequence[TrialRecord], actual_s: float) -> dict[str, Any]:
    """`noted` with what came of it.

    actual_s: in which at least one trial was in a slot. Adds `actual_s`, `done` (the part of the forecast's work that was
    done: pruned trials do less), `expected_s` (the forecast of that part) and `error` (expected over actual, less 1).
    """
    rungs = study.budget.evaluations
    whole = TrialState.COMPLETE
    done = sum(1.0 if trial.state is whole else trial.rung / rungs for trial in trials) / noted["trials"]
    expected = noted["seconds"] * done
    error = expected / actual_s - 1 if actual_s > 0 else None
    return {**noted, "actual_s": actual_s, "done": done, "expected_s": expected, "error": error}

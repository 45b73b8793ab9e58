"""`prior: auto`: what published scaling laws say of a trial's hyperparameters, from its own size, tokens and batch.

The laws are pure functions. N is the number of non-embedding parameters, D the tokens that the whole trial trains on, B the
tokens of one optimizer step. They were fitted on models of 50 million parameters and more with AdamW; here they are the
centre of a first guess, not a rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpsearch.config import TrialConfig
from hpsearch.errors import BadInput, ConfigError
from hpsearch.model.counting import count, update_flops
from hpsearch.space.expressions import UnknownValue
from hpsearch.space.names import lookup
from hpsearch.space.parameters import Law, Range, Searched
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import BudgetRecord

SMALL_MODEL = 10_000_000
"""Non-embedding parameters below which the laws' learning rate and weight decay are held down."""
SMALL_MODEL_RATE = 6e-3
SMALL_MODEL_SHARE = 1 / 8
"""Of what the law says of 20 tokens a parameter: about what models of 3,000 to 100,000 parameters want
(benchmarks/small_rates.py)."""
SMALL_MODEL_DECAY = 0.1
"""What is usual in language models. On 10,000 parameters and 600 steps the timescale's law asks for 1.0, which cost 0.14 bits
per byte against anything up to 0.1 (benchmarks/RESULTS.md)."""
TOKENS_PER_PARAMETER = 20
ASPECT = 64
"""Width by depth, that of GPT-2's smallest model."""
WARMUP = 0.02
"""Share of the steps; 1 to 5 % are usual."""
BETA2_ENDS = ((2**16, 0.99), (2**19, 0.95))
"""Tokens of a step, and the decay from there on."""
LION = 5.0
"""By how much Lion's learning rate is below AdamW's."""


def model_size(flops: float) -> float:
    """Non-embedding parameters that a training budget pays for best: sqrt(C / 120), from C = 6 N D with D = 20 N.

    Source: Chinchilla, arXiv:2203.15556.
    """
    return math.sqrt(flops / (6 * TOKENS_PER_PARAMETER))


def num_layers(non_embedding_parameters: float) -> float:
    """Blocks of a model of 12 L d_model^2 parameters that is ASPECT times as wide as it is deep; at least 1.

    The loss depends very weakly on the aspect (arXiv:2001.08361), so a usual one will do.
    """
    return max(1.0, math.cbrt(non_embedding_parameters / (12 * ASPECT**2)))


def d_model(non_embedding_parameters: float, layers: int) -> float:
    """Width of a model of 12 L d_model^2 parameters (feed-forward four times as wide)."""
    return math.sqrt(non_embedding_parameters / (12 * layers))


def learning_rate(non_embedding_parameters: float, tokens: float) -> float:
    """Peak learning rate of AdamW: 1.79 N^-0.713 D^0.307. Below 10 million parameters, where the law was not fitted, at most
    6e-3, or an eighth of what it says of 20 tokens a parameter where that is more (below 70,000 parameters).

    Source: Step Law, arXiv:2503.04715; below 10 million parameters our own measurements.
    """

    def step_law(tokens: float) -> float:
        return 1.79 * math.pow(non_embedding_parameters, -0.713) * math.pow(tokens, 0.307)

    if non_embedding_parameters >= SMALL_MODEL:
        return step_law(tokens)
    measured = SMALL_MODEL_SHARE * step_law(TOKENS_PER_PARAMETER * non_embedding_parameters)
    return min(step_law(tokens), max(SMALL_MODEL_RATE, measured))


def batch_tokens(tokens: float) -> float:
    """Tokens of one optimizer step: 0.58 D^0.571.

    Source: Step Law, arXiv:2503.04715.
    """
    return 0.58 * math.pow(tokens, 0.571)


def timescale(non_embedding_parameters: float, tokens: float) -> float:
    """How far AdamW's weights remember, as a share of the run: 1.084 (D/N)^-0.527. Above 1 nothing is forgotten in the run.

    Source: Power Lines, arXiv:2505.13738.
    """
    return 1.084 * math.pow(tokens / non_embedding_parameters, -0.527)


def weight_decay(non_embedding_parameters: float, tokens: float, step_tokens: float, rate: float) -> float:
    """Decoupled weight decay that gives the best timescale: B / (rate D timescale), at most 0.1 below 10 million parameters.

    Source: Power Lines, arXiv:2505.13738.
    """
    decay = step_tokens / (rate * tokens * timescale(non_embedding_parameters, tokens))
    return min(decay, SMALL_MODEL_DECAY) if non_embedding_parameters < SMALL_MODEL else decay


def beta2(step_tokens: float) -> float:
    """Decay of the second moment: 0.99 up to 2^16 tokens a step, 0.95 from 2^19, and between them a straight line between the
    logarithms of 1 - beta2 and of B.

    That small batches need the longer memory is measured in arXiv:2406.19146; where the change begins and ends is our choice.
    """
    (low, small), (high, large) = BETA2_ENDS
    part = min(max(math.log(step_tokens / low) / math.log(high / low), 0.0), 1.0)
    return 1 - math.pow(1 - small, 1 - part) * math.pow(1 - large, part)


def warmup_steps(max_iters: float) -> float:
    """2 % of the steps, and at least one.

    A short warm-up, in proportion to the run, is what arXiv:2406.19146 finds to matter.
    """
    return max(1.0, WARMUP * max_iters)


@dataclass(frozen=True)
class Scale:
    """What the laws go by, of one configuration. `step_tokens` and `max_iters` belong to its own batch."""

    non_embedding_parameters: int
    tokens: float
    step_tokens: int
    max_iters: float


@dataclass(frozen=True)
class Text:
    """What the size of a trial depends on in its text."""

    vocab_size: int
    windows_per_pass: Callable[[int], int]
    """Training sequences in one pass, by context_length."""


class Laws:
    """The laws for the trials of one study, each at its own size.

    budget: of the study as it is now known: device-seconds count once they are frozen as FLOPs, and until then no law is given.
    text: of a trial with these settings.
    """

    def __init__(
        self, space: SearchSpace, budget: Callable[[], BudgetRecord], text: Callable[[Mapping[str, Any]], Text]
    ) -> None:
        self._space, self._budget, self._text = space, budget, text

    def scale(self, settings: Mapping[str, Any]) -> Scale | None:
        """Of a configuration whose shape is in `settings`; None where it cannot be built or its tokens are not known yet."""
        budget = self._budget()
        if budget.flops is None and budget.kind in ("device_seconds", "flops"):
            return None
        shape = {name: value for name, value in settings.items() if name not in ("eval_interval", "lr_decay_iters")}
        try:
            text = self._text(settings)
            config = TrialConfig.build({"max_iters": 1} | shape | {"vocab_size": text.vocab_size})
            counts = count(config)
            step_tokens = config.batch_size * config.context_length
            tokens = self._tokens(budget, settings, config, text)
        except (ConfigError, BadInput):
            return None
        return Scale(counts.non_embedding_parameters, tokens, step_tokens, tokens / step_tokens)

    def _tokens(self, budget: BudgetRecord, settings: Mapping[str, Any], config: TrialConfig, text: Text) -> float:
        match budget.kind:
            case "device_seconds" | "flops":
                assert budget.flops is not None
                step_tokens = config.batch_size * config.context_length
                return budget.flops / (count(config).flops_per_token + update_flops(config) / step_tokens)
            case "tokens":
                return budget.amount
            case "num_epochs":
                passes = float(settings.get("num_epochs") or budget.amount)
                return passes * text.windows_per_pass(config.context_length) * config.context_length
            case _:
                steps = float(settings.get("max_iters") or budget.amount)
                return steps * config.batch_size * config.context_length

    def __call__(self, parameter: Searched, settings: Mapping[str, Any]) -> float | None:
        """The law's value of an automatic prior beside `settings`, in the hyperparameter's own unit; it may lie outside the
        parameter's range. None where no law is known: for SGD, for shapes that no model has, and for the shape itself where the
        budget is no compute or the model no decoder.
        """
        if parameter.name in ("num_layers", "d_model"):
            return self._shape(parameter.name, settings)
        scale = self.scale(settings)
        if scale is None:
            return None
        optimizer = _known("optimizer", settings)
        if optimizer == "sgd" and parameter.name in ("learning_rate", "weight_decay"):
            return None
        size, tokens = scale.non_embedding_parameters, scale.tokens
        match parameter.name:
            case "learning_rate":
                # Lion's steps have the size of a sign: 3 to 10 times smaller rates than AdamW's, arXiv:2302.06675.
                return learning_rate(size, tokens) / (LION if optimizer == "lion" else 1.0)
            case "batch_size":
                return batch_tokens(tokens) / int(lookup("context_length", settings))
            case "weight_decay":
                factor = LION if optimizer == "lion" else 1.0  # The product of rate and decay is what forgets.
                rate = factor * float(lookup("learning_rate", settings))
                return factor * weight_decay(size, tokens, scale.step_tokens, rate)
            case "beta2":
                return beta2(scale.step_tokens)
            case "warmup_steps":
                return warmup_steps(scale.max_iters)
            case other:
                raise AssertionError(other)

    def _shape(self, name: str, settings: Mapping[str, Any]) -> float | None:
        flops = self._budget().flops
        if flops is None or _known("architecture", settings) != "decoder":
            return None
        size = model_size(flops)
        return num_layers(size) if name == "num_layers" else d_model(size, int(lookup("num_layers", settings)))


def _known(name: str, settings: Mapping[str, Any]) -> Any:
    try:
        return lookup(name, settings)
    except UnknownValue:
        return None


def clamped(space: SearchSpace, law: Law) -> list[str]:
    """A sentence for each automatic prior whose law lies outside its range in the baseline."""
    proposal = space.prior(law)
    settings = space.settings(proposal)
    sentences = []
    for parameter in space.automatic:
        if parameter.name not in proposal:
            continue
        value = law(parameter, settings)
        numbers = [each for each in _ends(parameter) if isinstance(each, int | float)]
        if value is None:
            sentences.append(f"{parameter.name}: no scaling law applies; the baseline has {proposal[parameter.name]}")
        elif numbers and not min(numbers) <= value <= max(numbers):
            side = "below" if value < min(numbers) else "above"
            sentences.append(
                f"{parameter.name}: the scaling law says {value:.3g}, {side} its range from {min(numbers):g} to "
                f"{max(numbers):g}; the prior is at that end"
            )
    return sentences


def _ends(parameter: Searched) -> tuple[Any, ...]:
    return (parameter.low, parameter.high) if isinstance(parameter, Range) else parameter.choices

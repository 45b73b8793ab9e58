"""`budget:`, and the parameters that are the budget (max_iters, num_epochs) or follow from it (eval_interval)."""

from __future__ import annotations

from typing import get_args

from hpsearch.config import ALIASES, evaluations_in
from hpsearch.errors import did_you_mean
from hpsearch.space.parameters import Derived, Fixed, Parameter
from hpsearch.space.serialize import BUDGET_PARAMETERS
from hpsearch.space.space import BudgetKind, BudgetSpec, SearchSpace
from hpsearch.space.yaml_nodes import Mapping, Node, Scalar, plain

DEFAULT_KIND: BudgetKind = "device_seconds"
DEFAULT_AMOUNT = 15.0
DEFAULT_EVALUATIONS = 10
FEW_EVALUATIONS = 5
"""Fewer are too few to prune at; from here to the default, a number that divides the steps of one's own trainer is taken."""
MAX_EVALUATIONS = 1_000
DEFAULT_BUDGET = BudgetSpec(DEFAULT_KIND, DEFAULT_AMOUNT, DEFAULT_EVALUATIONS)
BUDGET_KINDS: tuple[BudgetKind, ...] = tuple(kind for kind in get_args(BudgetKind) if kind != "steps")
WHOLE_KINDS = ("tokens", "max_iters")


def read_budget(node: Node | None, parameters: dict[str, Parameter]) -> BudgetSpec:
    given: dict[BudgetKind, float] = {}
    evaluations: int | None = None
    if node is not None:
        if not isinstance(node, Mapping):
            raise node.place.error("budget is written {device_seconds: 15, evaluations: 10}")
        for written, item in node.items.items():
            key = ALIASES.get(written, written)
            if key == "evaluations":
                evaluations = _whole(item, "evaluations", MAX_EVALUATIONS)
            elif key not in BUDGET_KINDS:
                known = ("evaluations", *BUDGET_KINDS)
                hint = did_you_mean(written, known) or f"; known: {', '.join(known)}"
                raise node.places[written].error(f"budget: unknown key '{written}'{hint}")
            elif given:
                raise node.places[written].error(f"budget: {next(iter(given))} and {key} are two budgets; keep one")
            else:
                given[key] = float(_whole(item, key)) if key in WHOLE_KINDS else _amount(item, key)
    own = _own_budget(parameters, given)
    if own is not None:
        kind, amount = own
    else:
        kind, amount = next(iter(given.items()), (DEFAULT_KIND, DEFAULT_AMOUNT))
    interval = parameters.get("eval_interval")
    if interval is not None:
        if evaluations is not None:
            raise interval.place.error("eval_interval and budget.evaluations both say how often to evaluate; keep one")
        evaluations = _evaluations(interval, kind, amount)
    steps = int(amount) if kind == "max_iters" and amount is not None else MAX_EVALUATIONS
    if evaluations is not None and evaluations > steps:
        assert node is not None
        raise node.place.error(
            f"budget: {evaluations} evaluations need as many steps, and max_iters is {steps}; lower the first"
        )
    return BudgetSpec(kind, amount, evaluations or min(DEFAULT_EVALUATIONS, steps))


def read_steps(node: Node | None, root: Mapping) -> BudgetSpec:
    """The budget of a trainer of one's own: its steps, whatever it counts as one, and how often it evaluates."""
    example = "budget: {steps: 1000, evaluations: 10}"
    if not isinstance(node, Mapping) or "steps" not in node.items:
        place = node.place if node else root.place
        raise place.error(f"how long a trial trains is missing: give {example}, in whatever your trainer counts as a step")
    for key, place in node.places.items():
        if key not in ("steps", "evaluations"):
            raise place.error(f"budget: '{key}' is for the built-in model; a trainer of your own has {example}")
    steps = _whole(node.items["steps"], "steps")
    if "evaluations" not in node.items:
        few, most = min(FEW_EVALUATIONS, steps), min(DEFAULT_EVALUATIONS, steps)
        evaluations = next((count for count in range(most, few - 1, -1) if steps % count == 0), most)
    else:
        evaluations = _whole(node.items["evaluations"], "evaluations", MAX_EVALUATIONS)
        if evaluations > steps:
            raise node.items["evaluations"].place.error(
                f"budget: {evaluations} evaluations need as many steps, and there are {steps}; lower the first"
            )
    return BudgetSpec("steps", float(steps), evaluations)


def _own_budget(parameters: dict[str, Parameter], given: dict[BudgetKind, float]) -> tuple[BudgetKind, float | None] | None:
    own = [parameters[name] for name in BUDGET_PARAMETERS if name in parameters]
    if not own:
        return None
    first = own[0]
    if len(own) > 1:
        raise own[1].place.error(f"{own[1].name} and {first.name} both say how long to train; keep one")
    if given:
        raise first.place.error(
            f"{first.name} and budget.{next(iter(given))} both say how long to train; keep one (budget: {{{first.name}: …}})"
        )
    if first.when is not None or isinstance(first, Derived):
        raise first.place.error(f"{first.name} is the budget here: give it a value, a range or choices, without conditions")
    kind: BudgetKind = "max_iters" if first.name == "max_iters" else "num_epochs"
    if not isinstance(first, Fixed):
        return kind, None
    if not isinstance(first.value, int | float):
        raise first.place.error(f"{first.name} has no value; give a number or remove it")
    return kind, float(first.value)


def _evaluations(interval: Parameter, kind: BudgetKind, amount: float | None) -> int:
    """How many evaluations a fixed eval_interval means."""
    if kind != "max_iters" or amount is None or not isinstance(interval, Fixed) or not isinstance(interval.value, int | float):
        raise interval.place.error(
            f"eval_interval is refused under a budget of {kind}: its number of steps differs from trial to trial, and the "
            "rungs must be the same fractions of it; give budget: {evaluations: 10}"
        )
    if interval.value > amount:
        raise interval.place.error(f"eval_interval {interval.value} is longer than the run of {amount:g} steps; shorten it")
    return evaluations_in(amount, interval.value)


def check_budget(space: SearchSpace) -> None:
    """Equal steps are equal compute only where a step is the same for all trials."""
    if space.budget.kind != "max_iters":
        return
    for name in ("batch_size", "context_length"):
        if space.varies(name):
            raise space.parameters[next(iter(space.resolved([name])))].place.error(
                f"{name} is searched under a budget of max_iters, so that trials would see different amounts of text; "
                f"fix {name}, or give budget: {{tokens: …}}"
            )


def _amount(node: Node, key: str) -> float:
    value = plain(node)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        shown = value if isinstance(node, Scalar) else "a list or mapping"
        raise node.place.error(f"budget: {key} is a number above 0, not {shown}")
    return float(value)


def _whole(node: Node, key: str, most: int = 10**18) -> int:
    value = _amount(node, key)
    if not value.is_integer() or value > most:
        raise node.place.error(f"budget: {key} is a whole number from 1 to {most:g}, not {plain(node)}")
    return int(value)

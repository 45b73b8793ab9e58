"""What no single entry can tell: whether the parts of a space fit together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from hpsearch.config import idle_reason
from hpsearch.errors import SpaceError
from hpsearch.objectives import OBJECTIVES
from hpsearch.space.budget import check_budget
from hpsearch.space.expressions import Expression, ExpressionError, UnknownValue
from hpsearch.space.mistakes import Mistakes
from hpsearch.space.parameters import Derived, Fixed, Parameter, Settings
from hpsearch.space.space import DRAWS, Rule, SearchSpace
from hpsearch.space.yaml_nodes import Place

SAMPLING = ("temperature", "top_k", "top_p")
PLACES = ("save_dir", "log_file")
"""Their value is wrong by itself, whatever the priors are."""
TRIED = 2_000
"""Cases in which an expression is tried for errors."""


def check(
    space: SearchSpace, mistakes: Mistakes, unread: set[str], sections: Collection[str], explicit: Collection[str] | None
) -> SearchSpace:
    """Note what does not fit; the space without parameters that an override has made idle.

    unread: names of parameters that could not be read; what depends on them is not looked at. sections: the same of sections.
    explicit: the parameters that an override sets; None where this is no override.
    """
    before = len(mistakes)
    with mistakes.noting():
        _ = space.searched
    if len(mistakes) > before:
        return space  # Values that need each other: nothing else can be told.
    broken = set(unread)

    def sound(*names: str) -> bool:
        return not broken & space.reach(names)

    def note(name: str, function: Callable[[SearchSpace, Parameter], None]) -> None:
        before = len(mistakes)
        with mistakes.noting():
            function(space, space.parameters[name])
        if len(mistakes) > before:
            broken.add(name)

    for name, parameter in space.parameters.items():
        if parameter.when is not None and sound(name):
            note(name, _check_condition)
    while idle := [each for each in _idle(space) if sound(each.name)]:
        for parameter in idle:
            if explicit is None or parameter.name in explicit:
                mistakes.append(_idle_error(parameter))
                broken.add(parameter.name)
        gone = {parameter.name for parameter in idle} - broken
        kept = {name: parameter for name, parameter in space.parameters.items() if name not in gone}
        space = replace(space, parameters=kept)
    for function in (_check_derived, _check_fixed, _check_needs):
        for name, parameter in space.parameters.items():
            if sound(name, *parameter.info.needs):
                note(name, function)
    if not space.own:
        _check_sections(space, mistakes, broken, sections)
    sound_rules = [rule for rule in space.rules if sound(*rule.expression.names)]
    before = len(mistakes)
    for rule in sound_rules:
        with mistakes.noting():
            _check_rule(space, rule)
    if len(mistakes) > before:
        return space
    with mistakes.noting():
        if broken:
            for rule in sound_rules:
                if not space.undecided(rule.expression.names):
                    _check_satisfiable(space, [rule], rule)
        else:
            _check_baseline(space)
            if not space.searched:
                place = space.document.places["parameters"]
                raise place.error("nothing is searched; give a parameter {low, high} or {choices}")
    return space


def _check_sections(space: SearchSpace, mistakes: Mistakes, broken: set[str], sections: Collection[str]) -> None:
    """What the sections of a space for the built-in model say of its parameters."""
    for function, needed, names in (
        (_check_objectives, ("objective",), ("architecture", "vocab_size")),
        (_check_sampling, ("objective",), SAMPLING),
        (_check_vocabulary, ("data",), ("vocab_size",)),
        (check_budget, ("budget",), ("batch_size", "context_length")),
    ):
        if not broken & space.reach(names) and not set(needed) & set(sections):
            with mistakes.noting():
                function(space)


def _check_condition(space: SearchSpace, parameter: Parameter) -> None:
    """Raises SpaceError for a `when` that nobody can tell in time, or that cannot be computed."""
    assert parameter.when is not None
    place = parameter.when_place or parameter.place
    for unknown in sorted(space.undecided(parameter.when.names)):
        raise place.error(
            f"{parameter.name}: `when: {parameter.when.text}` depends on {unknown}, which the budget decides later; "
            "use another condition"
        )
    _try(space, parameter.when, place, f"{parameter.name}: when")


def _check_derived(space: SearchSpace, parameter: Parameter) -> None:
    if isinstance(parameter, Derived):
        for _ in space.cases([parameter.name], TRIED):
            pass  # computing it raises what is wrong


def _idle(space: SearchSpace) -> list[Parameter]:
    """Those whose `when` never holds."""
    found = []
    for parameter in space.parameters.values():
        when = parameter.when
        if when is not None and not any(holds(space, when, case) for case in space.cases(when.names)):
            found.append(parameter)
    return found


def _idle_error(parameter: Parameter) -> SpaceError:
    assert parameter.when is not None
    place = parameter.when_place or parameter.place
    return place.error(
        f"{parameter.name} does nothing: no configuration satisfies its `when: {parameter.when.text}` "
        f"({', '.join(parameter.when.names) or 'no names'}); remove {parameter.name} or change the condition"
    )


def holds(space: SearchSpace, expression: Expression, settings: Settings) -> bool:
    try:
        return bool(expression.evaluate(lambda name: space.names.lookup(name, settings)))
    except (UnknownValue, ExpressionError):
        return False


def _try(space: SearchSpace, expression: Expression, place: Place, label: str) -> None:
    for case in space.cases(expression.names, TRIED):
        try:
            expression.evaluate(lambda name, case=case: space.names.lookup(name, case))  # type: ignore[misc]
        except UnknownValue:
            continue
        except ExpressionError as error:
            raise place.error(
                f"{label} `{expression.text}` cannot be computed with {space.names.told(expression.names, case)}: {error}; "
                "change it or the ranges"
            ) from None


def _check_fixed(space: SearchSpace, parameter: Parameter) -> None:
    if parameter.info.fixed and space.varies(parameter.name):
        raise parameter.place.error(
            f"{parameter.name} may not differ between trials: {parameter.info.fixed}; "
            "give it one value that depends on nothing that is searched"
        )


def _check_needs(space: SearchSpace, parameter: Parameter) -> None:
    if isinstance(parameter, Fixed) and parameter.value is None:
        return
    when = parameter.when
    for key, needed in parameter.info.needs.items():
        seen: dict[object, None] = {}
        for case in space.cases([key, *(when.names if when else ())]):
            if when is None or holds(space, when, case):
                seen[space.names.lookup(key, case)] = None
        useful, idle = [value for value in seen if value in needed], [value for value in seen if value not in needed]
        if not idle:
            continue
        if not useful:
            reason = idle_reason(parameter.name, {key: idle[0]})
            raise parameter.place.error(f"{parameter.name} does nothing here: {reason}; remove it or change {key}")
        condition = f"{key} == {useful[0]!r}" if len(useful) == 1 else f"{key} in {useful!r}"
        if when is not None:
            condition = f"({when.text}) and {condition}"
        raise parameter.place.error(
            f"{parameter.name} does nothing where {key} is {' or '.join(map(str, idle))}; add `when: {condition}`"
        )


def _check_objectives(space: SearchSpace) -> None:
    place = (space.document.items.get("objective") or space.document).place
    architectures = [str(case.get("architecture") or "decoder") for case in space.cases(["architecture"])]
    for name in space.objectives:
        missing = sorted({each for each in architectures if each not in OBJECTIVES[name].architectures})
        if not missing:
            _check_comparable(space, name, architectures)
            continue
        if space.varies("architecture"):
            searched = ", ".join(dict.fromkeys(architectures))
            raise space.parameters["architecture"].place.error(
                f"architecture cannot be searched over {searched} under {name}: it does not exist for {' and '.join(missing)}; "
                "leave that out, or use an objective that all of them have"
            )
        others = ", ".join(each.name for each in OBJECTIVES.values() if missing[0] in each.architectures)
        raise place.error(f"objective {name} does not exist for architecture {missing[0]}; use one of {others}")
    if "val_loss" in space.objectives and space.varies("vocab_size"):
        raise place.error(
            "objective val_loss is refused while vocab_size is searched: a loss per token does not compare between different "
            "tokens; use val_bpb, or fix vocab_size"
        )


def _check_comparable(space: SearchSpace, name: str, architectures: Sequence[str]) -> None:
    given = OBJECTIVES[name].given
    told = {each: given[each] for each in architectures if each in given}
    if len(set(told.values())) > 1:
        sides = ", ".join(f"of {what} for {each}" for each, what in told.items())
        raise space.parameters["architecture"].place.error(
            f"architecture cannot be searched under {name}: it is {sides}, and these do not compare; "
            "fix architecture, or search it under another objective"
        )


def _check_sampling(space: SearchSpace) -> None:
    if any(OBJECTIVES[name].sampled for name in space.objectives):
        return
    for name in SAMPLING:
        if name in space.parameters and space.varies(name):
            objectives = " or ".join(space.objectives)
            raise space.parameters[name].place.error(
                f"a range on {name} is refused: {name} cannot change {objectives}, because sampling comes after training; "
                "give it one value, or use objective generation_divergence"
            )


def _check_vocabulary(space: SearchSpace) -> None:
    parameter = space.parameters.get("vocab_size")
    if parameter is not None and space.data.tokenizer != "bpe":
        raise parameter.place.error(
            f"vocab_size does nothing here: with tokenizer {space.data.tokenizer} it follows from the text; remove it, or give "
            "data: {tokenizer: bpe}"
        )


def _check_rule(space: SearchSpace, rule: Rule) -> None:
    if not rule.expression.names:
        raise rule.place.error(f"rule `{rule.expression.text}` names no hyperparameter, so it decides nothing; remove it")
    if not space.undecided(rule.expression.names):
        _try(space, rule.expression, rule.place, "rule")


def _check_baseline(space: SearchSpace) -> None:
    settings = space.settings(space.prior())
    broken = space.broken_rule(settings)
    if broken:
        rule, sentence = broken
        decided = [each for each in space.rules if not space.undecided(each.expression.names)]
        for together in ([rule], decided):
            _check_satisfiable(space, together, rule)
        names = " or ".join(rule.expression.names)
        raise rule.place.error(f"the baseline (the priors) breaks a rule: {sentence}; change a prior of {names}")
    misfit, shape = space.names.misfit(settings), space.names.shape
    if misfit is not None:
        culprit = _place_of(space, misfit.name)
        if misfit.name in shape and all(_misshapen(space, case) for case in space.cases(shape)):
            raise culprit.error(f"no configuration can be built: {misfit}{_counted(space, shape)}; change one of them")
        if misfit.name in PLACES:
            raise culprit.error(str(misfit))
        raise culprit.error(f"the baseline (the priors) cannot be trained: {misfit}; change a prior")


def _check_satisfiable(space: SearchSpace, together: Collection[Rule], rule: Rule) -> None:
    of_all = tuple(dict.fromkeys(name for each in together for name in each.expression.names))
    if not any(all(_permits(space, each, case) for each in together) for case in space.cases(of_all)):
        told = " and ".join(f"`{each.expression.text}`" for each in together)
        raise rule.place.error(f"no configuration satisfies {told}{_counted(space, of_all)}; {_change(of_all)}")


def _permits(space: SearchSpace, rule: Rule, case: Settings) -> bool:
    try:
        return bool(rule.expression.evaluate(lambda name: space.names.lookup(name, case)))
    except UnknownValue:
        return True


def _misshapen(space: SearchSpace, case: Settings) -> bool:
    misfit = space.names.misfit(case)
    return misfit is not None and misfit.name in space.names.shape


def _counted(space: SearchSpace, names: Iterable[str]) -> str:
    return "" if space.countable(names) else f" (none of {DRAWS} random ones)"


def _change(names: Iterable[str]) -> str:
    return f"change the values of {' or '.join(names)}, or a rule"


def _place_of(space: SearchSpace, name: str) -> Place:
    """Where to mend `name`: its own entry, else that of what it follows or is checked against."""
    shape = space.names.shape
    candidates = (*space.resolved([name]), *(each for each in shape if name in shape and each in space.parameters))
    if candidates:
        return space.parameters[candidates[0]].place
    assert name in space.names.infos
    return space.document.places["parameters"]

"""Verbs about search spaces and hyperparameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.cli.app import app
from hpsearch.cli.options import JsonOption, print_json
from hpsearch.cli.terminal import print_table

if TYPE_CHECKING:
    from hpsearch.space.space import SearchSpace

space_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
app.add_typer(space_app, name="space")


@space_app.callback()
def about(context: typer.Context) -> None:
    """Check, describe and list search spaces."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@space_app.command("check")
def check_space(
    file: Annotated[str, typer.Argument(metavar="PATH|NAME", help="A file, or the name of a bundled space.")],
    as_json: JsonOption = False,
) -> None:
    """Validate a search space and print what would be searched, or all that is wrong with it."""
    from dataclasses import asdict

    from hpsearch.errors import SpaceError, SpaceMistakes
    from hpsearch.objectives import NEGATED
    from hpsearch.results.formatting import short, told_range, word
    from hpsearch.space.bundled import find_space
    from hpsearch.space.load import load_space
    from hpsearch.space.parameters import Derived, Fixed

    path, _ = find_space(file)
    try:
        space = load_space(path)
        require_baseline(space)
    except SpaceError as error:
        if as_json:
            places = [{"line": each.line, "column": each.column, "message": each.message} for each in error.all]
            print_json({"path": str(path), "mistakes": places})
        raise SpaceMistakes.of(error) from None
    prior = space.prior()
    if as_json:
        print_json(
            {
                "name": space.name,
                "path": str(path),
                "digest": space.digest,
                "objectives": list(space.objectives),
                "searched": [parameter.name for parameter in space.searched],
                "baseline": prior,
                "automatic": [parameter.name for parameter in space.automatic],
                "constraints": {name: asdict(bound) for name, bound in space.constraints.items()},
                "budget": {
                    "kind": space.budget.kind,
                    "amount": space.budget.amount,
                    "evaluations": space.budget.evaluations,
                },
            }
        )
        return
    goals = [
        f"maximizing {name.removeprefix(NEGATED)}" if space.own and name.startswith(NEGATED) else f"minimizing {name}"
        for name in space.objectives
    ]
    print(f"{path}: a valid space: '{space.name}', {', '.join(goals)}")
    print(f"budget: {space.budget.kind} {short(space.budget.amount)} a trial, {space.budget.evaluations} evaluations\n")
    rows = []
    for parameter in space.searched:
        what = told_range(parameter)
        baseline = word(prior[parameter.name]) if parameter.name in prior else "-"
        if parameter.automatic:
            baseline = "by scaling law"
        if parameter.confidence not in (None, "medium"):
            baseline += f" ({parameter.confidence})"
        rows.append([parameter.name, what, baseline, f"when {parameter.when.text}" if parameter.when else ""])
    print_table(["searched", "range", "baseline", ""], rows)
    others = [p for p in space.parameters.values() if isinstance(p, Fixed | Derived)]
    if others:
        print()
        print_table(["fixed or derived", "value"], [[p.name, described_parameter(p)] for p in others])
    for rule in space.rules:
        print(f"rule: {rule.expression.text}")
    for name, bound in space.constraints.items():
        ends = {"at least": bound.min, "at most": bound.max}
        print(f"constraint: {name} {' and '.join(f'{word} {short(end)}' for word, end in ends.items() if end is not None)}")


def require_baseline(space: SearchSpace) -> None:
    """Raises BadInput, as `run` does, where the priors break a constraint by formula.

    The text is not read: with characters as tokens, whose number it decides, nothing is known here.
    """
    if space.own or not space.constraints or space.data.tokenizer == "chars":
        return
    from hpsearch.config import TrialConfig
    from hpsearch.data.tokenizer import SPECIALS, ByteTokenizer
    from hpsearch.space.names import lookup
    from hpsearch.workload.feasibility import outside

    settings = space.settings(space.prior())
    if space.data.tokenizer == "bytes":
        settings["vocab_size"] = ByteTokenizer(SPECIALS[str(lookup("architecture", settings))]).vocab_size
    broken = outside(space, TrialConfig.build({"max_iters": 1} | settings))
    if broken:
        place = space.document.places["constraints"]
        raise place.error(f"the baseline (the priors) is outside a constraint: {broken.sentence()}; change a prior")


def described_parameter(parameter: Any) -> str:
    from hpsearch.results.formatting import word
    from hpsearch.space.parameters import Derived

    return f"= {parameter.expression.text}" if isinstance(parameter, Derived) else word(parameter.value)


@space_app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of a space, which editors use for completion."""
    from hpsearch.space.schema import space_schema

    print_json(space_schema())


@space_app.command("list")
def list_spaces(as_json: JsonOption = False) -> None:
    """List the spaces that ship with the program."""
    from hpsearch.space.bundled import bundled_spaces
    from hpsearch.space.load import load_space

    spaces = {name: (load_space(path), path) for name, path in sorted(bundled_spaces().items())}
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "searched": [parameter.name for parameter in space.searched],
                    "objectives": space.objectives,
                    "path": str(path),
                }
                for name, (space, path) in spaces.items()
            ]
        )
        return
    print_table(
        ["space", "searched", "objective", "file"],
        [[name, str(len(space.searched)), ", ".join(space.objectives), str(path)] for name, (space, path) in spaces.items()],
    )


@app.command()
def params(as_json: JsonOption = False) -> None:
    """Print the table of hyperparameters."""
    from hpsearch.config import HYPERPARAMETERS

    if as_json:
        from dataclasses import asdict

        print_json([asdict(info) for info in HYPERPARAMETERS.values()])
        return
    section = ""
    for info in HYPERPARAMETERS.values():
        if info.section != section:
            section = info.section
            print(f"\n{section.capitalize()}" if section != "architecture" else section.capitalize())
        also = f" (also: {', '.join(info.aliases)})" if info.aliases else ""
        fixed = "" if not info.fixed else f" [one value only: {info.fixed}]"
        options = f" ({', '.join(info.choices)})" if info.choices else ""
        print(f"  {info.name:30} {info.default_text:16} {info.doc}{options}{also}{fixed}")

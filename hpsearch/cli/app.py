"""The command-line application: the object that each verb's module registers its command on."""

from __future__ import annotations

from typing import Annotated

import typer

from hpsearch import __version__

app = typer.Typer(
    name="hpsearch",
    help="Hyperparameter search for compact transformer language models.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Hyperparameter search for compact transformer language models."""
    if version:
        print(f"hpsearch {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())

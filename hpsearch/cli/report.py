"""`hpsearch report`: one HTML page, or single figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.cli.app import app
from hpsearch.cli.options import (
    STUDIES_DIR,
    StorageOption,
    StudiesDirOption,
    StudyOption,
    claim_folder,
    load_view,
    require_folder,
    require_own_folder,
    require_writable,
)
from hpsearch.cli.terminal import say
from hpsearch.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from hpsearch.results.view import Scale, StudyView


@app.command()
def report(
    study: StudyOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="PATH", help="The page (report.html), or the folder of figures (figures).", show_default=False
        ),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", metavar="html|png|svg|pdf|json", help="One page, or each figure as a file of its own.")
    ] = "html",
    figure: Annotated[
        list[str] | None,
        typer.Option("--figure", metavar="NAME", help="Only this figure; may be repeated.", show_default=False),
    ] = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
) -> None:
    """Write one self-contained HTML page with the study's figures, or the figures as files."""
    from hpsearch.cli.terminal import load_forest
    from hpsearch.report.importance import study_of
    from hpsearch.report.page import write_report
    from hpsearch.report.static_figures import FORMATS, require_painter
    from hpsearch.results.view import axes
    from hpsearch.space.edges import edges
    from hpsearch.space.load import parse_space
    from hpsearch.tuning.session import started_from

    if format != "html":
        if format not in FORMATS:
            raise BadInput(f"--format {format}: use html, {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
        require_painter(format)
    elif figure:
        raise BadInput(f"--figure {figure[0]}: the page has all figures; choose a format with --format png, svg, pdf or json")
    where = out or Path("report.html" if format == "html" else "figures")
    if format == "html":
        require_writable(where)
    else:
        require_folder("--out", where)
    view = load_view(storage, studies_dir, study)
    space = parse_space(view.study.space_text, f"study {view.study.name}")
    load_forest()
    optuna_study = study_of(view, space)
    if format != "html":
        written = write_figures_of(view, optuna_study, axes(space), where, format, figure or ())
        say(f"{len(written)} figure{'s' if len(written) != 1 else ''} of '{view.study.name}' in {where}")
        return
    at_edge = edges(space, view.best.params) if view.best else []
    write_report(view, optuna_study, axes(space), where, edges=at_edge, earlier=started_from(view.study))
    say(f"the report of '{view.study.name}' is in {where}")


def write_figures_of(
    view: StudyView, study: Any, searched: dict[str, Scale], folder: Path, format: str, names: Sequence[str]
) -> list[Path]:
    """The figures called `names`, by default all of them, as files. Raises BadInput with the nearest name."""
    from hpsearch.report.gallery import gallery
    from hpsearch.report.static_figures import write_figures

    drawn = gallery(view, study, searched)
    for name in names:
        if name not in drawn:
            near = did_you_mean(name, drawn) or f"; there are {', '.join(drawn)}"
            raise BadInput(f"--figure {name}: study '{view.study.name}' has no such figure{near}")
    files = [f"{name}.{format}" for name in names or drawn]
    require_own_folder("--out", folder, files)
    claim_folder(folder, files)
    return write_figures({name: drawn[name] for name in names or drawn}, folder, format)

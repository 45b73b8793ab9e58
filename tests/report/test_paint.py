from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest

from hpsearch.errors import BadInput
from hpsearch.report.gallery import NAMES, gallery
from hpsearch.report.static_figures import write_figures
from hpsearch.results.view import Scale, StudyView

MakeView = Callable[..., StudyView]
MakeOptuna = Callable[[StudyView], optuna.Study]


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))


def test_every_figure_becomes_a_picture_that_shows_something(
    view: StudyView, session_optuna: optuna.Study, searched: dict[str, Scale], tmp_path: Path
) -> None:
    some = {name: searched[name] for name in ("learning_rate", "optimizer")}
    figures = gallery(view, session_optuna, some)
    written = write_figures(figures, tmp_path / "new" / "folder", "png")
    assert [path.name for path in written] == [f"{name}.png" for name in (*NAMES, "slice-learning_rate", "slice-optimizer")]
    for path in written:
        drawn = pixels(path)[:, :, :3]
        assert drawn.shape[1] > 1000
        assert (drawn.min(axis=2) < 0.5).sum() > 500, f"{path.name} is empty"


@pytest.mark.parametrize("format", ["svg", "pdf", "json"])
def test_a_figure_is_written_in_each_format(view: StudyView, session_optuna: optuna.Study, tmp_path: Path, format: str) -> None:
    drawn = gallery(view, session_optuna, {})
    (path,) = write_figures({"history": drawn["history"]}, tmp_path, format)
    content = path.read_bytes()
    if format == "json":
        assert json.loads(content)["layout"]["title"]["text"].startswith("Trial")
    elif format == "svg":
        assert content.count(b"<use") > 30, "a mark for each trial"
        assert b"http://www.w3.org/2000/svg" in content
        write_figures({"history": drawn["history"]}, tmp_path, format)
        assert path.read_bytes() == content, "the same bytes for the same study"
    else:
        assert content.startswith(b"%PDF")
        assert any(b" l\n" in zlib.decompress(part.split(b"endstream")[0]) for part in content.split(b"stream\n")[1:2])


def test_texts_of_users_are_neither_html_nor_formulas(view: StudyView, tmp_path: Path) -> None:
    figure = gallery(view, None, {})["history"]
    figure.update_layout(title={"text": "costs $5 &lt;b&gt; and $6 <b>x</b>"})
    (path,) = write_figures({"history": figure}, tmp_path, "svg")
    assert "costs $5 <b> and $6 x" in path.read_text().replace("&lt;", "<").replace("&gt;", ">")


def test_figures_of_no_trials_say_so(make_view: MakeView, searched: dict[str, Scale], tmp_path: Path) -> None:
    figures = gallery(make_view(0), None, {"d_model": searched["d_model"]})
    for path in write_figures(figures, tmp_path, "svg"):
        assert path.stat().st_size > 1000


def test_a_folder_that_cannot_be_is_bad_input(view: StudyView, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot write the figure"):
        write_figures({"history": gallery(view, None, {})["history"]}, tmp_path / "file", "json")


def test_without_matplotlib_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from hpsearch.report.static_figures import require_painter\nrequire_painter('json')\nrequire_painter('png')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "use json, or in the checkout of hpsearch, run: pip install -c constraints.txt '.[figures]'" in done.stderr

"""The two pictures of the README, from a real study: `python docs/pictures/make.py`.

It searches the bundled space `quick` in a folder of its own, keeps a frame of the live view (terminal.svg, by rich), and opens
the study's report in the system's Chromium (report.png, by Playwright). Some minutes on two cores.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from hpsearch.cli.options import cache_dir
from hpsearch.console import LiveView, say
from hpsearch.execution.devices import choose_device, cores
from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.report.page import write_report
from hpsearch.results.view import StudyView, axes
from hpsearch.space.bundled import find_space
from hpsearch.space.edges import edges
from hpsearch.space.load import load_space
from hpsearch.storage.leases import this_process
from hpsearch.storage.records import TrialRecord
from hpsearch.tuning.coordinator import Coordinator
from hpsearch.tuning.request import Request, check
from hpsearch.tuning.session import announce
from hpsearch.tuning.study import open_study

HERE = Path(__file__).parent
TRIALS = 40
KEPT_AFTER = 24
"""Trials that have ended in the frame that is kept."""
COLUMNS = 100
FONTS = re.compile(r"@font-face \{\{.*?\}\}", re.DOTALL)
"""A picture asks no other host for its letters."""
REGION = ("curves", "importances", "rate-size")
"""Figures of the report that are shown."""


class Kept(LiveView):
    """The live view, of which one frame is kept: as it is drawn between two evaluations."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots, Console(file=io.StringIO(), width=COLUMNS, height=30, force_terminal=True))
        self._ends = 0
        self.frame = ""

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        super().ended(trial, best)
        self._ends += 1

    def evaluated(self, trial: TrialRecord, point: object) -> None:
        super().evaluated(trial, point)  # type: ignore[arg-type]
        curves = [row.curve for row in self._rows.values()]
        if self._ends >= KEPT_AFTER and not self.frame and all(len(curve) > 1 for curve in curves):
            paper = Console(file=io.StringIO(), width=COLUMNS, height=30, record=True, force_terminal=True)
            paper.print(self)
            template = FONTS.sub("", CONSOLE_SVG_FORMAT)
            self.frame = paper.export_svg(title="hpsearch run --space quick --trials 40", code_format=template)


def search(folder: Path) -> tuple[str, Path]:
    """A finished study: a frame of its view, and its report."""
    space = load_space(find_space("quick")[0])
    request = Request(
        space=space,
        name=space.name,
        trials=TRIALS,
        storage_url=f"sqlite:///{folder / 'hpsearch.db'}",
        studies_dir=folder,
        cache_dir=cache_dir(),
        devices=choose_device("cpu"),
        threads=1,
    )
    owner = this_process()
    checked = check(request)
    study = open_study(request, checked, owner)
    with closing(LocalExecutor(cores(), 1)) as slots:
        announce(study, checked, TRIALS, cores(), slots, owner.token, say)
        with Kept(cores()) as view:
            Coordinator(study, slots, view, owner).run()
    seen = StudyView.load(study.store, study.store.study(study.record.name))
    report = folder / "report.html"
    write_report(seen, study.optuna, axes(space), report, edges=edges(space, seen.pick().params))
    return view.frame, report


def photograph(report: Path, out: Path) -> None:
    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1000, "height": 20_000})
        page.goto(report.as_uri())
        for name in REGION:
            page.locator(f"[data-figure={name}] .main-svg").first.wait_for()
        boxes = [page.locator(f"figure:has([data-figure={name}])").bounding_box() for name in REGION]
        top = min(box["y"] for box in boxes if box) - 16
        bottom = max(box["y"] + box["height"] for box in boxes if box) + 8
        page.screenshot(path=out, clip={"x": 0, "y": top, "width": 1000, "height": bottom - top})
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        frame, report = search(Path(folder))
        (HERE / "terminal.svg").write_text(frame, encoding="utf-8")
        photograph(report, HERE / "report.png")


if __name__ == "__main__":
    main()

"""What a report costs: seconds, processor time, peak memory and the size of the page, for many trials and for many choices.

The studies are filled by the real coordinator with trials that cost nothing (as in scale.py). Each row is the whole command
`hpsearch report` on a finished study, the median of `--rounds`; memory is the largest of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from instant import Instant
from scale import SPACE, curve, fresh_process
from side_by_side import show


def fill(folder: Path, name: str, trials: int, choices: int) -> None:
    """A finished study of `trials` trials in `folder`. choices: of one parameter more; 0 for none."""
    from hpsearch.space.load import parse_space
    from hpsearch.storage.leases import this_process
    from hpsearch.tuning.callbacks import Silent
    from hpsearch.tuning.coordinator import Coordinator
    from hpsearch.tuning.request import Request, check
    from hpsearch.tuning.study import open_study

    text = SPACE
    if choices:
        text = text.replace("{low: 0, high: 200}", f"{{choices: {list(range(choices))}}}")
    url = f"sqlite:///{folder / name}.db"
    request = Request(
        parse_space(text, f"{name}.yaml"), name, trials, url, folder, folder / "cache", sampler="random", pruner="none"
    )
    owner = this_process()
    study = open_study(request, check(request), owner)
    Coordinator(study, Instant(2, curve), Silent(), owner).run()
    study.store.release(study.record.id, owner)


def report(folder: Path, name: str) -> dict[str, float]:
    """Of one `hpsearch report`."""
    page, url = folder / f"{name}.html", f"sqlite:///{folder / name}.db"
    command = [sys.executable, "-m", "hpsearch", "report", "--study", name, "--storage", url, "--out", str(page)]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{name}: status {status}"
    megabytes = used.ru_maxrss / 2**10  # Linux counts KiB.
    size = page.stat().st_size / 1e6
    return {"s": time.perf_counter() - began, "cpu s": used.ru_utime + used.ru_stime, "MB": megabytes, "page MB": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=[5000])
    parser.add_argument(
        "--choices", type=int, nargs="*", default=[1000, 4000], help="of one parameter, in studies of 200 trials"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the studies are kept for another time; by default nowhere")
    parser.add_argument("--out", type=Path, help="write JSON here too")
    options = parser.parse_args()
    asked = [(f"trials-{count}", count, 0) for count in options.trials]
    asked += [(f"choices-{count}", 200, count) for count in options.choices]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hpsearch-report-") as scratch:
        folder = (options.folder or Path(scratch)).absolute()
        for name, trials, choices in asked:
            if not (folder / f"{name}.db").exists():
                with fresh_process() as pool:
                    pool.submit(fill, folder, name, trials, choices).result()
            measured = [report(folder, name) for _ in range(options.rounds)]
            row = {key: statistics.median(each[key] for each in measured) for key in measured[0]}
            rows.append({"study": name} | row | {"MB": max(each["MB"] for each in measured)})
    show("hpsearch report", rows, options.out)


if __name__ == "__main__":
    main()

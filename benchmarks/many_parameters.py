"""Searches of a space of 34 parameters, by `auto` and by `auto` without what it does where parameters are many.

    python benchmarks/many_parameters.py --seeds 3 --out many.jsonl

Without it, the lengths of the Gaussian process are Optuna's and no configuration is a mutation of the best. Real training: the
bundled space `lm` under equal FLOPs, 50 trials each, in two slots, so two runs of one seed differ by the order
in which trials end. Seeds are outermost and both sides are run in turns; the same command goes on after an interruption. Each
line of the output is one search.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from side_by_side import show

ALL_FEW = "import hpsearch.sampling.auto as auto, hpsearch.sampling.gp as gp; auto.FEW = gp.FEW = 10**9; "
SIDES = {"auto": "", "as of few parameters": ALL_FEW}
"""What is done before the command starts."""
SHOWN = (10, 20, 30, 40, 50)
"""Trials after which the best value is told."""


def search(before: str, seed: int, trials: int, flops: float) -> list[float]:
    """The best complete value after each trial, infinite before there is one."""
    words = ["run", "--space", "lm", "--trials", str(trials), "--seed", str(seed), "--device", "cpu"]
    words += ["--budget", f"flops={flops:g}"]
    started = [sys.executable, "-c", f"{before}from hpsearch.cli.main import main; main()"]
    with tempfile.TemporaryDirectory(prefix="hpsearch-many-") as folder:
        environment = os.environ | {"HPSEARCH_STORAGE": f"sqlite:///{folder}/hpsearch.db"}
        subprocess.run([*started, *words], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        told = subprocess.run(
            [*started, "trials", "--json"], cwd=folder, env=environment, check=True, capture_output=True, text=True
        ).stdout
    found, best = [], math.inf
    for trial in sorted(json.loads(told), key=lambda trial: trial["number"]):
        if trial["state"] == "complete":
            best = min(best, trial["value"])
        found.append(best)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--flops", type=float, default=1.5e11, help="training FLOPs of a trial")
    parser.add_argument("--out", type=Path, default=Path("many.jsonl"))
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["side"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for side, before in SIDES.items():
            if (side, seed) in done:
                continue
            rows.append({"side": side, "seed": seed, "best": search(before, seed, options.trials, options.flops)})
            print(f"seed {seed} {side}: {rows[-1]['best'][-1]:.4f}", file=sys.stderr, flush=True)
            with options.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    table = []
    for side in SIDES:
        curves = [row["best"] for row in rows if row["side"] == side]
        after = {f"after {count}": median(best[count - 1] for best in curves) for count in SHOWN if count <= options.trials}
        table.append({"side": side, "searches": len(curves)} | after)
    show(f"bits per byte, the best of so many trials, medians over {options.seeds} seeds", table, None)


if __name__ == "__main__":
    main()

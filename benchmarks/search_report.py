"""What benchmarks/search.py found, as tables and a plot.

    python benchmarks/search_report.py search.jsonl --plot search.png

Compute is in training FLOPs, as a part of what each search had. A search has reached a value once a trial that was trained to
the whole budget has it (`whole`), or once any evaluation of any trial has it (`any`). The value to reach is what bare Optuna
has at its end: its median over the seeds, the same for all (`Optuna's end`), or its own on the same seed (`same seed`).
Medians and quartiles over the seeds; a search that never reached the value counts as more than 1.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PEER = "optuna"
Row = dict[str, Any]
Steps = list[tuple[float, float]]
"""FLOPs, and the best value from there on."""


def steps(row: Row, whole: bool) -> Steps:
    """How the best value of a search fell."""
    found: Steps = []
    for _, rung, spent, value in row["points"]:
        if (rung == row["rungs"] or not whole) and (not found or value < found[-1][1]):
            found.append((spent, value))
    return found


def share(row: Row, target: float, whole: bool) -> float:
    """Part of its compute after which a search has reached `target`; infinite where it has not."""
    total = row["total"] * row["trial_flops"]
    return next((spent / total for spent, value in steps(row, whole) if value <= target), math.inf)


def final(row: Row, whole: bool = True) -> float:
    found = steps(row, whole)
    return found[-1][1] if found else math.inf


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below if below == above else below + (above - below) * (place - math.floor(place))


def spread(values: Sequence[float], form: str, most: float = math.inf) -> str:
    """Median and quartiles."""

    def cell(value: float) -> str:
        return f"{value:{form}}" if value <= most and math.isfinite(value) else "> 1" if most < math.inf else "none"

    low, middle, high = (quantile(values, part) for part in (0.25, 0.5, 0.75))
    return f"{cell(middle)} [{cell(low)} {cell(high)}]"


Groups = dict[str, dict[int, Row]]
"""Searches by system and seed."""


def grouped(rows: Sequence[Row], shown: Callable[[str], bool]) -> Groups:
    """What is shown, of the seeds that all of it and bare Optuna have."""
    groups: Groups = {}
    for row in rows:
        if shown(row["system"]) or row["system"] == PEER:
            groups.setdefault(row["system"], {})[row["seed"]] = row
    common = set.intersection(*(set(group) for group in groups.values()))
    return {system: {seed: group[seed] for seed in sorted(common)} for system, group in groups.items()}


def compared(groups: Groups, peers: Sequence[Row]) -> str:
    """peers: all of bare Optuna's searches."""
    peer = groups[PEER]
    lines = [
        "| system | compute to Optuna's end, whole | any | same seed, whole | reached | best at the end | after a quarter "
        "| trials | whole |",
        "|" + "---|" * 9,
    ]
    target = {whole: statistics.median(final(row, whole) for row in peers) for whole in (True, False)}
    for system, group in groups.items():
        rows = list(group.values())
        shares = [share(row, target[True], True) for row in rows]
        cells = [
            spread(shares, ".2f", 1.5),
            spread([share(row, target[False], False) for row in rows], ".2f", 1.5),
            spread([share(row, final(peer[seed]), True) for seed, row in group.items()], ".2f", 1.5),
            f"{sum(map(math.isfinite, shares))} of {len(rows)}",
            spread([final(row) for row in rows], ".3f"),
            spread([at(steps(row, True), row["total"] * row["trial_flops"] / 4) for row in rows], ".3f"),
            f"{statistics.median(len(row['trials']) for row in rows):g}",
            f"{statistics.median(sum(point[1] == row['rungs'] for point in row['points']) for row in rows):g}",
        ]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def at(found: Steps, flops: float) -> float:
    """The best value after so many FLOPs."""
    index = bisect.bisect_right([spent for spent, _ in found], flops)
    return found[index - 1][1] if index else math.inf


def confirmations(groups: Groups) -> str:
    lines = [
        "| search | seeds | best is not the default | mean better than it | better on every seed "
        "| default minus best, bits/byte | searched value minus confirmed | seed noise (SD) |",
        "|" + "---|" * 8,
    ]
    for system, group in groups.items():
        differences, lucks, everywhere, deviations, others = [], [], 0, [], 0
        for row in group.values():
            values: dict[bool, dict[int, float]] = {True: {}, False: {}}
            for each in row.get("confirmed", []):
                values[each["trial"] == each["best"]][each["seed"]] = each["value"]
            for found in values.values():
                if len(found) > 1:
                    deviations.append((statistics.variance(found.values()), len(found) - 1))
            if not values[True] or not values[False]:
                continue
            others += 1
            paired = [values[False][seed] - values[True][seed] for seed in values[True]]
            differences.append(statistics.mean(paired))
            everywhere += all(difference > 0 for difference in paired)
            lucks.append(final(row) - statistics.mean(values[True].values()))
        if not differences:
            continue
        noise = math.sqrt(sum(variance * weight for variance, weight in deviations) / sum(weight for _, weight in deviations))
        better = sum(each > 0 for each in differences)
        cells = [f"{len(group)}", f"{others}", f"{better} of {others}", f"{everywhere} of {others}"]
        cells += [spread(differences, ".3f"), spread(lucks, "+.3f"), f"{noise:.3f}"]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


PANELS: dict[str, Callable[[str], bool]] = {
    "beside other searches": lambda system: not system.startswith(("auto+median", "auto+halving_only", "prior+near+")),
    "what each part brings": lambda system: system.startswith(("auto", "prior+near")),
}


def plot(rows: Sequence[Row], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    colours = {system: f"C{index}" for index, system in enumerate(dict.fromkeys(row["system"] for row in rows))}
    for panel, (title, shown) in zip(panels, PANELS.items(), strict=True):
        for system, group in grouped(rows, shown).items():
            trials = [next(iter(group.values()))["total"] * step / 100 for step in range(1, 101)]
            values = [[at(steps(row, True), each * row["trial_flops"]) for row in group.values()] for each in trials]
            known = [(each, found) for each, found in zip(trials, values, strict=True) if max(found) < math.inf]
            x = [each for each, _ in known]
            low, middle, high = ([quantile(found, part) for _, found in known] for part in (0.25, 0.5, 0.75))
            panel.plot(x, middle, label=system, color=colours[system])
            panel.fill_between(x, low, high, alpha=0.08, color=colours[system])
        panel.set(title=title, xlabel="training FLOPs, in whole trials", xscale="log")
        panel.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    ends = [final(row) for row in rows]
    panels[0].set(ylabel="best whole trial, held-out bits per byte", ylim=(min(ends) - 0.03, max(ends) + 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path)
    parser.add_argument("--plot", type=Path, help="a .png; needs matplotlib")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.found.read_text("utf-8").splitlines()]
    peers = [row for row in rows if row["system"] == PEER]
    for title, shown in PANELS.items():
        groups = grouped(rows, shown)
        print(f"{title}, {len(groups[PEER])} seeds\n\n{compared(groups, peers)}\n")
    print(confirmations(grouped(rows, lambda system: any(row.get("confirmed") for row in rows if row["system"] == system))))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()

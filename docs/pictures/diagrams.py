"""The diagrams of docs/method.md: `python docs/pictures/diagrams.py` writes flow.svg, halving.svg and sampler.svg.

They explain the method and show no measurement. Markers and colours are those of the report.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
INK, MUTED, LINE, PAPER = "#1f2933", "#5f6c7b", "#c9d1da", "#ffffff"
BLUE, GREEN, ORANGE, GREY, VIOLET = "#1c83c9", "#00986c", "#d55e00", "#8a8a8a", "#7a4fb5"
FONT = "font-family='DejaVu Sans, Verdana, sans-serif'"


def text(
    x: float, y: float, words: str, *, size: int = 14, colour: str = INK, anchor: str = "start", bold: bool = False
) -> str:
    weight = " font-weight='bold'" if bold else ""
    return f"<text x='{x}' y='{y}' font-size='{size}' fill='{colour}' text-anchor='{anchor}'{weight}>{escape(words)}</text>"


def box(x: float, y: float, width: float, height: float, title: str, *lines: str, colour: str = BLUE) -> str:
    middle = x + width / 2
    shape = f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='8'"
    parts = [f"{shape} fill='{PAPER}' stroke='{colour}' stroke-width='2'/>"]
    parts.append(text(middle, y + 26, title, size=15, anchor="middle", bold=True))
    parts += [text(middle, y + 48 + 19 * row, words, size=12, colour=MUTED, anchor="middle") for row, words in enumerate(lines)]
    return "".join(parts)


def arrow(x1: float, y1: float, x2: float, y2: float, words: str = "", *, dx: float = 0, dy: float = -8) -> str:
    label = text((x1 + x2) / 2 + dx, (y1 + y2) / 2 + dy, words, size=12, colour=MUTED, anchor="middle") if words else ""
    return f"<line x1='{x1}' y1='{y1}' x2='{x2}' y2='{y2}' stroke='{MUTED}' stroke-width='1.8' marker-end='url(#head)'/>{label}"


def page(width: int, height: int, title: str, *parts: str) -> str:
    head = (
        "<defs><marker id='head' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='8' markerHeight='8' orient='auto'>"
        f"<path d='M0 0 L10 5 L0 10 z' fill='{MUTED}'/></marker></defs>"
    )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' {FONT}>"
        f"<title>{escape(title)}</title>{head}<rect width='{width}' height='{height}' fill='{PAPER}'/>{''.join(parts)}</svg>\n"
    )


def flow() -> str:
    """Who talks to whom while a study runs."""
    return page(
        860,
        300,
        "The sampler proposes a configuration, a slot trains it, and the coordinator answers every evaluation",
        box(20, 20, 190, 92, "space.yaml", "ranges, priors, rules,", "text, budget"),
        box(20, 186, 190, 92, "sampler", "proposes the next", "configuration", colour=VIOLET),
        box(
            320,
            62,
            220,
            174,
            "coordinator",
            "one process per study",
            "",
            "answers each evaluation:",
            "continue, pause or end",
            colour=GREEN,
        ),
        box(650, 20, 190, 92, "slots", "each trains one trial", "at a time"),
        box(650, 186, 190, 92, "database", "trials, evaluations,", "decisions with reasons", colour=GREY),
        arrow(212, 66, 318, 104, "checked", dx=14, dy=-12),
        arrow(212, 232, 318, 194, "configuration", dx=4, dy=34),
        arrow(542, 90, 648, 44, "trial, answer", dx=-14, dy=-16),
        arrow(648, 82, 542, 128, "evaluation", dx=10, dy=28),
        arrow(542, 194, 648, 232, "store", dx=-10, dy=28),
    )


ROWS: list[tuple[str, list[float], str, str]] = [
    ("0  baseline", [25, 100], "complete", "paused; finished at the end, so that the gain is known"),
    ("1", [25], "pruned", "paused, never promoted: ended when no new trial was left"),
    ("2", [25, 50], "pruned", "paused, promoted later, paused again, never promoted"),
    ("3", [25], "pruned", "paused, never promoted"),
    ("4", [8], "diverged", "diverged: ended at once"),
    ("5", [25], "pruned", "paused, never promoted"),
    ("6", [100], "best", "among the best sixth at both rungs: trained without a pause"),
    ("7", [25, 50, 100], "complete", "paused twice and promoted twice"),
]
"""Trial, where it stopped (percent of its budget), its end, and what happened."""


def halving() -> str:
    """What halving does with eight trials."""
    left, right, top, step = 120, 500, 70, 36

    def at(percent: float) -> float:
        return left + (right - left) * percent / 100

    parts = [text(20, 28, "What happened to eight trials under --scheduler halving", size=16, bold=True)]
    bottom = top + step * len(ROWS)
    for percent, words in ((0, "0 %"), (25, "rung 25 %"), (50, "rung 50 %"), (100, "100 %")):
        dash = "" if percent in (0, 100) else " stroke-dasharray='4 4'"
        parts.append(f"<line x1='{at(percent)}' y1='{top - 12}' x2='{at(percent)}' y2='{bottom - 6}' stroke='{LINE}'{dash}/>")
        parts.append(text(at(percent), bottom + 14, words, size=12, colour=MUTED, anchor="middle"))
    parts.append(text((left + right) / 2, bottom + 36, "share of the trial's budget", size=12, colour=MUTED, anchor="middle"))
    for row, (name, stops, end, words) in enumerate(ROWS):
        y = top + step * row + 8
        colour = {"best": ORANGE, "complete": GREEN if row == 0 else BLUE}.get(end, GREY)
        parts.append(text(20, y + 5, name))
        line = f"<line x1='{at(0)}' y1='{y}' x2='{at(stops[-1])}' y2='{y}'"
        parts.append(f"{line} stroke='{colour}' stroke-width='5' stroke-linecap='round'/>")
        parts += [promoted(at(stop), y) for stop in stops[:-1]]
        parts.append(mark(at(stops[-1]), y, end, colour))
        parts.append(text(right + 30, y + 5, words, size=12, colour=MUTED))
    y = bottom + 66
    legend = (("promoted", "paused, then promoted"), ("pruned", "pruned"), ("complete", "complete"), ("best", "best"))
    for place, (kind, words) in enumerate(legend):
        x = 130 + 190 * place
        parts.append(promoted(x, y) if kind == "promoted" else mark(x, y, kind, ORANGE if kind == "best" else BLUE))
        parts.append(text(x + 16, y + 5, words, size=12, colour=MUTED))
    return page(900, y + 24, "Halving pauses weak trials at a rung and promotes some of them later", *parts)


def mark(x: float, y: float, end: str, colour: str) -> str:
    if end in ("pruned", "diverged"):
        red = GREY if end == "pruned" else ORANGE
        return f"<path d='M{x - 6} {y - 6} l12 12 M{x - 6} {y + 6} l12 -12' stroke='{red}' stroke-width='3'/>"
    if end == "best":
        return f"<text x='{x}' y='{y + 9}' font-size='27' fill='{colour}' text-anchor='middle'>★</text>"
    return f"<circle cx='{x}' cy='{y}' r='7' fill='{colour}'/>"


def promoted(x: float, y: float) -> str:
    return (
        f"<rect x='{x - 7}' y='{y - 7}' width='14' height='14' fill='{PAPER}' stroke='{INK}' stroke-width='1.6'/>"
        f"<path d='M{x - 3.5} {y - 4.5} L{x + 4.5} {y} L{x - 3.5} {y + 4.5} z' fill='{INK}'/>"
    )


PROPOSED = ["prior", *"nwnwnwn", *"mmmwmnmmmumm", *"mwmmumnm"]
KINDS = {
    "prior": (GREEN, "prior: trial 0, the baseline"),
    "n": (BLUE, "near-prior: drawn around the priors"),
    "w": (GREY, "wide: drawn from the whole space"),
    "m": (ORANGE, "model: Gaussian process, else TPE"),
    "u": (VIOLET, "mutation of the best (spaces of more than 8 parameters)"),
}


def sampler() -> str:
    """Which part of `auto` proposes which trial; an example, not a measurement."""
    size, left, top = 28, 20, 62
    parts = [text(20, 28, "Who proposes the trials under --sampler auto (an example)", size=16, bold=True)]
    for number, kind in enumerate(PROPOSED):
        x = left + (size + 2) * number
        parts.append(f"<rect x='{x}' y='{top}' width='{size}' height='{size}' rx='3' fill='{KINDS[kind][0]}'/>")
        parts.append(text(x + size / 2, top + 19, str(number), size=11, colour=PAPER, anchor="middle"))
    edge = left + (size + 2) * 8 - 1
    parts.append(f"<line x1='{edge}' y1='{top - 12}' x2='{edge}' y2='{top + size + 22}' stroke='{INK}' stroke-width='1.4'/>")
    parts.append(text(edge - 8, top + size + 20, "start-up", size=12, colour=MUTED, anchor="end"))
    parts.append(text(edge + 8, top + size + 20, "the model takes over; near-prior trials become rarer", size=12, colour=MUTED))
    for row, (colour, words) in enumerate(KINDS.values()):
        x, y = 20 + 430 * (row % 2), top + size + 46 + 26 * (row // 2)
        parts.append(f"<rect x='{x}' y='{y}' width='16' height='16' rx='3' fill='{colour}'/>")
        parts.append(text(x + 24, y + 13, words, size=13))
    return page(880, top + size + 136, "The sampler starts from priors and wide draws; then a model proposes most", *parts)


def main() -> None:
    for name, picture in (("flow", flow()), ("halving", halving()), ("sampler", sampler())):
        (HERE / f"{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()

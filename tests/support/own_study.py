"""A space and a program that train nothing and take no time: for tests of what is around a trial."""

from __future__ import annotations

from cli import Cli

SPACE = """\
trainer: own
name: s
budget: {steps: 3, evaluations: 3}
parameters:
  lr: {low: 0.1, high: 1.0}
"""
PROGRAM = """\
import json, sys
for step in range(1, 4):
    print(json.dumps({"step": step, "value": float(sys.argv[1]) / step}), flush=True)
"""
RUN = ("run", "--space", "s.yaml", "--slots", "1", "--command", "python t.py {lr}")


def write_own(cli: Cli, more: str = "") -> None:
    """Write both into the folder of `cli`. more: lines at the end of the space."""
    (cli.folder / "s.yaml").write_text(SPACE + more)
    (cli.folder / "t.py").write_text(PROGRAM)

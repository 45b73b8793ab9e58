"""Every command on the pages does what it says, on smaller numbers: budgets of a few steps, two trials.

The blocks of a page run in order in a folder of its own. YAML blocks that begin with `# NAME.yaml` are that file. Blocks marked
`text` and those for other machines are not run; the hpsearch commands in them must be ones that the program understands.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from cli import COMMAND, Cli

from hpsearch.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/tutorial.md", "docs/budget.md", "docs/reading.md", "docs/export.md"]
SMALL = "--set num_layers=1 --set d_model=32 --set batch_size=8 --set context_length=32"
SMALLER = [
    (r"device_seconds: [\d.]+", "tokens: 20500"),
    (r"device_seconds=[\d.]+", "tokens=5120"),
    (r"run --space lm\b", "run --space lm --budget tokens=5120 " + SMALL),
    (r"(run|price) --space quick\b", r"\1 --space quick --set batch_size=8 --set d_model=32 --set num_layers=1"),
    (r"price --space mine.yaml\b", "price --space mine.yaml --set d_model=32 --set num_layers=1"),
    (r"--trials \d+", "--trials 2"),
    (r"--seeds \d+", "--seeds 2"),
    (r"--top \d+", "--top 1"),
    (r"( +)max_iters: \d+", r"\1max_iters: 20\n\1eval_iters: 2"),
    (r"max_iters=\d+", "max_iters=20"),
    (r"--max-new-tokens \d+", "--max-new-tokens 20"),
    (r"hpsearch show 7", "hpsearch show 1"),
]
ELSEWHERE = ("pip install", "ray ", "ray:", "kubectl", "docker", "#SBATCH", "pytest")
"""Words of a block that needs other machines, or that CI runs itself."""
NEEDS_SHELL = re.compile(r"[|&;<>$*`~]")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each."""
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def is_elsewhere(text: str) -> bool:
    return any(word in text for word in ELSEWHERE)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(page: str, cli: Cli) -> None:
    tools = cli.folder / "tools"
    tools.mkdir()
    (tools / "hpsearch").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    (tools / "hpsearch").chmod(0o755)
    (tools / "python3").symlink_to(sys.executable)
    (cli.folder / "my-text.txt").write_text("To be, or not to be, that is the question.\n" * 2000)
    environment = cli.environment | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    if page == "docs/export.md":  # it begins where a study has ended
        small = ("--budget", "tokens=5120", "--set", "batch_size=8")
        cli.ok("run", "--space", "quick", "--trials", "2", *small, "--pruner", "none")
        cli.ok("train", "--config", str(next(cli.folder.glob("studies/*/best.yaml"))), "--out", "model")
    ran = 0
    for language, text in blocks(page):
        for pattern, smaller in SMALLER:
            text = re.sub(pattern, smaller, text)
        named = re.match(r"# (\w+\.yaml)\n", text)
        if language == "yaml" and named:
            (cli.folder / named[1]).write_text(text)
        if language not in ("bash", "sh") or is_elsewhere(text):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if not line.strip() or "hpsearch dashboard" in line:  # that one serves until it is stopped; tests of its own
                continue
            if line.startswith("hpsearch ") and not NEEDS_SHELL.search(line):
                done = cli.run(*shlex.split(line, comments=True)[1:], timeout=150)
            else:
                done = subprocess.run(
                    line, shell=True, cwd=cli.folder, env=environment, capture_output=True, text=True, timeout=150, check=False
                )
            assert done.returncode == 0, f"{page}: {line}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran >= 2


@pytest.mark.parametrize("page", [*PAGES, "docs/machines.md"])
def test_commands_for_other_machines_are_understood(page: str) -> None:
    verbs: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for language, text in blocks(page):
        if language not in ("bash", "sh", "text") or not is_elsewhere(text + "ray " * (language == "text")):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\s)(?:\S*/)?hpsearch (\w+) (.*)", line)
            if found and found[1] in verbs:
                words = shlex.split(re.sub(r"\$\{?\w+\}?|\$\([^)]*\)", "x", found[2]), comments=True)
                verbs[found[1]].make_context(found[1], words)

"""The text of a study as people have it: a folder that holds the studies too, a name that is no UTF-8."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from cli import Cli

SPACE = """\
name: s
data: {text: a.txt, tokenizer: bytes}
budget: {max_iters: 4, evaluations: 2}
parameters:
  learning_rate: {low: 1e-4, high: 3e-2, log: true, prior: 3e-4}
  batch_size: 2
  context_length: 16
  num_layers: 1
  d_model: 16
  d_ff: 32
  num_heads: 2
  eval_iters: 2
  max_save_num: 1
  max_new_tokens: 10
"""
TEXT = "".join(f"Line {number} of a plain text about nothing much at all.\n" for number in range(2000))
RUN = ("run", "--space", "s.yaml", "--slots", "1", "--device", "cpu")


@pytest.fixture
def here(cli: Cli) -> Cli:
    (cli.folder / "s.yaml").write_text(SPACE)
    (cli.folder / "a.txt").write_text(TEXT)
    return cli


def test_a_folder_that_holds_the_studies_is_the_same_text_when_they_go_on(here: Cli) -> None:
    first = here.run(*RUN, "--data", ".", "--trials", "1")
    assert first.returncode == 0, first.stderr
    here.ok("export", "--out", "mine.yaml")
    here.ok("report", "--out", "mine.html")
    again = here.run(*RUN, "--data", ".", "--trials", "2")
    assert again.returncode == 0, again.stderr
    assert [trial["state"] for trial in here.json("trials")] == ["complete", "complete"]
    # What is left out is said, once, on a line of its own.
    (told,) = [line for line in again.stderr.splitlines() if "left out" in line]
    assert "of hpsearch itself (mine.html, mine.yaml, studies/0001-s)" in told
    for _ in range(2):
        here.ok("train", "--config", "mine.yaml", "--out", "model", "--device", "cpu")


def test_a_text_whose_name_is_no_utf8_comes_back_from_every_export(here: Cli) -> None:
    name = os.fsdecode(b"caf\xe9 1.txt")
    (here.folder / "a.txt").rename(here.folder / name)
    done = here.run(*RUN, "--data", name, "--trials", "1")
    assert done.returncode == 0, done.stderr
    value = here.json("status")["best"]["value"]
    assert here.json("status")["data"]["text"] == "file:caf%E9%201.txt"
    for form in ("yaml", "json", "toml"):
        here.ok("export", "--format", form, "--out", f"e.{form}")
        told = here.ok("train", "--config", f"e.{form}", "--out", f"of-{form}", "--device", "cpu")
        assert f"val_bpb {value:.6f}: the exported score again" in told
    command = here.ok("export", "--format", "cli")
    words = shlex.split(command[re.search(r"^hpsearch train", command, re.MULTILINE).start() :].replace("\\\n", " "))
    told = here.json(*words[1:], "--out", "of-cli")
    assert told["metrics"]["val_bpb"] == value
    assert "\nHPSEARCH_DATA_TEXT=file:caf%E9%201.txt\n" in here.ok("export", "--format", "env")
    here.ok("report", "--out", "r.html")
    assert "file:caf%E9%201.txt" in (here.folder / "studies/0001-s/space.yaml").read_text("utf-8")
    # It goes on by the name that it was begun with, and by the one that it was kept with.
    assert here.run(*RUN, "--data", name, "--trials", "2").returncode == 0
    assert here.run(*RUN, "--data", "file:caf%E9%201.txt", "--trials", "3").returncode == 0


def test_a_cache_folder_that_cannot_be_written_is_told_with_the_variable_that_names_another(here: Cli) -> None:
    (here.folder / "in-the-way").write_text("")
    blocked = here.having(HPSEARCH_CACHE_DIR=str(here.folder / "in-the-way"))
    done = blocked.run(*RUN, "--trials", "1")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "HPSEARCH_CACHE_DIR" in done.stderr
    assert not Path(here.folder / "studies").exists()

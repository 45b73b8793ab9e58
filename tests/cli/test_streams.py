"""Standard streams that are closed, full, abandoned or of another encoding, and texts that would steer a terminal."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import COMMAND, Cli

ESCAPE = "\x1b]0;owned\x07\x1b[31m\x9b2J"
SPACE = """
trainer: own
name: hostile
objective: loss
budget: {steps: 2, evaluations: 1}
parameters:
  x: {low: 0.0, high: 1.0}
  text: {choices: ["\\e]0;owned\\a\\e[31m\\x9b2J[red]<script>alert(1)</script>\\n世界"]}
"""
PROGRAM = """
import json, sys
if sys.argv[1] == "fail":
    sys.exit("boom \\x1b]0;owned\\x07\\x1b[31m\\x9b2J[red]<script>alert(1)</script>")
print(json.dumps({"step": 2, "loss": float(sys.argv[1])}), flush=True)
"""


def sh(cli: Cli, words: str, redirections: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command line of a shell, of an interpreter of its own."""
    line = f"{shlex.join(COMMAND)} {words} {redirections}"
    return subprocess.run(
        ["bash", "-c", line], cwd=cli.folder, env=cli.environment | environment, capture_output=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Cli:
    """A study in which values and the reason of a failure hold what steers terminals; to be read only."""
    cli = Cli(tmp_path_factory.mktemp("hostile"), environment)
    (cli.folder / "space.yaml").write_text(SPACE)
    (cli.folder / "program.py").write_text(PROGRAM)
    program = f"{sys.executable} {cli.folder / 'program.py'}"
    done = cli.run("run", "--space", "space.yaml", "--trials", "2", "--slots", "1", "--command", f"{program} {{x}} {{text}}")
    assert done.returncode == 0, done.stderr
    (cli.folder / "said").write_text(done.stdout + done.stderr)
    failed = cli.run(
        "run",
        "--space",
        "space.yaml",
        "--study",
        "failing",
        "--trials",
        "1",
        "--slots",
        "1",
        "--command",
        f"{program} fail {{x}} {{text}}",
    )
    assert failed.returncode == 5, failed.stderr
    (cli.folder / "failed").write_text(failed.stdout + failed.stderr)
    return cli


def steers(text: str) -> list[str]:
    return [character for character in text if not character.isprintable() and character not in "\n\t"]


READERS = [
    "trials --study hostile",
    "trials --study failing",
    "show 0 --study hostile",
    "show 0 --study failing",
    "status --study hostile",
    "studies",
    "space check space.yaml",
    "export --study hostile --format yaml",
    "export --study hostile --format json",
    "export --study hostile --format toml",
]


@pytest.mark.parametrize("words", READERS)
def test_no_text_of_a_study_steers_the_terminal(hostile: Cli, words: str) -> None:
    done = hostile.run(*words.split())
    assert done.returncode == 0, done.stderr
    assert steers(done.stdout + done.stderr) == []
    if "show" in words or "trials" in words:
        # Of a program's own words the colour codes are left out before they are stored.
        codes = "" if "failing" in words else r"\x1b]0;owned\x07\x1b[31m"
        assert rf"{codes}\x9b2J[red]<script>" in done.stdout


@pytest.mark.parametrize("said", ["said", "failed"])
def test_what_a_run_says_steers_no_terminal(hostile: Cli, said: str) -> None:
    assert steers((hostile.folder / said).read_text()) == []


def test_json_holds_the_values_exactly(hostile: Cli) -> None:
    (first, *_) = hostile.json("trials", "--study", "hostile")
    assert first["config"]["text"].startswith(ESCAPE)
    assert steers(hostile.ok("trials", "--study", "hostile", "--json")) == []


def test_an_error_that_quotes_its_words_steers_no_terminal(hostile: Cli) -> None:
    for words in (("status", "--study", ESCAPE), (f"st{ESCAPE}",), ("show", ESCAPE), ("export", "--format", ESCAPE)):
        done = hostile.run(*words)
        assert done.returncode == 2
        assert steers(done.stderr) == []
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_terminal_of_ascii_gets_escapes_and_documents_stay_whole(hostile: Cli, locale: dict[str, str]) -> None:
    for words in READERS[:7]:
        assert sh(hostile, words, "", **locale).returncode == 0
    assert rb"\u4e16\u754c" in sh(hostile, "show 0 --study hostile", "", **locale).stdout
    assert sh(hostile, b"status --study \xe9".decode("utf-8", "surrogateescape"), "", **locale).returncode == 2
    document = sh(hostile, "export --study hostile --format json", "", **locale)
    assert json.loads(document.stdout)["hyperparameters"]["text"].endswith("世界")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_a_run_no_harm(hostile: Cli, closed: str) -> None:
    study = f"closed-{closed.count('&')}-{closed[0]}-{closed[-3]}".replace("<", "i").replace(">", "o")
    program = shlex.quote(f"{sys.executable} {hostile.folder / 'program.py'} {{x}} {{text}}")
    words = f"run --space space.yaml --studies-dir {study} --trials 1 --slots 1 --command {program}"
    assert sh(hostile, words, closed).returncode == 0
    assert [trial["state"] for trial in hostile.json("trials", "--studies-dir", study)] == ["complete"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_run_whose_progress_cannot_be_written_ends_well(hostile: Cli) -> None:
    program = shlex.quote(f"{sys.executable} {hostile.folder / 'program.py'} {{x}} {{text}}")
    words = f"run --space space.yaml --studies-dir full --trials 1 --slots 1 --command {program}"
    assert sh(hostile, words, "2>/dev/full").returncode == 0
    assert [trial["state"] for trial in hostile.json("trials", "--studies-dir", "full")] == ["complete"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", ["trials --study hostile --json", "params", "--help", "export --study hostile"])
def test_output_that_finds_the_disk_full_is_an_error_that_passes(hostile: Cli, words: str) -> None:
    done = sh(hostile, words, ">/dev/full")
    assert done.returncode == 75
    assert done.stderr.decode().startswith("hpsearch: standard output: No space left on device; make room")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("words", ["params", "--help", "trials --study hostile --json", "export --study hostile --format json"])
def test_a_reader_who_leaves_ends_the_command_quietly(hostile: Cli, words: str) -> None:
    done = sh(hostile, words, '| true; exit "${PIPESTATUS[0]}"')
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_a_temporary_folder_readers_read_and_a_run_says_so(hostile: Cli, tmp_path: Path) -> None:
    """Nowhere can a temporary file be made: as on a read-only system."""
    script = "import runpy, sys, tempfile\ntempfile._candidate_tempdir_list = lambda: [{nowhere!r}]\n" + (
        "sys.argv = ['hpsearch', *sys.argv[1:]]\nrunpy.run_module('hpsearch', run_name='__main__')\n"
    )
    (tmp_path / "start.py").write_text(script.format(nowhere=str(tmp_path / "none")))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "start.py"), *words]
        return subprocess.run(
            command, cwd=hostile.folder, env=hostile.environment, capture_output=True, text=True, timeout=60, check=False
        )

    assert run("status", "--study", "hostile").returncode == 0
    done = run("run", "--space", "space.yaml", "--study", "new", "--trials", "1", "--command", "true {x} {text}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set TMPDIR to one that can" in done.stderr
    assert "new" not in hostile.ok("studies").split()


@pytest.fixture
def opened(hostile: Cli) -> Iterator[Path]:
    """A copy of the study in a folder that anyone may write."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(hostile.folder / "studies", Path(folder) / "studies")
        for place in (Path(folder), *Path(folder).rglob("*")):
            place.chmod(0o777)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody without an entry")
@pytest.mark.parametrize("words", ["params", "status --study hostile", "space check lm", "trials --study hostile --json"])
def test_somebody_without_home_or_name_can_read(hostile: Cli, words: str, opened: Path) -> None:
    if not Path(sys.executable).resolve().stat().st_mode & stat.S_IXOTH or not os.access(COMMAND[0], os.X_OK):
        pytest.skip("this Python is not open to others")
    environment = {name: value for name, value in hostile.environment.items() if name not in ("HOME", "USER", "LOGNAME")}
    done = subprocess.run(
        ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", *COMMAND, *words.split()],
        cwd=opened,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_report_under_a_strict_umask_is_private(hostile: Cli) -> None:
    done = subprocess.run(
        ["sh", "-c", f"umask 077; {shlex.join(COMMAND)} report --study hostile --out private.html"],
        cwd=hostile.folder,
        env=hostile.environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = hostile.folder / "private.html"
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert "<script>alert" not in page.read_text()


def test_a_table_fits_a_terminal_of_eighty_columns(hostile: Cli) -> None:
    """Wide characters take two columns each."""
    from hpsearch.text import columns

    main, other = pty.openpty()
    subprocess.run(["stty", "cols", "80", "rows", "24"], stdin=other, check=True)
    subprocess.run(
        [*COMMAND, "trials", "--study", "hostile"], cwd=hostile.folder, env=hostile.environment, stdout=other, check=True
    )
    os.close(other)
    lines = os.read(main, 100_000).decode().splitlines()
    os.close(main)
    assert len(lines) == 3
    assert max(map(columns, lines)) <= 80

"""Where slots are, as options of `hpsearch run`: what cannot be is refused before anything is created."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from cli import Cli
from sqlalchemy import make_url
from tiny import SPACE

from hpsearch.cli.options import storage_url
from hpsearch.errors import BadInput

RAY = ("--executor", "ray")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--executor", "rays"), "--executor rays: use local or ray; did you mean 'ray'?"),
        (("--shared", "file:///tmp"), "--shared file:///tmp: only with --executor ray"),
        (("--gpus-per-slot", "0.5"), "--gpus-per-slot 0.5: only with --executor ray"),
        ((*RAY, "--gpus-per-slot", "2"), "--gpus-per-slot 2: give a share from 0 to 1"),
        ((*RAY, "--gpus-per-slot", "0.5", "--device", "cpu"), "there is none with --device cpu"),
        ((*RAY, "--device", "cuda:1"), "Ray chooses the GPU of each slot"),
        ((*RAY, "--slots", "0"), "--slots 0: give a whole number from 1 to 1024, or auto"),
        ((*RAY, "--ray-address", "ray://head:10001"), "write it as HOST:PORT, or auto"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_created(cli: Cli, words: tuple[str, ...], told: str) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    done = cli.run("run", "--space", "tiny.yaml", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert cli.files() == ["tiny.yaml"]


def test_a_cluster_that_is_not_there_is_exit_code_4_and_nothing_is_created(cli: Cli) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        done = cli.run("run", "--space", "tiny.yaml", *RAY, "--ray-address", address)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"--ray-address {address}: no answer" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert cli.files() == ["tiny.yaml"]


def test_the_password_of_a_storage_can_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("p@{}%:/ secret\n")
    monkeypatch.setenv("HPSEARCH_STORAGE_PASSWORD_FILE", str(file))
    assert make_url(storage_url("postgresql://user@host/data", tmp_path)).password == "p@{}%:/ secret"
    assert ":other@" in storage_url("postgresql://user:other@host/data", tmp_path)
    assert storage_url(None, tmp_path) == f"sqlite:///{tmp_path}/hpsearch.db"
    file.unlink()
    with pytest.raises(BadInput, match=r"HPSEARCH_STORAGE_PASSWORD_FILE \S+: cannot be read \(No such file"):
        storage_url("postgresql://user@host/data", tmp_path)

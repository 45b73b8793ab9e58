"""One way to write a file: whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hpsearch.files import OutsideFolder, inside, require_place, sweep, trouble, write_atomically, writing, writing_folder


def write_half(path: Path) -> None:
    with writing(path) as file:
        file.write(b"half")
        raise RuntimeError


def test_a_failed_write_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("good")
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_that_utf8_cannot_hold_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("good")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "caf\udce9")
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "link").symlink_to("shared/there")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "shared" / "there").read_text() == "new"


def test_a_pipe_stays_a_pipe_and_its_reader_gets_the_content(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_atomically(tmp_path / "pipe", "page")
    reader.join(30)
    assert got == [b"page"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_an_old_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o640)
    write_atomically(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_in_a_folder_that_takes_no_other_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("a longer text of before")
    made = os.open

    def denied(name: object, flags: int, *more: int, **others: int) -> int:  # The superuser, as in CI, may always.
        if flags & os.O_EXCL and str(name).startswith(str(tmp_path)):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return made(name, flags, *more, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == "a longer text of before"
    write_atomically(path, "new")
    assert path.read_text() == "new"
    with pytest.raises(PermissionError, match="there"):
        write_atomically(tmp_path / "there", "new")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_what_is_written_to_standard_output_stands_between_what_is_there(tmp_path: Path, name: str) -> None:
    program = (
        "import os, sys; from pathlib import Path; from hpsearch.files import write_atomically; os.write(1, b'before,');"
        "write_atomically(Path(sys.argv[1]), 'page'); os.write(1, b',after')"
    )
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", program, name], stdout=out, check=True, timeout=60)
    assert (tmp_path / "out").read_text() == "before,page,after"
    piped = subprocess.run([sys.executable, "-c", program, name], capture_output=True, check=True, timeout=60)
    assert piped.stdout == b"before,page,after"


def write_half_a_folder(path: Path) -> None:
    with writing_folder(path) as whole:
        (whole / "a").write_text("half")
        raise RuntimeError


def test_a_folder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_half_a_folder(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with writing_folder(tmp_path / "link") as whole:
        (whole / "a").write_text("all")
        (whole / "deeper").mkdir()
        (whole / "deeper" / "b").write_text("too")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]
    assert (tmp_path / "there" / "deeper" / "b").read_text() == "too"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "./", "..", "../a", "a/..", "a/../../b", "/", "/a", "//a", "a//b", "~", "~/.bashrc", "~root/a"),
        *("C:a", "c:\\a", "..\\a", "a\\b", "a\0b", "a\nb", "\x1b]0;a", "\udcff", "x" * 250, "a/" * 600 + "b", "a.hpsearch-tmp"),
    ],
)
def test_a_name_that_leads_elsewhere_is_no_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutsideFolder):
        require_place(name)
    with pytest.raises(OutsideFolder):
        inside(tmp_path, name)


@pytest.mark.parametrize(("name", "place"), [("a", "a"), ("./a/./b/", "a/b"), ("..a/b..", "..a/b.."), ("é $(x)", "é $(x)")])
def test_a_name_inside_is_a_place(tmp_path: Path, name: str, place: str) -> None:
    assert require_place(name) == place
    assert inside(tmp_path, name) == tmp_path / place


def test_a_link_may_lead_to_another_place_inside_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "real").mkdir(parents=True)
    (folder / "near").symlink_to("real")
    (folder / "far").symlink_to(tmp_path)
    (tmp_path / "through").symlink_to(folder)
    assert inside(tmp_path / "through", "near/a") == tmp_path / "through" / "near" / "a"
    for name in ("far", "far/a", "near/../far"):
        with pytest.raises(OutsideFolder):
            inside(folder, name)


def test_only_unfinished_files_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".a.0123.hpsearch-tmp").write_text("half")
    (tmp_path / ".folder.hpsearch-tmp").mkdir()
    (tmp_path / ".link.hpsearch-tmp").symlink_to(tmp_path / "mine.tmp")
    for name in ("mine.tmp", "mine.hpsearch-tmp"):
        (tmp_path / name).write_text("mine")
    sweep(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".folder.hpsearch-tmp", ".link.hpsearch-tmp", "mine.hpsearch-tmp", "mine.tmp"]


def test_what_passes_is_told_from_what_does_not(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for code in (errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EMFILE):
        assert "run the same command again" in trouble(OSError(code, "trouble"), tmp_path)
    missing = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "a"))
    assert trouble(missing, tmp_path) == ""  # The folder is fine: something else looked for a file that is not there.
    assert trouble(missing, gone).endswith("a: no such file; bring it back as it was, then run the same command again")
    assert trouble(OSError(errno.EINVAL, "Invalid argument"), gone) == ""

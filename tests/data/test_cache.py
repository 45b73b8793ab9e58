import errno
import os
from pathlib import Path

import pytest

from hpsearch.data.cache import digest, recall, remember, writing
from hpsearch.errors import StoppedForNow


def test_a_file_appears_whole_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with writing(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write_half() -> None:
        with writing(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_stops_the_command_for_now(tmp_path: Path) -> None:
    with (
        pytest.raises(StoppedForNow, match="the disk is full; make room and run the same command again"),
        writing(tmp_path / "file"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / "a.0.hpsearch-tmp", tmp_path / "b.0.hpsearch-tmp"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    with writing(tmp_path / "c"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"b.0.hpsearch-tmp", "c"}


def test_what_is_remembered_is_recalled_by_its_key(tmp_path: Path) -> None:
    remember(tmp_path, ["file", 1], {"sha256": "x"})
    assert recall(tmp_path, ["file", 1]) == {"sha256": "x"}
    assert recall(tmp_path, ["file", 2]) is None
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})

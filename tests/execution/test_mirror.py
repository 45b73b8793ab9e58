"""Copies of a trial's folder in a bucket, whose objects anyone who can write to it may call anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

fsspec = pytest.importorskip("fsspec")

from fsspec.implementations.memory import MemoryFile, MemoryFileSystem  # noqa: E402

from hpsearch.execution.mirror import Mirror  # noqa: E402


class Bucket(MemoryFileSystem):  # type: ignore[misc]
    """Keys are plain strings, as in S3: "../" and "//" are letters like others."""

    protocol = "bucket"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return "/" + str(path).removeprefix("bucket://").lstrip("/")

    def find(self, path: str, **_: Any) -> list[str]:
        whole = self._strip_protocol(path)
        return sorted(key for key in self.store if key.startswith(f"{whole}/"))

    def exists(self, path: str, **_: Any) -> bool:
        return bool(self.find(path))

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        Path(lpath).write_bytes(self.store[rpath].getvalue())

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.put(rpath, Path(lpath).read_bytes())

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        self.store[self._strip_protocol(path2)] = self.store.pop(self._strip_protocol(path1))

    def put(self, key: str, content: bytes) -> None:
        self.store[self._strip_protocol(key)] = MemoryFile(self, key, content)


TRIAL = "/b/p/0001-s/trials/0007"


@pytest.fixture
def bucket() -> Iterator[Mirror]:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    Bucket.store.clear()
    yield Mirror("bucket://b/p")
    Bucket.store.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "node" / "0001-s" / "trials" / "0007"
    place.mkdir(parents=True)
    return place


def put(mirror: Mirror, key: str, content: bytes = b"theirs") -> None:
    mirror._files.put(f"{TRIAL}/{key}", content)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "key",
    [
        "../../../../up.txt",
        "/absolute.txt",
        "a/../../up.txt",
        "a//b.txt",
        "..\\up.txt",
        "C:\\up.txt",
        "./config.yaml",
        "a/",
        "a\nb.txt",
        "config.yaml/below",
        "x" * 300,
    ],
)
def test_an_object_that_is_no_place_in_the_trials_folder_is_left_where_it_is(bucket: Mirror, folder: Path, key: str) -> None:
    put(bucket, "config.yaml", b"ours")
    put(bucket, key)
    root = folder.parents[3]
    assert bucket.open(folder) == [key]
    assert files(root) == {str((folder / "config.yaml").relative_to(root)): b"ours"}
    bucket.save()
    assert bucket._files.store[f"{TRIAL}/{key}"].getvalue() == b"theirs"


def test_an_object_is_not_written_through_a_link(bucket: Mirror, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "checkpoints").symlink_to(tmp_path / "elsewhere")
    put(bucket, "checkpoints/step-1")
    assert bucket.open(folder) == ["checkpoints/step-1"]
    assert files(tmp_path / "elsewhere") == {}


def test_a_folder_comes_back_on_another_node_without_what_is_unfinished(bucket: Mirror, folder: Path, tmp_path: Path) -> None:
    bucket.open(folder)
    (folder / "kept").mkdir()
    (folder / "kept" / "model.tmp").write_bytes(b"a trainer's own name")
    (folder / "kept" / ".a.0.hpsearch-tmp").write_bytes(b"half")
    bucket.save()
    there = tmp_path / "other" / "0001-s" / "trials" / "0007"
    there.mkdir(parents=True)
    put(bucket, "kept/.b.0.hpsearch-tmp")
    assert bucket.open(there) == []
    assert files(there) == {"kept/model.tmp": b"a trainer's own name"}

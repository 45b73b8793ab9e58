"""Copies of trials' folders at an fsspec URL, for nodes that have no file system in common."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from hpsearch.errors import BadInput, StoppedForNow, install
from hpsearch.execution.ray_client import line
from hpsearch.files import TEMPORARY, OutsideFolder, inside, replacing


class Mirror:
    """The trials' folders below `url`, such as `s3://bucket/prefix` or `file:///mnt/shared`, one open at a time.

    Raises BadInput for a URL that cannot be written, naming the package that its scheme needs.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise BadInput(f"--shared {url}: fsspec is missing; {install('ray')}") from None
        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadInput(f"--shared {url}: {line(error)}") from None
        if "memory" in self._files.protocol:
            raise BadInput(f"--shared {url}: what is in memory is lost with its node; name a place that all nodes reach")
        probe = f"{self._root}/.hpsearch-{secrets.token_hex(8)}"
        try:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(probe, b"")
            self._files.rm_file(probe)
        except Exception as error:  # each file system has its own
            raise BadInput(f"--shared {url}: cannot be written on {socket.gethostname()} ({line(error)})") from None
        self._folder, self._remote = Path(), ""
        self._copied: dict[str, tuple[int, int]] = {}
        """What the mirror holds of the open folder: size and time of change of each file when it was copied."""

    def open(self, folder: Path) -> list[str]:
        """Bring what the mirror holds of the trial in `folder` (study, `trials`, number) into that empty folder.

        Returns the keys that were left where they are: whoever can write to a bucket can call an object anything, also what is
        no place inside a folder, or what another one has as a folder. Raises StoppedForNow when the mirror does not answer.
        """
        self._folder, self._remote, self._copied = folder, "/".join((self._root, *folder.parts[-3:])), {}
        try:
            self._files.invalidate_cache()
            there = self._files.find(self._remote) if self._files.exists(self._remote) else []
            left = []
            for remote in there:
                name = str(remote).removeprefix(f"{self._files._strip_protocol(self._remote)}/")
                if name.endswith(TEMPORARY):
                    continue
                local = self._local(name)
                if local is None:
                    left.append(name)
                    continue
                local.parent.mkdir(parents=True, exist_ok=True)
                with replacing(local) as temporary:
                    self._files.get_file(remote, str(temporary))
                self._copied[name] = _stamp(local)
            return left
        except Exception as error:
            raise StoppedForNow(f"--shared {self.url}: cannot be read ({line(error)}); run the same command again") from error

    def _local(self, name: str) -> Path | None:
        """Where an object of this name belongs on this node; None for one that `save` would never have copied there."""
        try:
            local = inside(self._folder, name)
        except OutsideFolder:
            return None
        above = [parent for parent in local.parents if parent.is_relative_to(self._folder)]
        taken = local.exists() or any(parent.exists() and not parent.is_dir() for parent in above)
        return None if taken or str(local.relative_to(self._folder)) != name else local

    def save(self) -> None:
        """Make the mirror equal to the open folder. Raises OSError when it cannot be; the next call makes up for it.

        Each file comes under a temporary name first, and a checkpoint before its checksum: a copy that was cut short is no
        checkpoint.
        """
        local = {str(path.relative_to(self._folder)): path for path in sorted(self._folder.rglob("*")) if path.is_file()}
        try:
            for name, path in local.items():
                try:
                    stamp = _stamp(path)
                    if name.endswith(TEMPORARY) or self._copied.get(name) == stamp:
                        continue
                    self._put(path, f"{self._remote}/{name}")
                except FileNotFoundError:
                    if path.exists():
                        raise
                    continue  # The run goes on meanwhile, and a newer checkpoint took its place.
                self._copied[name] = stamp
            for name in self._copied.keys() - local.keys():
                self._files.rm_file(f"{self._remote}/{name}")
                del self._copied[name]
        except Exception as error:
            raise OSError(line(error)) from error

    def remove(self, study: str) -> None:
        """Delete the copies of all trials in the study's folder of this name. Raises StoppedForNow when it cannot be done."""
        remote = f"{self._root}/{study}"
        try:
            self._files.invalidate_cache()
            if self._files.exists(remote):
                self._files.rm(remote, recursive=True)
        except Exception as error:
            raise StoppedForNow(
                f"--shared {self.url}: cannot be emptied ({line(error)}); run the same command again"
            ) from error

    def holds(self, name: str) -> bool:
        """Whether a file of the open folder, by its path in it, was copied, or what is in such a folder."""
        return name in self._copied or any(copied.startswith(f"{name}/") for copied in self._copied)

    def _put(self, path: Path, remote: str) -> None:
        self._files.makedirs(remote.rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(path), remote + TEMPORARY)
        self._files.mv(remote + TEMPORARY, remote)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns

"""Checkpoints that survive a crash at any moment, a full disk and flipped bits.

A checkpoint is `step-00001200.pt` and its sha256 beside it (`step-00001200.pt.sha256`, as `sha256sum` writes it). Each file is
written under a temporary name, flushed to disk and renamed; the sidecar comes last, and older checkpoints are removed only
after it. So whatever stops the process, every checkpoint is whole, or has no checksum that fits it and is passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hpsearch.config import TrialConfig
from hpsearch.errors import StoppedForNow
from hpsearch.files import TEMPORARY, write_atomically
from hpsearch.training.events import CheckpointSaved
from hpsearch.training.memory import DISK_FULL

BEST = "best.safetensors"
PATTERN = "step-*.pt"
CHECKSUM = ".sha256"

UNRELATED = frozenset(
    {
        *("save_interval", "max_save_num", "save_dir", "log_interval", "log_file", "log_file_level"),
        *("temperature", "top_k", "top_p", "num_samples", "max_new_tokens"),
    }
)
"""Hyperparameters that may differ between a checkpoint and the run that resumes from it: they change no weight."""


def run_digest(config: TrialConfig, fingerprint: str) -> str:
    """sha256 of everything that decides the weights: the config and the corpus's fingerprint."""
    values = {name: value for name, value in config.model_dump(mode="json").items() if name not in UNRELATED}
    return hashlib.sha256(json.dumps([values, fingerprint], sort_keys=True).encode()).hexdigest()


def checkpoint_folder(config: TrialConfig, folder: Path) -> Path:
    """Where the run in `folder` keeps its checkpoints.

    A relative save_dir is below `folder`. An absolute one is shared by the trials of a study, so the last three parts of
    `folder` (study, `trials`, number) are kept below it.
    """
    if config.save_dir is None:
        return folder / "checkpoints"
    place = Path(config.save_dir).expanduser()
    if not place.is_absolute():
        return folder / place
    whole = folder.resolve()
    return place.joinpath(*whole.relative_to(whole.anchor).parts[-3:])


@contextlib.contextmanager
def disk_full_stops(what: str) -> Iterator[None]:
    """Turn "no space left" into StoppedForNow, which says what could not be written and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        reason = (error.strerror or "no space left").lower()
        raise StoppedForNow(f"{what}: {reason}; make room, then run the same command again") from error


class CheckpointStore:
    """The checkpoints of one run in `folder`: the `keep` newest, and the best model's weights.

    One process at a time writes to it. Raises StoppedForNow when the disk is full; what was there stays intact.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._useless: set[Path] = set()
        with disk_full_stops(f"{folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"*{TEMPORARY}"):
            leftover.unlink()

    def save(self, state: Mapping[str, Any]) -> CheckpointSaved:
        """Write `state`, which has an `iteration`, then remove what is more than the `keep` newest."""
        iteration = int(state["iteration"])
        path = self.folder / f"step-{iteration:08d}.pt"
        # In memory first: the checksum is of what was meant, not of what a failing disk gave back.
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).hexdigest()
        self._write(path, content)
        self._write(path.with_name(path.name + CHECKSUM), f"{digest}  {path.name}\n".encode())
        self._useless.discard(path)
        others = [other for other in self.paths() if other not in self._useless and other != path]
        for old in [*self._useless, *others[self.keep - 1 :]]:
            _remove(old)
        self._useless.clear()
        return CheckpointSaved(iteration, str(path), digest, len(content))

    def load(self, digest: str) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest sound checkpoint whose `digest` is the given one, or None; and what was passed over, and why."""
        skipped = []
        for path in self.paths():
            try:
                state = load_checkpoint(path)
            except DamagedCheckpoint as error:
                skipped.append(str(error))
            else:
                if state.get("digest") == digest:
                    return state, skipped
                skipped.append(f"{path}: passed over: it belongs to another config or text")
            self._useless.add(path)
        return None, skipped

    def clear(self) -> None:
        """Remove every checkpoint: the run starts from step 0."""
        for path in self.paths():
            _remove(path)
        (self.folder / BEST).unlink(missing_ok=True)

    def paths(self) -> list[Path]:
        """All checkpoints, newest first, damaged ones too."""
        return sorted(self.folder.glob(PATTERN), reverse=True)

    def keep_best(self, weights: Mapping[str, Tensor], iteration: int, metric: str, value: float) -> Path:
        """Replace the best model's weights. The iteration and the value are in the file's metadata."""
        metadata = {"iteration": str(iteration), metric: repr(value)}
        path = self.folder / BEST
        self._write(path, safetensors_of(weights, metadata))
        return path

    def _write(self, path: Path, content: bytes | memoryview) -> None:
        with disk_full_stops(f"{path}"):
            write_atomically(path, content)


def safetensors_of(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A file of safetensors: the same weights and metadata give the same bytes.

    The library writes metadata in an order that changes from one process to the next. So it writes none here, and the header
    (its length in 8 bytes, then JSON, padded to a multiple of 8 with spaces) gets them in the order of their names.
    """
    bare = safetensors.torch.save(dict(weights))
    end = 8 + int.from_bytes(bare[:8], "little")
    header = json.dumps({"__metadata__": dict(sorted(metadata.items())), **json.loads(bare[8:end])}, separators=(",", ":"))
    header += " " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header.encode("ascii"), memoryview(bare)[end:]))


class DamagedCheckpoint(Exception):
    """A checkpoint that is not what was written."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, checked against its checksum and read with `weights_only`. Raises DamagedCheckpoint."""
    try:
        content = path.read_bytes()
        expected = path.with_name(path.name + CHECKSUM).read_text("ascii").split()[0]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise DamagedCheckpoint(f"{path}: passed over: it or its checksum cannot be read ({_reason(error)})") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise DamagedCheckpoint(f"{path}: passed over: damaged (its sha256 is not the recorded one)")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}: passed over: not a checkpoint of tensors and numbers ({_reason(error)})") from None
    if not isinstance(state, dict):
        raise DamagedCheckpoint(f"{path}: passed over: not a checkpoint")
    return state


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(path.name + CHECKSUM).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Checkpoints that survive a crash at any moment, a full disk and flipped bits.

What they are called is said in `hpsearch.training.kept`. Each file is written under a temporary name, flushed to disk and
renamed; the checksum comes first, so that no checkpoint is ever without one, and older checkpoints are removed last. So
whatever stops the process, every checkpoint is whole, or has no checksum that fits it and is passed over.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hpsearch.config import TrialConfig
from hpsearch.files import sweep, write_atomically
from hpsearch.training.events import CheckpointSaved
from hpsearch.training.kept import BEST, CHECKSUM, PATTERN, is_ours, make_room, remove, step_name
from hpsearch.training.memory import disk_stops

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


class CheckpointStore:
    """The checkpoints of one run in `folder`: the `keep` newest, and the best model's weights.

    One process at a time writes to it. Raises StoppedForNow when the disk is full; what was there stays intact.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._useless: set[Path] = set()
        with disk_stops(folder, folder.parent):
            folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)

    def save(self, state: Mapping[str, Any]) -> CheckpointSaved:
        """Write `state`, which has an `iteration`, then remove what is more than the `keep` newest."""
        iteration = int(state["iteration"])
        path = self.folder / step_name(iteration)
        # In memory first: the checksum is of what was meant, not of what a failing disk gave back.
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).hexdigest()
        make_room(path)
        beside = path.with_name(path.name + CHECKSUM)
        self._write(beside, f"{digest}  {path.name}\n".encode())
        try:
            self._write(path, content)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        self._useless.discard(path)
        others = [other for other in self.paths() if other not in self._useless and other != path and is_ours(other)]
        for old in [*self._useless, *others[self.keep - 1 :]]:
            remove(old)
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
        """Remove every checkpoint that was written here: the run starts from step 0."""
        for path in [*self.paths(), self.folder / BEST]:
            remove(path)

    def paths(self) -> list[Path]:
        """All checkpoints, newest first, damaged ones too."""
        return sorted(self.folder.glob(PATTERN), reverse=True)

    def keep_best(self, weights: Mapping[str, Tensor], iteration: int, metric: str, value: float) -> Path:
        """Replace the best model's weights. The iteration and the value are in the file's metadata."""
        metadata = {"iteration": str(iteration), metric: repr(value)}
        path = self.folder / BEST
        make_room(path)
        self._write(path, safetensors_of(weights, metadata))
        return path

    def _write(self, path: Path, content: bytes | memoryview) -> None:
        with disk_stops(path, self.folder):
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


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

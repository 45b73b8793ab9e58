"""The files of checkpoints: what they are called, where they are, and which of them a run may remove. No torch here.

A checkpoint is `step-00001200.pt` with its sha256 beside it (`step-00001200.pt.sha256`, as `sha256sum` writes it), and the best
model's weights are `best.safetensors` with the iteration in its metadata. A file of such a name that lacks this was not written
here: it is never removed and never written over, but moved aside.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
from pathlib import Path

from hpsearch.config import CHECKPOINTS
from hpsearch.errors import BadInput
from hpsearch.files import OutsideFolder, inside, sweep

BEST = "best.safetensors"
PATTERN = "step-*.pt"
CHECKSUM = ".sha256"
LONGEST_HEADER = 50_000_000
"""Bytes of what stands before the weights in a safetensors file."""


def step_name(iteration: int) -> str:
    """The checkpoint of a step, as a file."""
    return f"step-{iteration:08d}.pt"


def checkpoint_folder(save_dir: str | None, folder: Path, elsewhere: Path | None = None) -> Path:
    """Where the run in `folder` keeps its checkpoints. elsewhere: what a command line said, which comes first.

    Raises BadInput where save_dir is no place inside `folder`.
    """
    return elsewhere or place_in(folder, "save_dir", save_dir or CHECKPOINTS)


def place_in(folder: Path, setting: str, name: str) -> Path:
    """The place in a run's folder that a setting of its config names. Raises BadInput where that is none."""
    try:
        return inside(folder, name)
    except OutsideFolder as error:
        raise BadInput(f"{setting}: '{name}' in {folder} {error}; remove the link, or leave {setting} out") from None


def is_ours(path: Path) -> bool:
    """Whether a file under a name of ours was written here. What is a link or a folder was not."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        return "iteration" in _metadata(path) if path.name == BEST else _has_checksum(path)
    except (OSError, ValueError):
        return False


def _has_checksum(path: Path) -> bool:
    """Whether the file of a checkpoint's checksum is there as it is written here, for whatever content."""
    beside = path.with_name(path.name + CHECKSUM)
    try:
        if not stat.S_ISREG(beside.lstat().st_mode) or beside.stat().st_size > 200 + len(path.name):
            return False
        return re.fullmatch(rf"[0-9a-f]{{64}}  {re.escape(path.name)}\n", beside.read_text("ascii")) is not None
    except (OSError, ValueError):
        return False


def remove(path: Path) -> None:
    """Remove a checkpoint, or the best model's weights, if it was written here."""
    if is_ours(path):
        path.unlink()
        path.with_name(path.name + CHECKSUM).unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    """Remove what a run that never goes on has left in its folder of checkpoints, and the folder if nothing else is in it."""
    with contextlib.suppress(OSError):
        for path in [*folder.glob(PATTERN), folder / BEST]:
            remove(path)
        sweep(folder)
        if not folder.is_symlink():
            folder.rmdir()


def make_room(path: Path) -> None:
    """Move aside what is where a file is about to be written, and its checksum, if it was not written here."""
    places = ([] if is_ours(path) else [path]) + ([] if _has_checksum(path) else [path.with_name(path.name + CHECKSUM)])
    ending = f".not-ours-{secrets.token_hex(4)}"
    for foreign in places:
        if os.path.lexists(foreign):
            foreign.rename(foreign.with_name(foreign.name + ending))


def _metadata(path: Path) -> dict[str, str]:
    """Of a safetensors file. Raises OSError or ValueError for another one."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LONGEST_HEADER:
            raise ValueError("no safetensors file")
        header = json.loads(file.read(size))
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}

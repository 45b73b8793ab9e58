"""Checkpoints against torn writes, flipped bits, full disks and foreign configs, on real files."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hpsearch.config import TrialConfig
from hpsearch.errors import BadInput, StoppedForNow
from hpsearch.training.checkpoints import (
    CheckpointStore,
    DamagedCheckpoint,
    load_checkpoint,
    run_digest,
    safetensors_of,
)
from hpsearch.training.kept import checkpoint_folder, remove_all
from hpsearch.training.memory import disk_stops


def state(iteration: int, digest: str = "ours", size: int = 100) -> dict[str, Any]:
    return {"iteration": iteration, "digest": digest, "model": {"weight": torch.full((size,), float(iteration))}}


def filled(folder: Path, iterations: range = range(100, 400, 100), keep: int = 3) -> CheckpointStore:
    store = CheckpointStore(folder, keep)
    for iteration in iterations:
        store.save(state(iteration))
    return store


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    filled(tmp_path)
    loaded, skipped = CheckpointStore(tmp_path, 3).load("ours")
    assert loaded is not None
    assert loaded["iteration"] == 300
    assert torch.equal(loaded["model"]["weight"], torch.full((100,), 300.0))
    assert skipped == []


def test_the_event_tells_the_file_on_disk(tmp_path: Path) -> None:
    saved = CheckpointStore(tmp_path, 2).save(state(7))
    content = Path(saved.path).read_bytes()
    assert saved.iteration == 7
    assert saved.size == len(content)
    assert saved.sha256 == hashlib.sha256(content).hexdigest()
    assert Path(saved.path + ".sha256").read_text() == f"{saved.sha256}  step-00000007.pt\n"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    filled(tmp_path, range(100, 600, 100), keep)
    kept = [f"step-{iteration:08d}.pt" for iteration in range(100, 600, 100)][-keep:]
    assert names(tmp_path) == sorted([*kept, *(name + ".sha256" for name in kept)])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lose_checksum(path: Path) -> None:
    path.with_name(path.name + ".sha256").unlink()


def damage_checksum(path: Path) -> None:
    path.with_name(path.name + ".sha256").write_bytes(b"\xff\x00")


def empty_checksum(path: Path) -> None:
    path.with_name(path.name + ".sha256").write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, lose_checksum, damage_checksum, empty_checksum])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, damage: Any) -> None:
    store = filled(tmp_path)
    damage(store.paths()[0])
    loaded, skipped = CheckpointStore(tmp_path, 3).load("ours")
    assert loaded is not None
    assert loaded["iteration"] == 200
    assert len(skipped) == 1
    assert "step-00000300.pt: passed over" in skipped[0]
    assert "\n" not in skipped[0]


def test_every_single_flipped_bit_is_detected(tmp_path: Path) -> None:
    path = Path(CheckpointStore(tmp_path, 1).save(state(1, size=4)).path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        torn = bytearray(whole)
        torn[position] ^= 1 << (position % 8)
        path.write_bytes(torn)
        with pytest.raises(DamagedCheckpoint):
            load_checkpoint(path)


def test_nothing_sound_means_from_step_0(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for path in store.paths():
        truncate(path)
    loaded, skipped = CheckpointStore(tmp_path, 3).load("ours")
    assert loaded is None
    assert len(skipped) == 3


def test_damaged_ones_take_no_place_of_sound_ones(tmp_path: Path) -> None:
    flip_a_bit(filled(tmp_path, keep=2).paths()[0])
    store = CheckpointStore(tmp_path, 2)
    store.load("ours")
    store.save(state(250))
    assert [path.name for path in store.paths()] == ["step-00000250.pt", "step-00000200.pt"]


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "owned",))

    path = tmp_path / "step-00000001.pt"
    torch.save({"iteration": 1, "digest": "ours", "evil": Evil()}, path)
    path.with_name(path.name + ".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    loaded, skipped = CheckpointStore(tmp_path, 1).load("ours")
    assert loaded is None
    assert "not a checkpoint of tensors and numbers" in skipped[0]
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_another_config_is_passed_over(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 2)
    store.save(state(100, "ours"))
    store.save(state(200, "theirs"))
    loaded, skipped = CheckpointStore(tmp_path, 2).load("ours")
    assert loaded is not None
    assert loaded["iteration"] == 100
    assert "another config" in skipped[0]


def test_the_digest_follows_what_decides_the_weights_only() -> None:
    base = {"max_iters": 100}
    digest = run_digest(TrialConfig.build(base), "text")
    for same in ({"log_interval": 3}, {"max_save_num": 9}, {"save_interval": 7}, {"temperature": 0.5}, {"save_dir": "x"}):
        assert run_digest(TrialConfig.build(base | same), "text") == digest
    for other in ({"seed": 1}, {"learning_rate": 2e-4}, {"max_iters": 101}, {"dropout": 0.2}):
        assert run_digest(TrialConfig.build(base | other), "text") != digest
    assert run_digest(TrialConfig.build(base), "another text") != digest


def crashes_at(operation: int, store: CheckpointStore) -> bool:
    """Save in a child process that ends without a word at its n-th opening, renaming or removal of a file."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        seen = itertools.count(1)

        def hook(event: str, _: Any) -> None:
            if event in ("open", "os.rename", "os.remove") and next(seen) == operation:
                os._exit(9)

        sys.addaudithook(hook)
        store.save(state(300))
    finally:
        os._exit(0)


def test_a_crash_at_any_file_operation_leaves_a_sound_checkpoint(tmp_path: Path) -> None:
    for operation in itertools.count(1):
        store = filled(tmp_path / f"{operation}", range(100, 300, 100), keep=2)
        crashed = crashes_at(operation, store)
        loaded, _ = CheckpointStore(tmp_path / f"{operation}", 2).load("ours")
        assert loaded is not None
        assert loaded["iteration"] in ((200, 300) if crashed else (300,))
        if not crashed:
            break
    # Two files, each opened by name and as a stream, renamed and its folder flushed; then the checksums of the two older ones
    # are read, that of the oldest once more, and its two files removed.
    assert operation == 2 * 4 + 3 + 2 + 1


def test_leftover_temporaries_are_swept_and_never_loaded(tmp_path: Path) -> None:
    (tmp_path / ".step-00000900.pt.0.hpsearch-tmp").write_bytes(b"torn")
    store = CheckpointStore(tmp_path, 1)
    assert names(tmp_path) == []
    assert store.load("ours") == (None, [])


def test_best_weights_carry_their_iteration(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 1)
    store.keep_best({"weight": torch.ones(3)}, 5, "val_bpb", 2.5)
    path = store.keep_best({"weight": torch.zeros(3)}, 9, "val_bpb", 1.25)
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"iteration": "9", "val_bpb": "1.25"}
        assert torch.equal(file.get_tensor("weight"), torch.zeros(3))


def test_the_same_weights_and_metadata_are_the_same_bytes() -> None:
    weights = {f"layer.{index}": torch.full((3,), float(index)) for index in range(5)}
    metadata = {f"metric {index}": "é" for index in range(8)}
    turned = dict(reversed(metadata.items()))
    (content,) = {safetensors_of(weights, told) for told in [metadata, turned] * 10}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in safetensors.torch.load(content).items())
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length])["__metadata__"] == metadata


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from hpsearch.errors import StoppedForNow
from hpsearch.training.checkpoints import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), 1)
small = {"iteration": 1, "digest": "ours", "model": {"weight": torch.ones(100)}}
store.save(small)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    store.save(small | {"iteration": 2, "model": {"weight": torch.ones(10_000)}})
except StoppedForNow as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_file_size_limit_stops_for_now_and_leaves_the_old_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 75, done.stderr
    assert "step-00000002.pt: file too large; make room" in done.stdout
    assert done.stderr == ""
    assert names(tmp_path) == ["step-00000001.pt", "step-00000001.pt.sha256"]
    loaded, skipped = CheckpointStore(tmp_path, 1).load("ours")
    assert loaded is not None
    assert loaded["iteration"] == 1
    assert skipped == []


def test_no_space_left_stops_for_now(tmp_path: Path) -> None:
    # /dev/full answers every write with ENOSPC, as a full disk does.
    with (
        pytest.raises(StoppedForNow, match=r"step-00000200.pt: no space left on device; make room"),
        disk_stops(tmp_path / "step-00000200.pt", tmp_path),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"much")


def test_a_save_dir_is_in_the_trials_folder(tmp_path: Path) -> None:
    assert checkpoint_folder("kept/here", tmp_path) == tmp_path / "kept" / "here"
    assert checkpoint_folder(None, tmp_path) == tmp_path / "checkpoints"
    assert checkpoint_folder("kept", tmp_path / "trial", tmp_path / "by-command") == tmp_path / "by-command"


@pytest.mark.parametrize("name", ["checkpoints", "kept", "kept/deeper"])
def test_a_link_that_leads_out_of_the_trials_folder_holds_no_checkpoints(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / name.partition("/")[0]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=f"save_dir: '{name}' in .*trial leads out of the folder through a symbolic link"):
        checkpoint_folder(name, tmp_path / "trial")


def foreign(folder: Path) -> dict[str, str]:
    """Files that somebody else left under names of ours, with what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step-99999999.pt.sha256").write_text("no checksum\n")
    for name in ("step-00000100.pt", "step-99999999.pt", "best.safetensors", "notes.tmp", "mine.hpsearch-tmp"):
        (folder / name).write_text(f"{name} of mine")
    return {path.name: path.read_text() for path in folder.iterdir()}


def contents(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.iterdir() if path.stat().st_size < 100]


def test_files_of_others_are_never_removed_nor_written_over(tmp_path: Path) -> None:
    theirs = foreign(tmp_path)
    store = CheckpointStore(tmp_path, 1)
    assert store.load("ours")[0] is None
    for iteration in (100, 200, 300):
        store.save(state(iteration))
        store.keep_best({"weight": torch.ones(3)}, iteration, "val_bpb", 2.5)
    loaded, _ = CheckpointStore(tmp_path, 1).load("ours")
    assert loaded is not None
    assert loaded["iteration"] == 300
    assert set(theirs.values()) <= set(contents(tmp_path))
    assert [name for name in names(tmp_path) if name.startswith("step-0") and "not-ours" not in name] == [
        "step-00000300.pt",
        "step-00000300.pt.sha256",
    ]
    store.clear()
    remove_all(tmp_path)
    assert set(theirs.values()) <= set(contents(tmp_path))
    assert not (tmp_path / "step-00000300.pt").exists()
    assert not (tmp_path / "best.safetensors").exists()


def test_a_checkpoint_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "kept").mkdir()
    for name in ("step-00000100.pt", "best.safetensors"):
        (tmp_path / "kept" / name).symlink_to(tmp_path / "notes")
    store = filled(tmp_path / "kept", range(100, 200, 100))
    store.keep_best({"weight": torch.ones(3)}, 100, "val_bpb", 2.5)
    store.clear()
    assert (tmp_path / "notes").read_text() == "mine"


def test_what_a_run_that_never_goes_on_kept_is_removed_with_its_folder(tmp_path: Path) -> None:
    filled(tmp_path / "kept").keep_best({"weight": torch.ones(3)}, 300, "val_bpb", 2.5)
    remove_all(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()

"""What Linux's control groups leave to this process: a container's or a batch job's share of its machine.

Version 2 (one tree, `memory.max` and `cpu.max`) and version 1 (a tree for each controller). A limit may be set at any level
above the process, so all of them are looked at; where there are no control groups there is no limit.
Source: the kernel's documentation, admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OURS = Path("/proc/self/cgroup")
"""Lines of `number:controllers:path`; version 2's has no controllers."""


def cores() -> float | None:
    """Cores that may be kept busy in the mean; None without a limit."""
    limits = [_cores(group) for group in _groups("cpu")]
    return min((limit for limit in limits if limit is not None), default=None)


def free_memory() -> int | None:
    """Bytes that can be allocated before a limit is met, what the page cache would give back included; None without a limit."""
    rooms = [_room(group) for group in _groups("memory")]
    return min((room for room in rooms if room is not None), default=None)


def _groups(controller: str) -> Iterator[Path]:
    """The process's own group and all above it, as far as they can be seen from here."""
    try:
        lines = OURS.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = ROOT / controllers if controllers else ROOT
        own = root / path.lstrip("/")
        # In a container the path is often that of the machine outside; its own group is then the root.
        yield from (group for group in (own, *own.parents) if group.is_relative_to(root) and group.is_dir())


def _cores(group: Path) -> float | None:
    if whole := _words(group / "cpu.max"):
        quota, period = whole[0], whole[1]
    else:
        quota, period = (" ".join(_words(group / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    limited = quota.isdecimal() and period.isdecimal()  # Not `max`, nor version 1's -1.
    return int(quota) / int(period) if limited else None


def _room(group: Path) -> int | None:
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _words(group / limit), _words(group / used)
        if most and now and most[0].isdecimal():
            stat = _words(group / "memory.stat")
            freed = dict(zip(stat[::2], stat[1::2], strict=False)).get(cache, "0")
            return max(0, int(most[0]) - int(now[0]) + int(freed))
    return None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split()
    except OSError:
        return []

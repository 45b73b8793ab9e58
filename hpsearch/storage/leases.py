"""One coordinator per study: a lease on the database's clock, and the fence that every write of a coordinator passes.

The lease lives in the study's row. Whoever takes it, writes under it or deletes the study locks that row first (on SQLite
the whole database), so a coordinator that lost its lease can not write after the other one took it.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from hpsearch.errors import StudyGone, StudyOwned
from hpsearch.storage.records import Owner
from hpsearch.storage.tables import studies
from hpsearch.storage.transactions import now
from hpsearch.text import storable

_NOBODY: dict[str, Any] = {
    "lease_host": None,
    "lease_pid": None,
    "lease_process_start": None,
    "lease_namespace": None,
    "lease_token": None,
    "lease_expires_at": None,
}
_START_TOLERANCE_S = 0.5


def _process_start(pid: int) -> float | None:
    """Seconds from the host's boot to the start of process `pid`; None where it is gone.

    From the boot, because a start in seconds since 1970 moves with every correction of the host's clock.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return None


def _namespace() -> str:
    """Where this process's id means this process: one start of one machine, and of its namespaces of process ids one.

    Two containers may have one host name, and each process ids of its own. Empty where it cannot be told.
    """
    if sys.platform != "linux":
        return "host"
    try:
        if int(Path("/proc/self").readlink().name) != os.getpid():
            return ""  # /proc is that of another namespace, and what it says is about other processes.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except (OSError, ValueError):
        return ""


def this_process() -> Owner:
    """The calling process as an owner, with a fresh token."""
    namespace = _namespace()
    start = _process_start(os.getpid()) if namespace else None
    return Owner(
        host=storable(socket.gethostname()),
        pid=os.getpid(),
        process_start=start or 0.0,
        token=secrets.token_hex(16),
        namespace=namespace if start is not None else "",
    )


def _dead(owner: Owner) -> bool:
    """Whether `owner` is known to be gone; its process id may belong to another process by now.

    Only a process of the same host and the same namespace can be looked for; of others the lease's end tells.
    """
    if owner.host != storable(socket.gethostname()) or not owner.namespace or owner.namespace != _namespace():
        return False
    start = _process_start(owner.pid)
    return start is None or abs(start - owner.process_start) > _START_TOLERANCE_S


def _row(connection: Connection, study_id: int, *, lock: bool) -> RowMapping:
    statement = select(
        studies.c.name,
        studies.c.lease_host,
        studies.c.lease_pid,
        studies.c.lease_process_start,
        studies.c.lease_namespace,
        studies.c.lease_token,
        studies.c.lease_expires_at,
    ).where(studies.c.id == study_id)
    row = connection.execute(statement.with_for_update() if lock else statement).mappings().one_or_none()
    if row is None:
        raise StudyGone(f"study {study_id} is gone: it was deleted")
    return row


def _owner(row: RowMapping) -> Owner | None:
    if row["lease_token"] is None:
        return None
    return Owner(
        row["lease_host"], row["lease_pid"], row["lease_process_start"], row["lease_token"], row["lease_namespace"] or ""
    )


def live_owner(connection: Connection, study_id: int, *, lock: bool = False) -> Owner | None:
    """Who works on the study: the holder of a lease that has not expired and whose process is not known to be dead."""
    row = _row(connection, study_id, lock=lock)
    owner = _owner(row)
    if owner is None or row["lease_expires_at"] <= now(connection) or _dead(owner):
        return None
    return owner


def acquire(connection: Connection, study_id: int, owner: Owner, ttl_s: float) -> None:
    other = live_owner(connection, study_id, lock=True)
    if other is not None and other.token != owner.token:
        row = _row(connection, study_id, lock=False)
        seen = other.host == owner.host and other.namespace == owner.namespace != ""
        unseen = f" (not seen from here: if it has ended, try again in {row['lease_expires_at'] - now(connection):.0f} s)"
        raise StudyOwned(
            f"study '{row['name']}' is owned by process {other.pid} on host {other.host}{'' if seen else unseen}; "
            "see it with `hpsearch status`, or stop that process first"
        )
    connection.execute(
        update(studies)
        .where(studies.c.id == study_id)
        .values(
            lease_host=owner.host,
            lease_pid=owner.pid,
            lease_process_start=owner.process_start,
            lease_namespace=owner.namespace,
            lease_token=owner.token,
            lease_expires_at=now(connection) + ttl_s,
        )
    )


def renew(connection: Connection, study_id: int, owner: Owner, ttl_s: float) -> None:
    fence(connection, study_id, owner.token)
    connection.execute(update(studies).where(studies.c.id == study_id).values(lease_expires_at=now(connection) + ttl_s))


def release(connection: Connection, study_id: int, owner: Owner) -> None:
    mine = (studies.c.id == study_id) & (studies.c.lease_token == owner.token)
    connection.execute(update(studies).where(mine).values(**_NOBODY))


def fence(connection: Connection, study_id: int, token: str) -> None:
    """Pass only the holder of the lease, and keep the lease where it is until the transaction ends.

    Raises StudyOwned when `token` is not the lease's, StudyGone when the study was deleted. An expired lease that nobody
    took passes: there is no other writer.
    """
    row = _row(connection, study_id, lock=True)
    if row["lease_token"] == token:
        return
    other = _owner(row)
    if other is None:
        raise StudyOwned(f"study '{row['name']}' is not owned by this process any more: its lease was released")
    raise StudyOwned(f"study '{row['name']}' was taken over by process {other.pid} on host {other.host}")

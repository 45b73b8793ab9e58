"""Where slots are: on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch.errors import BadInput, did_you_mean
from hpsearch.execution.resources import Placement, on_this_machine, slot_count

if TYPE_CHECKING:
    from hpsearch.execution.protocol import Executor

ExecutorOption = Annotated[
    str, typer.Option("--executor", metavar="local|ray", help="Slots on this machine, or on the nodes of a Ray cluster.")
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        envvar="RAY_ADDRESS",
        show_envvar=True,
        help="The cluster; by default the one that this machine is a node of.",
    ),
]
GpusPerSlotOption = Annotated[
    float | None,
    typer.Option("--gpus-per-slot", metavar="SHARE", help="Ray: 0.5 lets two slots share a GPU; 0 uses cores only."),
]
SharedOption = Annotated[
    str | None,
    typer.Option(
        "--shared",
        metavar="URL",
        help="Ray: where trials are copied to and from (s3://…, file:///…), if the nodes do not share the studies folder.",
    ),
]


def on_a_cluster(
    slots: str, device: str, address: str | None, gpus_per_slot: float | None, shared: str | None, studies_dir: Path
) -> Placement:
    """Raises BadInput for options that no cluster has, ClusterUnreachable when this one does not answer."""
    from hpsearch.execution.ray_client import cluster_gpus
    from hpsearch.execution.ray_executor import RayExecutor

    count = None if slots == "auto" else slot_count(slots, ("cpu",))
    address = address or "auto"
    if device not in ("auto", "cpu", "cuda"):
        raise BadInput(f"--device {device}: with --executor ray use auto, cpu or cuda; Ray chooses the GPU of each slot")
    if gpus_per_slot is not None and not (0 <= gpus_per_slot < 1 or gpus_per_slot == 1):
        raise BadInput(f"--gpus-per-slot {gpus_per_slot:g}: give a share from 0 to 1")
    if device == "cpu" and gpus_per_slot:
        raise BadInput(f"--gpus-per-slot {gpus_per_slot:g}: there is none with --device cpu; leave one of them out")
    there = cluster_gpus(address)  # Also finds out, before anything is created, whether the cluster answers.
    if gpus_per_slot is None:
        # A GPU that was asked for by name may be on a node that is still to join.
        gpus_per_slot = 1.0 if device == "cuda" or (device == "auto" and there) else 0.0
    elif device == "cuda" and not gpus_per_slot:
        raise BadInput("--gpus-per-slot 0: --device cuda needs a share of a GPU; leave one of them out")

    def start(threads: int, trainer: str) -> Executor:
        place = shared or studies_dir
        return RayExecutor(count, threads, address=address, gpus_per_slot=gpus_per_slot, shared=place, trainer=trainer)

    return Placement(("cuda:0",) if gpus_per_slot else ("cpu",), 1, start)


def placement(
    executor: str,
    slots: str,
    device: str,
    *,
    address: str | None,
    gpus_per_slot: float | None,
    shared: str | None,
    studies_dir: Path,
    threads: int | None = None,
    most: int | None = None,
) -> Placement:
    """What the options of a command say about where to train; `threads` and `most` as in `on_this_machine`."""
    if executor == "ray":
        return on_a_cluster(slots, device, address, gpus_per_slot, shared, studies_dir)
    if executor != "local":
        raise BadInput(f"--executor {executor}: use local or ray{did_you_mean(executor, ['local', 'ray'])}")
    for option, value in (("--gpus-per-slot", gpus_per_slot), ("--shared", shared)):
        if value is not None:
            raise BadInput(f"{option} {value}: only with --executor ray")
    return on_this_machine(slots, device, threads=threads, most=most)

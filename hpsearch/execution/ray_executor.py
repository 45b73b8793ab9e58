"""Slots as actors of a Ray cluster.

Each actor has one call pending, `listen`, that returns when its slot has something to say: waiting for all of them is one
`ray.wait`. An actor that has no room yet, or whose node is starting, is a slot that is not idle.
"""

from __future__ import annotations

import logging
import math
import secrets
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import hpsearch
from hpsearch.errors import BadInput, ClusterUnreachable, SlotsUnable
from hpsearch.execution.local_executor import MAX_STILLBORN
from hpsearch.execution.mirror import Mirror
from hpsearch.execution.protocol import TRANSFORMER, Died, Ended, Failed, SlotInfo, SlotMessage, TrialTask
from hpsearch.execution.ray_actor import Place, Report, SlotHost, absolute_texts
from hpsearch.execution.ray_client import answers, connect, line, ray_package
from hpsearch.training.events import Answer

START_S = 120.0
"""How long a cluster may take to have room for the first slot, and this to load its trainer."""
TOGETHER_S = 10.0
"""How long the first slot waits for the others, so that they are measured together."""
LOOK_S = 5.0
"""Between two looks at what the cluster has."""
BEAT_S = 1.0
"""Between two signs of life for the slots."""
GONE_S = 20.0
"""How long its head may be silent before the cluster counts as gone. Ray itself would end this process after 60 s."""


@dataclass
class _Slot:
    name: str
    actor: Any
    listening: Any
    """The pending call of `listen`; None for a node that was refused."""
    info: SlotInfo | None = None
    """None until its actor has a place."""
    number: int | None = None
    """Trial in it."""
    stay: int = 0
    """Tasks that it was given."""
    calls: list[Any] = field(default_factory=list)
    """Calls on their way to it: one that fails is a message that the slot would wait for."""


class RayExecutor:
    """Slots on the nodes of a Ray cluster. A slot that is lost with its node is replaced wherever there is room.

    slots: how many; None: as many as the cluster has room for, looked at again while it runs. threads: cores of each.
    address: HOST:PORT, or `auto` for the cluster of this machine (or of RAY_ADDRESS). gpus_per_slot: a fraction, or whole
    GPUs; 0: none. shared: a folder that every node must see under the same path (each is asked), or the fsspec URL that
    trials are copied to and from; None: taken as given.

    Raises BadInput without Ray, for a shared place that cannot be used, and when no node can be worked on; ClusterUnreachable
    when the cluster does not answer or has no room.
    """

    def __init__(
        self,
        slots: int | None,
        threads: int,
        *,
        address: str = "auto",
        gpus_per_slot: float = 0.0,
        trainer: str = TRANSFORMER,
        shared: Path | str | None = None,
    ) -> None:
        self._fixed, self._threads, self._gpus = slots, threads, gpus_per_slot
        self._address, self._trainer = address, trainer
        self._slots: dict[str, _Slot] = {}
        self._stillborn = 0
        self._worked = False
        """Whether any slot has said anything of a trial."""
        self._looked = -math.inf
        self._refusal = ""
        self._token: Path | None = None
        self._closed = threading.Event()
        # From a thread: a sampler's fit, or a database that does not answer, must not look like an end to the slots.
        self._beating = threading.Thread(target=self._beat, daemon=True, name="slots-beat")
        self._ray, self._connected, self._cut = ray_package(), False, False
        try:
            self._place = self._share(shared)
            self._connected = connect(self._ray, address)
            context = self._ray.get_runtime_context()
            self._head, self._node = context.gcs_address, context.get_node_id()
            self._answered = time.monotonic()
            remote = self._ray.remote(concurrency_groups={"listen": 1, "tell": 1, "beat": 1})(SlotHost)
            self._actor = remote.options(
                num_cpus=threads, num_gpus=gpus_per_slot, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
            )
            self._beating.start()
            self._await_first()
        except BaseException:
            self.close()
            raise

    def idle(self) -> Sequence[SlotInfo]:
        return [slot.info for slot in self._slots.values() if slot.info is not None and slot.number is None]

    def submit(self, slot: SlotInfo, task: TrialTask) -> None:
        target = self._slots[slot.name]
        target.number = task.number
        target.stay += 1
        # Another machine has another working directory.
        task = replace(
            task,
            folder=task.folder.absolute(),
            cache_dir=task.cache_dir.absolute(),
            data=absolute_texts(task.data),
            device=self.device,
        )
        self._tell(target, "submit", target.stay, task)

    def answer(self, slot: str, answer: Answer) -> None:
        target = self._slots[slot]
        self._tell(target, "answer", target.stay, answer)

    def kill(self, slot: str) -> None:
        self._ray.kill(self._slots[slot].actor)  # Its pending call fails, as when its node is lost.

    def messages(self, timeout_s: float) -> list[SlotMessage]:
        self._look()
        calls = {call: slot for slot in self._slots.values() for call in (slot.listening, *slot.calls) if call is not None}
        if not calls:
            time.sleep(timeout_s)
            return []
        try:
            ready, rest = self._ray.wait(list(calls), num_returns=1, timeout=timeout_s)
            if ready and rest:
                ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        except self._ray.exceptions.RayError as error:
            raise ClusterUnreachable(f"--ray-address {self._address}: the cluster does not answer ({line(error)})") from None
        found: list[SlotMessage] = []
        for call in ready:
            slot = calls[call]
            if self._slots[slot.name] is not slot:
                continue  # Replaced for another of its calls.
            try:
                report = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                found += self._lost(slot, error)
                continue
            if call is slot.listening:
                found += self._heard(slot, report)
            else:
                slot.calls.remove(call)
        return found

    def close(self) -> None:
        self._closed.set()
        if self._token is not None:
            self._token.unlink(missing_ok=True)
        if self._cut:
            return  # There is nobody to tell; slots end with their nodes, or when they miss this process.
        if self._beating.is_alive():
            self._beating.join()  # A call after the end of the connection would open another one.
        for slot in self._slots.values():
            self._ray.kill(slot.actor)
        self._slots.clear()
        if self._connected:
            self._ray.shutdown()  # This process's part; the cluster goes on.

    @property
    def device(self) -> str:
        """As torch names it inside a slot: Ray shows each one its own GPUs only."""
        return "cuda:0" if self._gpus else "cpu"

    def _share(self, shared: Path | str | None) -> Place:
        if isinstance(shared, str):
            return Place(url=Mirror(shared).url)
        if shared is None:
            return Place()
        folder = shared.absolute()
        self._token = folder / f".hpsearch-{secrets.token_hex(8)}"
        self._token.touch()
        return Place(folder, self._token.name)

    def _await_first(self) -> None:
        """Wait for the first slot, and shortly for the others that there is room for."""
        began = first = time.monotonic()
        while True:
            heard = self.messages(0.5)
            assert not heard
            now, started = time.monotonic(), len(self.idle())
            wanted = min(len(self._slots), self._room())
            refused = [slot for slot in self._slots.values() if slot.listening is None]
            if not started:
                first = now
                if refused and len(refused) >= wanted:
                    raise BadInput(self._refusal)
                if now - began > START_S:
                    raise ClusterUnreachable(
                        f"--ray-address {self._address}: no room for a slot of {self._needs()} on the cluster's "
                        f"{len(self._nodes())} nodes; add nodes, end other work, or ask for less"
                    )
            elif started + len(refused) >= wanted or now - first > TOGETHER_S:
                return

    def _needs(self) -> str:
        cores = f"{self._threads} core{'s' if self._threads > 1 else ''}"
        return f"{cores} and {self._gpus:g} GPU" if self._gpus else cores

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """Slots that the cluster could hold if it had nothing else to do."""

        def fit(resources: dict[str, float]) -> int:
            rooms = [resources.get("CPU", 0.0) / self._threads]
            if self._gpus:
                rooms.append(resources.get("GPU", 0.0) / self._gpus)
            return int(min(rooms) + 1e-6)

        return sum(fit(node["Resources"]) for node in self._nodes())

    def _look(self) -> None:
        """Now and then, see whether the cluster is still there, and add slots for nodes that joined."""
        now = time.monotonic()
        if now - self._looked < (LOOK_S if self._slots else 0.5):
            return
        self._looked = now
        if not answers(self._head):
            if now - self._answered > GONE_S:
                self._gone("the head of the cluster does not answer any more")
            return
        self._answered = now
        if self._node not in [node["NodeID"] for node in self._nodes()]:
            self._gone("this machine's own node has left the cluster")
        wanted = self._room() if self._fixed is None else self._fixed
        for index in range(len(self._slots), wanted):
            self._start(f"slot-{index}")

    def _gone(self, why: str) -> NoReturn:
        self._cut = True
        raise ClusterUnreachable(
            f"--ray-address {self._address}: {why}; when it is back, the same command goes on from the last checkpoints"
        )

    def _start(self, name: str) -> None:
        actor = self._actor.remote(self._trainer, self._threads, self._place, hpsearch.__version__)
        self._slots[name] = _Slot(name, actor, self._listen(actor))

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            for slot in list(self._slots.values()):
                if slot.info is not None:
                    slot.actor.heard.options(concurrency_group="beat").remote()

    def _listen(self, actor: Any) -> Any:
        return actor.listen.options(concurrency_group="listen").remote()

    def _tell(self, slot: _Slot, method: str, *words: object) -> None:
        call = getattr(slot.actor, method).options(concurrency_group="tell").remote(*words)
        slot.calls.append(call)

    def _heard(self, slot: _Slot, report: Report) -> list[SlotMessage]:
        if report.refused:
            # Its actor stays, or Ray would start the next one on that node again.
            slot.listening = None
            self._refusal = report.refused
            log.warning("not used: %s", report.refused)
            return []
        if report.unable:
            if not self._worked:
                raise SlotsUnable(f"node {report.info.host}: {report.unable}")
            return self._replace(slot, report.unable)
        slot.info = replace(report.info, name=slot.name)
        slot.listening = self._listen(slot.actor)
        found = []
        for body in report.said:
            assert slot.number is not None
            self._worked, self._stillborn = True, 0
            found.append(SlotMessage(slot.name, slot.number, body))
            if isinstance(body, Ended | Failed | Died):
                slot.number = None
        return found

    def _lost(self, slot: _Slot, error: Exception) -> list[SlotMessage]:
        """The actor of a slot is gone, or cannot be spoken with. Why, Ray says in a text only: its errors have no code."""
        if slot.info is None:
            return self._replace(slot, f"the last one: {str(error).strip().splitlines()[-1]}")  # What was raised in it.
        if "OUT_OF_MEMORY" in str(error):
            # Ray's monitor ended it: that is what the trial did, and not its node's end.
            died = Died(-signal.SIGKILL, f"node {slot.info.host} was short of memory")
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            died = Died(None, f"its actor on {slot.info.host} failed: {line(error.cause)}")
        elif "worker process has died" in str(error):
            died = Died(None, f"its actor on {slot.info.host} is gone")
        else:
            died = Died(None, f"its node left the cluster ({slot.info.host})")
        number = slot.number
        self._replace(slot)
        return [] if number is None else [SlotMessage(slot.name, number, died)]

    def _replace(self, slot: _Slot, unable: str = "") -> list[SlotMessage]:
        """Another actor in the place of one; unable: why it did not get as far as a trial, if it did not."""
        if unable:
            self._stillborn += 1
            if self._stillborn >= MAX_STILLBORN:
                raise SlotsUnable(f"{MAX_STILLBORN} slots in a row could not start; {unable}")
        self._ray.kill(slot.actor)  # Also where its node is only out of sight: it must not go on.
        self._start(slot.name)
        return []


log = logging.getLogger(__name__)

"""What only a cluster does: nodes that come and go, places that they share or do not, and a cluster that is not there."""

from __future__ import annotations

import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from cli import Cli
from ray_nodes import ENVIRONMENT, RayNodes
from tiny import SPACE

import hpsearch
from hpsearch.errors import BadInput, ClusterUnreachable
from hpsearch.execution import ray_executor as cluster
from hpsearch.execution.protocol import Died, Ended, Executor, Failed, SlotMessage, TrialTask
from hpsearch.execution.ray_actor import Place, Report, SlotHost
from hpsearch.execution.ray_executor import RayExecutor
from hpsearch.scratch import scratch
from hpsearch.training.events import Answer, CheckpointSaved, EvalPoint, Outcome, Warned


def opened(nodes: RayNodes, trainer: str = "curve", slots: int | None = 1, **options: object) -> closing[RayExecutor]:
    return closing(RayExecutor(slots, 1, address=nodes.address, trainer=f"toy_trainers:{trainer}", **options))  # type: ignore[arg-type]


def task(folder: Path, number: int = 0, data: dict[str, object] | None = None, **config: object) -> TrialTask:
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"learning_rate": 1e-3, "eval_interval": 1, "max_iters": 3, "seed": 0} | config
    return TrialTask(number, 1, whole, data or {}, "", folder, folder, "cpu", 1, ("val_bpb",))


def until(executor: Executor, kind: type) -> SlotMessage:
    """The next message of a kind; evaluations before it are answered with CONTINUE."""
    for _ in range(300):
        for message in executor.messages(1.0):
            if message.body.__class__ is kind:
                return message
            if isinstance(message.body, EvalPoint):
                executor.answer(message.slot, Answer.CONTINUE)
    raise AssertionError(f"no {kind.__name__} came")


def wait_for_slots(executor: Executor, count: int) -> None:
    for _ in range(300):
        if len(executor.idle()) == count:
            return
        assert executor.messages(0.2) == []
    raise AssertionError(f"{len(executor.idle())} slots, not {count}")


def test_slots_are_as_many_as_the_cluster_has_room_for_and_grow_with_it(ray_nodes: RayNodes, tmp_path: Path) -> None:
    room = 2 * len(ray_nodes.nodes)
    with opened(ray_nodes, slots=None) as executor:
        wait_for_slots(executor, room)
        joined = ray_nodes.add(1)
        wait_for_slots(executor, room + 1)
        newest = executor.idle()[-1]
        assert ray_nodes.of(newest.pid) is joined
        executor.submit(newest, task(tmp_path))
        until(executor, EvalPoint)
        ray_nodes.kill(joined)
        died = until(executor, Died)
        assert (died.slot, died.body.exit_code) == (newest.name, None)
        assert died.body.reason == f"its node left the cluster ({socket.gethostname()})"
        # There is no room for its successor: it waits, and the others go on.
        other = executor.idle()[0]
        executor.submit(other, task(tmp_path / "other", 1))
        assert until(executor, Ended).body.result.outcome is Outcome.COMPLETE
        assert newest.name not in {slot.name for slot in executor.idle()}


def test_an_actor_that_is_killed_is_told_apart_from_a_trial_that_kills_its_process(ray_nodes: RayNodes, tmp_path: Path) -> None:
    with opened(ray_nodes, "steps_until_told") as executor:
        slot = executor.idle()[0]
        executor.submit(slot, task(tmp_path, 3))
        psutil.Process(slot.pid).parents()[1].kill()  # Its parent is what it was forked from.
        died = until(executor, Died)
        assert (died.number, died.body.exit_code) == (3, None)
        assert "is gone" in died.body.reason
        wait_for_slots(executor, 1)
        psutil.wait_procs([psutil.Process(slot.pid)] if psutil.pid_exists(slot.pid) else [], timeout=20)
        assert not psutil.pid_exists(slot.pid), "the slot outlived its actor"


def test_closing_ends_the_slots_and_leaves_the_cluster(ray_nodes: RayNodes, tmp_path: Path) -> None:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with opened(ray_nodes, slots=2, shared=tmp_path) as executor:
        processes = [psutil.Process(slot.pid) for slot in executor.idle()]
        assert len(processes) == 2
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
    assert list(tmp_path.iterdir()) == []
    with opened(ray_nodes) as again:
        assert len(again.idle()) == 1


def test_a_folder_that_nodes_do_not_share_is_refused(
    ray_nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    not_shared = Path("/proc/self/cwd")  # Each process sees another folder there.
    with pytest.raises(BadInput, match=r"node \S+ does not see /proc/self/cwd: put --studies-dir on a file system .* --shared"):
        opened(ray_nodes, shared=not_shared)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_without_room_is_told_with_what_is_missing(ray_nodes: RayNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "START_S", 1.0)
    with pytest.raises(ClusterUnreachable, match=r"no room for a slot of 1 core and 0\.5 GPU") as caught:
        opened(ray_nodes, gpus_per_slot=0.5)
    assert caught.value.exit_code == 4


def test_two_slots_of_half_a_gpu_share_the_one_that_a_node_has(ray_nodes: RayNodes, tmp_path: Path) -> None:
    node = ray_nodes.add(cores=4, gpus=1)
    try:
        with opened(ray_nodes, slots=None, gpus_per_slot=0.5) as executor:
            wait_for_slots(executor, 2)
            slots = executor.idle()
            assert [ray_nodes.of(slot.pid) for slot in slots] == [node, node]
            assert [psutil.Process(slot.pid).environ()["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "0"]
            assert executor.device == "cuda:0"
            for number, slot in enumerate(slots):
                executor.submit(slot, task(tmp_path / str(number), number))
            for _ in slots:
                assert until(executor, Ended).body.result.outcome is Outcome.COMPLETE
    finally:
        ray_nodes.kill(node)


def test_a_cluster_that_is_not_there_is_told_in_seconds() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ClusterUnreachable, match=f"--ray-address {address}: no answer"):
            RayExecutor(1, 1, address=address)
    with pytest.raises(BadInput, match="write it as HOST:PORT"):
        RayExecutor(1, 1, address="head")


def test_a_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"pip install -c constraints.txt '\.\[ray\]'"):
        RayExecutor(1, 1)


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SlotHost]:
    """The inside of an actor, without one."""
    place = Place(url=f"file://{tmp_path}/mirror") if request.param == "mirror" else Place()
    opened = SlotHost("toy_trainers:saves_and_waits", 1, place, hpsearch.__version__)
    opened.listen()
    yield opened
    opened.close()


def heard(host: SlotHost, kind: type) -> object:
    for _ in range(100):
        for body in host.listen().said:
            if isinstance(body, kind):
                return body
            assert not isinstance(body, Warned), body
    raise AssertionError(kind)


@pytest.mark.parametrize("host", ["plain"], indirect=True)
def test_a_text_that_a_node_does_not_have_is_named_with_the_node(host: SlotHost, tmp_path: Path) -> None:
    host.submit(1, task(tmp_path / "trial", data={"text": [str(tmp_path / "missing.txt"), "pydoc"]}))
    failed = heard(host, Failed)
    assert isinstance(failed, Failed)
    assert failed.kind == "bad-input"
    assert failed.message == (
        f"{tmp_path}/missing.txt: not on node {socket.gethostname()}; put the text at this path on every node"
    )


def test_a_node_with_another_version_is_refused() -> None:
    report = SlotHost("toy_trainers:curve", 1, Place(), "0.0.1").listen()
    assert isinstance(report, Report)
    assert f"has hpsearch {hpsearch.__version__} and the coordinator 0.0.1" in report.refused


@pytest.mark.parametrize("host", ["plain"], indirect=True)
def test_an_answer_to_a_stay_that_is_over_is_dropped(host: SlotHost, tmp_path: Path) -> None:
    host.submit(2, task(tmp_path / "trial", max_iters=1))
    host.answer(1, Answer.STOP)
    heard(host, EvalPoint)
    host.answer(2, Answer.CONTINUE)
    heard(host, CheckpointSaved)
    host.answer(2, Answer.PAUSE)
    ended = heard(host, Ended)
    assert isinstance(ended, Ended)
    assert ended.result.outcome is Outcome.PAUSED


def leftovers() -> set[Path]:
    return set(scratch().glob("trial-*"))


@pytest.mark.parametrize("host", ["mirror"], indirect=True)
def test_a_mirrored_trial_leaves_its_checkpoints_at_the_url_and_nothing_on_the_node(host: SlotHost, tmp_path: Path) -> None:
    before = leftovers()
    folder = tmp_path / "study" / "trials" / "0004"
    there = tmp_path / "mirror" / "study" / "trials" / "0004"
    host.submit(1, task(folder, 4, max_iters=10))
    heard(host, EvalPoint)
    host.answer(1, Answer.CONTINUE)
    saved = heard(host, CheckpointSaved)
    assert isinstance(saved, CheckpointSaved)
    assert saved.path == str(folder / "checkpoints" / "step-00000001.pt")
    assert (there / "checkpoints" / "step-00000001.pt").read_text() == "1"
    host.answer(1, Answer.PAUSE)
    heard(host, Ended)
    assert leftovers() == before
    assert list(folder.iterdir()) == []
    # Another stay, as it were on another node, goes on from there; a trial that is stopped keeps no checkpoint.
    host.submit(2, task(folder, 4, max_iters=10))
    point = heard(host, EvalPoint)
    assert isinstance(point, EvalPoint)
    assert point.rung == 2
    host.answer(2, Answer.STOP)
    heard(host, Ended)
    assert not list(there.rglob("step-*"))
    assert (there / "log").read_text() == "1\n2\n"


@pytest.mark.parametrize("host", ["mirror"], indirect=True)
def test_a_measurement_leaves_nothing_behind(host: SlotHost, tmp_path: Path) -> None:
    before = leftovers()
    host.submit(1, task(tmp_path / "measure", -1, max_iters=10))
    heard(host, EvalPoint)
    host.answer(1, Answer.STOP)
    heard(host, Ended)
    assert leftovers() == before
    assert list((tmp_path / "mirror").rglob("*")) == []


def test_a_mirrored_trial_goes_on_on_another_node(ray_nodes: RayNodes, tmp_path: Path) -> None:
    folder = tmp_path / "study" / "trials" / "0000"
    with opened(ray_nodes, "saves_and_waits", shared=f"file://{tmp_path}/mirror") as executor:
        slot = executor.idle()[0]
        executor.submit(slot, task(folder, max_iters=10))
        until(executor, CheckpointSaved)
        ray_nodes.kill(ray_nodes.of(slot.pid))
        try:
            until(executor, Died)
        finally:
            ray_nodes.add()
        wait_for_slots(executor, 1)
        executor.submit(executor.idle()[0], task(folder, max_iters=10))
        assert until(executor, EvalPoint).body.rung > 1


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nosuch://bucket/prefix", "nosuch"),
        ("memory://prefix", "lost with its node"),
        ("file:///proc/nowhere", "cannot be written"),
    ],
)
def test_a_shared_url_that_cannot_be_used_is_refused_before_anything_begins(url: str, told: str) -> None:
    with pytest.raises(BadInput, match=f"--shared {url}: .*{told}"):
        RayExecutor(1, 1, shared=url)


def test_a_program_of_ones_own_trains_on_the_nodes(ray_nodes: RayNodes, cli: Cli, tmp_path: Path) -> None:
    (cli.folder / "own.yaml").write_text(
        "trainer: own\nbudget: {steps: 8, evaluations: 4}\nparameters: {lr: {low: 0.1, high: 1.0}, save_dir: /there}\n"
    )
    program = Path(__file__).parents[1] / "support" / "own_program.py"
    line = f"{sys.executable} {program} --lr {{lr}} --folder {{folder}} --resume {{resume}} --act crashes"
    where = ("--executor", "ray", "--ray-address", ray_nodes.address)
    copies = ("--shared", f"file://{tmp_path}/copies")
    there = Cli(cli.folder, cli.environment | ENVIRONMENT)
    trials = ("--trials", "2", "--slots", "2", "--pruner", "none")
    there.ok("run", "--space", "own.yaml", *trials, "--command", line, *where, *copies)
    for trial in there.json("trials"):
        assert trial["state"] == "complete"
        assert trial["attempts"] == 2
    shown = there.json("show", "0")
    assert [attempt["from_iteration"] for attempt in shown["attempts_history"]] == [0, 4]


def test_a_best_is_confirmed_on_the_nodes_as_on_this_machine(ray_nodes: RayNodes, cli: Cli) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    cli.ok("run", "--space", "tiny.yaml", "--trials", "2", "--device", "cpu")
    shutil.copytree(cli.folder / "studies", cli.folder / "copy")
    words = ("confirm", "--seeds", "1", "--top", "1")
    here = cli.json(*words, "--studies-dir", "copy")
    there = Cli(cli.folder, cli.environment | ENVIRONMENT)
    found = there.json(*words, "--executor", "ray", "--ray-address", ray_nodes.address)
    assert found["complete"]
    assert found["confirmed"] == here["confirmed"]

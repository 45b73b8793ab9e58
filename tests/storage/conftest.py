"""A fresh database for each test, on each of the three kinds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import Server

from hpsearch.storage import leases
from hpsearch.storage.records import BudgetRecord, Owner, PointRecord, StudyRecord, TrialRecord, TrialState
from hpsearch.storage.store import Store

SERVERS = {"postgresql": "postgresql_server", "mysql": "mariadb_server"}
"""The fixture of each database's server."""


def _fresh_database(server: Server) -> Iterator[str]:
    url = server.fresh_database()
    yield url
    server.drop(url)


@pytest.fixture(params=["sqlite", *SERVERS])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/hpsearch.db"
    else:
        yield from _fresh_database(request.getfixturevalue(SERVERS[request.param]))


@pytest.fixture(params=[*SERVERS])
def server(request: pytest.FixtureRequest) -> Server:
    running: Server = request.getfixturevalue(SERVERS[request.param])
    return running


@pytest.fixture
def server_url(server: Server) -> Iterator[str]:
    yield from _fresh_database(server)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/hpsearch.db"


@pytest.fixture
def store(storage_url: str) -> Iterator[Store]:
    with Store.open(storage_url, create=True) as store:
        yield store


@pytest.fixture
def study_record() -> StudyRecord:
    return StudyRecord(
        name="lm",
        space_text="name: lm\nparameters:\n  learning_rate: {low: 1e-7, high: 1e-3, log: true}  # 学习率\n",
        space_digest="0" * 64,
        objectives=("val_bpb", "num_parameters"),
        data={"text": {"a.txt": 0.5, "b.txt": 0.5}, "tokenizer": "bytes", "validation": 0.1},
        data_fingerprint="sha256:" + "1" * 64,
        budget=BudgetRecord("device_seconds", 15.0, 10, flops=1.25e12, flops_per_s=8.5e10, speed_config="cpu, 1 thread"),
        sampler="tpe",
        pruner="median",
        seed=2**62 + 1,
        versions={"hpsearch": "0.1", "python": "3.11"},
        host="box",
        device="cpu",
        threads=1,
        folder="",
        trials_target=50,
    )


@pytest.fixture
def study(store: Store, study_record: StudyRecord) -> StudyRecord:
    return store.create_study(study_record)


@pytest.fixture
def owner(store: Store, study: StudyRecord) -> Owner:
    """This process, owning the study."""
    owner = leases.this_process()
    store.acquire(study.id, owner, 60)
    return owner


@pytest.fixture
def token(owner: Owner) -> str:
    return owner.token


@pytest.fixture
def make_trial() -> Callable[..., TrialRecord]:
    def make(number: int = 0, state: TrialState = TrialState.RUNNING, **changes: object) -> TrialRecord:
        params = {"learning_rate": 0.1 + 0.2, "d_model": 64, "hidden_act": "gelu"}
        return TrialRecord(number, state, params, params | {"top_k": None, "seed": 2**62}, "tpe", **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_point() -> Callable[..., PointRecord]:
    def make(rung: int, trial_number: int = 0, loss: float = 2.5) -> PointRecord:
        metrics = {"val_loss": loss, "val_bpb": loss / 0.693}
        return PointRecord(
            trial_number, rung, rung * 10, rung * 5_000_000_000, rung * 1e15, rung * 0.5, loss, metrics, 1e-3, 0.7, 12345.6
        )

    return make


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python on some code with arguments; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()

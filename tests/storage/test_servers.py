"""What only a database server does: passwords, deadlocks, sessions that are cut."""

from __future__ import annotations

import socket
import threading

import pytest
from sqlalchemy import Connection, create_engine, text

from hpsearch.errors import BadInput, StorageUnreachable, StudyOwned
from hpsearch.storage import leases
from hpsearch.storage.engine import make_engine
from hpsearch.storage.optuna_storage import optuna_storage
from hpsearch.storage.records import StudyRecord
from hpsearch.storage.store import Store
from hpsearch.storage.transactions import Database
from hpsearch.storage.urls import parse_url

PASSWORD = "p@{}%:/ secret"


def test_a_password_with_any_characters_works_in_both_engines(server_url: str) -> None:
    url = parse_url(server_url)
    mysql = url.get_backend_name() == "mysql"
    user = "hps_other"
    if mysql:  # whose own anonymous user of localhost hides a user of all hosts
        users = [f"{user}@localhost", f"{user}@'%'"]
        statements = [f"CREATE USER {who} IDENTIFIED BY '{PASSWORD}'" for who in users]
        statements += [f"GRANT ALL ON {url.database}.* TO {who}" for who in users]
    else:
        users = [user]
        statements = [f"CREATE USER {user} PASSWORD '{PASSWORD}'", f"GRANT ALL ON SCHEMA public TO {user}"]
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for statement in statements:
            connection.execute(text(statement.replace(":", "\\:")))
        try:
            theirs = url.set(username=user, password=PASSWORD).render_as_string(hide_password=False)
            with Store.open(theirs, create=True) as store:
                assert store.studies() == []
                assert "secret" not in store.url
            optuna_storage(theirs).engine.dispose()
            for wrong in (url.set(username=user, password="wrong secret"), url.set(database="no_such_database")):
                with pytest.raises(BadInput) as caught:
                    Store.open(wrong.render_as_string(hide_password=False), create=True)
                assert "secret" not in str(caught.value)
                assert "\n" not in str(caught.value)
                assert "check the user, the password" in str(caught.value)
        finally:
            if not mysql:
                connection.exec_driver_sql(f"DROP OWNED BY {user} CASCADE")
            connection.exec_driver_sql(f"DROP USER {', '.join(users)}".replace("%", "%%"))
    admin.dispose()


def test_a_server_that_does_not_answer_is_unreachable_with_a_masked_url(server_url: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = closed.getsockname()[1]
        url = parse_url(server_url).set(host="127.0.0.1", port=port, password="secret")
        with pytest.raises(StorageUnreachable, match=rf":\*\*\*@127.0.0.1:{port}/.*: the database does not answer") as caught:
            Store.open(url.render_as_string(hide_password=False), create=True)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_deadlock_is_tried_again(server_url: str) -> None:
    database = Database(make_engine(server_url))
    create = "CREATE TABLE pairs (id INTEGER PRIMARY KEY, n INTEGER)"
    database.write(lambda connection: connection.execute(text(create)))
    database.write(lambda connection: connection.execute(text("INSERT INTO pairs VALUES (1, 0), (2, 0)")))
    both_hold_one = threading.Barrier(2, timeout=30)
    tries = [0, 0]

    def work(me: int) -> None:
        def cross(connection: Connection) -> None:
            tries[me] += 1
            add = text("UPDATE pairs SET n = n + 1 WHERE id = :id")
            connection.execute(add, {"id": 1 + me})
            if tries[me] == 1:
                both_hold_one.wait()
            connection.execute(add, {"id": 2 - me})

        database.write(cross)

    threads = [threading.Thread(target=work, args=(me,)) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tries) == [1, 2]
    assert database.read(lambda connection: connection.execute(text("SELECT n FROM pairs")).scalars().all()) == [2, 2]
    database.engine.dispose()


def test_a_cut_session_is_unreachable_once_and_then_works_again(server_url: str, study_record: StudyRecord) -> None:
    with Store.open(server_url, create=True) as store, Store.open(server_url, create=True) as killer:
        mysql = parse_url(server_url).get_backend_name() == "mysql"
        who, kill = ("CONNECTION_ID()", "KILL {}") if mysql else ("pg_backend_pid()", "SELECT pg_terminate_backend({})")

        def cut(connection: Connection) -> object:
            session = connection.execute(text(f"SELECT {who}")).scalar()
            killer._database.write(lambda other: other.execute(text(kill.format(session))))
            return connection.execute(text("SELECT 1")).scalar()

        with pytest.raises(StorageUnreachable, match="the database does not answer") as caught:
            store._database.read(cut)
        assert "\n" not in str(caught.value)
        assert store.create_study(study_record).name == "lm"


def test_a_client_frozen_in_the_middle_of_a_write_loses_its_locks_and_tries_again(
    server_url: str, study_record: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waits:
        seconds: float | None = None

        def waiting(self, seconds: float, reason: str) -> None:
            pass

        def over(self, seconds: float) -> None:
            self.seconds = seconds

    with Store.open(server_url, create=True) as other:
        study = other.create_study(study_record)
        monkeypatch.setattr("hpsearch.storage.engine.FROZEN_S", 1)
        with Store.open(server_url, create=False) as frozen:
            outage, owners = Waits(), [leases.this_process(), leases.this_process()]
            frozen.sit_out(outage)
            tries = 0

            def work(connection: Connection) -> None:
                nonlocal tries
                tries += 1
                leases.acquire(connection, study.id, owners[0], -1)
                if tries == 1:
                    other.acquire(study.id, owners[1], 60)  # waits until the server has cut the other one

            with pytest.raises(StudyOwned):
                frozen._database.write(work)
            assert tries == 2
            assert outage.seconds is not None
            assert other.owner(study.id) == owners[1]

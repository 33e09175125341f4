"""Faults of the server: no room on the disk, no room for notifications, sessions that it ends."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import FOUND
from servers import Server

from pgq_py import PQ, errors

pytest_plugins = ("world_fixtures",)

TABLES = ("queue_job", "queue_dead", "queue_setting", "queue_tally", "queue_total")


# No room on the disk


@pytest.fixture
def small_disk(server: Server, database: Any, conn: psycopg.Connection[Any]) -> Iterator[Path]:
    """The queue's tables and indexes are on a file system of 8 MB."""
    folder = server.folder / "small"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
    try:
        if server.identity:
            shutil.chown(folder, server.identity["user"], server.identity["group"])
        conn.execute(f"create tablespace small location '{folder}'")
        for table in TABLES:
            conn.execute(f"alter table {table} set tablespace small")
            for (index,) in conn.execute("select indexname from pg_indexes where tablename = %s", [table]).fetchall():
                conn.execute(f"alter index {index} set tablespace small")
        yield folder
        for table in TABLES:
            conn.execute(f"truncate {table}")
            conn.execute(f"alter table {table} set tablespace pg_default")
            for (index,) in conn.execute("select indexname from pg_indexes where tablename = %s", [table]).fetchall():
                conn.execute(f"alter index {index} set tablespace pg_default")
        conn.execute("checkpoint")  # until then the files that were removed are there
        conn.execute("drop tablespace small")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # the server has files of it open


def more_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=32m", disk], check=True)


async def test_a_full_disk_refuses_the_put_and_keeps_what_was_acknowledged(world, small_disk, conn):
    queue = world.pq()["apples"]
    data = "secret" + secrets.token_hex(2000)  # nothing that compression could make small
    acknowledged = []
    with pytest.raises(errors.DiskFull, match="room on the server's disk") as caught:
        for n in range(10_000):
            acknowledged.append(int(await queue.put([n, data])))
    assert caught.value.sqlstate == "53100"
    assert isinstance(caught.value.__cause__, psycopg.errors.DiskFull)
    assert "secret" not in str(caught.value)
    assert len(acknowledged) > 100
    with pytest.raises(errors.DiskFull):
        async with queue:
            await queue.put_many([[n, data] for n in range(1000)])
    # The server is up, and has all that it acknowledged and nothing else. To take jobs needs room for their totals.
    assert [job.id for job in await queue.list()] == acknowledged
    more_room(small_disk)
    assert (await queue.get(block=False)).id == acknowledged[0]
    await queue.put("there is room again")
    assert await queue.count() == len(acknowledged)


# No room for notifications


@pytest.fixture(scope="module")
def few_pages() -> Iterator[dict[str, Server]]:
    made: dict[str, Server] = {}
    yield made
    for server in made.values():
        server.remove()


@pytest.fixture
def small_notify_queue(version: str, few_pages: dict[str, Server]) -> Server:
    """A server that keeps half a megabyte of notifications, the least that it can be told to."""
    if version not in few_pages:
        few_pages[version] = made = Server(version, FOUND[version])
        made.create()
        with psycopg.connect(made.dsn(), autocommit=True) as conn:
            conn.execute("alter system set max_notify_queue_pages = 64")
        made.stop()
        made.start()
        with PQ(made.dsn()) as pq:
            pq.create()
    return few_pages[version]


@pytest.mark.since(17)
def test_a_full_queue_of_notifications_names_the_way_out_and_rolls_back(small_notify_queue):
    def connect(autocommit: bool = True) -> psycopg.Connection[Any]:
        return psycopg.connect(small_notify_queue.dsn(), autocommit=autocommit)

    with connect() as stuck, connect() as sleeper, connect() as noisy, PQ(small_notify_queue.dsn()) as pq:
        queue = pq["apples"]
        sleeper.execute("select queue_listen('apples')")
        # Whoever listens and stays in a transaction keeps all that is sent from then on.
        stuck.execute("listen something")
        stuck.execute("begin")
        stuck.execute("select 1")
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            while True:
                noisy.execute("select pg_notify('something', repeat('x', 7900) || n) from generate_series(1, 10) n")
        for put in (lambda: queue.put("secret"), lambda: queue.put_many(["secret"])):
            with pytest.raises(
                errors.NotifyQueueFull, match=r"pg_notification_queue_usage\(\).*notify => false"
            ) as caught:
                put()
            assert caught.value.sqlstate == "54000"
            assert isinstance(caught.value.__cause__, psycopg.errors.ProgramLimitExceeded)
        with pytest.raises(errors.NotifyQueueFull), queue:
            queue.put("secret")
        assert queue.count(scheduled=True) == 0
        assert stuck.execute("select pg_notification_queue_usage() > 0.9").fetchone() == (True,)
        # The ways out: not to notify, nobody who sleeps, and the end of the session that is stuck.
        queue.put(1, notify=False)
        pq["pears"].put(2)
        (pid,) = stuck.execute("select pg_backend_pid()").fetchone() or (0,)
        assert any(str(pid) in finding.subject + finding.detail + finding.remedy for finding in pq.health(0))
        stuck.rollback()
        with connect() as conn:
            while conn.execute("select pg_notification_queue_usage() > 0.1").fetchone() == (True,):
                pass
        queue.put(3)
        assert [job.data for job in queue.list()] == [1, 3]


# Sessions that the server ends


TIMEOUTS = {
    "idle_in_transaction_session_timeout": "25P03",
    "transaction_timeout": "25P04",
}


@pytest.mark.since(17)
@pytest.mark.parametrize("setting", TIMEOUTS)
@pytest.mark.parametrize("then", ["another call", "the end"])
async def test_work_that_outlives_a_timeout_is_told_to_lease_and_the_job_is_kept(world, conn, setting, then):
    """Whether it calls again or just ends: it was rolled back, and there is no doubt about it."""
    mine = await world.connect(conninfo={"options": f"-c {setting}=100"}, autocommit=True)
    queue = world.pq(mine)["apples"]
    await queue.put(1)
    alone = "select count(*) = 1 from pg_stat_activity where datname = current_database()"
    with pytest.raises(errors.ConnectionLost, match=r"queue\.lease") as caught:
        async with queue.take() as job:
            assert job.data == 1
            while conn.execute(alone).fetchone() != (True,):
                pass
            if then == "another call":
                await queue.put(2)
    assert caught.value.sqlstate == TIMEOUTS[setting]
    assert not isinstance(caught.value, errors.CommitUnknown)
    assert conn.execute("select data from queue_job").fetchall() == [(1,)]

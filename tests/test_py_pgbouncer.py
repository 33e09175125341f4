"""Behind PgBouncer in transaction mode all works but LISTEN: who waits polls, says so once, and leaves nothing."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
from servers import Server
from working import wait_for, works
from worlds import PATIENCE, World

from pgq_py import PQ, Retry, errors

pytest_plugins = ("world_fixtures",)

CONFIG = """
[databases]
* = host={server.host} port={server.port} user={server.user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir = {folder}
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
server_round_robin = 1
"""


class Pooler:
    """PgBouncer before a server, on a port of its own."""

    def __init__(self, server: Server, folder: Path, mode: str, size: int = 4) -> None:
        program = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
        assert program is not None, "pgbouncer is not installed: .ci/run installs it"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        folder.mkdir()
        config = folder / "pgbouncer.ini"
        config.write_text(CONFIG.format(server=server, folder=folder, port=port, mode=mode, size=size))
        # It refuses root, as PostgreSQL does.
        if server.identity:
            shutil.chown(folder, server.identity["user"])
            for parent in folder.parents:
                if not parent.stat().st_mode & 0o001:
                    parent.chmod(parent.stat().st_mode | 0o011)
        self.address = {"host": "127.0.0.1", "port": str(port)}
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [program, config], **server.identity, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        patience = monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except ConnectionRefusedError:
                assert self._process.poll() is None, (folder / "log").read_text()
                assert monotonic() < patience

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


@pytest.fixture
def mode() -> str:
    return "transaction"


@pytest.fixture
def pooler(server: Server, tmp_path: Path, mode: str) -> Iterator[Pooler]:
    pooler = Pooler(server, tmp_path / "pgbouncer", mode)
    yield pooler
    pooler.close()


@pytest.fixture
def through(world: World, pooler: Pooler, mode: str) -> World:
    """The world whose addresses go through the pooler, which uses several sessions of the server in turn."""
    world.dsn = psycopg.conninfo.make_conninfo(world.dsn, **pooler.address)
    with contextlib.ExitStack() as stack:
        for _ in range(3 if mode == "transaction" else 0):
            stack.enter_context(psycopg.connect(world.dsn)).execute("select 1")
    return world


def left_behind(conn: psycopg.Connection[Any]) -> tuple[Any, ...] | None:
    """Locks that a session keeps. (What each listens to can only be asked in itself: see `each_session`.)"""
    return conn.execute(
        "select count(*) from pg_locks where locktype = 'advisory' "
        "and database = (select oid from pg_database where datname = current_database())"
    ).fetchone()


async def each_session(through: World, statement: str) -> set[Any]:
    """What a statement gives in the sessions that the pooler has, as far as it hands them out in turn."""
    conn = await through.connect(autocommit=True, prepare_threshold=None)
    found = set()
    for _ in range(12):
        found.add(await (await conn.execute(statement)).fetchone())
    return found


@pytest.mark.parametrize("kind", ["address", "pool", "autocommit"])
async def test_all_that_is_no_waiting_works(through, conn, kind, caplog):
    """Each call more often than psycopg needs to prepare a statement, over several sessions of the server at once."""
    if kind == "address":
        pq = through.pq()
    elif kind == "pool":
        pq = through.pq(pool=await through.pool(max_size=4, kwargs={"prepare_threshold": None}))
    else:
        pq = through.pq(await through.connect(autocommit=True, prepare_threshold=None))
    queue = pq["apples"]
    for n in range(8):
        assert (await queue.put(n, dedupe_key="same")).is_new
        assert not (await queue.put(n, dedupe_key="same")).is_new
        await queue.put_many([n, n])
        assert await queue.count() == len(await queue.list())
        assert (await queue.get(block=False)) is not None
        async with queue.take(block=False) as job:
            assert job is not None
        job = await queue.lease("1m", block=False)
        assert await job.progress(n)
        assert await job.complete()
        assert not await job.complete()
        await queue.put(n)
        with pytest.raises(LookupError):
            async with queue.take(block=False):
                raise LookupError
        await queue.stats()
        await queue.pause()
        assert await queue.get(block=False) is None
        await queue.resume()
        await queue.clear()
        async with queue as cursor:
            await queue.put("stays")
            await cursor.execute("select 1")
        with pytest.raises(LookupError):
            async with queue:
                await queue.get(block=False)
                raise LookupError
        assert await queue.count() == 1
        await queue.clear()
    assert left_behind(conn) == (0,)


async def test_waiting_polls_says_so_once_and_leaves_nothing_in_the_sessions(through, conn, caplog, sleepers):
    pq = through.pq()
    for n in range(3):
        waiting = (
            asyncio.ensure_future(asyncio.to_thread(asyncio.run, pq["apples"].get(timeout=PATIENCE)))
            if (through.is_sync)
            else asyncio.ensure_future(pq["apples"].get(timeout=PATIENCE))
        )
        await asyncio.to_thread(sleepers.wait)
        assert left_behind(conn) == (0,)
        conn.execute("select queue_put('apples', %s::text::jsonb)", [n])
        put = monotonic()
        assert (await waiting).data == n
        assert monotonic() - put < 1.5  # half a second, and a busy machine
    async with pq["apples"].take(timeout=0.1) as job:
        assert job is None
    assert await pq["apples"].lease(timeout=0.1) is None
    assert [record.levelno for record in caplog.records if "pooler" in record.getMessage()] == [logging.WARNING]
    assert left_behind(conn) == (0,)
    assert await each_session(through, "select count(*) from pg_listening_channels()") == {(0,)}
    listening = "select coalesce(current_setting('pgq_py.listening', true), '')"
    assert await each_session(through, listening) == {("",)}


@pytest.mark.parametrize("kind", ["pool", "autocommit"])
async def test_a_connection_or_pool_of_the_callers_polls_too(through, conn, caplog, kind):
    pq = await through.way(kind)
    for _ in range(3):
        assert await pq["apples"].get(timeout=0.05) is None
    assert len([record for record in caplog.records if "pooler" in record.getMessage()]) == 1
    assert left_behind(conn) == (0,)


async def test_who_puts_through_the_pooler_wakes_who_waits_beside_it(through, pooler, database, sleepers):
    with PQ(database.dsn) as direct:
        waiting = asyncio.ensure_future(asyncio.to_thread(direct["apples"].get, True, PATIENCE))
        await asyncio.to_thread(sleepers.wait)
        await through.pq()["apples"].put(1)
        assert (await waiting).data == 1


@pytest.mark.parametrize("mode", ["session", "statement"])
async def test_in_the_other_modes_it_polls_too(through, mode):
    """No client can tell the modes from each other. In statement mode there are no transactions, and so no take."""
    pq = through.pq()
    assert await pq["apples"].get(timeout=0.05) is None
    await pq["apples"].put(1)
    assert await (await pq["apples"].lease(timeout=1)).complete()
    if mode == "session":
        async with pq["apples"].take(timeout=0.05) as job:
            assert job is None
    else:
        with pytest.raises(psycopg.Error):
            async with pq["apples"].take(timeout=0.05):
                pass


async def test_prepared_statements_of_a_connection_of_the_callers_tell_what_to_set(through, pooler):
    """Two clients prepare different statements under the same name, and each finds the other's session."""
    queues = [through.pq(await through.connect(autocommit=True, prepare_threshold=0))["apples"] for _ in range(2)]

    async def mix() -> None:
        for _ in range(20):
            await queues[0].put(1)
            await queues[1].count()

    with pytest.raises(psycopg.Error, match="prepare_threshold=None") as caught:
        await mix()
    assert isinstance(caught.value, errors.Error)


async def test_on_our_connections_nothing_is_prepared_that_another_client_could_find(through):
    """As before, but by addresses: both would call their first prepared statement by the same name."""
    queues = [through.pq()["apples"] for _ in range(2)]
    for n in range(30):
        await queues[0].put(n)
        assert await queues[1].count() == n + 1
    conn = await through.connect(autocommit=True, prepare_threshold=None)
    for _ in range(8):
        assert await (await conn.execute("select count(*) from pg_prepared_statements")).fetchone() == (0,)


async def test_the_schema_is_installed_through_it(through, conn):
    conn.execute("create schema billing")
    pq = through.pq(schema="billing")
    await pq.create()
    await pq["apples"].put(1, timedelta(0))
    assert (await pq["apples"].get(timeout=1)).data == 1
    conn.execute("drop schema billing cascade")


async def test_a_worker_polls_says_so_once_and_leaves_nothing_in_the_sessions(through, database, conn, caplog):
    """It does what there is, what is put while it waits, and what comes back; and it keeps leases alive."""
    done: list[Any] = []

    def handle(job: Any) -> None:
        if job.data == "long":
            held = conn.execute("select lease_until from queue_job where id = %s", [job.id]).fetchone()
            wait_for(
                lambda: conn.execute("select lease_until from queue_job where id = %s", [job.id]).fetchone() > held,
                "a heartbeat",
            )
        if job.data == "fails" and job.attempts == 1:
            raise Retry(0)
        done.append(job.data)

    with PQ(database.dsn) as direct, works("threads" if through.is_sync else "asyncio", through.dsn) as made:
        queue = direct["apples"]
        queue.put_many(range(200))
        running = made.start(handler=handle, lease_for=5, concurrency=4)
        wait_for(lambda: len(done) == 200, "what was there")
        for data in ("fails", "long"):
            queue.put(data)
            wait_for(lambda data=data: data in done, data)
        running.stop()
        assert queue.stats().completed == 202
        assert queue.count(scheduled=True) == 0
    assert sorted(done[:200]) == list(range(200))
    assert done[200:] == ["fails", "long"]
    assert [record.levelno for record in caplog.records if "pooler" in record.getMessage()] == [logging.WARNING]
    assert left_behind(conn) == (0,)
    assert await each_session(through, "select count(*) from pg_listening_channels()") == {(0,)}

"""Connections that are lost while somebody waits for a job: noticed, replaced, and the wait goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
import psycopg_pool
import pytest
from conftest import FOUND
from links import Link, restart_after_crash, side_by_side, until
from servers import Server
from worlds import PATIENCE, World, adapt, plain

from pgq_py import KEEPALIVES, PQ, errors
from pgq_py.links import with_keepalives

pytest_plugins = ("world_fixtures",)

KILL_OTHERS = """
    select pg_terminate_backend(pid, 10000) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""


async def get(queue: Any) -> Any:
    return (await queue.get()).data


async def take(queue: Any) -> Any:
    async with queue.take() as job:
        return job.data


async def lease(queue: Any) -> Any:
    job = await queue.lease()
    assert await job.complete()
    return job.data


async def listen(queue: Any) -> Any:
    jobs, data = queue.listen(), None
    async for job in jobs:
        data = job.data
        break
    await jobs.aclose()
    return data


async def consume(queue: Any) -> Any:
    async for job in queue.consume():
        return job.data


async def iterate(queue: Any) -> Any:
    queue.timeout = 0.2
    async for job in queue:
        if job is not None:
            return job.data


WAITS = [get, take, lease, listen, consume, iterate]


class Told(logging.Handler):
    """What the log of the package is told, in short; and the moment when it is."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._new = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._new:
            self.texts.append(record.getMessage().partition(" to PostgreSQL")[0])
            self._new.notify_all()

    async def until(self, text: str) -> None:
        """Until somebody has said this."""

        def wait() -> None:
            with self._new:
                assert self._new.wait_for(lambda: text in self.texts, PATIENCE), f"nobody said: {text}"

        await asyncio.to_thread(wait)


@pytest.fixture
def told() -> Iterator[Told]:
    handler = Told()
    logging.getLogger("pgq_py").addHandler(handler)
    yield handler
    logging.getLogger("pgq_py").removeHandler(handler)


# Servers that crash


@pytest.fixture(scope="module")
def own_servers() -> Iterator[dict[str, Server]]:
    made: dict[str, Server] = {}
    yield made
    for server in made.values():
        server.remove()


@pytest.fixture
def own_server(version: str, own_servers: dict[str, Server]) -> Server:
    """A running server that a test may kill, with the queue installed and empty."""
    if version not in own_servers:
        own_servers[version] = made = Server(version, FOUND[version])
        made.create()
        with PQ(made.dsn()) as pq:
            pq.create()
    server = own_servers[version]
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("truncate queue_job, queue_dead, queue_tally, queue_total")
    return server


@pytest.fixture(params=["sync", "async"])
async def own_world(request: pytest.FixtureRequest, own_server: Server) -> AsyncIterator[World]:
    world = World(request.param, own_server.dsn())
    yield world
    await world.close()


async def test_who_waits_while_postgresql_is_killed_and_restarted_goes_on(own_world, own_server, sleepers, told):
    pool = await own_world.pool(max_size=len(WAITS) + 1)
    made = {"address": own_world.pq(), "pool": own_world.pq(pool=pool)}
    acknowledged = [await pq["kept"].put(n) for n in range(10) for pq in made.values()]
    waiting = {}
    for kind, pq in made.items():
        for wait in WAITS:
            waiting[f"{kind} {wait.__name__}"] = side_by_side(own_world, wait, pq[f"{kind} {wait.__name__}"])
    for _ in waiting:
        await asyncio.to_thread(sleepers.wait)
    own_server.kill()
    await told.until("lost the connection")
    restart_after_crash(own_server)
    back = monotonic()
    with psycopg.connect(own_server.dsn(), autocommit=True) as conn:
        for name in waiting:
            conn.execute("select queue_put(%s, to_jsonb(%s::text))", [name, name])
    for name, waits in waiting.items():
        assert await asyncio.wait_for(waits, PATIENCE) == name
    # The pause before the next try is no longer than the poll interval; a pool's own is longer.
    assert monotonic() - back < PATIENCE / 2
    assert sorted([job.id for job in await made["address"]["kept"].list()]) == sorted(acknowledged)
    # Of all that wait on one PQ the log hears once.
    assert sorted(told.texts) == ["connected"] * 2 + ["lost the connection"] * 2


async def test_a_server_that_stays_away_ends_a_wait_in_time(own_world, own_server, told):
    pq = own_world.pq()
    await pq.version()
    queue = pq["apples"]
    queue.timeout = 0.1
    own_server.stop("immediate")
    try:
        start = monotonic()
        with pytest.raises(errors.ConnectionLost):
            await queue.get(timeout=0.5)
        with pytest.raises(errors.ConnectionLost):
            await queue.lease(timeout=0.2)
        with pytest.raises(errors.ConnectionLost):
            async with queue.take(timeout=0.2):
                pass
        with pytest.raises(errors.ConnectionLost):
            async for _ in queue.consume(timeout=0.1):
                pass
        assert 1 <= monotonic() - start < 5
        # What does not wait is told at once; who iterates gets None, as from a queue where nothing comes.
        with pytest.raises(errors.ConnectionLost):
            await queue.get(block=False)
        with pytest.raises(errors.ConnectionLost):
            await queue.put(1)
        idle = 0
        async for job in queue:
            assert job is None
            if (idle := idle + 1) == 3:
                break
        assert told.texts == ["lost the connection"]
        waiting = side_by_side(own_world, get, queue)
        await asyncio.sleep(0)
        await pq.close()
        with pytest.raises(errors.Closed):
            await waiting
    finally:
        own_server.start()


async def test_a_pool_whose_server_stays_away_ends_a_wait_in_time(own_world, own_server):
    queue = (await own_world.way("pool"))["apples"]
    await queue.count()
    own_server.stop("immediate")
    try:
        start = monotonic()
        with pytest.raises(errors.ConnectionLost):
            await queue.get(timeout=0.5)
        # Its own patience is 20 seconds.
        assert monotonic() - start < 5
    finally:
        own_server.start()
    await queue.put(1)
    assert (await queue.get(timeout=PATIENCE)).data == 1


async def test_a_pool_that_is_closed_while_the_server_is_away_ends_a_wait(own_world, own_server, sleepers, told):
    """Nobody would ever get a connection of it again."""
    pool = await own_world.pool(min_size=1, max_size=1, timeout=0.5)
    waiting = side_by_side(own_world, get, own_world.pq(pool=pool)["apples"])
    await asyncio.to_thread(sleepers.wait)
    own_server.stop("immediate")
    try:
        await told.until("lost the connection")
        await pool.close()
        with pytest.raises(psycopg_pool.PoolClosed):
            await asyncio.wait_for(waiting, PATIENCE)
    finally:
        own_server.start()


async def test_a_pq_that_is_closed_while_its_pool_has_no_connection_ends_a_wait(own_world, own_server, sleepers, told):
    """The pool stays open, and would wait for ten minutes."""
    pool = await own_world.pool(min_size=1, max_size=1, timeout=600)
    pq = own_world.pq(pool=pool)
    waiting = side_by_side(own_world, get, pq["apples"])
    await asyncio.to_thread(sleepers.wait)
    own_server.stop("immediate")
    try:
        await told.until("lost the connection")
        await until(lambda: plain(pool).get_stats()["requests_waiting"] == 1)
        await pq.close()
        with pytest.raises(errors.Closed):
            await asyncio.wait_for(waiting, PATIENCE)
    finally:
        own_server.start()


async def give_up(queue: Any) -> None:
    """Wait for too short a time."""
    with pytest.raises(errors.ConnectionLost):
        await queue.get(timeout=0.3)


async def put(queue: Any) -> None:
    await queue.put(1)


async def put_in_a_transaction(queue: Any) -> None:
    async with queue:
        await queue.put(1)


@pytest.mark.parametrize(
    ("kind", "come_back"), [("address", put), ("pool", put), ("pool", put_in_a_transaction)], ids=["1", "2", "3"]
)
async def test_an_outage_that_nobody_waits_out_is_over_when_anybody_gets_through(
    own_world, own_server, told, kind, come_back
):
    """And so the next one is told again."""
    queue = (await own_world.way(kind))["apples"]
    await come_back(queue)
    for n in (1, 2):
        await queue.clear()
        own_server.stop("immediate")
        try:
            await give_up(queue)
            await give_up(queue)
        finally:
            own_server.start()
        await come_back(queue)
        assert told.texts == ["lost the connection", "connected"] * n


async def test_an_outage_in_which_who_waits_is_cancelled_is_over_when_anybody_gets_through(own_server, sleepers, told):
    world = World("async", own_server.dsn())
    queue = (await world.way("pool"))["apples"]
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.to_thread(sleepers.wait)
    own_server.stop("immediate")
    try:
        await told.until("lost the connection")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    finally:
        own_server.start()
    await queue.put(1)
    assert told.texts == ["lost the connection", "connected"]
    await world.close()


async def test_who_iterates_in_a_transaction_hears_that_it_is_lost_though_others_reconnect(world, conn):
    pq = world.pq()
    queue = pq["apples"]
    await queue.count()

    async def iterate_in_a_transaction() -> None:
        async with queue:
            await queue.count()
            conn.execute(KILL_OTHERS)
            plain(pq).outage.begin(OSError("another's connection was lost"), 0)
            async for job in queue:
                assert job is not None, "it would get None again and again, without a pause"

    with pytest.raises(errors.ConnectionLost):
        await iterate_in_a_transaction()


@pytest.mark.parametrize("wrong", [{"dbname": "missing"}, {"user": "nobody"}, {"host": "/nonexistent"}])
async def test_an_address_that_never_worked_is_an_error_at_once(world, told, wrong):
    queue = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **wrong))["apples"]
    start = monotonic()
    for wait in WAITS:
        with pytest.raises(errors.ConnectionLost):
            await wait(queue)
    assert monotonic() - start < 2
    assert told.texts == []


# Links that are cut


@pytest.fixture
def link(server: Server) -> Iterator[Link]:
    link = Link(server)
    yield link
    link.close()


SHORT = {
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 1,
    "tcp_user_timeout": 2000,
    "connect_timeout": 2,
}


@pytest.mark.parametrize(("kind", "wait"), [("address", get), ("pool", take)], ids=["address", "pool"])
async def test_a_link_that_is_cut_is_noticed_in_time_and_replaced(world, link, sleepers, conn, told, kind, wait):
    """With these numbers within two seconds; nothing else could notice it, for the poll interval is a minute."""
    there = World(world.name, psycopg.conninfo.make_conninfo(world.dsn, **link.address, **SHORT))
    queue = (await there.way(kind))["apples"]
    waiting = side_by_side(world, wait, queue)
    await asyncio.to_thread(sleepers.wait)
    link.cut()
    cut = monotonic()
    await told.until("lost the connection")
    assert 1 <= monotonic() - cut < 5
    conn.execute("select queue_put('apples', '1')")  # while nobody can be reached
    link.heal()
    healed = monotonic()
    assert await asyncio.wait_for(waiting, PATIENCE) == 1
    assert monotonic() - healed < 6
    # It listens on the new connection.
    waiting = side_by_side(world, wait, queue)
    await asyncio.to_thread(sleepers.wait)
    conn.execute("select queue_put('apples', '2')")
    assert await asyncio.wait_for(waiting, PATIENCE) == 2
    await there.close()


def is_connecting(port: str) -> bool:
    """Whether somebody here has asked this port for a connection, and has no answer yet (SYN_SENT)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[2].endswith(f":{int(port):04X}") and line[3] == "02" for line in lines)


async def test_a_pq_that_is_closed_while_it_connects_ends_a_wait(world, link, sleepers, told):
    """To a server that does not answer, for ten minutes."""
    numbers = SHORT | {"connect_timeout": 600, "tcp_user_timeout": 0}  # which would end it, too
    pq = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **link.address, **numbers))
    waiting = side_by_side(world, get, pq["apples"])
    await asyncio.to_thread(sleepers.wait)
    link.cut()
    await told.until("lost the connection")
    await until(lambda: is_connecting(link.address["port"]))
    await pq.close()
    with pytest.raises(errors.Closed):
        await asyncio.wait_for(waiting, PATIENCE)
    assert not is_connecting(link.address["port"])


async def test_a_pq_that_is_closed_before_a_cut_is_noticed_ends_a_wait(world, link, sleepers):
    """Without a last word to the server, which would be waited for a quarter of an hour."""
    pq = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **link.address, tcp_user_timeout=0, keepalives=0))
    waiting = side_by_side(world, get, pq["apples"])
    await asyncio.to_thread(sleepers.wait)
    link.cut()
    await pq.close()
    with pytest.raises(errors.Closed):
        await asyncio.wait_for(waiting, PATIENCE)


async def test_a_look_into_a_queue_that_nobody_answers_leaves_no_doubt(world, link, sleepers, conn, told, monkeypatch):
    """Who waits looks now and then, here before keepalives could notice: no job was on its way, so it goes on."""
    monkeypatch.setattr(world.listener, "POLL", 0.5)
    numbers = SHORT | {"keepalives_idle": 5, "tcp_user_timeout": 1000}
    queue = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **link.address, **numbers))["apples"]
    waiting = side_by_side(world, get, queue)
    await asyncio.to_thread(sleepers.wait)
    link.cut()
    await told.until("lost the connection")
    link.heal()
    conn.execute("select queue_put('apples', '1')")
    assert await asyncio.wait_for(waiting, PATIENCE) == 1


async def test_an_answer_that_never_comes_is_noticed_in_time(world, link):
    """Of a statement that is on its way when the link is cut."""
    queue = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **link.address, **SHORT))["apples"]
    await queue.count()
    link.cut()
    start = monotonic()
    with pytest.raises(errors.CommitUnknown):
        await queue.put(1)
    assert 1 <= monotonic() - start < 5


OPTIONS = {
    "keepalives_idle": socket.TCP_KEEPIDLE,
    "keepalives_interval": socket.TCP_KEEPINTVL,
    "keepalives_count": socket.TCP_KEEPCNT,
    "tcp_user_timeout": socket.TCP_USER_TIMEOUT,
}


async def options_of(pq: Any) -> dict[str, int]:
    """The socket's, of a connection that a PQ made."""
    async with pq.transaction() as cursor:
        with socket.socket(fileno=os.dup(plain(cursor.connection).fileno())) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            return {name: sock.getsockopt(socket.IPPROTO_TCP, option) for name, option in OPTIONS.items()}


async def test_our_connections_have_keepalives_unless_the_address_says_otherwise(world, link):
    address = psycopg.conninfo.make_conninfo(world.dsn, **link.address)
    assert await options_of(world.pq(address)) == {name: KEEPALIVES[name] for name in OPTIONS}
    own = {"keepalives_idle": 7, "keepalives_interval": 8, "keepalives_count": 2, "tcp_user_timeout": 9000}
    assert await options_of(world.pq(psycopg.conninfo.make_conninfo(address, **own))) == own
    # Of a connection that was given, the one that keeps a lease alive.
    aside = (
        await plain(world.pq(await world.connect(conninfo=link.address))).source_aside()
        if not world.is_sync
        else (plain(world.pq(await world.connect(conninfo=link.address))).source_aside())
    )
    assert with_keepalives(aside.conninfo)["keepalives_idle"] == KEEPALIVES["keepalives_idle"]


def test_what_the_user_says_goes_before_our_keepalives(monkeypatch):
    assert with_keepalives("host=x")["connect_timeout"] == KEEPALIVES["connect_timeout"]
    assert with_keepalives("host=x keepalives=0 connect_timeout=3") == {
        **KEEPALIVES, "host": "x", "keepalives": "0", "connect_timeout": "3",
    }  # fmt: skip
    assert with_keepalives("postgresql://x?tcp_user_timeout=1")["tcp_user_timeout"] == "1"
    assert with_keepalives("service=mine") == {"service": "mine"}
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "5")
    assert "connect_timeout" not in with_keepalives("host=x")
    monkeypatch.setenv("PGSERVICE", "mine")
    assert with_keepalives("host=x") == {"host": "x"}


# What is gone on with, and what is not


@pytest.mark.parametrize(
    ("kind", "wait"), [("address", get), ("address", iterate), ("pool", take)], ids=["get", "iterate", "take"]
)
async def test_a_backend_that_dies_under_a_wait_is_replaced(world, sleepers, conn, told, kind, wait):
    queue = (await world.way(kind))["apples"]
    waiting = side_by_side(world, wait, queue)
    await asyncio.to_thread(sleepers.wait)
    conn.execute(KILL_OTHERS)
    await asyncio.to_thread(sleepers.wait)  # listening again
    conn.execute("select queue_put('apples', '1')")
    assert await asyncio.wait_for(waiting, PATIENCE) == 1
    # A pool may hand out one that the server is just about to end: then it is lost once more.
    assert told.texts == ["lost the connection", "connected"] * (len(told.texts) // 2)


async def test_a_connection_that_is_lost_when_the_time_is_over_ends_no_iteration(world, sleepers, conn):
    def lose() -> None:
        sleepers.before = lambda: None
        conn.execute(KILL_OTHERS)
        sleep(0.3)

    sleepers.before = lose
    iterating = side_by_side(world, iterate, world.pq()["apples"])
    for _ in range(2):
        await asyncio.to_thread(sleepers.wait)
    conn.execute("select queue_put('apples', '1')")
    assert await asyncio.wait_for(iterating, PATIENCE) == 1


async def test_a_take_whose_begin_is_lost_begins_again(world, gate):
    queue = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))["apples"]
    await queue.put(1)
    gate.cut(b"BEGIN", False)
    async with queue.take(timeout=PATIENCE) as job:
        assert job.data == 1
    gate.cut(b"BEGIN", False)
    with pytest.raises(errors.ConnectionLost):
        async with queue.take(block=False):
            pass


async def test_dead_connections_of_a_pool_fail_nobody_who_had_done_nothing_yet(world, conn):
    pool = await world.pool(min_size=4, max_size=4)
    await pool.wait()
    queue = world.pq(pool=pool)["apples"]
    await queue.count()
    for n in range(3):
        conn.execute(KILL_OTHERS)
        await queue.put(n)
        conn.execute(KILL_OTHERS)
        assert (await queue.get(block=False)).data == n
        conn.execute(KILL_OTHERS)
        async with queue.take(block=False) as job:
            assert job is None


async def test_a_get_whose_job_is_on_its_way_is_not_repeated(world, gate, conn, sleepers, told):
    """It has left the queue, and nobody has it: whoever called must know."""
    queue = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))["apples"]
    waiting = side_by_side(world, get, queue)
    await asyncio.to_thread(sleepers.wait)
    gate.cut(b"queue_get", True)
    conn.execute("select queue_put('apples', '1')")
    with pytest.raises(errors.CommitUnknown):
        await asyncio.wait_for(waiting, PATIENCE)
    assert conn.execute("select queue_count('apples', true)").fetchone() == (0,)
    assert told.texts == []


@pytest.mark.parametrize("wait", [lease, take], ids=["lease", "take"])
async def test_a_job_that_was_on_its_way_under_a_lease_or_in_a_transaction_comes_again(
    world, gate, conn, sleepers, wait
):
    queue = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))["apples"]
    await queue.configure(lease_for=0.2)
    waiting = side_by_side(world, wait, queue)
    await asyncio.to_thread(sleepers.wait)
    gate.cut(b"queue_lease" if wait is lease else b"queue_get", True)
    conn.execute("select queue_put('apples', '1')")
    assert await asyncio.wait_for(waiting, PATIENCE) == 1


async def take_all(queue: Any, verb: str, **options: Any) -> list[Any]:
    return await (queue.get_many(9, **options) if verb == "get" else queue.lease_many(9, "2s", **options))


@pytest.mark.parametrize("arrives", [False, True], ids=["lost", "done"])
@pytest.mark.parametrize("verb", ["get", "lease"])
async def test_jobs_that_came_with_one_that_can_not_be_read_are_given_back(world, gate, conn, verb, arrives):
    """When the connection is lost while that one is brought to the dead: nobody has the others."""
    queue = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))["apples"]
    await queue.put_many([1, 2])
    conn.execute("select queue_put('apples', data_text => 'no json', priority => 1)")
    gate.cut(b"queue_bury" if verb == "get" else b"queue_error", arrives)
    with pytest.raises(errors.ConnectionLost):
        await take_all(queue, verb)
    assert conn.execute("select count(*) from queue_job where lease_until > now()").fetchone() == (0,)
    jobs, attempts = await take_all(queue, verb), {"get": 0, "lease": 1}[verb]
    assert [(job.data, job.attempts) for job in jobs] == [(1, attempts), (2, attempts)]
    # At least once: whether the bury was done the client could not know, and what was got has a new id.
    assert 1 <= len(await queue.dead()) <= (2 if verb == "get" and arrives else 1)


async def test_jobs_that_came_with_one_that_can_not_be_read_are_had_by_who_waits(world, gate, conn):
    queue = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))["apples"]
    await queue.put_many([1, 2])
    conn.execute("select queue_put('apples', data_text => 'no json', priority => 1)")
    gate.cut(b"queue_error", False)
    jobs = await take_all(queue, "lease", block=True, timeout=PATIENCE)
    assert [(job.data, job.attempts) for job in jobs] == [(1, 1), (2, 1)]


async def test_jobs_that_can_not_be_given_back_come_when_their_lease_is_over(world, gate, conn, caplog):
    """The server is out of reach. That lease has counted as an attempt, and once."""
    queue = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))["apples"]
    await queue.put_many([1, 2])
    conn.execute("select queue_put('apples', data_text => 'no json', priority => 1)")
    gate.cut(b"queue_error", False)
    gate.close()
    with pytest.raises(errors.ConnectionLost) as caught:
        await take_all(queue, "lease")
    assert "could not be given back: job" in str(caught.value.__notes__)
    assert "could not be given back: job" in caplog.text
    there = world.pq()["apples"]
    found = {}
    while len(found) < 2:
        job = await there.lease("1h", timeout=PATIENCE)
        found[job.data] = job.attempts
    assert found == {1: 2, 2: 2}
    assert len(await there.dead()) == 1


async def test_in_a_transaction_nothing_is_repeated(world, conn, told):
    queue = world.pq()["apples"]
    await queue.count()

    async def work() -> None:
        async with queue:
            conn.execute(KILL_OTHERS)
            await queue.get()

    with pytest.raises(errors.ConnectionLost):
        await work()
    assert told.texts == []


@pytest.mark.parametrize("kind", ["address", "pool"])
async def test_in_a_transaction_a_wait_outlasts_the_connection_it_listens_on(world, conn, sleepers, kind):
    pq = await world.way(kind)

    async def work() -> Any:
        async with pq["apples"] as cursor:
            await cursor.execute("select set_config('application_name', 'works', false)")
            return (await pq["apples"].get(timeout=PATIENCE)).data

    working = side_by_side(world, work)
    await asyncio.to_thread(sleepers.wait)
    conn.execute(KILL_OTHERS + " and application_name <> 'works'")
    conn.execute("select queue_put('apples', '1')")
    assert await asyncio.wait_for(working, PATIENCE / 2) == 1


async def test_who_pauses_goes_on_when_another_gets_through(world, conn, told, monkeypatch):
    from pgq_py import links

    monkeypatch.setattr(links, "jitter", lambda seconds: 10 * PATIENCE)
    queue = (await world.way("address"))["apples"]
    await queue.count()  # has opened it
    before = plain(queue)._pq.outage.over

    async def pause() -> bool:
        return await adapt(plain(queue)._pq).reconnect(errors.ConnectionLost("gone"), inf, before)

    pausing = side_by_side(world, pause)
    await told.until("lost the connection")
    await queue.count()
    assert await asyncio.wait_for(pausing, PATIENCE)
    assert plain(queue)._pq.outage.over == before + 1


def test_the_log_is_told_once_and_reminded(monkeypatch, caplog):
    from pgq_py import links

    clock = [100.0]
    monkeypatch.setattr(links, "monotonic", lambda: clock[0])
    outage = links.Outage()
    error = errors.ConnectionLost("gone\nsecond line")
    pauses = []
    for _ in range(100):
        pauses.append(outage.begin(error, 0))
        clock[0] += pauses[-1]
    assert 0.025 <= pauses[0] <= 0.05
    assert max(pauses) <= links.RETRY_LAST
    assert min(pauses[-50:]) >= links.RETRY_LAST / 2
    assert len(pauses) > len(set(pauses)) / 2 > 40  # no two are the same
    outage.end()
    outage.end()
    # One that worked for a moment only.
    clock[0] += 0.1
    assert outage.begin(error, outage.over) >= links.RETRY_LAST / 2
    levels = {record.levelno for record in caplog.records}
    texts = [record.getMessage() for record in caplog.records]
    assert levels == {logging.WARNING}
    assert [text.split()[0] for text in texts] == ["lost", "no", "no", "connected", "lost"]
    assert "second line" not in str(texts)


def test_a_loss_that_is_noticed_late_is_not_told_as_another_outage(monkeypatch, caplog):
    from pgq_py import links

    clock = [100.0]
    monkeypatch.setattr(links, "monotonic", lambda: clock[0])
    outage = links.Outage()
    error = errors.ConnectionLost("gone")
    outage.begin(error, 0)
    outage.end()
    # It last worked before that. There is a server again, so it is tried soon, and not as if that worked for a moment.
    assert outage.begin(error, 0) <= links.RETRY_FIRST
    assert outage.is_on
    outage.end()
    assert outage.over == 2
    outage.begin(error, 1)
    outage.begin(error, 2)  # tried since, and in vain
    # Nobody tries for a long time: whether this is still the same nobody knows.
    clock[0] += links.FORGET + 1
    outage.begin(error, 2)
    clock[0] += links.REMIND + 1
    outage.begin(error, 2)
    outage.end()
    texts = [record.getMessage().split()[0] for record in caplog.records]
    assert texts == ["lost", "connected", "lost", "lost", "no", "connected"]


# What a PQ has opened is closed with it


class Meanwhile(list[Any]):
    """The idle connections, where others are always faster."""

    def __init__(self, meanwhile: Any) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def append(self, conn: Any) -> None:
        self.meanwhile()
        super().append(conn)

    def __bool__(self) -> bool:
        return True  # at the last look


async def test_a_connection_that_comes_back_while_the_pq_is_closed_is_closed(world, conn):
    pq = world.pq()
    source = plain(pq)._source

    def close_elsewhere() -> None:
        closing = source.close()
        if not world.is_sync:
            with pytest.raises(StopIteration):
                closing.send(None)  # with nothing to close, in one step

    source._idle = Meanwhile(close_elsewhere)
    await pq["apples"].count()
    assert list(source._idle) == []
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    await until(lambda: conn.execute(others).fetchone() == (0,))
    with pytest.raises(errors.Closed):
        await pq["apples"].count()


async def test_idle_connections_that_others_took_are_no_error(world):
    pq = world.pq()
    plain(pq)._source._idle = Meanwhile(lambda: None)
    await pq["apples"].count()
    await pq.close()

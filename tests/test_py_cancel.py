"""Interruptions: asyncio's cancellation, Control-C, and what they leave behind."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool
from worlds import PATIENCE, Background, World

from pgq_py import PQ, AsyncPQ, driver
from pgq_py._async import session as async_session
from pgq_py._async.session import AsyncSession
from pgq_py._sync import session as sync_session
from pgq_py._sync.session import Session
from pgq_py._sync.use import Use
from pgq_py.errors import ConnectionBusy

pytest_plugins = ("world_fixtures",)
WAYS = ["address", "pool", "conn", "autocommit"]


@pytest.fixture
async def world(request: pytest.FixtureRequest, database: Any) -> Any:
    world = World(getattr(request, "param", "async"), database.dsn)
    yield world
    await world.close()


def left(conn: psycopg.Connection[Any]) -> list[int]:
    return sorted(data for (data,) in conn.execute("select data from queue_list('apples')"))


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("how", ["get", "take", "block"])
async def test_cancelled_gets_lose_no_job(world, conn, kind, how):
    """A producer and a consumer cancelled at random moments of its work, often right when a job comes."""
    pq = await world.way(kind)
    queue = pq["apples"]
    conn.execute("create table done (n int)")
    seed = random.randrange(1000)
    chance = random.Random(seed)
    seen: list[int] = []

    async def consume() -> None:
        if how == "get":
            job = await queue.get()
            seen.append(job.data)
            return
        # The effect is in the transaction: of a COMMIT that is cancelled nobody knows the end,
        # but the job is done and the effect there, or neither.
        if how == "take":
            async with queue.take() as job, pq.transaction() as cursor:
                await cursor.execute("insert into done values (%s)", [job.data])
        else:
            async with queue as cursor:
                job = await queue.get()
                await cursor.execute("insert into done values (%s)", [job.data])

    # Slept is until a random moment, because that is the subject: a cancellation can come at any.
    for n in range(200):
        if n % 10 == 0:
            # Not cancelled: how long it takes here and now, for the others to be cancelled within.
            conn.execute("select queue_put('apples', %s::text::jsonb)", [n])
            begun = monotonic()
            await asyncio.create_task(consume())
            whole = monotonic() - begun
            continue
        task = asyncio.create_task(consume())
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * whole)
        conn.execute("select queue_put('apples', %s::text::jsonb)", [n])
        if chance.random() < 0.9:
            await asyncio.sleep(chance.random() * whole)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    seen += [n for (n,) in conn.execute("select n from done")]
    assert sorted(seen + left(conn)) == list(range(200)), seed
    assert len(seen) >= 20


async def test_a_get_cancelled_while_it_leaves_gives_the_job_back(database, conn, sleepers, monkeypatch):
    """The job is taken and committed, and the cancellation comes before the caller has it."""
    from pgq_py._async.listener import AsyncListener

    stop = AsyncListener._stop

    async def stop_later(self: Any, session: Any) -> None:
        leaving.set()
        try:
            await asyncio.Event().wait()  # until it is cancelled
        finally:
            await stop(self, session)

    monkeypatch.setattr(AsyncListener, "_stop", stop_later)
    async with AsyncPQ(database.dsn) as pq:
        leaving = asyncio.Event()
        queue = pq["apples"]
        task = asyncio.create_task(queue.get())
        await asyncio.to_thread(sleepers.wait)
        await asyncio.to_thread(
            conn.execute,
            "select queue_put('apples', '1', priority => 3, dedupe_key => 'k', headers => '[1]', "
            "max_attempts => 2, expected_at => '2100-01-01')",
        )
        await leaving.wait()
        assert left(conn) == []
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        job = await queue.get(block=False)
        assert (job.data, job.priority, job.dedupe_key, job.headers, job.max_attempts) == (1, 3, "k", [1], 2)
        assert job.expected_at.year == 2100


@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["listen", "unlisten"])
async def test_an_interrupted_listen_or_unlisten_leaves_nothing_listened_to(world, monkeypatch, verb, when):
    """Neither on the server, nor in the count of who listens, which would keep the next one from leaving."""
    sync_run, async_run, interrupted = Session.run, AsyncSession.run, []

    def strike(moment: str, call: Any) -> None:
        if moment == when and f".queue_{verb}(".encode() in call.statement and not interrupted:
            interrupted.append(call)
            raise KeyboardInterrupt if world.is_sync else asyncio.CancelledError

    def run(self: Any, call: Any, *options: Any) -> Any:
        strike("before", call)
        result = sync_run(self, call, *options)
        strike("after", call)
        return result

    async def run_async(self: Any, call: Any, *options: Any) -> Any:
        strike("before", call)
        result = await async_run(self, call, *options)
        strike("after", call)
        return result

    monkeypatch.setattr(Session, "run", run)
    monkeypatch.setattr(AsyncSession, "run", run_async)
    mine = await world.connect(autocommit=True)
    queue = world.pq(mine)["apples"]

    async def listening() -> int:
        (count,) = await (
            await mine.execute(
                "select (select count(*) from pg_listening_channels())"
                " + (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"
            )
        ).fetchone()
        return count

    with pytest.raises(KeyboardInterrupt if world.is_sync else asyncio.CancelledError):
        await queue.get(timeout=0.01)
    assert interrupted
    assert await listening() == 0
    assert await queue.get(timeout=0.01) is None
    assert await listening() == 0


@pytest.mark.parametrize("autocommit", [False, True])
async def test_cancellation_leaves_a_connection_as_it_was(database, conn, sleepers, autocommit):
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=autocommit) as mine:
        queue = AsyncPQ(mine)["apples"]
        for call in (queue.get, queue.take().__aenter__):
            task = asyncio.create_task(call())
            await asyncio.to_thread(sleepers.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (mine.info.transaction_status, mine.autocommit) == (TransactionStatus.IDLE, autocommit)
            listening = await (await mine.execute("select count(*) from pg_listening_channels()")).fetchone()
            assert listening == (0,)
            await mine.rollback()
        await queue.put(1)
        assert left(conn) == [1]


@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_statement_cancelled_while_it_waits_leaves_the_connection_as_it_was(database, conn, autocommit):
    """The put waits for another transaction that holds its key."""
    other = database.connect(autocommit=False)
    other.execute("select queue_put('apples', '1', dedupe_key => 'k')")
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=autocommit) as mine:
        queue = AsyncPQ(mine)["apples"]
        await queue.count()
        task = asyncio.create_task(queue.put(2, dedupe_key="k"))
        await asyncio.to_thread(wait_for_lock, conn, mine.info.backend_pid)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (mine.info.transaction_status, mine.autocommit) == (TransactionStatus.IDLE, autocommit)
        other.rollback()
        await queue.put(3, dedupe_key="k")
    assert left(conn) == [3]


def wait_for_lock(conn: psycopg.Connection[Any], pid: int) -> None:
    while conn.execute("select wait_event_type from pg_stat_activity where pid = %s", [pid]).fetchone() != ("Lock",):
        pass


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A session of the server's that does nothing, and neither sees that its client has gone."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for session in (sync_session, async_session):
        monkeypatch.setattr(session, "CANCEL_WITHIN", 0.5)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("world", ["sync", "async"], indirect=True)
async def test_a_stopped_server_is_not_waited_for_when_a_statement_was_interrupted(
    world, conn, monkeypatch, short_patience, caplog
):
    """Between two steps, where psycopg does not wait itself: the statement is sent, and its answer not yet awaited."""

    def interrupt(pgconn: Any) -> Iterator[Any]:
        monkeypatch.setattr(driver, "execute", execute)
        raise KeyboardInterrupt if world.is_sync else asyncio.CancelledError
        yield

    mine, execute = await world.connect(autocommit=True), driver.execute
    queue = world.pq(mine)["apples"]
    await queue.put(1)
    with stopped(mine.info.backend_pid):
        monkeypatch.setattr(driver, "execute", interrupt)
        with pytest.raises(KeyboardInterrupt if world.is_sync else asyncio.CancelledError) as raised:
            await queue.get()
        assert mine.closed
        assert left(conn) == [1]
    (note,) = raised.value.__notes__
    assert "whether jobs were taken nobody knows" in note
    assert note in caplog.text


@pytest.mark.timeout(30)
@pytest.mark.parametrize("call", ["get", "take", "listen"])
def test_control_c_ends_a_call_that_waits_for_jobs_while_the_server_is_stopped(
    database, sleepers, short_patience, call
):
    """It can't be told that nobody listens any more."""
    with contextlib.closing(database.connect()) as mine:
        queue = PQ(mine)["apples"]
        calls = {"get": queue.get, "take": queue.take().__enter__, "listen": lambda: next(queue.listen())}
        pid = mine.info.backend_pid
        sleepers.before = lambda: os.kill(pid, signal.SIGSTOP)

        def interrupt() -> None:
            sleepers.wait()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        interrupting = Background(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                calls[call]()
            interrupting.result()
            assert mine.closed
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(30)
async def test_a_cancellation_ends_a_get_that_waits_while_the_server_is_stopped(database, sleepers, short_patience):
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as mine:
        task = asyncio.create_task(AsyncPQ(mine)["apples"].get())
        await asyncio.to_thread(sleepers.wait)
        with stopped(mine.info.backend_pid):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert mine.closed


@pytest.mark.parametrize("kind", WAYS)
async def test_a_block_that_runs_out_of_time_is_rolled_back(world, conn, kind):
    queue = (await world.way(kind))["apples"]
    await queue.put(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), queue:
            await queue.get()
            await queue.put(2)
            await queue.get(block=False)
            await asyncio.Event().wait()
    assert left(conn) == [1]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_forever(queue), 0.2)
    assert left(conn) == [1]
    await queue.put(3)
    assert left(conn) == [1, 3]


async def _forever(queue: Any) -> None:
    async with queue.take():
        await asyncio.Event().wait()


async def test_listen_dropped_by_a_cancelled_task_gives_the_job_back(world, conn):
    for kind in WAYS:
        queue = (await world.way(kind))["apples"]
        await queue.clear()
        await queue.put(1)
        entered = asyncio.Event()

        async def work(queue: Any = queue, entered: asyncio.Event = entered) -> None:
            async for _ in queue.listen():
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await queue.get(timeout=PATIENCE)).data == 1


async def test_an_error_while_committing_passes_and_leaves_nothing_open(world, conn):
    """A deferred constraint fails at COMMIT."""
    conn.execute("create table fruit (n int unique deferrable initially deferred)")
    for kind in WAYS:
        queue = (await world.way(kind))["apples"]
        with pytest.raises(psycopg.errors.UniqueViolation):
            async with queue as cursor:
                await queue.put(1)
                await cursor.execute("insert into fruit values (1), (1)")
        assert left(conn) == []
        await queue.put(1)
        assert left(conn) == [1]
        await queue.clear()


async def test_a_pool_has_all_its_connections_after_cancellations(world, sleepers):
    pool = await world.pool(min_size=2, max_size=2)
    queue = world.pq(pool=pool)["apples"]
    for _ in range(5):
        tasks = [asyncio.create_task(queue.get()) for _ in range(2)]
        for _ in tasks:
            await asyncio.to_thread(sleepers.wait)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert type(ended) is asyncio.CancelledError
    assert (await asyncio.gather(queue.count(), queue.count())) == [0, 0]
    stats = pool.get_stats()
    assert stats["pool_available"] == 2
    assert stats.get("connections_lost", 0) == 0


@pytest.mark.parametrize("autocommit", [False, True])
def test_control_c_in_a_blocked_get_leaves_the_connection_as_it_was(database, conn, sleepers, autocommit):
    with psycopg.connect(database.dsn, autocommit=autocommit) as mine:
        queue = PQ(mine)["apples"]

        def interrupt() -> None:
            sleepers.wait()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        for call in (queue.get, queue.take().__enter__):
            interrupting = Background(interrupt)
            with pytest.raises(KeyboardInterrupt):
                call()
            interrupting.result()
            assert (mine.info.transaction_status, mine.autocommit) == (TransactionStatus.IDLE, autocommit)
            assert mine.execute("select count(*) from pg_listening_channels()").fetchone() == (0,)
            mine.rollback()
        queue.put(1)
        assert left(conn) == [1]


def test_control_c_in_a_statement_leaves_the_connection_as_it_was(database, conn):
    other = database.connect(autocommit=False)
    other.execute("select queue_put('apples', '1', dedupe_key => 'k')")
    with psycopg.connect(database.dsn) as mine:
        queue = PQ(mine)["apples"]
        queue.count()

        def interrupt() -> None:
            wait_for_lock(conn, mine.info.backend_pid)
            _thread.interrupt_main()

        interrupting = Background(interrupt)
        with pytest.raises(KeyboardInterrupt):
            queue.put(2, dedupe_key="k")
        interrupting.result()
        assert (mine.info.transaction_status, mine.autocommit) == (TransactionStatus.IDLE, False)
        other.rollback()
        queue.put(3, dedupe_key="k")
    assert left(conn) == [3]


def test_a_job_that_cannot_be_put_again_goes_to_the_dead(database, conn, monkeypatch, caplog):
    """The queue has become full between the get and the interruption."""
    close, closed = Use.close, []

    def interrupt(self: Any, after: Any = None) -> None:
        close(self, after)
        if not closed:
            closed.append(self)
            conn.execute("select queue_put('apples', '2')")
            raise KeyboardInterrupt

    with PQ(database.dsn) as pq:
        queue = pq["apples"]
        queue.configure(max_depth=1)
        queue.put(1, priority=3, headers=["h"])
        monkeypatch.setattr(Use, "close", interrupt)
        with pytest.raises(KeyboardInterrupt):
            queue.get()
        (dead,) = queue.dead()
        assert (dead.data, dead.priority, dead.headers) == (1, 3, ["h"])
        assert "interrupted" in dead.reason
        assert left(conn) == [2]
        assert f"job {dead.id} of queue 'apples' goes to the dead" in caplog.text


def test_a_job_that_cannot_be_given_back_at_all_is_named(database, conn, monkeypatch, caplog):
    close, closed = Use.close, []

    def interrupt(self: Any, after: Any = None) -> None:
        close(self, after)
        if not closed:
            closed.append(self)
            conn.execute("alter function queue_put rename to queue_put_no; alter function queue_bury rename to bury_no")
            raise KeyboardInterrupt

    with PQ(database.dsn) as pq:
        id = pq["apples"].put(1)
        monkeypatch.setattr(Use, "close", interrupt)
        with pytest.raises(KeyboardInterrupt) as raised:
            pq["apples"].get()
    (note,) = raised.value.__notes__
    assert f"job {id} of queue 'apples'" in note
    assert note in caplog.text


class Raw:
    """A serializer that does something when a job is read: taken and committed, and not yet with the caller."""

    def __init__(self, then: Any) -> None:
        self.then = then

    def dumps(self, data: str) -> str:
        return data

    def loads(self, text: str) -> str:
        self.then()
        return text


@pytest.mark.parametrize("kind", ["address", "conn"])
def test_a_pq_that_its_signal_handler_closed_gives_the_job_back(database, conn, kind):
    def interrupt() -> None:
        pq.close()
        raise KeyboardInterrupt

    with contextlib.closing(database.connect()) as mine, PQ(database.dsn if kind == "address" else mine) as pq:
        queue = pq.queue("apples", serializer=Raw(interrupt))
        queue.put("Cox")
        with pytest.raises(KeyboardInterrupt):
            queue.get()
    assert conn.execute("select data_text from queue_list('apples')").fetchall() == [("Cox",)]


def test_a_job_is_given_back_on_the_connection_that_took_it(database, conn):
    """A pool may have no other: here one connection, for which somebody waits already."""
    with ConnectionPool(database.dsn, min_size=1, max_size=1, timeout=2, open=True) as pool:
        pq, over = PQ(pool=pool), threading.Event()

        def use() -> None:
            with pool.connection():
                over.wait(PATIENCE)

        def interrupt() -> None:
            others.append(Background(use))
            while not pool.get_stats().get("requests_waiting"):
                pass
            raise KeyboardInterrupt

        others: list[Background] = []
        queue = pq.queue("apples", serializer=Raw(interrupt))
        queue.put("Cox")
        with pytest.raises(KeyboardInterrupt):
            queue.get()
        assert conn.execute("select data_text from queue_list('apples')").fetchall() == [("Cox",)]
        over.set()
        others[0].result()


async def test_a_job_is_given_back_while_another_task_has_a_transaction_on_the_only_connection(database, conn):
    """That task may wait for the one that was cancelled."""
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as mine:
        pq = AsyncPQ(mine)
        await pq["apples"].put(1)

        async def block() -> None:
            async with pq["pears"]:
                await asyncio.wait([getting])

        with conn.transaction():
            # The answer can't come before the lock is gone, and after that the loop does not turn any more.
            conn.execute("lock table queue_job")
            getting = asyncio.create_task(pq["apples"].get())
            # The loop has to turn until the statement is sent, and nothing of ours tells when: ask the server.
            while not conn.execute("select pid from pg_locks where not granted").fetchone():  # noqa: ASYNC110
                await asyncio.sleep(0)
            blocking = asyncio.create_task(block())
            for _ in range(3):
                await asyncio.sleep(0)
        # The loop is busy until the server has committed: nothing of ours can be waited for here.
        patience = monotonic() + PATIENCE
        while left(conn):
            assert monotonic() < patience
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        await blocking
    assert left(conn) == [1]


def test_a_job_whose_key_was_put_meanwhile_goes_to_the_dead(database, conn):
    def interrupt() -> None:
        conn.execute("select queue_put('apples', data_text => 'Gala', dedupe_key => 'k')")
        raise KeyboardInterrupt

    with PQ(database.dsn) as pq:
        serializer = Raw(interrupt)
        queue = pq.queue("apples", serializer=serializer)
        queue.put("Cox", dedupe_key="k")
        with pytest.raises(KeyboardInterrupt):
            queue.get()
        serializer.then = lambda: None
        assert [job.data for job in queue.list()] == ["Gala"]
        (dead,) = queue.dead()
        assert (dead.data, dead.dedupe_key) == ("Cox", "k")
        assert "dedupe_key" in dead.reason


def test_who_finds_the_only_connection_busy_stops_to_listen_when_it_is_not(database, sleepers):
    with contextlib.closing(database.connect()) as mine:
        pq = PQ(mine)
        waiting = Background(pq["apples"].get, True, 2)
        sleepers.wait()
        with pq["pears"], pytest.raises(ConnectionBusy):
            waiting.result()
        assert mine.execute("select pg_listening_channels()").fetchall() == []
        held = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        assert mine.execute(held).fetchone() == (0,)


@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_savepoint_cancelled_as_it_begins_leaves_the_callers_connection_open(database, conn, autocommit):
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=autocommit) as mine:
        queue = AsyncPQ(mine)["apples"]
        await mine.execute("begin" if autocommit else "select 1")
        await queue.put(1)

        async def cancelled() -> None:
            asyncio.current_task().cancel()
            async with queue:
                await queue.put(2)

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(cancelled())
        # The server has cancelled the SAVEPOINT, and with it the transaction, which is the caller's to end.
        assert mine.info.transaction_status == TransactionStatus.INERROR
        await mine.rollback()
        await queue.put(3)
    assert left(conn) == [3]

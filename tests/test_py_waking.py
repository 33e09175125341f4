"""A blocked get is woken by the notification; the poll interval is a minute here, so nothing else can wake it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from time import monotonic
from typing import Any

import psycopg
import pytest
from sql_sessions import value
from worlds import PATIENCE, Background, plain

from pgq_py import PQ, AsyncPQ
from pgq_py._async import session as async_session
from pgq_py._sync import session as sync_session

pytest_plugins = ("world_fixtures",)
WAYS = ["address", "pool", "conn", "autocommit"]


@pytest.fixture(autouse=True)
def _in_time(database: Any) -> Iterator[None]:
    """A get that nothing woke looks once more when its time is over, and may find the job then: too late."""
    start = monotonic()
    yield
    assert monotonic() - start < PATIENCE / 2, "nothing but the timeout ended a sleep"


def put_when_asleep(sleepers: Any, conn: psycopg.Connection[Any], queue: str = "apples") -> Background:
    def put() -> None:
        sleepers.wait()
        conn.execute("select queue_put(%s, '1')", [queue])

    return Background(put)


@pytest.mark.parametrize("kind", WAYS)
async def test_a_put_wakes_a_blocked_get(world, sleepers, conn, kind):
    queue = (await world.way(kind))["apples"]
    for _ in range(3):
        putting = put_when_asleep(sleepers, conn)
        job = await queue.get(timeout=PATIENCE)
        assert job is not None, "nothing woke it"
        putting.result()


@pytest.mark.parametrize("kind", WAYS)
async def test_a_put_wakes_a_blocked_take_and_a_set(world, sleepers, conn, kind):
    pq = await world.way(kind)
    putting = put_when_asleep(sleepers, conn)
    async with pq["apples"].take(timeout=PATIENCE) as job:
        assert job is not None, "nothing woke it"
    putting.result()
    putting = put_when_asleep(sleepers, conn, "pears")
    assert (await pq["apples", "pears"].get(timeout=PATIENCE)).queue == "pears"
    putting.result()


async def test_a_put_between_the_look_and_the_sleep_wakes(queue, sleepers, conn):
    """Listening begins before the look: what is committed after it has been noticed."""
    sleepers.before = lambda: conn.execute("select queue_put('apples', '1')")
    assert await queue.get(timeout=PATIENCE) is not None


async def test_a_put_that_commits_late_wakes(queue, sleepers, database):
    other = database.connect(autocommit=False)
    other.execute("select queue_put('apples', '1')")

    def commit() -> None:
        sleepers.wait()
        other.commit()

    committing = Background(commit)
    assert await queue.get(timeout=PATIENCE) is not None
    committing.result()


async def test_the_end_of_a_pause_wakes(queue, sleepers, conn):
    await queue.put(1)
    await queue.pause()

    def resume() -> None:
        sleepers.wait()
        conn.execute("select queue_resume('apples')")

    resuming = Background(resume)
    assert await queue.get(timeout=PATIENCE) is not None
    resuming.result()


@pytest.mark.parametrize("kind", WAYS)
async def test_the_next_due_job_wakes_at_its_time(world, sleepers, conn, kind):
    queue = (await world.way(kind))["apples"]
    conn.execute("select queue_put('apples', '1', schedule_in => '250 ms')")
    async with queue.take(timeout=PATIENCE) as job:
        (late,) = conn.execute("select clock_timestamp() - %s", [job.schedule_at]).fetchone()
    assert timedelta(0) <= late < timedelta(seconds=1.5)


@pytest.mark.parametrize("kind", WAYS)
async def test_a_blocked_get_sleeps_and_does_not_spin(world, sleepers, monkeypatch, kind):
    queue = (await world.way(kind))["apples"]
    looks: list[int] = []
    slices: list[int] = []
    sleepers.before = lambda: looks.append(1)
    for kind_of_conn in (psycopg.Connection, psycopg.AsyncConnection):

        def notifies(*args: Any, heard: Any = kind_of_conn.notifies, **options: Any) -> Any:
            slices.append(1)
            return heard(*args, **options)

        monkeypatch.setattr(kind_of_conn, "notifies", notifies)
    assert await queue.get(timeout=0.5) is None
    assert len(looks) == 1
    # Twenty a second on a shared connection, four on another; a spin has thousands.
    assert 1 <= len(slices) <= 15


@pytest.mark.parametrize("kind", ["conn", "autocommit"])
async def test_a_get_that_polls_in_a_transaction_looks_ever_more_rarely(world, sleepers, kind):
    """At least 10 ms after the first look, 20 after the second, and so on: the sixth comes after 310."""
    queue = (await world.way(kind))["apples"]
    looks = []
    sleepers.before = lambda: looks.append(1)
    async with queue:
        assert await queue.get(timeout=0.5) is None
    assert 1 <= len(looks) <= 7


async def test_get_gives_up_when_its_time_is_over_though_a_job_is_due_later(queue, sleepers):
    await queue.put(1, "1h")
    assert await queue.get(timeout=0.1) is None


@pytest.mark.parametrize("kind", WAYS)
async def test_nothing_is_listened_to_afterwards_and_no_notification_kept(world, sleepers, conn, kind):
    if kind == "pool":
        pool = await world.pool(max_size=1)
        pq = world.pq(pool=pool)
    elif kind == "address":
        pq = world.pq()
    else:
        mine = await world.connect(autocommit=kind == "autocommit")
        pq = world.pq(mine)
    queue = pq["apples"]
    for _ in range(3):
        # More come than the one that wakes.
        sleepers.before = lambda: [conn.execute("select queue_put('apples', '1')") for _ in range(3)]
        assert await queue.get(timeout=PATIENCE) is not None
        await queue.clear()
        sleepers.before = lambda: None
        assert await queue.get(timeout=0.01) is None
    async with queue as cursor:
        bare = plain(cursor.connection)
        await cursor.execute("select count(*) from pg_listening_channels()")
        assert await cursor.fetchone() == (0,)
    assert not bare._notifies_backlog
    conn.execute("select queue_put('apples', '1')")
    await queue.count()
    assert not bare._notifies_backlog


@pytest.mark.parametrize("how", ["get", "lease", "get_any", "lease_any"])
async def test_a_job_is_with_who_was_woken_for_it_after_one_round_trip(world, sleepers, conn, gate, how):
    pq = world.pq(await world.connect(conninfo=gate.address, autocommit=True))
    consumer = pq["apples", "pears"] if how.endswith("any") else pq["apples"]
    for _ in range(2):
        trips = []

        def put(trips: list[int] = trips) -> None:
            sleepers.wait()
            trips.append(gate.round_trips)
            conn.execute("select queue_put('apples', '1')")

        putting = Background(put)
        job = await (consumer.lease if how.startswith("lease") else consumer.get)(timeout=PATIENCE)
        assert (job.data, job.queue) == (1, "apples")
        putting.result()
        assert gate.round_trips - trips[0] == 1
        assert value(conn, "select count(*) from pg_locks where locktype = 'advisory'") == 0


# The first commit of a take fails, as it may at SERIALIZABLE.
FIRST_COMMIT_FAILS = """
    create sequence takes;
    create function fail_once() returns trigger language plpgsql as $$
    begin
        if nextval('takes') = 1 then
            raise sqlstate '40001' using message = 'first commit fails';
        end if;
        return null;
    end
    $$;
    create constraint trigger fail_once after insert on queue_tally deferrable initially deferred
        for each row when (new.taken is not null) execute function fail_once();
"""


async def test_after_a_commit_that_failed_it_is_still_listened_to(world, sleepers, conn, monkeypatch):
    """The job that woke us goes to another meanwhile, and the next one must wake us again."""
    conn.execute(FIRST_COMMIT_FAILS)
    queue = world.pq(await world.connect(autocommit=True))["apples"]
    lost = []

    def lose() -> None:
        lost.extend(conn.execute("select id from queue_get('apples')").fetchall())

    sync_sleep, async_sleep = sync_session.sleep, async_session.async_sleep

    def sleep(seconds: float) -> None:
        lose()
        sync_sleep(seconds)

    async def sleep_async(seconds: float) -> None:
        lose()
        await async_sleep(seconds)

    monkeypatch.setattr(sync_session, "sleep", sleep)
    monkeypatch.setattr(async_session, "async_sleep", sleep_async)

    def put() -> None:
        sleepers.wait()
        conn.execute("select queue_put('apples', '1')")
        sleepers.wait()
        conn.execute("select queue_put('apples', '2')")

    putting = Background(put)
    try:
        assert (await queue.get(timeout=PATIENCE)).data == 2
        putting.result()
        assert len(lost) == 1
        assert value(conn, "select count(*) from pg_locks where locktype = 'advisory'") == 0
    finally:
        conn.execute("drop trigger fail_once on queue_tally; drop function fail_once; drop sequence takes")


async def test_who_is_cancelled_while_another_has_the_connection_listens_no_more(database, sleepers):
    wanted = asyncio.Event()

    class Lock(asyncio.Lock):
        async def acquire(self) -> bool:
            if self.locked():
                wanted.set()
            return await super().acquire()

    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as shared:
        pq = AsyncPQ(shared)
        pq._source.listening.lock = lock = Lock()
        waiting = asyncio.create_task(pq["apples"].get(timeout=1))
        await asyncio.to_thread(sleepers.wait)
        async with lock:
            await wanted.wait()  # its time is over
            waiting.cancel()
            await asyncio.sleep(0)  # no time: it is the other's turn
        with pytest.raises(asyncio.CancelledError):
            await waiting
        cursor = await shared.execute("select count(*) from pg_listening_channels()")
        assert await cursor.fetchone() == (0,)


@pytest.mark.parametrize("kind", WAYS)
async def test_after_a_job_that_could_not_be_read_it_is_still_listened_to(world, sleepers, conn, kind):
    queue = (await world.way(kind))["apples"]

    def put() -> None:
        sleepers.wait()
        conn.execute("select queue_put('apples', data_bytes => '\\x80')")
        sleepers.wait()
        conn.execute("select queue_put('apples', '1')")

    putting = Background(put)
    assert (await queue.get(timeout=PATIENCE)).data == 1
    putting.result()
    assert value(conn, "select count(*) from queue_dead") == 1


@pytest.mark.parametrize("kind", ["address", "pool"])
def test_all_blocked_threads_are_woken(database, sleepers, conn, kind):
    import psycopg_pool

    with psycopg_pool.ConnectionPool(database.dsn, min_size=1, max_size=8) as pool:
        pq = PQ(pool=pool) if kind == "pool" else PQ(database.dsn)
        with pq:
            waiting = [Background(pq["apples"].get, True, PATIENCE) for _ in range(5)]
            for _ in waiting:
                sleepers.wait()
            conn.execute("select queue_put_many('apples', array['1', '2', '3', '4', '5']::jsonb[])")
            assert sorted(thread.result().data for thread in waiting) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["address", "pool"])
async def test_all_blocked_tasks_are_woken(database, sleepers, conn, kind):
    import psycopg_pool

    async with (
        psycopg_pool.AsyncConnectionPool(database.dsn, min_size=1, max_size=8) as pool,
        AsyncPQ(pool=pool) if kind == "pool" else AsyncPQ(database.dsn) as pq,
    ):
        waiting = [asyncio.create_task(pq["apples"].get(timeout=PATIENCE)) for _ in range(5)]
        for _ in waiting:
            await asyncio.to_thread(sleepers.wait)
        conn.execute("select queue_put_many('apples', array['1', '2', '3', '4', '5']::jsonb[])")
        assert sorted([job.data for job in await asyncio.gather(*waiting)]) == [1, 2, 3, 4, 5]


def test_threads_blocked_on_one_connection_are_all_woken(database, sleepers, conn):
    """One hears what was meant for another, and one stops to listen while another still sleeps."""
    with psycopg.connect(database.dsn) as mine:
        pq = PQ(mine)
        names = ["apples", "apples", "pears", "plums"]
        waiting = [Background(pq[name].get, True, PATIENCE) for name in names]
        for _ in names:
            sleepers.wait()
        conn.execute("select queue_put('apples', '1')")
        conn.execute("select queue_put('pears', '2')")
        conn.execute("select queue_put('plums', '3')")
        assert waiting[2].result() is not None
        assert waiting[3].result() is not None
        pq["apples"].put(4)
        assert sorted(job.result().data for job in waiting[:2]) == [1, 4]


async def test_tasks_blocked_on_one_connection_are_all_woken(database, sleepers, conn):
    async with await psycopg.AsyncConnection.connect(database.dsn) as mine:
        pq = AsyncPQ(mine)
        names = ["apples", "apples", "pears", "plums"]
        waiting = [asyncio.create_task(pq[name].get(timeout=PATIENCE)) for name in names]
        for _ in names:
            await asyncio.to_thread(sleepers.wait)
        conn.execute("select queue_put('apples', '1')")
        conn.execute("select queue_put('pears', '2')")
        conn.execute("select queue_put('plums', '3')")
        assert await waiting[2] is not None
        assert await waiting[3] is not None
        await pq["apples"].put(4)
        assert sorted(job.data for job in await asyncio.gather(*waiting[:2])) == [1, 4]


def test_a_sleeper_lets_others_use_the_connection(database, sleepers):
    with psycopg.connect(database.dsn) as mine:
        pq = PQ(mine)
        waiting = Background(pq["apples"].get, True, PATIENCE)
        sleepers.wait()
        for n in range(5):
            pq["pears"].put(n)
        pq["apples"].put(1)
        assert waiting.result().data == 1
        assert len(pq["pears"]) == 5


async def test_close_ends_a_blocked_call(database, sleepers):
    from pgq_py import errors

    for make in (PQ(database.dsn), PQ(psycopg.connect(database.dsn))):
        queue = make["apples"]
        for call in (queue.get, queue.take().__enter__, lambda queue=queue: next(iter(queue.listen()))):
            if make._source.is_closed:
                break
            waiting = Background(call)
            sleepers.wait()
            make.close()
            with pytest.raises(errors.Closed):
                waiting.result()
        with pytest.raises(errors.Closed):
            queue.put(1)
        if make._source._conn is not None:
            assert not make._source._conn.closed
            make._source._conn.close()
    for call in ("get", "take"):
        pq = AsyncPQ(database.dsn)
        task = asyncio.ensure_future(pq["apples"].get() if call == "get" else pq["apples"].take().__aenter__())
        await asyncio.to_thread(sleepers.wait)
        await pq.close()
        with pytest.raises(errors.Closed):
            await task


def test_close_ends_a_call_that_polls_in_a_transaction(database, conn):
    from pgq_py import errors

    with psycopg.connect(database.dsn) as mine:
        pq = PQ(mine)
        entered = threading.Event()

        def wait() -> None:
            with pq["apples"]:
                entered.set()
                pq["apples"].get()

        waiting = Background(wait)
        assert entered.wait(PATIENCE)
        pq.close()
        with pytest.raises(errors.Closed):
            waiting.result()

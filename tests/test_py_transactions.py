"""Whose transaction a call is in, on every kind of connection."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row
from psycopg.types.json import set_json_dumps, set_json_loads
from worlds import Background, Gate, plain

from pgq_py import PQ, AsyncPQ, errors

pytest_plugins = ("world_fixtures",)
WAYS = ["address", "pool", "conn", "autocommit"]


def committed(conn: psycopg.Connection[Any], queue: str = "apples") -> int:
    """What another session sees."""
    (count,) = conn.execute("select queue_count(%s)", [queue]).fetchone()
    return count


def status(conn: Any) -> TransactionStatus:
    return conn.info.transaction_status


@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_call_on_an_idle_connection_is_durable_and_leaves_it_as_it_was(world, conn, autocommit):
    mine = await world.connect(autocommit=autocommit)
    queue = world.pq(mine)["apples"]
    await queue.put(1)
    assert committed(conn) == 1
    assert (status(mine), mine.autocommit) == (TransactionStatus.IDLE, autocommit)
    await queue.get()
    assert committed(conn) == 0
    assert (status(mine), mine.autocommit) == (TransactionStatus.IDLE, autocommit)
    await mine.rollback()
    assert committed(conn) == 0


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("threshold", [None, 0, 5])
async def test_every_call_on_an_idle_connection_is_one_round_trip(world, gate, autocommit, threshold):
    mine = await world.connect(autocommit=autocommit, conninfo=gate.address)
    plain(mine).prepare_threshold = threshold
    queue = world.pq(mine)["apples"]
    for _ in range(8):  # beyond the number of times after which psycopg prepares
        await queue.put(0)
        await queue.get()
    calls = {
        "put": lambda: queue.put({"kind": "Cox"}, "-1s", "1h", priority=1, headers={}),
        "put_many": lambda: queue.put_many(range(100)),
        "get": lambda: queue.get(),
        "get_many": lambda: queue.get_many(50),
        "nothing": lambda: queue.get(block=False),
        "count": lambda: queue.count(),
        "cancel": lambda: queue.cancel(1),
        "update": lambda: queue.update(1, 2),
        "list": lambda: queue.list(),
        "stats": lambda: queue.stats(),
    }
    for call in calls.values():
        await call()  # prepared now, if it ever is
    used = {}
    for name, call in calls.items():
        before = gate.round_trips
        await call()
        used[name] = gate.round_trips - before
    assert used == dict.fromkeys(calls, 1)


@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_call_on_a_connection_in_a_transaction_joins_it(world, conn, autocommit):
    mine = await world.connect(autocommit=autocommit)
    queue = world.pq(mine)["apples"]
    await queue.put("before")
    async with mine.transaction(force_rollback=True):
        await queue.put("inside")
        assert (await queue.get()).data == "before"
        assert committed(conn) == 1
    assert [job.data for job in await queue.list()] == ["before"]
    async with mine.transaction():
        await queue.put("inside")
        assert committed(conn) == 1
    assert committed(conn) == 2


async def test_a_statement_of_the_owners_begins_a_transaction_that_calls_join(world, conn):
    mine = await world.connect(autocommit=False)
    queue = world.pq(mine)["apples"]
    await mine.execute("select 1")
    await queue.put(1)
    assert committed(conn) == 0
    await mine.rollback()
    assert await queue.count() == 0
    await mine.execute("create table fruit ()")
    await queue.put(1)
    await mine.commit()
    assert committed(conn) == 1


async def test_the_owners_statements_in_other_tasks_stay_in_the_owners_transaction(database, conn):
    conn.execute("create table fruit (n int)")
    async with await psycopg.AsyncConnection.connect(database.dsn) as mine:
        queue = AsyncPQ(mine)["apples"]
        await queue.put(0)
        for n in range(100):
            await asyncio.gather(
                queue.put(n), mine.execute("insert into fruit values (1)"), queue.put(n), return_exceptions=False
            )
            await mine.rollback()
    assert conn.execute("select count(*) from fruit").fetchone() == (0,)


@pytest.mark.parametrize("kind", WAYS)
async def test_a_block_stands_or_falls_together(world, conn, kind):
    pq = await world.way(kind)
    await pq["apples"].put("old")
    with pytest.raises(LookupError):
        async with pq["apples"]:
            await pq["apples"].get()
            await pq["pears"].put(1)
            raise LookupError
    assert (committed(conn), committed(conn, "pears")) == (1, 0)
    async with pq["apples"]:
        await pq["apples"].get()
        await pq["pears"].put(1)
        assert (committed(conn), committed(conn, "pears")) == (1, 0)
    assert (committed(conn), committed(conn, "pears")) == (0, 1)


@pytest.mark.parametrize("kind", WAYS)
async def test_the_cursor_works_in_the_same_transaction(world, conn, kind):
    pq = await world.way(kind)
    conn.execute("create table fruit (n int)")
    with pytest.raises(LookupError):
        async with pq["apples"] as cursor:
            await cursor.execute("insert into fruit values (1)")
            raise LookupError
    async with pq["apples"] as cursor:
        await cursor.execute("insert into fruit values (2)")
        await pq["apples"].put(1)
    async with pq.transaction() as cursor:
        await cursor.execute("insert into fruit values (3)")
    assert conn.execute("select n from fruit order by n").fetchall() == [(2,), (3,)]


@pytest.mark.parametrize("kind", WAYS)
async def test_blocks_nest_as_savepoints_on_one_queue_and_on_several(world, kind):
    pq = await world.way(kind)
    apples, pears = pq["apples"], pq["pears"]
    async with apples:
        await apples.put(1)
        with pytest.raises(LookupError):
            async with apples:
                await apples.put(2)
                async with pears:
                    await pears.put(3)
                raise LookupError
        async with pears:
            await pears.put(4)
        await apples.put(5)
    assert [job.data for job in await apples.list()] == [1, 5]
    assert [job.data for job in await pears.list()] == [4]


async def test_psycopgs_rollback_leaves_a_block_quietly(queue):
    async with queue:
        await queue.put(1)
        raise psycopg.Rollback
    assert await queue.count() == 0


@pytest.mark.parametrize("kind", WAYS)
async def test_an_error_swallowed_in_a_block_is_raised_at_its_end(world, conn, kind):
    queue = (await world.way(kind))["apples"]
    with pytest.raises(errors.TransactionAborted) as caught:
        async with queue as cursor:
            await queue.put(1)
            with contextlib.suppress(psycopg.errors.DivisionByZero):
                await cursor.execute("select 1/0")
    assert isinstance(caught.value, psycopg.errors.InFailedSqlTransaction)
    assert caught.value.sqlstate == "25P02"
    assert committed(conn) == 0
    await queue.put(2)
    assert committed(conn) == 1


async def test_an_error_swallowed_in_an_inner_block_spares_the_outer(queue, conn):
    async with queue:
        await queue.put("outer")
        with pytest.raises(errors.TransactionAborted):
            async with queue as cursor:
                await queue.put("inner")
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await cursor.execute("select 1/0")
    assert [job.data for job in await queue.list()] == ["outer"]


async def test_a_connection_that_dies_in_a_block_is_told_at_its_end(queue, conn):
    with pytest.raises(errors.ConnectionLost):
        async with queue as cursor:
            await queue.put(1)
            conn.execute("select pg_terminate_backend(%s)", [cursor.connection.info.backend_pid])
            with pytest.raises(errors.ConnectionLost):
                await queue.put(2)
    assert committed(conn) == 0
    await queue.put(3)
    assert committed(conn) == 1


async def test_nothing_of_a_block_outlasts_it(world, conn):
    """An exception leaves no transaction behind that later calls would join."""
    queue = (await world.way("conn"))["apples"]
    for error in (LookupError, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit):
        with pytest.raises(error):
            async with queue, queue:
                raise error
        await queue.put(1)
        await queue.get()
    assert committed(conn) == 0


async def test_in_a_block_get_polls_and_finds_what_others_commit(world, conn):
    for kind in WAYS:
        queue = (await world.way(kind))["apples"]
        async with queue:
            await queue.put("mine")
            assert (await queue.get(timeout=20)).data == "mine"
            putting = Background(lambda: conn.execute("select queue_put('apples', '1')"))
            assert (await queue.get(timeout=20)).data == 1
            putting.result()


async def test_transactions_on_a_pool_of_one_do_not_wait_for_a_second_connection(world):
    queue = world.pq(pool=await world.pool(max_size=1))["apples"]
    async with asyncio.timeout(10):
        async with queue:
            assert await queue.get(timeout=0.2) is None


@pytest.mark.parametrize(
    "factory", [dict_row, namedtuple_row, scalar_row, class_row(dict)], ids=["dict", "namedtuple", "scalar", "class"]
)
async def test_the_owners_row_factory_does_not_matter_and_is_kept(world, factory):
    mine = await world.connect(row_factory=factory)
    queue = world.pq(mine)["apples"]
    await queue.put({"a": 1})
    assert await queue.count() == 1
    assert (await queue.get()).data == {"a": 1}
    async with queue as cursor:
        assert plain(cursor).row_factory is factory  # for the statements of the owner


async def test_the_owners_adapters_do_not_matter(world):
    class Shout(psycopg.adapt.Loader):
        def load(self, data):
            return "SHOUT"

    class ShoutBinary(Shout):
        format = psycopg.pq.Format.BINARY

    class Dump(psycopg.adapt.Dumper):
        oid = 25

        def dump(self, obj):
            return b"SHOUT"

    mine = await world.connect()
    for name in ("jsonb", "text", "int8", "timestamptz", "bytea", "int4"):
        plain(mine).adapters.register_loader(name, Shout)
        plain(mine).adapters.register_loader(name, ShoutBinary)
    for kind in (str, int, dict):
        plain(mine).adapters.register_dumper(kind, Dump)
    queue = world.pq(mine)["apples"]
    id = await queue.put({"a": 1})
    job = await queue.get()
    assert (job.id, job.data) == (id, {"a": 1})


async def test_global_json_functions_of_psycopg_do_not_matter(queue):
    def refuse(*_: object) -> Any:
        raise AssertionError("asked")

    set_json_loads(refuse)
    set_json_dumps(refuse)
    try:
        await queue.put({"a": 1}, headers={"b": 2})
        job = await queue.get()
        assert (job.data, job.headers) == ({"a": 1}, {"b": 2})
    finally:
        import json

        set_json_loads(json.loads)
        set_json_dumps(json.dumps)


@pytest.mark.parametrize("level", list(psycopg.IsolationLevel))
async def test_an_isolation_level_of_the_connection_does_not_matter(world, conn, level):
    mine = await world.connect()
    await mine.set_isolation_level(level)
    queue = world.pq(mine)["apples"]
    await queue.put_many([1, 2])
    assert (await queue.get()).data == 1
    async with queue.take() as job:
        assert job.data == 2
    assert committed(conn) == 0


@pytest.mark.parametrize("autocommit", [False, True])
async def test_in_pipeline_mode_a_call_is_durable_when_it_returns(world, conn, autocommit):
    mine = await world.connect(autocommit=autocommit)
    queue = world.pq(mine)["apples"]
    async with mine.pipeline():
        await queue.put(1)
        assert committed(conn) == 1
        assert (await queue.get()).data == 1
        with pytest.raises(LookupError):
            async with queue:
                await queue.put(2)
                raise LookupError
        async with queue:
            await queue.put(3)
        assert committed(conn) == 1
        assert (await queue.get()).data == 3
    assert committed(conn) == 0
    assert status(mine) == TransactionStatus.IDLE


async def test_two_pqs_on_one_connection_share_its_transaction(world, conn):
    mine = await world.connect()
    one, other = world.pq(mine)["apples"], world.pq(mine)["apples"]
    async with one:
        await one.put(1)
        async with other:
            await other.put(2)
        assert committed(conn) == 0
    assert committed(conn) == 2
    with pytest.raises(LookupError):
        async with one:
            async with other:
                await other.put(3)
            raise LookupError
    assert committed(conn) == 2


async def test_a_connection_that_was_closed_is_told(world):
    mine = await world.connect()
    queue = world.pq(mine)["apples"]
    await mine.close()
    with pytest.raises(errors.Closed):
        await queue.put(1)


async def test_a_pools_connections_come_back_whole(world, conn):
    pool = await world.pool(max_size=1)
    queue = world.pq(pool=pool)["apples"]
    await queue.configure(retry_in=0)
    await queue.put(1)
    with pytest.raises(LookupError):
        async with queue.take():
            raise LookupError
    assert (await queue.get(timeout=20)).data == 1
    assert await queue.get(timeout=0.05) is None
    async with pool.connection() as bare:
        assert status(bare) == TransactionStatus.IDLE
        assert bare.autocommit is False


async def test_a_pool_without_connections_is_an_error_of_ours_and_psycopgs(world):
    import psycopg_pool

    pool = await world.pool(max_size=1, timeout=0.05)
    await pool.wait()  # or the first put might find no connection in time either
    queue = world.pq(pool=pool)["apples"]
    await queue.put(1)
    bare = await pool.getconn()
    with pytest.raises(errors.Error) as caught:
        await queue.put(2)
    assert isinstance(caught.value, psycopg_pool.PoolTimeout)
    await pool.putconn(plain(bare))
    await pool.close()
    with pytest.raises(errors.Error) as caught:
        await queue.put(2)
    assert isinstance(caught.value, psycopg_pool.PoolClosed)


def test_two_threads_on_one_connection_take_turns_or_are_refused(database, conn):
    """Ten threads, each put in a block or alone: never in another thread's transaction."""
    with psycopg.connect(database.dsn) as mine:
        queue = PQ(mine)["apples"]
        queue.put("first")
        kept: list[int] = []
        rolled_back = set()
        start = threading.Barrier(10)

        def work(n: int) -> None:
            start.wait()
            for i in range(30):
                data = n * 100 + i
                try:
                    if n % 2:
                        queue.put(data)
                        kept.append(data)
                    else:
                        with queue:
                            queue.put(data)
                            rolled_back.add(data)
                            raise LookupError
                except (errors.ConnectionBusy, LookupError):
                    pass

        for running in [Background(work, n) for n in range(10)]:
            running.result()
        stored = [job.data for job in queue.list()][1:]
    assert sorted(stored) == sorted(kept)
    assert kept


def test_a_second_thread_in_a_block_on_one_connection_is_refused(database, conn):
    with psycopg.connect(database.dsn) as mine:
        queue = PQ(mine)["apples"]

        def intrude() -> None:
            for call in (lambda: queue.put(2), queue.__enter__, lambda: queue.take().__enter__(), queue.get):
                with pytest.raises(errors.ConnectionBusy):
                    call()

        with queue:
            queue.put(1)
            Background(intrude).result()
            assert committed(conn) == 0
        Background(queue.put, 2).result()
    assert committed(conn) == 2


async def test_a_second_task_in_a_block_on_one_connection_is_refused(database, conn):
    async with await psycopg.AsyncConnection.connect(database.dsn) as mine:
        queue = AsyncPQ(mine)["apples"]
        entered, done = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with queue:
                await queue.put(1)
                entered.set()
                await done.wait()

        task = asyncio.create_task(hold())
        await entered.wait()
        for call in (lambda: queue.put(2), queue.__aenter__, lambda: queue.take().__aenter__(), queue.get):
            with pytest.raises(errors.ConnectionBusy):
                await call()
        done.set()
        await task
        await queue.put(2)
    assert committed(conn) == 2


async def test_tasks_that_begin_at_once_on_one_connection_do_not_mix(database, conn):
    async with await psycopg.AsyncConnection.connect(database.dsn) as mine:
        queue = AsyncPQ(mine)["apples"]

        async def work(n: int) -> int | None:
            try:
                async with queue:
                    await queue.put(n)
                    await asyncio.sleep(0)  # no time: it is the others' turn
                    if n % 2:
                        raise LookupError
                return n
            except (errors.ConnectionBusy, LookupError):
                return None

        done = [n for n in await asyncio.gather(*(work(n) for n in range(20))) if n is not None]
        assert sorted(job.data for job in await queue.list()) == sorted(done)


@pytest.mark.parametrize("kind", ["address", "pool"])
def test_threads_have_transactions_of_their_own(database, conn, kind):
    import psycopg_pool

    with psycopg_pool.ConnectionPool(database.dsn, min_size=1, max_size=4) as pool:
        pq = PQ(pool=pool) if kind == "pool" else PQ(database.dsn)
        with pq:
            queue = pq["apples"]
            both = threading.Barrier(2, timeout=20)

            def work(n: int) -> None:
                with queue:
                    queue.put(n)
                    both.wait()
                    assert [job.data for job in queue.list()] == [n]
                    both.wait()
                    if n:
                        raise LookupError

            first, second = Background(work, 0), Background(work, 1)
            first.result()
            with pytest.raises(LookupError):
                second.result()
            assert [job.data for job in queue.list()] == [0]


@pytest.mark.parametrize("kind", ["address", "pool"])
async def test_tasks_have_transactions_of_their_own(database, kind):
    import psycopg_pool

    async with (
        psycopg_pool.AsyncConnectionPool(database.dsn, min_size=1, max_size=4) as pool,
        AsyncPQ(pool=pool) if kind == "pool" else AsyncPQ(database.dsn) as pq,
    ):
        queue = pq["apples"]
        both = asyncio.Barrier(2)

        async def work(n: int) -> None:
            async with queue:
                await queue.put(n)
                await both.wait()
                assert [job.data for job in await queue.list()] == [n]
                await both.wait()
                if n:
                    raise LookupError

        assert type((await asyncio.gather(work(0), work(1), return_exceptions=True))[1]) is LookupError
        assert [job.data for job in await queue.list()] == [0]


@pytest.mark.parametrize("kind", WAYS)
async def test_what_a_block_gathers_belongs_to_it(database, kind, conn):
    from worlds import World

    world = World("async", database.dsn)
    try:
        queue = (await world.way(kind))["apples"]
        with pytest.raises(LookupError):
            async with queue:
                await asyncio.gather(*(queue.put(n) for n in range(10)))
                assert (await asyncio.wait_for(queue.get(), 20)).data in range(10)
                assert committed(conn) == 0
                raise LookupError
        assert committed(conn) == 0
        async with queue:
            await asyncio.gather(*(queue.put(n) for n in range(10)))
        assert committed(conn) == 10
    finally:
        await world.close()


async def test_a_threads_copy_of_the_context_does_not_share_the_transaction(database):
    with PQ(database.dsn) as pq, pq["apples"], pytest.raises(errors.ConnectionBusy):
        await asyncio.to_thread(pq["apples"].put, 1)


async def test_a_schemas_name_may_be_anything(world, conn):
    from conftest import ROOT
    from psycopg import sql

    for schema in ("Billing queue", 'a%b"c', "%s", "select"):
        conn.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        with conn.transaction():
            conn.execute(sql.SQL("set local search_path to {}, pg_temp").format(sql.Identifier(schema)))
            for file in [ROOT / "sql" / "schema.sql", *sorted((ROOT / "sql" / "functions").glob("*.sql"))]:
                conn.execute(file.read_bytes())
        queue = world.pq(schema=schema)["apples"]
        await queue.put({"in": schema})
        await queue.put_many([1, 2])
        assert len(await queue.list()) == 3
        assert (await queue.get(timeout=1)).data == {"in": schema}
        assert len(await queue.get_many(5)) == 2
        assert await queue.get(timeout=0.05) is None
    assert committed(conn) == 0


async def test_the_callers_search_path_does_not_matter(world):
    mine = await world.connect(conninfo={"options": "-c search_path=pg_temp"})
    queue = world.pq(mine)["apples"]
    await mine.execute("create temp table queue_job (like public.queue_job)")
    await mine.commit()
    await queue.put(1)
    assert (await queue.get()).data == 1


def test_gate_counts(gate, database):
    """The instrument itself: one for an autocommit statement, three in a transaction."""
    assert isinstance(gate, Gate)
    with psycopg.connect(psycopg.conninfo.make_conninfo(database.dsn, **gate.address), autocommit=True) as conn:
        before = gate.round_trips
        conn.execute("select 1")
        assert gate.round_trips - before == 1
        with conn.transaction():
            conn.execute("select 1")
        assert gate.round_trips - before == 4


async def test_a_leased_job_completed_with_what_it_wrote(queue, conn):
    conn.execute("create table result (n int)")
    await queue.put(1)
    job = await queue.lease()
    async with queue as cursor, job as data:
        await cursor.execute("insert into result values (%s)", [data])
        assert conn.execute("select count(*) from result").fetchone() == (0,)
    assert conn.execute("select n from result").fetchall() == [(1,)]
    assert await queue.count(scheduled=True) == 0


async def test_the_error_of_a_leased_job_outlives_the_rollback_of_what_it_wrote(queue, conn):
    conn.execute("create table result (n int)")
    await queue.put(1)
    job = await queue.lease()
    with pytest.raises(LookupError) as caught:
        async with queue as cursor, queue, job as data:
            await cursor.execute("insert into result values (%s)", [data])
            raise LookupError("mine")
    assert not hasattr(caught.value, "__notes__")
    assert conn.execute("select n from result").fetchall() == []
    (back,) = await queue.list(scheduled=True)
    assert (back.attempts, back.last_error.splitlines()[-1]) == (1, "LookupError: mine")
    assert back.ready_at is not None
    assert await job.complete() is False


async def test_a_job_that_waits_tells_until_when(queue):
    await queue.put(1)
    await queue.put(2, "1h")
    ready, waiting = await queue.list(scheduled=True)
    assert ready.ready_at is None
    assert waiting.ready_at == waiting.schedule_at

"""Failed attempts of jobs that are taken in a transaction: counted after its rollback, with the reason."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from worlds import PATIENCE, Background, World

from pgq_py import PQ, AsyncPQ, errors
from pgq_py._async import queue as async_queue
from pgq_py._sync import queue as sync_queue

pytest_plugins = ("world_fixtures",)
WAYS = ["address", "pool", "conn", "autocommit"]
ROW = "select attempts, ready_at is null, last_error, history from queue_job where queue = 'apples'"
UNTOUCHED = (0, True, None, None)
# Whether a loop that is left can know with what: see failures.left_by_exception.
SEES = sys.version_info >= (3, 12)


@pytest.fixture(params=WAYS)
async def each(request: pytest.FixtureRequest, world: World) -> Any:
    """The queue by each way to make a PQ."""
    return (await world.way(request.param))["apples"]


def row(conn: psycopg.Connection[Any]) -> Any:
    """The only job; when nobody holds it any more (asyncio closes generators in its own time)."""
    with conn.transaction():
        conn.execute("select from queue_job where queue = 'apples' for update")
        (found,) = conn.execute(ROW).fetchall()
    return found


async def settle() -> None:
    """Until the loop has closed what was dropped: in its next turn it makes tasks, of no coroutines of ours."""
    gc.collect()
    await asyncio.sleep(0)
    while closing := [task for task in asyncio.all_tasks() if not inspect.iscoroutine(task.get_coro())]:
        await asyncio.wait(closing)
        await asyncio.sleep(0)


async def settled_row(conn: psycopg.Connection[Any]) -> Any:
    """The only job, when what was dropped is closed."""
    await settle()
    return row(conn)


def failed(found: Any, end: str, attempt: int = 1) -> None:
    """The attempt was counted, and its reason kept."""
    attempts, ready, last_error, history = found
    assert (attempts, ready) == (attempt, False)
    assert end in last_error
    assert last_error.startswith("Traceback") or len(last_error) > 1000
    assert [entry["attempt"] for entry in history] == list(range(1, attempt + 1))
    assert history[-1]["error"] == last_error


# take


async def test_an_exception_in_take_counts_and_keeps_the_end_of_the_traceback(each, conn):
    await each.put(1)
    with pytest.raises(LookupError, match="mine") as caught:
        async with each.take():
            raise LookupError("mine")
    failed(row(conn), 'raise LookupError("mine")\nLookupError: mine')
    assert not hasattr(caught.value, "__notes__")


async def test_what_is_raised_after_waiting_counts(each, conn, sleepers):
    def put() -> None:
        sleepers.wait()
        conn.execute("select queue_put('apples', '1')")

    putting = Background(put)
    with pytest.raises(LookupError):
        async with each.take(timeout=PATIENCE):
            raise LookupError
    putting.result()
    failed(row(conn), "LookupError")
    await each.put(2)
    assert (await each.get(block=False)).data == 2


async def test_the_last_attempt_goes_to_the_dead_with_the_reason(queue, conn):
    await queue.configure(max_attempts=2, retry_in=0)
    await queue.put(1)
    for n in (1, 2):
        with pytest.raises(LookupError):
            async with queue.take(block=False) as job:
                assert (job.attempts, job.data) == (n - 1, 1)
                raise LookupError(f"number {n}")
    assert await queue.count(scheduled=True) == 0
    (dead,) = await queue.dead()
    assert dead.reason == "attempt 2 of 2 failed: LookupError: number 2"
    assert ["number 1" in dead.history[0]["error"], "number 2" in dead.history[1]["error"]] == [True, True]


async def test_with_retry_in_zero_it_comes_back_at_once(queue):
    await queue.configure(retry_in=0)
    await queue.put(1)
    with pytest.raises(LookupError):
        async with queue.take():
            raise LookupError
    job = await queue.get(block=False)
    assert (job.data, job.attempts) == (1, 1)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
async def test_an_interruption_of_take_counts_nothing(queue, conn, kind):
    await queue.put(1)
    caught = None
    try:
        async with queue.take():
            raise kind
    except BaseException as error:
        caught = error
    assert type(caught) is kind
    assert row(conn) == UNTOUCHED


async def test_an_exit_in_take_counts(queue, conn):
    await queue.put(1)
    with pytest.raises(SystemExit):
        async with queue.take():
            raise SystemExit(3)
    failed(row(conn), "SystemExit: 3")


async def test_without_a_job_nothing_is_counted(queue):
    with pytest.raises(LookupError):
        async with queue.take(block=False) as job:
            assert job is None
            raise LookupError
    assert await queue.stats() == await queue.stats()
    assert await queue.count(scheduled=True) == 0


async def test_a_job_of_a_set_fails_in_its_own_queue(pq):
    await pq["b"].put(1)
    with pytest.raises(LookupError):
        async with pq["a", "b"].take():
            raise LookupError
    (job,) = await pq["b"].list(scheduled=True)
    assert job.attempts == 1


async def test_a_commit_that_fails_counts(each, conn):
    """A deferred constraint."""
    conn.execute("create table fruit (n int unique deferrable initially deferred)")
    await each.put(1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with each.take(), each as cursor:
            await cursor.execute("insert into fruit values (1), (1)")
    failed(row(conn), "UniqueViolation")
    assert conn.execute("select count(*) from fruit").fetchone() == (0,)


async def test_a_swallowed_error_counts(queue, conn):
    await queue.put(1)
    with pytest.raises(errors.TransactionAborted):
        async with queue.take():
            with contextlib.suppress(errors.Error):
                await queue.configure(max_attempts=0)
    failed(row(conn), "TransactionAborted")


@pytest.mark.parametrize("kind", WAYS)
async def test_a_connection_that_is_lost_counts_where_there_is_another(world, conn, kind):
    queue = (await world.way(kind))["apples"]
    await queue.put(1)
    with pytest.raises(errors.ConnectionLost) as caught:
        async with queue.take():
            async with queue as cursor:
                (pid,) = await (await cursor.execute("select pg_backend_pid()")).fetchone()
            conn.execute("select pg_terminate_backend(%s, 10000)", [pid])
    if kind in ("address", "pool"):
        failed(row(conn), "was lost")
    else:
        assert row(conn) == UNTOUCHED
        assert "could not be recorded" in caught.value.__notes__[0]


async def test_a_failure_needs_no_second_connection_of_a_pool(world, conn):
    pool = await world.pool(min_size=1, max_size=1, timeout=0.5)
    queue = world.pq(pool=pool)["apples"]
    await queue.put(1)
    with pytest.raises(LookupError) as caught:
        async with queue.take():
            raise LookupError
    assert not hasattr(caught.value, "__notes__")
    failed(row(conn), "LookupError")


async def test_in_an_open_transaction_the_attempt_is_counted_in_that(each, conn):
    await each.put(1)
    async with each:
        with pytest.raises(LookupError):
            async with each.take(block=False):
                raise LookupError
        assert (await each.list(scheduled=True))[0].attempts == 1
        assert conn.execute(ROW).fetchone() == UNTOUCHED
        await each.put("more")
    assert conn.execute("select attempts from queue_job order by id").fetchall() == [(1,), (0,)]


async def test_a_job_that_others_have_by_then_is_not_counted_and_that_is_logged(queue, conn, caplog, monkeypatch):
    """Between the rollback and the record of the failure, somebody leases it."""
    for take in (sync_queue.Take, async_queue.AsyncTake):

        def lease_first(self: Any, error: Any, record: Any = take._record) -> Any:  # type: ignore[attr-defined]
            conn.execute("select queue_lease('apples')")
            return record(self, error)

        monkeypatch.setattr(take, "_record", lease_first)
    await queue.put(1)
    with pytest.raises(LookupError) as caught:
        async with queue.take():
            raise LookupError
    assert "was not counted" in caplog.text
    assert not hasattr(caught.value, "__notes__")
    assert row(conn) == (1, False, None, None)


async def test_takes_in_takes_count_each_for_itself(queue, conn):
    await queue.configure(retry_in="1h")
    await queue.put_many(["outer", "inner"])
    with pytest.raises(LookupError):
        async with queue.take():
            with pytest.raises(ValueError, match="in"):
                async with queue.take():
                    raise ValueError("in")
            raise LookupError("out")
    jobs = {job.data: job for job in await queue.list(scheduled=True)}
    # That of the inner was counted in the outer's transaction, which was rolled back.
    assert (jobs["outer"].attempts, jobs["inner"].attempts) == (1, 0)
    async with queue.take(block=False) as job:
        assert job.data == "inner"
        with pytest.raises(LookupError):
            async with queue.take(block=False) as none:
                assert none is None
                raise LookupError


# listen


async def test_an_exception_in_listen_counts(each, conn):
    await each.put(1)
    with pytest.raises(LookupError):
        async for _ in each.listen():
            raise LookupError("mine")
    failed(await settled_row(conn), 'raise LookupError("mine")')


async def test_an_exception_from_further_down_counts(queue, conn):
    def deeper() -> None:
        raise LookupError("deep")

    await queue.put(1)
    with pytest.raises(LookupError):
        async for _ in queue.listen():
            deeper()
    failed(await settled_row(conn), "in deeper")


async def test_an_exception_that_went_through_other_blocks_tells_what_it_was(queue, conn):
    """Any version can see it then."""
    await queue.put(1)
    with pytest.raises(LookupError):
        async for _ in queue.listen():
            with contextlib.ExitStack():
                raise LookupError("mine")
    failed(await settled_row(conn), "LookupError: mine")


async def test_an_exception_that_the_generator_is_told_of_counts(queue, conn):
    """Where the loop is not over `queue.listen()` itself, closing it by hand gives back uncounted."""
    await queue.put(1)
    jobs = queue.listen()
    with pytest.raises(LookupError):
        async for _ in jobs:
            raise LookupError
    await jobs.aclose()
    await settle()
    assert row(conn) == UNTOUCHED


@pytest.mark.parametrize("how", ["break", "return", "caught", "caught outside", "finally"])
async def test_leaving_listen_otherwise_counts_nothing(queue, conn, how):
    await queue.put(1)

    async def leave() -> None:
        kept = []
        async for _ in queue.listen():
            if how == "return":
                return
            if how == "caught":
                try:
                    raise LookupError
                except LookupError:
                    break
            if how == "caught outside":
                try:
                    raise LookupError
                except LookupError as error:
                    kept.append(error)
            if how == "finally":
                try:
                    raise LookupError
                except LookupError:
                    pass
                finally:
                    kept.append(1)
            break

    await leave()
    await settle()
    assert row(conn) == UNTOUCHED


async def test_an_exception_caught_in_the_loop_counts_nothing_and_the_job_is_done(queue, conn):
    await queue.put_many([1, 2])
    async for _ in queue.listen(timeout=0.01):
        with contextlib.suppress(LookupError):
            raise LookupError
    assert conn.execute("select count(*) from queue_job").fetchone() == (0,)
    assert await queue.dead() == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
async def test_an_interruption_of_listen_counts_nothing(queue, conn, kind):
    await queue.put(1)

    def interrupted() -> None:
        with contextlib.ExitStack():
            raise kind

    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        async for _ in queue.listen():
            interrupted()
    await settle()
    assert row(conn) == UNTOUCHED


async def test_an_interruption_right_in_the_loop_counts_nothing_where_that_can_be_seen(queue, conn):
    await queue.put(1)
    with contextlib.suppress(KeyboardInterrupt):
        async for _ in queue.listen():
            raise KeyboardInterrupt
    await settle()
    assert row(conn)[0] == (0 if SEES else 1)


def test_a_generator_over_listen_that_is_closed_gives_back_uncounted(database, conn):
    with PQ(database.dsn) as pq:
        pq["apples"].put(1)

        def data() -> Iterator[Any]:
            for job in pq["apples"].listen():
                yield job.data

        loop = data()
        assert next(loop) == 1
        loop.close()
    assert row(conn) == UNTOUCHED


def test_control_c_in_a_listen_that_waits_counts_nothing(database, conn, sleepers):
    with PQ(database.dsn) as pq:

        def interrupt() -> None:
            sleepers.wait()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

        interrupting = Background(interrupt)
        with pytest.raises(KeyboardInterrupt):
            for _ in pq["apples"].listen():
                raise AssertionError("nothing is there")
        interrupting.result()
        pq["apples"].put(1)
    assert row(conn) == UNTOUCHED


async def test_a_task_cancelled_in_listen_gives_back_uncounted(database, conn):
    async with AsyncPQ(database.dsn) as pq:
        await pq["apples"].put(1)
        entered = asyncio.Event()

        async def work() -> None:
            async for _ in pq["apples"].listen():
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert row(conn) == UNTOUCHED


async def test_listen_goes_on_after_a_failure_as_before(queue, conn):
    """The usual worker: a loop around the loop."""
    await queue.configure(max_attempts=2, retry_in=0)
    await queue.put_many(["bad", "good", "fine"])
    done = []
    for _ in range(2):
        with contextlib.suppress(LookupError):
            async for job in queue.listen(timeout=0):
                if job.data == "bad":
                    raise LookupError("bad")
                done.append(job.data)
        await settle()
    async for job in queue.listen(timeout=0):
        done.append(job.data)
    assert sorted(done) == ["fine", "good"]
    (dead,) = await queue.dead()
    assert (dead.data, len(dead.history)) == ("bad", 2)


async def test_loops_in_loops_count_each_for_itself(world, conn):
    pq = world.pq()
    await pq["apples"].put(1)
    await pq["pears"].put(2)
    with pytest.raises(LookupError):
        async for _ in pq["apples"].listen():
            async for _ in pq["pears"].listen():
                break
            raise LookupError("outer")
    failed(await settled_row(conn), "outer")
    assert [job.attempts for job in await pq["pears"].list(scheduled=True)] == [0]


async def test_a_commit_that_fails_in_listen_counts(queue, conn):
    conn.execute("create table fruit (n int unique deferrable initially deferred)")
    await queue.put(1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        async for _ in queue.listen():
            async with queue as cursor:
                await cursor.execute("insert into fruit values (1), (1)")
    failed(row(conn), "UniqueViolation")


# Commits that nobody knows the end of


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("kind", ["address", "conn"])
async def test_a_put_whose_answer_is_lost_can_be_repeated_with_its_key(world, gate, conn, kind, arrives):
    address = psycopg.conninfo.make_conninfo(world.dsn, **gate.address)
    pq = world.pq(address) if kind == "address" else world.pq(await world.connect(conninfo=gate.address))
    await pq["apples"].count()
    gate.cut(b"queue_put", arrives)
    with pytest.raises(errors.CommitUnknown, match="Repeat a put with the same dedupe_key") as caught:
        await pq["apples"].put(1, dedupe_key="k")
    assert caught.value.dedupe_key == "k"
    assert isinstance(caught.value, psycopg.OperationalError)
    found = conn.execute("select id from queue_job").fetchall()
    assert len(found) == arrives
    again = await (pq if kind == "address" else world.pq())["apples"].put(1, dedupe_key="k")
    assert again.is_new is not arrives
    assert conn.execute("select id from queue_job").fetchall() == [(again,)]
    if arrives:
        assert found == [(again,)]


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_put_without_a_key_is_unknown_too(world, gate, conn, arrives):
    pq = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))
    await pq["apples"].count()
    for put in (pq["apples"].put(1), pq["apples"].put_many([1])):
        gate.cut(b"queue_put", arrives)
        with pytest.raises(errors.CommitUnknown) as caught:
            await put
        assert caught.value.dedupe_key is None
    assert conn.execute("select count(*) from queue_job").fetchone() == (2 * arrives,)


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("how", ["block", "take"])
async def test_a_transaction_whose_commit_is_lost_is_unknown(world, gate, conn, arrives, how):
    pq = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))
    await pq["apples"].put("taken")
    with pytest.raises(errors.CommitUnknown) as caught:
        async with pq["apples"] if how == "block" else pq["apples"].take() as taken:
            assert taken is not None
            await pq["pears"].put(1)
            gate.cut(b"COMMIT", arrives)
    assert caught.value.dedupe_key is None
    assert conn.execute("select queue_count('pears')").fetchone() == (arrives,)
    if how == "take":
        # If it was not committed it is an attempt that failed.
        assert conn.execute("select attempts from queue_job where queue = 'apples'").fetchall() == [(1,)] * (
            not arrives
        )


async def test_inside_a_transaction_a_lost_put_is_no_question(world, gate, conn):
    """Nothing was being committed."""
    pq = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))
    with pytest.raises(errors.ConnectionLost) as caught:
        async with pq["apples"]:
            await pq["apples"].put(1)
            gate.cut(b"queue_put", True)
            await pq["apples"].put(2)
    assert not isinstance(caught.value, errors.CommitUnknown)
    assert conn.execute("select count(*) from queue_job").fetchone() == (0,)


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_complete_whose_answer_is_lost_is_unknown(world, gate, conn, arrives):
    pq = world.pq(psycopg.conninfo.make_conninfo(world.dsn, **gate.address))
    await pq["apples"].put(1)
    job = await pq["apples"].lease()
    gate.cut(b"queue_complete", arrives)
    with pytest.raises(errors.CommitUnknown):
        await job.complete()
    # Again: it was done before, or is now.
    assert await job.complete() is not arrives
    assert conn.execute("select count(*) from queue_job").fetchone() == (0,)


async def test_a_put_that_is_cancelled_can_be_repeated_with_its_key(database, conn):
    """It waits for a transaction that holds another job's key; its own may be done or not."""
    async with AsyncPQ(database.dsn) as pq:
        queue = pq["apples"]
        for n in range(20):
            # Cancelled at several moments of the statement, because that is the subject.
            task = asyncio.create_task(queue.put(n, dedupe_key=f"k{n}"))
            await asyncio.sleep(0.0005 * (n % 6))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            there = conn.execute("select id from queue_job where dedupe_key = %s", [f"k{n}"]).fetchall()
            again = await queue.put(n, dedupe_key=f"k{n}")
            assert there in ([], [(again,)])
            assert again.is_new is not bool(there)
        assert await queue.count() == 20


# Keys


async def test_a_key_twice_is_one_job(each, conn):
    first = await each.put(1, dedupe_key="k")
    second = await each.put(2, dedupe_key="k")
    assert (first == second, first.is_new, second.is_new) == (True, True, False)
    ids = await each.put_many([1, 2, 3], dedupe_keys=["k", None, "l"])
    assert [id.is_new for id in ids] == [False, True, True]
    assert ids[0] == first
    assert isinstance(first, int)
    assert (await each.put(1)).is_new is True
    # A leased job is still in the queue.
    job = await each.lease()
    assert (job.id, (await each.put(1, dedupe_key="k")).is_new) == (first, False)
    await job.complete()
    assert (await each.put(1, dedupe_key="k")).is_new is True


async def test_a_key_above_read_committed_is_a_conflict_and_not_repeated(world, database):
    escaped = "repeatable\\ read"
    mine = await world.connect(conninfo={"options": f"-c default_transaction_isolation={escaped}"})
    queue = world.pq(mine)["apples"]
    with pytest.raises(errors.TransactionConflict):
        async with queue as cursor:
            await cursor.execute("select 1")
            await world.pq()["apples"].put(1, dedupe_key="k")
            await queue.put(2, dedupe_key="k")
    assert [job.data for job in await queue.list()] == [1]


def test_batches_with_crossing_keys_in_both_orders_do_not_deadlock(database, conn):
    keys = [f"k{n}" for n in range(30)]
    with PQ(database.dsn) as pq:
        for n in range(10):
            queue = pq[f"queue {n}"]
            both = [
                Background(lambda order, queue=queue: queue.put_many(range(30), dedupe_keys=order), order)
                for order in (keys, keys[::-1])
            ]
            forwards, backwards = (put.result() for put in both)
            assert forwards == backwards[::-1]
            assert [a.is_new != b.is_new for a, b in zip(forwards, backwards[::-1], strict=True)] == [True] * 30
            assert len(queue) == 30


async def test_asynchronous_batches_with_crossing_keys_do_not_deadlock(database):
    keys = [f"k{n}" for n in range(30)]
    async with AsyncPQ(database.dsn) as pq:
        for n in range(10):
            queue = pq[f"queue {n}"]
            forwards, backwards = await asyncio.gather(
                queue.put_many(range(30), dedupe_keys=keys), queue.put_many(range(30), dedupe_keys=keys[::-1])
            )
            assert forwards == backwards[::-1]
            assert await queue.count() == 30

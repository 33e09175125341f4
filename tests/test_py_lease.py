"""Leased jobs: held for a time in no transaction; completed, failed, extended, returned, kept alive."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from worlds import PATIENCE, Background, World, plain

from pgq_py import PQ, AsyncPQ, errors
from pgq_py._async.keeper import AsyncKeeper
from pgq_py._sync.keeper import Keeper as SyncKeeper

pytest_plugins = ("world_fixtures",)
WAYS = ["address", "pool", "conn", "autocommit"]
ROW = (
    "select attempts, ready_at is null, consumer, receipt is null, last_error, progress_count, "
    "jsonb_array_length(history) from queue_job where id = %s"
)
READY_UNCOUNTED = (0, True, None, True, None, None, None)


def row(conn: psycopg.Connection[Any], id: int) -> tuple[Any, ...]:
    found = conn.execute(ROW, [id]).fetchone()
    assert found is not None
    return found


def end_lease(conn: psycopg.Connection[Any]) -> None:
    """As if the time were over."""
    conn.execute(
        "update queue_job set ready_at = clock_timestamp(), lease_until = clock_timestamp() where receipt is not null"
    )


def until(conn: psycopg.Connection[Any], query: str, wanted: Any = True, *args: Any) -> None:
    """Wait for what the database says."""
    patience = monotonic() + PATIENCE
    while (found := conn.execute(query, args).fetchone()[0]) != wanted:  # type: ignore[index]
        assert monotonic() < patience, f"{query}: {found!r}"


def now(conn: psycopg.Connection[Any]) -> datetime:
    return conn.execute("select clock_timestamp()").fetchone()[0]  # type: ignore[index, no-any-return]


@pytest.fixture(params=WAYS)
async def each(request: pytest.FixtureRequest, world: World) -> Any:
    """The queue by each way to make a PQ."""
    return (await world.way(request.param))["apples"]


# What lease gives


async def test_a_lease_is_committed_and_tells_what_it_is(each, conn):
    id = await each.put({"kind": "Cox"}, priority=3, headers=[1], dedupe_key="k", max_attempts=7)
    before = now(conn)
    job = await each.lease("5m")
    assert (job.id, job.queue, job.data, job.priority, job.headers, job.dedupe_key) == (
        id, "apples", {"kind": "Cox"}, 3, [1], "k",
    )  # fmt: skip
    assert (job.attempts, job.max_attempts, job.last_error) == (1, 7, None)
    assert job.lease_for == timedelta(minutes=5)
    assert before < job.lease_until - job.lease_for < now(conn)
    assert job.consumer == f"{socket.gethostname()}:{os.getpid()}"
    # Committed, so others see it, and don't get it.
    attempts, _, consumer, *_ = row(conn, id)
    assert (attempts, consumer) == (1, job.consumer)
    assert conn.execute("select count(*) from queue_get('apples')").fetchone() == (0,)
    assert await each.lease(block=False) is None
    assert await each.lease(timeout=0.01) is None
    assert (await each.stats()).leased == 1
    assert await job.complete() is True
    assert await each.count(scheduled=True) == 0


async def test_the_lease_lasts_as_long_as_the_call_the_queue_or_the_default_say(queue):
    await queue.put_many(range(4))
    near = pytest.approx(300, abs=5)
    assert (await queue.lease()).lease_for.total_seconds() == near
    await queue.configure(lease_for="2h")
    assert (await queue.lease()).lease_for.total_seconds() == pytest.approx(7200, abs=5)
    assert (await queue.lease(1.5, consumer="me")).lease_for == timedelta(seconds=1.5)
    (job,) = await queue.lease_many(5, timedelta(days=1), consumer="me")
    assert (job.lease_for, job.consumer) == (timedelta(days=1), "me")


async def test_lease_many_gives_up_to_so_many_in_order(each):
    assert await each.lease_many(3) == []
    await each.put_many([1, 2, 3])
    await each.put("first", priority=1)
    assert [job.data for job in await each.lease_many(3)] == ["first", 1, 2]
    assert [job.data for job in await each.lease_many(3, block=True)] == [3]
    assert await each.lease_many(3, block=True, timeout=0.01) == []


@pytest.mark.parametrize("count", [0, -1])
async def test_a_count_below_one_is_refused(queue, count):
    with pytest.raises(ValueError, match="at least one"):
        await queue.lease_many(count)


@pytest.mark.parametrize("wrong", [0, -1, "0s", "soon", float("nan"), float("inf"), True, [1]])
async def test_what_is_no_length_of_a_lease_is_refused(queue, conn, wrong):
    id = await queue.put(1)
    with pytest.raises(errors.Error) as caught:
        await queue.lease(wrong)
    assert isinstance(caught.value, ValueError | psycopg.errors.InvalidParameterValue)
    assert row(conn, id) == READY_UNCOUNTED


async def test_a_set_of_queues_leases_in_turn_and_each_job_knows_its_queue(world):
    pq = world.pq()
    both = pq["a", "b/pickle"]
    await pq["a"].put_many([1, 2])
    await pq["b/pickle"].put({3})
    first, second = await both.lease("1m"), await both.lease("1m")
    assert [(job.queue, job.data) for job in (first, second)] == [("a", 1), ("b/pickle", {3})]
    assert second.lease_for == timedelta(minutes=1)
    assert second.consumer == first.consumer == f"{socket.gethostname()}:{os.getpid()}"
    assert await second.update({4})
    assert await second.release()
    assert [job.data for job in await pq["b/pickle"].list()] == [{4}]
    assert await first.complete()
    assert [(job.queue, job.data) for job in await both.lease_many(5)] == [("a", 2), ("b/pickle", {4})]


async def test_a_paused_queue_leases_nothing(queue):
    await queue.put(1)
    await queue.pause()
    assert await queue.lease(block=False) is None
    await queue.resume()
    assert (await queue.lease()).data == 1


# What is done with it


async def test_only_the_first_end_of_a_lease_counts(queue):
    ends: list[Callable[[Any], Any]] = [
        lambda job: job.complete(),
        lambda job: job.error("mine"),
        lambda job: job.release(),
    ]
    for first in ends:
        await queue.put(1)
        job = await queue.lease()
        assert await first(job) is True
        for again in [*ends, lambda job: job.progress(1), lambda job: job.update(2)]:
            assert await again(job) is False
        assert (job.data, job.progress_count) == (1, None)
        await queue.clear()


async def test_when_the_lease_ran_out_nothing_can_be_done_and_the_new_holder_is_not_disturbed(queue, conn):
    await queue.put(1)
    old = await queue.lease(consumer="old")
    end_lease(conn)
    calls: list[Callable[[Any], Any]] = [
        lambda job: job.progress(1),
        lambda job: job.update(2),
        lambda job: job.error("no"),
        lambda job: job.error("no", bury=True),
        lambda job: job.release(),
        lambda job: job.complete(),
    ]
    # Nobody has it yet, and it is late all the same.
    assert [await call(old) for call in calls] == [False] * 6
    new = await queue.lease(consumer="new")
    assert (new.attempts, new.last_error) == (2, "the lease ran out")
    held = row(conn, new.id)
    assert [await call(old) for call in calls] == [False] * 6
    assert row(conn, new.id) == held
    assert await new.complete() is True


async def test_error_keeps_the_message_and_pauses_as_the_queue_says(queue, conn):
    await queue.configure(retry_in="1h")
    id = await queue.put(1)
    job = await queue.lease(consumer="me")
    assert await job.error("a worm") is True
    attempts, ready, _, _, last_error, _, failures = row(conn, id)
    assert (attempts, ready, last_error, failures) == (1, False, "a worm", 1)
    pause = await queue.next_at() - now(conn)
    assert timedelta(minutes=29) < pause < timedelta(minutes=90)
    assert (await queue.stats()).retrying == 1


async def test_error_with_retry_in_zero_is_ready_at_once(each, conn):
    await each.put(1)
    for attempt in (1, 2):
        job = await each.lease()
        assert job.attempts == attempt
        assert await job.error(retry_in=0)
    job = await each.lease("5m", block=False)
    assert (job.attempts, job.last_error) == (3, "no reason was given")
    assert await job.error("x" * 3000, "1h")
    (listed,) = await each.list(scheduled=True)
    assert listed.last_error == "x" * 2000


async def test_the_last_attempt_or_bury_puts_it_among_the_dead(queue):
    await queue.configure(max_attempts=2, retry_in=0)
    await queue.put("tried twice")
    await queue.put("buried")
    for _ in range(2):
        job = await queue.lease()
        assert job.data == "tried twice"
        assert await job.error("a worm")
    assert await (await queue.lease()).error("rotten", bury=True) is True
    tried, buried = await queue.dead()
    assert (tried.data, tried.reason, tried.attempts) == ("tried twice", "attempt 2 of 2 failed: a worm", 2)
    assert (buried.data, buried.reason, buried.attempts) == ("buried", "rotten", 1)
    assert await queue.count(scheduled=True) == 0


async def test_release_returns_it_at_once_and_uncounted(each, conn):
    id = await each.put(1)
    job = await each.lease()
    await job.progress(3)
    assert await job.release() is True
    assert row(conn, id) == (0, True, None, True, None, 3, None)
    assert (await each.lease(block=False)).attempts == 1


async def test_progress_notes_a_number_and_extends_the_lease(queue, conn):
    id = await queue.put(1)
    job = await queue.lease("1h")
    get_until = "select lease_until from queue_job"
    (first,) = conn.execute(get_until).fetchone()
    assert first == job.lease_until
    assert await job.progress() is True
    (second,) = conn.execute(get_until).fetchone()
    assert first < second <= now(conn) + timedelta(hours=1)
    assert (job.progress_count, row(conn, id)[5]) == (None, None)
    assert await job.progress(2**40) is True
    assert (job.progress_count, row(conn, id)[5]) == (2**40, 2**40)
    assert await job.progress(7, lease_for="2h")
    (third,) = conn.execute(get_until).fetchone()
    assert third > second + timedelta(minutes=59)
    assert await job.progress(lease_for=timedelta(minutes=1))
    assert (await queue.next_at()) < now(conn) + timedelta(minutes=1)
    assert (await queue.list(scheduled=True))[0].progress_count == 7


async def test_progress_keeps_others_away_beyond_the_first_lease(queue, conn):
    await queue.put(1)
    job = await queue.lease(1.5)
    assert await job.progress(lease_for="1h")
    until(conn, "select clock_timestamp() > %s", True, job.lease_until)
    assert await queue.lease(block=False) is None
    assert await job.complete()


@pytest.mark.parametrize("wrong", [0, -1, "soon", float("nan")])
async def test_what_is_no_time_is_refused_by_progress_and_error(queue, wrong):
    await queue.put(1)
    job = await queue.lease()
    with pytest.raises(errors.Error):
        await job.progress(lease_for=wrong)
    if wrong not in (0, -1):  # at once
        with pytest.raises(errors.TimeError):
            await job.error(retry_in=wrong)
    assert await job.complete()


async def test_update_replaces_the_data_for_whoever_is_next(each, conn):
    pq = plain(each)._pq
    await each.put("old")
    job = await each.lease()
    assert await job.update({"new": 1}) is True
    assert job.data == {"new": 1}
    with pytest.raises(errors.PayloadError):
        await job.update({1, 2})
    assert job.data == {"new": 1}
    await job.release()
    assert [job.data for job in await each.list()] == [{"new": 1}]
    (listed,) = await each.list()
    assert await listed.update("listed")
    assert (await each.get()).data == "listed"
    assert await listed.update("gone") is False
    assert pq is plain(each)._pq


async def test_a_job_taken_in_a_transaction_has_new_data_only_here(queue):
    await queue.put(1)
    with pytest.raises(LookupError):
        async with queue:
            job = await queue.get()
            assert await job.update(2) is False
            assert job.data == 2
            raise LookupError
    assert [job.data for job in await queue.list()] == [1]


def test_data_can_be_assigned_in_the_synchronous_package(database, conn):
    with PQ(database.dsn) as pq:
        queue = pq["apples"]
        queue.put(1)
        job = queue.lease()
        assert job is not None
        job.data = 2
        assert (job.data, conn.execute("select data from queue_job").fetchone()) == (2, (2,))
        with pytest.raises(errors.PayloadError):
            job.data = {1}
        end_lease(conn)
        with pytest.raises(errors.LeaseLost, match="was not replaced"):
            job.data = 3
        assert job.data == 2
        taken = queue.get()
        assert taken is not None
        taken.data = 4
        assert taken.data == 4


async def test_pickles_and_serializers_are_leased_and_updated(world, conn):
    pq = world.pq()
    pickles = pq["apples/pickle"]
    await pickles.put({1, 2})
    job = await pickles.lease()
    assert job.data == {1, 2}
    assert await job.update({3})
    assert pickle.loads(conn.execute("select data_bytes from queue_job").fetchone()[0]) == {3}
    assert await job.complete()
    backwards = pq.queue("texts", serializer=SimpleNamespace(dumps=lambda t: t[::-1], loads=lambda t: t[::-1]))
    await backwards.put("abc")
    async with await backwards.lease() as data:
        assert data == "abc"
    for stats in await pq.stats():
        assert (stats.ready, stats.leased, stats.put, stats.completed) == (0, 0, 1, 1)


async def test_a_job_that_is_not_leased_says_so(queue):
    await queue.put_many([1, 2])
    async with queue.take() as taken:
        pass
    (listed,) = await queue.list()
    for job in (taken, listed, await queue.get()):
        assert (job.receipt, job.lease_until, job.lease_for) == (None, None, None)
        for call in (job.complete, job.error, job.release, job.progress):
            with pytest.raises(errors.NotLeased, match=r"queue\.lease"):
                await call()
        with pytest.raises(errors.NotLeased):
            job.keep_alive()
        with pytest.raises(errors.NotLeased):
            async with job:
                raise AssertionError("entered")


def test_the_errors_are_what_one_would_expect_to_catch():
    assert issubclass(errors.NotLeased, RuntimeError)
    assert issubclass(errors.LeaseLost, errors.Error)
    assert issubclass(errors.CommitUnknown, errors.ConnectionLost)


async def test_a_job_that_was_cancelled_is_lost(queue):
    id = await queue.put(1)
    job = await queue.lease()
    assert await queue.cancel(id)
    assert await job.progress() is False
    assert await job.complete() is False


# In transactions


async def test_complete_stands_or_falls_with_what_is_written(each, conn):
    conn.execute("create table eaten (n int)")
    await each.put(1)
    job = await each.lease()
    with pytest.raises(LookupError):
        async with each as cursor:
            await cursor.execute("insert into eaten values (1)")
            assert await job.complete() is True
            raise LookupError
    assert conn.execute("select count(*) from eaten").fetchone() == (0,)
    assert (await each.stats()).leased == 1
    async with each as cursor:
        await cursor.execute("insert into eaten values (1)")
        assert await job.complete() is True
    assert conn.execute("select n from eaten").fetchall() == [(1,)]
    assert await each.count(scheduled=True) == 0


async def test_a_lease_in_a_transaction_is_taken_back_with_it(each, conn):
    id = await each.put(1)
    with pytest.raises(LookupError):
        async with each:
            job = await each.lease()
            assert job.attempts == 1
            raise LookupError
    assert row(conn, id) == READY_UNCOUNTED
    assert await job.complete() is False
    async with each:
        job = await each.lease()
    assert row(conn, id)[0] == 1
    assert await job.complete()


# What can't be read


BAD = {
    "text for JSON": ("apples", "data_text => 'secret'"),
    "JSON for a pickle": ("apples/pickle", "data => '\"secret\"'"),
    "unknown class": ("apples/pickle", "data_bytes => 'cnowhere\nsecret\n.'"),
    "broken pickle": ("apples/pickle", "data_bytes => 'secret'"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
async def test_what_can_not_be_read_goes_to_the_dead_and_leasing_goes_on(world, conn, caplog, kind):
    name, data = BAD[kind]
    pq = await world.way("conn")
    queue = pq[name]
    ids = [conn.execute(f"select queue_put(%s, {data}, priority => 5)", [name]).fetchone()[0] for _ in range(3)]
    await queue.put_many(["fine", "too"])
    assert (await queue.lease(block=False)).data == "fine"
    (job,) = await queue.lease_many(5)
    assert job.data == "too"
    dead = await queue.dead()
    assert [job.id for job in dead] == ids
    for job in dead:
        assert job.reason
        assert "secret" not in job.reason
        assert (job.attempts, job.priority, len(job.history)) == (1, 5, 1)
        with pytest.raises(errors.DecodeError):
            _ = job.data
    assert "secret" not in caplog.text
    # In a set, too, and when all were unreadable the lease waits on.
    conn.execute(f"select queue_put(%s, {data})", [name])
    assert await pq["none", name].lease(timeout=0.01) is None
    assert (await queue.stats()).dead == 4


# `with job as data`


async def test_the_block_completes(each):
    await each.put({"kind": "Cox"})
    async with await each.lease() as data:
        assert data == {"kind": "Cox"}
    assert await each.count(scheduled=True) == 0
    assert await each.dead() == []


async def test_an_exception_is_recorded_and_passes(each, conn):
    id = await each.put(1)
    with pytest.raises(LookupError, match="mine") as caught:
        async with await each.lease(consumer="me"):
            raise LookupError("mine")
    assert not hasattr(caught.value, "__notes__")
    (job,) = await each.list(scheduled=True)
    assert (job.id, job.attempts) == (id, 1)
    assert 'raise LookupError("mine")\nLookupError: mine' in job.last_error
    assert job.last_error.startswith("Traceback")
    ((history,),) = conn.execute("select history from queue_job").fetchall()
    assert [(entry["attempt"], entry["consumer"], entry["error"]) for entry in history] == [(1, "me", job.last_error)]
    assert row(conn, id)[1] is False  # paused


async def test_a_long_traceback_keeps_its_end(queue):
    def deep(n: int) -> None:
        if n == 0:
            raise LookupError("the end\0")
        if n % 2:
            deep(n - 1)
        else:
            deep(n - 1)

    await queue.put(1)
    with pytest.raises(LookupError):
        async with await queue.lease():
            deep(40)
    (job,) = await queue.list(scheduled=True)
    assert job.last_error.endswith("LookupError: the end\\0")
    assert 500 < len(job.last_error) <= 2000


@pytest.mark.parametrize("ending", ["complete", "release", "error"])
async def test_what_was_settled_inside_is_left_alone(queue, conn, ending):
    for failing in (False, True):
        id = await queue.put(1)
        job = await queue.lease(consumer="me")
        with pytest.raises(LookupError) as caught:
            async with job:
                assert await (job.error("mine", "1h") if ending == "error" else getattr(job, ending)())
                settled = conn.execute(ROW, [id]).fetchone()
                if failing:
                    raise LookupError
            raise LookupError  # as if
        assert not hasattr(caught.value, "__notes__")
        assert conn.execute(ROW, [id]).fetchone() == settled
        await queue.clear()
        assert await queue.dead() == []


async def test_a_lease_that_ran_out_is_told_at_the_end(queue, conn):
    id = await queue.put(1)
    with pytest.raises(errors.LeaseLost, match="it was not completed"):
        async with await queue.lease():
            end_lease(conn)
    assert (await queue.lease(block=False)).id == id


async def test_an_exception_passes_when_the_lease_ran_out(queue, conn):
    await queue.put(1)
    with pytest.raises(LookupError) as caught:
        async with await queue.lease():
            end_lease(conn)
            raise LookupError
    assert "was not recorded" in caught.value.__notes__[0]
    assert (await queue.lease(block=False)).last_error == "the lease ran out"


async def test_an_exception_passes_when_it_can_not_be_recorded(world, conn):
    queue = world.pq(await world.connect())["apples"]
    await queue.put(1)
    with pytest.raises(LookupError) as caught:
        async with await queue.lease():
            conn.execute(DISCONNECT)
            raise LookupError
    assert "could not be recorded" in caught.value.__notes__[0]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
async def test_an_interruption_returns_it_uncounted(queue, conn, kind):
    id = await queue.put(1)
    job = await queue.lease()
    caught = None
    try:
        async with job:
            raise kind
    except BaseException as error:
        caught = error
    assert type(caught) is kind
    assert row(conn, id) == READY_UNCOUNTED


async def test_an_exit_counts(queue, conn):
    id = await queue.put(1)
    job = await queue.lease()
    with pytest.raises(SystemExit):
        async with job:
            raise SystemExit(3)
    assert row(conn, id)[0] == 1
    assert row(conn, id)[4].endswith("SystemExit: 3")


async def test_a_task_cancelled_in_the_block_returns_it_uncounted(database, conn):
    async with AsyncPQ(database.dsn) as pq:
        id = await pq["apples"].put(1)
        entered = asyncio.Event()

        async def work() -> None:
            job = await pq["apples"].lease()
            assert job is not None
            async with job, job.keep_alive():
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert row(conn, id) == READY_UNCOUNTED


async def test_a_commit_in_the_block_that_fails_is_an_error_after_all(queue, conn):
    """The job was completed, but that was rolled back."""
    conn.execute("create table fruit (n int unique deferrable initially deferred)")
    id = await queue.put(1)
    job = await queue.lease()
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with job, queue as cursor:
            await cursor.execute("insert into fruit values (1), (1)")
            assert await job.complete()
    assert row(conn, id)[0] == 1
    assert "UniqueViolation" in row(conn, id)[4]


# Waiting


@pytest.fixture
def _in_time() -> Iterator[None]:
    """A lease that nothing woke looks once more when its time is over, and may find the job then: too late."""
    start = monotonic()
    yield
    assert monotonic() - start < PATIENCE / 2, "nothing but the timeout ended a sleep"


def when_asleep(sleepers: Any, conn: psycopg.Connection[Any], statement: str) -> Background:
    def act() -> None:
        sleepers.wait()
        conn.execute(statement)

    return Background(act)


@pytest.mark.usefixtures("_in_time")
async def test_a_put_wakes_a_blocked_lease(each, sleepers, conn):
    putting = when_asleep(sleepers, conn, "select queue_put('apples', '1')")
    job = await each.lease(timeout=PATIENCE)
    assert (job.data, job.attempts) == (1, 1)
    putting.result()
    assert await job.complete()


@pytest.mark.usefixtures("_in_time")
async def test_a_put_wakes_a_blocked_lease_of_a_set(pq, sleepers, conn):
    putting = when_asleep(sleepers, conn, "select queue_put('pears', '1')")
    (job,) = await pq["apples", "pears"].lease_many(2, block=True, timeout=PATIENCE)
    assert job.queue == "pears"
    putting.result()


@pytest.mark.usefixtures("_in_time")
@pytest.mark.parametrize("how", ["release", "error", "error at once", "redrive"])
async def test_a_job_that_comes_back_wakes_a_blocked_lease(queue, world, sleepers, how):
    await queue.put(1)
    if how == "redrive":
        await (await queue.lease()).error("x", bury=True)
        job = None
    else:
        job = await queue.lease()

    def back() -> None:
        sleepers.wait()
        with PQ(world.dsn) as other:
            if job is None:
                assert other["apples"].redrive() == 1
                return
            calls = other.calls
            call = {
                "release": calls.release("apples", job.id, job.receipt),
                "error": calls.error("apples", job.id, job.receipt, "x", 0.2),
                "error at once": calls.error("apples", job.id, job.receipt, "x", 0),
            }[how]
            assert other.run(call)

    returning = Background(back)
    again = await queue.lease(timeout=PATIENCE)
    assert again.attempts == (2 if how.startswith("error") else 1)
    returning.result()


@pytest.mark.usefixtures("_in_time")
async def test_a_lease_that_runs_out_wakes_a_blocked_lease(each, sleepers):
    await each.put(1)
    job = await each.lease(0.3)
    again = await each.lease(timeout=PATIENCE)
    assert (again.id, again.attempts, again.last_error) == (job.id, 2, "the lease ran out")
    assert await job.complete() is False
    assert await again.complete()


@pytest.mark.usefixtures("_in_time")
async def test_a_lease_that_was_extended_and_runs_out_wakes(queue, sleepers):
    await queue.put(1)
    job = await queue.lease(5)
    assert await job.progress(lease_for=0.5)
    again = await queue.lease(timeout=PATIENCE)
    assert again.attempts == 2


async def test_a_blocked_lease_gives_up_in_time_and_does_not_spin(each, sleepers):
    looks: list[int] = []
    sleepers.before = lambda: looks.append(1)
    start = monotonic()
    assert await each.lease(timeout=0.3) is None
    assert 0.3 <= monotonic() - start < 5
    assert len(looks) == 1


# Interrupted


@pytest.mark.parametrize("kind", ["address", "pool", "conn"])
async def test_a_lease_cancelled_while_it_waits_or_leaves_loses_nothing(database, conn, sleepers, monkeypatch, kind):
    """Cancelled asleep, and when the job is leased and committed but its caller doesn't have it yet."""
    from pgq_py._async.listener import AsyncListener

    world = World("async", database.dsn)
    queue = (await world.way(kind))["apples"]
    task = asyncio.create_task(queue.lease())
    await asyncio.to_thread(sleepers.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    stop = AsyncListener._stop

    async def stop_later(self: Any, session: Any) -> None:
        leaving.set()
        try:
            await asyncio.Event().wait()  # until it is cancelled
        finally:
            await stop(self, session)

    monkeypatch.setattr(AsyncListener, "_stop", stop_later)
    leaving = asyncio.Event()
    task = asyncio.create_task(queue.lease_many(3, block=True))
    await asyncio.to_thread(sleepers.wait)
    (ids,) = conn.execute("select array_agg(id) from queue_put_many('apples', array['1', '2']::jsonb[])").fetchone()
    await leaving.wait()
    assert [row(conn, id)[0] for id in ids] == [1, 1]
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert not hasattr(caught.value, "__notes__")
    assert [row(conn, id) for id in ids] == [READY_UNCOUNTED] * 2
    await world.close()


def test_control_c_in_a_blocked_lease_leaves_nothing_leased(database, conn, sleepers):
    with PQ(database.dsn) as pq:

        def interrupt() -> None:
            sleepers.wait()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

        interrupting = Background(interrupt)
        with pytest.raises(KeyboardInterrupt):
            pq["apples"].lease()
        interrupting.result()
        pq["apples"].put(1)
        assert [job.attempts for job in pq["apples"].lease_many(2)] == [1]


def test_control_c_right_after_the_lease_returns_the_job(database, conn, monkeypatch):
    from pgq_py._sync.session import Session

    run, seen = Session.run, []

    def interrupt(self: Any, call: Any, keep: Any = None, between: Any = None) -> Any:
        result = run(self, call, keep, between)
        if b"queue_lease" in call.statement:
            seen.append(row(conn, id)[0])
            raise KeyboardInterrupt
        return result

    with PQ(database.dsn) as pq:
        id = pq["apples"].put(1)
        monkeypatch.setattr(Session, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pq["apples"].lease()
    assert seen == [1]
    assert row(conn, id) == READY_UNCOUNTED


async def test_a_lease_cancelled_at_random_loses_nothing_and_counts_nothing(database, conn):
    """The statement may be done on the server when the cancellation comes."""
    async with AsyncPQ(database.dsn) as pq:
        queue = pq["apples"]
        ids = await queue.put_many(range(30))
        leased = []
        for n in range(30):
            # Cancelled at several moments of the statement, because that is the subject.
            task = asyncio.create_task(queue.lease())
            await asyncio.sleep(0.0004 * (n % 10))
            task.cancel()
            try:
                job = await task
            except asyncio.CancelledError:
                continue
            assert job is not None
            leased.append(job.id)
        for id in ids:
            assert row(conn, id)[0] == (1 if id in leased else 0)


# Keeping alive


DISCONNECT = """
    select pg_terminate_backend(pid, 10000) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""
# Not autovacuum's.
CONNECTIONS = """
    select count(*)
    from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
"""
MOVED = "select lease_until > %s + make_interval(secs => %s) from queue_job"


async def wait_until(world: World, conn: psycopg.Connection[Any], *query: Any) -> None:
    """Off the loop, on which the asynchronous package's heartbeats are."""
    await asyncio.to_thread(until, conn, *query)


@pytest.mark.parametrize("kind", ["address", "pool", "conn", "open transaction"])
async def test_a_lease_is_kept_alive_several_times_its_length_and_nothing_is_left(world, conn, kind):
    pq = await world.way("conn" if kind == "open transaction" else kind)
    queue = pq["apples"]
    await queue.put(1)
    job = await queue.lease(1.5)  # no machine stands still for so long
    if kind == "open transaction":
        await plain_connection(pq).execute("select 1")
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    before = conn.execute(CONNECTIONS).fetchone()
    async with job as data, job.keep_alive(every=0.05) as keeper:
        assert data == 1
        await wait_until(world, conn, MOVED, True, job.lease_until, 2.7)
        assert keeper.lost is False
        if world.is_sync:
            assert any(thread.name == "pgq_py keeps a lease" for thread in threading.enumerate())
    extra = {thread.name for thread in set(threading.enumerate()) - threads}
    assert "pgq_py keeps a lease" not in extra
    assert {task for task in asyncio.all_tasks() if not task.done()} == {task for task in tasks if not task.done()}
    if kind == "open transaction":
        assert conn.execute("select queue_count('apples', scheduled => true)").fetchone() == (1,)
        await plain_connection(pq).commit()
    assert conn.execute("select queue_count('apples', scheduled => true)").fetchone() == (0,)
    if kind in ("conn", "open transaction"):
        await wait_until(world, conn, CONNECTIONS, before[0])


def plain_connection(pq: Any) -> Any:
    from worlds import adapt

    return adapt(plain(pq)._source._conn)


async def test_heartbeats_come_every_third_of_the_lease_by_default(queue, world, conn):
    await queue.put(1)
    job = await queue.lease(1.5)
    async with job.keep_alive() as keeper:
        await wait_until(world, conn, MOVED, True, job.lease_until, 0.7)
        assert not keeper.lost
    assert await job.complete()


async def test_short_work_makes_no_connection(world, conn):
    queue = (await world.way("conn"))["apples"]
    await queue.put(1)
    job = await queue.lease()
    async with job, job.keep_alive():
        assert conn.execute(CONNECTIONS).fetchone() == (1,)


async def test_what_is_raised_in_the_block_passes_and_ends_it(queue, conn):
    before = set(threading.enumerate())
    id = await queue.put(1)
    job = await queue.lease()
    with pytest.raises(LookupError):
        async with job, job.keep_alive(every=0.01):
            raise LookupError
    after = set(threading.enumerate()) - before
    assert not [thread for thread in after if thread.name == "pgq_py keeps a lease"]
    assert row(conn, id)[:2] == (1, False)


@pytest.mark.parametrize("kind", ["address", "pool", "conn"])
async def test_a_heartbeat_goes_on_on_another_connection(world, conn, kind):
    queue = (await world.way(kind))["apples"]
    await queue.put(1)
    job = await queue.lease("1m")
    async with job.keep_alive(every=0.05) as keeper:
        await wait_until(world, conn, MOVED, True, job.lease_until, 0)
        conn.execute(DISCONNECT)
        ((killed,),) = conn.execute("select lease_until from queue_job").fetchall()
        await wait_until(world, conn, MOVED, True, killed, 0.1)
        assert not keeper.lost


async def test_a_job_cancelled_meanwhile_is_lost(queue, conn):
    await queue.put(1)
    job = await queue.lease()
    with pytest.raises(errors.LeaseLost, match="worked on"):
        async with job.keep_alive(every=0.02) as keeper:
            conn.execute("select queue_clear('apples')")
            await lost(keeper)
    assert await job.complete() is False
    # An exception of the block is not replaced.
    await queue.put(1)
    job = await queue.lease()
    with pytest.raises(LookupError):
        async with job.keep_alive(every=0.02) as keeper:
            conn.execute("select queue_clear('apples')")
            await lost(keeper)
            raise LookupError


async def lost(keeper: Any) -> None:
    """Until the heartbeats end, as they do when one finds that the lease is not good any more."""
    ticker = plain(keeper)._ticker
    if hasattr(ticker, "_thread"):
        ticker._thread.join(PATIENCE)
    else:
        await asyncio.wait([ticker._task], timeout=PATIENCE)
    assert keeper.lost


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released at the end of each heartbeat."""
    done = threading.Semaphore(0)
    beat, beat_async = SyncKeeper._beat, AsyncKeeper._beat

    def beat_and_tell(self: Any) -> bool:
        try:
            return beat(self)
        finally:
            done.release()

    async def beat_and_tell_async(self: Any) -> bool:
        try:
            return await beat_async(self)
        finally:
            done.release()

    monkeypatch.setattr(SyncKeeper, "_beat", beat_and_tell)
    monkeypatch.setattr(AsyncKeeper, "_beat", beat_and_tell_async)
    return done


async def hear(beats: threading.Semaphore, count: int) -> None:
    """So many heartbeats that were not heard yet: waited for off the loop, on which they may be."""
    for _ in range(count):
        assert await asyncio.to_thread(beats.acquire, timeout=PATIENCE), "no heartbeat"


@pytest.mark.parametrize("ending", ["complete", "error", "release"])
async def test_a_heartbeat_after_the_end_of_the_job_is_no_loss(queue, beats, ending):
    await queue.put(1)
    job = await queue.lease()
    async with job, job.keep_alive(every=0.01) as keeper:
        assert await getattr(job, ending)()
        # The first may have begun before the end.
        await hear(beats, 3)
    assert keeper.lost is False


async def test_heartbeats_of_many_do_not_use_up_a_pool(world, conn):
    pool = await world.pool(min_size=1, max_size=1, timeout=5)
    queue = world.pq(pool=pool)["apples"]
    await queue.put_many([1, 2, 3])
    jobs = await queue.lease_many(3)
    async with jobs[0].keep_alive(0.03), jobs[1].keep_alive(0.03), jobs[2].keep_alive(0.03):
        for _ in range(2):
            await wait_until(
                world, conn, f"select min(lease_until) > '{now(conn) + timedelta(minutes=5)}' from queue_job"
            )
            assert [await job.progress(1) for job in jobs] == [True] * 3
    assert [await job.complete() for job in jobs] == [True] * 3


async def test_a_heartbeat_that_fails_is_no_loss_while_the_lease_is_good(world, beats):
    """The pool has no connection to give."""
    pool = await world.pool(min_size=1, max_size=1, timeout=0.05)
    queue = world.pq(pool=pool)["apples"]
    await queue.put(1)
    job = await queue.lease()
    async with job.keep_alive(every=0.02) as keeper, queue:
        # The first may have begun before the block had the connection.
        await hear(beats, 3)
        assert keeper.lost is False
    assert await job.complete()


async def test_a_heartbeat_that_hangs_does_not_hold_up_the_end(queue, database, conn, world):
    """Another transaction holds the row."""
    await queue.put(1)
    job = await queue.lease("1m")
    other = database.connect(autocommit=False)
    start = monotonic()
    async with job.keep_alive(every=0.02):
        other.execute("select from queue_job for update")
        await wait_until(
            world, conn, "select exists (select from pg_stat_activity where wait_event_type = 'Lock' "
            "and datname = current_database())",
        )  # fmt: skip
        start = monotonic()
    assert monotonic() - start < 8
    other.rollback()
    assert await job.complete()


@pytest.mark.parametrize("every", [0, -1, float("nan")])
async def test_what_is_no_interval_is_refused(queue, every):
    await queue.put(1)
    job = await queue.lease()
    with pytest.raises(ValueError, match="above 0"):
        job.keep_alive(every=every)


async def test_the_end_of_keeping_alive_can_be_cancelled(database, conn):
    """While a heartbeat hangs: the cancellation is the task's, not the heartbeat's."""
    other = database.connect(autocommit=False)
    async with AsyncPQ(database.dsn) as pq:
        await pq["apples"].put(1)
        job = await pq["apples"].lease()
        assert job is not None
        ticker = job.keep_alive(every=0.01)
        hanging, ending, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def hang(_: Any) -> bool:
            hanging.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ending.set()
                await over.wait()
            return True

        ticker._ticker._tick = hang.__get__(ticker)

        async def work() -> None:
            async with ticker:
                await hanging.wait()

        task = asyncio.create_task(work())
        await ending.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        over.set()
        assert not other.closed

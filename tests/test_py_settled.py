"""What was done with a leased job holds only if its transaction is committed."""

from __future__ import annotations

import psycopg
import pytest

from pgq_py import LeaseLost

pytest_plugins = ("world_fixtures",)

CONFLICT = "do $$ begin raise sqlstate '40001'; end $$"


@pytest.fixture
def results(conn):
    conn.execute("create table result (n int unique deferrable initially deferred)")
    return lambda: [n for (n,) in conn.execute("select n from result").fetchall()]


async def waiting(queue):
    return [
        (job.attempts, job.last_error and job.last_error.splitlines()[-1]) for job in await queue.list(scheduled=True)
    ]


async def test_a_transaction_that_is_repeated_completes_the_job(queue, results):
    await queue.put(1)
    job = await queue.lease()
    async with job as data:
        for n in range(3):
            try:
                async with queue as cursor, job:
                    await cursor.execute("insert into result values (%s)", [data])
                    if n < 2:
                        await cursor.execute(CONFLICT)
            except psycopg.errors.SerializationFailure:
                pass
    assert results() == [1]
    assert await waiting(queue) == []


async def test_a_completion_that_was_rolled_back_is_made_good_at_the_end(queue):
    await queue.put(1)
    job = await queue.lease()
    async with job:
        with pytest.raises(LookupError):  # noqa: PT012
            async with queue:
                async with queue:
                    assert await job.complete()
                raise LookupError
    assert await waiting(queue) == []


async def test_the_error_of_the_commit_is_recorded(queue, results):
    await queue.put(1)
    job = await queue.lease()
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with queue as cursor, job:
            await cursor.execute("insert into result values (1), (1)")
    ((attempts, error),) = await waiting(queue)
    assert attempts == 1
    assert "UniqueViolation" in error


async def test_a_job_that_is_done_is_not_entered_again(queue, results):
    await queue.put_many([1, 2])
    for settle in ("complete", "release"):
        job = await queue.lease()
        assert await getattr(job, settle)()
        with pytest.raises(LeaseLost, match="before"):
            async with queue as cursor, job:
                await cursor.execute("insert into result values (1)")
    assert results() == []


async def test_a_refused_completion_inside_is_a_lost_lease_at_the_end(queue, conn):
    await queue.put(1)
    job = await queue.lease()
    with pytest.raises(LeaseLost):  # noqa: PT012
        async with job:
            conn.execute("select queue_cancel('apples', %s)", [job.id])
            assert await job.complete() is False


async def test_a_lease_goes_on_after_a_completion_that_was_rolled_back(queue, conn):
    await queue.put(1)
    job = await queue.lease(lease_for=1.5)
    moved = "select lease_until > %s + interval '0.5 seconds' from queue_job"
    async with job, job.keep_alive() as keeper:
        with pytest.raises(LookupError):  # noqa: PT012
            async with queue:
                await job.complete()
                raise LookupError
        while conn.execute(moved, [job.lease_until]).fetchone() == (False,):
            assert await queue.lease(block=False) is None
        assert not keeper.lost
    assert await waiting(queue) == []


async def test_progress_and_heartbeats_never_shorten_a_lease(queue, conn):
    await queue.put(1)
    job = await queue.lease(lease_for=3)
    assert await job.progress(lease_for="1h")
    left = "select lease_until - clock_timestamp() > interval '59 minutes' from queue_job"
    assert await job.progress(50)
    assert conn.execute(left).fetchone() == (True,)
    async with job.keep_alive():
        (before,) = conn.execute("select xmin::text from queue_job").fetchone()
        while conn.execute("select xmin::text from queue_job").fetchone() == (before,):
            await queue.count()  # lets the task of the heartbeats run
    assert conn.execute(left).fetchone() == (True,)


@pytest.mark.parametrize("every", [0, -1, 60, 61])
async def test_heartbeats_come_before_the_lease_ends(queue, every):
    await queue.put(1)
    job = await queue.lease(lease_for="1m")
    with pytest.raises(ValueError, match="heartbeat"):
        job.keep_alive(every)


async def test_a_failure_that_the_callers_transaction_may_lose_says_so(world):
    mine = await world.connect()
    queue = world.pq(mine)["apples"]
    await queue.put(1)
    job = await queue.lease()
    with pytest.raises(LookupError) as caught:
        async with mine.transaction(), job:
            raise LookupError
    assert "rollback" in caught.value.__notes__[0]


async def test_a_lease_in_an_open_transaction_hides_no_other_job(world, queue):
    await queue.put_many([1, 2, 3])
    await queue.put_many([4, 5], schedule_at="1s")
    other = world.pq()["apples"]
    while await queue.count() < 5:
        pass
    async with other:
        assert (await other.lease(block=False)).data == 1
        assert [job.data for job in await queue.lease_many(9)] == [2, 3, 4, 5]


async def reraised(queue):
    async for _ in queue.listen():
        try:
            raise OSError("mine")
        except OSError:
            raise


async def not_matched(queue):
    async for _ in queue.listen():
        try:
            raise OSError("mine")
        except ValueError:
            pass


async def on_the_way(queue):
    async for _ in queue.listen():
        try:
            raise OSError("mine")
        finally:
            ""


kept = []


async def after_another_that_is_kept(queue):
    async for job in queue.listen():
        try:
            if job.data == 1:
                raise ValueError("not mine")
            raise OSError("mine")
        except ValueError as error:
            kept.append(error)


@pytest.mark.parametrize("loop", [reraised, not_matched, on_the_way, after_another_that_is_kept])
async def test_listen_records_the_exception_that_left_the_loop(queue, loop):
    await queue.put_many([1, 2])
    with pytest.raises(OSError, match="mine"):
        await loop(queue)
    # Asynchronous generators are closed a little later.
    while not (failed := [error for attempts, error in await waiting(queue) if attempts]):
        pass
    assert "mine" in failed[0]
    assert "not mine" not in failed[0]

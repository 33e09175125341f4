"""Iterating, consuming, listening, and taking one job in a transaction."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import gc

import psycopg
import pytest
from worlds import Background

from pgq_py import PQ, AsyncPQ

pytest_plugins = ("world_fixtures",)
WAYS = ["address", "pool", "conn", "autocommit"]


@pytest.fixture(params=WAYS)
async def queue(request, world):
    """The queue by each way to make a PQ."""
    return (await world.way(request.param))["apples"]


async def test_iteration_gives_jobs_and_none_when_idle(queue):
    await queue.put_many([1, 2])
    bare = getattr(queue, "plain", queue)
    assert bare.timeout == 1
    bare.timeout = 0.05
    seen = []
    async for job in queue:
        seen.append(job and job.data)
        if len(seen) == 4:
            break
    assert seen == [1, 2, None, None]


async def test_consume_removes_what_it_gives_and_ends_when_idle(queue):
    await queue.put_many([1, 2, 3])
    async for job in queue.consume():
        assert job.data == 1
        break
    assert await queue.count() == 2
    assert [job.data async for job in queue.consume(timeout=0.05)] == [2, 3]
    assert await queue.count() == 0


async def test_take_gives_a_job_that_is_gone_after_the_block(queue, conn):
    await queue.put(1)
    async with queue.take() as job:
        assert job.data == 1
        assert conn.execute("select id from queue_get('apples')").fetchall() == []
    assert await queue.count() == 0


@pytest.mark.parametrize("how", [{"block": False}, {"timeout": 0.05}, {"timeout": 0}])
async def test_take_gives_none_when_there_is_nothing(queue, how):
    async with queue.take(**how) as job:
        assert job is None


async def test_an_exception_in_take_gives_the_job_back_and_passes(queue):
    id = await queue.put(1)
    with pytest.raises(LookupError, match="mine"):
        async with queue.take() as job:
            assert job.id == id
            raise LookupError("mine")
    (back,) = await queue.list(scheduled=True)
    assert (back.id, back.attempts) == (id, 1)
    assert back.last_error.endswith('raise LookupError("mine")\nLookupError: mine')
    # After a pause.
    assert await queue.get(block=False) is None


async def test_a_rollback_by_will_in_take_gives_the_job_back_uncounted(queue):
    id = await queue.put(1)
    async with queue.take():
        raise psycopg.Rollback
    (back,) = await queue.list()
    assert (back.id, back.attempts) == (id, 0)


async def test_what_is_put_inside_take_stands_or_falls_with_it(queue):
    await queue.configure(retry_in=0)
    await queue.put(1)
    with pytest.raises(LookupError):
        async with queue.take():
            await queue.put("never")
            raise LookupError
    async with queue.take() as job:
        assert job.data == 1
        await queue.put("next")
    assert [job.data for job in await queue.list()] == ["next"]


async def test_take_waits_for_a_put_and_holds_no_transaction_meanwhile(queue, sleepers, conn):
    def put():
        sleepers.wait()
        open_ones = conn.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and xact_start is not null "
            "and pid <> pg_backend_pid() and backend_type = 'client backend'"
        ).fetchone()
        conn.execute("select queue_put('apples', '1')")
        return open_ones[0]

    putting = Background(put)
    async with queue.take(timeout=20) as job:
        assert job.data == 1
    assert putting.result() == 0


async def test_take_inside_take_is_a_savepoint(queue):
    await queue.put_many([1, 2])
    async with queue.take() as outer:
        with pytest.raises(LookupError):
            async with queue.take() as inner:
                assert (outer.data, inner.data) == (1, 2)
                raise LookupError
    assert [(job.data, job.attempts) for job in await queue.list(scheduled=True)] == [(2, 1)]


async def test_listen_gives_each_job_in_a_transaction_of_its_own(queue, conn):
    await queue.put_many([1, 2])
    seen = []
    async for job in queue.listen(timeout=0.05):
        seen.append((job.data, conn.execute("select queue_count('apples')").fetchone()[0]))
    # While the second is worked on, the first is gone already.
    assert seen == [(1, 2), (2, 1)]
    assert await queue.count() == 0


async def test_breaking_out_of_listen_gives_the_job_back(queue):
    id = await queue.put(1)
    async for job in queue.listen():
        assert job.id == id
        break
    assert (await queue.get(timeout=20)).id == id


async def test_an_exception_in_listen_gives_the_job_back(queue):
    await queue.configure(retry_in=0)
    id = await queue.put(1)
    with pytest.raises(LookupError):
        async for _ in queue.listen():
            raise LookupError
    assert (await queue.get(timeout=20)).id == id


async def test_what_is_put_right_after_breaking_out_of_listen_stays(queue):
    await queue.put(1)
    async for _ in queue.listen():
        break
    id = await queue.put("after")
    gc.collect()
    jobs = [await queue.get(timeout=20), await queue.get(timeout=20)]
    assert sorted(job.data == 1 for job in jobs) == [False, True]
    assert id in {job.id for job in jobs}


async def test_what_is_put_inside_listen_belongs_to_the_jobs_transaction(queue):
    await queue.put(1)
    async for job in queue.listen(timeout=20):
        if job.data == 1:
            await queue.put(2)
            await queue.put(3)
        else:
            break
    # asyncio closes the generator, and so gives 2 back, a moment after the break.
    assert sorted([(await queue.get(timeout=20)).data, (await queue.get(timeout=20)).data]) == [2, 3]


async def test_returning_from_inside_listen_gives_back_and_leaves_nothing_open(queue):
    async def first():
        async for job in queue.listen():
            return job.data

    await queue.put(1)
    assert [await first() for _ in range(5)] == [1] * 5
    assert (await queue.get(timeout=20)).data == 1


async def test_loops_over_a_set_name_the_source(world):
    pq = world.pq()
    await pq["a"].put(1)
    await pq["b"].put(2)
    assert [job.queue async for job in pq["a", "b"].listen(timeout=0.05)] == ["a", "b"]
    await pq["a"].put(1)
    await pq["b"].put(2)
    assert sorted([job.queue async for job in pq["a", "b"].consume(timeout=0.05)]) == ["a", "b"]
    await pq["b"].put(2)
    async with pq["a", "b"].take() as job:
        assert job.queue == "b"


def test_plain_loops_read_as_in_the_readme(database):
    with PQ(database.dsn) as pq:
        queue = pq["apples"]
        queue.put_many([1, 2, 3])
        for job in queue:
            assert job is not None
            assert job.data == 1
            break
        with queue.take() as job:
            assert job is not None
            assert job.data == 2
        assert [job.data for job in queue.listen(timeout=0)] == [3]


async def test_plain_async_loops_read_as_in_the_readme(database):
    async with AsyncPQ(database.dsn) as pq:
        queue = pq["apples"]
        await queue.put_many([1, 2, 3])
        async for job in queue:
            assert job is not None
            assert job.data == 1
            break
        async with queue.take() as job:
            assert job is not None
            assert job.data == 2
        assert [job.data async for job in queue.listen(timeout=0)] == [3]

"""Many jobs at once."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import pytest

from pgq_py import errors
from pgq_py.calls import Calls

pytest_plugins = ("world_fixtures",)


@pytest.mark.parametrize("kind", ["address", "pool", "conn", "autocommit"])
async def test_a_batch_goes_in_and_comes_out_in_order(world, kind):
    queue = (await world.way(kind))["apples"]
    ids = await queue.put_many(range(10))
    assert ids == sorted(ids)
    jobs = await queue.get_many(7)
    assert [(job.id, job.data) for job in jobs] == list(zip(ids, range(7), strict=False))
    assert [job.data for job in await queue.get_many(7)] == [7, 8, 9]
    assert await queue.get_many(7) == []


async def test_25000_items_of_a_generator_become_visible_at_once(queue, conn):
    seen = []

    def items():
        for n in range(25_000):
            if n % 5_000 == 0:
                seen.append(conn.execute("select queue_count('apples')").fetchone()[0])
            yield n

    ids = await queue.put_many(items())
    assert seen == [0] * 5
    assert len(set(ids)) == 25_000
    assert await queue.count() == 25_000
    assert [job.data for job in await queue.get_many(25_000)] == list(range(25_000))


@pytest.mark.parametrize("bad_at", [0, 3, 9_999, 10_000, 24_999])
async def test_an_error_half_way_stores_nothing(queue, bad_at):
    with pytest.raises(errors.PayloadError):
        await queue.put_many(set() if n == bad_at else n for n in range(25_000))
    assert await queue.count() == 0


async def test_an_error_of_the_iterator_passes_and_stores_nothing(queue):
    def items():
        yield from range(15_000)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await queue.put_many(items())
    assert await queue.count() == 0


async def test_a_batch_inside_a_transaction_goes_with_it(queue):
    with pytest.raises(LookupError):
        async with queue:
            await queue.put_many(range(25_000))
            raise LookupError
    assert await queue.count() == 0


async def test_no_items_are_no_jobs(queue):
    assert await queue.put_many([]) == []
    assert await queue.put_many(iter(())) == []


async def test_keys_of_a_batch(queue):
    first = await queue.put("first", dedupe_key="b")
    ids = await queue.put_many([1, 2, 3, 4], dedupe_keys=["a", "b", None, "a"])
    assert ids[1] == first
    assert ids[3] == ids[0]
    assert [job.data for job in await queue.get_many(9)] == ["first", 1, 3]


async def test_too_few_keys_are_refused(queue):
    with pytest.raises(ValueError, match="fewer dedupe_keys"):
        await queue.put_many([1, 2], dedupe_keys=["a"])
    assert await queue.count() == 0


async def test_too_many_keys_are_refused(queue):
    with pytest.raises(ValueError, match="more dedupe_keys"):
        await queue.put_many([1], dedupe_keys=["a", "b"])
    assert await queue.count() == 0


async def test_options_hold_for_each_job(queue):
    await queue.put_many([1, 2], expected_at="1h", priority=3, headers=["h"], max_attempts=2)
    for job in await queue.get_many(2):
        assert (job.priority, job.headers, job.max_attempts) == (3, ["h"], 2)
        assert job.expected_at > job.enqueued_at
    await queue.put_many([1], "1h")
    assert await queue.get_many(2) == []


@pytest.mark.parametrize("count", [0, -1])
async def test_a_count_below_one_is_refused(queue, count):
    with pytest.raises(ValueError, match="at least one"):
        await queue.get_many(count)


@pytest.mark.parametrize("count", [100_001, 2**31, 2**40])
async def test_too_large_a_count_is_an_error_and_nothing_taken(queue, count):
    await queue.put(1)
    for take in (queue.get_many, queue.lease_many):
        with pytest.raises(ValueError, match="100,000"):
            await take(count)
    assert await queue.count() == 1
    assert [job.data for job in await queue.get_many(100_000)] == [1]


async def test_a_batch_of_large_jobs_is_sent_in_parts(world, monkeypatch):
    """A message of over 1 GB ends the connection, and one of 300 MB took 35 seconds."""
    sent: list[int] = []
    put_many = Calls.put_many

    def count(self, queue, payloads, *options):
        sent.append(sum(payload.size for payload in payloads))
        return put_many(self, queue, payloads, *options)

    monkeypatch.setattr(Calls, "put_many", count)
    queue = world.pq()["apples"]
    ids = await queue.put_many(["x" * 2**20] * 20)
    assert [job.id for job in await queue.list()] == ids
    assert sum(sent) == 20 * (2**20 + 2)
    assert max(sent) <= 9 * 2**20
    keys = [str(n) for n in range(20)]
    assert len(set(await queue.put_many(["x" * 2**20] * 20, dedupe_keys=keys))) == 20
    for wrong in (keys[:-1], [*keys, "20"]):
        with pytest.raises(ValueError, match="dedupe_keys"):
            await queue.put_many(["x" * 2**20] * 20, dedupe_keys=wrong)
    assert await queue.count() == 40


@pytest.mark.parametrize("priority", [2**31, 2**40, 2**70])
async def test_a_priority_out_of_range_is_not_taken_for_a_missing_schema(queue, priority):
    with pytest.raises(errors.Error) as caught:
        await queue.put(1, priority=priority)
    assert not isinstance(caught.value, errors.NotInstalled)
    assert caught.value.sqlstate == "22003"


async def test_get_many_waits_for_one_job_when_asked_to(queue, sleepers, world):
    from worlds import Background

    from pgq_py import PQ

    def put():
        sleepers.wait()
        with PQ(world.dsn) as pq:
            pq["apples"].put_many([1, 2])

    putting = Background(put)
    assert [job.data for job in await queue.get_many(5, block=True, timeout=20)] == [1, 2]
    putting.result()

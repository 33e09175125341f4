"""Dead jobs, a queue's settings and its limits."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import queue as stdlib_queue
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgq_py import AsyncDeadJob, DeadJob, Settings, errors

pytest_plugins = ("world_fixtures",)
WAYS = ["address", "pool", "conn", "autocommit"]


async def bury(queue: Any, *data: Any, reason: str = "rotten", **options: Any) -> list[int]:
    """Jobs among the dead."""
    ids = []
    for one in data:
        ids.append(await queue.put(one, **options))
        (job,) = await queue.lease_many(100, consumer="me")
        assert await job.error(reason, bury=True)
    return ids


@pytest.mark.parametrize("kind", WAYS)
async def test_a_dead_job_tells_all_about_itself(world, kind):
    queue = (await world.way(kind))["apples"]
    assert await queue.dead() == []
    await queue.configure(max_attempts=2, retry_in=0)
    id = await queue.put({"kind": "Cox"}, priority=2, headers=[1], dedupe_key="k", expected_at="1h")
    started = datetime.now(UTC)
    for n in (1, 2):
        job = await queue.lease(consumer=f"consumer {n}")
        await job.progress(n)
        assert await job.error(f"worm {n}")
    (dead,) = await queue.dead()
    assert type(getattr(dead, "plain", dead)) is (DeadJob if world.is_sync else AsyncDeadJob)
    assert (dead.id, dead.queue, dead.data, dead.priority) == (id, "apples", {"kind": "Cox"}, 2)
    assert (dead.headers, dead.dedupe_key, dead.consumer) == ([1], "k", "consumer 2")
    assert (dead.attempts, dead.max_attempts, dead.progress_count) == (2, None, 2)
    assert (dead.reason, dead.last_error) == ("attempt 2 of 2 failed: worm 2", "worm 2")
    assert abs(dead.died_at - started) < timedelta(minutes=5)
    assert dead.died_at.utcoffset() is not None
    assert dead.enqueued_at < dead.died_at
    assert dead.expected_at is not None
    assert [(entry["attempt"], entry["consumer"], entry["error"]) for entry in dead.history] == [
        (1, "consumer 1", "worm 1"),
        (2, "consumer 2", "worm 2"),
    ]
    assert all(datetime.fromisoformat(entry["at"]) <= dead.died_at for entry in dead.history)
    assert "Cox" not in repr(dead)
    with pytest.raises(errors.NotLeased):
        await dead.complete()
    assert await queue.count(scheduled=True) == 0
    assert (await queue.stats()).dead == 1


async def test_the_dead_are_chosen_by_id_reason_time_and_number(queue):
    ids = await bury(queue, 1, 2, reason="a worm")
    ids += await bury(queue, 3, reason="100% rotten")
    dead = await queue.dead()
    assert [job.id for job in dead] == ids
    choices: list[tuple[dict[str, Any], list[int]]] = [
        ({"ids": ids[1:]}, ids[1:]),
        ({"ids": iter(ids[:1])}, ids[:1]),
        ({"ids": []}, []),
        ({"reason_like": "%worm"}, ids[:2]),
        ({"reason_like": "worm"}, []),
        ({"died_after": dead[1].died_at}, ids[1:]),
        ({"died_before": dead[1].died_at}, ids[:1]),
        ({"count": 2}, ids[:2]),
        ({"ids": ids, "reason_like": "%worm", "died_after": dead[1].died_at, "count": 5}, ids[1:2]),
    ]
    for choice, wanted in choices:
        assert [job.id for job in await queue.dead(**choice)] == wanted, choice
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        await queue.dead(count=0)


async def test_redrive_puts_back_all_or_some(queue):
    ids = await bury(queue, 1, 2, 3)
    assert await queue.redrive(count=1) == 1
    assert await queue.redrive(ids=[ids[2], 999]) == 1
    assert [job.id for job in await queue.list()] == [ids[0], ids[2]]
    assert await queue.redrive(reason_like="no such") == 0
    assert await queue.redrive() == 1
    assert await queue.dead() == []
    job = await queue.lease()
    # As new, with its past.
    assert (job.id, job.attempts, job.last_error) == (ids[0], 1, "rotten")
    await job.error("again", bury=True)
    (dead,) = await queue.dead()
    assert [entry["error"] for entry in dead.history] == ["rotten", "again"]


async def test_a_dead_job_is_redriven_or_deleted_by_itself(queue):
    await bury(queue, 1, 2)
    first, second = await queue.dead()
    assert await first.redrive() is True
    assert await first.redrive() is False
    assert await first.delete() is False
    assert await second.delete() is True
    assert await second.delete() is False
    assert await second.redrive() is False
    assert [job.data for job in await queue.list()] == [1]
    assert await queue.dead() == []


async def test_one_whose_key_is_taken_stays_dead(queue):
    await bury(queue, "old", dedupe_key="k")
    id = await queue.put("new", dedupe_key="k")
    assert id.is_new
    (dead,) = await queue.dead()
    assert await dead.redrive() is False
    assert await queue.redrive() == 0
    assert len(await queue.dead()) == 1
    await queue.cancel(id)
    assert await dead.redrive() is True


async def test_delete_dead_removes_all_or_some(queue):
    ids = await bury(queue, 1, 2, 3)
    assert await queue.delete_dead(ids=ids[:1]) == 1
    assert await queue.delete_dead(count=1) == 1
    assert [job.id for job in await queue.dead()] == ids[2:]
    assert await queue.delete_dead() == 1
    assert await queue.delete_dead() == 0
    assert await queue.count(scheduled=True) == 0


@pytest.mark.parametrize("kind", ["address", "conn"])
async def test_redriving_stands_or_falls_with_the_transaction(world, kind):
    queue = (await world.way(kind))["apples"]
    await bury(queue, 1)
    with pytest.raises(LookupError):
        async with queue:
            assert await queue.redrive() == 1
            assert await queue.dead() == []
            raise LookupError
    assert len(await queue.dead()) == 1


async def test_the_dead_that_can_not_be_read_are_listed_all_the_same(world, conn):
    queue = world.pq()["apples/pickle"]
    conn.execute("select queue_put('apples/pickle', data_bytes => 'cnowhere\nsecret\n.')")
    assert await queue.lease(block=False) is None
    assert await queue.get(block=False) is None
    (dead,) = await queue.dead()
    with pytest.raises(errors.DecodeError):
        _ = dead.data
    assert dead.size == 17
    # Where the class is found, it can be read again.
    assert await dead.redrive() is True
    job = await world.pq().queue("apples/pickle", serializer=Raw).get(block=False)
    assert job.data == b"cnowhere\nsecret\n."


class Raw:
    @staticmethod
    def dumps(data: bytes) -> bytes:
        return data

    @staticmethod
    def loads(data: bytes) -> bytes:
        return data


async def test_the_dead_of_a_queue_with_a_serializer_are_read_by_it(world):
    queue = world.pq()["apples/pickle"]
    await bury(queue, {1, 2})
    assert [job.data for job in await queue.dead()] == [{1, 2}]


# Settings


DEFAULTS = Settings(
    paused=False,
    max_attempts=5,
    lease_for=timedelta(minutes=5),
    retry_in=timedelta(seconds=10),
    max_depth=None,
    max_bytes=None,
    keep_dead_for=None,
)


@pytest.mark.parametrize("kind", WAYS)
async def test_settings_are_kept_until_they_are_reset(world, kind):
    queue = (await world.way(kind))["apples"]
    assert await queue.settings() == DEFAULTS
    await queue.configure()
    assert await queue.settings() == DEFAULTS
    assert await queue.create() is False
    await queue.configure(max_attempts=3, lease_for="1h", retry_in=1.5)
    await queue.configure(max_depth=10, max_bytes=100, keep_dead_for=timedelta(days=1))
    changed = Settings(False, 3, timedelta(hours=1), timedelta(seconds=1.5), 10, 100, timedelta(days=1))
    assert await queue.settings() == changed
    await queue.configure(max_depth=None, lease_for=None)
    await queue.pause()
    settings = await queue.settings()
    assert (settings.paused, settings.max_depth, settings.lease_for) == (True, None, timedelta(minutes=5))
    assert (settings.max_attempts, settings.max_bytes) == (3, 100)
    await queue.configure(max_attempts=None, retry_in=None, max_bytes=None, keep_dead_for=None)
    await queue.resume()
    assert await queue.settings() == DEFAULTS
    # Those of one queue.
    await queue.configure(max_attempts=1)
    assert await world.pq()["pears"].settings() == DEFAULTS


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_depth": 0},
        {"max_bytes": -1},
        {"lease_for": 0},
        {"lease_for": "-5m"},
        {"retry_in": -1},
        {"retry_in": "400d"},
        {"keep_dead_for": timedelta(days=-1)},
    ],
)
async def test_settings_out_of_range_are_refused(queue, wrong):
    await queue.configure(max_attempts=2)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=next(iter(wrong))) as caught:
        await queue.configure(**wrong)
    assert isinstance(caught.value, errors.Error)
    assert (await queue.settings()).max_attempts == 2


@pytest.mark.parametrize("wrong", [{"lease_for": "soon"}, {"retry_in": float("nan")}, {"keep_dead_for": [1]}])
async def test_what_is_no_length_of_time_is_refused(queue, wrong):
    with pytest.raises(errors.TimeError):
        await queue.configure(**wrong)


async def test_what_the_job_says_goes_before_what_the_queue_says(queue):
    await queue.configure(max_attempts=5)
    await queue.put(1, max_attempts=1)
    assert await (await queue.lease()).error("once")
    assert [job.reason for job in await queue.dead()] == ["attempt 1 of 1 failed: once"]


# Limits


@pytest.mark.parametrize("kind", WAYS)
async def test_a_full_queue_refuses_with_the_depth_and_stores_nothing(world, kind):
    queue = (await world.way(kind))["apples"]
    await queue.configure(max_depth=2)
    await queue.put("secret", schedule_at="1h")
    with pytest.raises(errors.QueueFull, match=r"holds 1 jobs of at most 2, and 2 more"):
        await queue.put_many(["secret", "secret"])
    await queue.put("secret", dedupe_key="k")
    for put in (queue.put("secret"), queue.put_many(["secret"]), queue.put("secret", dedupe_key="l")):
        with pytest.raises(errors.QueueFull, match="full: it holds 2 jobs of at most 2") as caught:
            await put
        assert isinstance(caught.value, stdlib_queue.Full)
        assert isinstance(caught.value.__cause__, psycopg.Error)
        assert caught.value.__cause__.sqlstate == "QU001"
        assert "secret" not in str(caught.value)
    # One that is there already is no more.
    assert (await queue.put("secret", dedupe_key="k")).is_new is False
    assert await queue.count(scheduled=True) == 2
    await queue.get(block=False)
    await queue.put(1)


@pytest.mark.parametrize("kind", WAYS)
async def test_data_over_the_limit_are_refused_with_both_sizes_and_never_shown(world, kind):
    queue = (await world.way(kind))["apples"]
    await queue.configure(max_bytes=10)
    await queue.put("s" * 8)
    for put in (
        queue.put("secret" * 2),
        queue.put_many([1, "secret" * 2]),
        queue.put("secret" * 2, dedupe_key="k"),
    ):
        with pytest.raises(errors.PayloadTooLarge, match=r"14 bytes.*takes 10 at most") as caught:
            await put
        assert isinstance(caught.value, errors.PayloadError | ValueError)
        assert caught.value.__cause__.sqlstate == "QU002"
        error: BaseException | None = caught.value
        while error is not None:
            assert "secret" not in str(error)
            error = error.__cause__
    assert await queue.count() == 1


BEYOND = {
    "headers": lambda queue: queue.put(1, headers="secret" * 11_000),
    "dedupe_key": lambda queue: queue.put(1, dedupe_key="secret" * 200),
    "dedupe_key of a batch": lambda queue: queue.put_many([1, 2], dedupe_keys=[None, "secret" * 200]),
    "consumer": lambda queue: queue.lease(consumer="secret" * 50, block=False),
    "lease": lambda queue: queue.lease("3601d", block=False),
    "schedule": lambda queue: queue.put(1, "3000000d"),
    "expected": lambda queue: queue.put_many([1], expected_at="3000000d"),
}


@pytest.mark.parametrize("what", BEYOND)
async def test_what_is_beyond_a_limit_of_all_queues_is_told_without_it(queue, what):
    """docs/limits.md; tests/test_sql_limits.py tries each."""
    await queue.put("fine")
    with pytest.raises(errors.Error, match=what.split(" ", 1)[0]) as caught:
        await BEYOND[what](queue)
    assert isinstance(
        caught.value, errors.TimeError if what in ("lease", "schedule", "expected") else psycopg.DataError
    )
    assert "secret" not in str(caught.value)
    assert [(job.data, job.attempts) for job in await queue.list(scheduled=True)] == [("fine", 0)]


async def test_a_limit_inside_a_transaction_spoils_it(queue):
    await queue.configure(max_depth=1)
    with pytest.raises(errors.QueueFull):
        async with queue:
            await queue.put(1)
            await queue.put(2)
    assert await queue.count() == 0
    async with queue:
        await queue.put(1)
        with pytest.raises(errors.QueueFull):
            async with queue:
                await queue.put(2)
    assert [job.data for job in await queue.list()] == [1]

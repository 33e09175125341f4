"""Putting, taking and looking, in both worlds."""

from __future__ import annotations

import json
import queue as stdlib_queue
from datetime import UTC, datetime

import pytest

from pgq_py import PQ, Empty, errors

pytest_plugins = ("world_fixtures",)


async def test_what_is_put_comes_out_once(queue):
    data = {"kind": "Cox", "é": [1, 2.5, None, True], "big": 2**63}
    id = await queue.put(data)
    job = await queue.get()
    assert (job.id, job.data, job.queue) == (id, data, "apples")
    assert await queue.get(block=False) is None


async def test_a_float_stays_a_float_and_a_long_integer_of_others_an_integer(queue, conn):
    await queue.put([1e300, -1e22, 1e-300])
    conn.execute("select queue_put('apples', '1180591620717411303424')")
    assert [repr(number) for number in (await queue.get()).data] == ["1e+300", "-1e+22", "1e-300"]
    assert repr((await queue.get()).data) == str(2**70)


@pytest.mark.parametrize("data", [None, 0, "", [], {}, "text", 2**64 - 1, -(2**63), 1e300, "\U0001f34e", '"\\u0000"'])
async def test_any_json_comes_out_as_it_went_in(queue, data):
    await queue.put(data)
    (listed,) = await queue.list()
    assert listed.data == data
    assert (await queue.get_nowait()).data == data


async def test_jobs_come_in_the_order_they_were_put(queue):
    ids = [await queue.put(n) for n in range(5)]
    assert [(await queue.get()).id for _ in ids] == ids


async def test_higher_priority_comes_first_then_the_earlier_expected(queue):
    await queue.put("last")
    await queue.put("third", expected_at="2h")
    await queue.put("second", expected_at="1h")
    await queue.put("first", priority=1)
    await queue.put("after all", priority=-1)
    order = [(await queue.get()).data for _ in range(5)]
    assert order == ["first", "second", "third", "last", "after all"]


async def test_get_nowait_raises_the_empty_of_the_standard_library(queue):
    with pytest.raises(stdlib_queue.Empty):
        await queue.get_nowait()
    with pytest.raises(Empty):
        await queue.get_nowait()


@pytest.mark.parametrize("how", [{"block": False}, {"timeout": 0}, {"timeout": 0.01}, {"timeout": -1}])
async def test_get_gives_none_when_the_time_is_over(queue, how):
    assert await queue.get(**how) is None


async def test_a_job_tells_what_was_put(queue):
    before = datetime.now(UTC)
    at = datetime(2020, 1, 1, tzinfo=UTC)
    expected = datetime(2020, 1, 2, tzinfo=UTC)
    id = await queue.put([1], at, expected, priority=7, dedupe_key="k", headers={"trace": "x"}, max_attempts=3)
    job = await queue.get()
    assert (job.id, job.priority, job.dedupe_key, job.headers, job.max_attempts) == (id, 7, "k", {"trace": "x"}, 3)
    assert (job.schedule_at, job.expected_at) == (at, expected)
    assert (job.attempts, job.last_error, job.progress_count, job.consumer) == (0, None, None, None)
    assert abs((job.enqueued_at - before).total_seconds()) < 60
    assert job.enqueued_at.tzinfo is not None
    assert job.size == len("[1]")


async def test_a_job_without_options_has_none_of_them(queue):
    await queue.put("x")
    job = await queue.get()
    assert (job.schedule_at, job.expected_at, job.dedupe_key, job.headers, job.max_attempts, job.priority) == (
        None, None, None, None, None, 0,
    )  # fmt: skip


async def test_no_repr_shows_data(queue, pq):
    await queue.put("secret")
    job = await queue.get()
    for shown in (job, queue, pq["a", "b"]):
        assert "secret" not in repr(shown)
    assert str(job.id) in repr(job)
    assert "apples" in repr(job)


async def test_the_same_key_gives_the_same_queue(world):
    pq = world.pq()
    bare = pq.plain if world.is_sync else pq
    assert bare["apples"] is bare["apples"]
    assert bare["apples"] is not bare["pears"]


async def test_a_second_put_under_a_dedupe_key_gives_the_first_id(queue):
    id = await queue.put(1, dedupe_key="k")
    assert await queue.put(2, dedupe_key="k") == id
    assert (await queue.get()).data == 1
    assert await queue.put(3, dedupe_key="k") != id


async def test_listing_takes_nothing_and_shows_the_scheduled_on_request(queue):
    first = await queue.put("now")
    later = await queue.put("later", schedule_at="1h")
    assert [job.id for job in await queue.list()] == [first]
    assert [job.id for job in await queue.list(scheduled=True)] == [first, later]
    assert [job.id for job in await queue.list(True, count=1)] == [first]
    assert [job.data for job in await queue.list()] == ["now"]


async def test_one_unreadable_job_does_not_keep_the_others_from_being_listed(queue, pq):
    await pq["apples/pickle"].put(1)
    await queue.put("fine")
    pickles = pq.queue("apples/pickle", serializer=json)
    (job,) = await pickles.list()
    with pytest.raises(errors.DecodeError):
        _ = job.data
    assert await pickles.cancel(job.id)


async def test_counting(queue):
    assert (await queue.count(), await queue.count(scheduled=True)) == (0, 0)
    await queue.put_many([1, 2])
    await queue.put(3, schedule_at="1h")
    assert (await queue.count(), await queue.count(scheduled=True)) == (2, 3)


def test_len_counts_what_could_be_taken_and_an_empty_queue_is_true(database):
    with PQ(database.dsn) as pq:
        queue = pq["apples"]
        assert len(queue) == 0
        assert queue
        queue.put(1)
        queue.put(2, schedule_at="1h")
        assert len(queue) == 1


async def test_cancel_removes_a_job_once(queue):
    id = await queue.put(1)
    assert await queue.cancel(id) is True
    assert await queue.cancel(id) is False
    assert await queue.get(block=False) is None


async def test_update_replaces_the_data(queue):
    id = await queue.put(1)
    assert await queue.update(id, {"new": True}) is True
    assert (await queue.get()).data == {"new": True}
    assert await queue.update(id, 2) is False


async def test_clear_removes_all_of_one_queue(queue, pq):
    await queue.put_many([1, 2])
    await queue.put(3, schedule_at="1h")
    await pq["pears"].put(1)
    assert await queue.clear() == 3
    assert await queue.count(scheduled=True) == 0
    assert await pq["pears"].count() == 1


async def test_stats_of_one_and_of_all(queue, pq):
    await queue.put(1)
    await queue.put(2, schedule_at="1h")
    await pq["pears"].pause()
    apples = await queue.stats()
    assert (apples.queue, apples.ready, apples.scheduled, apples.dead, apples.paused) == ("apples", 1, 1, 0, False)
    assert apples.next_due_at == await _near(queue)
    assert apples.oldest_ready_at is not None
    assert [(found.queue, found.paused) for found in await pq.stats()] == [("apples", False), ("pears", True)]
    assert (await pq["none"].stats()).ready == 0


async def _near(queue):
    """next_at is now plus an interval: the same moment, to the microsecond or nearly."""
    due, at = (await queue.stats()).next_due_at, await queue.next_at()
    assert abs((due - at).total_seconds()) < 0.1
    return due


async def test_next_at_is_when_the_next_waiting_job_comes_due(queue):
    assert await queue.next_at() is None
    due = datetime(2100, 1, 1, tzinfo=UTC)
    await queue.put(1, due)
    assert abs((await queue.next_at() - due).total_seconds()) < 1


async def test_a_paused_queue_gives_nothing_and_takes_puts(queue):
    assert await queue.pause() is True
    assert await queue.pause() is False
    await queue.put(1)
    assert await queue.get(block=False) is None
    assert await queue.resume() is True
    assert await queue.resume() is False
    assert (await queue.get(block=False)).data == 1


async def test_create_and_drop_say_whether_they_did_anything(queue):
    assert await queue.create() is True
    assert await queue.create() is False
    await queue.put(1)
    assert await queue.drop() is True
    assert await queue.drop() is False
    assert await queue.get(block=False) is None


async def test_a_set_takes_from_its_queues_in_turn(pq):
    await pq["a"].put_many(["a1", "a2", "a3"])
    await pq["b"].put_many(["b1", "b2"])
    both = pq["a", "b"]
    taken = [await both.get() for _ in range(5)]
    assert [job.data for job in taken] == ["a1", "b1", "a2", "b2", "a3"]
    assert [job.queue for job in taken] == ["a", "b", "a", "b", "a"]
    assert await both.get(block=False) is None


@pytest.mark.parametrize("how", ["get", "lease"])
async def test_a_large_set_is_asked_in_two_steps(world, gate, how):
    pq = world.pq(await world.connect(conninfo=gate.address, autocommit=True))
    names = [f"queue {n}" for n in range(100)]
    for n in (99, 61, 60, 3, 61):
        await pq[names[n]].put(n)
    many = pq[tuple(names)]
    for _ in range(3):  # so often until psycopg has prepared the statement
        assert await getattr(pq[tuple(f"none {n}" for n in range(100))], how)(block=False) is None
    taken = []
    for _ in range(6):
        before = gate.round_trips
        job = await getattr(many, how)(block=False)
        taken.append((job and (job.data, job.queue), gate.round_trips - before))
    assert taken == [
        ((3, "queue 3"), 1),
        ((60, "queue 60"), 2),
        ((61, "queue 61"), 1),
        ((99, "queue 99"), 2),
        ((61, "queue 61"), 2),
        (None, 2),
    ]


async def test_of_a_set_with_one_busy_queue_each_job_comes_in_one_round_trip(world, gate):
    pq = world.pq(await world.connect(conninfo=gate.address, autocommit=True))
    both = pq["busy", "idle"]
    await pq["busy"].put_many(list(range(20)))
    trips = []
    for n in range(20):
        before = gate.round_trips
        assert (await both.get(block=False)).data == n
        trips.append(gate.round_trips - before)
    assert trips[-10:] == [1] * 10  # by then psycopg has prepared the statement


async def test_a_batch_of_a_set_is_of_all_its_queues(pq):
    await pq["a"].put_many([1, 2])
    await pq["b"].put_many([3])
    assert sorted(job.data for job in await pq["a", "b", "c"].get_many(10)) == [1, 2, 3]


async def test_an_empty_set_is_refused(pq):
    with pytest.raises(ValueError, match="at least one"):
        _ = pq[()]


async def test_two_databases_or_schemas_are_told_by_the_pq(world, pq):
    other = world.pq()
    await pq["apples"].put(1)
    assert (await other["apples"].get(block=False)).data == 1


async def test_no_argument_and_two_arguments_are_refused(world):
    for args, options in [((), {"pool": None}), ((world.dsn,), {"pool": object()}), ((42,), {})]:
        with pytest.raises(TypeError, match="PQ"):
            world.pq(*args, **options)


async def test_an_engine_or_another_worlds_connection_is_refused_by_name(world, conn):
    import sqlalchemy

    engine = sqlalchemy.create_engine("postgresql+psycopg://")
    with pytest.raises(TypeError, match=rf"Engine.*psycopg\.{'Connection' if world.is_sync else 'AsyncConnection'},"):
        world.pq(engine)
    other = psycopg_class(world)
    with pytest.raises(TypeError, match="Connection"):
        world.pq(other)


def psycopg_class(world):
    """An object of the other world's class of connection, never connected."""
    import psycopg

    kind = psycopg.AsyncConnection if world.is_sync else psycopg.Connection
    return object.__new__(kind)

"""What the public API's types are. Not run: mypy --strict reads it (test_typing.py)."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgq_py import (
    PQ,
    AsyncJob,
    AsyncPQ,
    AsyncQueue,
    AsyncQueueSet,
    Job,
    JobId,
    Queue,
    QueueSet,
    Right,
    Stats,
    When,
    errors,
)


class Reverse:
    def dumps(self, obj: str) -> str:
        return obj[::-1]

    def loads(self, data: str) -> str:
        return data[::-1]


def synchronous(conn: psycopg.Connection[Any], pool: ConnectionPool[Any]) -> None:
    assert_type(PQ(conn), PQ)
    PQ(pool=pool)
    PQ("postgresql://", schema="billing")
    with PQ("postgresql://") as pq:
        assert_type(pq, PQ)
        assert_type(pq.create(), None)
        assert_type(pq.stats(), list[Stats])
        assert_type(pq.rights(), list[Right])
        assert_type(pq.grant("web", "put"), bool)
        assert_type(pq.version(), str)
        queue = pq["apples"]
        assert_type(queue, Queue)
        assert_type(pq["a", "b"], QueueSet)
        assert_type(pq.queue("apples", serializer=pickle), Queue)
        pq.queue("apples", serializer=Reverse())
        assert_type(queue.put({"kind": "Cox"}), JobId)
        for when in (datetime.now(UTC), timedelta(1), "5m"):
            moment: When = when
            queue.put(1, moment, expected_at=moment, priority=1, dedupe_key="k", headers=[], max_attempts=1)
        assert_type(queue.put_many(range(3), dedupe_keys=["a", None, "b"]), list[JobId])
        assert_type(queue.get(), Job | None)
        assert_type(queue.get(block=True, timeout=1.5), Job | None)
        assert_type(queue.get_nowait(), Job)
        assert_type(queue.get_many(3), list[Job])
        assert_type(queue.consume(), Generator[Job])
        assert_type(queue.listen(timeout=1), Generator[Job])
        for job_or_none in queue:
            assert_type(job_or_none, Job | None)
        with queue.take() as taken:
            assert_type(taken, Job | None)
        with queue as cursor:
            assert_type(cursor, psycopg.Cursor[Any])
        with pq.transaction() as cursor:
            assert_type(cursor, psycopg.Cursor[Any])
        assert_type(len(queue), int)
        assert_type(queue.count(scheduled=True), int)
        assert_type(queue.list(scheduled=True, count=3), list[Job])
        assert_type(queue.update(1, "new"), bool)
        assert_type(queue.cancel(1), bool)
        assert_type(queue.clear(), int)
        assert_type(queue.stats(), Stats)
        assert_type(queue.rights(), list[Right])
        assert_type(queue.revoke("web"), bool)
        assert_type(queue.next_at(), datetime | None)
        assert_type(queue.pause(), bool)
        assert_type(queue.resume(), bool)
        assert_type(queue.create(), bool)
        assert_type(queue.drop(), bool)
        queue.timeout = 5
        job = queue.get_nowait()
        assert_type(job.id, int)
        assert_type(job.queue, str)
        assert_type(job.data, Any)
        assert_type(job.size, int)
        assert_type(job.priority, int)
        assert_type(job.enqueued_at, datetime)
        assert_type(job.schedule_at, datetime | None)
        assert_type(job.expected_at, datetime | None)
        assert_type(job.attempts, int)
        assert_type(job.max_attempts, int | None)
        assert_type(job.last_error, str | None)
        assert_type(job.progress_count, int | None)
        assert_type(job.consumer, str | None)
        assert_type(job.dedupe_key, str | None)
        assert_type(job.headers, Any)
    try:
        pass
    except errors.ConnectionLost as error:
        assert_type(error.sqlstate, str | None)


async def asynchronous(conn: psycopg.AsyncConnection[Any], pool: AsyncConnectionPool[Any]) -> None:
    assert_type(AsyncPQ(conn), AsyncPQ)
    AsyncPQ(pool=pool)
    async with AsyncPQ("postgresql://", schema="billing") as pq:
        assert_type(pq, AsyncPQ)
        assert_type(await pq.stats(), list[Stats])
        assert_type(await pq.rights(), list[Right])
        queue = pq["apples"]
        assert_type(queue, AsyncQueue)
        assert_type(pq["a", "b"], AsyncQueueSet)
        assert_type(await queue.put(1, "5m"), JobId)
        assert_type(await queue.put_many([1]), list[JobId])
        assert_type(await queue.get(), AsyncJob | None)
        assert_type(await queue.get_nowait(), AsyncJob)
        assert_type(await queue.get_many(3), list[AsyncJob])
        assert_type(queue.consume(), AsyncGenerator[AsyncJob, None])
        assert_type(queue.listen(timeout=1), AsyncGenerator[AsyncJob, None])
        async for job_or_none in queue:
            assert_type(job_or_none, AsyncJob | None)
        async with queue.take() as taken:
            assert_type(taken, AsyncJob | None)
        async with queue as cursor:
            assert_type(cursor, psycopg.AsyncCursor[Any])
        assert_type(await queue.count(), int)
        assert_type(await queue.list(), list[AsyncJob])
        assert_type(await queue.stats(), Stats)
        assert_type(await queue.next_at(), datetime | None)


def mistakes(pq: PQ, apq: AsyncPQ) -> None:
    """Each of these is an error to mypy, and an ignore that is not needed is one, too."""
    pq["apples"].put()  # type: ignore[call-arg]
    pq["apples"].put(1, schedule_at=5)  # type: ignore[arg-type]
    pq["apples"].put(1, None, None, 3)  # type: ignore[call-arg]
    print(pq[1])  # type: ignore[call-overload]
    pq.queue("apples", serializer=object())  # type: ignore[arg-type]
    print(pq["apples"].get().id)  # type: ignore[union-attr]
    print(pq["apples"].get_nowait().colour)  # type: ignore[attr-defined]
    len(apq["apples"])  # type: ignore[arg-type]

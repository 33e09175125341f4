"""What the public API's types are. Not run: mypy --strict and pyright read it (test_py_typing.py)."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
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
    AsyncTask,
    Bury,
    Duration,
    Finding,
    Job,
    JobId,
    Queue,
    QueueSet,
    Retry,
    Right,
    Settings,
    Stats,
    Task,
    UnknownTask,
    Verdict,
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


def synchronous_tasks(pq: PQ, queue: Queue, conn: psycopg.Connection[Any]) -> None:
    @queue.task
    def eat(kind: str, count: int = 1) -> bytes:
        return count * kind.encode()

    @queue.task(schedule_at="1h", expected_at=timedelta(1), priority=3, max_attempts=7, lease_for=60, name="drink")
    def drink(kind: str) -> None: ...

    @queue.task(retry_in={OSError: "10s", ValueError: None}, bury_on=(KeyError, LookupError))
    async def wait(seconds: float) -> int:
        return round(seconds)

    @queue.task(bind=True, retry_in="5m", bury_on=Bury)
    def note(job: Job, kind: str) -> None:
        job.progress(50)

    assert_type(eat("Cox"), JobId)
    assert_type(eat("Cox", count=2), JobId)
    assert_type(eat.call("Cox", 2), bytes)
    assert_type(eat.put_in(conn, "Cox"), JobId)
    assert_type(eat.put_in(queue, kind="Cox"), JobId)
    assert_type(eat.configure(priority=5, dedupe_key="k", headers=[], queue="pears")("Cox"), JobId)
    assert_type(eat.data("Cox"), dict[str, Any])
    assert_type(eat.name, str)
    assert_type(eat.queue, Queue)
    assert_type(eat.lease_for, timedelta | None)
    assert_type(eat.verdict(OSError()), Verdict)
    assert_type(eat.verdict(OSError()).retry_in, timedelta | None)
    assert_type(drink("cider"), JobId)
    assert_type(drink.call("cider"), None)
    assert_type(wait(0.5), JobId)
    running: Coroutine[Any, Any, int] = wait.call(1)
    print(running)
    assert_type(note("Cox"), JobId)
    assert_type(pq.tasks.of(queue.get_nowait()), Task[..., Any])
    assert_type(pq.tasks["drink"], Task[..., Any])
    assert_type("drink" in pq.tasks, bool)
    for task in pq.tasks:
        assert_type(task, Task[..., Any])
    known: Task[[str], None] = drink
    print(known)


def settings_and_errors(queue: Queue) -> None:
    for duration in (timedelta(1), "5m", 1, 0.5):
        length: Duration = duration
        queue.configure(
            lease_for=length, retry_in=None, max_attempts=5, max_depth=None, max_bytes=1, keep_dead_for="1d"
        )
    assert_type(queue.settings(), Settings)
    assert_type(queue.settings().lease_for, timedelta)
    assert_type(queue.settings().max_depth, int | None)
    job = queue.lease("5m", consumer="me", timeout=1)
    assert_type(job, Job | None)
    assert_type(queue.lease_many(3), list[Job])
    if job is not None:
        with job as data, job.keep_alive():
            assert_type(data, Any)
        assert_type(job.complete(), bool)
        assert_type(job.error("a worm", "5m", bury=True), bool)
        assert_type(job.progress(50), bool)
        assert_type(job.release(), bool)
        assert_type(job.lease_for, timedelta | None)
    for dead in queue.dead(reason_like="%worm%", count=3):
        assert_type(dead.reason, str)
        assert_type(dead.died_at, datetime)
        assert_type(dead.history, list[dict[str, Any]])
        assert_type(dead.redrive(), bool)
    try:
        raise Retry("5m", "busy") from Bury("never")
    except errors.LeaseLost as lost:
        error: errors.Error = lost
        print(error)
    except errors.CommitUnknown as unknown:
        assert_type(unknown.dedupe_key, str | None)
        psycopg_error: psycopg.OperationalError = unknown
        print(psycopg_error)
    except UnknownTask as missing:
        lookup: LookupError = missing
        print(lookup)
    except Retry as retry:
        assert_type(retry.retry_in, timedelta | None)


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


async def asynchronous_tasks(pq: AsyncPQ, queue: AsyncQueue, conn: psycopg.AsyncConnection[Any]) -> None:
    @queue.task
    async def eat(kind: str, count: int = 1) -> bytes:
        return count * kind.encode()

    @queue.task(priority=1)
    def drink(kind: str) -> str:
        return kind

    @queue.task(bind=True, max_attempts=1)
    async def note(job: AsyncJob, kind: str) -> None:
        await job.progress(50)

    assert_type(await eat("Cox", 2), JobId)
    assert_type(await eat.call("Cox"), bytes)
    assert_type(await eat.put_in(conn, "Cox"), JobId)
    assert_type(await eat.configure(schedule_at="5m", queue=queue)(kind="Cox"), JobId)
    assert_type(await drink("cider"), JobId)
    assert_type(drink.call("cider"), str)
    assert_type(await note("Cox"), JobId)
    assert_type(pq.tasks["eat"], AsyncTask[..., Any])
    assert_type(await pq.health("5m"), list[Finding])
    async with asyncio.TaskGroup() as group:
        group.create_task(eat("Gala"))
    known: Callable[[str], Coroutine[Any, Any, JobId]] = drink
    print(known)


def mistakes(pq: PQ, apq: AsyncPQ) -> None:
    """Each of these is an error to both, and an ignore that is not needed is one, too."""

    @pq["apples"].task
    def eat(kind: str, count: int = 1) -> None: ...

    @pq["apples"].task(bind=True)
    def note(job: Job, kind: str) -> None: ...

    @pq["apples"].task(bind=True)  # type: ignore[arg-type]
    def unbound(kind: str) -> None: ...

    @apq["apples"].task
    async def drink(kind: str) -> None: ...

    pq["apples"].put()  # type: ignore[call-arg]
    pq["apples"].put(1, schedule_at=5)  # type: ignore[arg-type]
    pq["apples"].put(1, None, None, 3)  # type: ignore[call-arg]
    print(pq[1])  # type: ignore[call-overload]
    pq.queue("apples", serializer=object())  # type: ignore[arg-type]
    print(pq["apples"].get().id)  # type: ignore[union-attr]
    print(pq["apples"].get_nowait().colour)  # type: ignore[attr-defined]
    len(apq["apples"])  # type: ignore[arg-type]
    eat(1)  # type: ignore[arg-type]
    eat()  # type: ignore[call-arg]
    eat("Cox", colour="red")  # type: ignore[call-arg]
    eat.call(1)  # type: ignore[arg-type]
    eat.put_in(pq, 1)  # type: ignore[arg-type]
    eat.data(1)  # type: ignore[arg-type]
    eat.configure(priority=1)(1)  # type: ignore[arg-type]
    eat.configure(colour="red")  # type: ignore[call-arg]
    note(1)  # type: ignore[arg-type]
    _ = drink(1)  # type: ignore[arg-type]
    pq["apples"].task(priority="high")  # type: ignore[call-overload]
    pq["apples"].task(colour="red")  # type: ignore[call-overload]
    pq["apples"].task(retry_in={"OSError": "5s"})  # type: ignore[dict-item]
    pq["apples"].task(bind=True)(lambda: None)  # type: ignore[arg-type, misc]
    Retry(object())  # type: ignore[arg-type]

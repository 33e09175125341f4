"""Workers: handlers that behave oddly, and what one job must not leave to the next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import psycopg_pool
import pytest
from working import Works, works
from worlds import PATIENCE

from pgq_py import PQ, Bury, Retry, Worker

STYLES = pytest.mark.parametrize("style", ["function", "coroutine"])


@pytest.fixture(params=["threads", "asyncio"])
def at_work(request: pytest.FixtureRequest, database: Any) -> Iterator[Works]:
    """Workers of each kind."""
    with works(request.param, database.dsn) as made:
        yield made


@pytest.fixture
def queue(database: Any) -> Iterator[Any]:
    with PQ(database.dsn) as pq:
        yield pq["apples"]


def styled(style: str, function: Any) -> Any:
    """The function, or a coroutine function that does the same."""

    async def coroutine(job: Any) -> None:
        function(job)

    return function if style == "function" else coroutine


class Base(BaseException): ...


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class SpeechlessBury(Bury, Speechless):
    __str__ = Speechless.__str__


class Careless(Retry):
    def __init__(self) -> None:
        """That of `Retry` is not called."""


ODD = [
    SystemExit(0), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), StopIteration(),
    StopAsyncIteration(),
    Base(), Speechless(), SpeechlessBury(), Careless(),
]  # fmt: skip


@STYLES
@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_an_exception_of_any_class_is_a_failure_of_its_job_and_nothing_else(at_work, queue, style, error):
    queue.configure(max_attempts=1)

    def handle(job: Any) -> None:
        if job.data == "odd":
            raise error

    queue.put_many(["odd", "after"])
    at_work.run(handler=styled(style, handle), concurrency=1)
    (dead,) = queue.dead()
    assert (dead.data, queue.stats().completed) == ("odd", 1)
    assert type(error).__name__ in dead.reason


def test_a_task_beside_the_handler_that_exits_ends_nothing_else(database, queue):
    """It would take the loop of all coroutines with it."""

    async def leave() -> None:
        sys.exit(0)

    async def handle(job: Any) -> None:
        if job.data == "leaves":
            await asyncio.create_task(leave())

    queue.configure(max_attempts=1)
    queue.put_many(["leaves", "after"])
    with works("threads", database.dsn) as made:
        made.run(handler=handle, concurrency=1)
    assert ([job.data for job in queue.dead()], queue.stats().completed) == (["leaves"], 1)


def test_a_coroutine_that_cancels_itself_at_its_end_cancels_nobody_else(at_work, queue):
    async def handle(job: Any) -> None:
        if job.data == "odd":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    queue.configure(max_attempts=1)
    queue.put_many(["odd", "after"])
    running = at_work.run(handler=handle, concurrency=1)
    assert running.worker.ended_by == "nothing left"
    assert queue.stats().completed + len(queue.dead()) == 2


@STYLES
def test_what_a_job_sets_in_its_context_is_not_the_next_jobs(at_work, queue, style):
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen = []

    def handle(job: Any) -> None:
        seen.append(tenant.get())
        tenant.set(job.data)

    queue.put_many(["eve", "bob", "ann"])
    at_work.run(handler=styled(style, handle), concurrency=1)
    assert seen == ["nobody"] * 3


def test_a_transaction_that_a_handler_leaves_open_is_not_the_next_jobs(at_work, queue):
    """What the next job puts would never be committed."""
    left = []

    def handle(job: Any) -> None:
        if job.data == "leaves it open":
            left.append(job._queue.__enter__())
        else:
            job._queue.put("put", schedule_at="1h")

    async def coroutine(job: Any) -> None:
        if job.data == "leaves it open":
            left.append(await job._queue.__aenter__())
        else:
            await job._queue.put("put", schedule_at="1h")

    queue.put_many(["leaves it open", "puts"])
    at_work.run(handler=handle if at_work.kind == "threads" else coroutine, concurrency=1)
    left[0].connection.pgconn.finish()
    assert [job.data for job in queue.list(scheduled=True)] == ["put"]


def test_a_runner_that_fails_ends_the_worker_with_its_error(at_work, queue):
    """What it does with an error is the log's matter: one that raises."""

    def refuse(record: logging.LogRecord) -> bool:
        if "failed" in record.getMessage():
            raise LookupError("no log")
        return True

    queue.put("not a task")
    logger = logging.getLogger("pgq_py.worker")
    logger.addFilter(refuse)
    try:
        running = at_work.start(grace=10 * PATIENCE)
        with pytest.raises(LookupError, match="no log"):
            running.end()
        running.error = None
    finally:
        logger.removeFilter(refuse)
    assert running.worker.ended_by == "LookupError"


# Hooks.


@STYLES
def test_a_hook_may_swallow_what_the_handler_raises(at_work, queue, style):
    def handle(job: Any) -> None:
        raise ValueError

    queue.put(1)
    at_work.run(handler=styled(style, handle), hooks=[lambda job: contextlib.suppress(ValueError)])
    assert (queue.stats().completed, queue.list(scheduled=True)) == (1, [])


def test_hooks_are_around_what_a_function_gives_to_be_awaited(at_work, queue):
    seen = []

    @contextlib.contextmanager
    def around(job: Any) -> Iterator[None]:
        seen.append("in")
        yield
        seen.append("out")

    async def inner() -> None:
        seen.append("awaited")

    queue.put(1)
    at_work.run(handler=lambda job: inner(), hooks=[around])
    assert seen == ["in", "awaited", "out"]


# What is refused.


def test_a_generator_is_no_handler_since_to_call_it_does_nothing():
    def handle(job: Any) -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match="generator"):
        Worker(PQ("postgresql://localhost/nowhere"), "apples", handler=handle)


def test_it_works_on_a_pool_without_a_limit(database, queue):
    queue.put(1)
    done: list[Any] = []
    with psycopg_pool.NullConnectionPool(database.dsn, open=True) as pool, PQ(pool=pool) as pq:
        Worker(pq, "apples", handler=done.append, burst=True).run()
    assert len(done) == 1


# Leases.


def test_a_row_that_a_handler_has_locked_costs_no_other_job_its_lease(at_work, queue):
    """Its heartbeat would wait for that transaction, and with it all others."""
    queue.configure(lease_for="2s")
    over, lost = threading.Event(), []

    def handle(job: Any) -> None:
        if job.data == "locks":
            with job._queue:
                job.progress(1)
                assert over.wait(PATIENCE)
        else:
            assert not threading.Event().wait(4.5)
            lost.append(job.lost)
            over.set()

    async def coroutine(job: Any) -> None:
        if job.data == "locks":
            async with job._queue:
                await job.progress(1)
                await asyncio.to_thread(over.wait, PATIENCE)
        else:
            await asyncio.sleep(4.5)
            lost.append(job.lost)
            over.set()

    queue.put_many(["locks", "works"])
    at_work.run(handler=handle if at_work.kind == "threads" else coroutine, concurrency=2)
    assert lost == [False]

"""Workers: what they do with jobs, in threads and on a loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from time import monotonic
from typing import Any

import psycopg
import psycopg_pool
import pytest
from servers import Server
from working import Running, Works, wait_for, works
from worlds import PATIENCE, Background

from pgq_py import PQ, AsyncWorker, Bury, Retry, Worker, errors, links
from pgq_py import health as health_module
from pgq_py._sync import feeder, settler
from pgq_py._sync import worker as worker_module
from pgq_py._sync.hand import TURN, Hand

STATE = "select id, attempts, receipt is null from queue_job where queue = 'apples' order by id"


@pytest.fixture(params=["threads", "asyncio"])
def at_work(request: pytest.FixtureRequest, database: Any) -> Iterator[Works]:
    """Workers of each kind."""
    with works(request.param, database.dsn) as made:
        yield made


@pytest.fixture
def queue(database: Any) -> Iterator[Any]:
    with PQ(database.dsn) as pq:
        yield pq["apples"]


class Held:
    """A handler whose jobs wait until they are let go."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.jobs: list[Any] = []

    def __call__(self, job: Any) -> None:
        self.jobs.append(job)
        self.began.release()
        assert self.go_on.wait(3 * PATIENCE)

    async def coroutine(self, job: Any) -> None:
        self.jobs.append(job)
        self.began.release()
        # Not in a thread, which could not be cancelled.
        while not self.go_on.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def wait(self, count: int = 1) -> None:
        """Until so many have begun."""
        for _ in range(count):
            assert self.began.acquire(timeout=PATIENCE)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.go_on.set()


# What is done, and what becomes of it.


def test_each_job_is_done_once_and_gone(at_work, queue):
    queue.put_many(range(1000))
    done = Counter()
    at_work.run(handler=lambda job: done.update([job.data]))
    assert done == Counter(range(1000))
    stats = queue.stats()
    assert (stats.completed, stats.failed, stats.leased, stats.ready) == (1000, 0, 0, 0)


def test_tasks_are_functions_and_coroutines_in_either_worker(at_work, queue):
    done = []

    def prepare(pq: Any) -> None:
        @pq["apples"].task(name="plain")
        def plain(kind: str, *, count: int) -> None:
            done.append((kind, count, threading.current_thread()))

        @pq["apples"].task(name="coroutine", bind=True)
        async def coroutine(job: Any, kind: str) -> None:
            await asyncio.sleep(0)
            done.append((kind, job.attempts, asyncio.get_running_loop()))

    for _ in range(3):
        queue.put({"task": "plain", "args": ["Cox"], "kwargs": {"count": 2}})
        queue.put({"task": "coroutine", "args": ["Gala"]})
    at_work.run(prepare=prepare)
    assert sorted(entry[:2] for entry in done) == [("Cox", 2)] * 3 + [("Gala", 1)] * 3
    # Coroutines are on one loop, and no function is in its thread.
    assert len({entry[2] for entry in done if entry[0] == "Gala"}) == 1
    assert queue.stats().completed == 6


def test_a_handler_that_is_a_coroutine_function_works_in_either(at_work, queue):
    queue.put_many(range(50))
    done = []

    async def handle(job: Any) -> None:
        await asyncio.sleep(0.001)
        done.append(job.data)

    at_work.run(handler=handle)
    assert sorted(done) == list(range(50))


def test_jobs_run_beside_each_other(at_work, queue):
    queue.put_many(range(4))
    together = threading.Barrier(4)
    at_work.run(handler=lambda job: together.wait(PATIENCE) and None, concurrency=4)
    assert queue.stats().completed == 4


def test_what_fails_comes_back_with_its_error_or_goes_to_the_dead(at_work, queue):
    queue.configure(max_attempts=3, retry_in="1h")
    ids = {data: queue.put(data) for data in ("error", "retry", "bury", "fine")}

    def handle(job: Any) -> None:
        if job.data == "error":
            raise ValueError("a worm")
        if job.data == "retry":
            raise Retry("2d", "not now")
        if job.data == "bury":
            raise Bury("rotten")

    at_work.run(handler=handle)
    (dead,) = queue.dead()
    assert (dead.id, dead.reason, dead.attempts) == (ids["bury"], "rotten", 1)
    back = {job.id: job for job in queue.list(scheduled=True)}
    assert set(back) == {ids["error"], ids["retry"]}
    assert back[ids["error"]].last_error.endswith("ValueError: a worm")
    assert back[ids["retry"]].last_error == "not now"
    assert back[ids["retry"]].ready_at - back[ids["error"]].ready_at > psycopg.types.datetime.timedelta(hours=40)
    assert queue.stats().completed == 1


def test_a_task_says_by_its_classes_what_becomes_of_the_job(at_work, queue):
    def prepare(pq: Any) -> None:
        @pq["apples"].task(name="fails", retry_in={OSError: "0s"}, bury_on=KeyError)
        def fails(how: str) -> None:
            raise {"os": ConnectionResetError, "key": KeyError}[how](how)

    queue.put({"task": "fails", "args": ["os"]}, max_attempts=2)
    queue.put({"task": "fails", "args": ["key"]}, max_attempts=2)
    at_work.run(prepare=prepare)
    assert [(job.attempts, job.reason) for job in sorted(queue.dead(), key=lambda job: job.id)] == [
        (2, "attempt 2 of 2 failed: ConnectionResetError: os"),
        (1, "KeyError: 'key'"),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"task": "unknown", "args": ["secret"]}, "no task here is named 'unknown': is its module imported?"),
        ("secret", 'the job is no call of a task: its data is not {"task": name, ...}'),
    ],
)
def test_what_is_no_task_here_goes_to_the_dead_with_the_reason(at_work, queue, caplog, data, reason):
    queue.put(data)
    at_work.run(prepare=lambda pq: None)
    (dead,) = queue.dead()
    assert dead.reason == reason
    assert "secret" not in caplog.text


def test_arguments_that_the_task_does_not_take_go_to_the_dead(at_work, queue):
    def prepare(pq: Any) -> None:
        @pq["apples"].task(name="eat")
        def eat(kind: str) -> None: ...

    queue.put({"task": "eat", "args": [1, 2]})
    at_work.run(prepare=prepare)
    assert queue.dead()[0].reason == "eat: too many positional arguments"


def test_a_cancelled_task_of_the_handler_is_a_failure_and_not_taken_again_at_once(at_work, queue):
    queue.put(1)

    async def handle(job: Any) -> None:
        raise asyncio.CancelledError

    at_work.run(handler=handle)
    (job,) = queue.list(scheduled=True)
    assert job.attempts == 1
    assert job.last_error.splitlines()[-1].startswith("asyncio.exceptions.CancelledError")


def test_a_pause_that_the_server_refuses_holds_nobody_up(at_work, queue):
    queue.put("fine", priority=-1)
    queue.put("bad")

    def handle(job: Any) -> None:
        if job.data == "bad":
            raise Retry("4000000d", "see you in the year 12977")

    at_work.run(handler=handle)
    (job,) = queue.list(scheduled=True)
    assert (job.data, job.attempts, job.last_error) == ("bad", 1, "see you in the year 12977")
    assert queue.stats().completed == 1


def test_words_that_the_server_can_not_store_are_told_as_others(database, conn):
    conn.execute("create database latin encoding 'latin1' locale 'C' template template0")
    try:
        with PQ(f"{database.server.dsn('latin')}") as pq, works("threads", database.server.dsn("latin")) as made:
            pq.create()
            pq["apples"].put(1)

            def handle(job: Any) -> None:
                raise Bury("苹果 \0 rotten")

            made.run(handler=handle)
            (dead,) = pq["apples"].dead()
            assert dead.reason == "\\u82f9\\u679c \\0 rotten"
    finally:
        conn.execute("drop database latin")


def test_a_handler_that_settles_the_job_itself_is_left_alone(at_work, queue, caplog):
    queue.configure(retry_in="1h")
    for data in ("complete", "error", "together"):
        queue.put(data)

    async def settle(job: Any) -> None:
        if job.data == "together":
            async with job._queue:
                await job.complete()
                await job._queue.put("after", schedule_at="1h")
        else:
            await getattr(job, job.data)()

    def settle_in_thread(job: Any) -> None:
        if job.data == "together":
            with job._queue:
                job.complete()
                job._queue.put("after", schedule_at="1h")
        else:
            getattr(job, job.data)()

    at_work.run(handler=settle_in_thread if at_work.kind == "threads" else settle)
    assert sorted(job.data for job in queue.list(scheduled=True)) == ["after", "error"]
    assert queue.stats().completed == 2
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_log_names_the_job_and_never_its_data(at_work, queue, caplog):
    caplog.set_level(logging.DEBUG, "pgq_py")

    def prepare(pq: Any) -> None:
        @pq["apples"].task(name="eat")
        def eat(kind: str) -> None:
            raise ValueError("a worm")

    id = queue.put({"task": "eat", "args": ["secret"]})
    at_work.run(prepare=prepare)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert (record.queue, record.job_id, record.attempt, record.task) == ("apples", id, 1, "eat")
    assert record.exc_info[0] is ValueError
    assert "secret" not in caplog.text


# Hooks.


def test_hooks_are_around_each_job_the_first_outermost(at_work, queue):
    seen = []

    def hook(name: str) -> Callable[[Any], Any]:
        @contextlib.contextmanager
        def around(job: Any) -> Iterator[None]:
            seen.append(f"{name} in {job.data}")
            try:
                yield
            except ValueError as error:
                seen.append(f"{name} saw {error}")
                raise
            finally:
                seen.append(f"{name} out")

        return around

    queue.put("good", priority=1)
    queue.put("bad")

    def handle(job: Any) -> None:
        if job.data == "bad":
            raise ValueError("a worm")

    at_work.run(handler=handle, concurrency=1, hooks=[hook("a"), hook("b")])
    good, bad = ["a in good", "b in good", "b out", "a out"], ["a in bad", "b in bad", "b saw a worm", "b out"]
    assert seen == [*good, *bad, "a saw a worm", "a out"]
    assert queue.stats().failed == 1


def test_asynchronous_hooks_are_around_coroutines_in_either_worker(at_work, queue):
    seen, loops = [], set()
    current: ContextVar[str] = ContextVar("current")

    @contextlib.asynccontextmanager
    async def around(job: Any) -> Any:
        token = current.set(job.data)
        loops.add(asyncio.get_running_loop())
        yield
        current.reset(token)
        seen.append("out")

    async def handle(job: Any) -> None:
        loops.add(asyncio.get_running_loop())
        seen.append(current.get())

    queue.put("in")
    at_work.run(handler=handle, hooks=[around])
    assert (seen, len(loops)) == (["in", "out"], 1)


def test_a_function_in_a_thread_has_the_context_of_its_hooks(at_work, queue):
    seen = []
    current: ContextVar[str] = ContextVar("current")

    @contextlib.contextmanager
    def around(job: Any) -> Iterator[None]:
        token = current.set(job.data)
        yield
        current.reset(token)

    queue.put("in")
    at_work.run(handler=lambda job: seen.append(current.get()), hooks=[around])
    assert seen == ["in"]


def test_a_hook_that_fails_is_a_failure_of_the_job(at_work, queue):
    def hook(job: Any) -> Any:
        raise ValueError("no hook")

    queue.put(1)
    done = []
    at_work.run(handler=done.append, hooks=[hook])
    (job,) = queue.list(scheduled=True)
    assert (done, job.last_error.splitlines()[-1]) == ([], "ValueError: no hook")


# Which jobs, and how many.


def test_queues_have_their_turns_by_weight(at_work, queue, database):
    with PQ(database.dsn) as pq:
        pq["mail"].put_many(range(150))
        pq["reports"].put_many(range(150))
    order: list[str] = []
    # One at a time, so that each turn is a job.
    at_work.run({"mail": 3, "reports": 1}, handler=lambda job: order.append(job.queue), concurrency=1, prefetch=0)
    assert Counter(order[:100]) == {"mail": 75, "reports": 25}
    assert Counter(order) == {"mail": 150, "reports": 150}


def test_a_queue_without_jobs_leaves_its_turns_to_the_others(at_work, database, queue):
    with PQ(database.dsn) as pq:
        pq["reports"].put_many(range(50))
    order: list[str] = []
    at_work.run({"mail": 1000, "reports": 1}, handler=lambda job: order.append(job.queue))
    assert order == ["reports"] * 50


def test_strict_order_takes_the_first_as_long_as_it_has_jobs(at_work, database, queue):
    with PQ(database.dsn) as pq:
        for name in ("c", "a", "b"):
            pq[name].put_many(range(20))
    order: list[str] = []
    at_work.run(["a", "b", "c"], strict=True, handler=lambda job: order.append(job.queue), concurrency=1)
    assert order == ["a"] * 20 + ["b"] * 20 + ["c"] * 20


def test_a_burst_ends_when_nothing_is_left_that_can_be_done_now(at_work, queue):
    queue.put("later", schedule_at="1h")
    queue.put(5)

    def more(job: Any) -> None:
        if job.data:
            queue.put(job.data - 1)

    running = at_work.run(handler=more)
    assert running.worker.ended_by == "nothing left"
    assert queue.stats().completed == 6
    assert queue.count(scheduled=True) == 1


def test_a_burst_does_again_what_comes_back_at_once(at_work, queue):
    """Many times, since it may come back between the last look into the queue and the end."""

    def again(job: Any) -> None:
        raise Retry("0s")

    for _ in range(20):
        queue.put(1, max_attempts=2)
        at_work.run(handler=again)
        assert queue.count(scheduled=True) == 0


def test_it_ends_after_so_many_jobs_and_holds_no_more(at_work, queue):
    queue.put_many(range(200))
    done = []
    at_work.start(handler=lambda job: done.append(job.data), max_jobs=130).end()
    assert sorted(done) == list(range(130))
    assert [job.attempts for job in queue.list()] == [0] * 70


def test_jobs_that_come_wake_it(at_work, queue):
    came = threading.Semaphore(0)
    at_work.start(handler=lambda job: came.release())
    for _ in range(3):
        queue.put(1)
        assert came.acquire(timeout=PATIENCE)


def test_a_worker_that_sleeps_has_one_connection_which_listens(at_work, queue, conn):
    at_work.start(handler=lambda job: None)
    where = "datname = current_database() and application_name = 'pgq_py' and query ~ 'queue_(listen|wait|lease)'"
    listens = "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ShareLock'"
    wait_for(lambda: conn.execute(listens).fetchone() == (1,), "its lock")
    assert conn.execute(f"select count(*) from pg_stat_activity where {where}").fetchone() == (1,)


def test_what_waits_behind_slow_jobs_is_left_to_others(at_work, queue, held):
    """Many were leased since the first were quick; then one takes long."""
    queue.put_many(["quick"] * 60)
    queue.put("slow")
    queue.put_many(["quick"] * 40)
    done = Counter()

    def handle(job: Any) -> None:
        if job.data == "slow":
            held(job)
        done.update([job.data])

    at_work.start(handler=handle, concurrency=1)
    held.wait()
    at_work.start(handler=handle)
    wait_for(lambda: done["quick"] == 100)
    assert done["slow"] == 0
    held.go_on.set()
    wait_for(lambda: queue.stats().completed == 101)


def test_what_was_returned_before_it_began_is_none_of_so_many_jobs(at_work, queue, held):
    queue.put_many([*["quick"] * 60, "slow", *["quick"] * 40])
    running = at_work.start(handler=lambda job: held(job) if job.data == "slow" else None, concurrency=1, max_jobs=101)
    held.wait()
    wait_for(lambda: queue.count() == 40)
    held.go_on.set()
    running.end()
    assert queue.stats().completed == 101


def test_slow_jobs_are_leased_no_earlier_than_they_begin(at_work, queue, held, conn):
    queue.put_many(range(20))
    at_work.start(handler=held, concurrency=3)
    held.wait(3)
    leased = "select count(*) from queue_job where receipt is not null"
    assert conn.execute(leased).fetchone() == (3,)


# How it ends.


@pytest.mark.parametrize("style", ["function", "coroutine"])
def test_stop_returns_what_has_not_begun_and_lets_end_what_runs(at_work, queue, held, conn, style):
    ids = queue.put_many(range(10))
    handler = held if style == "function" else held.coroutine
    running = at_work.start(handler=handler, concurrency=2)
    held.wait(2)
    running.worker.stop()
    wait_for(lambda: not running.worker.is_taking)
    held.go_on.set()
    running.end()
    assert sorted(job.id for job in held.jobs) == ids[:2]
    assert conn.execute(STATE).fetchall() == [(id, 0, True) for id in ids[2:]]
    assert not running.worker.is_stuck


def test_prefetched_jobs_are_returned_uncounted(at_work, queue, held, conn):
    queue.put_many(["quick"] * 50)
    ids = queue.put_many(["slow"] * 50)

    def handle(job: Any) -> None:
        if job.data == "slow":
            held(job)

    running = at_work.start(handler=handle, concurrency=1)
    held.wait()
    running.worker.stop()
    wait_for(lambda: not running.worker.is_taking)
    held.go_on.set()
    running.end()
    assert conn.execute(STATE).fetchall() == [(id, 0, True) for id in ids[1:]]


@pytest.mark.parametrize("style", ["function", "coroutine"])
@pytest.mark.parametrize("now", [False, True])
def test_what_runs_when_the_grace_is_over_is_returned_uncounted(at_work, queue, held, conn, style, now, caplog):
    ids = queue.put_many(range(3))
    handler = held if style == "function" else held.coroutine
    running = at_work.start(handler=handler, concurrency=2, grace=PATIENCE if now else 0.2)
    held.wait(2)
    running.stop(now=now)
    assert conn.execute(STATE).fetchall() == [(id, 0, True) for id in ids]
    assert [job.lost for job in held.jobs] == [True, True]
    assert running.worker.is_stuck == (style == "function")


@pytest.mark.parametrize("grace", [math.inf, 1e10])
def test_a_grace_may_have_no_end(at_work, queue, held, conn, grace):
    queue.put(1)
    running = at_work.start(handler=held, grace=grace)
    held.wait()
    running.worker.stop()
    wait_for(lambda: not running.worker.is_taking)
    held.go_on.set()
    running.end()
    assert queue.stats().completed == 1


def test_a_second_stop_ends_the_grace(at_work, queue, held, conn):
    queue.put(1)
    running = at_work.start(handler=held, grace=10 * PATIENCE)
    held.wait()
    running.worker.stop()
    wait_for(lambda: not running.worker.is_taking)
    running.stop(now=True)
    assert conn.execute(STATE).fetchall() == [(1, 0, True)]


def test_a_second_stop_ends_the_grace_also_when_only_the_outcome_is_to_be_told(at_work, queue, held, conn, caplog):
    """A server that is out of reach, say. Until then its service manager hears from the worker."""
    queue.put(1)
    running = at_work.start(handler=held, grace=math.inf)
    held.wait()
    conn.execute("alter function queue_complete_many rename to queue_complete_many_is_gone")
    running.worker.stop()
    held.go_on.set()
    wait_for(lambda: "trying on" in caplog.text)
    told: list[str] = []
    running.worker.listeners.append(told.append)
    wait_for(lambda: told.count("tick") > 2)
    running.stop(now=True)
    assert "could not be settled" in caplog.text


def test_a_job_that_begins_while_all_are_returned_is_returned_too(database, queue, held, conn):
    """The call that leased it was on its way."""
    with works("threads", database.dsn) as made:
        worker = made.start(handler=held).worker
        dismiss = worker._dismiss

        def begin_one_more() -> None:
            worker._feeding.join(PATIENCE)
            queue.put(1)
            worker._hand.add([queue.lease()])
            held.wait()
            dismiss()

        worker._dismiss = begin_one_more
        worker.stop(now=True)
    assert conn.execute(STATE).fetchall() == [(1, 0, True)]


def test_coroutines_are_cancelled_before_others_may_have_their_jobs(at_work, queue, conn):
    queue.put(1)
    began, seen = threading.Event(), []

    async def handle(job: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(10 * PATIENCE)
        finally:
            with psycopg.connect(at_work.dsn) as own:
                seen.extend(own.execute("select receipt is null from queue_job").fetchall())

    running = at_work.start(handler=handle, grace=0)
    assert began.wait(PATIENCE)
    running.stop()
    assert seen == [(False,)]
    assert conn.execute(STATE).fetchall() == [(1, 0, True)]


def test_jobs_that_come_when_nobody_is_left_to_run_them_are_returned(database, queue, conn, monkeypatch):
    """The call that leased them came back just before the end was told."""
    ids = queue.put_many(range(3))
    leased, go_on = threading.Event(), threading.Event()

    def hurry(pulse: Any, lease: float) -> None:
        leased.set()
        assert go_on.wait(PATIENCE)

    monkeypatch.setattr(settler.Pulse, "hurry", hurry)
    with works("threads", database.dsn) as made:
        running = made.start(handler=print)
        assert leased.wait(PATIENCE)
        running.worker.stop()
        wait_for(lambda: all(runner.join(0) for runner in running.worker._runners))
        go_on.set()
        running.end()
    assert conn.execute(STATE).fetchall() == [(id, 0, True) for id in ids]


async def test_a_cancelled_run_returns_all(database, queue, conn):
    from pgq_py import AsyncPQ

    queue.put(1)
    began = asyncio.Event()

    async def handle(job: Any) -> None:
        began.set()
        await asyncio.sleep(10 * PATIENCE)

    async with AsyncPQ(database.dsn) as pq:
        task = asyncio.create_task(AsyncWorker(pq, "apples", handler=handle).run())
        await asyncio.wait_for(began.wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert conn.execute(STATE).fetchall() == [(1, 0, True)]


def test_an_error_that_will_not_pass_ends_it(at_work, roles):
    roles.make("nobody")
    running = Running(at_work.kind, f"{at_work.dsn} user=nobody", "apples", None, {"handler": print})
    with pytest.raises(errors.NotAllowed):
        running.end()


def test_a_lease_that_the_server_refuses_ends_it(at_work, queue):
    running = Running(at_work.kind, at_work.dsn, "apples", None, {"handler": print, "lease_for": "4000d"})
    with pytest.raises(errors.TimeError):
        running.end()
    assert not running.worker.is_taking


def test_a_check_ends_it_with_its_reason(at_work, queue):
    running = at_work.start(handler=print, max_memory=1)
    running.end()
    assert running.worker.ended_by == "more than 1 bytes in memory"


# Leases.


def test_a_job_that_takes_longer_than_its_lease_is_nobody_elses(at_work, queue):
    """Twenty seconds and three, and less of both."""
    queue.put(1)
    begun: list[int] = []

    def handle(job: Any) -> None:
        begun.append(job.attempts)
        threading.Event().wait(4)
        assert not job.lost

    first = at_work.start(handler=handle, lease_for=1.5)
    other = at_work.start(handler=handle, lease_for=1.5)
    wait_for(lambda: queue.stats().completed == 1)
    first.stop()
    other.stop()
    assert begun == [1]


@pytest.mark.long
def test_a_job_of_twenty_seconds_with_a_lease_of_three_is_nobody_elses(database, queue):
    """Both kinds at the same time, each with another worker on its queue."""
    begun: list[tuple[str, int]] = []

    def handle(job: Any) -> None:
        begun.append((job.queue, job.attempts))
        threading.Event().wait(20)

    pq = queue._pq
    with works("threads", database.dsn) as threads, works("asyncio", database.dsn) as loops:
        for at_work in (threads, loops):
            pq[at_work.kind].put(1)
            for _ in range(2):
                at_work.start(at_work.kind, handler=handle, lease_for=3)
        patience = monotonic() + 60
        while not all(pq[kind].stats().completed for kind in ("threads", "asyncio")) and monotonic() < patience:
            threading.Event().wait(0.1)
    assert sorted(begun) == [("asyncio", 1), ("threads", 1)]
    assert [pq[kind].stats().completed for kind in ("threads", "asyncio")] == [1, 1]


def test_the_lease_of_the_task_holds_from_the_first_heartbeat(at_work, queue, held, conn):
    def prepare(pq: Any) -> None:
        pq["apples"].task(name="long", bind=True, lease_for="1d")(held)

    queue.put({"task": "long"})
    at_work.start(prepare=prepare, lease_for=2)
    held.wait()
    wait_for(lambda: conn.execute("select lease_until > now() + '23 h' from queue_job").fetchone() == (True,))


def test_a_lease_of_the_task_that_is_shorter_than_the_heartbeats_is_kept(at_work, queue, conn):
    begun: list[int] = []

    def prepare(pq: Any) -> None:
        @pq["apples"].task(name="long", bind=True, lease_for=1)
        def long(job: Any) -> None:
            begun.append(job.attempts)
            until = "select lease_until < clock_timestamp() + '1 s' from queue_job"
            wait_for(lambda: conn.execute(until).fetchone() == (True,))
            threading.Event().wait(2)
            assert not job.lost

    queue.put({"task": "long"})
    at_work.start(prepare=prepare, lease_for="1h")
    wait_for(lambda: queue.stats().completed == 1)
    assert begun == [1]


def test_a_row_that_a_statement_of_the_handlers_has_locked_costs_no_other_job_its_lease(at_work, queue, conn):
    """For longer than the lease: a heartbeat that waited for that row would be too late for all others."""
    locked, over, lost = threading.Event(), threading.Event(), []
    until = "select lease_until, lease_until < clock_timestamp() from queue_job where id = %s"

    def handle(job: Any) -> None:
        if job.data == "locks":
            with psycopg.connect(at_work.dsn) as own:
                own.execute("select queue_complete('apples', %s, %s)", [job.id, job.receipt])
                locked.set()
                assert over.wait(PATIENCE)
        else:
            assert locked.wait(PATIENCE)
            for _ in range(3):
                begin, _ = conn.execute(until, [job.id]).fetchone()
                wait_for(lambda begin=begin: conn.execute(until, [job.id]).fetchone()[0] > begin, "a heartbeat")
            wait_for(lambda: conn.execute(until, [locks]).fetchone()[1], "the end of the lease")
            lost.append(job.lost)
            over.set()

    locks, _ = queue.put_many(["locks", "works"])
    at_work.run(handler=handle, concurrency=2, lease_for=3)
    assert lost == [False]
    assert queue.stats().completed == 2


def test_a_heartbeat_asks_again_for_a_job_that_somebody_has_locked(queue, conn):
    """It is neither lost nor kept."""
    queue.put_many([1, 2])
    locked, free = queue.lease_many(2)
    hand = Hand(2, 0)
    hand.add([locked, free])
    pulse = settler.Pulse(queue._pq, queue._pq.source_aside(), hand, lambda job: timedelta(hours=1))
    before = locked._until, free._until
    with conn.transaction():
        conn.execute("select from queue_job where id = %s for update", [locked.id])
        pulse._beat()
        assert (locked._until, locked._is_lost, hand.open) == (before[0], False, {locked, free})
        assert free._until > before[1]
    pulse._beat()
    assert locked._until > before[0]


def test_a_lease_of_the_task_that_the_server_refuses_costs_nobody_his(at_work, queue, held, conn, caplog):
    """Its job, and those beside it, are held as they were leased."""

    def prepare(pq: Any) -> None:
        pq["apples"].task(name="endless", bind=True, lease_for="4000d")(held)
        pq["apples"].task(name="plain", bind=True)(held)

    queue.put_many([{"task": "endless"}, {"task": "plain"}, {"task": "plain"}])
    at_work.start(prepare=prepare, lease_for=3)
    held.wait(3)
    ends = "select lease_until from queue_job order by id"
    for _ in range(2):
        before = conn.execute(ends).fetchall()
        wait_for(
            lambda before=before: all(
                new > old for new, old in zip(conn.execute(ends).fetchall(), before, strict=True)
            ),
            "a heartbeat for all",
        )
    assert not any(job.lost for job in held.jobs)
    held.go_on.set()
    wait_for(lambda: queue.stats().completed == 3)
    assert caplog.text.count("A lease lasts for 10 years at most") == 1


@pytest.mark.parametrize("style", ["function", "coroutine"])
def test_a_lease_that_is_lost_is_seen_by_the_handler_and_its_result_dropped(at_work, queue, held, conn, caplog, style):
    id = queue.put(1)
    handler = held if style == "function" else held.coroutine
    running = at_work.start(handler=handler, lease_for=2)
    held.wait()
    # As if somebody else had it.
    conn.execute(
        "update queue_job set receipt = gen_random_uuid(), lease_until = now() + '1 h', ready_at = now() + '1 h'"
    )
    wait_for(lambda: held.jobs[0].lost)
    held.go_on.set()
    wait_for(lambda: "is dropped" in caplog.text)
    running.stop()
    assert conn.execute("select id, attempts, receipt is null from queue_job").fetchall() == [(id, 1, False)]
    (record,) = [record for record in caplog.records if "is dropped" in record.message]
    assert (record.levelname, record.job_id) == ("WARNING", id)


def test_a_job_whose_lease_is_lost_before_it_begins_is_not_begun(queue):
    queue.put(1)
    job = queue.lease()
    hand = Hand(1, 0)
    hand.add([job])
    assert hand.lose(job)
    assert (hand.held, hand.open, hand.waiting) == (set(), set(), set())
    assert (job.lost, hand.decide(job, None), hand.take_back()) == (True, False, 0)


def test_a_job_whose_lease_is_over_before_it_begins_is_not_begun(database, queue, held, conn, monkeypatch):
    """As after an outage: no heartbeat gets through, and what was leased waits."""
    monkeypatch.setattr(settler.Pulse, "_beat", lambda pulse: None)
    monkeypatch.setattr(worker_module, "PATIENCE", 10 * PATIENCE)
    queue.put_many(["quick"] * 50)
    queue.put("slow")
    queue.put_many(["last"] * 50)
    begun: dict[int, int] = {}
    runs: list[int] = []

    def handle(job: Any) -> None:
        runs.append(job.id)
        if job.data == "slow" and job.attempts == 1:
            held(job)
        begun.setdefault(job.id, job.attempts)

    with works("threads", database.dsn) as made:
        running = made.start(handler=handle, concurrency=1, lease_for=1, max_jobs=1000)
        held.wait()
        waiting = wait_for(lambda: [job.id for job in list(running.worker._hand.waiting)])
        over = "select lease_until + '0.5 s' < clock_timestamp() from queue_job where id = %s"
        wait_for(lambda: conn.execute(over, [max(waiting)]).fetchone() == (True,))
        held.go_on.set()
        wait_for(lambda: queue.stats().completed == 101)
        running.stop()
    assert len(begun) == 101
    # What was not run does not count; what was run twice, since it took too long, does so twice.
    assert running.worker._feeder._left == 1000 - len(runs)
    assert {begun[id] for id in waiting} == {2}


def test_a_job_that_is_lost_before_it_begins_does_not_count_for_max_jobs(at_work, queue, held, monkeypatch):
    monkeypatch.setattr(worker_module, "PATIENCE", 10 * PATIENCE)
    queue.put_many(["quick"] * 50 + ["slow"] + ["last"] * 50)
    runs: list[int] = []

    def handle(job: Any) -> None:
        runs.append(job.id)
        if job.data == "slow":
            held(job)

    running = at_work.start(handler=handle, concurrency=1, lease_for=3, max_jobs=101)
    held.wait()
    waiting = wait_for(lambda: list(running.worker._hand.waiting))
    for job in waiting:
        assert queue.cancel(job.id)
    wait_for(lambda: all(job.lost for job in waiting), "a heartbeat")
    queue.put_many(["more"] * 100)
    held.go_on.set()
    running.end()
    assert len(runs) == 101


def test_what_became_of_jobs_is_told_as_soon_as_anybody_gets_through(database, queue, monkeypatch):
    """Of an outage that the others have seen the end of, it may hear late."""
    monkeypatch.setattr(links, "jitter", lambda seconds: 10 * PATIENCE)
    with PQ(database.dsn) as pq:
        line = settler.Settler(pq, pq._source, Hand(1, 0))
        pausing = Background(lambda: line._pause(errors.ConnectionLost("gone")))
        wait_for(lambda: pq.outage.is_on)
        pq["apples"].count()
        assert pausing.result()


def test_a_job_that_was_done_when_its_lease_was_lost_is_told(at_work, queue, held, conn, caplog):
    queue.put(1)
    running = at_work.start(handler=held)
    held.wait()
    conn.execute("update queue_job set receipt = gen_random_uuid()")
    held.go_on.set()
    wait_for(lambda: "it may be done again" in caplog.text)
    running.stop()
    assert queue.stats().completed == 0


def test_the_words_for_a_lease_that_ran_out_are_those_of_sql(queue):
    queue.put(1)
    queue.lease(0.05)
    job = queue.lease(timeout=PATIENCE)
    assert job.last_error == feeder.RAN_OUT


def test_a_job_whose_lease_ran_out_twice_runs_with_nothing_beside_it(at_work, queue, conn):
    """And what was leased with it is returned."""
    suspect, *others = queue.put_many(range(30))
    conn.execute("update queue_job set attempts = 2, last_error = %s where id = %s", [feeder.RAN_OUT, suspect])
    held_with: list[Any] = []

    def handle(job: Any) -> None:
        if job.id == suspect:
            with psycopg.connect(at_work.dsn) as own:
                held_with.extend(own.execute("select count(*) from queue_job where receipt is not null").fetchall())
        else:
            threading.Event().wait(0.01)

    at_work.run(handler=handle)
    assert held_with == [(1,)]
    assert queue.stats().completed == len(others) + 1


def test_a_job_in_its_last_attempt_by_the_queues_setting_runs_alone(at_work, queue, conn):
    queue.configure(max_attempts=2)
    *_, suspect = queue.put_many(range(30))
    conn.execute("update queue_job set attempts = 1, last_error = %s where id = %s", [feeder.RAN_OUT, suspect])
    held_with: list[Any] = []

    def handle(job: Any) -> None:
        if job.id == suspect:
            with psycopg.connect(at_work.dsn) as own:
                held_with.extend(own.execute("select count(*) from queue_job where receipt is not null").fetchall())

    at_work.run(handler=handle)
    assert held_with == [(1,)]


def test_how_many_attempts_a_queue_gives_is_asked_again_where_it_could_not_be_told(database, queue, conn, monkeypatch):
    queue.configure(max_attempts=2)
    first, _ = queue.put_many(range(2))
    conn.execute("update queue_job set attempts = 1, last_error = %s", [feeder.RAN_OUT])
    alone: list[bool] = []
    may_crash = feeder.Feeder._may_crash

    def look(found: feeder.Feeder, job: Any) -> bool:
        monkeypatch.setattr(found._pq, "run", lose if job.id == first else type(found._pq).run.__get__(found._pq))
        alone.append(may_crash(found, job))
        return False

    def lose(call: Any) -> Any:
        raise errors.ConnectionLost

    monkeypatch.setattr(feeder.Feeder, "_may_crash", look)
    with works("threads", database.dsn) as made:
        made.run(handler=lambda job: None, concurrency=1, prefetch=0)
    assert alone == [False, True]


def test_a_job_that_is_to_run_alone_waits_for_what_runs(at_work, queue, held, conn, caplog):
    queue.put("slow")
    seen: list[Any] = []
    ticks = threading.Semaphore(0)

    def handle(job: Any) -> None:
        if job.data == "slow":
            held(job)
        else:
            seen.append(held.go_on.is_set())

    running = at_work.start(handler=handle)
    held.wait()
    suspect = queue.put("suspect", schedule_at="1h")
    changed = "attempts = 2, ready_at = null, last_error = %s"
    conn.execute(f"update queue_job set {changed} where id = %s", [feeder.RAN_OUT, suspect])
    wait_for(lambda: "is run alone" in caplog.text)
    running.worker.listeners.append(lambda event: ticks.release())
    for _ in range(4):  # two seconds, in which what waits would be returned otherwise
        assert ticks.acquire(timeout=PATIENCE)
    held.go_on.set()
    wait_for(lambda: queue.stats().completed == 2)
    assert seen == [True]
    assert caplog.text.count("is run alone") == 1


# Outages and health.


@pytest.fixture
def own_server(version: str, server: Any) -> Iterator[Server]:
    """A server that the test may stop."""
    own = Server(version, server.programs)
    try:
        own.create()
        with PQ(own.dsn()) as pq:
            pq.create()
        yield own
    finally:
        own.remove()


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    asking = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(asking, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_a_restart_of_the_server_is_bridged_and_told_once(own_server, kind, caplog):
    caplog.set_level(logging.WARNING, "pgq_py")
    done, go_on, began = [], threading.Event(), threading.Event()

    def handle(job: Any) -> None:
        began.set()
        assert go_on.wait(2 * PATIENCE)
        done.append(job.data)

    with works(kind, own_server.dsn()) as made, PQ(own_server.dsn()) as pq:
        pq["apples"].put("before")
        running = made.start(handler=handle)
        health = health_module.Health(running.worker, "127.0.0.1", 0)
        assert began.wait(PATIENCE)
        assert ask(health.port, "/ready")[0] == 200
        own_server.stop()
        go_on.set()  # done while there is nobody to tell
        wait_for(lambda: done == ["before"])
        wait_for(lambda: "lost the connection" in caplog.text)
        # However long it lasts, all loops turn.
        looked_at = monotonic()
        for name in running.worker.idle_for():
            wait_for(lambda name=name: monotonic() - running.worker.idle_for()[name] > looked_at, name)
        assert ask(health.port, "/live")[0] == 200
        assert ask(health.port, "/ready")[0] == 503
        own_server.start()
        with PQ(own_server.dsn()) as again:
            again["apples"].put("after")
            wait_for(lambda: again["apples"].stats().completed == 2, "the completion")
        wait_for(lambda: ask(health.port, "/ready")[0] == 200)
        running.stop()
        health.close()
    assert done == ["before", "after"]
    told = [record.message.partition(":")[0] for record in caplog.records if record.name.startswith("pgq_py")]
    assert [text for text in told if text.startswith("lost")] == [
        "lost the connection to PostgreSQL while waiting for jobs; trying to connect"
    ]


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_leases_are_kept_after_an_outage_too(own_server, kind, caplog):
    go_on = threading.Event()

    def handle(job: Any) -> None:
        if job.data == "long":
            assert go_on.wait(2 * PATIENCE)

    with works(kind, own_server.dsn()) as made:
        running = made.start(handler=handle, lease_for=1.5)
        wait_for(lambda: running.worker.is_taking)
        own_server.stop()
        wait_for(lambda: "lost the connection" in caplog.text)
        own_server.start()
        with PQ(own_server.dsn()) as pq, psycopg.connect(own_server.dsn(), autocommit=True) as conn:
            pq["apples"].put("long")

            def until() -> Any:
                found = conn.execute("select lease_until from queue_job where attempts = 1").fetchone()
                return None if found is None else found[0]

            wait_for(until)
            for _ in range(3):
                last = until()
                wait_for(lambda last=last: (until() or last) > last, "a heartbeat")
            go_on.set()
            wait_for(lambda: pq["apples"].stats().completed == 1)
        running.stop()


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_it_ends_though_the_server_is_away(own_server, kind, caplog):
    go_on, began = threading.Event(), threading.Event()

    def handle(job: Any) -> None:
        began.set()
        assert go_on.wait(2 * PATIENCE)

    with works(kind, own_server.dsn()) as made, PQ(own_server.dsn()) as pq:
        pq["apples"].put("before")
        running = made.start(handler=handle, grace=0.5)
        assert began.wait(PATIENCE)
        own_server.stop()
        go_on.set()
        running.stop()
    assert "could not be settled: their leases run out" in caplog.text


def test_health_answers_over_http(at_work, queue, held):
    queue.put(1)
    running = at_work.start(handler=held)
    health = health_module.Health(running.worker, "127.0.0.1", 0)
    held.wait()
    status, text = ask(health.port, "/live")
    assert (status, '"feed"' in text) == (200, True)
    status, text = ask(health.port, "/ready")
    assert (status, '"answers"' in text) == (200, True)
    assert ask(health.port, "/other")[0] == 404
    assert ask(health.port, "/live", "HEAD") == (200, "")
    running.worker.stop()
    wait_for(lambda: ask(health.port, "/ready")[0] == 503)
    assert ask(health.port, "/live")[0] == 200
    held.go_on.set()
    running.end()
    health.close()


def test_a_loop_that_does_not_turn_is_not_live(database, queue, monkeypatch):
    """A handler that blocks the loop of all."""
    monkeypatch.setattr(health_module, "STALE", TURN + 1)
    queue.put(1)
    go_on = threading.Event()

    async def handle(job: Any) -> None:
        go_on.wait(PATIENCE)

    with works("asyncio", database.dsn) as made:
        running = made.start(handler=handle)
        health = health_module.Health(running.worker, "127.0.0.1", 0)
        wait_for(lambda: ask(health.port, "/live")[0] == 503)
        go_on.set()
        wait_for(lambda: ask(health.port, "/live")[0] == 200)
        running.stop()
        health.close()


# What it refuses.


@pytest.mark.parametrize(
    ("queues", "options", "words"),
    [
        ((), {}, "at least one queue"),
        ({"a": 0}, {}, "the weight of 'a' is 0"),
        ("a", {"concurrency": 0}, "concurrency is 0"),
        ("a", {"prefetch": -1}, "prefetch is -1"),
        ("a", {"grace": -1}, "grace is -1"),
        ("a", {"grace": math.nan}, "grace is nan"),
        ("a", {"max_jobs": 0}, "max_jobs is 0"),
        ("a", {"lease_for": "soon"}, "'soon' is not a time"),
    ],
)
def test_options_that_make_no_sense_are_refused(queues, options, words):
    with PQ("host=/nowhere") as pq, pytest.raises(ValueError, match=words):
        Worker(pq, queues, handler=print, **options)


def test_a_handler_that_can_not_be_called_is_refused():
    with PQ("host=/nowhere") as pq, pytest.raises(TypeError, match="can't be called"):
        Worker(pq, "a", handler=3)


def test_a_pool_without_connections_to_spare_is_refused(database):
    with psycopg_pool.ConnectionPool(database.dsn, min_size=1, max_size=2) as pool:
        worker = Worker(PQ(pool=pool), "apples", handler=print)
        with pytest.raises(ValueError, match="needs three connections"):
            worker.run()


@pytest.mark.parametrize("way", ["pool", "conn"])
def test_it_works_on_a_pool_and_beside_a_connection_of_yours(database, queue, way):
    queue.put_many(range(100))
    done = []
    with (
        psycopg_pool.ConnectionPool(database.dsn, min_size=1, max_size=3) as pool,
        psycopg.connect(database.dsn) as mine,
    ):
        pq = PQ(pool=pool) if way == "pool" else PQ(mine)
        worker = Worker(pq, "apples", handler=lambda job: done.append(job.data), burst=True)
        worker.run()
    assert sorted(done) == list(range(100))
    assert queue.stats().completed == 100
    with pytest.raises(RuntimeError, match="has run before"):
        worker.run()


def test_the_server_must_be_there_at_the_beginning():
    with PQ("host=/nowhere") as pq, pytest.raises(errors.ConnectionLost):
        Worker(pq, "apples", handler=print).run()

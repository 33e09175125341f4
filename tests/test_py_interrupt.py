"""Interrupted at every line (Control-C) and at every await (a cancellation): each job is in exactly one place.

An operation is run again and again, and interrupted at its first line, its second, and so on, until it runs through.
After each time all jobs are looked for, and the connection is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dis
import functools
import gc
import os
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from time import monotonic
from types import CodeType, FrameType
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from worlds import PATIENCE, World, plain

import pgq_py
from pgq_py import PQ, failures
from pgq_py._async import listener as async_listener
from pgq_py._sync import listener as sync_listener

PACKAGE = str(Path(pgq_py.__file__).parent)
PSYCOPG = str(Path(psycopg.__file__).parent) + "/"
WAYS = ["address", "pool", "conn", "autocommit"]
# Each operation in each way is interrupted at every so many moments, from a random one on. All of them, with
# `INTERRUPT_STEP=1 python -m pytest -n 2 tests/test_py_interrupt.py`, take long: 81 of the 115 cases 24 minutes, beside
# other work.
STEP = int(os.environ.get("INTERRUPT_STEP", "40"))
pytestmark = pytest.mark.timeout(max(120, 40 * 120 // STEP))
# What Python calls when it drops a loop over `listen` that was left: for the reference to it, and to close it.
LEFT = ("Consumer.listen.<locals>.<lambda>", "Consumer._listen")
# Goes through all objects of the program when a loop was left: a moment for each.
UNCOUNTED = failures.__file__
# What an operation puts; the jobs that are there before it are 1 and 2.
PUT = [100, 101]


@functools.cache
def looked_at(code: CodeType) -> set[int]:
    """Where functions begin, or generators go on that nobody waits for in turn: the interpreter looks for signals."""
    return {step.offset for step in dis.get_instructions(code) if step.opname == "RESUME" and step.argval < 2}


@functools.cache
def unlooked(code: CodeType) -> set[int]:
    """The instructions that begin a line, and at which the interpreter looks for no signal.

    A `try:` by itself. A `with` for the second time, when its exit is about to be called. Where an exception is caught.
    """
    found = set()
    steps = [step for step in dis.get_instructions(code) if step.opname != "PRECALL"]
    for place, step in enumerate(steps):
        following = [(one.opname, one.argval) for one in steps[place : place + 3]]
        is_exit = following == [("LOAD_CONST", None)] * 3 and steps[place + 3].opname == "CALL"
        if is_exit and steps[place - 1].opname == "SWAP":
            found.add(steps[place - 1].offset)
        if is_exit or step.opname in ("NOP", "PUSH_EXC_INFO"):
            found.add(step.offset)
    return found


class Interrupter:
    """Raises KeyboardInterrupt at the n-th moment, of all moments at which Control-C can do so in the folders.

    These are the beginning of a function, of a line, and the end of a call of a function in C: what that has
    returned is lost.
    """

    def __init__(self, at: int, folders: tuple[str, ...]) -> None:
        self.left = at
        self.folders = folders
        self.where = ""
        self.is_before_exit = False
        # Python has passed it to nobody, as it came while a loop over `listen` that was left was dropped.
        self.is_swallowed = False
        # The functions in which there was a moment.
        self.visited: set[str] = set()

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        before, hook = sys.gettrace(), sys.unraisablehook

        def note(told: Any) -> None:
            if told.exc_type is not KeyboardInterrupt:
                hook(told)
            self.is_swallowed = any(name in repr(told) for name in LEFT)

        # What an earlier run has left is not to be collected in this one.
        gc.disable()
        sys.unraisablehook = note
        sys.settrace(self._at_line)
        sys.setprofile(self._after_call)
        try:
            yield
        finally:
            sys.settrace(before)
            sys.setprofile(None)
            sys.unraisablehook = hook
            gc.enable()

    def _at_line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not self._is_ours(frame.f_code):
            return None
        code, place = frame.f_code, frame.f_lasti
        # The line at which a function begins is no other moment than its beginning.
        if (event == "call" and place in looked_at(code)) or (
            event == "line" and place not in unlooked(code) and place - 2 not in looked_at(code)
        ):
            self._strike(frame, event)
        return self._at_line

    def _after_call(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_return" and self._is_ours(frame.f_code):
            self._strike(frame, event)

    def _is_ours(self, code: CodeType) -> bool:
        return code.co_filename.startswith(self.folders) and code.co_filename != UNCOUNTED

    def _strike(self, frame: FrameType, event: str) -> None:
        self.visited.add(frame.f_code.co_qualname)
        self.left -= 1
        if self.left == 0:
            # Python has called the exit of somebody's block, which has not begun: nothing of ours can know. If the
            # block is ours, our frame around it does.
            caller = frame.f_back
            self.is_before_exit = (event, frame.f_code.co_name) == ("call", "__exit__") and not (
                caller is not None and caller.f_code.co_filename.startswith(PACKAGE)
            )
            self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name} ({event})"
            sys.settrace(None)
            sys.setprofile(None)
            raise KeyboardInterrupt


class CancelAt:
    """An awaitable that cancels its task at some of its suspensions.

    Args:
        coroutine: what to run.
        moments: the numbers of the suspensions.
        late: when what was waited for has come, before the task is told; otherwise before it comes.
    """

    def __init__(self, coroutine: Any, moments: set[int], late: bool) -> None:
        self._steps = coroutine.__await__()
        self._moments = moments
        self._late = late
        self.count = 0

    def __await__(self) -> Any:
        error: BaseException | None = None
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                waited = self._steps.send(None) if error is None else self._steps.throw(error)
            except StopIteration as done:
                return done.value
            self.count += 1
            if self.count in self._moments:
                if self._late and waited is not None:
                    waited.add_done_callback(lambda _: task.cancel())
                else:
                    task.cancel()
            error = None
            try:
                yield waited
            except BaseException as raised:
                error = raised


# --- the operations: what they are given, and what they do with it


class Given:
    """What an operation works with, and what it says of the jobs."""

    def __init__(self, pq: Any) -> None:
        self.pq = pq
        self.queue = pq["apples"]
        # Jobs delivered for good; with a lease; and those that are to be completed now: gone, or still there.
        self.seen: list[Any] = []
        self.leased: list[Any] = []
        self.settled: list[Any] = []


Operation = Callable[[Given], Awaitable[None]]
OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__] = function
    return function


@operation
async def put(given: Given) -> None:
    await given.queue.put(100)


@operation
async def put_with_key(given: Given) -> None:
    await given.queue.put(100, dedupe_key="k", priority=1)


@operation
async def put_many(given: Given) -> None:
    await given.queue.put_many(PUT)


@operation
async def get(given: Given) -> None:
    given.seen.append(await given.queue.get())


@operation
async def get_nowait(given: Given) -> None:
    given.seen.append(await given.queue.get_nowait())


@operation
async def get_many(given: Given) -> None:
    given.seen += await given.queue.get_many(5)


@operation
async def get_of_a_set(given: Given) -> None:
    given.seen.append(await given.pq["apples", "pears"].get())


@operation
async def get_nothing(given: Given) -> None:
    assert await given.pq["pears"].get(timeout=0.001) is None


@operation
async def get_woken(given: Given) -> None:
    given.seen.append(await given.pq["plums"].get(timeout=PATIENCE))


@operation
async def get_in_a_transaction_woken(given: Given) -> None:
    async with given.pq.transaction() as cursor:
        job = await given.pq["plums"].get(timeout=PATIENCE)
        await cursor.execute("insert into done values (%s)", [job.data])


@operation
async def get_what_cannot_be_read(given: Given) -> None:
    assert await given.pq["bad/pickle"].get(timeout=0.001) is None


@operation
async def iterate(given: Given) -> None:
    async with contextlib.aclosing(given.queue.__aiter__()) as jobs:
        async for job in jobs:
            given.seen.append(job)
            if len(given.seen) == 2:
                break


@operation
async def consume(given: Given) -> None:
    async with contextlib.aclosing(given.queue.consume(timeout=0.001)) as jobs:
        async for job in jobs:
            given.seen.append(job)


@operation
async def lease(given: Given) -> None:
    given.leased.append(await given.queue.lease())


@operation
async def lease_many(given: Given) -> None:
    given.leased += await given.queue.lease_many(5)


@operation
async def lease_woken(given: Given) -> None:
    given.leased.append(await given.pq["plums"].lease(timeout=PATIENCE))


@operation
async def settle(given: Given) -> None:
    """Complete, error, release and progress."""
    given.leased += await given.queue.lease_many(2)
    first, second = given.leased
    given.settled.append(first)
    await first.progress(1)
    await first.complete()
    if not await second.error("no", retry_in=0):
        raise AssertionError
    given.leased.append(await given.queue.lease())
    await given.leased[-1].release()


@operation
async def with_job(given: Given) -> None:
    given.leased.append(await given.queue.lease())
    given.settled += given.leased
    (job,) = given.leased
    async with job as data:
        assert data == job.data


@operation
async def keep_alive(given: Given) -> None:
    given.leased.append(await given.queue.lease())
    (job,) = given.leased
    async with job.keep_alive():
        pass
    given.settled.append(job)
    await job.complete()


@operation
async def take(given: Given) -> None:
    async with given.queue.take() as job, given.pq.transaction() as cursor:
        await cursor.execute("insert into done values (%s)", [job.data])


@operation
async def take_nothing(given: Given) -> None:
    async with given.pq["pears"].take(timeout=0.001) as job:
        assert job is None


@operation
async def take_woken(given: Given) -> None:
    async with given.pq["plums"].take(timeout=PATIENCE) as job, given.pq.transaction() as cursor:
        await cursor.execute("insert into done values (%s)", [job.data])


@operation
async def listen(given: Given) -> None:
    async with contextlib.aclosing(given.queue.listen(timeout=0.001)) as jobs:
        async for job in jobs:
            async with given.pq.transaction() as cursor:
                await cursor.execute("insert into done values (%s)", [job.data])


@operation
async def listen_and_leave(given: Given) -> None:
    async for _ in given.queue.listen():
        break


@operation
async def block(given: Given) -> None:
    async with given.queue as cursor:
        await given.queue.put_many(PUT)
        job = await given.queue.get()
        await cursor.execute("insert into done values (%s)", [job.data])
        async with given.queue:
            await given.queue.cancel(0)


# --- where the jobs are afterwards


class Scene:
    """A way to use the queue, jobs in it, and after an operation a look at where they are."""

    def __init__(self, world: World, way: str, database: Any) -> None:
        self.world = world
        self.way = way
        self.admin = database.connect()
        self.admin.execute("set synchronous_commit to off")
        self.admin.execute("create table done (n int)")
        self.pq: Any = None
        self.conn: Any = None
        self.pool: Any = None
        self.closed = 0
        self.put_while_asleep = 0

    async def open(self) -> None:
        if self.pool is not None:
            await self.pool.close()
        if self.way == "pool":
            self.pool = await self.world.pool(min_size=2, max_size=2)
            self.pq = self.world.pq(pool=self.pool)
        elif self.way == "address":
            self.pq = self.world.pq()
        else:
            self.conn = await self.world.connect(autocommit=self.way == "autocommit")
            self.pq = self.world.pq(self.conn)
        # The first call also looks at the version: then all runs have the same moments.
        await self.pq["after"].count()

    async def begin(self) -> Given:
        if self.pq is None or (self.conn is not None and self.conn.closed):
            await self.open()
        self.put_while_asleep = 0
        self.admin.execute(
            "delete from queue_job; delete from queue_dead; delete from done; "
            "select queue_put_many('apples', '{1,2}'); select queue_put('bad/pickle', '{\"not\": \"a pickle\"}')"
        )
        return Given(self.pq)

    def asleep(self) -> None:
        """Somebody falls asleep; on the queue of plums that is the moment for a job."""
        if not self.put_while_asleep:
            # Psycopg's lines here are ours, not the operation's.
            trace, profile = sys.gettrace(), sys.getprofile()
            sys.settrace(None)
            sys.setprofile(None)
            self.put_while_asleep = 1
            self.admin.execute("select queue_put('plums', '3')")
            sys.settrace(trace)
            sys.setprofile(profile)

    async def end(self, given: Given, where: str, is_unknown: bool = False) -> None:
        """Each job is in one place, or in none where that is unknown, and the connection usable, or closed."""
        await self._await_ends()
        self._account(given, where, is_unknown)
        if self.conn is not None and self.conn.closed:
            self.closed += 1
        elif self.conn is not None:
            info = self.conn.info
            assert info.transaction_status == TransactionStatus.IDLE, where
            assert self.conn.autocommit == (self.way == "autocommit"), where
        assert self._held() == [], where
        if self.conn is None or not self.conn.closed:
            await self._use(where)

    async def _await_ends(self) -> None:
        """Connections that were closed: until their sessions have ended."""
        until = monotonic() + PATIENCE
        while self._held() and monotonic() < until:
            await asyncio.sleep(0.002) if not self.world.is_sync else None

    def _open_transactions(self) -> list[Any]:
        return self.admin.execute(
            "select pid, state, query from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid() and backend_type = 'client backend' and state <> 'idle'"
        ).fetchall()

    def _held(self) -> list[Any]:
        return (
            self._open_transactions()
            + self.admin.execute(
                "select pid, classid, objid from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid() "
                "and database = (select oid from pg_database where datname = current_database())"
            ).fetchall()
        )

    def _account(self, given: Given, where: str, is_unknown: bool) -> None:
        rows = self.admin.execute(
            "select data, ready_at from (select * from queue_list('apples', scheduled => true) union all "
            "select * from queue_list('plums', scheduled => true)) as job"
        ).fetchall()
        done = [n for (n,) in self.admin.execute("select n from done")]
        dead = [data for (data,) in self.admin.execute("select data from queue_dead_list('apples')")]
        seen, with_lease, settled = ([job.data for job in jobs] for jobs in (given.seen, given.leased, given.settled))
        found = sorted([data for data, _ in rows] + done + dead + seen)
        there = [n for n in [1, 2] + [3] * self.put_while_asleep if n in found or not (is_unknown or n in settled)]
        put = [n for n in found if n in PUT]
        assert put in ([], [100], PUT), (where, found)
        assert [n for n in found if n not in PUT] == there, (where, found, seen, done, dead)
        leased = [data for data, ready_at in rows if ready_at is not None]
        # One that nobody knows of runs out.
        assert is_unknown or set(leased) <= set(with_lease), (where, "leased, and with nobody", leased)
        bad = self.admin.execute(
            "select (select count(*) from queue_list('bad/pickle'))"
            " + (select count(*) from queue_dead_list('bad/pickle'))"
        ).fetchone()
        assert bad == (1,), (where, bad)

    async def _use(self, where: str) -> None:
        queue = self.pq["after"]
        await queue.put("still works")
        assert (await queue.get(block=False)).data == "still works", where
        if self.conn is not None:
            cursor = await self.conn.execute("select count(*) from pg_listening_channels()")
            assert await cursor.fetchone() == (0,), where
            await self.conn.rollback()
        if self.pool is not None:
            both = [await self.pool.getconn(PATIENCE) for _ in range(2)]
            for conn in both:
                await self.pool.putconn(plain(conn))

    async def renew(self) -> None:
        """As if the process had ended."""
        gc.collect()
        self.admin.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        if self.conn is not None:
            await self.conn.close()
        await self.open()


@pytest.fixture
async def scene(request: pytest.FixtureRequest, database: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    name, way = request.param
    world = World(name, database.dsn)
    scene = Scene(world, way, database)
    sync_sleep, async_sleep = sync_listener.Listener.sleep, async_listener.AsyncListener.sleep

    def sleep(self: Any, seconds: float) -> bool:
        if "plums" in self._queues:
            scene.asleep()
        return sync_sleep(self, seconds)

    async def sleep_async(self: Any, seconds: float) -> bool:
        if "plums" in self._queues:
            scene.asleep()
        return await async_sleep(self, seconds)

    monkeypatch.setattr(sync_listener.Listener, "sleep", sleep)
    monkeypatch.setattr(async_listener.AsyncListener, "sleep", sleep_async)
    yield scene
    await world.close()


def interrupted(given: Given, function: Operation, interrupter: Interrupter) -> None:
    """Run it in a context of its own, as a program that ends takes its context with it."""

    def run() -> None:
        steps = function(given).__await__()
        with interrupter.tracing(), contextlib.suppress(StopIteration):
            steps.send(None)

    try:
        contextvars.Context().run(run)
        assert not interrupter.where or interrupter.is_swallowed, f"{interrupter.where} was swallowed"
    except KeyboardInterrupt:
        assert interrupter.where


async def interrupt_everywhere(scene: Scene, function: Operation, folders: tuple[str, ...], step: int) -> set[str]:
    """In which functions that was."""
    for n in count(1 + random.randrange(step), step):
        given = await scene.begin()
        interrupter = Interrupter(n, folders)
        interrupted(given, function, interrupter)
        if interrupter.is_before_exit:
            await scene.renew()
        await scene.end(given, f"{function.__name__} {n} {interrupter.where}")
        if not interrupter.where:
            return interrupter.visited
    raise AssertionError


# A connection that an interruption takes between the list of idle ones and its user is closed by being collected.
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
@pytest.mark.parametrize("scene", [("sync", way) for way in WAYS], indirect=True, ids=WAYS)
@pytest.mark.parametrize("name", OPERATIONS)
async def test_control_c_at_any_line_loses_and_doubles_nothing(scene, name):
    visited = await interrupt_everywhere(scene, OPERATIONS[name], (PACKAGE,), STEP)
    assert visited >= {"Session._run_once", "Execution._execute"}


@pytest.mark.parametrize("end", ["exhausted", "closed"])
def test_a_loop_over_listen_that_is_over_runs_nothing_when_it_is_dropped(database, end):
    """There a Control-C would be lost."""
    with PQ(database.dsn) as pq:
        jobs = pq["apples"].listen(timeout=0.001)
        if end == "exhausted":
            assert list(jobs) == []
        else:
            pq["apples"].put(1)
            next(jobs)
            jobs.close()
        interrupter = Interrupter(1, (PACKAGE,))
        with interrupter.tracing():
            del jobs
        assert interrupter.where == ""


# Of psycopg's own lines: those between the server's answer and ours. Its transactions and its pool are its to keep
# whole: see docs/design/interruptions.md.
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
@pytest.mark.parametrize("scene", [("sync", way) for way in WAYS if way != "pool"], indirect=True)
@pytest.mark.parametrize("name", ["put", "get", "get_woken", "lease", "settle"])
async def test_control_c_at_any_line_of_psycopg_loses_and_doubles_nothing(scene, name):
    visited = await interrupt_everywhere(scene, OPERATIONS[name], (PACKAGE, PSYCOPG), STEP)
    assert visited >= {"Session._run_once", "Execution._execute", "Connection.wait", "PrepareManager.get"}


# --- asyncio: cancelled at every await


async def cancelled(scene: Scene, function: Operation, moments: set[int], late: bool) -> tuple[Given, int]:
    """Run it in a task that is cancelled at these suspensions; what was given to it, and how many there were."""
    given = await scene.begin()
    steps = CancelAt(function(given), moments, late)

    async def run() -> None:
        await steps

    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.create_task(run())
    return given, steps.count


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("scene", [("async", way) for way in WAYS], indirect=True, ids=WAYS)
@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_cancellation_at_any_await_loses_and_doubles_nothing(scene, name, late):
    for n in count(1):
        given, suspensions = await cancelled(scene, OPERATIONS[name], {n}, late)
        await scene.end(given, f"{name} {n}")
        if suspensions < n:
            break
    assert n > 1


@pytest.mark.parametrize("apart", [1, 2])
@pytest.mark.parametrize("scene", [("async", way) for way in WAYS], indirect=True, ids=WAYS)
@pytest.mark.parametrize("name", ["put", "get", "get_many", "get_woken", "lease", "take", "block"])
async def test_a_second_cancellation_is_borne_or_the_log_says_what_nobody_knows(scene, name, apart, caplog):
    for n in count(1):
        caplog.clear()
        given, suspensions = await cancelled(scene, OPERATIONS[name], {n, n + apart}, late=False)
        is_unknown = "before the server's answer: whether jobs were taken nobody knows" in caplog.text
        await scene.end(given, f"{name} {n} and {n + apart}", is_unknown)
        if suspensions < n:
            break
    assert n > 1

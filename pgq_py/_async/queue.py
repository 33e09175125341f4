"""A queue, and a set of queues: putting, taking, waiting, looking."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import socket
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar, Unpack, overload

import psycopg

from ..calls import Call, Exported, JobId, Right, Settings, Stats, Taken, check_count, check_name
from ..codecs import JSON, Codec, Payload, Serializer, SerializerCodec, StoredCodec
from ..errors import CommitUnknown, ConnectionLost, DecodeError, Empty, Error, NotInTransaction, TransferError
from ..failures import LoopFailed, caller_of, describe, is_interruption, leaving, left_by_exception
from ..functions import TaskOptions
from ..times import Duration, When
from ..transfer import Header, Moved, Trailer, header, job_line, read_line, trailer
from .job import AsyncDeadJob, AsyncJob
from .listener import AsyncListener
from .task import AsyncTask
from .transaction import AsyncTransaction, opened_by
from .use import AsyncTaking, AsyncUse

if TYPE_CHECKING:
    from .client import AsyncPQ
    from .session import AsyncSession

log = logging.getLogger("pgq_py")

# Jobs in one call of put_many: about 5 MB of small jobs, and one statement's worth of patience. Of large jobs only so
# many characters or bytes and the last job: libpq moves what is left to send at each step (300 MB took 35 s), and at
# 1 GB the server hangs up.
BATCH = 10_000
BATCH_LENGTH = 2**23

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

# Methods are named as users expect, and so `list` is one of them.
Jobs: TypeAlias = list[AsyncJob]
DeadJobs: TypeAlias = list[AsyncDeadJob]
Ids: TypeAlias = list[JobId]
Payloads: TypeAlias = list[Payload]
Rights: TypeAlias = list[Right]
Exports: TypeAlias = list[Exported]

# An argument that was not given, where None means something.
_KEEP: Any = object()


# What takes the jobs: the next call is made where the one before gave none. Its arguments say whether it may
# promote, and what to listen to no more if there are any.
MakeCalls: TypeAlias = Callable[[bool, Sequence[str]], Iterator[Call[list[Taken]]]]

# Of a set this many are asked first: to send a thousand names costs more than to take the job.
FIRST_ASKED = 16


class AsyncConsumer(ABC):
    """What a queue and a set of queues have in common: taking jobs, and transactions."""

    def __init__(self, pq: AsyncPQ) -> None:
        self._pq = pq
        self.timeout: float = 1
        """Seconds that iteration waits before it yields None."""

    @abstractmethod
    def _order(self) -> tuple[str, ...]:
        """The names to ask, the first to be asked first."""

    @abstractmethod
    def _member(self, name: str) -> AsyncQueue:
        """The queue that decodes this queue's jobs."""

    async def get(self, block: bool = True, timeout: float | None = None) -> AsyncJob | None:
        """Take the next job.

        On an idle connection the job is gone for good when this returns; inside a transaction when
        that commits.

        Args:
            block: wait for a job if there is none.
            timeout: seconds to wait at most; None waits for ever.

        Inside a transaction it waits with the transaction open, and looks every half second at most:
        to wait, `take` is better.

        Where a PQ has an address or a pool, waiting outlasts the connection: when that is lost while nothing
        was taken, it connects again and goes on.

        Returns:
            The job, or None if there was none in time.

        Raises:
            CannotWait: it would wait inside a transaction above READ COMMITTED.
            ConnectionLost: the connection is gone: it was yours, or the time was over before there was another.
            CommitUnknown: it was lost on the way of a job, which may be gone: lease it, or `take`, where that
                must not be.
        """
        return await self._deliver(self._get_calls(1), block, timeout, _first)

    async def get_nowait(self) -> AsyncJob:
        """Take the next job at once.

        Raises:
            Empty: there is none; also a `queue.Empty`.
        """
        return await self._deliver(self._get_calls(1), False, None, _first_or_empty)

    async def get_many(self, count: int, block: bool = False, timeout: float | None = None) -> Jobs:
        """Take up to COUNT jobs at once, in one round trip; a single one of a large set of queues may need two.

        Args:
            count: how many at most.
            block: wait until there is at least one.
            timeout: seconds to wait at most; None waits for ever.

        Returns:
            The jobs in their order, an empty list if there were none in time.

        Raises:
            ValueError: a count below 1 or above 100,000.
        """
        check_count(count)
        return await self._deliver(self._get_calls(count), block, timeout, _all)

    def _in_parts(self, count: int) -> Iterator[tuple[str, ...]]:
        """The names to ask, in one call after the other, until there is something."""
        yield self._order()

    def _get_calls(self, count: int) -> MakeCalls:
        return lambda promote, unlisten: (
            self._pq.calls.get(names, count, promote, unlisten) for names in self._in_parts(count)
        )

    async def lease(
        self,
        lease_for: Duration | None = None,
        *,
        consumer: str | None = None,
        block: bool = True,
        timeout: float | None = None,
    ) -> AsyncJob | None:
        """Lease the next job: hold it for a time, in no transaction.

        For work of more than a second or so. `job.complete()` removes it, or `with job as data:`
        does at its end. Not completed, the job comes back when the lease runs out, so its work may
        be done more than once: by a consumer that was too slow, and by the next.

        Args:
            lease_for: for how long: a timedelta, seconds, or text such as "5m". None: as the queue
                says (`configure`), or 5 minutes.
            consumer: a name for whoever works on it; None: host and process.
            block: wait for a job if there is none.
            timeout: seconds to wait at most; None waits for ever.

        Returns:
            The job, or None if there was none in time.
        """
        return await self._deliver(self._lease_calls(1, lease_for, consumer), block, timeout, _first, is_lease=True)

    async def lease_many(
        self,
        count: int,
        lease_for: Duration | None = None,
        *,
        consumer: str | None = None,
        block: bool = False,
        timeout: float | None = None,
    ) -> Jobs:
        """Lease up to COUNT jobs at once, in one round trip; a single one of a large set of queues may need two.

        Args:
            count: how many at most.

        The other arguments are those of `lease`; by default it does not wait.

        Returns:
            The jobs in their order, an empty list if there were none in time.

        Raises:
            ValueError: a count below 1 or above 100,000.
        """
        check_count(count)
        return await self._deliver(self._lease_calls(count, lease_for, consumer), block, timeout, _all, is_lease=True)

    def _lease_calls(self, count: int, lease_for: Duration | None, consumer: str | None) -> MakeCalls:
        name = _consumer_of(os.getpid()) if consumer is None else consumer
        return lambda promote, unlisten: (
            self._pq.calls.lease(names, count, lease_for, name, promote, unlisten) for names in self._in_parts(count)
        )

    async def _deliver(
        self,
        make: MakeCalls,
        block: bool,
        timeout: float | None,
        form: Callable[[Jobs], T],
        is_lease: bool = False,
    ) -> T:
        """Take jobs, and return what the form makes of them; or give them back, if that does not reach the caller.

        To be returned at once: a line between this and the caller is one at which an interruption loses them.
        While it waits, it outlasts the connection where there can be another.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            use = AsyncUse(self._pq, _left(deadline))
            try:
                jobs = await self._take_or_wait(use, make, may_wait(block, timeout), deadline)
                await use.close()
                return form(jobs)
            except BaseException as error:
                await use.let_go(error)
                # A lease that nobody knows of runs out; a job that was taken would be gone.
                is_lost = isinstance(error, ConnectionLost) and (is_lease or not isinstance(error, CommitUnknown))
                if not (block and is_lost and await self._pq.reconnect(error, _left(deadline), use.over)):
                    raise

    async def _take_or_wait(self, use: AsyncUse, make: MakeCalls, waits: bool, deadline: float | None) -> Jobs:
        session = await use.open()
        jobs = await self._take(use, session, make)
        if jobs or not waits:
            return jobs

        async def attempt(unlisten: Sequence[str] = ()) -> Jobs:
            return await self._take(use, session, make, unlisten)

        async def woken() -> Jobs:
            return await listener.last(attempt)

        listener = await use.listen(session, self._order())
        return await self._until(listener, attempt, deadline, woken)

    async def _take(self, use: AsyncUse, session: AsyncSession, make: MakeCalls, unlisten: Sequence[str] = ()) -> Jobs:
        """Take jobs that can be read; those that can't go to the dead. If it gives any, stop to listen."""
        while True:
            promote = await session.is_own()
            rows: list[Taken] = []
            # A commit that fails brings LISTEN back, but not the lock by which putters see who sleeps.
            listen = self._pq.calls.listen(unlisten) if unlisten else None
            for call in make(promote, unlisten):
                taking = use.taking = AsyncTaking(promote)
                if call.traced is None:
                    rows = await session.run(call, taking.outcome, listen)
                else:
                    with call.traced() as plain:
                        rows = await session.run(plain, taking.outcome, listen)
                if rows:
                    break
            jobs = []
            for row in rows:
                try:
                    job = AsyncJob(self._member(row.queue), row)
                    job._joined = not promote
                    _ = job.data  # what can't be read must be known before the caller has it
                    jobs.append(job)
                except DecodeError as error:
                    await self._bury(session, taking, row, str(error))
            if jobs or not rows:
                return jobs
            if listen is not None:
                await session.run(listen)

    async def _bury(self, session: AsyncSession, taking: AsyncTaking, row: Taken, reason: str) -> None:
        log.warning("job %s of queue %r goes to the dead: %s", row.id, row.queue, reason)
        calls, receipt = self._pq.calls, row.raw("receipt")
        if receipt is None:
            await session.run(calls.bury(row, reason), taking.going(row))
        else:
            await session.run(calls.error(row.queue, row.id, receipt, reason, bury=True), taking.going(row))

    async def _until(
        self,
        listener: AsyncListener,
        attempt: Callable[[], Awaitable[Jobs]],
        deadline: float | None,
        woken: Callable[[], Awaitable[Jobs]] | None = None,
    ) -> Jobs:
        """Repeat the attempt until it gives jobs or the time is over, asleep in between.

        The order is the whole point: listening first, then the next due time, then the attempt.
        What comes due or is committed after its step ends the sleep. `woken` is made instead after a notification.
        """
        is_woken = False
        while True:
            if is_woken and (jobs := await (woken or attempt)()):
                return jobs
            pause = await listener.wait()
            jobs = await attempt()
            left = _left(deadline)
            if jobs or left <= 0:
                return jobs
            is_woken = await listener.sleep(min(left, pause))

    # `x in queue` would take job after job to compare it with x.
    __contains__ = None

    async def __aiter__(self) -> AsyncGenerator[AsyncJob | None, None]:
        """Take job after job, each gone when it is yielded; None after `timeout` idle seconds, and on.

        Also while the server is out of reach, once it has been reached.
        """
        while True:
            try:
                # In one line: see `_deliver`.
                yield await self.get(timeout=self.timeout)
            except ConnectionLost as error:
                if isinstance(error, CommitUnknown) or not self._pq.can_reconnect():
                    raise
                yield None

    async def consume(self, timeout: float | None = None) -> AsyncGenerator[AsyncJob, None]:
        """Take job after job, each gone when it is yielded; end when idle for TIMEOUT seconds.

        None goes on for ever.
        """
        with suppress(Empty):
            while True:
                # In one line: see `_deliver`.
                yield await self._deliver(self._get_calls(1), True, timeout, _first_or_empty)

    def take(self, block: bool = True, timeout: float | None = None) -> AsyncTake:
        """A context with one job, in a transaction: `with queue.take() as job`.

        The job is gone when the block ends. An exception rolls back, and is then recorded as a failed
        attempt: the job comes back after a pause, or goes to the dead if its attempts are used up
        (`configure`); Control-C and cancellation just return it. `job` is None if there was none in
        time. What is put inside belongs to the same transaction.
        """
        return AsyncTake(self, block, timeout)

    def listen(self, timeout: float | None = None) -> AsyncGenerator[AsyncJob, None]:
        """Job after job, each in a transaction of its own as in `take`.

        Breaking out of the loop gives the current job back; an exception in it is recorded as in `take`
        (if the loop is over `queue.listen()` itself, not over a variable that outlives it). Ends when
        idle for TIMEOUT seconds; None goes on for ever.
        """
        current = _Current()
        jobs = self._listen(timeout, current)
        # A loop that is left drops the generator, and asyncio closes it a little later. What the
        # loop's owner puts in between must not join the transaction that is then rolled back.
        current.watch = weakref.ref(jobs, lambda _: current.abandon())
        return jobs

    async def _listen(self, timeout: float | None, current: _Current) -> AsyncGenerator[AsyncJob, None]:
        try:
            while True:
                take = current.take = self.take(timeout=timeout)
                try:
                    async with take as job:
                        if job is None:
                            return
                        yield job
                except BaseException as error:
                    await take.let_go(error)  # an interruption can come before the first line of an exit
                    raise
        finally:
            # What Python calls for a reference passes no Control-C on. Of a loop that is over there is nothing to note.
            current.watch = None

    async def __aenter__(self) -> psycopg.AsyncCursor[Any]:
        """Begin a transaction, or a savepoint in the open one; gives a psycopg cursor."""
        return await AsyncTransaction(self._pq, opener=self).__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Commit, or roll back after an exception."""
        transaction = None
        try:
            transaction = opened_by(self)
            return await transaction.__aexit__(kind, error, trace)
        except BaseException as raised:
            await (transaction or opened_by(self)).abandon(raised)
            raise


class _Current:
    """The take that a `listen` is in, and a reference that says when the loop over it was left."""

    take: AsyncTake | None = None
    watch: object = None

    def abandon(self) -> None:
        """The loop was left: the transaction is over, though nobody has ended it yet."""
        if self.take is not None and self.take._transaction is not None:
            self.take._transaction.abandoned = True
            # Two frames above: this is called by the lambda that the reference calls.
            self.take._failure = left_by_exception(caller_of(2))
            if self.take._span is not None:
                # Now: the event loop closes the generator in another context, and this one would keep the span.
                span, self.take._span = self.take._span, None
                failed = self.take._failure is not None
                span.__exit__(LoopFailed if failed else None, LoopFailed() if failed else None, None)


class AsyncTake:
    """The context that `take` makes."""

    def __init__(self, consumer: AsyncConsumer, block: bool, timeout: float | None) -> None:
        self._consumer = consumer
        self._block = block
        self._timeout = timeout
        self._transaction: AsyncTransaction | None = None
        self._job: AsyncJob | None = None
        self._failure: str | None = None
        self._span: AbstractContextManager[None] | None = None
        # The connection and, if we had to wait, the listening on it: both outlast the transaction.
        self._use = AsyncUse(consumer._pq)

    async def __aenter__(self) -> AsyncJob | None:
        """Wait for a job outside of any transaction of ours, so that an idle consumer holds nothing back."""
        deadline = None if self._timeout is None else monotonic() + self._timeout
        while True:
            try:
                self._job = await self._take(deadline)
                tracing = self._consumer._pq.tracing
                if tracing is not None and self._job is not None:
                    self._span = tracing.process(self._job)
                    self._span.__enter__()
                return self._job
            except BaseException as error:
                await self.let_go(error)
                is_lost = isinstance(error, ConnectionLost)  # whatever was taken is back
                pq, use = self._consumer._pq, self._use
                if not (self._block and is_lost and await pq.reconnect(error, _left(deadline), use.over)):
                    raise

    async def _take(self, deadline: float | None) -> AsyncJob | None:
        self._transaction = None
        self._use = AsyncUse(self._consumer._pq, _left(deadline))
        session = await self._use.open()

        async def attempt() -> Jobs:
            return await self._attempt(session)

        jobs = await attempt()
        if not jobs and may_wait(self._block, self._timeout):
            listener = await self._use.listen(session, self._consumer._order())
            jobs = await self._consumer._until(listener, attempt, deadline)
        return _first(jobs)

    async def _attempt(self, session: AsyncSession) -> Jobs:
        transaction = self._transaction = AsyncTransaction(self._consumer._pq, session=session)
        await transaction.__aenter__()
        jobs = await self._consumer._take(AsyncUse(self._consumer._pq), session, self._consumer._get_calls(1))
        if not jobs:
            await transaction.__aexit__(None, None, None)
            self._transaction = None
        return jobs

    async def let_go(self, error: BaseException) -> None:
        """Roll back what is open, and give the connection back. May be repeated; does nothing where all is over."""
        span, self._span = self._span, None
        try:
            if span is not None:
                span.__exit__(type(error), error, error.__traceback__)
            if self._transaction is not None:
                await self._transaction.abandon(error)
        finally:
            await self._use.close(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Commit; or roll back after an exception, and record it."""
        if self._span is not None:
            span, self._span = self._span, None
            with leaving(span, error):
                return await self.__aexit__(kind, error, trace)
        try:
            return await self._finish(kind, error, trace)
        except BaseException as raised:
            await self.let_go(raised)
            raise

    async def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        transaction = self._transaction
        try:
            return None if transaction is None else await transaction.__aexit__(kind, error, trace)
        except BaseException as raised:
            error = raised  # by the commit: the job is back, too
            if transaction is not None:
                await transaction.abandon(error)
            raise
        finally:
            try:
                await self._use.close()
            finally:
                # Only now: the connection may be the last one of a pool.
                await self._record(error)

    async def _record(self, error: BaseException | None) -> None:
        """After the rollback: a failed attempt of the job."""
        job, failure = self._job, self._failure
        if error is not None and not is_interruption(error):
            failure = describe(error)
        if job is None or error is None or failure is None:
            return
        pq = self._consumer._pq
        try:
            if not await pq.run(pq.calls.error(job.queue, job.id, None, failure)):
                log.warning("a failed attempt of job %s of queue %r was not counted: others have it", job.id, job.queue)
        except (Error, psycopg.Error) as failed:
            error.add_note(f"this could not be recorded with job {job.id}: {failed}")


class AsyncQueue(AsyncConsumer):
    """One queue. Made by `pq["apples"]` or `pq.queue("apples", serializer=...)`."""

    def __init__(self, pq: AsyncPQ, name: str, *, serializer: Serializer | None = None, raw: bool = False) -> None:
        super().__init__(pq)
        self.name = check_name(name)
        if raw and serializer is not None:
            raise ValueError("a raw queue has no serializer")
        if serializer is None and name.endswith("/pickle"):
            serializer = pickle
        self.codec: Codec
        if raw:
            self.codec = StoredCodec()
        else:
            self.codec = JSON if serializer is None else SerializerCodec(serializer, pq.keys, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _order(self) -> tuple[str, ...]:
        return (self.name,)

    def _member(self, name: str) -> AsyncQueue:
        return self

    async def put(
        self,
        data: Any,
        schedule_at: When | None = None,
        expected_at: When | None = None,
        *,
        priority: int = 0,
        dedupe_key: str | None = None,
        headers: Any = None,
        max_attempts: int | None = None,
        notify: bool = True,
    ) -> JobId:
        """Put a job into the queue.

        On an idle connection it is durable when this returns; inside a transaction, when that commits.

        Args:
            data: anything JSON can hold, or what the queue's serializer takes.
            schedule_at: it can't be taken before this: an aware datetime, a timedelta from now, or
                text such as "90s", "5m", "1h", "2d". What has passed means now.
            expected_at: when it should be worked on; of two jobs of one priority the one expected
                earlier comes first, one without expectation last. The same kinds of time.
            priority: higher comes first.
            dedupe_key: while a job with this key is in the queue, nothing is stored and its id returned.
            headers: JSON for the consumer that is not the data.
            max_attempts: how often it may be tried; None as the queue says.
            notify: False for a transaction to be prepared (two-phase commit), which can't notify.

        Returns:
            The job's id, an int; its `is_new` is False where the dedupe_key was in the queue already.

        Raises:
            QueueFull, PayloadTooLarge: beyond the queue's limits (`configure`).
            CommitUnknown: the connection was lost at a moment when nobody can say whether the job is in the
                queue. With a dedupe_key the put can be repeated.
            PayloadError: the data can't be stored; a ValueError.
            TimeError: a time that is naive, infinite or not understood; a ValueError.
        """
        return await self._pq.run(
            self._pq.calls.put(
                self.name,
                self.codec.encode(data),
                schedule_at,
                expected_at,
                priority,
                dedupe_key,
                headers,
                max_attempts,
                notify,
            )
        )

    async def put_many(
        self,
        items: Iterable[Any],
        schedule_at: When | None = None,
        expected_at: When | None = None,
        *,
        priority: int = 0,
        dedupe_keys: Iterable[str | None] | None = None,
        headers: Any = None,
        max_attempts: int | None = None,
        notify: bool = True,
    ) -> Ids:
        """Put many jobs at once: all of them or none.

        Args:
            items: the data of each job. Read in steps, so a long iterator needs little memory.
            dedupe_keys: a key for each job, None for no key.

        The other arguments are those of `put`, and hold for each job.

        Returns:
            The jobs' ids, in the order of the items.
        """
        batches, keys = self._batches(items), None if dedupe_keys is None else iter(dedupe_keys)
        # The next batch is read before one is put: a single batch needs no transaction of ours.
        batch, following = next(batches, None), next(batches, None)
        options = (schedule_at, expected_at, priority, headers, max_attempts, notify)
        if following is None:
            return await self._put_batch(batch or [], keys, True, *options)
        ids: Ids = []
        async with self._pq.transaction():
            while batch is not None:
                ids += await self._put_batch(batch, keys, following is None, *options)
                batch, following = following, next(batches, None)
        return ids

    def _batches(self, items: Iterable[Any]) -> Iterator[Payloads]:
        """The items as they are stored, as many at a time as one call puts."""
        batch: Payloads = []
        length = 0
        for data in items:
            payload = self.codec.encode(data)
            batch.append(payload)
            length += len(payload.json or payload.text or payload.bytes or ())
            if len(batch) == BATCH or length > BATCH_LENGTH:
                yield batch
                batch, length = [], 0
        if batch:
            yield batch

    async def _put_batch(
        self,
        payloads: Payloads,
        keys: Iterator[str | None] | None,
        last: bool,
        schedule_at: When | None,
        expected_at: When | None,
        priority: int,
        headers: Any,
        max_attempts: int | None,
        notify: bool,
    ) -> Ids:
        dedupe_keys = None if keys is None else list(islice(keys, len(payloads)))
        if dedupe_keys is not None and len(dedupe_keys) < len(payloads):
            raise ValueError("there are fewer dedupe_keys than items: give one for each, None for no key")
        if keys is not None and last and list(islice(keys, 1)):
            raise ValueError("there are more dedupe_keys than items: give one for each, None for no key")
        return await self._pq.run(
            self._pq.calls.put_many(
                self.name,
                payloads,
                schedule_at,
                expected_at,
                priority,
                dedupe_keys,
                headers,
                max_attempts,
                notify,
            )
        )

    def _sibling(self, name: str) -> AsyncQueue:
        """The queue of another name, its data stored and read as here."""
        serializer = self.codec.serializer if isinstance(self.codec, SerializerCodec) else None
        return AsyncQueue(self._pq, name, serializer=serializer)

    def _through(self, given: Any) -> AsyncQueue:
        """The same queue through another connection.

        Args:
            given: a connection or cursor of psycopg's, a connection or session of SQLAlchemy's, Django's connection,
                or a PQ; or a queue, which is returned.
        """
        if isinstance(given, AsyncQueue):
            return given
        made = copy.copy(self)
        made._pq = self._pq._through(given)
        return made

    @overload
    def task(self, function: Callable[P, R], /) -> AsyncTask[P, R]: ...

    @overload
    def task(
        self, function: None = None, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[P, R]], AsyncTask[P, R]]: ...

    @overload
    def task(
        self, function: None = None, /, *, bind: Literal[True], **options: Unpack[TaskOptions]
    ) -> Callable[[Callable[Concatenate[AsyncJob, P], R]], AsyncTask[P, R]]: ...

    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a function a task: to call it puts a job, and a worker calls the function.

            @queue.task
            def eat(kind): ...

            @queue.task(priority=5, retry_in={OSError: "10s"})
            def drink(kind): ...

        Args:
            function: to be called by the worker; may be a coroutine function.
            bind: the function has the job as its first argument.
            schedule_at, expected_at, priority, max_attempts: of each of its jobs, as for `put`.
            retry_in: how long a job pauses after a failed attempt: a timedelta, seconds, or text such as "5m". Or a
                mapping of classes of exceptions to that. None, and for what the mapping lacks: as the queue says.
            bury_on: the class or classes of exceptions after which there is no other attempt: the job goes to the
                dead. Of these and those of retry_in the class nearest to the exception's own counts.
            lease_for: for how long a worker holds a job of it at a time; None: as the queue says.
            name: by which its jobs find it; None: the function's module and name. As long as there are jobs it must
                not change.

        Raises:
            ValueError: the function has no name that is the same everywhere, and was given none; or another function
                is the task of this name.
            TypeError: an option that there is not, or a function that can't be one: a generator, a task.
            TimeError: a time that is not understood; a ValueError.
        """

        def decorate(function: Callable[..., Any]) -> AsyncTask[..., Any]:
            task = AsyncTask[..., Any](self, function, **options)
            self._pq.tasks.add(task)
            return task

        return decorate if function is None else decorate(function)

    async def work(self, burst: bool = False, **options: Any) -> None:
        """Do the jobs of this queue's tasks, in a worker in this process.

        Args:
            burst: end when nothing is left that can be done now; by default it goes on for ever.
            options: those of `AsyncWorker`: concurrency, lease_for, grace and so on.
        """
        from .worker import AsyncWorker  # which imports this module

        await AsyncWorker(self._pq, self, burst=burst, **options).run()

    async def update(self, id: int, data: Any) -> bool:
        """Replace the data of a job that is in the queue.

        Returns:
            False if there is no such job, or it is being taken at this moment.
        """
        return await self._pq.run(self._pq.calls.update(self.name, id, self.codec.encode(data)))

    async def cancel(self, id: int) -> bool:
        """Remove a job before anybody takes it.

        Returns:
            False if there is no such job, or it is being taken at this moment.
        """
        return await self._pq.run(self._pq.calls.cancel(self.name, id))

    async def list(self, scheduled: bool = False, *, count: int | None = None) -> Jobs:
        """The jobs in the order in which they would be taken, left where they are.

        Args:
            scheduled: also those that wait for their time.
            count: at most this many; None lists all.
        """
        taken = await self._pq.run(self._pq.calls.listing(self.name, scheduled, count))
        return [AsyncJob(self, row) for row in taken]

    async def _list_in_pages(self, scheduled: bool, count: int | None) -> AsyncGenerator[AsyncJob, None]:
        """As `list`, in the open transaction and once in it, with a few of the jobs in memory at a time."""
        calls = self._pq.calls
        await self._pq.run(calls.list_declared(self.name, scheduled, count))
        size = 10
        while page := await self._pq.run(calls.list_fetched(self.name, size)):
            for row in page:
                yield AsyncJob(self, row)
            size = _next_count(size, sum(row.payload.size for row in page))

    async def count(self, scheduled: bool = False) -> int:
        """How many jobs could be taken now; with SCHEDULED, how many there are in all."""
        return await self._pq.run(self._pq.calls.count(self.name, scheduled))

    # sync: def __len__(self) -> int:
    # sync:     """How many jobs could be taken now."""
    # sync:     return self.count()

    # sync: def __bool__(self) -> bool:
    # sync:     """A queue is true, empty or not."""
    # sync:     return True

    async def clear(self) -> int:
        """Remove all jobs, the scheduled ones too; returns how many."""
        return await self._pq.run(self._pq.calls.clear(self.name))

    async def stats(self) -> Stats:
        """What is in the queue."""
        return (await self._pq.run(self._pq.calls.stats(self.name)))[0]

    async def next_at(self) -> datetime | None:
        """When the next waiting job comes due, None if none waits."""
        return await self._pq.run(self._pq.calls.next_at(self.name))

    async def create(self) -> bool:
        """Make the queue known by name before its first job; True if it was not."""
        return await self._pq.run(self._pq.calls.create(self.name))

    async def configure(
        self,
        *,
        max_attempts: int | None = _KEEP,
        lease_for: Duration | None = _KEEP,
        retry_in: Duration | None = _KEEP,
        max_depth: int | None = _KEEP,
        max_bytes: int | None = _KEEP,
        keep_dead_for: Duration | None = _KEEP,
    ) -> None:
        """Change settings of the queue, for all its users; None sets the default again.

        Args:
            max_attempts: how often a job may be tried before it goes to the dead; 5 by default.
            lease_for: how long a lease lasts; 5 minutes by default.
            retry_in: how long a job pauses after its first failed attempt; 10 seconds by default. Doubled
                with each attempt up to six hours, times a random number between a half and one and a half.
            max_depth: how many jobs the queue may hold, all kinds but the dead; no limit by default.
            max_bytes: how large the data of a job may be, JSON as text; no limit by default.
            keep_dead_for: how long dead jobs are kept; for ever by default.

        Lengths of time are timedeltas, seconds, or text such as "5m".

        Raises:
            psycopg.errors.InvalidParameterValue: a value out of range; also an `Error`.
        """
        given = {
            "max_attempts": max_attempts,
            "lease_for": lease_for,
            "retry_in": retry_in,
            "max_depth": max_depth,
            "max_bytes": max_bytes,
            "keep_dead_for": keep_dead_for,
        }
        settings = {name: value for name, value in given.items() if value is not _KEEP}
        await self._pq.run(self._pq.calls.create(self.name, **settings))

    async def settings(self) -> Settings:
        """The settings that hold, the defaults among them."""
        return await self._pq.run(self._pq.calls.settings(self.name))

    async def dead(
        self,
        *,
        ids: Sequence[int] | None = None,
        reason_like: str | None = None,
        died_after: datetime | None = None,
        died_before: datetime | None = None,
        count: int | None = None,
    ) -> DeadJobs:
        """The jobs that are out of attempts, can't be read, or were buried; in the order in which they died.

        Args:
            ids: these jobs only.
            reason_like: only those whose reason matches this pattern of SQL's LIKE, "%timeout%" for example.
            died_after, died_before: only those that died at or after, or before, these times.
            count: this many at most; None gives all.
        """
        rows = await self._pq.run(
            self._pq.calls.dead(self.name, listed(ids), reason_like, died_after, died_before, count)
        )
        return [AsyncDeadJob(self, row) for row in rows]

    async def redrive(
        self,
        *,
        ids: Sequence[int] | None = None,
        reason_like: str | None = None,
        died_after: datetime | None = None,
        died_before: datetime | None = None,
        count: int | None = None,
    ) -> int:
        """Put dead jobs back into the queue, all or those chosen as in `dead`; returns how many are back.

        They keep their ids and history, and may be tried as often as new ones. One whose dedupe_key
        another job in the queue has by now stays among the dead.
        """
        return await self._pq.run(
            self._pq.calls.redrive(self.name, listed(ids), reason_like, died_after, died_before, count)
        )

    async def delete_dead(
        self,
        *,
        ids: Sequence[int] | None = None,
        reason_like: str | None = None,
        died_after: datetime | None = None,
        died_before: datetime | None = None,
        count: int | None = None,
    ) -> int:
        """Remove dead jobs for good, all or those chosen as in `dead`; returns how many."""
        return await self._pq.run(
            self._pq.calls.delete_dead(self.name, listed(ids), reason_like, died_after, died_before, count)
        )

    async def export_jobs(self, *, take: bool = False) -> AsyncGenerator[str, None]:
        """All that is in the queue, as lines for `import_jobs`: its settings, its jobs and its dead jobs.

        The jobs are left where they are, and what others do meanwhile may be in it or not. In a transaction
        of REPEATABLE READ (on a connection of yours) it is what there was at its beginning.

        Args:
            take: also remove the jobs, in the open transaction: commit when the lines are where they can't be
                lost. Jobs that a consumer holds stay, and are not in it.

        Raises:
            NotInTransaction: to take, there must be one.
        """
        if take and await self._pq.is_own():
            raise NotInTransaction("export_jobs(take=True) belongs into a transaction: with pq.transaction(): ...")
        yield header(self.name, await self.settings(), datetime.now(UTC))
        counts = [0, 0]
        for dead in (False, True):
            async for page in self._pages(dead, take):
                counts[dead] += len(page)
                for exported in page:
                    yield job_line(exported)
        yield trailer(sum(counts), counts[True])

    async def _pages(self, dead: bool, take: bool) -> AsyncGenerator[Exports, None]:
        """The jobs or the dead in the order of their ids, about as much at a time as one call puts."""
        after: int | None = None
        count = 100
        while page := await self._pq.run(self._pq.calls.export(self.name, after, count, dead, take)):
            yield page
            after, size = page[-1].id, sum(exported.payload.size for exported in page)
            count = _next_count(count, size)

    async def import_jobs(self, lines: Iterable[str], *, append: bool = False) -> Moved:
        """Store what `export_jobs` gave, of this queue or of another: all of it or nothing.

        The jobs get new ids. Where the queue has no settings yet, it gets those of the other.

        Args:
            lines: read in steps, so that a long file needs little memory.
            append: add to what is in the queue; jobs whose dedupe_key is in it already are left out. By default
                a queue that was ever used is refused, so that to import twice puts nothing twice.

        Returns:
            How many jobs were stored (`jobs`), how many of them among the dead (`dead`), and how many were
            left out (`skipped`).

        Raises:
            psycopg.errors.ObjectNotInPrerequisiteState: the queue was used before; also an `Error`.
            TransferError: the lines are not those of an export, or not all.
        """
        counts = [0, 0, 0]
        async with self._pq.transaction():
            for batch in self._imports(lines):
                if isinstance(batch, Header):
                    if await self.create():
                        await self.configure(**batch.settings)
                    continue
                ids = await self._pq.run(self._pq.calls.import_(self.name, batch, append))
                append = True
                for exported, id in zip(batch, ids, strict=True):
                    counts[0 if id.is_new else 2] += 1
                    counts[1] += exported.is_dead
        return Moved(*counts)

    def _imports(self, lines: Iterable[str]) -> Iterator[Header | Exports]:
        """The header, and the jobs, as many at a time as one call puts; the first batch may be empty."""
        batch: Exports = []
        jobs = dead = length = 0
        begun = ended = False
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            read = read_line(line, number)
            if ended or begun is isinstance(read, Header):
                raise TransferError(f"line {number} is not where it belongs in an export: one file has one queue")
            if isinstance(read, Header):
                begun = True
                yield read
            elif isinstance(read, Trailer):
                ended = True
                if read != (jobs, dead):
                    raise TransferError(f"the file should hold {read.jobs} jobs, and holds {jobs}: lines are missing")
            else:
                jobs, dead, length = jobs + 1, dead + read.is_dead, length + len(line)
                batch.append(read)
                if len(batch) == BATCH or length > BATCH_LENGTH:
                    yield batch
                    batch, length = [], 0
        if not ended:
            raise TransferError("the end of the file is missing: nothing was imported")
        if batch or not jobs:
            yield batch

    async def pause(self) -> bool:
        """Puts go on, but nothing can be taken until `resume`; True if it was not paused."""
        return await self._pq.run(self._pq.calls.pause(self.name))

    async def resume(self) -> bool:
        """End the pause and wake the consumers; True if it was paused."""
        return await self._pq.run(self._pq.calls.resume(self.name))

    async def grant(self, role: str, privilege: str) -> bool:
        """Give a role a right on this queue: to "put", "get", "observe" or "manage"; True if it is new.

        Only the owner of the queue's functions can. The right is on the name: `drop` leaves it.
        """
        return await self._pq.run(self._pq.calls.grant(self.name, role, privilege))

    async def revoke(self, role: str, privilege: str | None = None) -> bool:
        """Take a right on this queue from a role, or all of them; True if it had any.

        A right on all queues stays, and so does what the role may as a member of another.
        """
        return await self._pq.run(self._pq.calls.revoke(self.name, role, privilege))

    async def rights(self) -> Rights:
        """The rights on this queue and on all queues: everybody's for the owner, else one's own."""
        return await self._pq.run(self._pq.calls.rights(self.name))

    async def drop(self) -> bool:
        """Remove the queue with all that is in it; True if there was anything."""
        return await self._pq.run(self._pq.calls.drop(self.name))


class AsyncQueueSet(AsyncConsumer):
    """Several queues taken from in turn: `pq["a", "b"]`. `job.queue` names the source."""

    def __init__(self, pq: AsyncPQ, names: Sequence[str]) -> None:
        super().__init__(pq)
        if not names:
            raise ValueError("a set of queues has at least one")
        self._members = {name: pq[name] for name in names}
        self._names = tuple(self._members)
        self._places = {name: place for place, name in enumerate(self._names)}
        self._turn = 0
        # Whether the last job came from the queue that was asked first.
        self._at_once = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._members)} queues>"

    def _order(self) -> tuple[str, ...]:
        turn = self._turn  # once: threads may share the set
        return self._names[turn:] + self._names[:turn]

    def _in_parts(self, count: int) -> Iterator[tuple[str, ...]]:
        # While all have jobs it is as fast as one queue; where few have any, the first call finds most of them.
        first = len(self._names) if count > 1 else 1 if self._at_once else FIRST_ASKED
        names = self._order()
        yield names[:first]
        self._at_once = False
        if len(names) > first:
            yield names[first:]

    def _member(self, name: str) -> AsyncQueue:
        # The queue after the one that gave is asked first next time.
        place = self._places[name]
        self._at_once = place == self._turn
        self._turn = (place + 1) % len(self._names)
        return self._members[name]


def _left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - monotonic()


def _first(jobs: Jobs) -> AsyncJob | None:
    return jobs[0] if jobs else None


def _first_or_empty(jobs: Jobs) -> AsyncJob:
    if not jobs:
        raise Empty("there is no job to take")
    return jobs[0]


def _all(jobs: Jobs) -> Jobs:
    return jobs


def may_wait(block: bool, timeout: float | None) -> bool:
    """Whether a call that found nothing may wait for more."""
    return block and (timeout is None or timeout > 0)


@cache
def _consumer_of(pid: int) -> str:
    """The name of a consumer that was given none."""
    return f"{socket.gethostname()}:{pid}"


def listed(ids: Sequence[int] | None) -> list[int] | None:
    """What psycopg passes as an array."""
    return None if ids is None else [int(id) for id in ids]


def _next_count(count: int, size: int) -> int:
    """How many jobs to ask for when COUNT were SIZE bytes: about as much at a time as one call puts."""
    return min(max(count * BATCH_LENGTH // max(size, 1), 1), 10 * count, 1000)

"""A job, as it was taken, leased, listed or found among the dead."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from ..calls import COLUMNS, Call, Taken
from ..codecs import JSON, Payload
from ..errors import Error, LeaseLost, NotLeased
from ..failures import describe, is_interruption, leaving
from ..times import Duration, length
from .keeper import AsyncKeeper
from .transaction import AsyncTransaction, innermost

if TYPE_CHECKING:
    from .queue import AsyncQueue


_UNREAD = object()


class AsyncJob:
    """A job: taken from a queue, leased, or listed in it.

    A leased job is a context: `with job as data` completes it at the end; an exception is kept as
    its error, and passes on.

    Attributes:
        id: its number, unique in the queue.
        queue: the name of its queue.
        data: what was put. Of a job that was listed and can't be read: raises `DecodeError`.
        size: of the stored data, in bytes.
        priority: higher comes first.
        enqueued_at, schedule_at, expected_at: aware datetimes; the last two may be None.
        attempts, max_attempts: how often it was tried (a lease counts from its beginning), and may
            be (None: as the queue says).
        last_error, progress_count, consumer: from the last attempt.
        dedupe_key, headers: as put.
        ready_at: of a job that was listed and waits: when it may be taken, if nothing happens before.
        receipt, lease_until, lease_for: of its lease; None if it was not leased. The first two
            are those of the beginning.
    """

    __slots__ = (
        "_data",
        "_depth",
        "_is_lost",
        "_joined",
        "_payload",
        "_queue",
        "_receipt",
        "_settled",
        "_span",
        "_taken",
        "_until",
        "attempts",
        "consumer",
        "dedupe_key",
        "enqueued_at",
        "expected_at",
        "headers",
        "id",
        "last_error",
        "lease_for",
        "lease_until",
        "max_attempts",
        "priority",
        "progress_count",
        "queue",
        "ready_at",
        "receipt",
        "schedule_at",
    )

    # Read from the row when they are first looked at.
    priority: int
    enqueued_at: datetime
    schedule_at: datetime | None
    expected_at: datetime | None
    attempts: int
    max_attempts: int | None
    last_error: str | None
    progress_count: int | None
    consumer: str | None
    dedupe_key: str | None
    ready_at: datetime | None
    receipt: UUID | None
    lease_until: datetime | None
    lease_for: timedelta | None

    def __init__(self, queue: AsyncQueue, taken: Taken) -> None:
        self._queue = queue
        self._taken = taken
        # Stored since.
        self._payload: Payload | None = None
        # Completed, failed or returned; in an open transaction for as long as that is not rolled back.
        self._settled = False
        # How many `with job` are entered.
        self._depth = 0
        # Of the outermost of these, where the PQ is traced.
        self._span: AbstractContextManager[None] | None = None
        # Leased in a transaction that was open: until that commits nobody else can see the lease.
        self._joined = False
        # A worker's heartbeat found that the lease is no longer good.
        self._is_lost = False
        self.id: int = taken.id
        self.queue: str = taken.queue
        self._data: Any = _UNREAD
        self.headers: Any = taken.headers
        self._receipt = taken.raw("receipt")
        if self._receipt is not None:
            lease_for = self.lease_for = taken.value("lease_for")
            # When the lease ends at the earliest, by our clock.
            self._until = monotonic() + lease_for.total_seconds()
        else:
            self._until = 0.0

    # Hidden from type checkers, which would take any name for an attribute.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A column that was not looked at before."""
            if name not in COLUMNS or name not in AsyncJob.__slots__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = self._taken.value(name)
            setattr(self, name, value)
            return value

    @property
    def data(self) -> Any:
        """What was put."""
        if self._data is _UNREAD:
            self._data = self._queue.codec.decode(self._taken.payload)
        return self._data

    # sync: @data.setter
    # sync: def data(self, data: Any) -> None:
    # sync:     """Store other data: `update`, but a lease that is lost raises `LeaseLost`."""
    # sync:     if not self.update(data) and self._receipt is not None:
    # sync:         self._lost("its data was not replaced")

    async def update(self, data: Any) -> bool:
        """Store other data in the job.

        Of a leased job, or one that was listed. One that was taken in a transaction leaves with it,
        so its new data is nowhere but here; after a rollback the job is as it was.

        Returns:
            False if the lease is no longer good, or the job is not in the queue.

        Raises:
            PayloadError: the data can't be stored; a ValueError.
        """
        payload = self._queue.codec.encode(data)
        done = await self._queue._pq.run(self._queue._pq.calls.update(self.queue, self.id, payload, self._receipt))
        if done or self._receipt is None:
            self._payload, self._data = payload, data
        return done

    @property
    def lost(self) -> bool:
        """The lease is no longer good: somebody else may have the job. Long work may look now and then, and stop.

        Known from heartbeats (a worker's, or `progress`), or because the lease ran out by our clock.
        """
        return self._is_lost or (self._receipt is not None and not self._settled and monotonic() > self._until)

    @property
    def size(self) -> int:
        """Of the stored data, in bytes."""
        return (self._taken.payload if self._payload is None else self._payload).size

    async def complete(self) -> bool:
        """The leased job is done: remove it.

        In an open transaction (`with queue:`) it is removed when that commits, together with what
        else was written there.

        Returns:
            False if the lease is no longer good: somebody else may have the job. Also if it was
            completed before.

        Raises:
            NotLeased: the job is not leased.
        """
        return await self._settle(self._queue._pq.calls.complete(self.queue, self.id, self._held()))

    async def error(self, message: str | None = None, retry_in: Duration | None = None, *, bury: bool = False) -> bool:
        """The attempt has failed: the job goes back, or among the dead if its attempts are used up.

        Args:
            message: why; its last 2,000 characters are kept with the job.
            retry_in: how long until it may be taken again: a timedelta, seconds, or text such as
                "5m". None: as the queue says (`configure`), longer with each attempt.
            bury: put it among the dead whatever its attempts: it can never succeed.

        Returns:
            False if the lease is no longer good.

        Raises:
            NotLeased: the job is not leased.
        """
        return await self._settle(
            self._queue._pq.calls.error(self.queue, self.id, self._held(), message, retry_in, bury)
        )

    async def release(self) -> bool:
        """Return the leased job at once, as if it had not been taken: the attempt does not count.

        Returns:
            False if the lease is no longer good.

        Raises:
            NotLeased: the job is not leased.
        """
        return await self._settle(self._queue._pq.calls.release(self.queue, self.id, self._held()))

    async def progress(self, count: int | None = None, lease_for: Duration | None = None) -> bool:
        """Extend the lease, and note how far the work is.

        Args:
            count: any number, to be seen as `progress_count`; None leaves it as it is.
            lease_for: the lease ends this long from now; None: as long as it lasted at first, and no
                earlier than it would have.

        Returns:
            False if the lease is no longer good: stop working, somebody else may have the job.

        Raises:
            NotLeased: the job is not leased.
        """
        receipt, begun = self._held(), monotonic()
        lease = self._extension() if lease_for is None else length("lease_for", lease_for)
        assert lease is not None  # as what it was made from
        done = await self._queue._pq.run(self._queue._pq.calls.progress(self.queue, self.id, receipt, count, lease))
        self._is_lost = not done and not self._settled
        if done:
            self._until = begun + lease.total_seconds()
            if count is not None:
                self.progress_count = count
        return done

    def _extension(self) -> timedelta:
        """For how long to extend the lease, so that it ends no earlier than it would have."""
        assert self.lease_for is not None  # of a leased job
        return max(self.lease_for, timedelta(seconds=self._until - monotonic()))

    def keep_alive(self, every: float | None = None) -> AsyncKeeper:
        """A context that keeps the lease alive, so that long work needs no calls of `progress`.

        A thread (in the asynchronous package a task) extends the lease now and then, on a connection
        of its own, and has ended when the block has:

            with job as data, job.keep_alive():
                work_for_hours(data)

        A process that stops or dies keeps nothing alive; one that hangs does, for as long as it is
        in the block.

        Args:
            every: seconds between heartbeats; by default a third of the lease.

        Raises:
            NotLeased: the job is not leased.
            LeaseLost: at the end of the block, if the lease was lost meanwhile.
            ValueError: EVERY is not above 0, or not below the length of the lease.
        """
        return AsyncKeeper(self._queue._pq, self, self._held(), every)

    async def __aenter__(self) -> Any:
        """The data of the leased job.

        Raises:
            LeaseLost: the job was completed, failed or returned before.
        """
        self._held()
        if self._settled:
            raise LeaseLost(f"job {self.id} was completed, failed or returned before: lease it again")
        data = self.data
        self._depth += 1
        tracing = self._queue._pq.tracing
        if tracing is not None and self._depth == 1:
            self._span = tracing.process(self)
            self._span.__enter__()
        return data

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the job, unless that or something else was done with it inside; after an exception: error.

        Inside a transaction (`with queue as cursor, job as data:`) it is completed when that commits;
        an exception, also one of that commit, is recorded after the rollback. In a block inside
        another one of the same job it is left to the outer one. Control-C and cancellation are not the
        job's fault: it is released.

        Raises:
            LeaseLost: the lease ran out before the end: the work may be done again, or twice.
        """
        if self._span is not None and self._depth == 1:
            span, self._span = self._span, None
            with leaving(span, error):
                return await self.__aexit__(kind, error, trace)
        self._depth -= 1
        transaction = innermost(self._queue._pq)
        if error is not None:
            if self._depth == 0:
                await self._record_after(transaction, error)
            return
        if not self._settled:
            if not await self.complete():
                self._lost("it was not completed")
            if transaction is not None:
                transaction.on_rollback(self._undone_in(transaction))

    def _undone_in(self, transaction: AsyncTransaction) -> Callable[[BaseException], None]:
        def undone(error: BaseException) -> None:
            async def record() -> None:
                await self._record(error)

            if self._depth == 0:
                transaction.after(record)

        return undone

    async def _record_after(self, transaction: AsyncTransaction | None, error: BaseException) -> None:
        async def record() -> None:
            await self._record(error)

        if transaction is None:
            await record()
        else:
            transaction.after(record)  # in it, the record would be rolled back as well

    async def _record(self, error: BaseException) -> None:
        # What was done inside may have been rolled back since. If not, its receipt is no longer good.
        was_settled = self._settled
        try:
            if not await self._queue._pq.is_own():
                error.add_note(f"recorded with job {self.id} in the open transaction: its rollback would lose that")
            done = await (self.release() if is_interruption(error) else self.error(describe(error)))
            if not done and not was_settled:
                error.add_note(f"the lease of job {self.id} was lost before this error: it was not recorded")
        except Error as failed:
            if not was_settled:
                error.add_note(f"this could not be recorded with job {self.id}: {failed}")

    async def _settle(self, call: Call[bool]) -> bool:
        done = await self._queue._pq.run(call)
        if done:
            self._settled = True
            transaction = innermost(self._queue._pq)
            if transaction is not None:
                transaction.on_rollback(self._unsettle)
        return done

    def _unsettle(self, error: BaseException) -> None:
        self._settled = False

    def _held(self) -> bytes:
        if self._receipt is None:
            raise NotLeased(
                f"job {self.id} is not leased: one that `get` or `take` gave is done when its transaction "
                "commits; use queue.lease()"
            )
        return self._receipt

    def _lost(self, what: str) -> NoReturn:
        raise LeaseLost(
            f"the lease of job {self.id} ran out, or the job was cancelled: {what}. "
            "Lease for longer (lease_for), or extend the lease (progress, keep_alive)"
        )

    def __repr__(self) -> str:
        # Without the data: it may be large, or nobody's business in a log.
        return f"<{type(self).__name__} {self.id} of {self.queue!r}>"


class AsyncDeadJob(AsyncJob):
    """A job among the dead.

    Attributes:
        died_at: when; an aware datetime.
        reason: why.
        history: its failed attempts, the latest last: dicts with "attempt" (its number), "at" (when it
            ended, as text), "consumer" and "error".
    """

    __slots__ = ("died_at", "history", "reason")

    def __init__(self, queue: AsyncQueue, taken: Taken) -> None:
        super().__init__(queue, taken)
        self.died_at: datetime = taken.value("died_at")
        self.reason: str = taken.value("reason")
        history = taken.value("history")
        self.history: list[dict[str, Any]] = [] if history is None else JSON.decode(Payload(json=history))

    async def redrive(self) -> bool:
        """Put the job back into its queue; False if it is not among the dead any more, or its key is taken."""
        return bool(await self._queue.redrive(ids=[self.id]))

    async def delete(self) -> bool:
        """Remove the job for good; False if it is not among the dead any more."""
        return bool(await self._queue.delete_dead(ids=[self.id]))

"""Sleeping until there may be something to take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from .._compat import async_sleep, jitter
from ..errors import CannotWait, ConnectionBusy, ConnectionLost, Error, translate
from .session import SLICE, AsyncSession

if TYPE_CHECKING:
    from .client import AsyncPQ

T = TypeVar("T")

# However it is woken, a consumer looks again after this many seconds: a notification decides nothing.
POLL = 2.0
# Where listening can't work it looks this often, more rarely the longer nothing comes.
POLL_FIRST, POLL_LAST = 0.02, 0.5
# How often a sleeper lets go of a connection that others share, for long enough that they get it: a lock of Python's
# does not queue.
SHARED_SLICE, GAP = 0.05, 0.001


class AsyncListener:
    """Listens on the channels of some queues from `start` to `stop`.

    On the connection of the session when that is idle, else on another one where there is one. A
    transaction that is open, a host's connection, or one through a pooler gets no notifications: then it polls.
    """

    def __init__(self, pq: AsyncPQ, session: AsyncSession, queues: tuple[str, ...]) -> None:
        self._pq = pq
        self._session = session
        self._queues = queues
        # What it listens on, and that if it is not the given one.
        self._on: AsyncSession | None = None
        self._another: AsyncSession | None = None
        self._is_over = False
        self._heard = 0
        self._pause = POLL_FIRST

    async def start(self) -> None:
        """Start to listen. Committed when it returns: what commits after that wakes us.

        Raises:
            CannotWait: inside a transaction above READ COMMITTED, where nothing new will ever be seen.
        """
        conn = await self._session.connection()
        hosted = self._session.source.host is not None
        if conn.info.transaction_status == TransactionStatus.IDLE and not hosted:
            self._on = self._session
        else:
            level = await self._session.run(self._pq.calls.isolation())
            if not level.startswith("read "):
                raise CannotWait(
                    f"this transaction is at {level.upper()}, and sees no job that is put after it began: "
                    "use block=False, or wait for the job outside of it"
                )
            if hosted:
                return
            self._another = AsyncSession(self._session.source)
            if not await self._another.source.acquire_another(self._another):
                return
            self._on = self._another
        if await self._is_pooled(self._on):
            await self._give_up()
            return
        listening = self._on.listening
        async with listening.lock:
            # First: an interruption may come when the server listens already.
            listening.sleepers.add(self)
            await self._on.run(self._pq.calls.listen(self._queues))
        self._heard = listening.heard

    async def _is_pooled(self, session: AsyncSession) -> bool:
        source = session.source
        return await source.look_for_pooler(session) if source.is_pooled is None else source.is_pooled

    async def last(self, attempt: Callable[[Sequence[str]], Awaitable[list[T]]]) -> list[T]:
        """Make an attempt that, where it gives anything, stops to listen in the same round trip."""
        if self._on is not self._session:
            return await attempt(())
        async with self._session.listening.lock:
            found = await attempt(self._over(self._session))
            if found:
                self._session.listening.sleepers.discard(self)
        return found

    async def wait(self) -> float:
        """How many seconds to sleep at most, from before the next look into the queues."""
        call = self._pq.calls.wait(self._queues)
        due = [await self._session.run(call)]
        if self._on is not None and self._on is not self._session:
            try:
                due.append(await self._on.run(call))  # the one that listens knows whom it may miss
            except ConnectionLost:
                await self._give_up()  # the transaction has a connection of its own, and goes on
        return min((time.total_seconds() for time in due if time is not None), default=POLL)

    async def sleep(self, seconds: float) -> bool:
        """Sleep until a notification comes, but no longer than this or the poll interval; whether one came."""
        if self._on is None:
            pause = min(seconds, jitter(self._pause))
            self._pause = min(POLL_LAST, 2 * self._pause)
            await async_sleep(pause)
            self._pq.check_open()
            return False
        conn, listening = await self._on.connection(), self._on.listening
        until = monotonic() + min(seconds, POLL)
        slice = SHARED_SLICE if self._on.is_shared else SLICE
        while (left := until - monotonic()) > 0:
            try:
                # To its end, not until the first: a generator left half-way keeps the connection locked.
                async for _ in conn.notifies(timeout=min(left, slice), stop_after=1):
                    listening.heard += 1
            except psycopg.Error as error:
                if self._on is not self._session and conn.closed:
                    await self._give_up()
                    return False
                raise translate(error, schema=self._pq.schema, lost=conn.closed) from error
            if listening.heard != self._heard:
                self._heard = listening.heard
                return True
            self._pq.check_open()
            if self._on.is_shared:
                await async_sleep(GAP)
        return False

    async def _give_up(self) -> None:
        """Poll from now on: listening is in vain on this connection."""
        self._on = None
        if self._another is not None:
            await self._another.close()

    async def stop(self, after: BaseException | None = None) -> None:
        """Stop to listen, and leave the connection as it was. May be repeated, after an interruption.

        Args:
            after: what has ended the call. An interruption does not wait for a server that does not answer:
                the connection is closed, as it would listen on.
        """
        # Not a word to the server where the connection is closed anyway: it may be out of reach, and nobody knows yet.
        if self._on is not None and not self._is_over and not self._on.source.ends_connections:
            self._on.is_hurried = after is not None and not isinstance(after, Exception)
            # Whoever waited may have a job by now: no failure here shall keep it from him.
            try:
                await self._stop(self._on)
            except ConnectionBusy:
                # Else the connection would listen on, and keep in memory what it hears.
                holder = self._on.source.holder
                if holder is None:
                    await self._stop_later()
                else:
                    holder.after(self._stop_later)
            except (Error, psycopg.Error):
                self._on.listening.sleepers.discard(self)
                if self._on.is_hurried:
                    await (await self._on.connection()).close()
            finally:
                self._on.is_hurried = False
            self._is_over = True
        if self._another is not None:
            await self._another.close()

    async def _stop_later(self) -> None:
        """When the transaction that had the connection for itself is over; it may be another task's."""
        if self._on is not None:
            with suppress(Error, psycopg.Error):
                await self._stop(self._on)
            self._on.listening.sleepers.discard(self)

    async def _stop(self, session: AsyncSession) -> None:
        listening = session.listening
        async with listening.lock:
            over = self._over(session)
            if over:
                await session.run(self._pq.calls.unlisten(over))
            listening.sleepers.discard(self)
        if not listening.sleepers:
            # What came meanwhile is ours, and would wait in memory for whoever has the connection next.
            conn = await session.connection()
            async for _ in conn.notifies(timeout=0):
                listening.heard += 1
        self._is_over = True

    def _over(self, session: AsyncSession) -> list[str]:
        """Our queues that nobody else on the connection listens to."""
        sleepers = session.listening.sleepers
        if self not in sleepers:
            return []  # `last` has done it
        others = [other._queues for other in sleepers if other is not self]
        return [queue for queue in self._queues if not any(queue in queues for queues in others)]

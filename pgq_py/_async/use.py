"""What a call holds until its result has reached the caller: a connection, a listening, jobs."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from ..calls import Taken
from ..errors import ConnectionBusy, Error, TransactionAborted
from .listener import AsyncListener
from .session import AsyncOutcome, AsyncSession, is_alive

if TYPE_CHECKING:
    from .client import AsyncPQ

log = logging.getLogger("pgq_py")

_BURIED = "taken by a call that was interrupted before it had the job, and could not be put again: %s"
_KEY_TAKEN = "another job with its dedupe_key is in the queue by now"


class AsyncTaking:
    """One take: the jobs that it gave, and where those have gone that shall not reach the caller.

    Args:
        is_own: it was a transaction of its own, not part of an open one.
    """

    __slots__ = ("gone", "is_own", "outcome")

    def __init__(self, is_own: bool) -> None:
        self.is_own = is_own
        self.outcome: AsyncOutcome[list[Taken]] = AsyncOutcome()
        # By id, noted before the statement is sent: that it was done is known from its outcome.
        self.gone: dict[tuple[str, int], list[AsyncOutcome[Any]]] = {}

    def going(self, row: Taken) -> AsyncOutcome[Any]:
        """For the outcome of a statement that brings a job to the dead, or back."""
        outcome: AsyncOutcome[Any] = AsyncOutcome()
        self.gone.setdefault((row.queue, row.id), []).append(outcome)
        return outcome

    def left(self) -> list[Taken]:
        """The jobs that have left the queue and are nowhere else."""
        if not self.outcome.is_done:
            return []
        return [
            row
            for row in self.outcome.result()
            if not any(_has_gone(outcome) for outcome in self.gone.get((row.queue, row.id), ()))
        ]


def _has_gone(outcome: AsyncOutcome[Any]) -> bool:
    # A put that found the job's dedupe_key in the queue has stored nothing.
    return outcome.is_done and getattr(outcome.result(), "is_new", True)


class AsyncUse:
    """The connection that a call uses, the listening on it, and the jobs that have not reached the caller.

    An interruption (Control-C, a cancellation) can come at any line: after the server has committed and before
    its answer is read, in the middle of an exit. So nothing here rests on a line that follows another.
    What is held is noted before it is had; a call's outermost frame has one handler, and that calls
    `let_go`, which does what is still to be done.
    """

    __slots__ = ("_listener", "_own", "_pq", "_within", "taking")

    def __init__(self, pq: AsyncPQ, within: float = math.inf) -> None:
        """For one call.

        Args:
            pq: whose connections.
            within: seconds to wait for one at most, while the server is out of reach.
        """
        self._pq = pq
        self._within = within
        self._own: AsyncSession | None = None
        self._listener: AsyncListener | None = None
        self.taking: AsyncTaking | None = None

    @property
    def over(self) -> int:
        """How many outages were over when its connection last worked, or was asked for."""
        return self._pq.outage.over if self._own is None else self._own.over

    async def open(self) -> AsyncSession:
        """The connection to use here and now: the open transaction's, or one until `close`."""
        joined = self._pq._joined()
        if joined is not None:
            return joined
        self._own = self._pq.new_session()
        await self._pq.acquire(self._own, within=self._within)
        return self._own

    async def listen(self, session: AsyncSession, queues: tuple[str, ...]) -> AsyncListener:
        """Listen until `close`."""
        self._listener = AsyncListener(self._pq, session, queues)
        await self._listener.start()
        return self._listener

    async def close(self, after: BaseException | None = None) -> None:
        """Stop to listen, and give the connection back, after an error or an interruption too. May be repeated."""
        if self._listener is not None:
            await self._listener.stop(after)
        if self._own is not None:
            await self._own.close()

    async def let_go(self, error: BaseException) -> None:
        """After an error or an interruption: close, and give back what has not reached the caller.

        One more interruption meanwhile is borne.
        """
        try:
            await self._let_go(error)
        except BaseException:
            await self._let_go(error)
            raise

    async def _let_go(self, error: BaseException) -> None:
        try:
            if self._listener is not None:
                await self._listener.stop(error)
        finally:
            try:
                if self.taking is not None:
                    await self._give_back(self.taking, error)
            finally:
                await self.close(error)

    async def _give_back(self, taking: AsyncTaking, error: BaseException) -> None:
        """Put again, or release. What was put again has a new id: the old one went with what took the job."""
        if taking.is_own and taking.outcome.is_unknown and not isinstance(error, Exception):
            _tell(error, "the connection was closed before the server's answer: whether jobs were taken nobody knows")
        if not taking.left():
            return
        try:
            try:
                await self._return_all(taking)
            except ConnectionBusy:
                await self._return_aside(taking)
        except TransactionAborted:
            pass  # its rollback gives them back
        except Exception as failed:
            jobs = ", ".join(f"{row.id} of queue {row.queue!r}" for row in taking.left())
            _tell(error, f"taken, not delivered, and could not be given back: job {jobs} ({failed})")

    async def _return_all(self, taking: AsyncTaking) -> None:
        own = self._own
        if own is not None and (own.source.host is not None or (own.raw is not None and is_alive(own.raw))):
            # On the connection that took them: a pool may have no other, and a PQ that was closed has none.
            await self._return_on(own, taking)
            return
        use = AsyncUse(self._pq)
        try:
            await self._return_on(await use.open(), taking)
        finally:
            await use.close()

    async def _return_aside(self, taking: AsyncTaking) -> None:
        """Another thread or task has a transaction on the only connection, and might wait for this one to end."""
        source = await self._pq.source_aside()
        session = AsyncSession(source)
        try:
            await source.acquire(session)
            await self._return_on(session, taking)
        finally:
            await session.close()
            await self._pq.close_aside(source)

    async def _return_on(self, session: AsyncSession, taking: AsyncTaking) -> None:
        for row in taking.left():
            await self._return(session, taking, row)

    async def _return(self, session: AsyncSession, taking: AsyncTaking, row: Taken) -> None:
        calls, receipt = self._pq.calls, row.raw("receipt")
        if receipt is not None:
            await session.run(calls.release(row.queue, row.id, receipt), taking.going(row))
            return
        reason = _BURIED % _KEY_TAKEN
        try:
            if (await session.run(calls.put_again(row), taking.going(row))).is_new:
                return
        except ConnectionBusy:
            raise
        except Error as failed:
            # The role may not put, or the queue has become full.
            if not await session.is_own():
                raise
            reason = _BURIED % failed
        await session.run(calls.bury(row, reason), taking.going(row))
        log.error("job %s of queue %r goes to the dead: %s", row.id, row.queue, reason)


def _tell(error: BaseException, what: str) -> None:
    log.error("%s", what)
    error.add_note(what)

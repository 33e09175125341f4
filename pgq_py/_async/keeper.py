"""Keeping a lease alive in the background."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

import psycopg

from .._compat import AsyncTicker
from ..errors import ConnectionLost, Error, LeaseLost
from .session import AsyncSession

if TYPE_CHECKING:
    from .client import AsyncPQ
    from .job import AsyncJob
    from .session import AsyncSource


class AsyncKeeper:
    """The context that `job.keep_alive()` makes."""

    def __init__(self, pq: AsyncPQ, job: AsyncJob, receipt: bytes, every: float | None) -> None:
        assert job.lease_for is not None  # it has a receipt
        lease_for = job.lease_for.total_seconds()
        if every is not None and not 0 < every < lease_for:
            raise ValueError(
                f"a heartbeat every {every} seconds: give a number above 0 and below the lease, {lease_for:.1f}"
            )
        self._pq = pq
        self._job = job
        self._receipt = receipt
        self._lost = False
        self._source: AsyncSource | None = None
        self._session: AsyncSession | None = None
        self._ended = False
        self._ticker = AsyncTicker(lease_for / 3 if every is None else every, self._beat)

    @property
    def lost(self) -> bool:
        """The lease is no longer good. Long work may look now and then, and stop."""
        return self._lost or (not self._job._settled and monotonic() > self._job._until)

    async def __aenter__(self) -> AsyncKeeper:
        """Begin."""
        try:
            self._source = await self._pq.source_aside()
            await self._ticker.start()
            return self
        except BaseException:
            self._ended = True
            await self._pq.close_aside(self._source)
            raise

    async def _beat(self) -> bool:
        """One heartbeat. True: go on."""
        try:
            # A pool may have several connections that died, and hands out one after the other.
            for _ in range(5):
                if self._ended or self._job._settled:
                    break
                with suppress(ConnectionLost):
                    await self._extend()
                    break
        except (Error, OSError):
            pass  # once more at the next; when the lease is over, it is lost
        return not self._ended and not self._lost

    async def _extend(self) -> None:
        assert self._source is not None  # set before the first heartbeat
        # Given back in between: keepers that held their connections could use up a pool.
        session = AsyncSession(self._source)
        try:
            await self._source.acquire(session)
            self._session = session
            if self._ended:
                return  # came too late: nobody waits any more
            job, lease, begun = self._job, self._job._extension(), monotonic()
            if await session.run(self._pq.calls.progress(job.queue, job.id, self._receipt, None, lease)):
                job._until = begun + lease.total_seconds()
            elif not job._joined:
                self._lost = not job._settled
        finally:
            self._session = None
            await session.close()

    def _interrupt(self) -> None:
        """Wake a heartbeat that hangs, from another thread."""
        session = self._session
        if session is not None and session.raw is not None:
            with (
                suppress(OSError, psycopg.Error),
                socket.socket(fileno=os.dup(session.raw.fileno())) as link,
            ):
                link.shutdown(socket.SHUT_RDWR)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: no heartbeat comes after this.

        Raises:
            LeaseLost: the lease was lost meanwhile, and the job not completed, failed or returned before.
        """
        self._ended = True
        try:
            await self._ticker.stop(self._interrupt)
        finally:
            await self._pq.close_aside(self._source)
        if self.lost and error is None and not self._job._settled:
            raise LeaseLost(
                f"the lease of job {self._job.id} was lost while it was worked on: somebody else may have the job"
            )

"""Keeping a lease alive in the background."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg

from .._compat import AsyncTicker
from ..errors import Error, LeaseLost

if TYPE_CHECKING:
    from .client import AsyncPQ
    from .job import AsyncJob
    from .session import AsyncSession, AsyncSource


class AsyncKeeper:
    """The context that `job.keep_alive()` makes.

    Attributes:
        lost: the lease is no longer good. Long work may look now and then, and stop.
    """

    def __init__(self, pq: AsyncPQ, job: AsyncJob, receipt: UUID, lease_for: timedelta, every: float | None) -> None:
        if every is not None and not every > 0:
            raise ValueError(f"a heartbeat every {every} seconds: give a number above 0")
        self.lost = False
        self._pq = pq
        self._job = job
        self._call = pq.calls.progress(job.queue, job.id, receipt, None, lease_for)
        self._lease_for = lease_for.total_seconds()
        self._good_until = monotonic() + self._lease_for
        self._source: AsyncSource | None = None
        self._session: AsyncSession | None = None
        self._ended = False
        self._ticker = AsyncTicker(self._lease_for / 3 if every is None else every, self._beat)

    async def __aenter__(self) -> AsyncKeeper:
        """Begin."""
        self._source = await self._pq.source_aside()
        await self._ticker.start()
        return self

    async def _beat(self) -> bool:
        """One heartbeat. True: go on."""
        if self._is_over():
            return False
        begun = monotonic()
        try:
            await self._extend(begun)
        except (Error, OSError):
            # Once more at the next, perhaps on another connection.
            self.lost = monotonic() > self._good_until
        return not self.lost and not self._is_over()

    async def _extend(self, begun: float) -> None:
        assert self._source is not None  # set before the first heartbeat
        # Given back in between: keepers that held their connections could use up a pool.
        session = await self._source.acquire()
        try:
            self._session = session
            if self._ended:
                return  # came too late: nobody waits any more
            if await session.run(self._call):
                self._good_until = begun + self._lease_for
            else:
                self.lost = not self._job._settled
        finally:
            self._session = None
            await self._source.release(session)

    def _is_over(self) -> bool:
        """Whether there is nothing left to keep alive."""
        return self._ended or self._job._settled

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

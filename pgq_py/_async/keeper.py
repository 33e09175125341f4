"""Keeping a lease alive in the background."""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING
from uuid import UUID

from .._compat import AsyncTicker
from ..errors import ConnectionLost, Error, LeaseLost

if TYPE_CHECKING:
    from .client import AsyncPQ
    from .session import AsyncSession, AsyncSource


class AsyncKeeper:
    """The context that `job.keep_alive()` makes.

    Attributes:
        lost: the lease is no longer good. Long work may look now and then, and stop.
    """

    def __init__(
        self, pq: AsyncPQ, queue: str, id: int, receipt: UUID, lease_for: timedelta, every: float | None
    ) -> None:
        if every is not None and not every > 0:
            raise ValueError(f"a heartbeat every {every} seconds: give a number above 0")
        self.lost = False
        self._id = id
        self._pq = pq
        self._call = pq.calls.progress(queue, id, receipt, None, lease_for)
        self._lease_for = lease_for.total_seconds()
        self._good_until = monotonic() + self._lease_for
        self._source: AsyncSource | None = None
        self._session: AsyncSession | None = None
        self._ticker = AsyncTicker(self._lease_for / 3 if every is None else every, self._beat)

    async def __aenter__(self) -> AsyncKeeper:
        """Begin."""
        self._source = await self._pq.source_aside()
        await self._ticker.start()
        return self

    async def _beat(self) -> bool:
        """One heartbeat. True: go on."""
        try:
            if self._session is None:
                assert self._source is not None  # set before the first heartbeat
                self._session = await self._source.acquire()
            self.lost = not await self._session.run(self._call)
            self._good_until = monotonic() + self._lease_for
        except (ConnectionLost, OSError):
            # Once more at the next, on another connection.
            await self._let_go()
            self.lost = monotonic() > self._good_until
        except Error:
            self.lost = True
        return not self.lost

    async def _let_go(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.source.release(session)

    def _interrupt(self) -> None:
        """Wake a heartbeat that hangs, from another thread."""
        session = self._session
        if session is not None and session.raw is not None:
            with suppress(OSError), socket.socket(fileno=socket.dup(session.raw.fileno())) as link:
                link.shutdown(socket.SHUT_RDWR)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: no heartbeat comes after this.

        Raises:
            LeaseLost: the lease was lost meanwhile.
        """
        try:
            await self._ticker.stop(self._interrupt)
        finally:
            await self._let_go()
        if self.lost and error is None:
            raise LeaseLost(
                f"the lease of job {self._id} was lost while it was worked on: somebody else may have the job"
            )

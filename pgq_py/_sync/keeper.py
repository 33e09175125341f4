# Generated from pgq_py/_async by tools/make_sync.py (`make sync`): edit that.
"""Keeping a lease alive in the background."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

import psycopg

from .._compat import Ticker
from ..errors import ConnectionLost, Error, LeaseLost
from .session import Session

if TYPE_CHECKING:
    from .client import PQ
    from .job import Job
    from .session import Source


class Keeper:
    """The context that `job.keep_alive()` makes."""

    def __init__(self, pq: PQ, job: Job, receipt: bytes, every: float | None) -> None:
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
        self._source: Source | None = None
        self._session: Session | None = None
        self._ended = False
        self._ticker = Ticker(lease_for / 3 if every is None else every, self._beat)

    @property
    def lost(self) -> bool:
        """The lease is no longer good. Long work may look now and then, and stop."""
        return self._lost or (not self._job._settled and monotonic() > self._job._until)

    def __enter__(self) -> Keeper:
        """Begin."""
        try:
            self._source = self._pq.source_aside()
            self._ticker.start()
            return self
        except BaseException:
            self._ended = True
            self._pq.close_aside(self._source)
            raise

    def _beat(self) -> bool:
        """One heartbeat. True: go on."""
        try:
            # A pool may have several connections that died, and hands out one after the other.
            for _ in range(5):
                if self._ended or self._job._settled:
                    break
                with suppress(ConnectionLost):
                    self._extend()
                    break
        except (Error, OSError):
            pass  # once more at the next; when the lease is over, it is lost
        return not self._ended and not self._lost

    def _extend(self) -> None:
        assert self._source is not None  # set before the first heartbeat
        # Given back in between: keepers that held their connections could use up a pool.
        session = Session(self._source)
        try:
            self._source.acquire(session)
            self._session = session
            if self._ended:
                return  # came too late: nobody waits any more
            job, lease, begun = self._job, self._job._extension(), monotonic()
            if session.run(self._pq.calls.progress(job.queue, job.id, self._receipt, None, lease)):
                job._until = begun + lease.total_seconds()
            elif not job._joined:
                self._lost = not job._settled
        finally:
            self._session = None
            session.close()

    def _interrupt(self) -> None:
        """Wake a heartbeat that hangs, from another thread."""
        session = self._session
        if session is not None and session.raw is not None:
            with (
                suppress(OSError, psycopg.Error),
                socket.socket(fileno=os.dup(session.raw.fileno())) as link,
            ):
                link.shutdown(socket.SHUT_RDWR)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: no heartbeat comes after this.

        Raises:
            LeaseLost: the lease was lost meanwhile, and the job not completed, failed or returned before.
        """
        self._ended = True
        try:
            self._ticker.stop(self._interrupt)
        finally:
            self._pq.close_aside(self._source)
        if self.lost and error is None and not self._job._settled:
            raise LeaseLost(
                f"the lease of job {self._job.id} was lost while it was worked on: somebody else may have the job"
            )

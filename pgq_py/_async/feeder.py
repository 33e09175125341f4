"""Feeding a worker: which jobs it leases, and how many."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from ..errors import Closed, ConnectionLost, Error, NotAllowed, NotInstalled, VersionMismatch
from ..links import RETRY_LAST
from .hand import TURN, AsyncHand
from .job import AsyncJob
from .queue import AsyncConsumer, AsyncQueue

if TYPE_CHECKING:
    from .client import AsyncPQ
    from .session import AsyncSource

log = logging.getLogger("pgq_py.worker")

RAN_OUT = "the lease ran out"
"""The error that SQL keeps with an attempt whose lease ran out."""

# From this attempt on a job that may have ended its worker is run alone, and in its last attempt in any case.
ALONE_FROM = 3


class AsyncFeeder(AsyncConsumer):
    """Leases jobs of some queues for a worker.

    Args:
        pq: whose queues.
        source: where to get connections.
        queues: each with its weight, in their order.
        strict: whether the first queue goes first as long as it has jobs; otherwise by weight.
        hand: what to fill.
        lease_for: for how long to lease, None as the queue says.
        consumer: the name to lease under, None for host and process.
        burst: whether to end when nothing is left.
        max_jobs: how many to give to be run at most.
        on_lease: told how short the leases are.
    """

    def __init__(
        self,
        pq: AsyncPQ,
        source: AsyncSource,
        queues: Mapping[AsyncQueue, float],
        strict: bool,
        hand: AsyncHand,
        lease_for: timedelta | None,
        consumer: str | None,
        burst: bool,
        max_jobs: int | None,
        on_lease: Callable[[float], None],
    ) -> None:
        # Of its own: closed, they end a call that waits, and nothing else. It joins no transaction.
        own = copy.copy(pq)
        own._source = copy.copy(source)
        super().__init__(own)
        self._members = {queue.name: queue for queue in queues}
        self._weights = {queue.name: weight for queue, weight in queues.items()}
        self._credit = dict.fromkeys(self._weights, 0.0)
        self._strict = strict
        self._hand = hand
        self._lease_for = lease_for
        self._consumer = consumer
        self._burst = burst
        self._left = max_jobs
        self._counting = threading.Lock()
        self._on_lease = on_lease
        self._max_attempts: dict[str, int | None] = {}
        # Whether the last job was one to be run alone: then the next ones are looked at one by one.
        self.is_careful = False
        self._is_told = False
        self.over = False
        self.turned_at = monotonic()

    def _order(self) -> tuple[str, ...]:
        return tuple(self._weights)

    def _in_parts(self, count: int) -> Iterator[tuple[str, ...]]:
        """All in one call: the first that has jobs gives them, the others what is left."""
        if self._strict or len(self._weights) == 1:
            yield self._order()
            return
        # Each earns its weight at each call, and the richest goes first and pays for all.
        credit = self._credit
        for name, weight in self._weights.items():
            credit[name] += weight
        names = sorted(credit, key=credit.__getitem__, reverse=True)
        credit[names[0]] -= sum(self._weights.values())
        yield tuple(names)

    def _member(self, name: str) -> AsyncQueue:
        return self._members[name]

    def stop(self) -> None:
        """Take no more. A call that waits ends within a quarter of a second."""
        self.over = True
        self._pq._source.is_closed = True
        self._hand.ring()

    def returned(self, count: int) -> None:
        """So many jobs were not run after all."""
        with self._counting:  # several threads do
            if self._left is not None:
                self._left += count

    async def run(self) -> None:
        """Lease until told to stop, or until there is nothing more to do."""
        hand = self._hand
        while not self.over:
            self.turned_at = monotonic()
            if self._left == 0:
                if not hand.held:
                    return
                await hand.until(lambda: self.over or not hand.held)
            elif not hand.room or hand.is_full:
                await hand.until(lambda: self.over or (hand.room > 0 and not hand.is_full))
            else:
                # Before the call: what ends during it may put more, or come back.
                is_idle = not hand.held
                jobs = await self._lease(1 if self.is_careful else hand.room)
                if jobs:
                    await self._take_in(jobs)
                elif jobs is not None and self._burst:
                    if is_idle:
                        return
                    await hand.until(lambda: self.over or not hand.held)

    async def _lease(self, count: int) -> list[AsyncJob] | None:
        """Jobs, none if there are none; None if they could not be had."""
        if self._left is not None:
            count = min(count, self._left)
        over = self._pq.outage.over
        try:
            jobs = await self.lease_many(
                count, self._lease_for, consumer=self._consumer, block=not self._burst, timeout=TURN
            )
        except Closed:
            if not self.over:
                raise
            return None
        except (NotAllowed, NotInstalled, VersionMismatch, ValueError, psycopg.DataError):
            raise  # which no trying mends
        except ConnectionLost as error:
            await self._pause(self._pq.outage.begin(error, over))
            return None
        except (Error, psycopg.Error, OSError) as error:
            # A standby after a failover, a full disk, a pool without a connection: it may pass.
            if not self._is_told:
                log.warning("can't lease jobs, trying on: %s", str(error).partition("\n")[0])
            self._is_told = True
            await self._pause(RETRY_LAST)
            return None
        self._is_told = False
        return jobs

    async def _pause(self, seconds: float) -> None:
        until = monotonic() + seconds
        await self._hand.until(lambda: self.over or monotonic() > until, seconds)

    async def _take_in(self, jobs: list[AsyncJob]) -> None:
        if self.over:
            self._hand.add_to_return(jobs)
            return
        self._on_lease(min({job.lease_for for job in jobs if job.lease_for is not None}).total_seconds())
        # Most were never tried, and to read their columns would be half of the work.
        for suspect in [job for job in jobs if job._taken.raw("last_error") is not None]:
            if await self._may_crash(suspect):
                await self._run_alone(suspect, jobs)
                return
        self.is_careful = False
        # The call may have waited for long, and what runs now be slower than what ran when it was made.
        spare = max(self._hand.target - len(self._hand.open), 0)
        self._hand.add_to_return(jobs[spare:])
        self.returned(-len(jobs[:spare]))
        self._hand.add(jobs[:spare])

    async def _may_crash(self, job: AsyncJob) -> bool:
        """Whether it is a job to be run alone, since it may have ended the process that had it.

        A lease counts as an attempt from its beginning: a handler that crashes its process costs each job beside
        it an attempt, and after some restarts all of them would be dead.
        """
        if job.attempts == 1 or job.last_error != RAN_OUT:
            return False
        if job.attempts >= ALONE_FROM:
            return True
        limit = job.max_attempts
        return job.attempts >= (await self._limit(job.queue) if limit is None else limit)

    async def _limit(self, queue: str) -> int:
        """How many attempts the jobs of a queue have: as it was when first asked."""
        if queue not in self._max_attempts:
            try:
                self._max_attempts[queue] = (await self._pq.run(self._pq.calls.settings(queue))).max_attempts
            except NotAllowed:  # who may take may not ask
                self._max_attempts[queue] = None
            except (Error, psycopg.Error):
                return ALONE_FROM
        return self._max_attempts[queue] or ALONE_FROM

    async def _run_alone(self, suspect: AsyncJob, jobs: Sequence[AsyncJob]) -> None:
        """Return all others that have not begun, let end what runs, and only then begin this one."""
        hand = self._hand
        log.warning(
            "job %s of queue %r may have ended the workers that had it, and is run alone in attempt %s",
            suspect.id, suspect.queue, suspect.attempts,
            extra={"queue": suspect.queue, "job_id": suspect.id, "attempt": suspect.attempts},
        )  # fmt: skip
        self.is_careful = True
        self.returned(hand.take_back())
        hand.add_to_return([job for job in jobs if job is not suspect])
        hand.add([suspect], begin=False)
        while len(hand.held) > 1 and not self.over:
            self.turned_at = monotonic()
            await hand.until(lambda: self.over or len(hand.held) <= 1)
        self.returned(-1)
        hand.begin.put(suspect)
        while hand.held and not self.over:
            self.turned_at = monotonic()
            await hand.until(lambda: self.over or not hand.held)

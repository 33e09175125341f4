"""Telling the server what became of a worker's jobs, and that it still works on the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import psycopg

from .._compat import async_sleep
from ..calls import Call
from ..errors import CommitUnknown, ConnectionLost, Error
from ..links import RETRY_LAST
from ..running import AsyncChannel
from .hand import END, RELEASE, TURN, AsyncHand, Outcome
from .job import AsyncJob
from .session import AsyncSession

if TYPE_CHECKING:
    from .client import AsyncPQ
    from .session import AsyncSource

log = logging.getLogger("pgq_py.worker")

T = TypeVar("T")

# Jobs in one call.
BATCH = 1000


def about(job: AsyncJob, task: str | None = None) -> dict[str, object]:
    """What a line of the log says about a job, beside its text."""
    return {"queue": job.queue, "job_id": job.id, "attempt": job.attempts, "task": task}


class _Line:
    """Calls to the server, each on a connection from the source, that outlast the connection."""

    def __init__(self, pq: AsyncPQ, source: AsyncSource, what: str) -> None:
        self._calls = pq.calls
        self._source = source
        self._what = what
        self._is_told = False
        # As for `Outage.begin`, of the last call.
        self._over = 0
        self.turned_at = monotonic()
        self.give_up_at = inf
        """When to try no more, by the monotonic clock."""

    async def _run(self, call: Call[T]) -> T:
        if call.traced is not None:
            with call.traced() as plain:
                return await self._run(plain)
        session = AsyncSession(self._source)
        try:
            await self._source.acquire(session, self.give_up_at - monotonic())
            result = await session.run(call)
        finally:
            self._over = session.over
            await session.close()
        self._is_told = False
        return result

    async def _pause(self, error: BaseException) -> bool:
        """After an error, before the next try; False: give up."""
        self.turned_at = monotonic()
        pause = RETRY_LAST
        if isinstance(error, ConnectionLost):
            pause = self._source.outage.begin(error, self._over)
        else:
            self._warn(error)
        until, over = monotonic() + pause, self._source.outage.over
        while (left := min(until, self.give_up_at) - monotonic()) > 0 and over == self._source.outage.over:
            await async_sleep(min(left, 0.1))
        return monotonic() < self.give_up_at

    def _warn(self, error: BaseException) -> None:
        if not self._is_told:
            log.warning("can't %s, trying on: %s", self._what, str(error).partition("\n")[0])
        self._is_told = True


class _Telling(NamedTuple):
    """What one call tells the server, of jobs of one queue."""

    queue: str
    what: Literal["complete", "release", "error"]
    # Of an error, as for `job.error`.
    retry_in: timedelta | None = None
    bury: bool = False


class AsyncSettler(_Line):
    """Tells what became of the jobs: at once what there is, and the next when that is done.

    So few wait for nothing, and many go together.
    """

    def __init__(self, pq: AsyncPQ, source: AsyncSource, hand: AsyncHand) -> None:
        super().__init__(pq, source, "tell what became of jobs")
        self._hand = hand

    async def run(self) -> None:
        """Until END comes."""
        while True:
            first = await self._hand.settle.get(TURN)
            self.turned_at = monotonic()
            if first is not None:
                outcomes = [first, *self._hand.settle.drain()]
                await self.tell([outcome for outcome in outcomes if outcome != END])
                if END in outcomes:
                    return

    async def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Tell the server these."""
        done: dict[str, list[AsyncJob]] = {}
        groups: dict[_Telling, tuple[list[AsyncJob], list[str]]] = {}
        settled = []
        for job, verdict in outcomes:
            if job._settled:  # by the handler
                settled.append(job)
            elif verdict is None:
                found = done.get(job.queue)
                if found is None:
                    done[job.queue] = [job]
                else:
                    found.append(job)
            else:
                telling = (
                    _Telling(job.queue, "release")
                    if verdict is RELEASE
                    else _Telling(job.queue, "error", verdict.retry_in, verdict.bury)
                )
                jobs, messages = groups.setdefault(telling, ([], []))
                jobs.append(job)
                messages.append(verdict.message)
        if settled:
            self._hand.settled(settled)
        groups |= {_Telling(queue, "complete"): (jobs, []) for queue, jobs in done.items()}
        for telling, (jobs, messages) in groups.items():
            for start in range(0, len(jobs), BATCH):
                part = slice(start, start + BATCH)
                await self._settle(telling, jobs[part], messages[part])

    async def _settle(self, telling: _Telling, jobs: list[AsyncJob], messages: list[str]) -> None:
        ids, receipts = [job.id for job in jobs], [job._receipt or b"" for job in jobs]
        queue, calls = telling.queue, self._calls
        is_unknown = is_plain = False
        while True:
            if telling.what == "complete":
                call = calls.complete_many(queue, ids, receipts)
            elif telling.what == "release":
                call = calls.release_many(queue, ids, receipts)
            else:
                call = calls.error_many(queue, ids, receipts, messages, telling.retry_in, telling.bury)
            try:
                done = await self._run(call)
                break
            except (Error, psycopg.Error, OSError) as error:
                is_unknown = is_unknown or isinstance(error, CommitUnknown)
                is_refused = isinstance(error, psycopg.DataError | ValueError)
                if is_refused and telling.what == "error" and not is_plain:
                    # A character that the server's encoding lacks, or a pause that ends too far in the future.
                    log.warning("the server refuses how jobs of queue %r failed: it is told less", queue)
                    messages = [message.encode("ascii", "backslashreplace").decode() for message in messages]
                    telling, is_plain = telling._replace(retry_in=None), True
                elif is_refused or not await self._pause(error):
                    log.error("%s jobs of queue %r could not be settled: their leases run out", len(jobs), queue)
                    done = [True] * len(jobs)
                    break
        self._hand.settled(jobs)
        # Of one that was told twice the second time says nothing.
        if not is_unknown and telling.what != "release" and not all(done):
            for job, was_done in zip(jobs, done, strict=True):
                if not was_done:
                    job._is_lost = True
                    log.warning(
                        "job %s of queue %r was done when its lease was lost: it may be done again",
                        job.id, job.queue, extra=about(job),
                    )  # fmt: skip


class AsyncPulse(_Line):
    """Extends the leases of all jobs in hand, every third of the shortest.

    Args:
        pq: whose jobs.
        source: where to get connections.
        hand: the jobs.
        lease_of: for how long to hold this job instead, if its task says so.
    """

    def __init__(
        self,
        pq: AsyncPQ,
        source: AsyncSource,
        hand: AsyncHand,
        lease_of: Callable[[AsyncJob], timedelta | None],
    ) -> None:
        super().__init__(pq, source, "extend leases")
        self._hand = hand
        self._lease_of = lease_of
        self._every = TURN
        # What tasks say, and the server does not take: their jobs are held as they were leased.
        self._refused: set[timedelta] = set()
        self._bell: AsyncChannel[None] = AsyncChannel()
        self._is_stopped = False

    def hurry(self, lease: float) -> None:
        """There are leases of so many seconds."""
        if lease / 3 < self._every:
            self._every = lease / 3
            self._bell.put(None)

    def stop(self) -> None:
        """Extend no more."""
        self._is_stopped = True
        self.give_up_at = 0
        self._bell.put(None)

    async def run(self) -> None:
        """Until told to stop."""
        while not self._is_stopped:
            await self._bell.get(self._every)
            self.turned_at = monotonic()
            if not self._is_stopped:
                await self._beat()

    async def _beat(self) -> None:
        now, groups = monotonic(), dict[tuple[str, timedelta], list[AsyncJob]]()
        for job in list(self._hand.held):
            lease = self._lease_of(job)
            if lease is None or lease in self._refused:
                lease = job.lease_for
            assert lease is not None  # of a leased job
            seconds, left = lease.total_seconds(), job._until - now
            self._every = min(self._every, seconds / 3)
            # Those that would be past the half of it at the next beat, or whose task says less.
            if not (seconds / 2 + self._every <= left <= 1.5 * seconds or job._settled):
                groups.setdefault((job.queue, lease), []).append(job)
        for (queue, lease), jobs in groups.items():
            await self._extend(queue, lease, jobs)

    async def _extend(self, queue: str, lease: timedelta, jobs: Sequence[AsyncJob]) -> None:
        call = self._calls.progress_many(queue, [job.id for job in jobs], [job._held() for job in jobs], lease)
        while True:
            begun = monotonic()
            try:
                done = await self._run(call)
                break
            except ConnectionLost as error:
                if not await self._pause(error):
                    return
            except (Error, psycopg.Error, OSError) as error:
                # What others hold must not wait for these, which have their turn at the next beat.
                self._warn(error)
                if isinstance(error, psycopg.DataError | ValueError):
                    self._refused.add(lease)
                return
        for job, is_good in zip(jobs, done, strict=True):
            if is_good:
                job._until = begun + lease.total_seconds()
            elif is_good is None:
                pass  # a transaction, perhaps of the handler's, has locked its row: the next beat asks again
            elif not job._settled and self._hand.lose(job):
                log.warning(
                    "the lease of job %s of queue %r is lost: somebody else may have it",
                    job.id, job.queue, extra=about(job),
                )  # fmt: skip

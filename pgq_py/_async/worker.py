"""A worker: takes jobs of some queues, does them, several at a time, and tells the server what became of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import PayloadError, UnknownTask
from ..failures import Retries, Verdict
from ..functions import is_coroutine
from ..resident import resident
from ..running import AsyncCaller, AsyncChannel, AsyncStrand, Hook, async_signalled
from ..times import Duration, length
from .feeder import AsyncFeeder
from .hand import END, RELEASE, AsyncHand
from .job import AsyncJob
from .queue import AsyncQueue
from .session import AsyncDialSource, AsyncSession, AsyncSource
from .settler import AsyncPulse, AsyncSettler, about
from .task import AsyncTask

if TYPE_CHECKING:
    from .client import AsyncPQ

log = logging.getLogger("pgq_py.worker")

# What a worker works on: names, or queues (with a serializer of yours), with their weights or without.
Queues: TypeAlias = str | AsyncQueue | Iterable[str | AsyncQueue] | Mapping[str, float] | Mapping[AsyncQueue, float]

# How often the worker looks after itself, in seconds.
TICK = 0.5
# A job that was leased begins within so many seconds, or others get it.
PATIENCE = 1.0
# As many seconds as a lock can be waited for, and more than anybody has.
FOREVER = 1e9
# At the end: seconds to tell the server what became of the last jobs, while it is out of reach.
LAST_WORDS = 2.0

_STOP, _NOW, _NOTHING_LEFT, _ENDED = "stop", "now", "nothing left", "a runner has ended"


class AsyncWorker:
    """Takes jobs and does them: the tasks of a PQ (`@queue.task`), or one handler for all.

        AsyncWorker(pq, ["mail", "reports"]).run()

    It holds little more than it does: see docs/workers.md.

    Args:
        pq: whose queues and tasks. With a pool, that has three connections to spare.
        queues: a name or several, or names with weights: `{"mail": 3, "reports": 1}` gives mail three of four turns
            while both have jobs. Queues instead of names where they have a serializer of yours.
        handler: a function or coroutine function that is called with each job; None: the job is a task's.
        concurrency: how many jobs at the same time.
        prefetch: how many more are leased ahead at most. Fewer if they are slow: half a second's worth.
        lease_for: for how long jobs are leased, and kept from then on: a timedelta, seconds, or text such as
            "5m". So long they stay away when the worker dies. None: as the queue says, or 5 minutes.
        strict: the first queue goes first as long as it has jobs, whatever the weights.
        grace: seconds for what runs to end, when it is to stop; `math.inf` is as long as it takes.
        burst: end when nothing is left that can be done now.
        max_jobs: end after so many.
        max_memory: end when the process has more bytes than this in memory.
        hooks: each is called with the job, and gives a context manager to run it in; the first is the outermost.
            Those of the PQ, `pq.hooks`, are outside of them.
        consumer: a name for this worker, seen with the jobs it holds; None: host and process.

    Raises:
        ValueError: a number that makes no sense, or no queue.
        TypeError: a handler that can't be called, or is a generator.
    """

    def __init__(
        self,
        pq: AsyncPQ,
        queues: Queues,
        *,
        handler: Callable[[AsyncJob], Any] | None = None,
        concurrency: int = 8,
        prefetch: int = 100,
        lease_for: Duration | None = None,
        strict: bool = False,
        grace: float = 30,
        burst: bool = False,
        max_jobs: int | None = None,
        max_memory: int | None = None,
        hooks: Sequence[Hook] = (),
        consumer: str | None = None,
    ) -> None:
        self.pq = pq
        self.queues = _weights(pq, queues)
        for name, value, least in (
            ("concurrency", concurrency, 1), ("prefetch", prefetch, 0), ("grace", grace, 0),
            ("max_jobs", max_jobs, 1), ("max_memory", max_memory, 1),
        ):  # fmt: skip
            if value is not None and not value >= least:  # or it is not a number
                raise ValueError(f"{name} is {value}: give {least} or more")
        if handler is not None and not callable(handler):
            raise TypeError(f"the handler is a {type(handler).__name__}, which can't be called")
        self.concurrency = concurrency
        self.grace = grace
        self.ended_by: str | None = None
        """Why it ended: "stop", "now", "nothing left", or what a check has found; None while it runs."""
        self.is_stuck = False
        """Whether `run` has returned while a handler runs that can't be ended."""
        self.was_cut_short = False
        """Whether it did not wait for what ran. That may have left threads and processes behind."""
        self._handler = handler
        self._is_coroutine = handler is not None and is_coroutine(handler)
        self._lease_for = length("lease_for", lease_for)
        self._strict, self._burst, self._max_jobs = strict, burst, max_jobs
        self._consumer = consumer
        self._caller = AsyncCaller((*pq.hooks, *hooks))
        self._call = self._caller.call
        self._retries = Retries()
        self._hand = AsyncHand(concurrency, prefetch)
        self._commands: AsyncChannel[str | BaseException] = AsyncChannel()
        self._stops = 0
        self._is_used = False
        self._turned_at = -inf
        self.parameters: str | dict[str, Any] = ""
        """Of its connections, once it runs."""
        self.checks: list[Callable[[], str | None]] = []
        """Called each half second: one that returns a reason ends the worker, as `stop` does."""
        self.listeners: list[Callable[[str], object]] = []
        """Called with "ready", with "tick" each half second, and with "stopping"."""
        if max_memory is not None:
            limit = max_memory
            self.checks.append(lambda: f"more than {limit} bytes in memory" if resident() > limit else None)

    def stop(self, now: bool = False) -> None:
        """Take no more jobs, return those that have not begun, let end what runs, and end `run`. From any thread.

        Args:
            now: return what runs, too, and wait for nothing.
        """
        self._commands.put_anywhere(_NOW if now else _STOP)

    def _signalled(self) -> None:
        self._stops += 1
        self.stop(now=self._stops > 1)

    @property
    def is_taking(self) -> bool:
        """Whether it takes jobs: it has begun, and was not told to end."""
        return self._turned_at > -inf and self.ended_by is None

    def idle_for(self) -> dict[str, float]:
        """For each of the worker's loops, seconds since it last turned: of one that works five or so at most."""
        if self._turned_at == -inf:
            return {}
        turned = {
            "attend": self._turned_at,
            "feed": self._feeder.turned_at,
            "settle": self._settler.turned_at,
            "keep": self._pulse.turned_at,
        }
        return {name: monotonic() - at for name, at in turned.items()}

    async def run(self, *, signals: bool = False) -> None:
        """Work until `stop`, or until what the worker was made for is done.

        Jobs that are not done when this returns are back in the queue, their attempt not counted.
        A function that runs in a thread longer than the grace can't be ended: its job is returned, and it
        goes on until the process ends, which does not wait for it.

        Args:
            signals: SIGTERM and SIGINT stop it, the second one at once. From the main thread only.

        Raises:
            NotAllowed, NotInstalled, VersionMismatch: it can't work on these queues.
            ConnectionLost: the server can't be reached at the beginning. Later it waits until it can.
            RuntimeError: it has run before.
        """
        if self._is_used:
            raise RuntimeError("this worker has run before: make another one")
        self._is_used = True
        source = await self.pq.source_aside()
        try:
            await self._check(source)
            with async_signalled(self._signalled, signals):
                await self._work(source)
        finally:
            self._caller.close()
            await self.pq.close_aside(source)

    async def _check(self, source: AsyncSource) -> None:
        size = getattr(getattr(source, "_pool", None), "max_size", inf)
        if 0 < size < 3:  # 0 is no limit
            raise ValueError(f"a worker needs three connections, and more for what it does: the pool has {size}")
        # Not on a host's connection, which would stay in a transaction.
        session = AsyncSession(source)
        try:
            await source.acquire(session)
            await self.pq._check_version(session, None)
        finally:
            await session.close()
        self.parameters = source.conninfo if isinstance(source, AsyncDialSource) else await self.pq._parameters()

    async def _work(self, source: AsyncSource) -> None:
        pq, hand = self.pq, self._hand
        self._pulse = AsyncPulse(pq, source, hand, self._lease_of)
        self._settler = AsyncSettler(pq, source, hand)
        self._feeder = AsyncFeeder(
            pq, source, self.queues, self._strict, hand, self._lease_for, self._consumer, self._burst,
            self._max_jobs, self._pulse.hurry,
        )  # fmt: skip
        hand.on_unrun = self._feeder.returned
        self._turned_at = monotonic()
        log.info("works on %s, %s at a time", ", ".join(queue.name for queue in self.queues), self.concurrency)
        self._settling = self._strand("settles", self._settler.run)
        self._keeping = self._strand("keeps leases", self._pulse.run)
        self._runners = [self._strand(f"runner {n}", self._run_jobs) for n in range(self.concurrency)]
        self._feeding = self._strand("feeds", self._feed)
        try:
            self._tell("ready")
            error = await self._attend()
        except BaseException as raised:
            self.ended_by = type(raised).__name__
            await self._end_now()
            raise
        if error is not None:
            raise error

    def _strand(self, name: str, function: Callable[[], Awaitable[None]]) -> AsyncStrand:
        async def run() -> None:
            try:
                await function()
            except Exception as error:
                self._commands.put_anywhere(error)

        return AsyncStrand(name, run)

    async def _feed(self) -> None:
        await self._feeder.run()
        if not self._feeder.over:
            self._commands.put(_NOTHING_LEFT)

    def _tell(self, event: str) -> None:
        for listener in self.listeners:
            listener(event)

    # What goes on, as the main strand sees it.

    async def _attend(self) -> BaseException | None:
        """Look after the others until it is time to end, and end; gives the error that ended it."""
        while True:
            self._turned_at = monotonic()
            command = await self._commands.get(TICK) or self._tick()
            if command is None:
                continue
            error = command if isinstance(command, BaseException) else None
            self.ended_by = str(command) if error is None else type(error).__name__
            log.info("ends: %s", self.ended_by)
            self._tell("stopping")
            if command == _NOW:
                await self._end_now()
            else:
                await self._end()
            return error

    def _tick(self) -> str | None:
        hand = self._hand
        waited = monotonic() - hand.begun_at
        if hand.waiting and waited > PATIENCE and not self._feeder.is_careful:
            # All are busy with slow jobs. Somebody else may have time.
            hand.slow(waited)
            self._feeder.returned(hand.take_back())
        self._tell("tick")
        return next((reason for check in self.checks if (reason := check()) is not None), None)

    async def _end(self) -> None:
        """Stop taking, return what has not begun, and let end what runs."""
        until = monotonic() + min(self.grace, FOREVER)
        self._settler.give_up_at = max(until, monotonic() + LAST_WORDS)
        self._feeder.stop()
        returned = self._hand.take_back()
        log.info("%s jobs still run, %s have not begun and are returned", len(self._hand.open), returned)
        self._dismiss()
        ended = 0
        while ended < len(self._runners):
            self._turned_at = monotonic()
            command = await self._commands.get(max(0, min(TICK, until - monotonic())))
            self._tell("tick")
            if command == _ENDED:
                ended += 1
            elif command == _NOW or monotonic() >= until:
                await self._end_now()
                return
        await self._end_telling()

    def _dismiss(self) -> None:
        """Let the runners end."""
        for _ in self._runners:
            self._hand.begin.put(None)

    async def _end_now(self) -> None:
        """Stop taking, and return all that is not done."""
        self.was_cut_short = True
        self._feeder.stop()
        self._hand.take_back()
        jobs = self._claim_all()
        self._dismiss()
        # First, so that nobody else has their jobs while coroutines end.
        await self._caller.cancel(self._runners)
        for job in jobs:
            self._hand.settle.put((job, RELEASE))
        self._settler.give_up_at = min(self._settler.give_up_at, monotonic() + LAST_WORDS)
        await self._end_telling()

    def _claim_all(self) -> list[AsyncJob]:
        """Be the one who says what becomes of the jobs that run."""
        jobs = [job for job in list(self._hand.open) if self._hand.claim(job)]
        if jobs:
            log.warning("%s jobs are returned before they are done", len(jobs))
        for job in jobs:
            job._is_lost = True
        return jobs

    async def _end_telling(self) -> None:
        """Tell the server the last outcomes; only then keep no lease any more."""
        # What a call that was on its way has leased, it returns, or has just given out.
        await self._feeding.join(self._settler.give_up_at - monotonic())
        self._hand.take_back()
        for job in self._claim_all():  # that such a call gave out before the runners were dismissed
            self._hand.settle.put((job, RELEASE))
        self._hand.settle.put(END)
        while not await self._settling.join(TICK) and monotonic() < self._settler.give_up_at + LAST_WORDS:
            self._turned_at = monotonic()
            self._tell("tick")
            while (command := await self._commands.get(0)) is not None:
                if command == _NOW:  # what cannot be told by now is left to the leases
                    self._settler.give_up_at = min(self._settler.give_up_at, monotonic() + LAST_WORDS)
        self._pulse.stop()
        await self._keeping.join(LAST_WORDS)
        until = monotonic() + 0.2
        ended = [await runner.join(until - monotonic()) for runner in self._runners]
        self.is_stuck = not all(ended) or self._caller.is_busy

    # What each of those does that run jobs.

    async def _run_jobs(self) -> None:
        try:
            await self._run_each()
        except Exception as error:
            self._commands.put(error)  # first: what comes first is what ends the worker
        finally:
            self._commands.put(_ENDED)

    async def _run_each(self) -> None:
        # As few calls as can be: with empty handlers most of the time is spent here.
        hand = self._hand
        get, waiting, decide = hand.begin.get, hand.waiting, hand.decide
        while (job := await get()) is not None:
            try:
                waiting.remove(job)
            except KeyError:
                continue  # was returned, or is lost
            begun = hand.begun_at = monotonic()
            if begun > job._until:  # while the server was out of reach
                self._feeder.returned(1)
                decide(job, RELEASE)
                continue
            verdict: Verdict | None = None
            task: AsyncTask[..., Any] | None = None
            try:
                if self._handler is not None:
                    await self._call(self._handler, self._is_coroutine, job)
                else:
                    task = self.pq.tasks.of(job)
                    await self._call(task.run, task.is_coroutine, job)
            except BaseException as error:
                verdict = self._failed(job, task, error)
            hand.took(monotonic() - begun)
            if not decide(job, verdict):
                log.warning(
                    "what came of job %s of queue %r is dropped: its lease was lost, or it was returned",
                    job.id, job.queue, extra=about(job),
                )  # fmt: skip

    def _failed(self, job: AsyncJob, task: AsyncTask[..., Any] | None, error: BaseException) -> Verdict:
        """How the job failed."""
        if job in self._hand.open:
            log.warning(
                "job %s of queue %r failed in attempt %s: %s",
                job.id, job.queue, job.attempts, type(error).__name__,
                exc_info=error, extra=about(job, None if task is None else task.name),
            )  # fmt: skip
        if task is not None:
            return task.verdict(error)
        if self._handler is None and isinstance(error, UnknownTask | PayloadError):
            return Verdict(str(error), bury=True)
        return self._retries.verdict(error)

    def _lease_of(self, job: AsyncJob) -> timedelta | None:
        if self._handler is None:
            try:
                return self.pq.tasks.of(job).lease_for or self._lease_for
            except (UnknownTask, PayloadError):
                pass
        return self._lease_for


def _weights(pq: AsyncPQ, queues: Queues) -> dict[AsyncQueue, float]:
    if isinstance(queues, str | AsyncQueue):
        queues = [queues]
    given: dict[Any, float] = dict(queues) if isinstance(queues, Mapping) else dict.fromkeys(queues, 1.0)
    if not given:
        raise ValueError("a worker has at least one queue")
    for name, weight in given.items():
        if not 0 < weight < inf:
            told = name if isinstance(name, str) else name.name
            raise ValueError(f"the weight of {told!r} is {weight}: give a number above 0")
    return {queue if isinstance(queue, AsyncQueue) else pq[queue]: weight for queue, weight in given.items()}

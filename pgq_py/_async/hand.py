"""What a worker has in hand: the jobs that it leased, from then until the server knows what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Literal, TypeAlias

from ..failures import Verdict
from ..running import AsyncChannel
from .job import AsyncJob

RELEASE = Verdict("")
"""Returned, and the attempt does not count."""

# What the server is to be told about a job: it has failed so, or None: it is done.
Outcome: TypeAlias = tuple[AsyncJob, Verdict | None]
END: Literal["end"] = "end"
"""The last that the server is told."""

# However little happens, the loops turn this often, in seconds.
TURN = 5.0

# So many seconds' worth of jobs a worker holds at most, beside those that run.
AHEAD = 0.5


class AsyncHand:
    """The jobs in hand, by how far they are.

    Each change is one operation on a set, which no other thread can come between: whoever removes a job from
    `waiting` begins it or returns it, whoever removes it from `open` says what becomes of it.

    Attributes:
        held: all of them: their leases are kept.
        open: those of which nobody has said what becomes of them.
        waiting: those of these that have not begun.
        begin: to those who run jobs; what is not in `waiting` any more is passed over. None ends one of them.
        settle: to the one who tells the server.
        on_unrun: told how many jobs are lost that have not begun.
        begun_at: when a job has begun last; or when jobs came that could.
    """

    def __init__(self, concurrency: int, prefetch: int) -> None:
        self.held: set[AsyncJob] = set()
        self.open: set[AsyncJob] = set()
        self.waiting: set[AsyncJob] = set()
        self.begin: AsyncChannel[AsyncJob | None] = AsyncChannel()
        self.settle: AsyncChannel[Outcome | Literal["end"]] = AsyncChannel()
        self.on_unrun: Callable[[int], object] = lambda count: None
        self.begun_at = monotonic()
        self._least, self._most = concurrency, concurrency + prefetch
        # How long a job runs, in seconds: the mean of the last ones. None: nobody knows.
        self._run_time: float | None = None
        self._wanted: Callable[[], bool] | None = None
        self._bell: AsyncChannel[None] = AsyncChannel()

    def add(self, jobs: Sequence[AsyncJob], begin: bool = True) -> None:
        """Jobs that were leased, to be run: at once, or when somebody puts them into `begin`."""
        if not self.waiting:
            self.begun_at = monotonic()  # from when they wait
        self.held.update(jobs)
        self.open.update(jobs)
        self.waiting.update(jobs)
        if begin:
            for job in jobs:
                self.begin.put(job)

    def add_to_return(self, jobs: Sequence[AsyncJob]) -> None:
        """Jobs that were leased, to be returned."""
        self.held.update(jobs)
        for job in jobs:
            self.settle.put((job, RELEASE))

    def take_back(self, jobs: Iterable[AsyncJob] | None = None) -> int:
        """Return jobs that have not begun, all if none are named; gives how many."""
        count = 0
        for job in list(self.waiting if jobs is None else jobs):
            try:
                self.waiting.remove(job)
            except KeyError:
                continue  # has begun just now
            count += self.decide(job, RELEASE)
        return count

    def decide(self, job: AsyncJob, verdict: Verdict | None) -> bool:
        """Say what becomes of a job; False if somebody has done so before."""
        try:
            self.open.remove(job)
        except KeyError:
            return False
        self.settle.put((job, verdict))
        if self._wanted is not None:
            self.moved()
        return True

    def claim(self, job: AsyncJob) -> bool:
        """Be the one who says what becomes of a job; False if somebody else is."""
        try:
            self.open.remove(job)
        except KeyError:
            return False
        return True

    def lose(self, job: AsyncJob) -> bool:
        """The job's lease is no longer good; False if it was said before what becomes of it."""
        if not self.claim(job):
            return False
        job._is_lost = True
        with suppress(KeyError):  # it has begun
            self.waiting.remove(job)
            self.on_unrun(1)  # first: whoever is woken may ask whether more are to be run
        self.held.discard(job)
        self.moved()
        return True

    def settled(self, jobs: Iterable[AsyncJob]) -> None:
        """The server knows what became of these."""
        self.held.difference_update(jobs)
        self.moved()

    def took(self, seconds: float) -> None:
        """A job ran for so long."""
        mean = self._run_time
        self._run_time = seconds if mean is None else mean + (seconds - mean) / 16

    def slow(self, seconds: float) -> None:
        """The jobs that run now take so long at least."""
        self._run_time = max(self._run_time or 0, seconds)

    @property
    def target(self) -> int:
        """How many jobs to have: those that will begin soon, and no fewer than can run at the same time."""
        mean = self._run_time
        ahead = 0.0 if mean is None else self._least * AHEAD / max(mean, 1e-6)
        return min(max(self._least, int(ahead)), self._most)

    @property
    def room(self) -> int:
        """How many jobs more to lease."""
        target = self.target
        room = target - len(self.open)
        # Few calls for many jobs; but nobody shall be idle.
        return room if room > 0 and (room * 2 >= target or not self.waiting) else 0

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be told the server that there should be no more."""
        return len(self.held) - len(self.open) > 4 * self._most

    async def until(self, wanted: Callable[[], bool], seconds: float = TURN) -> None:
        """Sleep until something moved by which this holds, or for so long. For one sleeper."""
        self._bell.drain()
        self._wanted = wanted
        if not wanted():
            await self._bell.get(seconds)
        self._wanted = None

    def moved(self) -> None:
        """Something moved: wake the sleeper if it was what he waits for."""
        wanted = self._wanted
        if wanted is not None and wanted():
            self.ring()

    def ring(self) -> None:
        """Wake the sleeper."""
        self._wanted = None
        self._bell.put(None)

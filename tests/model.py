"""The queue, as plain Python: what the SQL functions are meant to do, one queue, several connections.

Nothing here is clever. A job is a value; what is committed is a dictionary; a transaction is what it changed and what
it holds. There is one clock, which stands still until somebody moves it. Where a call of SQL would wait for another
connection's transaction, the model says so with `Waits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

START = datetime(2030, 1, 1, tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)
JITTER = 0.75  # half of it to one and a half: random() is held at 0.25

LEASE_FOR = timedelta(minutes=5)
RETRY_IN = timedelta(seconds=10)
LONGEST = timedelta(hours=6)
MAX_ATTEMPTS = 5

# Where a row is: ("job", id), ("dead", id) or ("settings", 0).
Place = tuple[str, int]
SETTINGS: Place = ("settings", 0)


class Waits(Exception):
    """The call would wait for the end of another connection's transaction."""


class Full(Exception):
    """The queue holds as many jobs as its settings allow."""


@dataclass(frozen=True)
class Job:
    id: int
    data: int
    priority: int = 0
    expected_at: datetime | None = None
    schedule_at: datetime | None = None
    key: str | None = None
    max_attempts: int | None = None
    attempts: int = 0
    # What it waits for: the time of its schedule, of its next attempt, or the end of its lease. None: it is ready.
    due: datetime | None = None
    # When the next consumer who leases looks at it. A heartbeat leaves that behind the end of the lease.
    seen_at: datetime | None = None
    receipt: UUID | None = None
    consumer: str | None = None
    progress: int | None = None
    last_error: str | None = None
    history: tuple[tuple[int, str | None, str], ...] = ()

    @property
    def order(self) -> tuple[int, datetime, int]:
        return -self.priority, self.expected_at or NEVER, self.id


@dataclass(frozen=True)
class Dead:
    job: Job
    died_at: datetime
    reason: str


@dataclass(frozen=True)
class Settings:
    paused: bool = False
    max_attempts: int | None = None
    lease_for: timedelta | None = None
    retry_in: timedelta | None = None
    max_depth: int | None = None


@dataclass
class Transaction:
    # What it wrote; None is a row that it removed.
    changed: dict[Place, Any] = field(default_factory=dict)
    # The rows that nobody else may change before it ends.
    held: set[Place] = field(default_factory=set)
    # The dedupe keys of the jobs that it wrote: who puts one of them waits.
    keys: set[str] = field(default_factory=set)
    savepoint: Transaction | None = None

    def copy(self) -> Transaction:
        return Transaction(dict(self.changed), set(self.held), set(self.keys), self.savepoint)


P = ParamSpec("P")
R = TypeVar("R")


def statement(call: Callable[Concatenate[Model, int, P], R]) -> Callable[Concatenate[Model, int, P], R]:
    """A call, in the transaction that its connection has open or in one of its own; an error undoes the transaction."""

    @wraps(call)
    def run(self: Model, c: int, *args: P.args, **kwargs: P.kwargs) -> R:
        alone = c not in self.open
        if alone:
            self.begin(c)
        try:
            result = call(self, c, *args, **kwargs)
        except (Waits, Full):
            self.rollback(c)
            raise
        if alone:
            self.commit(c)
        return result

    return run


class Model:
    def __init__(self) -> None:
        self.now = START
        self.committed: dict[Place, Any] = {}
        self.open: dict[int, Transaction] = {}

    # Transactions

    def begin(self, c: int) -> None:
        self.open[c] = Transaction()

    def commit(self, c: int) -> None:
        for place, row in self.open.pop(c).changed.items():
            if row is None:
                self.committed.pop(place, None)
            else:
                self.committed[place] = row

    def rollback(self, c: int) -> None:
        """Also what becomes of a transaction whose connection dies."""
        self.open.pop(c, None)

    def savepoint(self, c: int) -> None:
        self.open[c].savepoint = self.open[c].copy()

    def rollback_to_savepoint(self, c: int) -> None:
        before = self.open[c].savepoint
        assert before is not None
        self.open[c] = before
        self.savepoint(c)

    # What a connection sees, and what it may write

    def rows(self, c: int | None, kind: str) -> dict[int, Any]:
        seen = dict(self.committed)
        if c in self.open:
            seen.update(self.open[c].changed)
        return {id: row for (k, id), row in sorted(seen.items()) if k == kind and row is not None}

    def jobs(self, c: int | None) -> dict[int, Job]:
        return self.rows(c, "job")

    def dead(self, c: int | None) -> dict[int, Dead]:
        return self.rows(c, "dead")

    def stored_settings(self, c: int | None) -> Settings | None:
        return self.rows(c, "settings").get(0)

    def settings(self, c: int | None) -> Settings:
        return self.stored_settings(c) or Settings()

    def _others(self, c: int) -> Iterator[Transaction]:
        return (transaction for d, transaction in self.open.items() if d != c)

    def is_held(self, c: int, place: Place) -> bool:
        """By a transaction of another connection."""
        return any(place in other.held for other in self._others(c))

    def _hold(self, c: int, place: Place) -> None:
        if self.is_held(c, place):
            raise Waits
        self.open[c].held.add(place)

    def _write(self, c: int, place: Place, row: Any) -> None:
        before = self.rows(c, place[0]).get(place[1])
        self._hold(c, place)
        self.open[c].changed[place] = row
        for job in (before, row):
            if isinstance(job, Job) and job.key is not None:
                self.open[c].keys.add(job.key)

    def _change(self, c: int, job: Job, **fields: Any) -> Job:
        changed = replace(job, **fields)
        self._write(c, ("job", job.id), changed)
        return changed

    def _remove(self, c: int, job: Job) -> None:
        self._write(c, ("job", job.id), None)

    # Putting

    def _with_key(self, c: int, key: str | None) -> Job | None:
        return next((job for job in self.jobs(c).values() if key is not None and job.key == key), None)

    def _check_depth(self, c: int, count: int) -> None:
        depth = self.settings(c).max_depth
        if depth is not None and count and len(self.jobs(c)) + count > depth:
            raise Full

    def _insert(self, c: int, job: Job) -> Job:
        """Store the job, unless one with its key is there; gives the one that is there in the end."""
        if job.key is not None and any(job.key in other.keys for other in self._others(c)):
            raise Waits
        there = self._with_key(c, job.key)
        if there is None:
            self._write(c, ("job", job.id), job)
        return there or job

    def new_job(self, id: int, data: int, schedule_in: timedelta | None = None, **fields: Any) -> Job:
        schedule_at = None if schedule_in is None else self.now + schedule_in
        due = schedule_at if schedule_at is not None and schedule_at > self.now else None
        return Job(id, data, schedule_at=schedule_at, due=due, seen_at=due, **fields)

    @statement
    def put(self, c: int, job: Job) -> int:
        if self._with_key(c, job.key) is None:
            self._check_depth(c, 1)
        return self._insert(c, job).id

    @statement
    def put_many(self, c: int, jobs: list[Job]) -> list[tuple[int, bool]]:
        new_keys = {job.key for job in jobs if job.key is not None and self._with_key(c, job.key) is None}
        self._check_depth(c, len(new_keys) + sum(job.key is None for job in jobs))
        return [(stored.id, stored is job) for job in jobs for stored in [self._insert(c, job)]]

    # Taking

    def max_attempts(self, c: int, job: Job) -> int:
        return job.max_attempts or self.settings(c).max_attempts or MAX_ATTEMPTS

    def is_due(self, job: Job) -> bool:
        return job.due is None or job.due <= self.now

    def _free(self, c: int, jobs: list[Job]) -> list[Job]:
        return [job for job in jobs if not self.is_held(c, ("job", job.id))]

    def _promote(self, c: int) -> None:
        """What has come due becomes ready; a lease that ran out is a failed attempt."""
        for job in self._free(c, list(self.jobs(c).values())):
            if job.seen_at is not None and job.seen_at <= self.now:
                if not self.is_due(job):
                    self._change(c, job, seen_at=job.due)
                elif job.receipt is None:
                    self._change(c, job, due=None, seen_at=None)
                else:
                    self._fail(c, job, "the lease ran out", timedelta(0))

    def _in_order(self, c: int, jobs: list[Job]) -> list[Job]:
        return sorted(self._free(c, jobs), key=lambda job: job.order)

    @statement
    def get(self, c: int, count: int, promote: bool) -> list[Job]:
        if self.settings(c).paused:
            return []
        if promote:
            self._promote(c)
        taken: list[Job] = []
        for job in self._in_order(c, [job for job in self.jobs(c).values() if self.is_due(job)]):
            if len(taken) == count:
                break
            left = job if job.receipt is None else self._fail(c, job, "the lease ran out", timedelta(0))
            if left is not None:
                self._remove(c, left)
                taken.append(left)
        return taken

    @statement
    def lease(self, c: int, count: int, lease: timedelta | None, consumer: str | None, receipt: UUID) -> list[Job]:
        if self.settings(c).paused:
            return []
        self._promote(c)
        until = self.now + (lease or self.settings(c).lease_for or LEASE_FOR)
        ready = self._in_order(c, [job for job in self.jobs(c).values() if job.due is None])
        return [
            self._change(
                c, job, due=until, seen_at=until, receipt=receipt, consumer=consumer, attempts=job.attempts + 1
            )
            for job in ready[:count]
        ]

    # With a receipt

    def leased(self, c: int, id: int, receipt: UUID | None) -> Job | None:
        """The job, if the receipt is good."""
        job = self.jobs(c).get(id)
        good = job is not None and receipt is not None and job.receipt == receipt and not self.is_due(job)
        return job if good else None

    @statement
    def complete(self, c: int, id: int, receipt: UUID | None) -> bool:
        job = self.leased(c, id, receipt)
        if job is None:
            return False
        self._remove(c, job)
        return True

    @statement
    def release(self, c: int, id: int, receipt: UUID | None) -> bool:
        job = self.leased(c, id, receipt)
        if job is None:
            return False
        self._change(c, job, due=None, seen_at=None, receipt=None, consumer=None, attempts=job.attempts - 1)
        return True

    @statement
    def progress(
        self, c: int, id: int, receipt: UUID | None, progress: int | None = None, lease: timedelta | None = None
    ) -> bool:
        job = self.leased(c, id, receipt)
        if job is None:
            return False
        assert job.due is not None
        assert job.seen_at is not None
        until = self.now + (lease or self.settings(c).lease_for or LEASE_FOR)
        self._change(
            c,
            job,
            progress=job.progress if progress is None else progress,
            due=max(job.due, until) if lease is None else until,
            # Not later than the lease ends.
            seen_at=until if job.seen_at <= self.now or (lease is not None and until < job.seen_at) else job.seen_at,
        )
        return True

    def progress_or_pass(self, c: int, id: int, receipt: UUID | None) -> bool | None:
        """As one of many: None if another connection's transaction has the job."""
        if self.leased(c, id, receipt) is not None and self.is_held(c, ("job", id)):
            return None
        return self.progress(c, id, receipt)

    @statement
    def error(
        self,
        c: int,
        id: int,
        receipt: UUID | None,
        message: str = "bad",
        retry_in: timedelta | None = None,
        bury: bool = False,
    ) -> bool:
        if receipt is None:
            # After a rollback: the attempt is counted now.
            job = self.jobs(c).get(id)
            if job is None or (job.receipt is not None and not self.is_due(job)):
                return False
            if job.due is not None and not self.is_due(job) and job.attempts == 0:
                # Nobody has taken what is scheduled for later.
                return False
            if job.receipt is not None:
                # A lease that ran out before is a failed attempt of its own.
                job = self._fail(c, job, "the lease ran out", timedelta(0))
                if job is None:
                    return False
            job = self._change(c, job, attempts=job.attempts + 1, consumer=None)
        else:
            job = self.leased(c, id, receipt)
            if job is None:
                return False
        self._fail(c, job, message, retry_in, bury)
        return True

    def _fail(self, c: int, job: Job, message: str, retry_in: timedelta | None, bury: bool = False) -> Job | None:
        """The job as it is back in the queue, None if it is dead."""
        settings = self.settings(c)
        limit = self.max_attempts(c, job)
        failed = replace(
            job,
            receipt=None,
            last_error=message,
            history=(*job.history, (job.attempts, job.consumer, message)),
        )
        if bury or job.attempts >= limit:
            reason = message if bury else f"attempt {job.attempts} of {limit} failed: {message}"
            self._remove(c, job)
            self._write(c, ("dead", job.id), Dead(replace(failed, due=None, seen_at=None), self.now, reason))
            return None
        if retry_in is None:
            first = RETRY_IN if settings.retry_in is None else settings.retry_in
            longest = LONGEST if settings.retry_in is None else max(settings.retry_in, LONGEST)
            retry_in = min(first * 2 ** (max(job.attempts, 1) - 1), longest) * JITTER
        due = self.now + retry_in if retry_in else None
        return self._change(c, failed, due=due, seen_at=due)

    @statement
    def many(self, c: int, call: str, leases: list[tuple[int, UUID | None]], **arguments: Any) -> list[Any]:
        """The forms for many jobs, which don't take an attempt without a receipt."""
        do = self.progress_or_pass if call == "progress" else getattr(self, call)
        done = {
            id: receipt is not None and do(c, id, receipt, **arguments)
            for id, receipt in sorted(leases, key=lambda lease: lease[0])
        }
        return [(id, done[id]) for id, _ in leases]

    # Managing

    @statement
    def cancel(self, c: int, id: int) -> bool:
        for job in self._free(c, [job for job in self.jobs(c).values() if job.id == id]):
            self._remove(c, job)
            return True
        return False

    @statement
    def update(self, c: int, id: int, data: int, receipt: UUID | None) -> bool:
        if receipt is not None:
            job = self.leased(c, id, receipt)
        else:
            job = next(iter(self._free(c, [job for job in self.jobs(c).values() if job.id == id])), None)
        if job is None:
            return False
        self._change(c, job, data=data)
        return True

    @statement
    def clear(self, c: int) -> int:
        jobs = self._free(c, list(self.jobs(c).values()))
        for job in jobs:
            self._remove(c, job)
        return len(jobs)

    @statement
    def drop(self, c: int) -> bool:
        places = [(kind, id) for kind in ("settings", "job", "dead") for id in self.rows(c, kind)]
        for place in places:
            self._write(c, place, None)
        return bool(places)

    @statement
    def create(self, c: int, **given: Any) -> bool:
        before = self.stored_settings(c)
        self._write(c, SETTINGS, replace(before or Settings(), **given))
        return before is None

    @statement
    def pause(self, c: int) -> bool:
        before = self.stored_settings(c)
        self._hold(c, SETTINGS)
        if before is not None and before.paused:
            return False
        self._write(c, SETTINGS, replace(before or Settings(), paused=True))
        return True

    @statement
    def resume(self, c: int) -> bool:
        before = self.stored_settings(c)
        if before is None or not before.paused:
            return False
        self._write(c, SETTINGS, replace(before, paused=False))
        return True

    # The dead

    def _choose_dead(self, c: int, ids: list[int] | None, count: int | None) -> list[Dead]:
        chosen = [
            dead
            for id, dead in self.dead(c).items()
            if (ids is None or id in ids) and not self.is_held(c, ("dead", id))
        ]
        chosen = sorted(chosen, key=lambda dead: (dead.died_at, dead.job.id))[:count]
        for dead in chosen:
            self._hold(c, ("dead", dead.job.id))
        return chosen

    @statement
    def dead_delete(self, c: int, ids: list[int] | None, count: int | None) -> int:
        chosen = self._choose_dead(c, ids, count)
        for dead in chosen:
            self._write(c, ("dead", dead.job.id), None)
        return len(chosen)

    @statement
    def redrive(self, c: int, ids: list[int] | None, count: int | None) -> int:
        back = 0
        for dead in self._choose_dead(c, ids, count):
            job = replace(dead.job, attempts=0, due=None, receipt=None, consumer=None)
            if self._insert(c, job) is job:
                self._write(c, ("dead", job.id), None)
                back += 1
        return back

    @statement
    def bury(self, c: int, job: Job, reason: str) -> None:
        """A job that was taken with get."""
        kept = replace(job, due=None, seen_at=None, receipt=None, progress=None, last_error=None, history=())
        self._write(c, ("dead", job.id), Dead(kept, self.now, reason))

    # Looking

    def count(self, c: int | None, scheduled: bool) -> int:
        return sum(scheduled or self.is_due(job) for job in self.jobs(c).values())

    def listed(self, c: int | None, scheduled: bool) -> list[int]:
        jobs = [job for job in self.jobs(c).values() if scheduled or self.is_due(job)]
        return [job.id for job in sorted(jobs, key=lambda job: (max(job.due or self.now, self.now), job.order))]

    def wait(self, c: int | None) -> timedelta | None:
        if self.settings(c).paused:
            return None
        waiting = [job for job in self.jobs(c).values() if not self.is_due(job)]
        # Of a lease that was extended, first the time at which that is noticed.
        times = [job.due if job.seen_at <= self.now else job.seen_at for job in waiting]
        return min(times) - self.now if times else None

    def stats(self, c: int | None) -> tuple[Any, ...]:
        jobs = self.jobs(c).values()
        waiting = [job for job in jobs if not self.is_due(job)]
        leased = sum(job.receipt is not None for job in waiting)
        retrying = sum(job.receipt is None and job.attempts > 0 for job in waiting)
        return (
            len(jobs) - len(waiting),
            len(waiting) - leased - retrying,
            retrying,
            leased,
            len(self.dead(c)),
            self.settings(c).paused,
        )

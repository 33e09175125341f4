"""The actors: processes that use the queue as anybody would, and write a ledger.

    python -m soak.actors '{"kind": "take", "name": "take 1", ...}'

A kind is a class with a `step`, entered in KINDS by its name. What a step raises is what the world did to it; the
next step goes on. SIGTERM ends an actor after its step, SIGKILL at any moment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any, ClassVar

import psycopg

from pgq_py import PQ, AsyncJob, AsyncPQ, AsyncWorker, Error, Job, Worker
from pgq_py._sync import hand, listener, settler
from pgq_py.errors import CommitUnknown

from .ledger import FAILED, OK, UNKNOWN, Ledger, RolledBack, name_of
from .written import WrittenCalls, checksum, handed, named

# The first word is the mode in which the queue's jobs are consumed.
QUEUES = ("transactional", "transactional too", "leased", "fleeting")
# Seconds; a worker is stopped for longer.
LEASE = 2.0
# Seconds that a worker leaves to what runs, when it is to end.
GRACE = 1.0
MAX_ATTEMPTS = 6
# The name of the task that all leased jobs are calls of.
TASK = "work"

# Seconds for which a consumer waits for a job, and how often it looks meanwhile as nobody wakes it: the poll interval.
# The longer both are, the longer is a wait in the calm when no wake-up comes.
PATIENCE = 4.0
POLL = listener.POLL

# A process that did not get to run for so long, in seconds, notes it: it may lose its lease by that.
STALL = 0.7

EFFECT = "insert into effect (queue, id, key, actor, op) values (%s, %s, %s, %s, %s)"


def mode_of(queue: str) -> str:
    return queue.split()[0]


@dataclass
class Part:
    """What one process is to play."""

    kind: str
    name: str
    life: int
    seed: int
    dsn: str
    ledgers: str
    # Seconds between the puts of a producer, on average.
    pause: float = 0.02
    # Queues for producers; all unless said otherwise.
    queues: tuple[str, ...] = QUEUES
    # How long an actor works on a job at most, in seconds.
    work: float = 0.02
    # How many jobs a worker does at the same time.
    concurrency: int = 4
    poll: float | None = None
    # Seconds between a job's end and the next put of a prober, beside some milliseconds.
    gap: float = 0
    plant: str | None = None

    def text(self) -> str:
        return json.dumps(asdict(self))


class Actor(ABC):
    """One process."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.id = f"{part.name}#{part.life}"
        self.dice = random.Random(f"{part.seed} {self.id}")
        self.ledger = Ledger(Path(part.ledgers) / f"{self.id}.jsonl")
        self.pq = PQ(part.dsn)
        self.stopping = False
        self._conn: psycopg.Connection[Any] | None = None

    def stop(self) -> None:
        """Called at SIGTERM: end soon."""
        self.stopping = True

    @abstractmethod
    def step(self) -> None:
        """An operation, or some."""

    def run(self) -> None:
        self.ledger.begin("born")
        while not self.stopping:
            try:
                self.step()
            except RolledBack:
                pass
            except (Error, psycopg.Error) as error:
                self.ledger.begin("trouble", error=name_of(error))
                sleep(0.05 + 0.1 * self.dice.random())
        self.pq.close()
        if self._conn is not None:
            self._conn.close()

    @property
    def conn(self) -> psycopg.Connection[Any]:
        """For plain SQL: a connection of our own, autocommit."""
        if self._conn is None or self._conn.closed:
            self._conn = psycopg.connect(self.part.dsn, autocommit=True)
        if self._conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self._conn.rollback()
        return self._conn

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def work(self, share: float = 1) -> None:
        sleep(share * self.part.work * self.dice.random())


# Producers


class Producer(Actor):
    """Puts in every way there is."""

    keys = 0

    def step(self) -> None:
        ways: list[tuple[Callable[[], None], int]] = [
            (self.put, 6),
            (self.put_keyed, 3),
            (self.put_many, 1),
            (self.put_with_sale, 3),
        ]
        (way,) = self.dice.choices([way for way, _ in ways], [weight for _, weight in ways])
        self.queue = self.dice.choice(self.part.queues)
        way()
        sleep(2 * self.part.pause * self.dice.random())

    def key(self) -> str:
        self.keys += 1
        return f"{self.id}.{self.keys}"

    def data(self, key: str) -> dict[str, Any]:
        # Some of it out of line: by chance, or it would be compressed; not much, or it would fill the small disk.
        size = 4000 if self.chance(0.05) else self.dice.choice([0, 0, 100])
        return self.called({"key": key, "text": self.dice.randbytes(size // 2).hex()})

    def called(self, data: dict[str, Any]) -> dict[str, Any]:
        """Leased jobs are calls of a task as well, for those workers that do tasks."""
        return {**data, "task": TASK, "args": [data["key"]]} if mode_of(self.queue) == "leased" else data

    def options(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.chance(0.2):
            found["schedule_at"] = round(1.5 * self.dice.random(), 3)
        if self.chance(0.2):
            found["priority"] = self.dice.randrange(-2, 3)
        if self.chance(0.1):
            found["expected_at"] = round(self.dice.random(), 3)
        return found

    def put(self) -> None:
        data, options = self.data(self.key()), self.options()
        with self.ledger.operation("put", **self.intent(data, options=options)) as entry:
            entry.note(ids=[self.pq[self.queue].put(data, **_times(options))])

    def intent(self, *data: dict[str, Any], options: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        options = options or {}
        return {
            "queue": self.queue,
            "keys": [each["key"] for each in data],
            "data": [checksum(each) for each in data],
            "priority": options.get("priority", 0),
            "delay": options.get("schedule_at"),
            **more,
        }

    def put_keyed(self) -> None:
        """With a dedupe key; repeated as long as nobody knows whether it is there."""
        data, options = self.data(self.key()), self.options()
        dedupe_key = None if self.part.plant == "repeat-without-key" else data["key"]
        for _ in range(20):
            try:
                with self.ledger.operation("put", **self.intent(data, options=options, dedupe=dedupe_key)) as entry:
                    entry.note(ids=[self.pq[self.queue].put(data, dedupe_key=dedupe_key, **_times(options))])
                return
            except CommitUnknown:
                sleep(0.1)

    def batch(self) -> list[dict[str, Any]]:
        return [self.data(self.key()) for _ in range(self.dice.randrange(1, 20))]

    def put_many(self) -> None:
        data, options = self.batch(), self.options()
        dedupe_keys = [each["key"] for each in data] if self.chance(0.5) else None
        with self.ledger.operation("put", **self.intent(*data, options=options)) as entry:
            entry.note(ids=self.pq[self.queue].put_many(data, dedupe_keys=dedupe_keys, **_times(options)))

    def put_with_sale(self) -> None:
        """In a transaction with a row of our own; some are rolled back, and in some an error is swallowed."""
        data, queue = self.data(self.key()), self.pq[self.queue]
        rolled_back, swallowed = self.chance(0.15), self.chance(0.1)
        with self.ledger.operation("put", **self.intent(data, sale=True)) as entry, ExitStack() as stack:
            if self.part.plant == "swallowed-error":
                conn = self.conn
                queue = PQ(conn)[self.queue]
                stack.enter_context(conn.transaction())
                cursor = conn.cursor()
            else:
                cursor = stack.enter_context(queue)
            cursor.execute("insert into sale (key) values (%s)", [data["key"]])
            entry.note(ids=[queue.put(data)])
            if swallowed:
                with suppress(psycopg.errors.UniqueViolation):
                    cursor.execute("insert into sale (key) values (%s)", [data["key"]])
            if rolled_back:
                raise RolledBack


def _times(options: dict[str, Any]) -> dict[str, Any]:
    return {name: timedelta(seconds=value) if name.endswith("_at") else value for name, value in options.items()}


class SqlProducer(Producer):
    """The same by plain SQL."""

    def put(self) -> None:
        data, options = self.data(self.key()), self.options()
        conn = self.conn
        with self.ledger.operation("put", conn, **self.intent(data, options=options)) as entry:
            (id,) = conn.execute(
                "select queue_put(%s, %s, schedule_in => %s::float8 * interval '1 s', priority => %s)",
                [self.queue, json.dumps(data), options.get("schedule_at"), options.get("priority", 0)],
            ).fetchone()
            entry.note(ids=[id])

    def put_keyed(self) -> None:
        self.put()

    def put_many(self) -> None:
        conn, data = self.conn, self.batch()
        with self.ledger.operation("put", conn, **self.intent(*data)) as entry:
            rows = conn.execute(
                "select id from queue_put_many(%s, %s::jsonb[])",
                [self.queue, [json.dumps(each) for each in data]],
            ).fetchall()
            entry.note(ids=[id for (id,) in rows])

    def put_with_sale(self) -> None:
        conn, data = self.conn, self.data(self.key())
        with self.ledger.operation("put", conn, **self.intent(data, sale=True)) as entry:
            entry.committing = False
            conn.execute("begin")
            conn.execute("insert into sale (key) values (%s)", [data["key"]])
            (id,) = conn.execute("select queue_put(%s, %s)", [self.queue, json.dumps(data)]).fetchone()
            entry.note(ids=[id])
            if self.chance(0.1):
                conn.execute("savepoint s")
                conn.execute("select queue_put(%s, '{\"key\": null}')", [self.queue])
                conn.execute("rollback to savepoint s")
            if self.chance(0.15):
                conn.execute("rollback")
                raise RolledBack
            entry.committing = True
            conn.execute("commit")


class Prober(Producer):
    """At the end, when all is calm: one job at a time, the next when it is gone."""

    def step(self) -> None:
        for name in self.part.queues:
            self.queue = name
            self.put()
            queue, began = self.pq[name], monotonic()
            while queue.count(scheduled=True) and not self.stopping and monotonic() < began + 5:
                sleep(0.001)
            sleep(self.part.gap + 0.01 * self.dice.random() ** 2)

    def options(self) -> dict[str, Any]:
        return {}

    def data(self, key: str) -> dict[str, Any]:
        return self.called({"key": key})


# Transactional consumers


class Consumer(Actor):
    """Takes from the queues of its mode."""

    mode: ClassVar[str]

    def __init__(self, part: Part) -> None:
        super().__init__(part)
        self.names = tuple(name for name in part.queues if mode_of(name) == self.mode)
        self.queue: Any = self.pq[self.names if len(self.names) > 1 else self.names[0]]


class Taker(Consumer):
    """`with queue.take()`, the effect in the same transaction."""

    mode = "transactional"

    def step(self) -> None:
        with self.ledger.operation("effect") as entry, self.queue.take(timeout=PATIENCE) as job:
            if job is not None:
                entry.begin(**handed(job))
                self.have_effects(entry.op, job)
                if self.chance(0.05):
                    raise RolledBack

    def have_effects(self, op: int | None, *jobs: Job) -> None:
        with self.queue as cursor:
            for name, id, key in named(*jobs):
                cursor.execute(EFFECT, [name, id, key, self.id, op])
        self.work()


class Listener(Taker):
    """`for job in queue.listen()`; the loop is left now and then."""

    def step(self) -> None:
        op, inside = None, False
        try:
            for job in self.queue.listen(timeout=PATIENCE):
                if op is not None:
                    self.ledger.end(op, OK)
                inside = True
                op = self.ledger.begin("effect", **handed(job))
                self.have_effects(op, job)
                if self.stopping or self.chance(0.05):
                    break
                inside = False
            else:
                if op is not None:
                    self.ledger.end(op, OK)
                return
        except (Error, psycopg.Error) as error:
            if op is not None:
                # Outside of our block it may have come from the commit, or from waiting for the next job.
                self.ledger.end(op, FAILED if inside else UNKNOWN, error=name_of(error))
            raise
        self.ledger.end(op, FAILED)


class Batcher(Taker):
    """`with queue as cursor`, several jobs at once, polling."""

    def step(self) -> None:
        with self.ledger.operation("effect") as entry, self.queue:
            jobs = self.queue.get_many(self.dice.randrange(1, 6))
            if jobs:
                entry.begin(**handed(*jobs))
                self.have_effects(entry.op, *jobs)
                if self.chance(0.05):
                    raise RolledBack
        if not jobs:
            sleep(0.3 * self.dice.random())


class SqlTaker(Consumer):
    """By plain SQL: wait as the reference says, take, effect, commit."""

    mode = "transactional"

    def step(self) -> None:
        name = self.dice.choice(self.names)
        conn = self.conn
        wait = self.look_then_listen if self.part.plant == "look-then-listen" else self.listen_then_look
        row = wait(conn, name)
        if row is None:
            return
        id, data, priority, attempts = row
        given = {"jobs": [[name, id, data["key"]]], "as": [[checksum(data), priority, attempts]]}
        with self.ledger.operation("effect", conn, **given) as entry:
            entry.committing = False
            conn.execute(EFFECT, [name, id, data["key"], self.id, entry.op])
            self.work(0.1)
            entry.committing = True
            conn.execute("commit")

    def look(self, conn: psycopg.Connection[Any], name: str) -> Any:
        conn.execute("begin")
        row = conn.execute("select id, data, priority, attempts from queue_get(%s)", [name]).fetchone()
        if row is None:
            conn.execute("commit")
        return row

    def listen_then_look(self, conn: psycopg.Connection[Any], name: str) -> Any:
        conn.execute("select queue_listen(%s)", [name])
        (pause,) = conn.execute("select extract(epoch from queue_wait(%s))::float8", [name]).fetchone()
        row = self.look(conn, name)
        if row is None:
            self.sleep(conn, pause)
        return row

    def look_then_listen(self, conn: psycopg.Connection[Any], name: str) -> Any:
        row = self.look(conn, name)
        if row is None:
            conn.execute("select queue_listen(%s)", [name])
            self.sleep(conn, None)
            conn.execute("select queue_unlisten(%s)", [name])
        return row

    def sleep(self, conn: psycopg.Connection[Any], pause: float | None) -> None:
        until = monotonic() + min(pause or 60, self.part.poll or POLL)
        while not self.stopping and (left := until - monotonic()) > 0:
            if list(conn.notifies(timeout=min(left, 0.25), stop_after=1)):
                return


# Leased consumers


class Leaser(Consumer):
    """Leases; its effect is a line in a ledger, outside of the database."""

    mode = "leased"
    of: dict[str, Any]

    def step(self) -> None:
        with self.ledger.operation("lease", queue=self.names[0]) as entry:
            job = self.queue.lease(lease_for=LEASE, timeout=PATIENCE, consumer=self.id)
            if job is not None:
                entry.note(**handed(job), until=job.lease_until.timestamp())
        if job is None:
            return
        self.of = {"of": entry.op, "jobs": named(job)}
        if self.part.plant == "complete-first":
            return self.complete_first(job)
        (finish,) = self.dice.choices(
            [self.complete, self.complete_by_block, self.keep_alive, self.error, self.release], [16, 8, 1, 2, 2]
        )
        finish(job)

    def do(self, seconds: float = 0.0) -> None:
        with self.ledger.operation("work", **self.of):
            self.work()
            # Some jobs are long: faults find somebody at work.
            sleep(seconds + (0.8 * self.dice.random() if self.chance(0.05) else 0))

    def complete(self, job: Job) -> None:
        self.do()
        if self.chance(0.2):
            with self.ledger.operation("progress", **self.of) as entry:
                entry.note(done=job.progress(50), lease=LEASE)
        with self.ledger.operation("complete", **self.of) as entry:
            entry.note(done=job.complete())

    def complete_first(self, job: Job) -> None:
        """The mistake: who dies now has completed what was never done."""
        with self.ledger.operation("complete", **self.of) as entry:
            entry.note(done=job.complete())
        self.do()

    def complete_by_block(self, job: Job) -> None:
        with self.ledger.operation("complete", block=True, **self.of), job:
            self.do()
            if self.chance(0.05):
                raise RolledBack

    def keep_alive(self, job: Job) -> None:
        with self.ledger.operation("complete", block=True, kept_alive=True, **self.of), job, job.keep_alive(every=0.5):
            self.do(1.2 * LEASE * self.dice.random())

    def error(self, job: Job) -> None:
        self.do()
        with self.ledger.operation("error", **self.of) as entry:
            entry.note(done=job.error("no luck", retry_in=self.dice.choice([None, 0, 0.5])))

    def release(self, job: Job) -> None:
        with self.ledger.operation("release", **self.of) as entry:
            entry.note(done=job.release())


class EffectLeaser(Leaser):
    """Leases, and completes in the transaction that writes the effect."""

    def complete(self, job: Job) -> None:
        self.do()
        with (
            self.ledger.operation("complete", block=True, effect=True, **self.of) as entry,
            self.queue as cursor,
            job,
        ):
            for name, id, key in named(job):
                cursor.execute(EFFECT, [name, id, key, self.id, entry.op])
            self.work(0.2)
            if self.chance(0.05):
                raise RolledBack

    complete_by_block = complete


# Workers: the package's own, on the same queue


class NoLuck(Exception):
    """Raised by a handler: the attempt has failed."""


class Working(Consumer):
    """A `Worker` in threads, which does tasks.

    What it tells the server, and what that answers, is written down where the calls are made (written.py). It
    ends now and then, as at SIGTERM, and the next takes its place.
    """

    mode = "leased"

    def __init__(self, part: Part) -> None:
        super().__init__(part)
        self.calls = WrittenCalls(self.pq.schema, self.ledger)
        self.pq.calls = self.calls
        self.queue.task(name=TASK, bind=True, retry_in={NoLuck: 0})(self.called)
        self.hooks: list[Any] = []
        if self.part.plant in MISTAKES:
            MISTAKES[self.part.plant](self)

    def step(self) -> None:
        self.worker = Worker(self.pq, self.queue, hooks=self.hooks, **self.options())
        self.worker.run(signals=True)
        self.stopping = self.stopping or self.worker.ended_by in ("stop", "now")

    def options(self) -> dict[str, Any]:
        return {
            "concurrency": self.part.concurrency,
            "prefetch": 2 * self.part.concurrency,
            "lease_for": LEASE,
            "grace": GRACE,
            "max_jobs": self.dice.randrange(100, 400),
            "consumer": self.id,
        }

    def called(self, job: Job, key: str) -> None:
        """The task."""
        assert key == job.data["key"]
        of = self.calls.of(job)
        with self.ledger.operation("work", **of):
            sleep(self.seconds())
        chosen = self.choose()
        if chosen == "raise":
            raise NoLuck
        if chosen == "error":
            job.error("no luck", retry_in=0.5)
        elif chosen == "release":
            job.release()
        elif chosen == "effect":
            with self.ledger.operation("complete", effect=True, **of) as entry, self.queue as cursor:
                cursor.execute(EFFECT, [*named(job)[0], self.id, entry.op])
                entry.note(done=job.complete())
                if not entry.result["done"] or self.chance(0.1):
                    raise NoLuck

    def seconds(self) -> float:
        """For how long to work. Some jobs outlast a lease, which the worker has to keep."""
        long = 1.5 * LEASE if self.chance(0.02) else 0.8 if self.chance(0.05) else 0.0
        return (self.part.work + long) * self.dice.random()

    def choose(self) -> str | None:
        """What becomes of the job; None: it is left to the worker to complete it."""
        (chosen,) = self.dice.choices([None, "effect", "raise", "error", "release"], [24, 4, 2, 1, 1])
        return chosen


class AsyncWorking(Working):
    """An `AsyncWorker`, whose handler is a coroutine function."""

    def step(self) -> None:
        asyncio.run(self.play())

    async def play(self) -> None:
        async with AsyncPQ(self.part.dsn) as pq:
            pq.calls = self.calls
            self.async_queue = pq[self.names[0]]
            worker = AsyncWorker(pq, self.async_queue, handler=self.handle, **self.options())
            await worker.run(signals=True)
            self.stopping = self.stopping or worker.ended_by in ("stop", "now")

    async def handle(self, job: AsyncJob) -> None:
        of = self.calls.of(job)
        with self.ledger.operation("work", **of):
            await asyncio.sleep(self.seconds())
        chosen = self.choose()
        if chosen == "raise":
            raise NoLuck
        if chosen == "error":
            await job.error("no luck", retry_in=0.5)
        elif chosen == "release":
            await job.release()
        elif chosen == "effect":
            with self.ledger.operation("complete", effect=True, **of) as entry:
                async with self.async_queue as cursor:
                    await cursor.execute(EFFECT, [*named(job)[0], self.id, entry.op])
                    entry.note(done=await job.complete())
                    if not entry.result["done"] or self.chance(0.1):
                        raise NoLuck


def settle_first(actor: Working) -> None:
    """The mistake: the job is done as it begins."""

    @contextmanager
    def settled(job: Job) -> Iterator[None]:
        actor.worker._hand.decide(job, None)
        yield

    actor.hooks.append(settled)


def keep_nothing(actor: Working) -> None:
    """The mistake: no heartbeat."""
    settler.Pulse._beat = lambda self: None  # type: ignore[method-assign]


def return_nothing(actor: Working) -> None:
    """The mistake: what has not begun when the worker ends is left to its lease."""

    def forget(self: hand.Hand, jobs: Any = None) -> int:
        count = len(self.waiting)
        self.held -= self.waiting
        self.open -= self.waiting
        self.waiting.clear()
        return count

    hand.Hand.take_back = forget  # type: ignore[method-assign]


MISTAKES = {
    "worker-settles-first": settle_first,
    "worker-keeps-nothing": keep_nothing,
    "worker-returns-nothing": return_nothing,
}


# At-most-once consumers


class Getter(Consumer):
    """`get` and `get_many` in no transaction: the job is gone when it is here."""

    mode = "fleeting"

    def step(self) -> None:
        if self.chance(0.8):
            with self.ledger.operation("get", queue=self.names[0], count=1) as entry:
                job = self.queue.get(timeout=PATIENCE)
                entry.note(**handed(job))
        else:
            count = self.dice.randrange(2, 6)
            with self.ledger.operation("get", queue=self.names[0], count=count) as entry:
                entry.note(**handed(*self.queue.get_many(count, block=True, timeout=PATIENCE)))
        self.work(0.2)


class Eater(Consumer):
    """`for job in queue.consume()`."""

    mode = "fleeting"

    def step(self) -> None:
        jobs = self.queue.consume(timeout=PATIENCE)
        job: Job | None
        while not self.stopping:
            with self.ledger.operation("get", queue=self.names[0], count=1) as entry:
                job = next(jobs, None)
                entry.note(**handed(job))
            if job is None:
                return


class Tasks(Consumer):
    """The asynchronous package: a task for each mode, in one process."""

    mode = "leased"

    def step(self) -> None:
        """All there is, until the end."""
        asyncio.run(self.play())

    async def play(self) -> None:
        async with AsyncPQ(self.part.dsn) as pq:
            await asyncio.gather(*(self.repeat(step, pq) for step in (self.take, self.lease, self.get)))

    async def repeat(self, step: Callable[[AsyncPQ], Awaitable[None]], pq: AsyncPQ) -> None:
        while not self.stopping:
            try:
                await step(pq)
            except RolledBack:
                pass
            except (Error, psycopg.Error) as error:
                self.ledger.begin("trouble", error=name_of(error))
                await asyncio.sleep(0.05 + 0.1 * self.dice.random())

    async def take(self, pq: AsyncPQ) -> None:
        queue = pq["transactional", "transactional too"]
        with self.ledger.operation("effect") as entry:
            async with queue.take(timeout=PATIENCE) as job:
                if job is not None:
                    entry.begin(**handed(job))
                    async with queue as cursor:
                        await cursor.execute(EFFECT, [*named(job)[0], self.id, entry.op])
                    if self.chance(0.05):
                        raise RolledBack

    async def lease(self, pq: AsyncPQ) -> None:
        with self.ledger.operation("lease", queue="leased") as entry:
            job = await pq["leased"].lease(lease_for=LEASE, timeout=PATIENCE, consumer=self.id)
            if job is not None:
                entry.note(**handed(job), until=job.lease_until.timestamp())
        if job is None:
            return
        of: dict[str, Any] = {"of": entry.op, "jobs": named(job)}
        with self.ledger.operation("complete", block=True, kept_alive=True, **of):
            async with job, job.keep_alive(every=0.5):
                with self.ledger.operation("work", **of):
                    await asyncio.sleep(0.02 * self.dice.random())

    async def get(self, pq: AsyncPQ) -> None:
        with self.ledger.operation("get", queue="fleeting", count=1) as entry:
            job = await pq["fleeting"].get(timeout=PATIENCE)
            entry.note(**handed(job))
        await asyncio.sleep(0.01 * self.dice.random())


class Keeper(Actor):
    """What a cron job would do."""

    def step(self) -> None:
        # Autovacuum never comes: each crash makes it forget what it has counted, and there is one every few seconds.
        # The small disk would be full of what was done long ago, after twenty minutes for ever.
        self.conn.execute("vacuum queue_job")
        with self.ledger.operation("keep", by=self.id) as entry:
            self.pq.maintain()
            entry.note(redriven=[self.pq[name].redrive() for name in self.part.queues])
            self.pq.stats()
            self.pq.health()
        sleep(0.5 + self.dice.random())


KINDS: dict[str, type[Actor]] = {
    "put": Producer,
    "put-sql": SqlProducer,
    "probe": Prober,
    "take": Taker,
    "listen": Listener,
    "batch": Batcher,
    "take-sql": SqlTaker,
    "lease": Leaser,
    "lease-effect": EffectLeaser,
    "work": Working,
    "work-async": AsyncWorking,
    "get": Getter,
    "consume": Eater,
    "tasks": Tasks,
    "keep": Keeper,
}
PRODUCERS = ("put", "put-sql")
# Who looks without being woken, all the time.
LOOKERS = ("batch",)


def end_with_parent() -> None:
    """When whoever started us is gone, so is the other end of our standard input."""
    # Not by sys.stdin, whose lock would be in the way of Python's own end.
    while os.read(0, 1):
        pass
    os._exit(1)


def watch(actor: Actor) -> None:
    """Note when this process, or the whole machine, stood still."""
    before = time()
    while not actor.stopping:
        sleep(0.1)
        if time() - before > STALL:
            op = actor.ledger.begin("fault", kind="stall", scope="actors", actors=[actor.id], since=before)
            actor.ledger.end(op, OK)
        before = time()


def main() -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    # What faults do is in the ledger.
    logging.disable(logging.WARNING)
    part = Part(**json.loads(sys.argv[1]))
    part.queues = tuple(part.queues)
    if part.poll is not None:
        listener.POLL = part.poll
    actor = KINDS[part.kind](part)

    signal.signal(signal.SIGTERM, lambda *_: actor.stop())
    threading.Thread(target=watch, args=[actor], daemon=True).start()
    actor.run()


if __name__ == "__main__":
    main()

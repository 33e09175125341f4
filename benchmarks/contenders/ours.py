"""This repository's queue: through the Python package, and its SQL functions called directly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgq_py import PQ, AsyncPQ, Job, Worker

from ..contender import (
    Chooses,
    Cycles,
    Data,
    Gets,
    GetsMany,
    Holds,
    Leases,
    LeasesMany,
    OnJob,
    PutsLater,
    PutsMany,
    Receives,
    Sleeps,
    Works,
)

_LEFT = "select count(*), coalesce(sum((data->>'n')::bigint), 0) from queue_job where ready_at is null"


class Ours(Chooses, Gets, Leases, Cycles, PutsMany, GetsMany, LeasesMany, PutsLater, Holds, Receives, Sleeps, Works):
    """The Python package, on one psycopg connection."""

    name = "ours"
    about = 'the Python package: `PQ(conn)["bench"].put(data)`, `.get(block=False)`, `.lease()` and `job.complete()`'
    packages = ("psycopg", "psycopg-binary")
    left_sql = _LEFT

    def install(self) -> None:
        """As users do."""
        with psycopg.connect(self.place.dsn) as conn:
            PQ(conn).create()

    def connect(self) -> None:
        """A plain psycopg connection."""
        self.conn = psycopg.connect(self.place.dsn, autocommit=True)
        self.pq = PQ(self.conn)
        self.queue = self.pq["bench"]
        self.consumer: Any = self.queue

    def close(self) -> None:
        """Hang up."""
        self.conn.close()

    def choose(self, queues: Sequence[str]) -> None:
        """Put into the first, take from all."""
        self.queue = self.pq[queues[0]]
        self.consumer = self.queue if len(queues) == 1 else self.pq[tuple(queues)]

    def put(self, data: Data) -> None:
        """`queue.put`."""
        self.queue.put(data)

    def get(self) -> Data | None:
        """`queue.get`."""
        job = self.consumer.get(block=False)
        return None if job is None else job.data

    def lease_complete(self) -> Data | None:
        """`queue.lease` and `job.complete`."""
        job = self.queue.lease(block=False)
        if job is None:
            return None
        assert job.complete()
        data: Data = job.data
        return data

    def cycle(self, data: Data) -> None:
        """As a job that fails once."""
        self.queue.put(data)
        job = self.queue.lease(block=False)
        assert job is not None
        assert job.error("not now", retry_in=0)
        again = self.queue.lease(block=False)
        assert again is not None
        assert again.complete()

    def put_many(self, items: Sequence[Data]) -> None:
        """`queue.put_many`."""
        self.queue.put_many(items)

    def get_many(self, count: int) -> list[Data]:
        """`queue.get_many`."""
        return [job.data for job in self.queue.get_many(count)]

    def lease_complete_many(self, count: int) -> list[Data]:
        """`queue.lease_many`, and one call of the SQL function that completes many."""
        jobs = self.queue.lease_many(count)
        self._complete_many(jobs)
        return [job.data for job in jobs]

    def _complete_many(self, jobs: Sequence[Job]) -> None:
        rows = self.conn.execute(
            "select done from queue_complete_many(%s, %s, %s)",
            ("bench", [job.id for job in jobs], [job.receipt for job in jobs]),
        ).fetchall()
        assert all(done for (done,) in rows)

    def put_later(self, items: Sequence[Data], seconds: float) -> None:
        """`schedule_at`."""
        self.queue.put_many(items, schedule_at=datetime.now(UTC) + timedelta(seconds=seconds))

    def hold(self, count: int) -> None:
        """`queue.lease_many`, and no more."""
        while count > 0:
            count -= len(self.queue.lease_many(min(count, 1000), "1d"))

    def loop(self, count: int, size: int) -> list[int]:
        """`queue.lease_many`, and the call that a worker makes to complete many."""
        taken: list[int] = []
        while len(taken) < count:
            jobs = self.queue.lease_many(min(size, count - len(taken)))
            taken += [job.data["n"] for job in jobs]
            ids, receipts = [job.id for job in jobs], [job.receipt.bytes for job in jobs if job.receipt]
            done: list[bool] = self.pq.run(self.pq.calls.complete_many("bench", ids, receipts))
            assert all(done)
        return taken

    def work(self, count: int, threads: int) -> list[int]:
        """`Worker(pq, "bench", handler=...).run()`."""
        taken: list[int] = []
        with PQ(self.place.dsn) as pq:
            handler = lambda job: taken.append(job.data["n"])  # noqa: E731 - as short as a handler can be
            Worker(pq, "bench", handler=handler, concurrency=threads, max_jobs=count).run()
        return taken

    def receive(self, on_job: OnJob) -> None:
        """`for job in queue`."""
        jobs: Iterator[Job | None] = iter(self.consumer)
        for job in jobs:
            if not on_job(None if job is None else job.data):
                return

    def sleep(self, queues: Sequence[str], asleep: Callable[[], object]) -> None:
        """`async for job in queue.consume()`, tasks of one thread: 50 threads would wake each other."""
        asyncio.run(self._sleep(queues, asleep))

    async def _sleep(self, queues: Sequence[str], asleep: Callable[[], object]) -> None:
        async def consume(queue: str) -> None:
            async for _ in pq[queue].consume():
                pass

        size = len(queues)
        async with AsyncConnectionPool(self.place.dsn, min_size=size, max_size=size, open=False) as pool:
            await pool.wait()
            pq = AsyncPQ(pool=pool)
            consumers = [asyncio.create_task(consume(queue)) for queue in queues]
            await asyncio.sleep(1)  # until they are asleep
            await asyncio.to_thread(asleep)
            await asyncio.gather(*consumers)


class OursSQL(Chooses, Gets, Leases, PutsMany, GetsMany, LeasesMany):
    """The SQL functions, called as the bare statements are: what Python adds is the difference."""

    name = "ours-sql"
    about = "the same SQL functions, called with psycopg directly and prepared: `SELECT queue_put('bench', …)`"
    packages = ("psycopg", "psycopg-binary")
    left_sql = _LEFT

    def install(self) -> None:
        """As users do."""
        Ours(self.place).install()

    def connect(self) -> None:
        """A connection that prepares each statement at once."""
        self.conn = psycopg.connect(self.place.dsn, autocommit=True, prepare_threshold=0)
        self.queues = ["bench"]

    def close(self) -> None:
        """Hang up."""
        self.conn.close()

    def choose(self, queues: Sequence[str]) -> None:
        """Put into the first, take from all."""
        self.queues = list(queues)

    def put(self, data: Data) -> None:
        """One call."""
        self.conn.execute("select queue_put(%s, %s::jsonb)", (self.queues[0], json.dumps(data))).fetchone()

    def get(self) -> Data | None:
        """One call."""
        if len(self.queues) == 1:
            row = self.conn.execute("select id, data from queue_get(%s)", (self.queues[0],)).fetchone()
        else:
            row = self.conn.execute("select id, data from queue_get_any(%s)", (self.queues,)).fetchone()
            self.queues.append(self.queues.pop(0))
        return None if row is None else row[1]

    def lease_complete(self) -> Data | None:
        """Two calls."""
        row = self.conn.execute("select id, receipt, data from queue_lease(%s)", (self.queues[0],)).fetchone()
        if row is None:
            return None
        done = self.conn.execute("select queue_complete(%s, %s, %s)", (self.queues[0], row[0], row[1])).fetchone()
        assert done == (True,)
        data: Data = row[2]
        return data

    def put_many(self, items: Sequence[Data]) -> None:
        """One call for all."""
        texts = [json.dumps(data) for data in items]
        self.conn.execute("select id from queue_put_many(%s, %s::jsonb[])", (self.queues[0], texts)).fetchall()

    def get_many(self, count: int) -> list[Data]:
        """One call."""
        rows = self.conn.execute("select id, data from queue_get(%s, %s)", (self.queues[0], count))
        return [data for _, data in rows]

    def lease_complete_many(self, count: int) -> list[Data]:
        """Two calls."""
        rows = self.conn.execute(
            "select id, receipt, data from queue_lease(%s, %s)", (self.queues[0], count)
        ).fetchall()
        done = self.conn.execute(
            "select done from queue_complete_many(%s, %s, %s)",
            (self.queues[0], [row[0] for row in rows], [row[1] for row in rows]),
        ).fetchall()
        assert all(done for (done,) in done)
        return [data for _, _, data in rows]

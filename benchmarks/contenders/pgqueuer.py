"""pgqueuer, asynchronous, over asyncpg and uvloop."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.queries import Queries

from ..contender import Data, Holds, Leases, LeasesMany, OnJob, PutsLater, PutsMany, Receives

T = TypeVar("T")


class Pgqueuer(Leases, PutsMany, LeasesMany, PutsLater, Holds, Receives):
    """`Queries`, which its workers use, called directly: what a worker adds is left out, in its favour."""

    name = "pgqueuer"
    about = "`Queries.enqueue`, and `.dequeue` with `.log_jobs`, which its workers call; over asyncpg and uvloop"
    packages = ("pgqueuer", "asyncpg", "uvloop")
    left_sql = (
        "select count(*), coalesce(sum((convert_from(payload, 'utf8')::json->>'n')::bigint), 0) "
        "from pgqueuer where status = 'queued'"
    )

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        result: T = self.loop.run_until_complete(work)
        return result

    async def _connect(self) -> None:
        self.conn = await asyncpg.connect(host=self.place.host, user=self.place.user, database=self.place.dbname)
        self.queries = Queries.from_asyncpg_connection(self.conn)

    def install(self) -> None:
        """As its command line does."""
        self.connect()
        self._run(self.queries.install())
        self.close()

    def connect(self) -> None:
        """One connection, and a loop that is run for each call."""
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self._run(self._connect())
        self.entrypoints = {"bench": EntrypointExecutionParameter(concurrency_limit=0)}
        self.manager = uuid.uuid4()

    def close(self) -> None:
        """Hang up."""
        self._run(self.conn.close())
        self.loop.close()

    def put(self, data: Data) -> None:
        """`enqueue`."""
        self._run(self.queries.enqueue("bench", json.dumps(data).encode()))

    async def _take(self, count: int) -> list[Job]:
        jobs: list[Job] = await self.queries.dequeue(count, self.entrypoints, self.manager, None, timedelta(seconds=30))
        return jobs

    async def _lease_complete(self, count: int) -> list[Data]:
        jobs = await self._take(count)
        if jobs:
            await self.queries.log_jobs([(job, "successful", None) for job in jobs])
        return [json.loads(job.payload) for job in jobs]

    def lease_complete(self) -> Data | None:
        """`dequeue` and `log_jobs` of one."""
        done = self._run(self._lease_complete(1))
        return done[0] if done else None

    def put_many(self, items: Sequence[Data]) -> None:
        """`enqueue` of lists."""
        self._enqueue_many(items, None)

    def _enqueue_many(self, items: Sequence[Data], later: timedelta | None) -> None:
        size = len(items)
        data = [json.dumps(item).encode() for item in items]
        self._run(self.queries.enqueue(["bench"] * size, data, [0] * size, [later] * size))

    def lease_complete_many(self, count: int) -> list[Data]:
        """`dequeue` and `log_jobs` of many."""
        return self._run(self._lease_complete(count))

    def put_later(self, items: Sequence[Data], seconds: float) -> None:
        """`execute_after`."""
        self._enqueue_many(items, timedelta(seconds=seconds))

    def hold(self, count: int) -> None:
        """`dequeue`."""
        while count > 0:
            count -= len(self._run(self._take(min(count, 1000))))

    def receive(self, on_job: OnJob) -> None:
        """A real worker: `PgQueuer.run`."""
        worker = PgQueuer.from_asyncpg_connection(self.conn)

        async def bench(job: Job) -> None:
            if not on_job(json.loads(job.payload)):
                worker.shutdown.set()

        worker.entrypoint("bench")(bench)
        self._run(worker.run())

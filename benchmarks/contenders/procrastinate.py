"""procrastinate: jobs are put by its synchronous connector, and taken by its asynchronous one."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from procrastinate.jobs import Job, Status

from ..contender import Data, Holds, Leases, OnJob, PutsLater, PutsMany, Receives, batches, payload

T = TypeVar("T")


class Procrastinate(Leases, PutsMany, PutsLater, Holds, Receives):
    """`task.defer`, and the job manager that its workers use: what a worker adds is left out, in its favour."""

    name = "procrastinate"
    about = (
        "`task.defer`, and `job_manager.fetch_job` with `.finish_job`, which its workers call; done jobs are deleted"
    )
    packages = ("procrastinate", "psycopg", "psycopg-pool")
    left_sql = "select count(*), coalesce(sum((args->>'n')::bigint), 0) from procrastinate_jobs where status = 'todo'"

    def _app(self, connector: Any) -> Any:
        app = App(connector=connector)
        logging.getLogger("procrastinate").setLevel(logging.WARNING)
        self.on_job: OnJob | None = None

        async def bench(**data: Any) -> None:
            assert self.on_job is not None
            self.on_job(data)

        self.task = app.task(name="bench", queue="bench")(bench)
        return app

    def install(self) -> None:
        """As its command line does."""
        with self._app(SyncPsycopgConnector(conninfo=self.place.dsn, min_size=1, max_size=1)).open() as app:
            app.schema_manager.apply_schema()

    def connect(self) -> None:
        """One connection to put with; one to take with is opened when needed."""
        self.app = self._app(SyncPsycopgConnector(conninfo=self.place.dsn, min_size=1, max_size=1))
        self.app.open()
        self.loop: asyncio.AbstractEventLoop | None = None

    def close(self) -> None:
        """Hang up."""
        self.app.close()
        if self.loop is not None:
            self.loop.run_until_complete(self.taker.close_async())

    def put(self, data: Data) -> None:
        """`task.defer`."""
        self.task.defer(**data)

    def fill(self, numbers: Iterable[int]) -> None:
        """By a statement: to defer a million takes minutes."""
        statement = (
            "insert into procrastinate_jobs (queue_name, task_name, args) select 'bench', 'bench', unnest(%s::jsonb[])"
        )
        with self.app.connector.pool.connection() as conn:
            for batch in batches(numbers):
                conn.execute(statement, ([json.dumps(payload(n)) for n in batch],))

    def put_many(self, items: Sequence[Data]) -> None:
        """`task.batch_defer`."""
        self.task.batch_defer(*items)

    async def _open(self) -> None:
        self.taker = App(connector=PsycopgConnector(conninfo=self.place.dsn, min_size=1, max_size=1))
        await self.taker.open_async()
        self.worker = await self.taker.job_manager.register_worker()

    async def _lease(self) -> Job | None:
        job: Job | None = await self.taker.job_manager.fetch_job(["bench"], self.worker)
        return job

    async def _lease_complete(self) -> Data | None:
        job = await self._lease()
        if job is None:
            return None
        await self.taker.job_manager.finish_job(job, Status.SUCCEEDED, delete_job=True)
        data: Data = job.task_kwargs
        return data

    def _taking(self) -> asyncio.AbstractEventLoop:
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            self.loop.run_until_complete(self._open())
        return self.loop

    def lease_complete(self) -> Data | None:
        """`fetch_job` and `finish_job`."""
        return self._taking().run_until_complete(self._lease_complete())

    def put_later(self, items: Sequence[Data], seconds: float) -> None:
        """`schedule_at`."""
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        self.task.configure(schedule_at=at).batch_defer(*items)

    def hold(self, count: int) -> None:
        """Marked by a statement: it has no way to fetch many."""
        with self.app.connector.pool.connection() as conn:
            conn.execute(
                "update procrastinate_jobs set status = 'doing' where id in "
                "(select id from procrastinate_jobs where status = 'todo' order by id limit %s)",
                (count,),
            )

    async def _receive(self, on_job: OnJob) -> None:
        app = self._app(PsycopgConnector(conninfo=self.place.dsn, min_size=1, max_size=4))
        enough = asyncio.Event()

        def until_enough(data: Data | None) -> bool:
            if not on_job(data):
                enough.set()
            return True

        self.on_job = until_enough
        async with app.open_async():
            worker = asyncio.create_task(
                app.run_worker_async(queues=["bench"], delete_jobs="always", install_signal_handlers=False)
            )
            await enough.wait()
            worker.cancel()
            await asyncio.wait([worker])

    def receive(self, on_job: OnJob) -> None:
        """A real worker: `App.run_worker_async`."""
        asyncio.run(self._receive(on_job))

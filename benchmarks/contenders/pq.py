"""pq, the package whose interface ours follows, over psycopg2."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta

import psycopg2
from pq import PQ

from ..contender import Data, Gets, OnJob, PutsLater, Receives, batches, payload


class Pq(Gets, PutsLater, Receives):
    """As its README: `PQ(conn)["bench"]`."""

    name = "pq"
    about = '`PQ(conn)["bench"].put(data)`, `.get(block=False)`, over psycopg2'
    packages = ("pq", "psycopg2-binary")
    left_sql = "select count(*), coalesce(sum((data->>'n')::bigint), 0) from queue where dequeued_at is null"

    def install(self) -> None:
        """As its README."""
        conn = psycopg2.connect(self.place.dsn, options="-c client_min_messages=warning")
        PQ(conn).create()
        conn.close()

    def connect(self) -> None:
        """One connection."""
        self.conn = psycopg2.connect(self.place.dsn)
        self.pq = PQ(self.conn)  # which refers to its queues weakly
        self.queue = self.pq["bench"]

    def close(self) -> None:
        """Hang up."""
        self.conn.close()

    def put(self, data: Data) -> None:
        """`queue.put`."""
        self.queue.put(data)

    def get(self) -> Data | None:
        """`queue.get`, which marks the job and leaves the row."""
        job = self.queue.get(block=False)
        return None if job is None else job.data

    def fill(self, numbers: Iterable[int]) -> None:
        """It has no bulk interface."""
        statement = "insert into queue (q_name, data) select 'bench', unnest(%s)::json"
        with self.conn, self.conn.cursor() as cursor:
            for batch in batches(numbers):
                cursor.execute(statement, ([json.dumps(payload(n)) for n in batch],))

    def put_later(self, items: Sequence[Data], seconds: float) -> None:
        """By a statement, as `put(data, schedule_at=...)` would."""
        statement = "insert into queue (q_name, data, schedule_at) select 'bench', unnest(%s)::json, now() + %s"
        with self.conn, self.conn.cursor() as cursor:
            cursor.execute(statement, ([json.dumps(data) for data in items], timedelta(seconds=seconds)))

    def receive(self, on_job: OnJob) -> None:
        """`for job in queue`."""
        for job in self.queue:
            if not on_job(None if job is None else job.data):
                return

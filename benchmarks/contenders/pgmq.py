"""pgmq: its SQL, which the package carries, and its client."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from pgmq import PGMQueue
from pgmq.install import install_pgmq_from_sql
from psycopg_pool import ConnectionPool

from ..contender import Cycles, Data, Gets, GetsMany, Holds, Leases, LeasesMany, OnJob, PutsLater, PutsMany, Receives


class Pgmq(Gets, Leases, Cycles, PutsMany, GetsMany, LeasesMany, PutsLater, Holds, Receives):
    """`PGMQueue`, with the caller's connection: by default it asks its pool and adds BEGIN and COMMIT."""

    name = "pgmq"
    about = "`PGMQueue.send`, `.pop`, `.read` and `.delete` with `conn=`, an autocommit connection of psycopg"
    packages = ("pgmq", "psycopg", "psycopg-binary")
    left_sql = "select count(*), coalesce(sum((message->>'n')::bigint), 0) from pgmq.q_bench where vt <= now()"

    def install(self) -> None:
        """Its SQL, and the queue."""
        install_pgmq_from_sql(dsn=self.place.dsn)
        with psycopg.connect(self.place.dsn) as conn:
            conn.execute("select pgmq.create('bench')")

    def connect(self) -> None:
        """A connection for the calls; the pool is there because the client wants one."""
        self.conn = psycopg.connect(self.place.dsn, autocommit=True, prepare_threshold=0)
        self.pool = ConnectionPool(self.place.dsn, min_size=0, max_size=1, open=False)
        self.queue = PGMQueue(pool=self.pool, init_extension=False)

    def close(self) -> None:
        """Hang up."""
        self.conn.close()

    def put(self, data: Data) -> None:
        """`send`."""
        self.queue.send("bench", data, conn=self.conn)

    def get(self) -> Data | None:
        """`pop`."""
        message = self.queue.pop("bench", conn=self.conn)
        return None if message is None else message.message

    def lease_complete(self) -> Data | None:
        """`read`, then `delete`."""
        message = self.queue.read("bench", vt=300, conn=self.conn)
        if message is None:
            return None
        assert self.queue.delete("bench", message.msg_id, conn=self.conn)
        data: Data = message.message
        return data

    def cycle(self, data: Data) -> None:
        """`send`, `read`, `set_vt`, `read`, `delete`."""
        self.queue.send("bench", data, conn=self.conn)
        message = self.queue.read("bench", vt=300, conn=self.conn)
        self.queue.set_vt("bench", message.msg_id, 0, conn=self.conn)
        self.lease_complete()

    def put_many(self, items: Sequence[Data]) -> None:
        """`send_batch`."""
        self.queue.send_batch("bench", list(items), conn=self.conn)

    def get_many(self, count: int) -> list[Data]:
        """`pop`."""
        return [message.message for message in self.queue.pop("bench", qty=count, conn=self.conn)]

    def lease_complete_many(self, count: int) -> list[Data]:
        """`read`, then `delete_batch`."""
        messages = self.queue.read("bench", vt=300, qty=count, conn=self.conn)
        done = self.queue.delete_batch("bench", [message.msg_id for message in messages], conn=self.conn)
        assert len(done) == len(messages)
        return [message.message for message in messages]

    def put_later(self, items: Sequence[Data], seconds: float) -> None:
        """`delay`."""
        self.queue.send_batch("bench", list(items), delay=int(seconds), conn=self.conn)

    def hold(self, count: int) -> None:
        """`read`."""
        while count > 0:
            count -= len(self.queue.read("bench", vt=86400, qty=min(count, 1000), conn=self.conn))

    def receive(self, on_job: OnJob) -> None:
        """`read_with_poll`, which sleeps inside the server and looks every 100 ms, then `delete`."""
        while True:
            messages = self.queue.read_with_poll("bench", vt=300, qty=1, max_poll_seconds=1, conn=self.conn)
            for message in messages:
                self.queue.delete("bench", message.msg_id, conn=self.conn)
                if not on_job(message.message):
                    return
            if not messages and not on_job(None):
                return

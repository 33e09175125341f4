"""py-q4pg, over psycopg2."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable

import psycopg2

from ..contender import Data, Gets, batches, payload

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it compares with a literal by `is`
    import q4pg


class Q4pg(Gets):
    """As its README, on a session of the caller's: without one it connects for each call."""

    name = "py-q4pg"
    about = "`QueueManager().enqueue` and `.dequeue_immediate` on a psycopg2 cursor (`other_sess`), then commit"
    packages = ("py-q4pg", "psycopg2-binary")
    left_sql = "select count(*), coalesce(sum((content::json->>'n')::bigint), 0) from mq"

    def install(self) -> None:
        """As its README."""
        q4pg.QueueManager(dsn=self.place.dsn).create_table()

    def connect(self) -> None:
        """One connection."""
        self.conn = psycopg2.connect(self.place.dsn)
        self.cursor = self.conn.cursor()
        self.manager = q4pg.QueueManager()

    def close(self) -> None:
        """Hang up."""
        self.conn.close()

    def put(self, data: Data) -> None:
        """`enqueue`."""
        self.manager.enqueue("bench", data, other_sess=self.cursor)
        self.conn.commit()

    def get(self) -> Data | None:
        """`dequeue_immediate`."""
        data: Data | None = self.manager.dequeue_immediate("bench", other_sess=self.cursor)
        self.conn.commit()
        return data

    def fill(self, numbers: Iterable[int]) -> None:
        """It has no bulk interface."""
        for batch in batches(numbers):
            data = [json.dumps(payload(n)) for n in batch]
            self.cursor.execute("insert into mq (tag, content) select 'bench', unnest(%s)", (data,))
        self.conn.commit()

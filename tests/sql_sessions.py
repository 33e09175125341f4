"""Help for the tests of the SQL functions: values, refusals, and statements that wait in another session."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest


def column(conn: psycopg.Connection[Any], query: str, *params: Any) -> list[Any]:
    return [row[0] for row in conn.execute(query, params or None).fetchall()]


def value(conn: psycopg.Connection[Any], query: str, *params: Any) -> Any:
    (found,) = column(conn, query, *params)
    return found


def refused(
    conn: psycopg.Connection[Any], sqlstate: str, query: str, *params: Any, hint: bool = False
) -> psycopg.Error:
    """The error of a statement; `hint` where the error is raised by a function of ours."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(query, params or None)
    assert caught.value.sqlstate == sqlstate, caught.value
    if hint:
        assert caught.value.diag.message_hint
    return caught.value


def stored(conn: psycopg.Connection[Any]) -> int:
    """How many jobs there are in all queues."""
    return int(value(conn, "select count(*) from queue_job"))


class Running:
    """A statement that runs in another session, in a thread, because it is expected to wait."""

    def __init__(self, conn: psycopg.Connection[Any], query: str, *params: Any) -> None:
        self.conn = conn
        self.rows: list[Any] = []
        self.error: psycopg.Error | None = None
        self.thread = threading.Thread(target=self._run, args=(query, params), daemon=True)
        self.thread.start()

    def _run(self, query: str, params: tuple[Any, ...]) -> None:
        try:
            self.rows = self.conn.execute(query, params or None).fetchall()
        except psycopg.Error as error:
            self.error = error

    def wait_for_lock(self, observer: psycopg.Connection[Any]) -> None:
        """Return when the statement waits for a lock."""
        pid = self.conn.info.backend_pid
        deadline = time.monotonic() + 20
        query = "select count(*) from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
        while not value(observer, query, pid):
            assert self.thread.is_alive(), f"it did not wait: {self.rows or self.error}"
            assert time.monotonic() < deadline, "it neither waited nor ended"

    def result(self) -> Any:
        """The value the statement returned, once it has ended."""
        self.thread.join(20)
        assert not self.thread.is_alive(), "still waiting"
        if self.error is not None:
            raise self.error
        return self.rows[0][0] if self.rows else None

"""Lock order: whatever order a batch is given in, two calls that share jobs, keys or queues never lock each other out.

A third session holds a job and a key in the middle until both calls are under way: those that wait are seen waiting,
and those that are meant to pass over what others hold are seen not to.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from conftest import Database
from sql_leases import lease, put
from sql_sessions import Running, column, value

Connection = psycopg.Connection[Any]
NUMBER = 8
MIDDLE = NUMBER // 2
# A deadlock is found as soon as it is there.
EAGER = {"options": "-c deadlock_timeout=10ms"}


@dataclass
class Jobs:
    """What both calls are about: leased jobs with their keys, and dead ones."""

    ids: list[int]
    receipts: list[Any]
    keys: list[str]
    dead: list[int]
    holder: Connection


def batch(name: str, more: str = "") -> str:
    return f"select count(*) from queue_{name}('apples', %s, %s{more})"


# Each with what it is given, forwards or backwards (-1).
CALLS = {
    "put_many": lambda jobs, way: (
        "select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[%s]), dedupe_keys => %s)",
        len(jobs.keys),
        jobs.keys[::way],
    ),
    "complete_many": lambda jobs, way: (batch("complete_many"), jobs.ids[::way], jobs.receipts[::way]),
    "error_many": lambda jobs, way: (batch("error_many"), jobs.ids[::way], jobs.receipts[::way]),
    "bury_many": lambda jobs, way: (batch("error_many", ", bury => true"), jobs.ids[::way], jobs.receipts[::way]),
    "release_many": lambda jobs, way: (batch("release_many"), jobs.ids[::way], jobs.receipts[::way]),
    "progress_many": lambda jobs, way: (batch("progress_many"), jobs.ids[::way], jobs.receipts[::way]),
    "redrive": lambda jobs, way: ("select queue_redrive('apples', %s)", jobs.dead[::way]),
    "drop": lambda jobs, way: ("select queue_drop('apples')",),
    "get": lambda jobs, way: ("select count(*) from queue_get('apples', 99, promote => true)",),
    "get_any": lambda jobs, way: ("select count(*) from queue_get_any(%s, 99)", ["apples", "pears"][::way]),
    "lease": lambda jobs, way: ("select count(*) from queue_lease('apples', 99)",),
    "lease_any": lambda jobs, way: ("select count(*) from queue_lease_any(%s, 99)", ["apples", "pears"][::way]),
    "dead_delete": lambda jobs, way: ("select queue_dead_delete('apples', %s)", jobs.dead[::way]),
    "clear": lambda jobs, way: ("select queue_clear('apples')",),
    "maintain": lambda jobs, way: ("select count(*) from queue_maintain()",),
}
WAIT = {"put_many", "complete_many", "error_many", "bury_many", "release_many", "progress_many", "redrive", "drop"}


def keyed(conn: Connection, keys: list[str], queue: str = "apples") -> list[Any]:
    query = "select count(*) from queue_put_many(%s, array_fill('1'::jsonb, array[%s]), dedupe_keys => %s)"
    conn.execute(query, [queue, len(keys), keys])
    return lease(conn, queue, count=len(keys))


def prepare(conn: Connection, holder: Connection) -> Jobs:
    """Jobs in every state. The holder has the job, and the key, in the middle, and a dead job's key."""
    conn.execute("truncate queue_job, queue_dead, queue_tally, queue_total, queue_setting")
    keys = [f"key {n}" for n in range(NUMBER)]
    # Dead jobs that have the keys of leased ones, and the holder's.
    died = keyed(conn, [*keys[:MIDDLE], "middle", *keys[MIDDLE:]])
    conn.execute(batch("error_many", ", bury => true"), [[j.id for j in died], [j.receipt for j in died]])
    leased = keyed(conn, keys)
    # Jobs that have come due: one of them is out of attempts; and ready ones.
    for queue in ("apples", "pears"):
        conn.execute("select queue_put_many(%s, array_fill('1'::jsonb, array[3]), max_attempts => 1)", [queue])
        lease(conn, queue, count=1)
        conn.execute(
            "update queue_job set lease_until = now() - interval '1h', ready_at = now() - interval '1h'"
            " where queue = %s and max_attempts = 1 and receipt is not null",
            [queue],
        )
    conn.execute("select queue_create('apples', keep_dead_for => '1000 years')")
    holder.execute("select queue_progress('apples', %s, %s)", [leased[MIDDLE].id, leased[MIDDLE].receipt])
    holder.execute("select queue_put('apples', '1', dedupe_key => 'middle')")
    return Jobs(
        [job.id for job in leased],
        [job.receipt for job in leased],
        [*keys[:MIDDLE], "middle", *keys[MIDDLE:]],
        [job.id for job in died],
        holder,
    )


class Call:
    """A call in a transaction of its own; of one that has not waited, the transaction is still open."""

    def __init__(self, conn: Connection, observer: Connection, name: str, jobs: Jobs, way: int) -> None:
        self.conn = conn
        query, *params = CALLS[name](jobs, way)
        if name not in WAIT:
            conn.execute("begin")
        self.running = Running(conn, query, *params)
        self.waited = settled(self.running, observer)

    def end(self) -> None:
        self.running.result()
        if self.conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self.conn.execute("commit")


def settled(running: Running, observer: Connection) -> bool:
    """True when the statement waits for a lock, False when it has ended."""
    pid = running.conn.info.backend_pid
    deadline = time.monotonic() + 20
    while running.thread.is_alive():
        # Blocked by somebody, not merely between two looks at the same lock.
        if value(observer, "select cardinality(pg_blocking_pids(%s)) > 0", pid):
            return True
        assert time.monotonic() < deadline
    return False


def run_pair(database: Database, one: str, two: str, sessions: list[Connection]) -> None:
    conn, holder, *others = sessions
    jobs = prepare(conn, holder)
    first = Call(others[0], conn, one, jobs, 1)
    second = Call(others[1], conn, two, jobs, -1)
    assert first.waited == (one in WAIT), one
    if two not in WAIT:
        assert not second.waited, two
    elif two != "redrive" or one not in ("redrive", "dead_delete", "drop"):
        # What is dead is passed over, too, where somebody else has it.
        assert second.waited, two
    holder.execute("rollback")
    # Those that don't wait first: the others may wait for them.
    for call in sorted((first, second), key=lambda call: call.waited):
        call.end()


@pytest.mark.parametrize("one", CALLS)
def test_no_pair_of_calls_is_a_deadlock(database: Database, one: str) -> None:
    sessions = [database.connect(autocommit=n != 1, **EAGER) for n in range(4)]
    for two in CALLS:
        run_pair(database, one, two, sessions)


# What no pair of calls on the same jobs meets


def waits(running: Running, observer: Connection) -> Running:
    assert settled(running, observer)
    return running


def test_a_job_that_is_dead_and_in_the_queue(database: Database, conn: Connection) -> None:
    """It was taken, the transaction rolled back, and buried nevertheless. Then it fails while dead jobs are redriven."""
    sessions = [database.connect(**EAGER) for _ in range(2)]
    (dead,) = keyed(conn, ["k"])
    conn.execute("select queue_error('apples', %s, %s, bury => true)", [dead.id, dead.receipt])
    one, two = keyed(conn, ["k", "l"])
    conn.execute("select queue_bury('apples', %s, 'not an apple', data => '1')", [two.id])
    both = [one.id, two.id], [one.receipt, two.receipt]
    # The failing call holds the first job, and its key, and waits for the second.
    holder = database.connect(autocommit=False)
    holder.execute("select queue_progress('apples', %s, %s)", [two.id, two.receipt])
    failing = waits(Running(sessions[0], batch("error_many", ", bury => true"), *both), conn)
    redriving = waits(Running(sessions[1], "select queue_redrive('apples')"), conn)
    holder.rollback()
    assert failing.result() == 2
    # The key is free again, and the one whose death is newer stays.
    assert redriving.result() == 1
    assert column(conn, "select id from queue_list('apples')") == [dead.id]
    assert set(column(conn, "select id from queue_dead_list('apples')")) == {one.id, two.id}


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_key_that_becomes_free_while_a_batch_waits_for_a_later_one(
    database: Database, conn: Connection, ends: str
) -> None:
    """The batch has passed over key a, and comes back to it when it holds b already. Somebody else has a, and wants b."""
    batches = [database.connect(**EAGER) for _ in range(2)]
    put(conn, dedupe_key="a")
    holder = database.connect(autocommit=False)
    put(holder, dedupe_key="c")
    puts = "select array_agg(p.id) from queue_put_many('apples', %s::jsonb[], dedupe_keys => %s) p"
    first = waits(Running(batches[0], puts, ["1", "2", "3"], ["a", "b", "c"]), conn)
    assert column(conn, "select data from queue_get('apples')") == [1]
    second = waits(Running(batches[1], puts, ["4", "5"], ["a", "b"]), conn)
    holder.execute(ends)
    ids = first.result()
    assert second.result() == ids[:2]
    assert dict(conn.execute("select dedupe_key, id from queue_job").fetchall()) == dict(zip("abc", ids, strict=True))

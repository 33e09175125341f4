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
from sql_leases import lease, lease_one, put
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
WAIT = {"put_many", "complete_many", "error_many", "bury_many", "release_many", "redrive", "drop"}


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
        # Between them keys that nobody has.
        ["fresh", *keys[:MIDDLE], "middle", *keys[MIDDLE:], "zest"],
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
        """Let it end. Its result is looked at when the other has ended, too."""
        self.running.thread.join(20)
        assert not self.running.thread.is_alive(), "still waiting"
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
    for call in first, second:
        call.running.result()


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
    """It was taken, rolled back, and buried nevertheless. Then it fails while dead jobs are redriven."""
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


def test_jobs_that_are_put_and_leased_while_a_queue_is_dropped(database: Database, conn: Connection) -> None:
    """By now the table is large, and read from its beginning: not in the order of the ids."""
    conn.execute("alter table queue_job set (autovacuum_enabled = off)")
    put_many = "select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[3000]))"
    conn.execute(put_many)
    conn.execute("select count(*) from queue_get('apples', 2999)")
    conn.execute("vacuum queue_job")
    conn.execute(put_many)
    conn.execute("analyze queue_job")
    conn.execute("select count(*) from queue_get('apples', 3000)")
    sessions = [database.connect(**EAGER) for _ in range(2)]
    holders = [database.connect(autocommit=False) for _ in range(2)]
    holders[0].execute("select queue_get('apples')")
    dropping = waits(Running(sessions[0], "select queue_drop('apples')"), conn)
    put(conn)
    put(conn, priority=1)
    conn.execute("select queue_maintain()")
    two, one = lease_one(conn), lease_one(conn)
    assert one.id < two.id
    holders[1].execute("select queue_progress('apples', %s, %s)", [one.id, one.receipt])
    both = [one.id, two.id], [one.receipt, two.receipt]
    complete = "select array_agg(c.done) from queue_complete_many('apples', %s, %s) c"
    completing = waits(Running(sessions[1], complete, *both), conn)
    holders[0].commit()
    assert dropping.result() is True
    holders[1].commit()
    # The one that somebody had was left to him, and the other was dropped.
    assert completing.result() == [True, False]
    assert column(conn, "select id from queue_list('apples', scheduled => true)") == []
    # Nor is anything left of what was put meanwhile.
    assert conn.execute("select put, completed from queue_stats('apples')").fetchone() == (0, 1)


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_key_that_becomes_free_while_a_batch_waits_for_a_later_one(
    database: Database, conn: Connection, ends: str
) -> None:
    """The batch has passed over key a, and comes back to it when it has b already. Another has a, and wants b."""
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


# The race is real: the same calls with the order left out are a deadlock.

PLANTED = {
    # One by one, as before PostgreSQL 17: from there on the index gives the order.
    "complete_many": (
        "complete_many",
        "queue_complete_many",
        {"order by u.id\n": "\n", "if _queue_has_sets() then": "if false then"},
    ),
    "bury_many": ("bury_many", "queue_error_many", {"order by u.id\n": "\n"}),
    "put_many": ("put_many", "_queue_put_keys", {'order by u.dedupe_key collate "C", u.n': "order by u.n"}),
    "drop": ("complete_many", "queue_drop", {"order by j.id for update": "order by j.id desc for update"}),
}


@pytest.mark.parametrize("one", PLANTED)
def test_without_the_order_there_is_a_deadlock(database: Database, conn: Connection, one: str) -> None:
    two, function, changes = PLANTED[one]
    definition = value(conn, "select pg_get_functiondef(%s::regproc)", function)
    for old, new in changes.items():
        assert old in definition
        definition = definition.replace(old, new)
    conn.execute(definition)
    sessions = [database.connect(autocommit=n != 1, **EAGER) for n in range(4)]
    with pytest.raises(psycopg.errors.DeadlockDetected):
        run_pair(database, one, two, sessions)


# Many at random


class Crowd:
    """Sessions that do what comes to mind with the same few jobs, in any order; and an account of all of it."""

    SECONDS = 3.0
    KEYS = tuple(f"key {n}" for n in range(12))

    def __init__(self, database: Database, seed: int) -> None:
        self.database = database
        self.seed = seed
        self.until = time.monotonic() + self.SECONDS
        self.leases: list[tuple[int, Any]] = []
        self.put: list[int] = []
        self.ended: list[int] = []
        self.removed: list[int] = []
        self.calls = 0
        self.errors: list[psycopg.Error] = []

    def run(self, sessions: int) -> None:
        threads = [threading.Thread(target=self.work, args=(self.seed * 100 + n,)) for n in range(sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def work(self, seed: int) -> None:
        pick = random.Random(seed)
        conn = self.database.connect(**EAGER)
        # Twice as often what brings jobs in.
        calls = [
            self.puts,
            self.puts,
            self.lease,
            self.lease,
            self.leased,
            self.leased,
            self.take,
            self.dead,
            self.manage,
        ]
        while time.monotonic() < self.until and not self.errors:
            try:
                pick.choice(calls)(conn, pick)
            except psycopg.Error as error:
                self.errors.append(error)
            self.calls += 1

    def puts(self, conn: Connection, pick: random.Random) -> None:
        keys = pick.sample(self.KEYS, pick.randint(1, len(self.KEYS)))
        query = (
            "select id from queue_put_many('apples', array_fill('1'::jsonb, array[%s]), dedupe_keys => %s) where is_new"
        )
        self.put += column(conn, query, len(keys), keys)

    def lease(self, conn: Connection, pick: random.Random) -> None:
        # Some run out at once.
        how_long = pick.choice(["1 minute", "1 millisecond"])
        found = conn.execute("select id, receipt from queue_lease('apples', %s, %s)", [pick.randint(1, 9), how_long])
        self.leases = (self.leases + found.fetchall())[-20:]

    def leased(self, conn: Connection, pick: random.Random) -> None:
        some = pick.sample(self.leases, len(self.leases) * 2 // 3)
        name = pick.choice(["complete_many", "error_many", "release_many", "progress_many"])
        more = pick.choice([", retry_in => '0'", ", bury => true"]) if name == "error_many" else ""
        query = f"select id from queue_{name}('apples', %s, %s{more}) where done"
        done = column(conn, query, [id for id, _ in some], [receipt for _, receipt in some])
        if name == "complete_many":
            self.ended += done

    def take(self, conn: Connection, pick: random.Random) -> None:
        query = "select id from queue_get_any(%s, %s, promote => %s)"
        names = pick.sample(["apples", "pears"], 2)
        self.ended += column(conn, query, names, pick.randint(1, 5), pick.random() < 0.5)

    def dead(self, conn: Connection, pick: random.Random) -> None:
        ids = pick.sample(self.put, len(self.put) // 2)
        if pick.random() < 0.7:
            conn.execute("select queue_redrive('apples', %s)", [ids])
        else:
            self.removed.append(value(conn, "select queue_dead_delete('apples', %s, count => 2)", ids))

    def manage(self, conn: Connection, pick: random.Random) -> None:
        if pick.random() < 0.1:
            self.removed.append(value(conn, "select queue_clear('apples')"))
        else:
            conn.execute("select count(*) from queue_maintain()")

    def account(self, conn: Connection) -> None:
        left = column(conn, "select id from queue_job union all select id from queue_dead")
        places = [*self.ended, *left]
        assert len(places) == len(set(places)), "a job is in two places"
        assert set(places) <= set(self.put)
        assert len(self.put) - len(places) == sum(self.removed)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.long] if n > 1 else []) for n in (1, 2)])
def test_many_at_random_do_not_lock_each_other_out_and_lose_nothing(
    database: Database, conn: Connection, seed: int
) -> None:
    crowd = Crowd(database, seed)
    crowd.run(sessions=6)
    assert not crowd.errors, crowd.errors[0]
    crowd.account(conn)
    # It was worth looking.
    assert crowd.calls > 200
    assert len(crowd.put) > 100
    assert crowd.ended

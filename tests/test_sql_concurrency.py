"""Many processes at once: every job exactly once, whatever is rolled back or killed; and no deadlocks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sql_leases import lease, put
from sql_sessions import Running, column, value

pytestmark = pytest.mark.long

PROCESSES = 8
JOBS = 20_000
WORKER = Path(__file__).parent / "sql_worker.py"
LEASE_WORKER = Path(__file__).parent / "sql_lease_worker.py"


def start(database, seed, *arguments, worker=WORKER):
    if worker == WORKER:
        arguments = (*arguments, str(JOBS // PROCESSES), str(JOBS))
    return subprocess.Popen(
        [sys.executable, str(worker), database.dsn, str(seed), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output


def prepare(conn):
    # What was put by a transaction that was committed, and what was done with it.
    conn.execute("create table sent (number integer primary key, id bigint not null)")
    conn.execute("create table done (number integer, id bigint)")


def check(conn):
    assert value(conn, "select count(*) from sent") == JOBS
    assert value(conn, "select count(*) from done") == JOBS
    differing = """
        select count(*) from (
            (table sent except all table done) union all (table done except all table sent)
        ) x
    """
    assert value(conn, differing) == 0
    assert value(conn, "select count(*) from queue_job") == 0


@pytest.mark.timeout(200)
def test_eight_processes_put_and_take_with_rollbacks(database, conn):
    prepare(conn)
    processes = [start(database, seed, "both") for seed in range(PROCESSES)]
    for process in processes:
        finish(process)
    check(conn)


@pytest.mark.timeout(200)
def test_workers_killed_with_kill_9(database, conn):
    prepare(conn)
    for process in [start(database, seed, "put") for seed in range(PROCESSES)]:
        finish(process)
    pick = random.Random(1)
    workers = {seed: start(database, seed, "get") for seed in range(4)}
    listener = database.connect()
    listener.execute("listen progress")
    killed = 0
    # The workers notify every 200 jobs or so: those are the moments at which one of them dies.
    for _ in listener.notifies(timeout=60):
        victim = pick.choice(sorted(workers))
        process = workers.pop(victim)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
        workers[victim + 100] = start(database, victim + 100, "get")
        if killed == 8:
            break
    for process in workers.values():
        finish(process)
    assert killed == 8
    check(conn)


def test_the_check_notices_a_job_done_twice(conn):
    prepare(conn)
    conn.execute("insert into sent select i, i from generate_series(1, %s) i", [JOBS])
    conn.execute("insert into done table sent")
    check(conn)
    conn.execute("update done set number = 1, id = 1 where number = 2")
    with pytest.raises(AssertionError):
        check(conn)


# Leases

LEASED = 5000
# They die after one attempt, or two; the others have so many that no run uses them up.
FEW = 300


def prepare_leases(conn):
    conn.execute("create table ledger (number integer not null, worker integer not null)")
    numbers = "array(select to_jsonb(n) from generate_series(%s::integer, %s::integer - 1) n)"
    for first, last, attempts in ((0, FEW // 2, 1), (FEW // 2, FEW, 2), (FEW, LEASED, 1000)):
        query = f"select count(*) from queue_put_many('apples', {numbers}, max_attempts => %s)"
        conn.execute(query, [first, last, attempts])


def check_leases(conn):
    """Each job is done once, or is dead because its attempts are used up."""
    assert value(conn, "select count(*) from queue_job") == 0
    assert column(conn, "select number from ledger group by number having count(*) > 1") == []
    done = set(column(conn, "select number from ledger"))
    dead = column(conn, "select data from queue_dead_list('apples')")
    assert len(dead) == len(set(dead))
    assert done.isdisjoint(dead)
    assert done | set(dead) == set(range(LEASED))
    assert all(number < FEW for number in dead)
    assert column(conn, "select id from queue_dead_list('apples') where attempts <> max_attempts") == []
    # Every attempt is in the history, with its number.
    numbers = """
        select id from queue_dead_list('apples')
        where array(select (h->>'attempt')::integer from jsonb_array_elements(history) h)
            <> array(select generate_series(1, attempts))
    """
    assert column(conn, numbers) == []
    return dead


@pytest.mark.timeout(200)
def test_eight_processes_lease_and_some_are_killed(database, conn):
    prepare_leases(conn)
    pick = random.Random(2)
    listener = database.connect()
    listener.execute("listen progress")
    workers = {seed: start(database, seed, worker=LEASE_WORKER) for seed in range(PROCESSES)}
    killed = 0
    try:
        for _ in listener.notifies(timeout=100):
            victim = pick.choice(sorted(workers))
            process = workers.pop(victim)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            process.communicate()
            workers[victim + 100] = start(database, victim + 100, worker=LEASE_WORKER)
            if killed == 8:
                break
        for process in workers.values():
            finish(process)
    finally:
        for process in workers.values():
            process.kill()
    assert killed == 8
    assert check_leases(conn)


def test_the_check_notices_leases_gone_wrong(conn):
    prepare_leases(conn)
    conn.execute("insert into ledger select data::integer, 0 from queue_get('apples', 9999)")
    check_leases(conn)
    for wrong in (
        "insert into ledger values (7, 1)",
        "delete from ledger where number = 7",
        "insert into queue_dead (queue, id, died_at, reason, data) values ('apples', 1, now(), 'x', '7')",
    ):
        with conn.transaction(force_rollback=True):
            conn.execute(wrong)
            with pytest.raises(AssertionError):
                check_leases(conn)


# No deadlocks: batches take their jobs, and keys, in one order, whatever order they are given in

NUMBER = 100
BATCHES = {
    "complete": "select count(*) from queue_complete_many('apples', %s, %s)",
    "error": "select count(*) from queue_error_many('apples', %s, %s)",
    "bury": "select count(*) from queue_error_many('apples', %s, %s, bury => true)",
    "release": "select count(*) from queue_release_many('apples', %s, %s)",
}
PAIRS = [(one, two) for n, one in enumerate(BATCHES) for two in list(BATCHES)[n:]]


def run_both(database, conn, holder, one, two):
    """Both wait for the holder, or one for the other; when the holder lets go, both end."""
    waiting = []
    for query, *params in (one, two):
        waiting.append(Running(database.connect(), query, *params))
        waiting[-1].wait_for_lock(conn)
    holder.rollback()
    return [running.result() for running in waiting]


def keyed(conn):
    keys = [f"key {n:03}" for n in range(NUMBER)]
    query = "select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[%s]), dedupe_keys => %s)"
    conn.execute(query, [NUMBER, keys])
    jobs = lease(conn, count=NUMBER)
    return keys, [job.id for job in jobs], [job.receipt for job in jobs]


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_the_same_jobs_in_both_orders(database, conn, one, two):
    _, ids, receipts = keyed(conn)
    # Somebody holds a job in the middle until both are under way.
    holder = database.connect(autocommit=False)
    holder.execute("select queue_progress('apples', %s, %s)", [ids[NUMBER // 2], receipts[NUMBER // 2]])
    assert (
        run_both(database, conn, holder, (BATCHES[one], ids, receipts), (BATCHES[two], ids[::-1], receipts[::-1]))
        == [NUMBER] * 2
    )


PUTS = "select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[%s]), dedupe_keys => %s)"


@pytest.mark.parametrize("batch", BATCHES)
def test_jobs_and_the_puts_of_their_keys(database, conn, batch):
    keys, ids, receipts = keyed(conn)
    # The puts hold two new keys, around those of the jobs, and come upon a key that is being taken away.
    holder = database.connect(autocommit=False)
    query = "select queue_complete('apples', %s, %s)"
    holder.execute(query, [ids[NUMBER // 2], receipts[NUMBER // 2]])
    given = ["a", *keys[::-1], "z"]
    puts = (PUTS, len(given), given)
    assert run_both(database, conn, holder, (BATCHES[batch], ids[::-1], receipts[::-1]), puts) == [NUMBER, NUMBER + 2]


@pytest.mark.parametrize("redrive_first", [True, False])
def test_a_redrive_and_the_puts_of_its_keys(database, conn, redrive_first):
    keys, ids, receipts = keyed(conn)
    # They die in another order than that of their keys.
    for n in range(NUMBER):
        query = "select queue_error('apples', %s, %s, bury => true)"
        conn.execute(query, [ids[(n * 37 + 60) % NUMBER], receipts[(n * 37 + 60) % NUMBER]])
    holder = database.connect(autocommit=False)
    put(holder, dedupe_key=keys[NUMBER // 2])
    pair = [("select queue_redrive('apples')",), (PUTS, NUMBER, keys[::-1])]
    results = run_both(database, conn, holder, *pair[:: 1 if redrive_first else -1])
    redriven = results[0 if redrive_first else 1]
    assert redriven + value(conn, "select count(*) from queue_dead") == NUMBER
    assert value(conn, "select count(*) from queue_job") == NUMBER


@pytest.mark.parametrize("batch", BATCHES)
def test_jobs_and_a_redrive_of_others_with_their_keys(database, conn, batch):
    _, ids, receipts = keyed(conn)
    conn.execute("select count(*) from queue_error_many('apples', %s, %s, bury => true)", [ids, receipts])
    _, ids, receipts = keyed(conn)
    holder = database.connect(autocommit=False)
    holder.execute("select queue_complete('apples', %s, %s)", [ids[NUMBER // 2], receipts[NUMBER // 2]])
    results = run_both(
        database, conn, holder, (BATCHES[batch], ids[::-1], receipts[::-1]), ("select queue_redrive('apples')",)
    )
    assert results[0] == NUMBER
    # Whichever came first at each key, no job is lost and no key is there twice.
    gone = NUMBER if batch == "complete" else 0
    assert (
        value(conn, "select (select count(*) from queue_job) + (select count(*) from queue_dead)") == 2 * NUMBER - gone
    )

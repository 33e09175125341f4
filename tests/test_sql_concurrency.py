"""Many processes at once: every job exactly once, whatever is rolled back or killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sql_sessions import value

PROCESSES = 8
JOBS = 20_000
WORKER = Path(__file__).parent / "sql_worker.py"


def start(database, seed, kind):
    return subprocess.Popen(
        [sys.executable, str(WORKER), database.dsn, str(seed), kind, str(JOBS // PROCESSES)],
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
    for seed in range(PROCESSES):
        finish(start(database, seed, "put"))
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

"""A process of test_sql_concurrency: leases jobs and does to them all that can be done, until none are left.

Arguments: dsn, seed. What was accepted is written down in the transaction of the call: `ledger` for the jobs that are
done. Every so often it notifies `progress`, so that the test can kill it in the middle of something.
"""

import random
import sys
import time

import psycopg

dsn, seed = sys.argv[1], int(sys.argv[2])
pick = random.Random(seed)


def done(conn: psycopg.Connection, jobs: list[tuple]) -> None:
    conn.cursor().executemany("insert into ledger (number, worker) values (%s, %s)", [(n, seed) for n, *_ in jobs])


def complete(conn: psycopg.Connection, jobs: list[tuple]) -> None:
    with conn.transaction():
        if pick.random() < 0.5:
            accepted = [
                job
                for job in jobs
                if conn.execute("select queue_complete('apples', %s, %s)", job[1:]).fetchone() == (True,)
            ]
        else:
            rows = conn.execute(
                "select done from queue_complete_many('apples', %s, %s)",
                [[id for _, id, _ in jobs], [receipt for *_, receipt in jobs]],
            ).fetchall()
            accepted = [job for job, (accepted,) in zip(jobs, rows, strict=True) if accepted]
        done(conn, accepted)
        if pick.random() < 0.02:
            conn.execute("notify progress")
        if pick.random() < 0.05:
            raise psycopg.Rollback


def late(conn: psycopg.Connection, jobs: list[tuple]) -> None:
    """Complete when the lease has run out, and again: whoever has the job by then is not disturbed."""
    time.sleep(0.06)  # time is what is tested: the lease is of 50 ms
    complete(conn, jobs)
    complete(conn, jobs)


def fail(conn: psycopg.Connection, jobs: list[tuple]) -> None:
    retry_in = pick.choice(["0", "1ms", "20ms"])
    if pick.random() < 0.5:
        for _, id, receipt in jobs:
            conn.execute("select queue_error('apples', %s, %s, 'a worm', %s)", [id, receipt, retry_in])
    else:
        ids, receipts = [id for _, id, _ in jobs], [receipt for *_, receipt in jobs]
        conn.execute("select queue_error_many('apples', %s, %s, retry_in => %s)", [ids, receipts, retry_in])


def release(conn: psycopg.Connection, jobs: list[tuple]) -> None:
    ids, receipts = [id for _, id, _ in jobs], [receipt for *_, receipt in jobs]
    conn.execute("select queue_release_many('apples', %s, %s)", [ids, receipts])


def beat(conn: psycopg.Connection, jobs: list[tuple]) -> None:
    """Work for longer than the lease, with heartbeats."""
    for _ in range(4):
        for n, id, receipt in jobs:
            conn.execute("select queue_progress('apples', %s, %s, %s, '80ms')", [id, receipt, n])
        time.sleep(0.02)  # time is what is tested: more than 50 ms in all
    complete(conn, jobs)


def get(conn: psycopg.Connection) -> None:
    """The transactional way, on the same queue; a rollback is counted as an attempt."""
    jobs = []
    with conn.transaction():
        query = "select data, id from queue_get('apples', %s, promote => %s)"
        jobs = conn.execute(query, [pick.choice([1, 5]), pick.random() < 0.5]).fetchall()
        done(conn, jobs)
        if pick.random() > 0.2:
            return
        raise psycopg.Rollback
    for _, id in jobs[:1]:
        conn.execute("select queue_error('apples', %s, null, 'rolled back', '0')", [id])


def main() -> None:
    ends = [complete] * 12 + [late, fail, fail, release, beat]
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            if pick.random() < 0.1:
                get(conn)
                continue
            query = "select data, id, receipt from queue_lease('apples', %s, %s, %s)"
            jobs = conn.execute(query, [pick.choice([1, 3, 10]), "50ms", f"worker {seed}"]).fetchall()
            if jobs:
                pick.choice(ends)(conn, jobs)
            elif conn.execute("select not exists (select from queue_job)").fetchone() == (True,):
                return
            else:
                conn.execute("select pg_sleep_for(queue_wait('apples'))")


main()

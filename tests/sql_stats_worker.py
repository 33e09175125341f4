"""A process of test_sql_stats: puts, takes, completes, fails, and rolls back at random; notes in `did` what it did.

Arguments: dsn, seed.
"""

import random
import sys

import psycopg

dsn, seed = sys.argv[1], int(sys.argv[2])
pick = random.Random(seed)


class Undo(Exception):
    """Roll the transaction back."""


def work(conn: psycopg.Connection) -> None:
    """One call or a few, and the note."""
    put = taken = completed = failed = 0
    for _ in range(pick.choice([1, 1, 3])):
        kind = pick.choice(["put", "put many", "get", "lease", "lease", "fold"])
        if kind == "put":
            conn.execute("select queue_put('apples', '1', notify => false)")
            put += 1
        elif kind == "put many":
            number = pick.randint(1, 10)
            conn.execute(
                "select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[%s]), notify => false)",
                [number],
            )
            put += number
        elif kind == "get":
            taken += len(conn.execute("select id from queue_get('apples', %s)", [pick.randint(1, 5)]).fetchall())
        elif kind == "fold":
            conn.execute("select _queue_fold('apples', true)")
        else:
            rows = conn.execute("select id, receipt from queue_lease('apples', 3)").fetchall()
            for id, receipt in rows:
                call = pick.choice(["complete('apples', %s, %s)", "error('apples', %s, %s, retry_in => '0')"])
                (done,) = conn.execute(f"select queue_{call}", [id, receipt]).fetchone()
                taken += done
                completed += done and "complete" in call
                failed += done and "error" in call
    conn.execute("insert into did values (%s, %s, %s, %s)", [put, taken, completed, failed])
    if pick.random() < 0.2:
        raise Undo


with psycopg.connect(dsn, autocommit=True) as conn:
    for _ in range(400):
        try:
            with conn.transaction():
                work(conn)
        except Undo:
            pass

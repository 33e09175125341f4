"""A process of test_sql_concurrency: puts and takes jobs, and rolls back at random.

Arguments: dsn, seed, what to do (put, get or both), how many jobs to put, how many all of them put together.
"""

import random
import sys

import psycopg

dsn, seed, kind, number, total = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
pick = random.Random(seed)


class Undo(Exception):
    """Roll the transaction back."""


def put(conn: psycopg.Connection, left: list[int]) -> None:
    """Put some numbers, one by one or in a batch, ready, scheduled or keyed; record the ids beside them."""
    numbers = left[: pick.choice([1, 5, 20, 50])]
    options = pick.choice(["", ", priority => 1", ", schedule_in => '10ms'", ", schedule_in => '1ms'"])
    if len(numbers) == 1:
        call = f"queue_put('apples', to_jsonb(%s::integer){options}, dedupe_key => %s)"
        ids = conn.execute(f"select {call}", [numbers[0], f"key {numbers[0]}"]).fetchall()
    else:
        call = f"queue_put_many('apples', array(select to_jsonb(n) from unnest(%s::integer[]) n){options})"
        ids = conn.execute(f"select id from {call}", [numbers]).fetchall()
    for n, (id,) in zip(numbers, ids, strict=True):
        conn.execute("insert into sent values (%s, %s)", [n, id])
    if pick.random() < 0.2:
        raise Undo
    del left[: len(numbers)]


def get(conn: psycopg.Connection) -> int:
    """Take some jobs, and record each in the same transaction."""
    call = "queue_get('apples', %s, promote => %s)"
    taken = conn.execute(f"select data, id from {call}", [pick.choice([1, 1, 7, 30]), pick.random() < 0.5]).fetchall()
    for row in taken:
        conn.execute("insert into done values (%s::text::integer, %s)", row)
    if taken and pick.random() < 0.2:
        raise Undo
    if taken and pick.random() < 0.1:
        conn.execute("notify progress")
    return len(taken)


def main() -> None:
    left = list(range(seed * number, (seed + 1) * number)) if kind != "get" else []
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            taken = 0
            try:
                with conn.transaction():
                    if left and (kind == "put" or pick.random() < 0.3):
                        put(conn, left)
                    elif kind != "put":
                        taken = get(conn)
            except Undo:
                continue
            if left or taken:
                continue
            if kind == "put":
                return
            # Nothing to take; others may still roll back or put: the end is when all is recorded as done.
            (open_,) = conn.execute(
                """
                select exists (select from queue_job)
                    or (select count(*) from sent) < %s
                """,
                [total],
            ).fetchone()
            if not open_:
                return


main()

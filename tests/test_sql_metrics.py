"""The gauges and counters for monitoring: queue_metrics."""

from __future__ import annotations

import itertools
import threading

import psycopg
import pytest
from sql_leases import run_out
from sql_sessions import value

GAUGES = ("ready", "scheduled", "retrying", "leased", "dead", "paused")
COUNTERS = ("put", "taken", "completed", "failed", "died")


def metrics(conn, queue="apples"):
    cursor = conn.execute("select * from queue_metrics() where queue = %s", [queue])
    (row,) = cursor.fetchall()
    return dict(zip([c.name for c in cursor.description], row, strict=True))


def counters(conn, queue="apples"):
    found = metrics(conn, queue)
    return tuple(found[name] for name in COUNTERS)


def lease(conn, count=1):
    return conn.execute("select id, receipt from queue_lease('apples', %s, '1 hour')", [count]).fetchall()


def fail(conn, leased, **options):
    given = "".join(f", {name} => %s" for name in options)
    conn.execute(f"select queue_error('apples', %s, %s{given})", [*leased, *options.values()])


def test_they_are_what_queue_stats_says_as_numbers(conn):
    conn.execute("select queue_put('apples', '1') from generate_series(1, 6)")
    conn.execute("select queue_put('apples', '1', schedule_in => '1 hour')")
    (done, failed, buried, _) = lease(conn, 4)
    conn.execute("select queue_complete('apples', %s, %s)", done)
    fail(conn, failed)
    fail(conn, buried, bury=True)
    conn.execute("select queue_pause('pears')")
    found = metrics(conn)
    assert [found[name] for name in GAUGES] == [2, 1, 1, 1, 1, 0]
    assert counters(conn) == (7, 3, 1, 2, 1)
    assert all(type(number) in (int, float) for name, number in found.items() if name != "queue")
    names = ", ".join(GAUGES[:-1] + COUNTERS)
    assert (
        conn.execute(f"select name, paused::int, {names} from queue_stats()").fetchall()
        == conn.execute(f"select queue, paused, {names} from queue_metrics()").fetchall()
    )
    assert conn.execute("select queue, paused from queue_metrics()").fetchall() == [("apples", 0), ("pears", 1)]


def test_the_age_is_in_seconds_and_zero_where_nothing_is_ready(conn):
    conn.execute("select queue_put('apples', '1', schedule_in => '1 hour')")
    assert metrics(conn)["oldest_ready_seconds"] == 0
    conn.execute("select queue_put('apples', '1')")
    conn.execute("update queue_job set enqueued_at = enqueued_at - interval '90 seconds' where ready_at is null")
    oldest = metrics(conn)["oldest_ready_seconds"]
    assert 90 <= oldest < 150
    assert metrics(conn)["oldest_ready_seconds"] > oldest


def test_who_died(conn):
    conn.execute("select queue_create('apples', max_attempts => 2)")
    conn.execute("select queue_put('apples', '1') from generate_series(1, 2)")
    # Out of attempts: by errors, and by leases that ran out.
    for died in (0, 1):
        fail(conn, *lease(conn), retry_in="0")
        assert metrics(conn)["died"] == died
    for died in (1, 2):
        assert len(lease(conn)) == 1
        run_out(conn)
        conn.execute("select queue_maintain()")
        assert metrics(conn)["died"] == died
        run_out(conn)
        conn.execute("select queue_maintain()")
    # Buried: while it was leased, and after it was taken for good.
    conn.execute("select queue_put('apples', '1') from generate_series(1, 2)")
    fail(conn, *lease(conn), bury=True)
    conn.execute("select queue_bury('apples', id, 'unreadable') from queue_get('apples')")
    assert (metrics(conn)["died"], metrics(conn)["dead"]) == (4, 4)
    # Who is removed has died nonetheless; who comes back and dies again has died twice.
    assert value(conn, "select queue_dead_delete('apples', count => 1)") == 1
    assert value(conn, "select queue_redrive('apples')") == 3
    assert (metrics(conn)["died"], metrics(conn)["dead"]) == (4, 0)
    fail(conn, *lease(conn), bury=True)
    assert (metrics(conn)["died"], metrics(conn)["dead"]) == (5, 1)


def test_a_job_that_is_buried_and_then_fails_for_good_died_once(conn):
    id = value(conn, "select queue_put('apples', '1')")
    conn.execute("select queue_bury('apples', %s, 'by one who took it and rolled back')", [id])
    fail(conn, *lease(conn), bury=True)
    assert (metrics(conn)["died"], metrics(conn)["dead"]) == (1, 1)


@pytest.mark.parametrize("fold", [False, True])
def test_only_a_drop_sets_them_back(conn, fold):
    conn.execute("select queue_put('apples', '1', dedupe_key => i::text) from generate_series(1, 9) i")
    conn.execute("select count(*) from queue_get('apples', 2)")
    (done, buried, cancelled) = lease(conn, 3)
    conn.execute("select queue_complete('apples', %s, %s)", done)
    fail(conn, buried, bury=True)
    before = counters(conn)
    assert before == (9, 4, 1, 1, 1)
    for statement in (
        f"select queue_cancel('apples', {cancelled[0]})",
        "select queue_redrive('apples')",
        "select queue_pause('apples')",
        "select queue_create('apples', max_depth => 1)",
        # By hand: then the totals are corrected, but these are no part of what is.
        "delete from queue_job where id % 2 = 0; select queue_maintain()",
        "select queue_clear('apples')",
        "select queue_dead_delete('apples')",
        "select queue_resume('apples')",
    ):
        conn.execute(statement)
        if fold:
            conn.execute("select _queue_fold('apples', true)")
        assert counters(conn) == before, statement
    conn.execute("select queue_drop('apples')")
    assert conn.execute("select from queue_metrics()").fetchall() == []
    conn.execute("select queue_put('apples', '1')")
    assert counters(conn) == (1, 0, 0, 0, 0)


@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
def test_each_look_sees_no_less_than_the_one_before(database, conn, level):
    """While others put, take, bury and are rolled back, and totals are folded all the time."""
    threads, rounds = 3, 150
    looks: list[tuple[int, ...]] = []
    stop = threading.Event()

    def work():
        with psycopg.connect(database.dsn, autocommit=True) as mine:
            for n in range(rounds):
                with mine.transaction(force_rollback=n % 10 == 9):
                    mine.execute("select count(*) from queue_put_many('apples', array['1', '2', '3', '4']::jsonb[])")
                    mine.execute("select count(*) from queue_get('apples')")
                    (done, buried) = lease(mine, 2)
                    mine.execute("select queue_complete('apples', %s, %s)", done)
                    fail(mine, buried, bury=True)
                mine.execute("select _queue_fold('apples', true)")

    def look():
        with psycopg.connect(database.dsn, autocommit=True) as observer:
            observer.execute("select set_config('default_transaction_isolation', %s, false)", [level])
            observer.add_notice_handler(lambda notice: None)
            while not stop.is_set():
                looks.append(counters(observer))
                observer.execute("select queue_maintain()")

    conn.execute("select queue_create('apples')")
    watcher = threading.Thread(target=look)
    workers = [threading.Thread(target=work) for _ in range(threads)]
    watcher.start()
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join(60)
    stop.set()
    watcher.join(20)
    kept = threads * rounds * 9 // 10
    assert counters(conn) == (4 * kept, 3 * kept, kept, kept, kept)
    assert len(set(looks)) > 5
    for before, after in itertools.pairwise(looks):
        assert all(a <= b for a, b in zip(before, after, strict=True)), "counters only grow"


def test_a_row_of_the_tally_is_no_longer_than_it_must_be(conn):
    # A head of 24 bytes, as long as there are no more than eight columns; the number; the name and its length.
    conn.execute("select queue_put('apples', '1')")
    assert value(conn, "select pg_column_size(t) from queue_tally t") == 24 + 4 + 7


def test_a_role_that_may_observe_one_queue_sees_that_one(conn, roles):
    conn.execute("select queue_put('apples', '1'), queue_put('pears', '1')")
    roles.make("watcher")
    conn.execute("select queue_grant('pears', 'watcher', 'observe')")
    assert roles.connect("watcher").execute("select queue, ready from queue_metrics()").fetchall() == [("pears", 1)]

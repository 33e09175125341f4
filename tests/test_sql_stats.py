"""What is in the queues and what has gone through them: figures, totals, and upkeep."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from conftest import install
from servers import Server
from sql_leases import run_out
from sql_sessions import Running, column, value

pytestmark = pytest.mark.long

LIVE = ("ready", "scheduled", "retrying", "leased", "dead")
TOTALS = ("put", "taken", "completed", "failed")
WORKER = Path(__file__).parent / "sql_stats_worker.py"

# Folds only where the test says so, and not by chance.
TOLD = {"options": "-c pgq_py.fold_after=never"}


@pytest.fixture
def conn(database):
    return database.connect(**TOLD)


def stats(conn, queue="apples"):
    cursor = conn.execute("select * from queue_stats(%s)", [queue])
    (row,) = cursor.fetchall()
    return dict(zip([c.name for c in cursor.description], row, strict=True))


def live(conn, queue="apples"):
    found = stats(conn, queue)
    return {name: found[name] for name in LIVE if found[name]}


def totals(conn, queue="apples"):
    found = stats(conn, queue)
    return tuple(found[name] for name in TOTALS)


def put_many(conn, count, queue="apples", **options):
    given = "".join(f", {name} => %({name})s" for name in options)
    query = f"select count(*) from queue_put_many(%(queue)s, array_fill('1'::jsonb, array[%(count)s]){given})"
    conn.execute(query, {"queue": queue, "count": count, **options})


def lease(conn, count=1, queue="apples", **options):
    given = "".join(f", {name} => %({name})s::interval" for name in options)
    query = f"select id, receipt from queue_lease(%(queue)s, %(count)s{given})"
    return conn.execute(query, {"queue": queue, "count": count, **options}).fetchall()


def counted_by_hand(conn, queue="apples"):
    """The figures as a plain walk over the tables has them."""
    row = conn.execute(
        """
        select
            count(*) filter (where coalesce(greatest(ready_at, lease_until) <= now(), true)),
            count(*) filter (where greatest(ready_at, lease_until) > now() and receipt is null and attempts = 0),
            count(*) filter (where greatest(ready_at, lease_until) > now() and receipt is null and attempts > 0),
            count(*) filter (where greatest(ready_at, lease_until) > now() and receipt is not null),
            (select count(*) from queue_dead where queue = %(queue)s)
        from queue_job
        where queue = %(queue)s
        """,
        {"queue": queue},
    ).fetchone()
    return {name: n for name, n in zip(LIVE, row, strict=True) if n}


# What is there now


def all_kinds(conn, many):
    """Jobs of every kind; `many` of the ready."""
    put_many(conn, many + 100)
    leased = lease(conn, 60, lease="1 hour")
    conn.execute(
        "select count(*) from queue_error_many('apples', %s, %s, retry_in => '1 hour')",
        [[id for id, _ in leased[:20]], [receipt for _, receipt in leased[:20]]],
    )
    conn.execute(
        "select count(*) from queue_error_many('apples', %s, %s, bury => true)",
        [[id for id, _ in leased[20:25]], [receipt for _, receipt in leased[20:25]]],
    )
    put_many(conn, 30, schedule_in="1 hour")
    put_many(conn, 7, schedule_in="1us")


@pytest.mark.parametrize("many", [0, 959, 960, 961, 962, 20_000])
def test_exact_with_few_waiting_however_many_are_ready(conn, many):
    all_kinds(conn, many)
    found = stats(conn)
    assert found["exact"] is True
    assert live(conn) == counted_by_hand(conn)
    assert live(conn) == {"ready": many + 47, "scheduled": 30, "retrying": 20, "leased": 35, "dead": 5}
    assert totals(conn) == (many + 137, 25, 0, 25)


@pytest.mark.parametrize(("waiting", "exact"), [(999, True), (1000, True), (1001, False), (1002, False)])
def test_exact_up_to_a_thousand_that_wait(conn, waiting, exact):
    put_many(conn, waiting, schedule_in="1 hour")
    put_many(conn, 3)
    assert stats(conn)["exact"] is exact
    assert live(conn) == {"ready": 3, "scheduled": waiting}


def mixed(conn):
    put_many(conn, 30_000, schedule_in="1 hour")
    put_many(conn, 60_000)
    put_many(conn, 500, "pears")
    for _ in range(2):
        put_many(conn, 100_000, "plums")
    lease(conn, 10_000, lease="1 hour")


def test_estimates_are_near_the_truth_after_analyze(conn):
    mixed(conn)
    conn.execute("analyze queue_job")
    found, true = live(conn), counted_by_hand(conn)
    assert stats(conn)["exact"] is False
    assert set(found) == set(true) == {"ready", "scheduled", "leased"}
    for name in true:
        assert abs(found[name] - true[name]) <= true[name] / 5
    assert abs(sum(found.values()) - 90_000) <= 2
    for queue, ready in (("pears", 500), ("plums", 200_000)):
        assert live(conn, queue) == {"ready": ready}
        assert stats(conn, queue)["exact"] is True


@pytest.mark.parametrize("analyzed", [None, "when it was empty", "when all was scheduled"])
def test_estimates_without_a_fresh_analyze_stay_in_bounds(conn, analyzed):
    conn.execute("alter table queue_job set (autovacuum_enabled = off)")
    if analyzed == "when it was empty":
        conn.execute("analyze queue_job")
    put_many(conn, 3000, schedule_in="1 hour")
    if analyzed == "when all was scheduled":
        conn.execute("analyze queue_job")
    put_many(conn, 5000)
    lease(conn, 50, lease="1 minute")
    found = live(conn)
    assert abs(sum(found.values()) - 8000) <= 2
    # What the first 1,000 show is the least; the leases are due before the schedules.
    assert found["ready"] >= 1001
    assert found["scheduled"] >= 950
    assert found["leased"] >= 50
    assert found["ready"] <= 8000 - 1001
    assert stats(conn)["exact"] is False


def test_waiting_jobs_are_not_taken_for_ready_ones(conn):
    put_many(conn, 5000, schedule_in="1 hour")
    put_many(conn, 1000)
    assert live(conn)["ready"] == 1000
    assert live(conn)["scheduled"] == 5000


def test_more_due_than_are_looked_at(conn):
    put_many(conn, 3000, schedule_in="1us")
    put_many(conn, 10, schedule_in="1 hour")
    found = stats(conn)
    assert found["ready"] >= 1001
    assert found["ready"] + found["scheduled"] == 3010
    assert found["exact"] is False
    assert value(conn, "select min(ready_at) from queue_job where ready_at > now()") == found["next_due_at"]


def test_the_dead_are_counted_up_to_a_thousand_and_known_beyond(conn):
    put_many(conn, 1500)
    for n, dead in enumerate([999, 1000, 1001, 1500]):
        more = dead - (live(conn).get("dead", 0))
        rows = lease(conn, more)
        conn.execute(
            "select count(*) from queue_error_many('apples', %s, %s, bury => true)",
            [[id for id, _ in rows], [receipt for _, receipt in rows]],
        )
        if n % 2:
            conn.execute("select _queue_fold('apples', true)")
        assert live(conn).get("dead") == dead
    assert value(conn, "select queue_redrive('apples', count => 200)") == 200
    assert value(conn, "select queue_dead_delete('apples', count => 200)") == 200
    assert live(conn) == {"ready": 200, "dead": 1100}


@pytest.mark.parametrize("many", [10, 3000])
def test_the_oldest_of_one_priority(conn, many):
    put_many(conn, many)
    assert stats(conn)["oldest_ready_at"] == value(conn, "select min(enqueued_at) from queue_job")
    conn.execute("select id from queue_get('apples', 3)")
    put_many(conn, 5, priority=5)
    assert stats(conn)["oldest_ready_at"] == value(conn, "select min(enqueued_at) from queue_job")


def test_the_oldest_is_of_a_low_priority(conn):
    put_many(conn, 5000, schedule_in="1 hour")
    for priority in range(-3, 3):
        put_many(conn, 1500, priority=priority)
    oldest = value(conn, "select min(enqueued_at) from queue_job where ready_at is null")
    assert stats(conn)["oldest_ready_at"] == oldest


def test_the_oldest_waits_behind_those_expected_earlier(conn):
    put_many(conn, 1)
    put_many(conn, 5000, expected_in="1 hour")
    assert stats(conn)["oldest_ready_at"] == value(conn, "select min(enqueued_at) from queue_job")


def test_who_was_due_before_he_was_put_has_waited_since_he_was_put(conn):
    conn.execute("select queue_put('apples', '1', schedule_at => '2001-01-01')")
    assert stats(conn)["oldest_ready_at"] == value(conn, "select enqueued_at from queue_job")


def test_next_due_is_the_end_of_an_extended_lease(conn):
    put_many(conn, 1)
    ((id, receipt),) = lease(conn, lease="1 minute")
    value(conn, "select queue_progress('apples', %s, %s, lease => '2 hours')", id, receipt)
    run_out(conn, hours=1)
    found = stats(conn)
    assert live(conn) == {"leased": 1}
    assert found["next_due_at"] == value(conn, "select lease_until from queue_job")


def test_all_queues_in_the_order_of_their_names(conn):
    put_many(conn, 3, "b")
    conn.execute("select queue_pause('é')")
    conn.execute("insert into queue_dead (queue, id, died_at, reason) values ('B', 1, now(), 'test')")
    put_many(conn, 1, "a")
    conn.execute("select id from queue_get('a')")
    rows = conn.execute("select name, ready, dead, paused, put, taken from queue_stats()").fetchall()
    assert rows == [
        ("B", 0, 1, False, 0, 0),
        ("a", 0, 0, False, 1, 1),
        ("b", 3, 0, False, 3, 0),
        ("é", 0, 0, True, 0, 0),
    ]
    conn.execute("select _queue_fold(name, true) from queue_stats()")
    assert conn.execute("select name, ready, dead, paused, put, taken from queue_stats()").fetchall() == rows


def test_stats_in_a_read_only_transaction(conn):
    put_many(conn, 2000)
    put_many(conn, 2000, schedule_in="1 hour")
    conn.execute("begin isolation level serializable read only")
    assert abs(sum(live(conn).values()) - 4000) <= 2
    conn.execute("commit")


# Totals


def test_what_counts_as_what(conn):
    conn.execute("select queue_create('apples', max_attempts => 2)")
    put_many(conn, 10)
    conn.execute("select queue_put('apples', '1', dedupe_key => 'k')")
    conn.execute("select queue_put('apples', '1', dedupe_key => 'k')")
    conn.execute(
        "select count(*) from queue_put_many('apples', array['1', '2']::jsonb[], dedupe_keys => array['k', 'l'])"
    )
    assert totals(conn) == (12, 0, 0, 0)
    conn.execute("select id from queue_get('apples', 2)")
    assert totals(conn) == (12, 2, 0, 0)
    (a, b, c, d) = lease(conn, 4)
    assert totals(conn) == (12, 2, 0, 0)
    assert value(conn, "select queue_complete('apples', %s, %s)", *a) is True
    assert value(conn, "select queue_complete('apples', %s, %s)", *a) is False
    assert totals(conn) == (12, 3, 1, 0)
    assert value(conn, "select queue_release('apples', %s, %s)", *b) is True
    assert totals(conn) == (12, 3, 1, 0)
    assert value(conn, "select queue_error('apples', %s, %s, retry_in => '0')", *c) is True
    assert value(conn, "select queue_error('apples', %s, %s, retry_in => '0')", *c) is False
    assert totals(conn) == (12, 4, 1, 1)
    # After the rollback of a transaction that took it.
    with conn.transaction(force_rollback=True):
        id = value(conn, "select id from queue_get('apples')")
    assert totals(conn) == (12, 4, 1, 1)
    assert value(conn, "select queue_error('apples', %s, null, retry_in => '0')", id) is True
    assert totals(conn) == (12, 5, 1, 2)
    assert value(conn, "select queue_cancel('apples', %s)", d[0]) is True
    assert totals(conn) == (12, 5, 1, 2)
    rows = lease(conn, 2)
    ids, receipts = [id for id, _ in rows], [receipt for _, receipt in rows]
    conn.execute("select count(*) from queue_complete_many('apples', %s, %s)", [[*ids, 1], [*receipts, None]])
    assert totals(conn) == (12, 7, 3, 2)
    lease(conn, 1, lease="1us")
    assert totals(conn) == (12, 7, 3, 2)
    # Before it corrects what does not fit.
    assert fits(conn)
    conn.execute("select queue_maintain()")
    assert totals(conn) == (12, 8, 3, 3)
    with conn.transaction():
        id = value(conn, "select id from queue_get('apples')")
        conn.execute("select queue_bury('apples', %s, 'unreadable')", [id])
    assert totals(conn) == (12, 9, 3, 3)
    assert live(conn) == counted_by_hand(conn)
    left = value(conn, "select count(*) from queue_job")
    assert value(conn, "select queue_clear('apples')") == left
    assert value(conn, "select queue_redrive('apples')") == 1
    assert totals(conn) == (12, 9, 3, 3)
    assert fits(conn)
    assert value(conn, "select queue_drop('apples')") is True
    assert totals(conn) == (0, 0, 0, 0)
    assert column(conn, "select name from queue_stats()") == []


FITS = """
    select
        (select count(*) from queue_job where queue = %(queue)s) = sum(put - (taken - failed) + moved)
            and (select count(*) from queue_dead where queue = %(queue)s) = sum(dead)
    from (
        select put, taken, failed, moved, dead from queue_total where queue = %(queue)s
        union all
        select coalesce(put, 0), coalesce(taken, 0), coalesce(failed, 0), coalesce(moved, 0), coalesce(dead, 0)
        from queue_tally where queue = %(queue)s
    ) x
"""


def fits(conn, queue="apples"):
    """The number of jobs, live and dead, is what the totals say."""
    return conn.execute(FITS, {"queue": queue}).fetchone()[0]


@pytest.mark.parametrize("fold", [False, True])
def test_random_calls_leave_totals_that_fit(conn, fold):
    pick = random.Random(7)
    conn.execute("select queue_create('apples', max_attempts => 2)")
    dead = 0
    for _ in range(400):
        rows = lease(conn, pick.randint(1, 5), lease=pick.choice(["1 ms", "1 hour"])) if pick.random() < 0.4 else []
        ids, receipts = [id for id, _ in rows], [receipt for _, receipt in rows]
        call = pick.choice(["complete_many", "error_many", "release_many"])
        conn.execute(f"select count(*) from queue_{call}('apples', %s::bigint[], %s::uuid[])", [ids, receipts])
        conn.execute(
            pick.choice(
                [
                    "select queue_put('apples', '1', dedupe_key => (random() * 5)::int::text)",
                    "select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[5]))",
                    "select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[2]), "
                    "schedule_in => '1 ms')",
                    "select count(*) from queue_put_many('apples', array['1', '1']::jsonb[], "
                    "dedupe_keys => array['1', '2'])",
                    "select count(*) from queue_get('apples', 3)",
                    "select count(*) from queue_get('apples', 3, promote => true)",
                    "select queue_cancel('apples', (select min(id) from queue_job))",
                    "select queue_error('apples', (select min(id) from queue_job), null)",
                    "select queue_bury('apples', 1, 'why not')",
                    "select queue_redrive('apples', count => 2)",
                    "select queue_dead_delete('apples', count => 1)",
                ]
            )
        )
        if pick.random() < 0.01:
            conn.execute("select queue_clear('apples')")
        if fold and pick.random() < 0.2:
            conn.execute("select _queue_fold('apples', true)")
        assert fits(conn) is not False
        dead += live(conn).get("dead", 0)
    assert dead > 0
    if fold:
        conn.execute("select _queue_fold('apples', true)")
        assert value(conn, "select count(*) from queue_tally") == 0
        assert value(conn, "select count(*) from queue_total") == 1


def test_totals_are_folded_by_the_calls_themselves(database):
    conn = database.connect()
    conn.execute("select queue_put('apples', '1', notify => false) from generate_series(1, 3000)")
    assert value(conn, "select count(*) from queue_tally") < 3000
    assert totals(conn) == (3000, 0, 0, 0)
    # A session that has lately spent much time on it leaves it to others.
    conn = database.connect()
    conn.execute("select (select id from queue_get('apples', 1 + 0 * i)) from generate_series(1, 3000) i")
    # One call in 200 folds: after 3,000, less than a third of them are left but once in a million times.
    assert value(conn, "select count(*) from queue_tally") < 3000
    assert totals(conn) == (3000, 3000, 0, 0)


def folded(conn):
    return value(conn, "select count(*) from queue_tally") == 0


def test_an_uncommitted_fold_hides_nothing_and_stops_nobody(database, conn):
    one, two = database.connect(autocommit=False, **TOLD), database.connect(**TOLD)
    two.execute("set lock_timeout = '1s'")
    put_many(conn, 5)
    conn.execute("select _queue_fold('apples', true)")
    put_many(conn, 7)
    one.execute("select _queue_fold('apples', true)")
    assert totals(one) == totals(two) == (12, 0, 0, 0)
    # Others put, take, fold, look, maintain; and fold again what is theirs.
    for _ in range(3):
        put_many(two, 10)
        two.execute("select id from queue_get('apples', 2)")
        assert value(two, "select _queue_fold('apples', true)") == 2
        two.execute("select queue_maintain()")
    assert totals(two) == (42, 6, 0, 0)
    # The row of totals that `one` holds, and one beside it that all others used.
    one.commit()
    assert totals(two) == (42, 6, 0, 0)
    assert value(two, "select count(*) from queue_total") == 2
    two.execute("select _queue_fold('apples', true)")
    assert folded(two)


@pytest.mark.parametrize("end", ["rollback", "kill", "savepoint"])
def test_a_fold_that_is_rolled_back_loses_nothing(database, conn, end):
    one = database.connect(autocommit=False, **TOLD)
    put_many(conn, 5)
    put_many(conn, 5)
    if end == "savepoint":
        one.execute("savepoint s")
    assert value(one, "select _queue_fold('apples', true)") == 2
    if end == "rollback":
        one.rollback()
    elif end == "savepoint":
        one.execute("rollback to s")
    else:
        conn.execute("select pg_terminate_backend(%s, 10000)", [one.info.backend_pid])
    assert totals(conn) == (10, 0, 0, 0)
    assert value(conn, "select _queue_fold('apples', true)") == 2
    assert totals(conn) == (10, 0, 0, 0)


def test_totals_of_open_transactions_are_not_seen_and_not_lost(database, conn):
    one = database.connect(autocommit=False, **TOLD)
    put_many(one, 3)
    one.execute("select id from queue_get('apples')")
    assert totals(conn) == (0, 0, 0, 0)
    conn.execute("select _queue_fold('apples', true), queue_maintain()")
    assert totals(one) == (3, 1, 0, 0)
    one.commit()
    assert totals(conn) == (3, 1, 0, 0)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_above_read_committed_what_others_have_folded_is_left_and_nothing_fails(database, conn, level):
    one = database.connect(autocommit=False, **TOLD)
    put_many(conn, 5)
    one.execute(f"set transaction isolation level {level}")
    assert totals(one) == (5, 0, 0, 0)
    conn.execute("select _queue_fold('apples', true)")
    put_many(conn, 5)
    conn.execute("select _queue_fold('apples', true)")
    assert totals(one) == (5, 0, 0, 0)
    assert value(one, "select _queue_fold('apples', true)") == 0
    one.execute("select queue_put('apples', '1', notify => false) from generate_series(1, 2000)")
    one.execute("select count(*) from queue_get('apples', 2)")
    assert totals(one) == (2005, 2, 0, 0)
    one.commit()
    assert totals(conn) == (2010, 2, 0, 0)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_above_read_committed_totals_do_not_grow_for_ever(database, level):
    conn = database.connect()
    conn.execute(f"set default_transaction_isolation = '{level}'")
    conn.execute("do $$ begin for i in 1..4000 loop perform queue_put('apples', '1'); commit; end loop; end $$")
    rows = "select count(*) from queue_tally"
    # One put in 200 does it; at SERIALIZABLE none.
    assert (value(conn, rows) < 4000) == (level == "repeatable read")
    conn.execute("select queue_maintain()")
    assert value(conn, rows) == 0
    assert totals(conn) == (4000, 0, 0, 0)


def test_the_pace_is_a_hint_that_anybody_may_spoil(conn):
    put_many(conn, 5)
    assert value(conn, "select _queue_fold('apples')") == 0
    conn.execute("set pgq_py.fold_after = ''")
    assert value(conn, "select _queue_fold('apples')") == 1


def test_a_fold_that_finds_much_folded_already_is_not_repeated_at_once(database, conn):
    old = database.connect(autocommit=False)
    old.execute("set transaction isolation level repeatable read")
    old.execute("select 1 from queue_job")
    conn.execute("insert into queue_tally (queue, put) select 'apples', 1 from generate_series(1, 100000)")
    while value(conn, "select _queue_fold('apples', true)"):
        pass
    conn.execute("set pgq_py.fold_after = ''")
    conn.execute("insert into queue_tally (queue, put) values ('apples', 1)")
    assert value(conn, "select _queue_fold('apples')") == 1
    pause = "current_setting('pgq_py.fold_after')::float8 - extract(epoch from clock_timestamp())"
    # It may be over by now on a slow machine: then a longer one, to see that it is kept.
    assert value(conn, f"select {pause} > -10")
    conn.execute("select set_config('pgq_py.fold_after', (extract(epoch from clock_timestamp()) + 60)::text, false)")
    conn.execute("insert into queue_tally (queue, put) values ('apples', 1)")
    assert value(conn, "select _queue_fold('apples')") == 0
    assert value(conn, "select _queue_fold('apples', true)") == 1
    assert totals(conn) == (100_002, 0, 0, 0)


def test_drop_waits_for_a_fold_and_leaves_nothing(database, conn):
    one = database.connect(autocommit=False, **TOLD)
    put_many(conn, 5)
    one.execute("select _queue_fold('apples', true)")
    running = Running(database.connect(), "select queue_drop('apples')")
    running.wait_for_lock(conn)
    one.commit()
    assert running.result() is True
    assert column(conn, "select name from queue_stats()") == []


def test_a_publication_of_all_tables_does_not_stop_the_fold(conn):
    put_many(conn, 1)
    try:
        conn.execute("create publication everything for all tables")
        conn.execute("select _queue_fold('apples', true)")
        conn.execute("select id from queue_get('apples')")
        conn.execute("select queue_drop('apples')")
    finally:
        conn.execute("drop publication everything")


# Many at once

PROCESSES = 6


def start(database, seed):
    return subprocess.Popen(
        [sys.executable, str(WORKER), database.dsn, str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kill", [False, True])
def test_totals_are_exact_whatever_is_rolled_back_or_killed(database, conn, kill):
    # Each worker notes what it did in the transaction that did it.
    conn.execute("create table did (put int not null, taken int not null, completed int not null, failed int not null)")
    conn.execute("select queue_create('apples', max_attempts => 1000000)")
    stop = threading.Event()
    seen = []

    def look():
        with psycopg.connect(database.dsn, autocommit=True) as observer:
            while not stop.is_set():
                seen.append(totals(observer))
                assert fits(observer) is not False
                observer.execute("select queue_maintain()")

    watcher = threading.Thread(target=look)
    processes = [start(database, seed) for seed in range(PROCESSES)]
    watcher.start()
    try:
        pick = random.Random(3)
        for n in range(8 if kill else 0):
            # In the middle: they have done something since the last one died.
            before = value(conn, "select count(*) from did")
            while value(conn, "select count(*) from did") < before + 50:
                pass
            victim = pick.randrange(PROCESSES)
            os.kill(processes[victim].pid, signal.SIGKILL)
            processes[victim].communicate()
            processes[victim] = start(database, 100 + n)
        for process in processes:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output
    finally:
        stop.set()
        watcher.join(20)
    conn.execute(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )
    did = conn.execute(
        "select coalesce(sum(put), 0), coalesce(sum(taken), 0), coalesce(sum(completed), 0), "
        "coalesce(sum(failed), 0) from did"
    ).fetchone()
    assert totals(conn) == did
    assert all(n > 100 for n in did)
    assert fits(conn)
    assert live(conn) == counted_by_hand(conn)
    assert len(seen) > 5
    for before, after in itertools.pairwise(seen):
        assert all(a <= b for a, b in zip(before, after, strict=True)), "totals only grow"
    conn.execute("select _queue_fold('apples', true)")
    assert value(conn, "select sum(put), count(*) from queue_total") == did[0]
    assert value(conn, "select count(*) from queue_total") <= PROCESSES + 1


# Cost

SIZE = 1_000_000


def read(conn, call):
    (explained,) = conn.execute(f"explain (analyze, buffers, timing off, format json) select * from {call}").fetchone()
    found = (explained if isinstance(explained, list) else json.loads(explained))[0]
    plan = found["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], found["Execution Time"]


@pytest.fixture(scope="module")
def big(version: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """A queue of 1,000, one of 1,000,000, and one of 1,000,000 scheduled before the first that is ready."""
    server: Server = request.getfixturevalue(f"server_{version}")
    name = f"stats{version}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"drop database if exists {name}")
        admin.execute(f"create database {name}")
    install(server.host, server.port, server.user, name)
    try:
        with psycopg.connect(server.dsn(name), autocommit=True) as conn:
            conn.execute("alter table queue_job set (autovacuum_enabled = off)")
            for queue, ready, scheduled in (
                ("few", 1000, 0),
                ("few waiting", 1000, 1000),
                ("many", SIZE, 0),
                ("mixed", SIZE // 2, SIZE // 2),
                ("many dead", 0, 0),
            ):
                for first in range(0, scheduled, 100_000):
                    put_many(conn, min(100_000, scheduled - first), queue, schedule_in="1 day")
                for first in range(0, ready, 100_000):
                    put_many(conn, min(100_000, ready - first), queue)
            yield conn
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(f"drop database {name}")


@pytest.mark.parametrize("analyzed", [False, True])
def test_stats_of_a_million_read_no_more_than_of_a_thousand(big, analyzed):
    if analyzed:
        big.execute("analyze queue_job")
    for _ in range(3):
        seen = {name: read(big, f"queue_stats('{name}')") for name in ("few", "few waiting", "many", "mixed")}
    pages = {name: pages for name, (pages, _) in seen.items()}
    print(seen)
    # A level or two more in each index, and the look at the lowest priorities and ids.
    assert pages["many"] <= 2 * pages["few"]
    assert pages["mixed"] <= 2 * pages["few waiting"]
    assert stats(big, "many")["ready"] == SIZE
    assert stats(big, "many")["exact"] is True
    if analyzed:
        assert abs(stats(big, "mixed")["ready"] - SIZE / 2) <= SIZE / 10


def test_all_queues_cost_what_each_of_them_costs(big):
    for _ in range(3):
        every, metrics = read(big, "queue_stats()")[0], read(big, "queue_metrics()")[0]
        names = column(big, "select name from queue_stats()")
        each = sum(read(big, f"queue_stats('{name}')")[0] for name in names)
    assert names == ["few", "few waiting", "many", "mixed"]
    assert every <= 1.5 * each + 50 * len(names)
    assert metrics <= every + 10


def test_tallies_of_other_queues_are_not_read(conn):
    conn.execute("select queue_put('apples', '1')")
    before = [read(conn, "queue_stats('apples')")[0] for _ in range(3)][-1]
    conn.execute("insert into queue_tally (queue, put) select 'pears', 1 from generate_series(1, 50000)")
    conn.execute("analyze queue_tally")
    assert [read(conn, "queue_stats('apples')")[0] for _ in range(3)][-1] <= before + 10
    assert [read(conn, "_queue_fold('apples', true)")[0] for _ in range(2)][-1] <= 200


# Maintain


def maintain(conn):
    return dict(conn.execute("select task, done from queue_maintain()").fetchall())


NOTHING = {"delete dead jobs": 0, "fold totals": 0, "correct totals": 0, "forget rights": 0, "promote due jobs": 0}


def test_maintain_of_nothing_does_nothing(conn):
    assert maintain(conn) == NOTHING
    put_many(conn, 5)
    put_many(conn, 5, schedule_in="1 hour")
    lease(conn, 2)
    assert maintain(conn) == {**NOTHING, "fold totals": 2}
    assert maintain(conn) == NOTHING
    assert live(conn) == {"ready": 3, "scheduled": 5, "leased": 2}


def bury(conn, queue, number, ago):
    conn.execute(
        "insert into queue_dead (queue, id, died_at, reason) "
        "select %s, nextval(pg_get_serial_sequence('queue_job', 'id')), now() - %s::interval, 'test' "
        "from generate_series(1, %s)",
        [queue, ago, number],
    )
    conn.execute("insert into queue_tally (queue, dead) values (%s, %s)", [queue, number])


def test_maintain_deletes_dead_jobs_that_are_old_enough(conn):
    conn.execute("select queue_create('apples', keep_dead_for => '7 days')")
    conn.execute("select queue_create('pears', keep_dead_for => '0')")
    for queue in ("apples", "pears", "plums"):
        bury(conn, queue, 3, "8 days")
        bury(conn, queue, 2, "6 days")
    assert maintain(conn)["delete dead jobs"] == 3 + 5
    assert [live(conn, queue) for queue in ("apples", "pears", "plums")] == [{"dead": 2}, {}, {"dead": 5}]
    assert maintain(conn)["delete dead jobs"] == 0


def test_maintain_deletes_in_bounded_steps(conn):
    for queue in ("apples", "pears"):
        conn.execute("select queue_create(%s, keep_dead_for => '1 hour')", [queue])
        bury(conn, queue, 7000, "1 day")
    assert [maintain(conn)["delete dead jobs"] for _ in range(3)] == [10_000, 4000, 0]


def test_maintain_promotes_what_is_due_and_wakes_its_takers(database, conn):
    listener = database.connect()
    for queue in ("apples", "pears", "plums"):
        listener.execute("select queue_listen(%s)", [queue])
        put_many(conn, 1200, queue, notify=False, schedule_in="1 hour" if queue == "plums" else "1us")
    put_many(conn, 1, "quinces")
    lease(conn, 1, "quinces", lease="1us")
    assert maintain(conn)["promote due jobs"] == 2001
    notified = {n.channel for n in listener.notifies(timeout=1)}
    assert notified == {value(conn, "select queue_channel(%s)", queue) for queue in ("apples", "pears")}
    assert maintain(conn)["promote due jobs"] == 400
    assert maintain(conn)["promote due jobs"] == 0
    assert value(conn, "select count(*) from queue_job where ready_at is null") == 2401
    assert column(conn, "select attempts from queue_job where queue = 'quinces'") == [1]
    assert totals(conn, "quinces") == (1, 1, 0, 1)


def test_maintain_passes_over_what_others_hold(database, conn):
    one, two = database.connect(autocommit=False, **TOLD), database.connect(**TOLD)
    two.execute("set lock_timeout = '1s'")
    conn.execute("select queue_create('apples', keep_dead_for => '1 hour')")
    bury(conn, "apples", 5, "1 day")
    put_many(conn, 5, schedule_in="1us")
    done = maintain(one)
    assert (done["delete dead jobs"], done["promote due jobs"]) == (5, 5)
    assert maintain(two) == NOTHING
    one.rollback()
    done = maintain(two)
    assert (done["delete dead jobs"], done["promote due jobs"]) == (5, 5)


def test_many_maintain_at_once(database, conn):
    conn.execute("select queue_create('apples', keep_dead_for => '1 hour')")
    bury(conn, "apples", 3000, "1 day")
    put_many(conn, 3000, schedule_in="1us")
    conn.execute("insert into queue_dead (queue, id, died_at, reason) values ('pears', 1, now(), 'by hand')")
    done = []

    def work():
        with psycopg.connect(database.dsn, autocommit=True) as mine:
            for _ in range(10):
                done.append(maintain(mine))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 60
    for task, number in {"delete dead jobs": 3000, "promote due jobs": 3000, "correct totals": 1}.items():
        assert sum(one[task] for one in done) == number
    assert fits(conn)
    assert fits(conn, "pears")


def test_one_bad_queue_does_not_stop_the_others(conn):
    for queue in ("apples", "pears", "plums"):
        conn.execute("select queue_create(%s, keep_dead_for => '1 hour')", [queue])
        bury(conn, queue, 1, "1 day")
        put_many(conn, 1, queue, schedule_in="1us")
    conn.execute(
        """
        create function refuse() returns trigger language plpgsql as 'begin raise exception ''no''; end';
        create trigger refuse before delete on queue_dead for each row when (old.queue = 'pears')
            execute function refuse();
        create trigger refuse before update on queue_job for each row when (old.queue = 'pears')
            execute function refuse();
        """
    )
    warnings = []
    conn.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    done = maintain(conn)
    assert (done["delete dead jobs"], done["promote due jobs"]) == (2, 2)
    assert len(warnings) == 2
    assert all("pears" in warning for warning in warnings)
    assert live(conn, "pears") == {"ready": 1, "dead": 1}
    assert live(conn, "plums") == {"ready": 1}


def test_maintain_corrects_the_totals_of_tables_changed_by_hand(conn):
    put_many(conn, 2000)
    conn.execute("delete from queue_job where id % 2 = 0")
    bury(conn, "apples", 1, "1 day")
    conn.execute("delete from queue_dead")
    assert not fits(conn)
    # What can be counted is true at any time.
    assert live(conn) == {"ready": 1000}
    assert maintain(conn)["correct totals"] == 1
    assert fits(conn)
    assert maintain(conn)["correct totals"] == 0
    put_many(conn, 2000)
    assert live(conn) == {"ready": 3000}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_maintain_above_read_committed_fails_at_nothing(database, conn, level):
    one = database.connect(autocommit=False, **TOLD)
    one.execute(f"set transaction isolation level {level}")
    conn.execute("select queue_create('apples', keep_dead_for => '1 hour')")
    bury(conn, "apples", 2, "1 day")
    put_many(conn, 5, schedule_in="1us")
    assert live(one) == {"ready": 5, "dead": 2}
    conn.execute("select queue_get('apples', promote => true), queue_maintain()")
    one.add_notice_handler(lambda notice: None)
    assert maintain(one)["fold totals"] == 0
    one.rollback()


def test_maintain_in_time_that_does_not_grow_with_the_jobs(big):
    for _ in range(2):
        pages, _ = read(big, "queue_maintain()")
    assert pages < 10_000


def test_next_due_and_oldest_are_near(conn):
    put_many(conn, 1, schedule_in="1 hour")
    found = stats(conn)
    assert found["oldest_ready_at"] is None
    due = found["next_due_at"] - value(conn, "select clock_timestamp()")
    assert timedelta(minutes=59) < due <= timedelta(hours=1)

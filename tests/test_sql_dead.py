"""The dead: looking at them, putting them back into the queue, and removing them for good."""

from __future__ import annotations

import pytest
from sql_leases import NOBODYS, contents, jobs, lease, lease_one, put, row, rows, run_out
from sql_sessions import Running, column, refused, stored, value

# Each died an hour after the one before.
DEAD = [
    ("a timeout", "2030-01-01 00:00Z"),
    ("a worm", "2030-01-01 01:00Z"),
    ("a timeout again", "2030-01-01 02:00Z"),
    ("50% rotten", "2030-01-01 03:00Z"),
    ("a worm", "2030-01-01 04:00Z"),
]


@pytest.fixture
def ids(conn):
    """Five dead jobs of apples, and one of pears."""
    found = []
    for n, (reason, died_at) in enumerate(DEAD):
        found.append(put(conn, str(n), dedupe_key=f"k{n}"))
        bury(conn, reason)
        conn.execute("update queue_dead set died_at = %s where id = %s", [died_at, found[-1]])
    put(conn, '"pear"', queue="pears")
    bury(conn, "a timeout", "pears")
    return found


def bury(conn, reason="a worm", queue="apples"):
    job = lease_one(conn, queue)
    query = "select queue_error(%s, %s, %s, %s, bury => true)"
    assert value(conn, query, queue, job.id, job.receipt, reason) is True


# The arguments that choose, and the data of those they choose
FILTERS = [
    ("", [0, 1, 2, 3, 4]),
    (", ids => array[{0}, {3}, 999]", [0, 3]),
    (", ids => array[{3}, {0}, {0}]", [0, 3]),
    (", ids => '{{}}'", []),
    (", ids => array[null]::bigint[]", []),
    (", ids => array[{pear}]", []),
    (", reason_like => '%timeout%'", [0, 2]),
    (", reason_like => 'a worm'", [1, 4]),
    (", reason_like => 'timeout'", []),
    (r", reason_like => '%\%%'", [3]),
    (", reason_like => ''", []),
    (", died_after => '2030-01-01 02:00Z'", [2, 3, 4]),
    (", died_before => '2030-01-01 02:00Z'", [0, 1]),
    (", died_after => '2030-01-01 01:00Z', died_before => '2030-01-01 03:00Z'", [1, 2]),
    (", died_after => '-infinity', died_before => 'infinity'", [0, 1, 2, 3, 4]),
    (", died_after => '2031-01-01'", []),
    (", count => 2", [0, 1]),
    (", count => 99", [0, 1, 2, 3, 4]),
    (", count => null", [0, 1, 2, 3, 4]),
    (", reason_like => '%worm', count => 1", [1]),
    (", ids => array[{4}, {1}], died_after => '2030-01-01 02:00Z', reason_like => 'a%'", [4]),
]


def call(function, arguments, ids):
    # A % in the text of a statement without parameters is itself.
    return f"{function}('apples'{arguments.format(*ids, pear=ids[-1] + 1)})"


@pytest.mark.parametrize(("arguments", "chosen"), FILTERS)
def test_list_shows_those_chosen_and_takes_none(conn, ids, arguments, chosen):
    query = f"select data from {call('queue_dead_list', arguments, ids)}"
    for _ in range(7):  # so often that the session keeps a generic plan, if it will
        assert column(conn, query) == chosen
    assert value(conn, "select count(*) from queue_dead") == 6


@pytest.mark.parametrize(("arguments", "chosen"), FILTERS)
def test_redrive_puts_those_chosen_back(conn, ids, arguments, chosen):
    assert value(conn, f"select {call('queue_redrive', arguments, ids)}") == len(chosen)
    assert [job.id for job in jobs(conn)] == [ids[n] for n in chosen]
    rest = [n for n in range(5) if n not in chosen]
    assert column(conn, "select data from queue_dead_list('apples')") == rest
    assert column(conn, "select data from queue_dead_list('pears')") == ["pear"]


@pytest.mark.parametrize(("arguments", "chosen"), FILTERS)
def test_delete_removes_those_chosen(conn, ids, arguments, chosen):
    assert value(conn, f"select {call('queue_dead_delete', arguments, ids)}") == len(chosen)
    rest = [n for n in range(5) if n not in chosen]
    assert column(conn, "select data from queue_dead_list('apples')") == rest
    assert column(conn, "select data from queue_dead_list('pears')") == ["pear"]
    assert stored(conn) == 0


@pytest.mark.parametrize("function", ["queue_dead_list", "queue_redrive", "queue_dead_delete"])
@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(conn, ids, function, count):
    before = contents(conn)
    refused(conn, "22023", f"select {function}('apples', count => {count})", hint=True)
    assert contents(conn) == before


@pytest.mark.parametrize("function", ["queue_redrive", "queue_dead_delete"])
def test_of_no_dead_there_is_nothing_to_do(conn, function):
    assert value(conn, f"select {function}('apples')") == 0


def test_those_that_died_together_come_by_id(conn, ids):
    conn.execute("update queue_dead set died_at = '2030-01-01'")
    assert column(conn, "select id from queue_dead_list('apples')") == ids


# What is kept


def test_all_that_was_put_is_kept_with_all_that_happened(conn):
    id = put(
        conn,
        '{"kind": "Cox"}',
        priority=7,
        expected_at="2030-01-01 00:00Z",
        schedule_at="2020-01-01 00:00Z",
        dedupe_key="k",
        headers='{"a": 1}',
        max_attempts=2,
    )
    job = lease_one(conn, consumer="one")
    conn.execute("select queue_progress('apples', %s, %s, 42)", [id, job.receipt])
    conn.execute("select queue_error('apples', %s, %s, 'a worm', '0')", [id, job.receipt])
    job = lease_one(conn, consumer="two")
    conn.execute("select queue_error('apples', %s, %s, 'rotten')", [id, job.receipt])
    dead = row(conn, "select * from queue_dead_list('apples')")
    assert (dead.id, dead.data, dead.data_text, dead.data_bytes) == (id, {"kind": "Cox"}, None, None)
    assert (dead.priority, dead.dedupe_key, dead.headers, dead.progress_count) == (7, "k", {"a": 1}, 42)
    assert (dead.attempts, dead.max_attempts, dead.consumer, dead.last_error) == (2, 2, "two", "rotten")
    assert (dead.expected_at, dead.enqueued_at) == (job.expected_at, job.enqueued_at)
    assert dead.schedule_at == job.schedule_at
    assert [(set(h), h["attempt"], h["consumer"], h["error"]) for h in dead.history] == [
        ({"attempt", "at", "consumer", "error"}, 1, "one", "a worm"),
        ({"attempt", "at", "consumer", "error"}, 2, "two", "rotten"),
    ]
    assert value(conn, "select (history->-1->>'at')::timestamptz = died_at from queue_dead_list('apples')") is True


@pytest.mark.parametrize(("kind", "data"), [("data_text", "t"), ("data_bytes", b"\x00\xff")])
def test_text_and_bytes_live_again(conn, kind, data):
    conn.execute(f"select queue_put('apples', {kind} => %s)", [data])
    bury(conn)
    assert getattr(row(conn, "select * from queue_dead_list('apples')"), kind) == data
    conn.execute("select queue_redrive('apples')")
    job = lease_one(conn)
    assert (job.data, getattr(job, kind)) == (None, data)


def test_the_columns_are_those_of_get_and_four(conn):
    dead = [c.name for c in conn.execute("select * from queue_dead_list('apples')").description]
    got = [c.name for c in conn.execute("select * from queue_get('apples')").description]
    assert [name for name in dead if name not in ("died_at", "reason", "history")] == got


def test_the_dead_count_for_nothing_else(conn, ids):
    assert value(conn, "select queue_count('apples', scheduled => true)") == 0
    assert column(conn, "select id from queue_list('apples', scheduled => true)") == []
    assert lease(conn) == []
    assert conn.execute("select ready, scheduled, retrying, leased, dead from queue_stats('apples')").fetchall() == [
        (0, 0, 0, 0, 5)
    ]
    assert value(conn, "select queue_clear('apples')") == 0
    assert value(conn, "select count(*) from queue_dead") == 6


def test_a_key_of_a_dead_job_is_free(conn, ids):
    assert put(conn, dedupe_key="k0") not in ids


# Back in the queue


def test_a_redriven_job_starts_anew_with_its_history(conn):
    id = put(conn, '"old"', priority=5, max_attempts=2, dedupe_key="k", expected_at="2030-01-01 00:00Z")
    for consumer in ("one", "two"):
        lease_one(conn, consumer=consumer)
        run_out(conn)
    assert lease(conn) == []
    enqueued_at = value(conn, "select enqueued_at from queue_dead_list('apples')")
    assert value(conn, "select queue_redrive('apples')") == 1
    assert value(conn, "select count(*) from queue_dead") == 0
    job = lease_one(conn)
    assert (job.id, job.data, job.attempts, job.max_attempts, job.priority) == (id, "old", 1, 2, 5)
    assert (job.dedupe_key, job.last_error, job.enqueued_at) == ("k", "the lease ran out", enqueued_at)
    assert job.expected_at.year == 2030
    conn.execute("select queue_error('apples', %s, %s, 'a worm', '0')", [id, job.receipt])
    job = lease_one(conn)
    conn.execute("select queue_error('apples', %s, %s, 'a worm', '0')", [id, job.receipt])
    history = value(conn, "select history from queue_dead_list('apples')")
    assert [h["attempt"] for h in history] == [1, 2, 1, 2]


def test_redriven_jobs_come_in_the_order_of_taking(conn):
    for n in range(9):
        put(conn, str(n), priority=n % 3, **({"expected_in": f"{9 - n}h"} if n % 2 else {}))
    with conn.transaction(force_rollback=True):
        expected = column(conn, "select data from queue_get('apples', 9)")
    for _ in range(9):
        bury(conn)
    assert value(conn, "select queue_redrive('apples')") == 9
    assert [job.data for job in lease(conn, count=9)] == expected


def test_a_new_job_never_gets_the_id_of_a_redriven_one(conn, ids):
    conn.execute("select queue_redrive('apples')")
    assert put(conn) > max(ids)


def test_a_scheduled_job_that_died_is_ready_at_once(conn):
    put(conn, schedule_in="1us")
    bury(conn)
    conn.execute("update queue_dead set schedule_at = now() + interval '1 day'")
    conn.execute("select queue_redrive('apples')")
    assert len(lease(conn)) == 1


def test_one_whose_key_is_taken_stays_dead(conn, ids):
    other = put(conn, '"new"', dedupe_key="k1")
    assert value(conn, "select queue_redrive('apples')") == 4
    assert column(conn, "select data from queue_dead_list('apples')") == [1]
    assert value(conn, "select queue_redrive('apples')") == 0
    conn.execute("select queue_cancel('apples', %s)", [other])
    assert value(conn, "select queue_redrive('apples')") == 1


def test_of_two_with_the_same_key_the_one_that_died_first_comes_back(conn):
    for data in ("1", "2"):
        put(conn, data, dedupe_key="k")
        bury(conn)
    assert value(conn, "select queue_redrive('apples')") == 1
    assert [job.data for job in lease(conn, count=9)] == [1]
    assert column(conn, "select data from queue_dead_list('apples')") == [2]


def test_a_key_of_another_queue_does_not_matter(conn, ids):
    put(conn, queue="pears", dedupe_key="k1")
    assert value(conn, "select queue_redrive('apples')") == 5


def test_one_that_is_alive_as_well_stays_dead(conn):
    """It was buried by a consumer whose transaction, in which it had taken the job, was then rolled back."""
    id = put(conn, '"alive"')
    conn.execute("select queue_bury('apples', %s, 'unreadable')", [id])
    put(conn, '"other"', priority=1)
    bury(conn)
    assert value(conn, "select queue_redrive('apples')") == 1
    assert column(conn, "select data from queue_list('apples')") == ["other", "alive"]
    assert column(conn, "select reason from queue_dead_list('apples')") == ["unreadable"]


def test_one_that_is_alive_as_well_dies_with_its_own_data(conn):
    id = put(conn, '"alive"')
    conn.execute("select queue_bury('apples', %s, 'unreadable')", [id])
    bury(conn, "a worm")
    assert conn.execute("select id, data, reason from queue_dead_list('apples')").fetchall() == [
        (id, "alive", "a worm")
    ]


def test_what_was_buried_by_hand_with_nothing_else_lives_again(conn):
    conn.execute("select queue_bury('apples', 1, 'unreadable', data_text => 'x')")
    assert value(conn, "select queue_redrive('apples')") == 1
    job = lease_one(conn)
    assert (job.id, job.data_text, job.attempts) == (1, "x", 1)
    assert job.enqueued_at is not None


def test_a_rolled_back_redrive_leaves_them_dead(database, conn, ids):
    one = database.connect(autocommit=False)
    before = contents(conn)
    assert value(one, "select queue_redrive('apples')") == 5
    assert contents(conn) == before
    one.rollback()
    assert contents(conn) == before


def test_an_outdated_receipt_does_nothing_to_a_redriven_job(conn):
    put(conn)
    job = lease_one(conn)
    conn.execute("select queue_error('apples', %s, %s, bury => true)", [job.id, job.receipt])
    conn.execute("select queue_redrive('apples')")
    again = lease_one(conn)
    assert again.receipt != job.receipt
    assert value(conn, "select queue_complete('apples', %s, %s)", job.id, job.receipt) is False
    assert value(conn, "select queue_complete('apples', %s, %s)", job.id, NOBODYS) is False
    assert value(conn, "select queue_complete('apples', %s, %s)", job.id, again.receipt) is True


# Two at once


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("second", ["queue_redrive('apples')", "queue_dead_delete('apples')"])
@pytest.mark.parametrize(
    ("first", "left"), [("queue_redrive('apples', count => 2)", 3), ("queue_dead_delete('apples', count => 2)", 3)]
)
def test_two_at_once_share_the_dead(database, conn, ids, first, second, left, commit):
    one, two = database.connect(autocommit=False), database.connect(autocommit=False)
    assert value(one, f"select {first}") == 2
    assert value(two, f"select {second}") == left
    two.commit()
    one.commit() if commit else one.rollback()
    alive = ("redrive" in first and commit) * 2 + ("redrive" in second) * 3
    assert stored(conn) == alive
    assert value(conn, "select dead from queue_stats('apples')") == (0 if commit else 2)


def test_a_redrive_waits_for_a_put_of_its_key(database, conn, ids):
    one, session = database.connect(autocommit=False), database.connect()
    put(one, '"new"', dedupe_key="k1")
    running = Running(session, "select queue_redrive('apples')")
    running.wait_for_lock(conn)
    one.rollback()
    assert running.result() == 5
    assert stored(conn) == 5


def test_a_put_waits_for_a_redrive_of_its_key(database, conn, ids):
    one, session = database.connect(autocommit=False), database.connect()
    assert value(one, "select queue_redrive('apples', ids => %s)", [ids[1]]) == 1
    running = Running(session, "select queue_put('apples', dedupe_key => 'k1')")
    running.wait_for_lock(conn)
    one.commit()
    assert running.result() == ids[1]
    assert stored(conn) == 1


def test_ten_sessions_redrive_each_job_once(database, conn):
    conn.execute("select queue_put_many('apples', array(select to_jsonb(i) from generate_series(1, 2000) i))")
    found = lease(conn, count=2000)
    conn.execute(
        "select count(*) from queue_error_many('apples', %s, %s, bury => true)",
        [[job.id for job in found], [job.receipt for job in found]],
    )
    sessions = [Running(database.connect(), "select queue_redrive('apples', count => 300)") for _ in range(10)]
    given = [session.result() for session in sessions]
    while more := value(conn, "select queue_redrive('apples')"):
        given.append(more)
    assert sum(given) == 2000
    assert sorted(job.data for job in lease(conn, count=9999)) == [*range(1, 2001)]
    assert rows(conn, "select * from queue_dead_list('apples')") == []


# Many


def test_one_of_many_is_found_by_its_id(conn):
    """A hundred calls in a session, whose plans settle: pages are read for what is asked, not for all the dead."""
    conn.execute(
        """
        insert into queue_dead (queue, id, died_at, reason, data)
        select 'apples', i, now() + i * interval '1 s', 'a worm', '1' from generate_series(1, 50000) i
        """
    )
    conn.execute("analyze queue_dead")
    for function in ("queue_dead_list", "queue_redrive", "queue_dead_delete"):
        for n in range(12):
            (explained,) = conn.execute(
                f"explain (analyze, buffers, format json) select {function}('apples', ids => array[{n * 9 + 1}, 7])"
            ).fetchone()
        assert explained[0]["Plan"]["Shared Hit Blocks"] + explained[0]["Plan"]["Shared Read Blocks"] < 200, function

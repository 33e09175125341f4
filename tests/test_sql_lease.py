"""Leases: taking a job for a time, and the receipt without which nothing can be done to it."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from sql_leases import NOBODYS, contents, everything, jobs, lease, lease_one, put, row, rows, run_out
from sql_sessions import Running, column, refused, stored, value

MINUTE = timedelta(minutes=1)


# queue_lease


def test_a_leased_job_comes_with_all_that_was_put(conn):
    id = put(
        conn,
        '{"kind": "Cox"}',
        priority=7,
        expected_at="2030-01-01 00:00Z",
        schedule_at="2020-01-01 00:00Z",
        dedupe_key="k",
        headers='{"a": 1}',
        max_attempts=3,
    )
    job = lease_one(conn, consumer="one")
    assert (job.id, job.data, job.data_text, job.data_bytes) == (id, {"kind": "Cox"}, None, None)
    assert (job.priority, job.dedupe_key, job.headers, job.max_attempts) == (7, "k", {"a": 1}, 3)
    assert (job.attempts, job.last_error, job.progress_count) == (1, None, None)
    assert (job.expected_at.year, job.schedule_at.year) == (2030, 2020)
    listed = row(conn, "select * from queue_list('apples', scheduled => true)")
    assert (listed.consumer, listed.attempts, listed.ready_at) == ("one", 1, job.lease_until)
    assert (listed.enqueued_at, listed.expected_at) == (job.enqueued_at, job.expected_at)


def test_the_columns_are_those_of_get_but_the_consumer(conn):
    leased = [c.name for c in conn.execute("select * from queue_lease('apples')").description]
    got = [c.name for c in conn.execute("select * from queue_get('apples')").description]
    assert leased == ["id", "receipt", "lease_until", *(name for name in got[1:] if name != "consumer")]
    several = [c.name for c in conn.execute("select * from queue_lease_any(array['apples'])").description]
    assert several == ["queue", *leased]


@pytest.mark.parametrize(("kind", "data"), [("data_text", "t"), ("data_bytes", b"b")])
def test_text_and_bytes_are_leased_as_they_are(conn, kind, data):
    conn.execute(f"select queue_put('apples', {kind} => %s)", [data])
    job = lease_one(conn)
    assert (job.data, getattr(job, kind)) == (None, data)


def test_json_null_is_data(conn):
    put(conn, "null")
    assert value(conn, "select data = 'null' from queue_lease('apples')") is True


def test_leases_come_in_the_order_of_getting(conn):
    for n in range(40):
        put(
            conn,
            str(n),
            priority=n % 3,
            **({"expected_in": f"{n % 5}h"} if n % 2 else {}),
            **({"schedule_in": "1us"} if n % 7 == 0 else {}),
        )
    with conn.transaction(force_rollback=True):
        expected = column(conn, "select data from queue_get('apples', 99)")
    with conn.transaction(force_rollback=True):
        assert [job.data for job in lease(conn, count=99)] == expected
    with conn.transaction(force_rollback=True):
        assert [job.data for _ in range(8) for job in lease(conn, count=5)] == expected
    assert [lease_one(conn).data for _ in range(40)] == expected
    assert lease(conn) == []


def test_a_lease_takes_up_to_the_count(conn):
    for n in range(5):
        put(conn, str(n))
    assert [job.data for job in lease(conn, count=2)] == [0, 1]
    assert [job.data for job in lease(conn, count=100000)] == [2, 3, 4]


def test_a_leased_job_is_given_to_nobody_else(conn):
    put(conn)
    lease_one(conn)
    assert lease(conn) == []
    for promote in (False, True):
        assert column(conn, "select id from queue_get('apples', promote => %s)", promote) == []
    assert value(conn, "select queue_count('apples')") == 0
    assert value(conn, "select queue_count('apples', scheduled => true)") == 1
    assert column(conn, "select id from queue_list('apples')") == []


def test_each_lease_of_a_job_has_another_receipt(conn):
    put(conn)
    receipts = set()
    for _ in range(5):
        job = lease_one(conn)
        receipts.add(job.receipt)
        assert value(conn, "select queue_release('apples', %s, %s)", job.id, job.receipt) is True
    assert len(receipts) == 5


def test_others_pass_over_a_job_that_is_being_leased(database, conn):
    one = database.connect(autocommit=False)
    for n in range(10):
        put(conn, str(n))
    assert [job.data for job in lease(one, count=3)] == [0, 1, 2]
    assert [job.data for job in lease(conn, count=3)] == [3, 4, 5]
    one.rollback()
    assert [job.data for job in lease(conn, count=99)] == [0, 1, 2, 6, 7, 8, 9]


def test_a_rolled_back_lease_leaves_the_job_as_it_was(database, conn):
    one = database.connect(autocommit=False)
    put(conn)
    job = lease_one(one)
    one.rollback()
    assert value(conn, "select queue_complete('apples', %s, %s)", job.id, job.receipt) is False
    assert lease_one(conn).attempts == 1


def test_a_paused_queue_gives_no_lease_but_lets_its_jobs_be_done(conn):
    put(conn)
    put(conn, "2")
    job = lease_one(conn)
    conn.execute("select queue_pause('apples')")
    assert lease(conn, count=9) == []
    assert rows(conn, "select * from queue_lease_any(array['apples'])") == []
    assert value(conn, "select queue_progress('apples', %s, %s)", job.id, job.receipt) is True
    assert value(conn, "select queue_complete('apples', %s, %s)", job.id, job.receipt) is True
    conn.execute("select queue_resume('apples')")
    assert lease_one(conn).data == 2


@pytest.mark.parametrize("count", ["0", "-1", "null"])
def test_a_count_below_one_is_refused(conn, count):
    put(conn)
    refused(conn, "22023", f"select queue_lease('apples', {count})", hint=True)
    refused(conn, "22023", f"select queue_lease_any(array['apples'], {count})", hint=True)
    assert lease_one(conn).attempts == 1


@pytest.mark.parametrize("call", ["queue_lease('apples', lease => '{}')", "queue_progress('apples', 1, null, 1, '{}')"])
@pytest.mark.parametrize("length", ["0", "-1s", "-1 month 1 day"])
def test_a_lease_that_is_not_above_zero_is_refused(conn, call, length):
    put(conn)
    refused(conn, "22023", f"select {call.format(length)}", hint=True)
    assert lease_one(conn).attempts == 1


ENDLESS = [
    "queue_lease('apples', lease => '{length}')",
    "queue_lease_any(array['apples'], lease => '{length}')",
    "queue_progress('apples', {id}, '{receipt}', lease => '{length}')",
    "queue_progress_many('apples', array[{id}], array['{receipt}'::uuid], lease => '{length}')",
    "queue_error('apples', {id}, '{receipt}', retry_in => '{length}')",
    "queue_error_many('apples', array[{id}], array['{receipt}'::uuid], retry_in => '{length}')",
    "queue_error('apples', {id}, null, retry_in => '{length}')",
]


@pytest.mark.parametrize("call", ENDLESS)
def test_what_ends_beyond_the_calendar_is_refused(conn, call):
    put(conn)
    job = lease_one(conn)
    put(conn)
    before = contents(conn)
    text = call.format(id=job.id if "null" not in call else job.id + 1, receipt=job.receipt, length="170000000 years")
    refused(conn, "22008", f"select {text}", hint=True)
    assert contents(conn) == before


@pytest.mark.since(17)
@pytest.mark.parametrize("call", ENDLESS)
def test_what_never_ends_is_refused(version, conn, call):
    """An interval can be infinite since PostgreSQL 17; such a lease would keep the job of a dead consumer for ever."""
    put(conn)
    job = lease_one(conn)
    put(conn)
    text = call.format(id=job.id if "null" not in call else job.id + 1, receipt=job.receipt, length="infinity")
    refused(conn, "22008", f"select {text}", hint=True)
    assert value(conn, "select bool_and(isfinite(coalesce(ready_at, now()))) from queue_job") is True


def test_the_lease_lasts_as_long_as_the_call_says(conn):
    put(conn)
    job = lease_one(conn, lease="90 minutes")
    assert 89 * MINUTE < value(conn, "select %s - clock_timestamp()", job.lease_until) <= 90 * MINUTE
    assert value(conn, "select lease_until = ready_at from queue_job") is True


def test_lease_any_asks_the_queues_in_their_order(conn):
    for n, queue in enumerate(("apples", "apples", "pears", "pears")):
        put(conn, str(n), queue=queue)
    query = "select queue, data, attempts from queue_lease_any(array['plums', 'pears', 'apples'], %s, '1h', 'one')"
    assert conn.execute(query, [3]).fetchall() == [("pears", 2, 1), ("pears", 3, 1), ("apples", 0, 1)]
    assert conn.execute(query, [3]).fetchall() == [("apples", 1, 1)]
    assert conn.execute(query, [3]).fetchall() == []
    assert column(conn, "select distinct consumer from queue_job") == ["one"]


def test_lease_any_leases_for_as_long_as_each_queue_says(conn):
    put(conn, queue="apples")
    put(conn, queue="pears")
    conn.execute("select queue_create('pears', lease_for => '2 hours')")
    query = "select queue, lease_until - clock_timestamp() from queue_lease_any(array['pears', 'apples'], 2)"
    lengths = dict(conn.execute(query).fetchall())
    assert 119 * MINUTE < lengths["pears"] <= 120 * MINUTE
    assert 4 * MINUTE < lengths["apples"] <= 5 * MINUTE


@pytest.mark.parametrize("queues", ["null", "'{}'"])
def test_lease_any_of_no_queues_gives_nothing(conn, queues):
    assert rows(conn, f"select * from queue_lease_any({queues})") == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("due", [False, True])
def test_above_read_committed_a_job_leased_meanwhile_is_an_error(database, conn, level, due):
    put(conn, **({"schedule_in": "1us"} if due else {}))
    one = database.connect(autocommit=False)
    one.execute(f"set transaction isolation level {level}")
    one.execute("select count(*) from queue_job")
    lease_one(conn)
    put(conn)
    refused(one, "40001", "select queue_lease('apples')")
    one.rollback()
    assert len(lease(one, count=9)) == 1


@pytest.mark.parametrize("due", [False, True])
def test_a_lease_locks_no_more_than_it_takes(database, conn, due):
    one, two = database.connect(autocommit=False), database.connect(autocommit=False)
    for n in range(20):
        put(conn, str(n))
    if due:
        lease(conn, count=1)
        run_out(conn)
        put(conn, "100", schedule_in="1us", priority=-1)
    assert len(lease(one, count=5)) == 5
    # Of the 21, the one that was promoted is locked too: those who lease commit at once.
    assert value(conn, "select count(*) from (select from queue_job for update skip locked) x") == 15
    assert len(lease(two, count=99)) == 15


# Large data


def test_large_data_are_not_copied(conn):
    conn.execute("select queue_put('apples', data_bytes => %s)", [os.urandom(1_000_000)])
    toast = "select pg_relation_size(reltoastrelid) from pg_class where oid = 'queue_job'::regclass"
    before = value(conn, toast)
    assert before > 1_000_000
    conn.execute("checkpoint")
    start = value(conn, "select pg_current_wal_insert_lsn()")
    for n in range(10):
        id, receipt, size = conn.execute(
            "select id, receipt, octet_length(data_bytes) from queue_lease('apples')"
        ).fetchone()
        assert size == 1_000_000
        assert value(conn, "select queue_progress('apples', %s, %s, %s, '1h')", id, receipt, n) is True
        if n < 3:
            assert value(conn, "select queue_error('apples', %s, %s, 'a worm', retry_in => '0')", id, receipt) is True
        elif n < 6:
            assert value(conn, "select queue_release('apples', %s, %s)", id, receipt) is True
        else:
            # It runs out, is found by the next lease, and counts as an attempt.
            conn.execute("update queue_job set attempts = 0")
            run_out(conn)
    assert value(conn, toast) == before
    # The pages that a checkpoint makes the server write whole, and 50 small rows.
    assert value(conn, "select pg_current_wal_insert_lsn() - %s", start) < 200_000


# The receipt fences


CALLS = {
    "complete": "queue_complete({queue}, {id}, {receipt})",
    "error": "queue_error({queue}, {id}, {receipt}, 'a worm')",
    "error, burying": "queue_error({queue}, {id}, {receipt}, 'a worm', bury => true)",
    "release": "queue_release({queue}, {id}, {receipt})",
    "progress": "queue_progress({queue}, {id}, {receipt}, 7)",
    "progress with a lease": "queue_progress({queue}, {id}, {receipt}, 7, '1h')",
    "update": "queue_update({queue}, {id}, '2', receipt => {receipt})",
}
MANY = {
    f"{verb}, many": f"done from queue_{verb}_many({{queue}}, array[{{id}}::bigint], array[{{receipt}}::uuid])"
    for verb in ("complete", "error", "release", "progress")
}


def call(conn, what, id, receipt, queue="apples"):
    text = {**CALLS, **MANY}[what].format(queue="%s", id="%s", receipt="%s::uuid")
    return value(conn, f"select {text}", queue, id, receipt)


def ran_out(conn, job):
    run_out(conn)


def ran_out_by_a_microsecond(conn, job):
    conn.execute("update queue_job set lease_until = clock_timestamp() where id = %s", [job.id])


def another_has_it(conn, job):
    run_out(conn)
    assert lease_one(conn, consumer="another").id == job.id


def ran_out_and_promoted(conn, job):
    # Somebody came by, moved it to the ready jobs, and took another.
    put(conn, "9", priority=9)
    run_out(conn)
    assert lease_one(conn).data == 9


def done(what):
    def end(conn, job):
        assert call(conn, what, job.id, job.receipt) is True

    return end


def failed_and_leased_again(conn, job):
    conn.execute("select queue_error('apples', %s, %s, retry_in => '0')", [job.id, job.receipt])
    assert lease_one(conn).id == job.id


def cancelled(conn, job):
    assert value(conn, "select queue_cancel('apples', %s)", job.id) is True


def redriven(conn, job):
    done("error, burying")(conn, job)
    assert value(conn, "select queue_redrive('apples')") == 1


SITUATIONS = {
    "ran out": ran_out,
    "ran out by a microsecond": ran_out_by_a_microsecond,
    "ran out, and another has it": another_has_it,
    "ran out and was promoted": ran_out_and_promoted,
    "completed": done("complete"),
    "failed": done("error"),
    "failed and leased again": failed_and_leased_again,
    "dead": done("error, burying"),
    "redriven": redriven,
    "released": done("release"),
    "cancelled": cancelled,
}


@pytest.mark.parametrize("what", [*CALLS, *MANY])
def test_with_the_receipt_of_the_lease_it_is_done(conn, what):
    put(conn)
    job = lease_one(conn)
    before = everything(conn)
    assert call(conn, what, job.id, job.receipt) is True
    assert everything(conn) != before


@pytest.mark.parametrize("what", [*CALLS, *MANY])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_with_an_outdated_receipt_nothing_is_done(conn, what, situation):
    put(conn)
    job = lease_one(conn, consumer="one")
    SITUATIONS[situation](conn, job)
    before = everything(conn)
    assert call(conn, what, job.id, job.receipt) is False
    # Not even a lock was taken.
    assert everything(conn) == before


@pytest.mark.parametrize("what", [*CALLS, *MANY])
def test_with_a_receipt_of_something_else_nothing_is_done(conn, what):
    put(conn)
    put(conn)
    put(conn, queue="pears")
    job, other, pear = lease_one(conn), lease_one(conn), lease_one(conn, "pears")
    before = everything(conn)
    assert call(conn, what, job.id, NOBODYS) is False
    assert call(conn, what, job.id, other.receipt) is False
    assert call(conn, what, job.id, pear.receipt) is False
    assert call(conn, what, job.id, job.receipt, queue="pears") is False
    assert call(conn, what, pear.id, pear.receipt, queue="apples") is False
    assert call(conn, what, pear.id + 1, pear.receipt, queue="pears") is False
    assert call(conn, what, None, job.receipt) is False
    assert everything(conn) == before


# Without a receipt, queue_update is for whoever looks after the queue.
@pytest.mark.parametrize("what", [what for what in (*CALLS, *MANY) if what != "update"])
def test_with_no_receipt_nothing_is_done_to_a_leased_job(conn, what):
    put(conn)
    job = lease_one(conn)
    before = everything(conn)
    assert call(conn, what, job.id, None) is False
    assert everything(conn) == before


@pytest.mark.parametrize("what", [what for what in (*CALLS, *MANY) if not what.startswith(("update", "error"))])
def test_with_no_receipt_nothing_is_done_to_a_ready_job(conn, what):
    id = put(conn)
    before = everything(conn)
    assert call(conn, what, id, None) is False
    assert everything(conn) == before


def test_error_many_needs_a_receipt_for_each_job(conn):
    id = put(conn)
    before = everything(conn)
    assert call(conn, "error, many", id, None) is False
    assert everything(conn) == before


@pytest.mark.parametrize("what", ["complete", "complete, many"])
def test_complete_twice_is_false(conn, what):
    put(conn)
    job = lease_one(conn)
    assert call(conn, what, job.id, job.receipt) is True
    assert call(conn, what, job.id, job.receipt) is False
    assert stored(conn) == 0


# The same, racing


# The heartbeat does not wait: see test_progress_many_passes_over_what_others_have_locked.
@pytest.mark.parametrize("what", [what for what in (*CALLS, *MANY) if what != "progress, many"])
@pytest.mark.parametrize("commit", [True, False])
def test_another_takes_it_over_at_the_same_moment(database, conn, what, commit):
    """The lease is good when the call begins, and has gone to somebody else when its row can be had."""
    put(conn)
    job = lease_one(conn, consumer="one")
    other, session = database.connect(autocommit=False), database.connect()
    run_out(other)
    taken = lease_one(other, consumer="another")
    assert taken.id == job.id
    text = {**CALLS, **MANY}[what].format(queue="'apples'", id="%s", receipt="%s::uuid")
    running = Running(session, f"select {text}", job.id, job.receipt)
    running.wait_for_lock(conn)
    if commit:
        other.commit()
        before = contents(conn)
        assert running.result() is False
        assert contents(conn) == before
        assert call(conn, "complete", taken.id, taken.receipt) is True
    else:
        other.rollback()
        assert running.result() is True


@pytest.mark.parametrize("first", [*CALLS, *MANY])
@pytest.mark.parametrize("commit", [True, False])
def test_two_calls_with_the_same_receipt(database, conn, first, commit):
    """A consumer asks twice, after a lost connection for example: the second waits for what becomes of the first."""
    put(conn)
    job = lease_one(conn)
    other, session = database.connect(autocommit=False), database.connect()
    assert call(other, first, job.id, job.receipt) is True
    running = Running(session, "select queue_complete('apples', %s, %s)", job.id, job.receipt)
    running.wait_for_lock(conn)
    if commit:
        other.commit()
        assert running.result() is first.startswith(("progress", "update"))
    else:
        other.rollback()
        assert running.result() is True


def test_a_heartbeat_under_way_does_not_make_an_update_fail(database, conn):
    """The consumer's other thread is just extending the lease: the receipt is good, so the data are stored."""
    put(conn)
    job = lease_one(conn)
    other = database.connect(autocommit=False)
    assert call(other, "progress", job.id, job.receipt) is True
    query = "select queue_update('apples', %s, '2', receipt => %s)"
    running = Running(database.connect(), query, job.id, job.receipt)
    running.wait_for_lock(conn)
    other.commit()
    assert running.result() is True
    assert column(conn, "select data from queue_list('apples', true)") == [2]


TAKERS = {
    "lease": "queue_lease('apples', {})",
    "lease_any": "queue_lease_any(array['pears', 'apples'], {})",
    "get": "queue_get('apples', {})",
    "get, promoting": "queue_get('apples', {}, promote => true)",
    "get_any": "queue_get_any(array['pears', 'apples'], {})",
    "get_any, promoting": "queue_get_any(array['pears', 'apples'], {}, promote => true)",
}


def take(conn, taker, count=1):
    return rows(conn, f"select * from {TAKERS[taker].format(count)}")


def sleep_until_the_end_of(conn, job):
    conn.execute("select pg_sleep_for(%s - clock_timestamp() + '2ms')", [job.lease_until])


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("commit", [True, False])
def test_completed_in_time_in_a_transaction_that_outlives_the_lease(database, conn, taker, commit):
    put(conn)
    job = lease_one(conn, lease="400ms")
    one = database.connect(autocommit=False)
    assert call(one, "complete", job.id, job.receipt) is True
    sleep_until_the_end_of(conn, job)
    assert take(conn, taker) == []
    if commit:
        one.commit()
        assert take(conn, taker) == []
        assert stored(conn) == 0
    else:
        one.rollback()
        assert call(conn, "complete", job.id, job.receipt) is False
        assert [taken.id for taken in take(conn, taker)] == [job.id]


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("what", ["complete", "error", "release", "progress", "update", "complete, many"])
@pytest.mark.parametrize("commit", [True, False])
def test_too_late_while_another_is_taking_it(database, conn, taker, what, commit):
    """The taker's transaction is open: the answer is false whatever becomes of it, and comes at once."""
    put(conn)
    job = lease_one(conn)
    run_out(conn)
    other = database.connect(autocommit=False)
    assert [taken.id for taken in take(other, taker)] == [job.id]
    conn.execute("set statement_timeout = '10s'")
    assert call(conn, what, job.id, job.receipt) is False
    other.commit() if commit else other.rollback()
    assert call(conn, what, job.id, job.receipt) is False


# A lease that runs out


@pytest.mark.parametrize("taker", TAKERS)
def test_a_lease_that_ran_out_gives_the_job_back(conn, taker):
    id = put(conn)
    lease_one(conn, consumer="one")
    run_out(conn)
    assert value(conn, "select queue_count('apples')") == 1
    (job,) = take(conn, taker)
    assert (job.id, job.last_error) == (id, "the lease ran out")
    assert job.attempts == (2 if taker.startswith("lease") else 1)


def test_what_ran_out_is_in_the_history(conn):
    put(conn)
    first = lease_one(conn, consumer="one")
    run_out(conn)
    lease_one(conn, consumer="two")
    run_out(conn)
    third = lease_one(conn)
    conn.execute("select queue_error('apples', %s, %s, 'a worm')", [third.id, third.receipt])
    history = value(conn, "select history from queue_job")
    assert [(h["attempt"], h["consumer"], h["error"]) for h in history] == [
        (1, "one", "the lease ran out"),
        (2, "two", "the lease ran out"),
        (3, None, "a worm"),
    ]
    at = column(conn, "select (h->>'at')::timestamptz from queue_job, jsonb_array_elements(history) h")
    assert at == sorted(at)
    assert at[0] > first.enqueued_at


@pytest.mark.parametrize("taker", TAKERS)
def test_out_of_attempts_it_is_dead_and_the_next_one_comes(conn, taker):
    id = put(conn, '"deadly"', max_attempts=1, priority=9, headers='{"a": 1}')
    put(conn, '"next"', schedule_in="1us")
    assert lease_one(conn, consumer="one").data == "deadly"
    run_out(conn)
    assert [job.data for job in take(conn, taker)] == ["next"]
    dead = row(conn, "select * from queue_dead_list('apples')")
    assert (dead.id, dead.data, dead.attempts, dead.max_attempts, dead.priority) == (id, "deadly", 1, 1, 9)
    assert dead.reason == "attempt 1 of 1 failed: the lease ran out"
    assert (dead.last_error, dead.consumer, dead.headers) == ("the lease ran out", "one", {"a": 1})
    assert [(h["attempt"], h["error"]) for h in dead.history] == [(1, "the lease ran out")]
    assert column(conn, "select id from queue_job where id = %s", id) == []


@pytest.mark.parametrize("taker", TAKERS)
def test_a_job_that_kills_its_consumers_is_dead_after_five(conn, taker):
    """Fault 27: the handler always crashes its process, so that nothing but the lease ever ends an attempt."""
    id = put(conn)
    for n in range(5):
        assert lease_one(conn).attempts == n + 1
        run_out(conn)
    assert take(conn, taker) == []
    dead = row(conn, "select * from queue_dead_list('apples')")
    assert (dead.id, dead.attempts, dead.reason) == (id, 5, "attempt 5 of 5 failed: the lease ran out")
    assert [h["attempt"] for h in dead.history] == [1, 2, 3, 4, 5]
    assert stored(conn) == 0


@pytest.mark.parametrize("taker", TAKERS)
def test_many_dead_do_not_hide_what_comes_behind_them(conn, taker):
    # More than one step or one window of the takers.
    conn.execute("select queue_put_many('apples', array_fill('0'::jsonb, array[450]), max_attempts => 1)")
    assert len(lease(conn, count=450)) == 450
    run_out(conn, hours=48)
    put(conn, "1", schedule_in="1us")
    put(conn, "2", priority=-1)
    # Of very many that are due a transactional taker considers those due first.
    assert sorted(job.data for job in take(conn, taker, 3)) == [1, 2]
    assert value(conn, "select count(*) from queue_dead") == 450


@pytest.mark.parametrize("taker", ["get", "get_any"])
def test_a_get_that_is_rolled_back_undoes_what_it_found(database, conn, taker):
    put(conn, "0", max_attempts=1)
    put(conn, "1")
    lease(conn, count=2)
    run_out(conn)
    one = database.connect(autocommit=False)
    before = contents(conn)
    assert [job.data for job in take(one, taker, 9)] == [1]
    one.rollback()
    assert contents(conn) == before
    assert [job.data for job in take(conn, taker, 9)] == [1]
    assert value(conn, "select count(*) from queue_dead") == 1


def test_a_get_in_an_open_transaction_hides_no_job_that_ran_out(database, conn):
    for n in range(20):
        put(conn, str(n))
    lease(conn, count=20)
    run_out(conn)
    one = database.connect(autocommit=False)
    assert [job.data for job in take(one, "get", 5)] == [0, 1, 2, 3, 4]
    assert [job.data for job in take(conn, "get", 99)] == [*range(5, 20)]


def test_the_attempts_of_the_queue_hold_when_a_lease_runs_out(conn):
    conn.execute("select queue_create('apples', max_attempts => 2)")
    put(conn)
    put(conn, "2", max_attempts=3)
    for _ in range(2):
        lease(conn, count=2)
        run_out(conn)
    assert [job.data for job in take(conn, "get", 9)] == [2]
    assert column(conn, "select reason from queue_dead_list('apples')") == ["attempt 2 of 2 failed: the lease ran out"]


def test_two_takers_of_leases_that_ran_out(database, conn):
    for n in range(10):
        put(conn, str(n))
    lease(conn, count=10)
    run_out(conn)
    one, two = database.connect(autocommit=False), database.connect(autocommit=False)
    assert [job.data for job in take(one, "get", 4)] == [0, 1, 2, 3]
    assert [(job.data, job.attempts) for job in take(two, "lease", 4)] == [(4, 2), (5, 2), (6, 2), (7, 2)]
    one.rollback()
    two.commit()
    assert [(job.data, job.attempts) for job in take(conn, "lease", 9)] == [
        (0, 2),
        (1, 2),
        (2, 2),
        (3, 2),
        (8, 2),
        (9, 2),
    ]


# queue_error


def pause(conn):
    """How long the job waits after its last failed attempt, exactly."""
    return value(conn, "select ready_at - (history->-1->>'at')::timestamptz from queue_job")


def fail(conn, *args, **options):
    job = lease_one(conn)
    given = "".join(f", {name} => {to}" for name, to in options.items())
    assert value(conn, f"select queue_error('apples', %s, %s, 'a worm'{given})", job.id, job.receipt) is True


def test_a_failed_job_keeps_its_error_and_waits(conn):
    id = put(conn)
    job = lease_one(conn, consumer="one")
    conn.execute("select queue_progress('apples', %s, %s, 42)", [job.id, job.receipt])
    assert value(conn, "select queue_error('apples', %s, %s, 'a worm')", job.id, job.receipt) is True
    (kept,) = jobs(conn)
    assert (kept.receipt, kept.lease_until, kept.attempts, kept.last_error) == (None, None, 1, "a worm")
    assert [(h["attempt"], h["consumer"], h["error"]) for h in kept.history] == [(1, "one", "a worm")]
    assert lease(conn) == []
    assert conn.execute("select ready, scheduled, retrying, leased, dead from queue_stats('apples')").fetchall() == [
        (0, 0, 1, 0, 0)
    ]
    run_out(conn)
    again = lease_one(conn)
    assert (again.id, again.attempts, again.last_error, again.progress_count) == (id, 2, "a worm", 42)
    assert len(value(conn, "select history from queue_job")) == 1


@pytest.mark.parametrize(
    ("setting", "attempts", "expected"),
    [
        (None, 1, "10s"),
        (None, 2, "20s"),
        (None, 3, "40s"),
        (None, 9, "2560s"),
        (None, 12, "20480s"),
        (None, 13, "6h"),
        (None, 1000000, "6h"),
        ("1s", 1, "1s"),
        ("1s", 15, "16384s"),
        ("1s", 16, "6h"),
        ("1ms", 16, "32.768s"),
        ("1ms", 100, "32.768s"),
        ("12h", 1, "12h"),
        ("12h", 7, "12h"),
        ("1y", 90, "1y"),
        ("0", 3, "0"),
    ],
)
def test_the_pause_doubles_up_to_a_limit_and_is_spread(conn, setting, attempts, expected):
    if setting:
        conn.execute("select queue_create('apples', retry_in => %s)", [setting])
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[200]), max_attempts => 2147483647)")
    jobs = lease(conn, count=200)
    conn.execute("update queue_job set attempts = %s", [attempts])
    conn.execute("select queue_error_many('apples', %s, %s)", [[job.id for job in jobs], [job.receipt for job in jobs]])
    query = """
        select extract(epoch from ready_at - (history->-1->>'at')::timestamptz) / extract(epoch from %s::interval)
        from queue_job
    """
    if expected == "0":
        assert column(conn, "select distinct ready_at from queue_job") == [None]
        return
    shares = [float(share) for share in column(conn, query, expected)]
    # A year is counted in days once it is multiplied.
    tolerance = 0.02 if expected == "1y" else 0.0001
    assert 0.5 - tolerance <= min(shares) < 0.6
    assert 1.4 < max(shares) <= 1.5 + tolerance
    assert 0.9 < sum(shares) / 200 < 1.1
    assert len(set(shares)) > 190


@pytest.mark.parametrize("length", ["1 hour", "1 microsecond", "400 days", "0.5s"])
def test_the_pause_of_the_call_is_exact(conn, length):
    conn.execute("select queue_create('apples', retry_in => '3h')")
    put(conn)
    fail(conn, retry_in=f"'{length}'")
    assert value(conn, "select %s = %s::interval", pause(conn), length) is True


@pytest.mark.parametrize("length", ["0", "-1 hour"])
def test_without_a_pause_it_is_back_at_once(conn, length):
    put(conn)
    fail(conn, retry_in=f"'{length}'")
    assert value(conn, "select ready_at from queue_job") is None
    assert lease_one(conn).attempts == 2


@pytest.mark.parametrize("message", ["null", "repeat('é', 3000)", "''", """E'line\\nline "quoted" \\\\ %s'"""])
def test_messages(conn, message):
    put(conn)
    job = lease_one(conn)
    message = message.replace("%", "%%")
    query = f"select queue_error('apples', %s, %s, {message})"
    assert value(conn, query, job.id, job.receipt) is True
    expected = value(conn, f"select right(coalesce({message.replace('%%', '%')}, 'no reason was given'), 2000)")
    assert column(conn, "select last_error from queue_job") == [expected]
    assert column(conn, "select history->0->>'error' from queue_job") == [expected]


def test_the_last_attempt_makes_it_dead(conn):
    id = put(conn, max_attempts=3)
    for n in range(3):
        assert column(conn, "select id from queue_dead_list('apples')") == []
        fail(conn, retry_in="'0'")
        assert stored(conn) == (n < 2)
    dead = row(conn, "select * from queue_dead_list('apples')")
    assert (dead.id, dead.reason, dead.last_error) == (id, "attempt 3 of 3 failed: a worm", "a worm")
    assert [h["attempt"] for h in dead.history] == [1, 2, 3]


def test_five_attempts_without_a_word(conn):
    put(conn)
    for _ in range(5):
        fail(conn, retry_in="'0'")
    assert lease(conn) == []
    assert column(conn, "select attempts from queue_dead_list('apples')") == [5]


def test_buried_at_the_first_attempt(conn):
    put(conn, "[1]")
    fail(conn, bury=True, retry_in="'1h'")
    dead = row(conn, "select * from queue_dead_list('apples')")
    assert (dead.reason, dead.last_error, dead.attempts, dead.data) == ("a worm", "a worm", 1, [1])


def test_a_long_reason_is_cut_as_well(conn):
    put(conn, max_attempts=1)
    job = lease_one(conn)
    conn.execute("select queue_error('apples', %s, %s, repeat('x', 1000000), bury => true)", [job.id, job.receipt])
    assert column(conn, "select length(reason) from queue_dead_list('apples')") == [2000]


def test_of_many_attempts_the_last_fifty_are_kept(conn):
    put(conn, max_attempts=100)
    for n in range(57):
        job = lease_one(conn)
        conn.execute("select queue_error('apples', %s, %s, %s, '0')", [job.id, job.receipt, f"worm {n}"])
    history = value(conn, "select history from queue_job")
    assert [h["attempt"] for h in history] == [*range(8, 58)]
    assert history[-1]["error"] == "worm 56"


# queue_error without a receipt: an attempt in a transaction that was rolled back

BARE = "select queue_error('apples', %s, null, 'a worm')"


def test_an_attempt_that_was_rolled_back_is_counted(database, conn):
    id = put(conn, max_attempts=2)
    one = database.connect(autocommit=False)
    for _ in range(2):
        assert column(one, "select id from queue_get('apples')") == [id]
        one.rollback()
        assert value(one, "select queue_error('apples', %s, null, 'a worm', '0')", id) is True
        one.commit()
    dead = row(conn, "select * from queue_dead_list('apples')")
    assert (dead.id, dead.attempts, dead.reason) == (id, 2, "attempt 2 of 2 failed: a worm")
    assert [(h["attempt"], h["consumer"], h["error"]) for h in dead.history] == [
        (1, None, "a worm"),
        (2, None, "a worm"),
    ]


def test_after_a_rollback_it_waits_like_any_other(conn):
    id = put(conn)
    assert value(conn, BARE, id) is True
    (kept,) = jobs(conn)
    assert (kept.attempts, kept.last_error, kept.receipt) == (1, "a worm", None)
    assert timedelta(seconds=5) <= pause(conn) <= timedelta(seconds=15)


def test_a_lease_that_ran_out_before_is_not_forgotten(database, conn):
    """Attempt 1 was a lease that ran out, attempt 2 a transaction that was rolled back: both are in the history."""
    id = put(conn, max_attempts=2)
    lease_one(conn, consumer="one")
    run_out(conn)
    one = database.connect(autocommit=False)
    assert column(one, "select id from queue_get('apples')") == [id]
    one.rollback()
    assert value(conn, BARE, id) is True
    dead = row(conn, "select * from queue_dead_list('apples')")
    assert [(h["attempt"], h["consumer"], h["error"]) for h in dead.history] == [
        (1, "one", "the lease ran out"),
        (2, None, "a worm"),
    ]
    assert dead.attempts == 2


def test_an_error_of_a_job_that_is_not_there_is_false(conn):
    id = put(conn)
    before = everything(conn)
    assert value(conn, BARE, id + 1) is False
    assert value(conn, BARE, None) is False
    assert value(conn, "select queue_error('pears', %s, null)", id) is False
    assert everything(conn) == before


TAKING = ["queue_get('apples')", "queue_lease('apples')", "queue_cancel('apples', 1)"]


@pytest.mark.parametrize("taking", TAKING)
def test_an_error_of_a_job_that_another_keeps_gives_up(database, conn, taking):
    id = put(conn)
    other = database.connect(autocommit=False)
    other.execute(f"select {taking}")
    before = contents(conn)
    took = value(
        conn,
        """
        with said as materialized (select clock_timestamp() as start, queue_error('apples', %s, null) as answer)
        select case when not answer then extract(epoch from clock_timestamp() - start)::float8 end from said
        """,
        id,
    )
    assert 0.9 < took < 5
    assert contents(conn) == before
    assert value(conn, "select current_setting('lock_timeout')") == "0"


@pytest.mark.parametrize("taking", TAKING)
@pytest.mark.parametrize("commit", [True, False])
def test_an_error_of_a_job_that_another_has_for_a_moment(database, conn, taking, commit):
    id = put(conn)
    other = database.connect(autocommit=False)
    other.execute(f"select {taking}")
    running = Running(database.connect(), BARE, id)
    running.wait_for_lock(conn)
    if commit:
        other.commit()
        assert running.result() is False
    else:
        other.rollback()
        assert running.result() is True
        assert column(conn, "select attempts from queue_job") == [1]


# queue_release


def test_a_released_job_is_back_as_if_it_had_not_been_taken(conn):
    put(conn, priority=3, expected_in="1h", dedupe_key="k")
    before = value(conn, "select to_jsonb(j) from queue_job j")
    job = lease_one(conn, consumer="one")
    assert value(conn, "select queue_release('apples', %s, %s)", job.id, job.receipt) is True
    assert value(conn, "select to_jsonb(j) from queue_job j") == before


def test_a_release_does_not_count_but_the_errors_before_it_do(conn):
    put(conn, max_attempts=2)
    fail(conn, retry_in="'0'")
    for _ in range(5):
        job = lease_one(conn)
        assert (job.attempts, job.last_error) == (2, "a worm")
        assert value(conn, "select queue_release('apples', %s, %s)", job.id, job.receipt) is True
    fail(conn)
    assert stored(conn) == 0


# queue_progress


def test_progress_is_kept(conn):
    put(conn)
    job = lease_one(conn)
    query = "select queue_progress('apples', %s, %s, %s)"
    for given, kept in ((None, None), (70, 70), (None, 70), (0, 0), (-(2**63), -(2**63)), (2**63 - 1, 2**63 - 1)):
        assert value(conn, query, job.id, job.receipt, given) is True
        assert column(conn, "select progress_count from queue_list('apples', true)") == [kept]


def left(conn):
    return value(conn, "select lease_until - clock_timestamp() from queue_job")


def test_progress_extends_the_lease(conn):
    put(conn)
    job = lease_one(conn, lease="1 minute")
    assert value(conn, "select queue_progress('apples', %s, %s)", job.id, job.receipt) is True
    assert 4 * MINUTE < left(conn) <= 5 * MINUTE
    assert value(conn, "select queue_progress('apples', %s, %s, lease => '1 hour')", job.id, job.receipt) is True
    assert 59 * MINUTE < left(conn) <= 60 * MINUTE


def test_progress_never_shortens_the_lease_unasked(conn):
    put(conn)
    job = lease_one(conn, lease="1 hour")
    assert value(conn, "select queue_progress('apples', %s, %s, 1)", job.id, job.receipt) is True
    assert column(conn, "select lease_until from queue_job") == [job.lease_until]


def test_progress_shortens_the_lease_when_asked(conn):
    put(conn)
    job = lease_one(conn, lease="1 hour")
    assert value(conn, "select queue_progress('apples', %s, %s, lease => '1 minute')", job.id, job.receipt) is True
    assert left(conn) <= MINUTE
    assert value(conn, "select lease_until = ready_at from queue_job") is True
    assert value(conn, "select queue_wait('apples')") <= MINUTE
    assert value(conn, "select queue_progress('apples', %s, %s, lease => '1us')", job.id, job.receipt) is True
    assert lease_one(conn).attempts == 2


def test_progress_takes_the_lease_of_the_queue(conn):
    conn.execute("select queue_create('apples', lease_for => '2 hours')")
    put(conn)
    job = lease_one(conn, lease="1 minute")
    assert value(conn, "select queue_progress('apples', %s, %s)", job.id, job.receipt) is True
    assert 119 * MINUTE < left(conn) <= 120 * MINUTE


@pytest.fixture
def beating(conn):
    """A lease whose first end has passed; a heartbeat came in time. Only lease_until tells."""
    put(conn)
    job = lease_one(conn)
    conn.execute("update queue_job set ready_at = clock_timestamp() - interval '1 minute'")
    return job


def test_a_heartbeat_moves_no_indexed_column(conn):
    put(conn)
    job = lease_one(conn, lease="1 minute")
    before = value(conn, "select ready_at from queue_job")
    assert value(conn, "select queue_progress('apples', %s, %s, 1)", job.id, job.receipt) is True
    assert value(conn, "select queue_progress('apples', %s, %s, 2, '1 hour')", job.id, job.receipt) is True
    assert value(conn, "select ready_at from queue_job") == before


@pytest.mark.parametrize("taker", TAKERS)
def test_a_job_with_a_heartbeat_is_given_to_nobody(conn, beating, taker):
    assert take(conn, taker, 9) == []
    put(conn, "2", schedule_in="1us")
    put(conn, "3")
    assert [job.data for job in take(conn, taker, 9)] == [2, 3]
    (kept,) = (job for job in jobs(conn) if job.id == beating.id)
    assert (kept.receipt, kept.lease_until, kept.attempts) == (beating.receipt, beating.lease_until, 1)
    # Takers that commit at once leave it where the next ones don't meet it.
    assert (kept.ready_at == kept.lease_until) is (taker.startswith("lease") or "promoting" in taker)
    assert value(conn, "select queue_complete('apples', %s, %s)", beating.id, beating.receipt) is True


def test_all_who_look_know_of_the_heartbeat(conn, beating):
    assert value(conn, "select queue_count('apples')") == 0
    assert value(conn, "select queue_count('apples', scheduled => true)") == 1
    assert column(conn, "select id from queue_list('apples')") == []
    assert column(conn, "select ready_at from queue_list('apples', scheduled => true)") == [beating.lease_until]
    assert column(conn, "select ready_at from queue_list('apples', scheduled => true, count => 1)") == [
        beating.lease_until
    ]
    assert 3 * MINUTE < value(conn, "select queue_wait('apples')") <= 5 * MINUTE
    assert conn.execute(
        "select ready, scheduled, retrying, leased, oldest_ready_at, next_due_at from queue_stats('apples')"
    ).fetchall() == [(0, 0, 0, 1, None, beating.lease_until)]


def test_all_who_look_know_when_it_ran_out(conn, beating):
    conn.execute("update queue_job set lease_until = clock_timestamp() - interval '1 second'")
    assert value(conn, "select queue_count('apples')") == 1
    assert column(conn, "select id from queue_list('apples')") == [beating.id]
    assert value(conn, "select queue_wait('apples')") is None
    assert conn.execute("select ready, scheduled, retrying, leased from queue_stats('apples')").fetchall() == [
        (1, 0, 0, 0)
    ]


def test_many_heartbeats_do_not_hide_what_comes_behind_them(conn):
    conn.execute("select queue_put_many('apples', array_fill('0'::jsonb, array[450]))")
    assert len(lease(conn, count=450)) == 450
    conn.execute("update queue_job set ready_at = clock_timestamp() - interval '1 minute'")
    put(conn, "1", schedule_in="1us")
    for taker in TAKERS:
        with conn.transaction(force_rollback=True):
            assert [job.data for job in take(conn, taker, 9)] == [1]
    assert value(conn, "select queue_count('apples')") == 1


def test_a_heartbeat_after_the_first_end_moves_it_on(conn, beating):
    assert value(conn, "select queue_progress('apples', %s, %s, lease => '1h')", beating.id, beating.receipt) is True
    assert value(conn, "select ready_at = lease_until from queue_job") is True
    assert 59 * MINUTE < value(conn, "select queue_wait('apples')") <= 60 * MINUTE


@pytest.mark.parametrize("lease", ["null", "'1h'", "'1 minute'"])
def test_a_job_is_never_found_later_than_its_lease_ends(conn, lease):
    """Whatever the heartbeats: ready_at, by which a job is found, is not behind the true end."""
    put(conn)
    job = lease_one(conn, lease="30 minutes")
    for passed in (False, True):
        if passed:
            conn.execute("update queue_job set ready_at = clock_timestamp() - interval '1 minute'")
        query = f"select queue_progress('apples', %s, %s, lease => {lease})"
        assert value(conn, query, job.id, job.receipt) is True
        assert value(conn, "select ready_at <= lease_until from queue_job") is True


def test_a_heartbeat_is_a_hot_update(database, conn):
    put(conn)
    job = lease_one(conn)
    conn.execute("vacuum queue_job")

    def counted():
        conn.execute("select pg_stat_force_next_flush()")
        return conn.execute(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'queue_job'"
        ).fetchone()

    before = counted()
    sizes = "select sum(pg_relation_size(indexrelid)) from pg_index where indrelid = 'queue_job'::regclass"
    indexes = value(conn, sizes)
    for n in range(300):
        assert value(conn, "select queue_progress('apples', %s, %s, %s)", job.id, job.receipt, n) is True
    updated, hot = (after - start for after, start in zip(counted(), before, strict=True))
    assert (updated, hot) == (300, 300)
    assert value(conn, sizes) == indexes
    assert value(conn, "select pg_relation_size('queue_job')") == 8192


# Many at once


def leased(conn, number):
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[%s]))", [number])
    jobs = lease(conn, count=number)
    return [job.id for job in jobs], [job.receipt for job in jobs]


@pytest.mark.parametrize("verb", ["complete", "error", "release", "progress"])
def test_the_answers_come_in_the_order_given(conn, verb):
    ids, receipts = leased(conn, 6)
    ids = [ids[4], ids[0], 0, ids[2], None, ids[1]]
    receipts = [receipts[4], NOBODYS, receipts[0], receipts[2], receipts[3], None]
    query = f"select id, done from queue_{verb}_many('apples', %s::bigint[], %s::uuid[])"
    assert conn.execute(query, [ids, receipts]).fetchall() == list(
        zip(ids, [True, False, False, True, False, False], strict=True)
    )


@pytest.mark.parametrize(
    ("verb", "second"), [("complete", False), ("error", False), ("release", False), ("progress", True)]
)
def test_the_same_id_twice_counts_once(conn, verb, second):
    (id,), (receipt,) = leased(conn, 1)
    query = f"select done from queue_{verb}_many('apples', %s::bigint[], %s::uuid[])"
    answers = column(conn, query, [id, id, id], [receipt, NOBODYS, receipt])
    assert answers == [True, False, second]


def test_each_job_gets_its_own_message(conn):
    ids, receipts = leased(conn, 3)
    ids.reverse()
    conn.execute("select queue_error_many('apples', %s, %s, '{a, null, c}', retry_in => '1h')", [ids, receipts])
    assert column(conn, "select last_error from queue_job order by id desc") == ["a", "no reason was given", "c"]
    assert column(conn, "select distinct ready_at - (history->0->>'at')::timestamptz from queue_job") == [
        timedelta(hours=1)
    ]


@pytest.mark.parametrize("messages", ["[5:8]={a, b, c, d}", "{{a, b}, {c, d}}"])
def test_messages_in_an_array_of_any_shape_are_in_its_order(conn, messages):
    ids, receipts = leased(conn, 4)
    query = "select done from queue_error_many('apples', %s, %s, %s)"
    assert column(conn, query, ids, receipts, messages) == [True] * 4
    assert column(conn, "select last_error from queue_job order by id") == ["a", "b", "c", "d"]


def test_many_are_buried_at_once(conn):
    ids, receipts = leased(conn, 3)
    query = "select done from queue_error_many('apples', %s, %s, '{a, b, c}', bury => true)"
    assert column(conn, query, ids, receipts) == [True] * 3
    assert column(conn, "select reason from queue_dead_list('apples')") == ["a", "b", "c"]


def test_progress_many_extends_each_lease(conn):
    ids, receipts = leased(conn, 3)
    query = "select done from queue_progress_many('apples', %s, %s, lease => '2h')"
    assert column(conn, query, ids, receipts) == [True] * 3
    assert value(conn, "select min(lease_until) > now() + interval '119 minutes' from queue_job") is True


@pytest.mark.parametrize("holding", ["queue_progress", "queue_complete", "queue_error"])
@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_progress_many_passes_over_what_others_have_locked(conn, database, holding, ends):
    ids, receipts = leased(conn, 3)
    holder = database.connect(autocommit=False)
    value(holder, f"select {holding}('apples', %s, %s)", ids[1], receipts[1])
    # It would fail instead of waiting.
    conn.execute("set lock_timeout = 1")
    query = "select done from queue_progress_many('apples', %s, %s, lease => '2h')"
    assert column(conn, query, ids, receipts) == [True, None, True]
    # That of somebody else is not good, whoever has the job.
    assert column(conn, query, ids, [receipts[0], NOBODYS, receipts[2]]) == [True, False, True]
    getattr(holder, ends)()
    assert column(conn, query, ids, receipts) == [True, ends == "rollback" or holding == "queue_progress", True]


def test_progress_many_calls_lost_a_lease_that_ran_out_whoever_has_locked_the_job(conn, database):
    (id,), (receipt,) = leased(conn, 1)
    run_out(conn)
    holder = database.connect(autocommit=False)
    holder.execute("select from queue_job for update")
    assert value(conn, "select done from queue_progress_many('apples', %s, %s)", [id], [receipt]) is False
    holder.rollback()


@pytest.mark.parametrize("receipt", [NOBODYS, None])
def test_progress_many_refuses_a_lease_that_is_none_whatever_the_receipt(conn, receipt):
    query = "select done from queue_progress_many('apples', '{1}', array[%s]::uuid[], lease => '0')"
    refused(conn, "22023", query, receipt, hint=True)


@pytest.mark.parametrize("verb", ["complete", "error", "release", "progress"])
@pytest.mark.parametrize(
    ("ids", "receipts"),
    [("{1, 2}", f"{{{NOBODYS}}}"), ("{1}", "{}"), ("{}", f"{{{NOBODYS}}}"), ("{1}", None), (None, "{}"), (None, None)],
)
def test_arrays_of_different_lengths_are_refused(conn, verb, ids, receipts):
    query = f"select * from queue_{verb}_many('apples', %s::bigint[], %s::uuid[])"
    refused(conn, "2202E", query, ids, receipts, hint=True)


@pytest.mark.parametrize("messages", ["{}", "{a, b}"])
def test_messages_of_another_number_are_refused(conn, messages):
    ids, receipts = leased(conn, 1)
    refused(conn, "2202E", "select queue_error_many('apples', %s, %s, %s)", ids, receipts, messages, hint=True)
    assert column(conn, "select done from queue_error_many('apples', %s, %s, null)", ids, receipts) == [True]


@pytest.mark.parametrize("verb", ["complete", "error", "release", "progress"])
def test_many_of_none_give_nothing(conn, verb):
    assert rows(conn, f"select * from queue_{verb}_many('apples', '{{}}', '{{}}')") == []

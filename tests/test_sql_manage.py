"""Looking at queues and changing them: update, cancel, list, count, clear, create, drop, stats, version."""

from datetime import timedelta

import pytest
from sql_sessions import Running, column, refused, stored, value


def put(conn, data="1", queue="apples", **options):
    given = "".join(f", {name} => '{value}'" for name, value in options.items())
    return value(conn, f"select queue_put('{queue}', '{data}'{given})")


# update


def test_update_replaces_the_data_and_nothing_else(conn):
    id = put(conn, priority=3, dedupe_key="k", headers="{}", max_attempts=2, schedule_in="1h", expected_in="2h")
    everything = "select to_jsonb(j) - 'data' - 'data_text' - 'data_bytes' from queue_job j"
    before = value(conn, everything)
    assert value(conn, "select queue_update('apples', %s, '[2]')", id) is True
    assert column(conn, "select data from queue_list('apples', true)") == [[2]]
    assert value(conn, everything) == before


def test_update_may_change_the_kind_of_data(conn):
    id = put(conn)
    kinds = "select data, data_text, data_bytes from queue_list('apples')"
    conn.execute("select queue_update('apples', %s, data_text => 't')", [id])
    assert conn.execute(kinds).fetchall() == [(None, "t", None)]
    conn.execute("select queue_update('apples', %s, data_bytes => 'b')", [id])
    assert conn.execute(kinds).fetchall() == [(None, None, b"b")]
    conn.execute("select queue_update('apples', %s)", [id])
    assert conn.execute(kinds.replace("data,", "data::text,")).fetchall() == [("null", None, None)]


def test_update_of_a_job_that_is_not_there_is_false(conn):
    id = put(conn)
    for queue, number in (("apples", id + 1), ("pears", id), ("apples", None)):
        assert value(conn, "select queue_update(%s, %s, '2')", queue, number) is False
    assert column(conn, "select data from queue_list('apples')") == [1]


@pytest.mark.parametrize(
    ("sqlstate", "arguments", "ours"),
    [("22023", "'2', data_text => 't'", True), ("22P02", "'x'", False), ("22P05", """'"\\u0000"'""", False)],
)
def test_a_refused_update_changes_nothing(conn, sqlstate, arguments, ours):
    id = put(conn)
    refused(conn, sqlstate, f"select queue_update('apples', {id}, {arguments})", hint=ours)
    assert column(conn, "select data from queue_list('apples')") == [1]


@pytest.mark.parametrize("call", ["queue_update('apples', %s, '2')", "queue_cancel('apples', %s)"])
def test_a_job_being_taken_is_neither_changed_nor_waited_for(database, conn, call):
    one = database.connect(autocommit=False)
    id = put(conn)
    one.execute("select queue_get('apples')")
    assert value(conn, f"select {call}", id) is False
    one.rollback()
    assert value(conn, f"select {call}", id) is True


# cancel


def test_cancel_removes_the_job_once(conn):
    id, other = put(conn), put(conn, "2", schedule_in="1h")
    assert value(conn, "select queue_cancel('pears', %s)", id) is False
    assert value(conn, "select queue_cancel('apples', %s)", id) is True
    assert value(conn, "select queue_cancel('apples', %s)", id) is False
    assert value(conn, "select queue_cancel('apples', null)") is False
    assert column(conn, "select id from queue_list('apples', true)") == [other]
    assert value(conn, "select queue_cancel('apples', %s)", other) is True


def test_a_rolled_back_cancel_keeps_the_job(conn):
    id = put(conn)
    with conn.transaction(force_rollback=True):
        assert value(conn, "select queue_cancel('apples', %s)", id) is True
    assert column(conn, "select id from queue_list('apples')") == [id]


# list


def test_list_shows_jobs_and_takes_none(conn):
    id = put(conn, headers='{"a": 1}', priority=2, dedupe_key="k")
    query = "select id, data, headers, priority, dedupe_key, attempts, ready_at, expected_at from queue_list('apples')"
    assert (
        conn.execute(query).fetchall() == conn.execute(query).fetchall() == [(id, 1, {"a": 1}, 2, "k", 0, None, None)]
    )


def test_list_gives_waiting_jobs_last_and_those_due_first(conn):
    put(conn, "3", schedule_in="2h", priority=9)
    put(conn, "2", schedule_in="1h")
    put(conn, "1")
    put(conn, "0", schedule_in="1us", priority=1)
    assert column(conn, "select data from queue_list('apples')") == [0, 1]
    assert column(conn, "select data from queue_list('apples', scheduled => true)") == [0, 1, 2, 3]
    assert column(conn, "select data from queue_list('apples', scheduled => true, count => 3)") == [0, 1, 2]


def test_list_refuses_a_count_below_one(conn):
    refused(conn, "22023", "select queue_list('apples', count => 0)", hint=True)


def test_list_and_count_see_a_job_that_is_being_taken(database, conn):
    one = database.connect(autocommit=False)
    id = put(conn)
    one.execute("select queue_get('apples')")
    assert column(conn, "select id from queue_list('apples')") == [id]
    assert value(conn, "select queue_count('apples')") == 1


# count


def test_count_leaves_out_what_waits(conn):
    put(conn)
    put(conn, schedule_in="1us")
    put(conn, schedule_in="1h")
    put(conn, queue="pears")
    assert value(conn, "select queue_count('apples')") == 2
    assert value(conn, "select queue_count('apples', scheduled => true)") == 3
    assert value(conn, "select queue_count('plums')") == 0


# clear and drop


def test_clear_removes_ready_due_and_scheduled_jobs_of_the_queue(conn):
    put(conn)
    put(conn, schedule_in="1ms")
    put(conn, schedule_in="1h")
    put(conn, queue="pears")
    conn.execute("select queue_create('apples')")
    assert value(conn, "select queue_clear('apples')") == 3
    assert value(conn, "select queue_clear('apples')") == 0
    assert column(conn, "select name from queue_stats()") == ["apples", "pears"]
    assert value(conn, "select queue_count('pears')") == 1


def test_clear_takes_many_steps(conn):
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[3500]))")
    conn.execute("select queue_put_many('pears', array_fill('1'::jsonb, array[10]))")
    assert value(conn, "select queue_clear('apples')") == 3500
    assert stored(conn) == 10


def test_clear_removes_jobs_with_ids_that_no_sequence_gave(conn):
    conn.execute("select queue_bury('apples', -5, 'rotten')")
    assert value(conn, "select queue_redrive('apples')") == 1
    assert value(conn, "select queue_clear('apples')") == 1


def test_clear_leaves_what_is_being_taken(database, conn):
    one = database.connect(autocommit=False)
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[3000]))")
    assert len(column(one, "select id from queue_get('apples', 1500)")) == 1500
    assert value(conn, "select queue_clear('apples')") == 1500
    one.rollback()
    assert value(conn, "select queue_count('apples')") == 1500


def test_drop_removes_all_of_the_queue(conn):
    put(conn)
    put(conn, queue="pears")
    conn.execute("select queue_create('apples')")
    conn.execute("insert into queue_dead (queue, id, died_at, reason) values ('apples', 1, now(), 'test')")
    assert value(conn, "select queue_drop('apples')") is True
    assert value(conn, "select queue_drop('apples')") is False
    assert column(conn, "select name from queue_stats()") == ["pears"]
    put(conn)
    assert value(conn, "select queue_count('apples')") == 1


@pytest.mark.parametrize("commit", [True, False])
def test_drop_waits_for_takers(database, conn, commit):
    one = database.connect(autocommit=False)
    put(conn)
    one.execute("select queue_get('apples')")
    running = Running(database.connect(), "select queue_drop('apples')")
    running.wait_for_lock(conn)
    if commit:
        one.commit()
    else:
        one.rollback()
    assert running.result() is True
    assert stored(conn) == 0
    assert column(conn, "select name from queue_stats()") == []


# create


def test_create_makes_the_queue_known_once(conn):
    assert value(conn, "select queue_create('apples')") is True
    assert value(conn, "select queue_create('apples')") is False
    assert column(conn, "select name from queue_stats()") == ["apples"]


def test_create_changes_nothing_of_a_paused_queue(conn):
    conn.execute("select queue_pause('apples')")
    assert value(conn, "select queue_create('apples')") is False
    assert value(conn, "select paused from queue_stats('apples')") is True


# stats


def test_stats_counts_by_condition(conn):
    put(conn)
    put(conn, schedule_in="1h")
    put(conn, schedule_in="2h")
    put(conn, schedule_in="1us")
    put(conn, queue="pears")
    row = conn.execute(
        """
        select name, ready, scheduled, retrying, leased, dead, paused, clock_timestamp() - oldest_ready_at,
            next_due_at - clock_timestamp()
        from queue_stats('apples')
        """
    ).fetchone()
    assert row[:7] == ("apples", 2, 2, 0, 0, 0, False)
    assert timedelta(0) < row[7] < timedelta(minutes=1)
    assert timedelta(minutes=59) < row[8] <= timedelta(hours=1)


def test_stats_of_all_queues(conn):
    put(conn, queue="pears")
    conn.execute("select queue_pause('apples')")
    conn.execute("insert into queue_dead (queue, id, died_at, reason) values ('plums', 1, now(), 'test')")
    assert conn.execute("select name, ready, dead, paused from queue_stats()").fetchall() == [
        ("apples", 0, 0, True),
        ("pears", 1, 0, False),
        ("plums", 0, 1, False),
    ]


def test_stats_of_an_unknown_queue_is_a_row_of_zeros(conn):
    assert conn.execute("select * from queue_stats('apples')").fetchall() == [
        ("apples", 0, 0, 0, 0, 0, False, None, None, True, 0, 0, 0, 0, 0)
    ]


def test_oldest_ready_is_since_it_could_be_taken(conn):
    put(conn, schedule_in="1us")
    assert value(conn, "select oldest_ready_at = schedule_at from queue_stats('apples'), queue_list('apples')")


# bury


def test_bury_keeps_the_job_with_its_reason(conn):
    put(conn, "[1]")
    with conn.transaction():
        id, data = conn.execute("select id, data::text from queue_get('apples')").fetchone()
        conn.execute("select queue_bury('apples', %s, 'unreadable', data => %s)", [id, data])
        conn.execute("select queue_bury('apples', %s, 'a second time')", [id])
    assert conn.execute("select id, reason, data from queue_dead").fetchall() == [(id, "unreadable", [1])]
    assert conn.execute("select ready, dead from queue_stats('apples')").fetchall() == [(0, 1)]


def test_bury_needs_a_reason(conn):
    refused(conn, "23502", "select queue_bury('apples', 1, null)")


# version


def test_version_is_four_digits(conn):
    assert value(conn, "select queue_version() ~ '^[0-9]{4}$'")

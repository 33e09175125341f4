"""schedule_at and schedule_in, expected_at and expected_in: times, and jobs that come due."""

import pytest
from sql_sessions import column, refused, stored, value

GET = "select data from queue_get('apples', 99)"


def test_a_scheduled_job_waits_for_its_time(conn):
    conn.execute("select queue_put('apples', '1', schedule_in => '1h')")
    conn.execute("select queue_put('apples', '2', schedule_at => clock_timestamp() + interval '1h')")
    assert column(conn, GET) == []
    assert column(conn, "select data from queue_get('apples', 99, promote => true)") == []
    assert value(conn, "select queue_count('apples', scheduled => true)") == 2


@pytest.mark.parametrize("promote", [False, True])
def test_a_due_job_is_taken(conn, promote):
    conn.execute("select queue_put('apples', '1', schedule_in => '1us')")
    assert column(conn, "select data from queue_get('apples', promote => %s)", promote) == [1]
    assert stored(conn) == 0


def test_due_is_judged_by_the_clock_not_by_the_start_of_the_transaction(conn):
    with conn.transaction():
        conn.execute("select queue_put('apples', '1', schedule_in => '1us')")
        assert column(conn, GET) == [1]


@pytest.mark.parametrize(
    "time",
    [
        "schedule_at => '1970-01-01'",
        "schedule_at => '4713-01-01 BC'",
        "schedule_in => '-5 years'",
        "schedule_in => '0'",
    ],
)
def test_a_time_that_has_passed_means_now(conn, time):
    conn.execute(f"select queue_put('apples', '1', {time})")
    assert value(conn, "select ready_at from queue_job") is None
    assert column(conn, GET) == [1]


def test_schedule_in_counts_from_now(conn):
    conn.execute("select queue_put('apples', schedule_in => '1d 2h', expected_in => '3d')")
    assert value(
        conn,
        """
        select schedule_at - enqueued_at = '1d 2h' and expected_at - enqueued_at = '3d' and ready_at = schedule_at
        from queue_list('apples', scheduled => true)
        """,
    )


@pytest.mark.parametrize("promote", [False, True])
def test_an_open_transaction_hides_only_the_jobs_it_took(database, conn, promote):
    one = database.connect(autocommit=False)
    conn.execute("select queue_put_many('apples', array['1', '2', '3']::jsonb[], schedule_in => '1us')")
    conn.execute("select queue_put_many('apples', array['4', '5']::jsonb[])")
    assert column(one, "select data from queue_get('apples', 2)") == [1, 2]
    assert column(conn, "select data from queue_get('apples', 99, promote => %s)", promote) == [3, 4, 5]
    one.rollback()
    assert column(conn, GET) == [1, 2]


def test_of_very_many_due_jobs_all_come_out(conn):
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[700]), schedule_in => '1us')")
    assert len(column(conn, "select data from queue_get('apples', 300)")) == 300
    assert len(column(conn, "select data from queue_get('apples', 300, promote => true)")) == 300
    assert len(column(conn, "select data from queue_get('apples', 300)")) == 100


@pytest.mark.parametrize("name", ["schedule", "expected"])
@pytest.mark.parametrize(
    ("sqlstate", "given", "ours"),
    [
        ("22008", "{}_at => 'infinity'", True),
        ("22008", "{}_at => '-infinity'", True),
        ("22008", "{}_in => '300000 years'", True),
        ("22008", "{}_in => '-300000 years'", True),
        ("22008", "{}_in => '170000000 years'", True),
        ("22008", "{}_at => '10000-01-01 00:00+00'", True),
        ("22008", "{}_at => to_timestamp(1790000000000)", True),
        ("22008", "{}_at => '300000-01-01'", False),
        ("22007", "{}_at => 'xyz'", False),
        ("22007", "{}_in => 'xyz'", False),
        ("22007", "{}_in => 'NaN'", False),
        ("22023", "{0}_at => now(), {0}_in => '1s'", True),
    ],
)
@pytest.mark.parametrize("put", ["queue_put('apples', '1', ", "queue_put_many('apples', array['1']::jsonb[], "])
def test_an_impossible_time_stores_nothing(conn, name, sqlstate, given, ours, put):
    refused(conn, sqlstate, f"select {put}{given.format(name)})", hint=ours)
    assert stored(conn) == 0


def test_an_infinite_interval_is_refused(conn):
    # 22007 where intervals can't be infinite (before PostgreSQL 17), else 22008.
    sqlstate = "22008" if conn.info.server_version >= 170000 else "22007"
    refused(conn, sqlstate, "select queue_put('apples', '1', schedule_in => 'infinity')")
    assert stored(conn) == 0

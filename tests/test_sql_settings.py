"""Settings of a queue: their defaults, setting and resetting them, and the limits of what can be put."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sql_leases import contents, lease, lease_one, put, row, run_out
from sql_sessions import Running, column, refused, stored, value

MINUTE = timedelta(minutes=1)
DEFAULTS = {
    "paused": False,
    "max_attempts": 5,
    "lease_for": timedelta(minutes=5),
    "retry_in": timedelta(seconds=10),
    "max_depth": None,
    "max_bytes": None,
    "keep_dead_for": None,
}
# A value for each that is not its default, and one of the least and the most that are allowed.
SET = {
    "max_attempts": (2, 1, 2**31 - 1),
    "lease_for": (timedelta(hours=1), timedelta(microseconds=1), timedelta(days=3600)),
    "retry_in": (timedelta(minutes=1), timedelta(0), timedelta(days=360)),
    "max_depth": (10, 1, 2**63 - 1),
    "max_bytes": (1000, 1, 2**31 - 1),
    "keep_dead_for": (timedelta(days=30), timedelta(0), timedelta(days=360000)),
}


def settings(conn, queue="apples"):
    return row(conn, "select * from queue_settings(%s)", queue)._asdict()


def create(conn, queue="apples", **options):
    given = "".join(f", {name} => '{to}'" for name, to in options.items())
    return value(conn, f"select queue_create(%s{given})", queue)


# queue_create and queue_settings


@pytest.mark.parametrize("known", [None, "queue_create('apples')", "queue_put('apples')"])
def test_the_defaults(conn, known):
    if known:
        conn.execute(f"select {known}")
    assert settings(conn) == DEFAULTS
    assert value(conn, "select count(*) from queue_setting") == (known == "queue_create('apples')")


def test_a_paused_queue_says_so(conn):
    conn.execute("select queue_pause('apples')")
    assert settings(conn) == {**DEFAULTS, "paused": True}
    assert create(conn, max_attempts=2) is False
    assert settings(conn) == {**DEFAULTS, "paused": True, "max_attempts": 2}
    conn.execute("select queue_resume('apples')")
    assert settings(conn) == {**DEFAULTS, "max_attempts": 2}


@pytest.mark.parametrize("name", SET)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_is_set_alone(conn, name, which):
    assert create(conn, **{name: SET[name][which]}) is True
    assert settings(conn) == {**DEFAULTS, name: SET[name][which]}
    assert settings(conn, "pears") == DEFAULTS


@pytest.mark.parametrize("name", SET)
def test_each_is_reset_alone(conn, name):
    full = {other: to[0] for other, to in SET.items()}
    assert create(conn, **full) is True
    assert settings(conn) == {"paused": False, **full}
    assert create(conn, reset=f"{{{name}}}") is False
    assert settings(conn) == {"paused": False, **full, name: DEFAULTS[name]}


def test_each_is_changed_alone(conn):
    now = {name: to[0] for name, to in SET.items()}
    create(conn, **now)
    for name, to in SET.items():
        now[name] = to[1]
        assert create(conn, **{name: to[1]}) is False
        assert settings(conn) == {"paused": False, **now}
    assert create(conn) is False
    assert settings(conn) == {"paused": False, **now}


def test_all_are_reset_at_once(conn):
    create(conn, **{name: to[0] for name, to in SET.items()})
    create(conn, reset=f"{{{','.join(SET)}}}")
    assert settings(conn) == DEFAULTS


def test_set_and_reset_in_one_call(conn):
    create(conn, max_attempts=2, max_depth=10)
    create(conn, max_attempts=3, reset="{max_attempts, max_depth}")
    assert settings(conn) == {**DEFAULTS, "max_attempts": 3}


@pytest.mark.parametrize("arguments", ["", ", max_attempts => 3", ", max_attempts => null"])
def test_a_reset_of_null_resets_nothing(conn, arguments):
    create(conn, max_attempts=3, max_depth=10, max_bytes=20, retry_in="1h")
    before = settings(conn)
    assert value(conn, f"select queue_create('apples', reset => null{arguments})") is False
    assert settings(conn) == before


WRONG = [
    "max_attempts => 0",
    "max_attempts => -1",
    "lease_for => '0'",
    "lease_for => '-1s'",
    "lease_for => '11 years'",
    "retry_in => '-1us'",
    "retry_in => '13 months'",
    "max_depth => 0",
    "max_depth => -9223372036854775808",
    "max_bytes => 0",
    "max_bytes => -1",
    "keep_dead_for => '-1s'",
    "keep_dead_for => '1001 years'",
    "reset => '{paused}'",
    "reset => '{max_attempts, NULL}'",
    "reset => '{Max_attempts}'",
    "reset => array['']",
]


@pytest.mark.parametrize("wrong", [pytest.param(text, id=text) for text in WRONG])
@pytest.mark.parametrize("known", [False, True])
def test_what_is_out_of_range_changes_nothing(conn, wrong, known):
    if known:
        create(conn, **{name: to[0] for name, to in SET.items()})
    before = contents(conn)
    refused(conn, "22023", f"select queue_create('apples', {wrong})", hint=True)
    refused(conn, "22023", f"select queue_create('apples', {wrong}{'' if 'max_b' in wrong else ', max_bytes => 1'})")
    assert contents(conn) == before


@pytest.mark.since(17)
@pytest.mark.parametrize("name", ["lease_for", "retry_in", "keep_dead_for"])
@pytest.mark.parametrize("length", ["infinity", "-infinity"])
def test_an_endless_setting_is_refused(version, conn, name, length):
    refused(conn, "22023", f"select queue_create('apples', {name} => '{length}')", hint=True)


def test_the_range_is_named(conn):
    error = refused(conn, "22023", "select queue_create('apples', max_depth => 0)")
    assert "max_depth" in str(error)


def test_two_create_the_same_queue_at_once(database, conn):
    one, session = database.connect(autocommit=False), database.connect()
    assert create(one, max_attempts=2) is True
    running = Running(session, "select queue_create('apples', max_depth => 7)")
    running.wait_for_lock(conn)
    one.commit()
    assert running.result() is False
    assert settings(conn) == {**DEFAULTS, "max_attempts": 2, "max_depth": 7}


def test_drop_forgets_the_settings(conn):
    create(conn, max_attempts=2)
    conn.execute("select queue_drop('apples')")
    assert settings(conn) == DEFAULTS


def test_clear_keeps_the_settings(conn):
    create(conn, max_attempts=2)
    conn.execute("select queue_clear('apples')")
    assert settings(conn)["max_attempts"] == 2


# They hold for jobs that are there already


def test_max_attempts_of_the_queue_hold_for_jobs_that_are_leased(conn):
    put(conn)
    put(conn, "2", max_attempts=4)
    found = lease(conn, count=2)
    create(conn, max_attempts=1)
    for job in found:
        conn.execute("select queue_error('apples', %s, %s)", [job.id, job.receipt])
    assert column(conn, "select data from queue_dead_list('apples')") == [1]
    # What the job says counts before what the queue says, and the queue before the default.
    create(conn, max_attempts=9, reset="{retry_in}")
    put(conn)
    for _ in range(6):
        run_out(conn)
        lease(conn, count=9)
    assert sorted(column(conn, "select data from queue_dead_list('apples')")) == [1, 2]
    assert value(conn, "select attempts from queue_job") == 6


def test_the_lease_of_the_queue_holds_for_the_next_lease(conn):
    put(conn)
    put(conn)
    first = lease_one(conn)
    create(conn, lease_for="1 hour")
    second = lease_one(conn)
    assert 59 * MINUTE < value(conn, "select %s - clock_timestamp()", second.lease_until) <= 60 * MINUTE
    assert value(conn, "select %s - clock_timestamp()", first.lease_until) <= 5 * MINUTE
    assert value(conn, "select queue_progress('apples', %s, %s)", first.id, first.receipt) is True
    assert value(conn, "select min(lease_until) - clock_timestamp() > interval '59 minutes' from queue_job") is True
    run_out(conn)
    third = lease_one(conn, lease="1 minute")
    assert value(conn, "select %s - clock_timestamp()", third.lease_until) <= MINUTE


# max_depth

KINDS = {
    "ready": {},
    "scheduled": {"schedule_in": "1h"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_queue_takes_no_more(conn, kind):
    create(conn, max_depth=3)
    for _ in range(3):
        put(conn, **KINDS[kind])
    error = refused(conn, "QU001", "select queue_put('apples', '\"secret\"')", hint=True)
    assert "apples" in str(error)
    assert "3" in str(error)
    assert "secret" not in str(error)
    assert stored(conn) == 3
    put(conn, queue="pears")


def test_the_leased_count_and_the_dead_do_not(conn):
    create(conn, max_depth=2)
    put(conn)
    put(conn)
    one, two = lease(conn, count=2)
    refused(conn, "QU001", "select queue_put('apples')")
    conn.execute("select queue_error('apples', %s, %s, bury => true)", [one.id, one.receipt])
    put(conn)
    refused(conn, "QU001", "select queue_put('apples')")
    conn.execute("select queue_complete('apples', %s, %s)", [two.id, two.receipt])
    put(conn)
    refused(conn, "QU001", "select queue_put('apples')")
    conn.execute("select queue_get('apples')")
    put(conn)


@pytest.mark.parametrize(("number", "fits"), [(1, True), (2, True), (3, False), (1000, False)])
@pytest.mark.parametrize("keyed", [False, True])
def test_a_batch_fits_whole_or_not_at_all(conn, number, fits, keyed):
    create(conn, max_depth=3)
    put(conn)
    keys = ", dedupe_keys => array(select i::text from generate_series(1, %(number)s) i)" if keyed else ""
    query = f"select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[%(number)s]){keys})"
    query = query.replace("%(number)s", str(number))
    if fits:
        assert value(conn, query) == number
    else:
        error = refused(conn, "QU001", query, hint=True)
        assert str(number) in str(error)
    assert stored(conn) == 1 + number * fits


def test_an_empty_batch_fits_into_a_full_queue(conn):
    create(conn, max_depth=1)
    put(conn)
    assert column(conn, "select id from queue_put_many('apples', '{}'::jsonb[])") == []


def test_keys_that_are_there_need_no_room(conn):
    create(conn, max_depth=3)
    ids = [put(conn, dedupe_key=key) for key in ("a", "b", "c")]
    assert put(conn, '"again"', dedupe_key="b") == ids[1]
    query = """
        select id, is_new from queue_put_many('apples', array_fill('1'::jsonb, array[4]), dedupe_keys => %s)
    """
    assert conn.execute(query, [["c", "a", "c", "b"]]).fetchall() == [(ids[n], False) for n in (2, 0, 2, 1)]
    refused(conn, "QU001", query, ["c", "a", "d", "b"])
    refused(conn, "QU001", query, ["c", "a", None, "b"])
    conn.execute("select queue_cancel('apples', %s)", [ids[0]])
    # One key that is new, twice.
    found = conn.execute(query, [["c", "d", "d", "b"]]).fetchall()
    assert [is_new for _, is_new in found] == [False, True, False, False]
    assert found[1][0] == found[2][0]
    assert stored(conn) == 3
    assert column(conn, "select data from queue_list('apples') where dedupe_key = 'b'") == [1]


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("commit", [True, False])
def test_with_limits_a_put_waits_for_the_taker_of_its_key(database, conn, batch, commit):
    """The job with the key is on its way out: its id would be that of no job."""
    create(conn, max_depth=1, max_bytes=100)
    id = put(conn, dedupe_key="k")
    one, session = database.connect(autocommit=False), database.connect()
    assert column(one, "select id from queue_get('apples')") == [id]
    again = "select queue_put('apples', '2', dedupe_key => 'k')"
    if batch:
        again = "select id from queue_put_many('apples', array['2']::jsonb[], dedupe_keys => '{k}')"
    running = Running(session, again)
    running.wait_for_lock(conn)
    if commit:
        one.commit()
        assert running.result() > id
        assert column(conn, "select data from queue_list('apples')") == [2]
    else:
        one.rollback()
        assert running.result() == id
        assert column(conn, "select data from queue_list('apples')") == [1]


def test_a_limit_below_what_is_there_only_stops_puts(conn):
    for _ in range(5):
        put(conn)
    create(conn, max_depth=2)
    refused(conn, "QU001", "select queue_put('apples')")
    assert len(column(conn, "select id from queue_get('apples', 3)")) == 3
    refused(conn, "QU001", "select queue_put('apples')")
    conn.execute("select queue_get('apples')")
    put(conn)
    create(conn, reset="{max_depth}")
    put(conn)


def test_a_limit_too_large_to_reach(conn):
    create(conn, max_depth=2**63 - 1)
    put(conn)
    assert value(conn, "select count(*) from queue_put_many('apples', array['1', '2']::jsonb[])") == 2


def test_a_redrive_goes_beyond_the_limit(conn):
    put(conn)
    job = lease_one(conn)
    conn.execute("select queue_error('apples', %s, %s, bury => true)", [job.id, job.receipt])
    create(conn, max_depth=1)
    put(conn)
    assert value(conn, "select queue_redrive('apples')") == 1
    assert stored(conn) == 2


def test_a_full_queue_wakes_nobody_and_burns_nothing(database, conn):
    create(conn, max_depth=1)
    put(conn)
    listener = database.connect()
    listener.execute("select queue_listen('apples')")
    refused(conn, "QU001", "select queue_put('apples')")
    conn.execute("select pg_notify(queue_channel('apples'), 'the end')")
    assert [n.payload for n in listener.notifies(timeout=10, stop_after=1)] == ["the end"]


# max_bytes

# Of JSON counts what it is as text: {"a": "é"} has 11 bytes.
EXACT = [
    ("data", '\'{"a":"é"}\'', 11),
    ("data", "null", 4),
    ("data_text", "'éé'", 4),
    ("data_text", "repeat('secret', 10000)", 60000),
    ("data_bytes", r"'\x000102'", 3),
    ("data_bytes", "convert_to(repeat('secret', 1000), 'utf8')", 6000),
]


@pytest.mark.parametrize(("kind", "data", "size"), EXACT)
def test_data_may_be_as_large_as_the_limit_and_no_larger(conn, kind, data, size):
    types = {"data": "jsonb", "data_text": "text", "data_bytes": "bytea"}
    calls = [
        f"queue_put('apples', {kind} => {data})",
        f"queue_put_many('apples', {kind} => array[{data}]::{types[kind]}[])",
        f"queue_put_many('apples', {kind} => array[{data}]::{types[kind]}[], dedupe_keys => '{{k}}')",
    ]
    for call in calls:
        create(conn, max_bytes=size)
        conn.execute(f"select {call}")
        conn.execute("select queue_clear('apples')")
        if size == 1:
            continue
        create(conn, max_bytes=size - 1)
        error = refused(conn, "QU002", f"select {call}", hint=True)
        assert str(size) in str(error)
        assert str(size - 1) in str(error)
        assert "secret" not in f"{error} {error.diag.message_detail} {error.diag.context}"
        assert stored(conn) == 0


def test_of_a_batch_the_largest_counts(conn):
    create(conn, max_bytes=4)
    conn.execute("select queue_put_many('apples', array['1', '1234', '12']::jsonb[])")
    refused(conn, "QU002", "select queue_put_many('apples', array['1', '12345', '12']::jsonb[])", hint=True)
    refused(conn, "QU002", "select queue_put_many('apples', data_text => '{a, abcde}')", hint=True)
    assert stored(conn) == 3


@pytest.mark.parametrize("receipt", [False, True])
def test_an_update_keeps_the_limit(conn, receipt):
    create(conn, max_bytes=4)
    id = put(conn)
    job = lease_one(conn)
    given = f", receipt => '{job.receipt}'" if receipt else ""
    for data in ("'12345'", "data_text => 'abcde'", r"data_bytes => '\x0001020304'"):
        refused(conn, "QU002", f"select queue_update('apples', {id}, {data}{given})", hint=True)
    assert value(conn, f"select queue_update('apples', {id}, '1234'{given})") is True
    assert column(conn, "select data from queue_list('apples', true)") == [1234]


def test_an_update_is_no_put_into_a_full_queue(conn):
    id = put(conn)
    put(conn)
    create(conn, max_depth=1, max_bytes=4)
    assert value(conn, f"select queue_update('apples', {id}, '1234')") is True


def test_a_limit_of_another_queue_does_not_matter(conn):
    create(conn, "pears", max_bytes=1, max_depth=1)
    put(conn, '"long"')
    put(conn, '"long"')
    put(conn, queue="pears")
    refused(conn, "QU001", "select queue_put('pears', '1')")
    refused(conn, "QU002", "select queue_put('pears', '12')")


# What queue_put_many says is new


def test_is_new(conn):
    there = put(conn, dedupe_key="k")
    query = "select is_new, id = %s from queue_put_many('apples', %s::jsonb[], dedupe_keys => %s)"
    assert conn.execute(query, [there, list("12345"), ["a", "k", None, "a", None]]).fetchall() == [
        (True, False),
        (False, True),
        (True, False),
        (False, False),
        (True, False),
    ]
    assert stored(conn) == 4
    assert column(conn, "select is_new from queue_put_many('apples', array['1', '2']::jsonb[])") == [True, True]


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("commit", [True, False])
def test_is_new_when_another_puts_the_same_key(database, conn, commit, limited):
    if limited:
        create(conn, max_depth=100)
    one, session = database.connect(autocommit=False), database.connect()
    query = "select is_new from queue_put_many('apples', array['1', '2']::jsonb[], dedupe_keys => '{b, a}')"
    put(one, dedupe_key="b")
    running = Running(session, query)
    running.wait_for_lock(conn)
    one.commit() if commit else one.rollback()
    running.result()
    assert running.rows == [(not commit,), (True,)]
    assert stored(conn) == 2


def test_each_key_is_new_to_one_session(database, conn):
    query = """
        select id, is_new from queue_put_many('apples', array_fill('1'::jsonb, array[300]),
            dedupe_keys => array(select (i %% 200)::text from generate_series(1, 300) i order by random()))
    """.replace("%%", "%")
    sessions = [Running(database.connect(), query) for _ in range(6)]
    found = []
    for session in sessions:
        session.result()
        assert len(session.rows) == 300
        found += session.rows
    new = [id for id, is_new in found if is_new]
    assert len(new) == len(set(new)) == 200
    assert {id for id, _ in found} == set(new) == set(column(conn, "select id from queue_job"))

"""queue_put and queue_put_many: what is stored, and what is refused."""

from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb
from sql_sessions import column, refused, stored, value


def test_put_gives_the_id_of_the_job(conn):
    id = value(conn, """select queue_put('apples', '{"kind": "Cox"}')""")
    assert conn.execute("select id, data from queue_get('apples')").fetchall() == [(id, {"kind": "Cox"})]
    assert conn.execute("select id from queue_get('apples')").fetchall() == []


def test_put_stores_all_it_is_given(conn):
    conn.execute(
        """
        select queue_put('apples', '[1]', schedule_at => '2001-02-03 04:05:06Z',
            expected_at => '2002-02-03 04:05:06Z', priority => -7, dedupe_key => 'k',
            headers => '{"trace": "t"}', max_attempts => 3)
        """
    )
    row = conn.execute(
        """
        select data, data_text, data_bytes, priority, schedule_at = '2001-02-03 04:05:06Z',
            expected_at = '2002-02-03 04:05:06Z', attempts, max_attempts, last_error, progress_count,
            consumer, dedupe_key, headers, clock_timestamp() - enqueued_at
        from queue_get('apples')
        """
    ).fetchone()
    assert row[:-1] == ([1], None, None, -7, True, True, 0, 3, None, None, None, "k", {"trace": "t"})
    assert timedelta(0) < row[-1] < timedelta(minutes=1)


@pytest.mark.parametrize("call", ["queue_put('apples')", "queue_put('apples', null)", "queue_put('apples', 'null')"])
def test_no_data_is_the_null_of_json(conn, call):
    conn.execute(f"select {call}")
    assert conn.execute("select data::text, data_text from queue_get('apples')").fetchall() == [("null", None)]


def test_text_and_bytes_are_stored_as_they_are(conn):
    text, data = ' {"a":  1}\né', bytes(range(256))
    conn.execute("select queue_put('apples', data_text => %s)", [text])
    conn.execute("select queue_put('apples', data_bytes => %s)", [data])
    conn.execute("select queue_put('apples', data_text => '')")
    rows = conn.execute("select data, data_text, data_bytes from queue_get('apples', 3)").fetchall()
    assert rows == [(None, text, None), (None, None, data), (None, "", None)]


def test_large_data_comes_back_whole(conn):
    data = {"text": 'é\\" ' * 500_000}
    conn.execute("select queue_put('apples', %s)", [Jsonb(data)])
    assert value(conn, "select data from queue_get('apples')") == data


def test_a_rolled_back_put_leaves_nothing(conn):
    with conn.transaction(force_rollback=True):
        conn.execute("select queue_put('apples', '1')")
    assert stored(conn) == 0


def test_others_see_a_put_when_it_is_committed(database):
    one, two = database.connect(autocommit=False), database.connect()
    one.execute("select queue_put('apples', '1')")
    assert column(two, "select data from queue_get('apples')") == []
    one.commit()
    assert column(two, "select data from queue_get('apples')") == [1]


@pytest.mark.parametrize(
    ("sqlstate", "arguments", "ours"),
    [
        ("22023", "data => '1', data_text => 'x'", True),
        ("22023", "data => '1', data_bytes => 'x'", True),
        ("22023", "data_text => 'x', data_bytes => 'x'", True),
        ("22023", "max_attempts => 0", True),
        ("22003", "priority => -2147483648", True),
        ("22003", "data => '1', priority => -2147483648", True),
        ("22003", "priority => 2147483648::text::integer", False),
        ("22P02", "data => 'no json'", False),
        ("22P02", "data => 'NaN'", False),
        ("22P02", """data => '"\\ud83d"'""", False),
        ("22P05", """data => '"\\u0000"'""", False),
        ("54001", "data => repeat('[', 100000)::jsonb", False),
    ],
)
def test_a_refused_put_stores_nothing(conn, sqlstate, arguments, ours):
    refused(conn, sqlstate, f"select queue_put('apples', {arguments})", hint=ours)
    assert stored(conn) == 0


def test_big_numbers_are_kept_exactly(conn):
    conn.execute("select queue_put('apples', %s::jsonb)", [str(2**70)])
    assert value(conn, "select data from queue_get('apples')") == 2**70


def test_priorities_reach_from_end_to_end(conn):
    for priority in (-2147483647, 2147483647, 0):
        conn.execute("select queue_put('apples', priority => %s)", [priority])
    assert column(conn, "select priority from queue_get('apples', 3)") == [2147483647, 0, -2147483647]


def test_put_many_gives_ids_in_the_order_of_the_array(conn):
    ids = column(conn, "select id from queue_put_many('apples', array['3', '1', '2']::jsonb[])")
    assert ids == sorted(ids)
    assert conn.execute("select id, data from queue_get('apples', 5)").fetchall() == list(
        zip(ids, [3, 1, 2], strict=True)
    )


def test_put_many_of_a_thousand_keeps_their_order(conn):
    ids = column(
        conn, "select id from queue_put_many('apples', array(select to_jsonb(i) from generate_series(1, 1000) i))"
    )
    assert ids == sorted(ids)
    assert column(conn, "select data from queue_get('apples', 1000)") == list(range(1, 1001))


def test_put_many_takes_text_and_bytes(conn):
    conn.execute("select queue_put_many('apples', data_text => array['', 'é'])")
    conn.execute("select queue_put_many('apples', data_bytes => array['\\x00ff'::bytea])")
    rows = conn.execute("select data, data_text, data_bytes from queue_get('apples', 3)").fetchall()
    assert rows == [(None, "", None), (None, "é", None), (None, None, b"\x00\xff")]


def test_put_many_with_keys_takes_text_and_bytes(conn):
    conn.execute("select queue_put_many('apples', data_text => array['', 'é'], dedupe_keys => array['b', 'a'])")
    conn.execute("select queue_put_many('apples', data_bytes => array['\\x00'::bytea], dedupe_keys => array['c'])")
    rows = conn.execute("select data, data_text, data_bytes from queue_get('apples', 3)").fetchall()
    assert rows == [(None, "", None), (None, "é", None), (None, None, b"\x00")]


@pytest.mark.parametrize("keys", ["null", "'{{a, b}, {c, d}}'", "'[5:8]={a, b, c, d}'"])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("data", "{{1, 2}, {3, 4}}"),
        ("data_text", "{{1, 2}, {3, 4}}"),
        ("data_bytes", "{{1, 2}, {3, 4}}"),
        ("data_text", "[0:1][-1:0]={{1, 2}, {3, 4}}"),
        ("data_bytes", "[3:6]={1, 2, 3, 4}"),
    ],
)
def test_an_array_of_any_shape_is_a_list_of_its_elements(conn, keys, kind, shape):
    ids = column(conn, f"select id from queue_put_many('apples', {kind} => '{shape}', dedupe_keys => {keys})")
    assert ids == sorted(ids)
    rows = conn.execute(f"select id, convert_from({kind}::text::bytea, 'utf8') from queue_get('apples', 5)").fetchall()
    assert rows == list(zip(ids, ["1", "2", "3", "4"], strict=True))


@pytest.mark.parametrize("kind", ["data_text", "data_bytes"])
@pytest.mark.parametrize("shape", ["{1, null}", "{null}", "{{1, 2}, {3, null}}", "[5:6]={null, 1}"])
def test_a_null_that_is_no_json_is_refused(conn, kind, shape):
    refused(conn, "22004", f"select queue_put_many('apples', {kind} => '{shape}')", hint=True)
    assert stored(conn) == 0


@pytest.mark.parametrize("keys", ["null", "array['a', null]"])
def test_a_null_element_is_the_null_of_json(conn, keys):
    conn.execute(f"select queue_put_many('apples', array[null, '1']::jsonb[], dedupe_keys => {keys})")
    assert column(conn, "select data::text from queue_get('apples', 2)") == ["null", "1"]


def test_put_many_holds_its_arguments_for_every_job(conn):
    conn.execute(
        """
        select queue_put_many('apples', array['1', '2']::jsonb[], priority => 4, headers => '{"a": 1}',
            max_attempts => 2, expected_in => '1h', schedule_in => '-1h')
        """
    )
    rows = conn.execute(
        "select priority, headers, max_attempts, expected_at > now(), schedule_at < now() from queue_get('apples', 2)"
    ).fetchall()
    assert rows == [(4, {"a": 1}, 2, True, True)] * 2


@pytest.mark.parametrize("call", ["'{}'::jsonb[]", "null", "data_text => '{}'", "'{}'::jsonb[], dedupe_keys => '{}'"])
def test_a_batch_of_nothing_is_fine(conn, call):
    assert column(conn, f"select queue_put_many('apples', {call})") == []


@pytest.mark.parametrize(
    ("sqlstate", "arguments"),
    [
        ("22023", "array['1']::jsonb[], data_text => array['x']"),
        ("22004", "data_text => array['x', null]"),
        ("22004", "data_bytes => array[null]::bytea[]"),
        ("2202E", "array['1', '2']::jsonb[], dedupe_keys => array['a']"),
        ("2202E", "'{}'::jsonb[], dedupe_keys => array['a']"),
        ("22023", "array['1']::jsonb[], schedule_at => now(), schedule_in => '1s'"),
        ("22008", "array['1']::jsonb[], expected_at => 'infinity'"),
        ("22023", "array['1']::jsonb[], max_attempts => 0"),
    ],
)
def test_a_refused_batch_stores_nothing(conn, sqlstate, arguments):
    refused(conn, sqlstate, f"select queue_put_many('apples', {arguments})", hint=True)
    assert stored(conn) == 0


def test_an_array_that_is_not_json_stores_nothing(conn):
    refused(conn, "22P02", "select queue_put_many('apples', array['1', 'x']::jsonb[])")
    assert stored(conn) == 0


def test_a_put_in_a_prepared_transaction_needs_notify_off_where_somebody_sleeps(database, conn):
    sleeper = database.connect()
    sleeper.execute("select queue_listen('apples')")
    conn.execute("begin")
    conn.execute("select queue_put('apples', '1')")
    refused(conn, "0A000", "prepare transaction 'p'")
    conn.execute("rollback")
    assert stored(conn) == 0

    conn.execute("begin")
    conn.execute("select queue_put('apples', '1', notify => false)")
    conn.execute("select queue_put_many('apples', array['2']::jsonb[], notify => false)")
    conn.execute("prepare transaction 'p'")
    try:
        assert column(conn, "select data from queue_get('apples', 2)") == []
    finally:
        conn.execute("commit prepared 'p'")
    assert column(conn, "select data from queue_get('apples', 2)") == [1, 2]


def test_data_is_not_in_the_error(conn):
    error = refused(conn, "22023", "select queue_put('apples', '\"secret\"', data_text => 'secret')", hint=True)
    assert "secret" not in str(error.diag.message_primary) + str(error.diag.message_detail)


def test_put_is_refused_in_a_read_only_transaction(conn):
    conn.execute("set default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        conn.execute("select queue_put('apples', '1')")

"""Names of queues: 1 to 255 bytes, any character; counted in bytes, and never part of a statement."""

import pytest
from sql_sessions import column, refused, stored, value

from pgq_py.calls import check_name
from pgq_py.errors import BadName

GOOD = [
    "a",
    "Apples",
    "two words",
    " ",
    "\n\t",
    "it's",
    'say "hello"',
    '"; DROP TABLE queue_job; --',
    "'; DROP TABLE queue_job; --",
    "100%s %% $1 :name \\",
    "é",
    "🍎" * 63,
    "x" * 64,
    "x" * 255,
    "é" * 127,
    "NULL",
]
BAD = [None, "", "x" * 256, "é" * 128]

CALLS = [
    "queue_put(%s, '1')",
    "queue_put(%s, '1', notify => false)",
    "queue_put_many(%s, array['1']::jsonb[])",
    "queue_put_many(%s, '{}'::jsonb[])",
    "queue_put_many(%s, array['1']::jsonb[], notify => false)",
    "queue_get(%s)",
    "queue_get_any(array[%s])",
    "queue_update(%s, 1, '1')",
    "queue_cancel(%s, 1)",
    "queue_list(%s)",
    "queue_count(%s)",
    "queue_clear(%s)",
    "queue_create(%s)",
    "queue_drop(%s)",
    "queue_pause(%s)",
    "queue_resume(%s)",
    "queue_wait(%s)",
    "queue_bury(%s, 1, 'unreadable')",
    "queue_channel(%s)",
    "queue_listen(%s)",
    "queue_unlisten(%s)",
    "queue_lease(%s)",
    "queue_lease_any(array[%s])",
    "queue_complete(%s, 1, gen_random_uuid())",
    "queue_error(%s, 1, gen_random_uuid())",
    "queue_error(%s, 1, null)",
    "queue_release(%s, 1, gen_random_uuid())",
    "queue_progress(%s, 1, gen_random_uuid())",
    "queue_complete_many(%s, '{}', '{}')",
    "queue_export(%s)",
    "queue_export(%s, dead => true, take => true)",
    "queue_import(%s, '{}', '{}')",
    "queue_error_many(%s, '{}', '{}')",
    "queue_release_many(%s, '{}', '{}')",
    "queue_progress_many(%s, '{}', '{}')",
    "queue_dead_list(%s)",
    "queue_dead_delete(%s)",
    "queue_redrive(%s)",
    "queue_settings(%s)",
    "queue_grant(%s, current_user::text, 'put')",
    "queue_revoke(%s, current_user::text)",
]


@pytest.mark.parametrize("name", GOOD)
def test_any_name_works_throughout(database, conn, name):
    other = database.connect()
    assert value(other, "select queue_listen(%s)", name) == value(conn, "select queue_channel(%s)", name)
    id = value(conn, "select queue_put(%s, '1')", name)
    assert [n.payload for n in other.notifies(timeout=10, stop_after=1)] == [""]
    column(conn, "select queue_put_many(%s, array['2']::jsonb[])", name)
    assert value(conn, "select queue_create(%s)", name)
    assert value(conn, "select queue_pause(%s)", name)
    assert column(conn, "select data from queue_get(%s, 9)", name) == []
    assert value(conn, "select queue_resume(%s)", name)
    assert column(conn, "select name from queue_stats()") == [name]
    assert column(conn, "select name from queue_stats(%s)", name) == [name]
    assert value(conn, "select queue_update(%s, %s, '3')", name, id)
    assert column(conn, "select data from queue_list(%s)", name) == [3, 2]
    assert value(conn, "select queue_count(%s)", name) == 2
    assert value(conn, "select queue_wait(%s)", name) is None
    assert conn.execute("select queue, data from queue_get_any(array[%s])", [name]).fetchall() == [(name, 3)]
    assert value(conn, "select queue_cancel(%s, 0)", name) is False
    assert value(conn, "select queue_grant(%s, current_user::text, 'put')", name)
    assert column(conn, "select queue from queue_rights()") == [name]
    assert value(conn, "select queue_clear(%s)", name) == 1
    assert value(conn, "select queue_drop(%s)", name)
    assert column(conn, "select name from queue_stats()") == []


@pytest.mark.parametrize("name", BAD, ids=["null", "empty", "256 bytes", "256 bytes of é"])
@pytest.mark.parametrize("call", CALLS)
def test_a_bad_name_is_refused(conn, name, call):
    error = refused(conn, "22023", f"select {call.replace('%s', '%s::text')}", name, hint=True)
    assert not name or name not in str(error)
    assert stored(conn) == 0
    assert value(conn, "select count(*) from queue_setting") == 0


@pytest.mark.parametrize("name", BAD[1:], ids=["empty", "256 bytes", "256 bytes of é"])
def test_stats_refuses_a_bad_name(conn, name):
    refused(conn, "22023", "select queue_stats(%s)", name, hint=True)


def test_every_function_of_a_queue_is_in_these_lists(conn):
    named = column(
        conn,
        r"""
        select proname from pg_proc
        where proname like 'queue\_%' and pronamespace = 'public'::regnamespace and pronargs > 0
            and (proargnames[1] = 'queue' or proargnames[1] = 'queues')
        """,
    )
    assert set(named) - {call.partition("(")[0] for call in CALLS} - {"queue_stats"} == set()


def test_names_are_compared_by_their_bytes(conn):
    names = ["e\u0301", "\u00e9", "a", "A", "a "]
    for n, name in enumerate(names):
        conn.execute("select queue_put(%s, %s::text::jsonb)", [name, n])
    assert [column(conn, "select data from queue_get(%s, 9)", name) for name in names] == [[n] for n in range(5)]
    assert len({value(conn, "select queue_channel(%s)", name) for name in names}) == 5


@pytest.mark.parametrize("call", ["queue_put({}, '1')", "queue_get({})", "queue_create({})"])
def test_a_name_with_nul_is_no_text(conn, call):
    refused(conn, "22021", f"select {call}".format(r"convert_from('\x610062', 'utf8')"))
    assert stored(conn) == 0


def test_python_has_the_same_rule(conn):
    for letter in ("x", "é", "€", "🍎"):
        for size in range(250 // len(letter.encode()), 260 // len(letter.encode())):
            name = letter * size
            try:
                check_name(name)
            except BadName:
                refused(conn, "22023", "select queue_put(%s)", name)
            else:
                conn.execute("select queue_put(%s)", [name])
    assert value(conn, "select max(octet_length(queue)) from queue_job") == 255

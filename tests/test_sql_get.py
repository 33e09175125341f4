"""queue_get and queue_get_any: taking jobs in the caller's transaction."""

import psycopg
import pytest
from sql_sessions import column, refused, stored, value

GET = "select data from queue_get('apples')"


def put(conn, *data, queue="apples", **options):
    given = "".join(f", {name} => '{value}'" for name, value in options.items())
    for item in data:
        conn.execute(f"select queue_put('{queue}', '{item}'{given})")


def test_get_from_a_queue_nobody_put_into_gives_nothing(conn):
    assert column(conn, GET) == []


def test_get_takes_up_to_the_count(conn):
    put(conn, 1, 2, 3, 4, 5)
    assert column(conn, "select data from queue_get('apples', 2)") == [1, 2]
    assert column(conn, "select data from queue_get('apples', count => 100000)") == [3, 4, 5]


def test_a_rollback_returns_the_job(conn):
    put(conn, 1)
    with conn.transaction(force_rollback=True):
        assert column(conn, GET) == [1]
        assert column(conn, GET) == []
    assert column(conn, GET) == [1]


def test_a_savepoint_returns_its_jobs_alone(conn):
    put(conn, 1, 2)
    with conn.transaction():
        assert column(conn, GET) == [1]
        with conn.transaction(force_rollback=True):
            assert column(conn, GET) == [2]
    assert column(conn, "select data from queue_get('apples', 9)") == [2]


def test_what_was_put_in_the_transaction_can_be_taken_in_it(conn):
    with conn.transaction():
        put(conn, 1)
        assert column(conn, GET) == [1]
    assert stored(conn) == 0


def test_others_pass_over_a_job_that_is_being_taken(database):
    one, two = database.connect(autocommit=False), database.connect()
    put(two, 1, 2)
    assert column(one, GET) == [1]
    assert column(two, GET) == [2]
    assert column(two, GET) == []
    one.rollback()
    assert column(two, GET) == [1]


def test_a_lost_connection_returns_the_job(database, conn):
    one = database.connect(autocommit=False)
    put(conn, 1)
    assert column(one, GET) == [1]
    # Waits for the end of that session, which is when the locks are gone.
    assert value(conn, "select pg_terminate_backend(%s, 20000)", one.info.backend_pid)
    assert column(conn, GET) == [1]


@pytest.mark.parametrize("due", [False, True])
def test_get_locks_no_more_than_it_takes(database, conn, due):
    one, two = database.connect(autocommit=False), database.connect(autocommit=False)
    put(conn, *range(20))
    if due:
        put(conn, 100, schedule_in="1us", priority=-1)
    assert column(one, "select data from queue_get('apples', 5)") == [0, 1, 2, 3, 4]
    expected = [*range(5, 20), 100] if due else [*range(5, 20)]
    assert column(two, "select data from queue_get('apples', 99)") == expected


def test_get_goes_on_beyond_jobs_that_others_hold(database, conn):
    # More than the first look of a taker reaches when there are due jobs.
    one = database.connect(autocommit=False)
    put(conn, "1", schedule_in="1ms", priority=-1)
    conn.execute("select queue_put_many('apples', array(select to_jsonb(i) from generate_series(1, 1000) i))")
    assert len(column(one, "select data from queue_get('apples', 990)")) == 990
    assert column(conn, "select data from queue_get('apples', 4)") == [991, 992, 993, 994]
    assert column(conn, "select data from queue_get('apples', 99)") == [995, 996, 997, 998, 999, 1000, 1]


def test_queues_do_not_mix(conn):
    put(conn, 1, queue="apples")
    put(conn, 2, queue="Apples")
    assert column(conn, "select data from queue_get('Apples', 9)") == [2]
    assert column(conn, "select data from queue_get('apples', 9)") == [1]


@pytest.mark.parametrize("count", ["0", "-1", "null"])
def test_a_count_below_one_is_refused(conn, count):
    refused(conn, "22023", f"select queue_get('apples', {count})", hint=True)
    refused(conn, "22023", f"select queue_get_any(array['apples'], {count})", hint=True)


def test_get_any_asks_the_queues_in_their_order(conn):
    put(conn, 1, 2, queue="apples")
    put(conn, 3, 4, queue="pears")
    query = "select queue, data from queue_get_any(array['plums', 'pears', 'apples'], %s)"
    assert conn.execute(query, [3]).fetchall() == [("pears", 3), ("pears", 4), ("apples", 1)]
    assert conn.execute(query, [3]).fetchall() == [("apples", 2)]


@pytest.mark.parametrize("take", ["get", "lease"])
def test_a_set_passes_over_the_queues_that_give_none(database, conn, take):
    """To find them it does not ask each, so each reason is a case of its own."""
    put(conn, 1, queue="paused")
    conn.execute("select queue_pause('paused')")
    put(conn, 2, queue="taken by another")
    other = database.connect(autocommit=False)
    other.execute("select queue_get('taken by another')")
    conn.execute("select queue_put('later', '3', schedule_in => '1h')")
    put(conn, 4, queue="ready")
    conn.execute("select queue_put('due', '5', schedule_in => '1us')")
    put(conn, 6, queue="leased")
    conn.execute("select queue_lease('leased', lease => '1h')")
    put(conn, 7, queue="no longer leased")
    conn.execute("select queue_lease('no longer leased', lease => '1us')")
    names = [
        "none",
        "paused",
        "taken by another",
        "later",
        "ready",
        "leased",
        "due",
        "none",
        "no longer leased",
        "none",
    ]
    one = f"select queue, data from queue_{take}_any(%s)"
    each = [conn.execute(one, [names]).fetchall() for _ in range(4)]
    assert each == [[("ready", 4)], [("due", 5)], [("no longer leased", 7)], []]
    other.rollback()
    conn.execute("select queue_resume('paused')")
    assert conn.execute(f"select queue, data from queue_{take}_any(%s, 9)", [names]).fetchall() == [
        ("paused", 1),
        ("taken by another", 2),
    ]


@pytest.mark.parametrize("take", ["get", "lease"])
@pytest.mark.parametrize("queues", ["'[0:1]={pears,apples}'", "'{{none,none},{pears,apples}}'"])
def test_a_set_is_an_array_of_any_shape(conn, take, queues):
    put(conn, 1, queue="apples")
    put(conn, 2, queue="pears")
    assert column(conn, f"select data from queue_{take}_any({queues}, 2)") == [2, 1]


@pytest.mark.parametrize("take", ["get", "lease"])
def test_behind_many_paused_queues_a_job_is_found(conn, take):
    names = [f"paused {n}" for n in range(30)]
    for name in names:
        put(conn, 1, queue=name)
        conn.execute("select queue_pause(%s)", [name])
    put(conn, 2, queue="apples")
    query = f"select data from queue_{take}_any(%s)"
    assert column(conn, query, [*names, "none", "apples"]) == [2]
    assert column(conn, query, [*names, "none", "apples"]) == []


@pytest.mark.parametrize("queues", ["null", "'{}'"])
def test_get_any_of_no_queues_gives_nothing(conn, queues):
    assert column(conn, f"select id from queue_get_any({queues})") == []


def test_get_any_refuses_a_bad_name(conn):
    refused(conn, "22023", "select queue_get_any(array['apples', ''])", hint=True)
    refused(conn, "22023", "select queue_get_any(array['apples', null])", hint=True)
    refused(conn, "22023", "select queue_get_any(array['apples', 'pears', null])", hint=True)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("due", [False, True])
def test_above_read_committed_a_job_taken_meanwhile_is_an_error(database, conn, level, due):
    put(conn, 1, **({"schedule_in": "1us"} if due else {}))
    one = database.connect(autocommit=False)
    one.execute(f"set transaction isolation level {level}")
    one.execute("select count(*) from queue_job")
    assert column(conn, GET) == [1]
    put(conn, 2)
    refused(one, "40001", GET)
    one.rollback()
    assert column(one, GET) == [2]


def test_statement_timeout_takes_nothing(database, conn):
    put(conn, 1, 2, 3)
    # It fires in the middle: the first of two jobs is deleted already.
    conn.execute("""
        create function dawdle() returns trigger language plpgsql as
            $$ begin if old.data = '2' then perform pg_sleep(60); end if; return null; end $$;
        create trigger dawdle after delete on queue_job for each row execute function dawdle();
    """)
    one = database.connect(autocommit=False)
    one.execute("set local statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled) as caught:
        one.execute("select data from queue_get('apples', 2)")
    assert "dawdle()" in caught.value.diag.context
    refused(one, "25P02", GET)
    one.rollback()
    conn.execute("drop trigger dawdle on queue_job")
    assert column(one, "select data from queue_get('apples', 9)") == [1, 2, 3]


def test_promotion_wakes_the_takers_that_found_nothing(database, conn):
    """Two consumers wake when jobs come due; one promotes them all and takes one, the other sees none."""
    one, two = database.connect(autocommit=False), database.connect()
    put(conn, 1, 2, schedule_in="1us", notify="false")
    two.execute("select queue_listen('apples')")
    assert column(one, "select data from queue_get('apples', promote => true)") == [1]
    assert column(two, "select data from queue_get('apples', promote => true)") == []
    one.commit()
    assert len(list(two.notifies(timeout=10, stop_after=1))) == 1
    assert column(two, "select data from queue_get('apples', promote => true)") == [2]


def test_promotion_of_what_is_taken_wakes_nobody(database, conn):
    two = database.connect()
    put(conn, 1, schedule_in="1us", notify="false")
    two.execute("select queue_listen('apples')")
    assert column(conn, "select data from queue_get('apples', promote => true)") == [1]
    conn.execute("select pg_notify(queue_channel('apples'), 'the end')")
    assert [n.payload for n in two.notifies(timeout=10, stop_after=1)] == ["the end"]


def test_promotion_is_bounded(conn):
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[1000]), schedule_in => '1us')")
    assert column(conn, "select data from queue_get('apples', promote => true)") == [1]
    assert value(conn, "select count(*) from queue_job where ready_at is null") == 99

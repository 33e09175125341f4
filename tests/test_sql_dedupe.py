"""dedupe_key: one job for a key, whoever else puts it at the same time."""

import psycopg
import pytest
from sql_sessions import Running, column, refused, stored, value

PUT = "select queue_put('apples', '1', dedupe_key => 'k')"


def test_the_same_key_gives_the_id_of_the_job_that_is_there(conn):
    id = value(conn, PUT)
    assert value(conn, "select queue_put('apples', '2', dedupe_key => 'k', priority => 9)") == id
    assert conn.execute("select id, data, priority, dedupe_key from queue_list('apples')").fetchall() == [
        (id, 1, 0, "k")
    ]


def test_the_key_of_a_scheduled_job_counts(conn):
    id = value(conn, "select queue_put('apples', dedupe_key => 'k', schedule_in => '1h')")
    assert value(conn, PUT) == id
    assert stored(conn) == 1


def test_the_same_key_in_another_queue_is_another_job(conn):
    assert value(conn, PUT) != value(conn, "select queue_put('pears', '1', dedupe_key => 'k')")


def test_the_key_is_free_when_the_job_is_taken(conn):
    id = value(conn, PUT)
    assert column(conn, "select id from queue_get('apples')") == [id]
    assert value(conn, PUT) != id
    assert stored(conn) == 1


def test_taken_and_put_again_in_one_transaction(conn):
    id = value(conn, PUT)
    with conn.transaction():
        assert column(conn, "select id from queue_get('apples')") == [id]
        again = value(conn, PUT)
    assert again != id
    assert column(conn, "select id from queue_get('apples', 9)") == [again]


def test_an_empty_key_is_a_key_and_null_is_none(conn):
    assert value(conn, "select queue_put('apples', dedupe_key => '')") == value(
        conn, "select queue_put('apples', dedupe_key => '')"
    )
    conn.execute("select queue_put('apples', dedupe_key => null) from generate_series(1, 2)")
    assert stored(conn) == 3


def test_a_long_key_is_refused_and_stores_nothing(conn):
    # Before it is more than an index entry takes, where PostgreSQL's own error would speak of a btree.
    key = "(select string_agg(md5(i::text), '') from generate_series(1, 1000) i)"
    error = refused(conn, "22023", f"select queue_put('apples', dedupe_key => {key})", hint=True)
    assert "32000 bytes, over the limit of 1024" in str(error)
    assert stored(conn) == 0


def test_in_a_batch(conn):
    id = value(conn, PUT)
    ids = column(
        conn,
        """
        select id from queue_put_many('apples', array['2', '3', '4', '5', '6']::jsonb[],
            dedupe_keys => array['z', 'k', null, 'z', null])
        """,
    )
    assert ids[1] == id
    assert ids[0] == ids[3]
    assert len(set(ids)) == 4
    assert conn.execute("select id, data from queue_get('apples', 9)").fetchall() == [
        (id, 1),
        (ids[0], 2),
        (ids[2], 4),
        (ids[4], 6),
    ]


def test_a_batch_of_known_keys_wakes_nobody(database, conn):
    conn.execute(PUT)
    two = database.connect()
    two.execute("select queue_listen('apples')")
    conn.execute("select queue_put_many('apples', array['1']::jsonb[], dedupe_keys => array['k'])")
    conn.execute(PUT)
    conn.execute("select pg_notify(queue_channel('apples'), 'the end')")
    assert [n.payload for n in two.notifies(timeout=10, stop_after=1)] == ["the end"]


BATCH = "select id from queue_put_many('apples', array['1']::jsonb[], dedupe_keys => array['k'])"


@pytest.mark.parametrize("second", [PUT, BATCH])
def test_two_at_once_the_first_commits(database, conn, second):
    one, two = database.connect(autocommit=False), database.connect()
    id = value(one, PUT)
    running = Running(two, second)
    running.wait_for_lock(conn)
    one.commit()
    assert running.result() == id
    assert stored(conn) == 1


@pytest.mark.parametrize("second", [PUT, BATCH])
def test_two_at_once_the_first_rolls_back(database, conn, second):
    one, two = database.connect(autocommit=False), database.connect()
    id = value(one, PUT)
    running = Running(two, second)
    running.wait_for_lock(conn)
    one.rollback()
    assert running.result() != id
    assert column(conn, "select id from queue_list('apples')") == [running.result()]


@pytest.mark.parametrize("second", [PUT, BATCH])
@pytest.mark.parametrize("commit", [True, False])
def test_a_put_waits_for_the_taker_of_the_job(database, conn, second, commit):
    one, two = database.connect(autocommit=False), database.connect()
    id = value(conn, PUT)
    assert column(one, "select id from queue_get('apples')") == [id]
    running = Running(two, second)
    running.wait_for_lock(conn)
    if commit:
        one.commit()
        assert running.result() != id
    else:
        one.rollback()
        assert running.result() == id
    assert stored(conn) == 1


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("second", [PUT, BATCH])
def test_above_read_committed_it_is_an_error(database, conn, level, second):
    one, two = database.connect(autocommit=False), database.connect(autocommit=False)
    one.execute(PUT)
    two.execute(f"set transaction isolation level {level}")
    two.execute("select 1")
    running = Running(two, second)
    running.wait_for_lock(conn)
    one.commit()
    with pytest.raises(psycopg.errors.SerializationFailure):
        running.result()
    two.rollback()
    assert stored(conn) == 1


def test_above_read_committed_a_visible_key_is_found(conn):
    id = value(conn, PUT)
    conn.execute("begin isolation level serializable")
    assert value(conn, PUT) == id
    conn.execute("commit")


@pytest.mark.parametrize("put", [PUT, BATCH])
def test_above_read_committed_a_key_whose_job_was_taken_since_the_snapshot(database, conn, put):
    """The snapshot still shows the job that was taken, beside the one that is put now."""
    taken = value(conn, PUT)
    two = database.connect(autocommit=False)
    two.execute("set transaction isolation level repeatable read")
    two.execute("select 1")
    assert column(conn, "select id from queue_get('apples')") == [taken]
    id = value(two, put)
    assert id != taken
    assert value(two, put) == id
    two.commit()
    assert column(conn, "select id from queue_list('apples')") == [id]


def test_a_job_taken_between_the_insert_and_the_look_up_of_its_key(database, conn):
    """A batch finds key a in the queue, then waits for key b; meanwhile the job of a is taken."""
    one = database.connect(autocommit=False)
    first = value(conn, "select queue_put('apples', '1', dedupe_key => 'a')")
    one.execute("select queue_put('apples', '2', dedupe_key => 'b')")
    batch = """
        select array_agg(x.id) from queue_put_many('apples', array['3', '4', '5']::jsonb[],
            dedupe_keys => array[null, 'a', 'b']) x
    """
    running = Running(database.connect(), batch)
    running.wait_for_lock(conn)
    assert column(conn, "select id from queue_get('apples')") == [first]
    one.commit()
    ids = running.result()
    found = conn.execute("select id, data from queue_list('apples')").fetchall()
    assert dict(found) == {ids[0]: 3, ids[1]: 4, ids[2]: 2}
    assert first not in ids


def test_crossing_keys_in_both_orders_do_not_deadlock(database, conn):
    """Two batches hold a key each and want the other's: they take the keys in the same order, whatever was asked."""
    batch = "select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[200]), dedupe_keys => %s)"
    keys = [f"key {n:03}" for n in range(200)]
    sessions = [database.connect() for _ in range(4)]
    for _ in range(5):
        # A first session holds a key in the middle until all are under way.
        holder = database.connect(autocommit=False)
        holder.execute("select queue_put('apples', '1', dedupe_key => 'key 100')")
        waiting = [Running(session, batch, keys if n % 2 else keys[::-1]) for n, session in enumerate(sessions)]
        for running in waiting:
            running.wait_for_lock(conn)
        holder.rollback()
        holder.close()
        assert [running.result() for running in waiting] == [200] * 4
        assert stored(conn) == 200
        conn.execute("select queue_clear('apples')")

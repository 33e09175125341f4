"""Pausing, waiting and waking: queue_pause, queue_resume, queue_listen, queue_wait and notifications."""

from datetime import timedelta

import pytest
from sql_sessions import column, value

GET = "select data from queue_get('apples', 9)"


def listen(conn, queue="apples"):
    return value(conn, "select queue_listen(%s)", queue)


def woken(conn, timeout=10):
    return len(list(conn.notifies(timeout=timeout, stop_after=1))) == 1


def ends_quietly(listener, conn):
    """Nothing is notified before a notification that is sent now."""
    conn.execute("select pg_notify(queue_channel('apples'), 'the end')")
    return [n.payload for n in listener.notifies(timeout=10, stop_after=1)] == ["the end"]


def test_a_paused_queue_takes_puts_and_gives_nothing(conn):
    assert value(conn, "select queue_pause('apples')") is True
    assert value(conn, "select queue_pause('apples')") is False
    conn.execute("select queue_put('apples', '1')")
    conn.execute("select queue_put('apples', '2', schedule_in => '-1s')")
    assert column(conn, GET) == []
    assert column(conn, "select data from queue_get('apples', promote => true)") == []
    assert value(conn, "select queue_count('apples')") == 2
    assert value(conn, "select queue_resume('apples')") is True
    assert value(conn, "select queue_resume('apples')") is False
    assert column(conn, GET) == [1, 2]


def test_only_the_paused_queue_is_paused(conn):
    conn.execute("select queue_pause('pears')")
    conn.execute("select queue_put('apples', '1'), queue_put('pears', '2')")
    assert column(conn, "select data from queue_get_any(array['pears', 'apples'], 9)") == [1]


def test_a_created_queue_can_be_paused(conn):
    conn.execute("select queue_create('apples')")
    assert value(conn, "select queue_resume('apples')") is False
    assert value(conn, "select queue_pause('apples')") is True


def test_a_pause_takes_effect_with_its_commit(database, conn):
    one = database.connect(autocommit=False)
    conn.execute("select queue_put_many('apples', array['1', '2']::jsonb[])")
    one.execute("select queue_pause('apples')")
    assert column(conn, "select data from queue_get('apples')") == [1]
    one.commit()
    assert column(conn, GET) == []


def test_resume_wakes(database, conn):
    listener = database.connect()
    conn.execute("select queue_pause('apples')")
    listen(listener)
    conn.execute("select queue_resume('apples')")
    assert woken(listener)


def test_resume_of_what_is_not_paused_wakes_nobody(database, conn):
    listener = database.connect()
    listen(listener)
    conn.execute("select queue_resume('apples')")
    assert ends_quietly(listener, conn)


@pytest.mark.parametrize(
    "put",
    [
        "queue_put('apples', '1')",
        "queue_put('apples', '1', schedule_in => '1h')",
        "queue_put_many('apples', array['1', '2']::jsonb[])",
        "queue_put_many('apples', array['1', '2']::jsonb[], dedupe_keys => array['a', 'b'])",
    ],
)
def test_a_put_wakes_when_it_is_committed(database, conn, put):
    listener, one = database.connect(), database.connect(autocommit=False)
    listen(listener)
    one.execute(f"select {put}")
    assert ends_quietly(listener, conn)
    one.commit()
    assert woken(listener)


@pytest.mark.parametrize(
    "call",
    [
        "queue_put('apples', '1', notify => false)",
        "queue_put_many('apples', array['1']::jsonb[], notify => false)",
        "queue_put_many('apples', '{}'::jsonb[])",
        "queue_put('pears', '1')",
        "queue_get('apples')",
        "queue_clear('apples')",
    ],
)
def test_these_wake_nobody(database, conn, call):
    listener = database.connect()
    listen(listener)
    conn.execute(f"select {call}")
    assert ends_quietly(listener, conn)


def test_wait_is_the_time_until_the_next_job_comes_due(conn):
    assert value(conn, "select queue_wait('apples')") is None
    conn.execute("select queue_put('apples', '1', schedule_in => '2h')")
    conn.execute("select queue_put('apples', '1', schedule_in => '1h')")
    conn.execute("select queue_put('pears', '1', schedule_in => '1m')")
    assert timedelta(minutes=59) < value(conn, "select queue_wait('apples')") <= timedelta(hours=1)


def test_wait_does_not_count_jobs_that_can_be_taken(conn):
    conn.execute("select queue_put('apples', '1'), queue_put('apples', '1', schedule_in => '1us')")
    assert value(conn, "select queue_wait('apples')") is None


def test_wait_of_a_paused_queue_is_until_a_notification(conn):
    conn.execute("select queue_put('apples', '1', schedule_in => '1h')")
    conn.execute("select queue_pause('apples')")
    assert value(conn, "select queue_wait('apples')") is None


def test_after_waiting_as_told_the_job_is_due(conn):
    conn.execute("select queue_put('apples', '1', schedule_in => '20ms')")
    conn.execute("select pg_sleep_for(queue_wait('apples'))")
    assert column(conn, GET) == [1]


def test_a_channel_is_short_and_belongs_to_one_queue(conn):
    names = ["apples", "Apples", "x" * 255, "x" * 254]
    channels = [value(conn, "select queue_channel(%s)", name) for name in names]
    assert len(set(channels)) == 4
    assert all(len(channel.encode()) <= 63 for channel in channels)
    assert value(conn, "select queue_channel('apples')") == channels[0]


# Leases


WAKING = {
    "release": "queue_release('apples', {id}, '{receipt}')",
    "release, many": "queue_release_many('apples', '{{{id}}}', '{{{receipt}}}')",
    "error": "queue_error('apples', {id}, '{receipt}')",
    "error, many": "queue_error_many('apples', '{{{id}}}', '{{{receipt}}}')",
    "error, at once": "queue_error('apples', {id}, '{receipt}', retry_in => '0')",
    "a lease made shorter": "queue_progress('apples', {id}, '{receipt}', lease => '1 minute')",
}
QUIET = {
    "complete": "queue_complete('apples', {id}, '{receipt}')",
    "complete, many": "queue_complete_many('apples', '{{{id}}}', '{{{receipt}}}')",
    "progress": "queue_progress('apples', {id}, '{receipt}', 1)",
    "a lease made longer": "queue_progress('apples', {id}, '{receipt}', lease => '1 hour')",
    "bury": "queue_error('apples', {id}, '{receipt}', bury => true)",
    "another receipt": "queue_release('apples', {id}, gen_random_uuid())",
    "an error with another receipt": "queue_error('apples', {id}, gen_random_uuid())",
    "an error without a receipt": "queue_error('apples', {id}, null)",
    "lease": "queue_lease('apples')",
    "a redrive of none": "queue_redrive('apples')",
    "dead_delete": "queue_dead_delete('apples')",
}


def leased(conn):
    conn.execute("select queue_put('apples', '1')")
    return conn.execute("select id, receipt from queue_lease('apples')").fetchone()


@pytest.mark.parametrize("what", WAKING)
def test_a_leased_job_that_comes_back_earlier_wakes(database, conn, what):
    listener, one = database.connect(), database.connect(autocommit=False)
    id, receipt = leased(conn)
    listen(listener)
    one.execute(f"select {WAKING[what].format(id=id, receipt=receipt)}")
    assert ends_quietly(listener, conn)
    one.commit()
    assert woken(listener)


@pytest.mark.parametrize("what", QUIET)
def test_what_brings_no_job_wakes_nobody(database, conn, what):
    listener = database.connect()
    id, receipt = leased(conn)
    listen(listener)
    conn.execute(f"select {QUIET[what].format(id=id, receipt=receipt)}")
    assert ends_quietly(listener, conn)


def test_a_redrive_wakes(database, conn):
    listener = database.connect()
    id, receipt = leased(conn)
    conn.execute("select queue_error('apples', %s, %s, bury => true)", [id, receipt])
    listen(listener)
    conn.execute("select queue_redrive('apples')")
    assert woken(listener)


def test_an_attempt_that_was_rolled_back_wakes_when_it_is_counted(database, conn):
    listener = database.connect()
    conn.execute("select queue_put('apples', '1')")
    id = value(conn, "select id from queue_list('apples')")
    listen(listener)
    conn.execute("select queue_error('apples', %s, null)", [id])
    assert woken(listener)


def test_a_lease_that_promotes_wakes_those_who_found_nothing(database, conn):
    """Two consumers wake when two leases have run out; one promotes both and leases one, the other sees none."""
    one, two = database.connect(autocommit=False), database.connect()
    conn.execute("select queue_put_many('apples', array['1', '2']::jsonb[])")
    conn.execute("select queue_lease('apples', 2)")
    conn.execute("update queue_job set ready_at = now() - interval '1 s', lease_until = now() - interval '1 s'")
    listen(two)
    assert column(one, "select data from queue_lease('apples')") == [1]
    assert column(two, "select data from queue_lease('apples')") == []
    assert ends_quietly(two, conn)
    one.commit()
    assert woken(two)
    assert column(two, "select data from queue_lease('apples')") == [2]


def test_a_lease_that_takes_all_it_promotes_wakes_nobody(database, conn):
    listener = database.connect()
    leased(conn)
    conn.execute("update queue_job set ready_at = now() - interval '1 s', lease_until = now() - interval '1 s'")
    listen(listener)
    assert column(conn, "select attempts from queue_lease('apples')") == [2]
    assert ends_quietly(listener, conn)


def test_wait_is_until_the_lease_ends(conn):
    leased(conn)
    assert timedelta(minutes=4) < value(conn, "select queue_wait('apples')") <= timedelta(minutes=5)


# Only sleepers are notified


@pytest.fixture
def observer(database, conn):
    """Hears what is sent to the channels, without being a sleeper."""
    observer = database.connect()
    for queue in ("apples", "pears"):
        observer.execute(f"listen {value(conn, 'select queue_channel(%s)', queue)}")
    return observer


def sent(observer, conn):
    """How many notifications were sent until now."""
    conn.execute("select pg_notify(queue_channel('apples'), 'the end')")
    heard = []
    while "the end" not in heard:
        found = [n.payload for n in observer.notifies(timeout=10, stop_after=1)]
        assert found, "not even the last one"
        heard += found
    return len(heard) - 1


def settle(conn, queue="apples"):
    """Until the queue is known to have no producer of before; nobody puts meanwhile."""
    assert value(conn, "select queue_wait(%s)", queue) is None


def locks_of(conn, other):
    return value(
        conn,
        "select count(*) from pg_locks where locktype = 'advisory' and pid = %s",
        other.info.backend_pid,
    )


PUT = "select queue_put('apples', '1')"


def test_where_nobody_sleeps_nothing_is_sent(database, conn, observer):
    assert sent(observer, conn) == 0
    for call in ("queue_put('apples', '1')", "queue_put_many('apples', array['1']::jsonb[])"):
        conn.execute(f"select {call}")
    id, receipt = conn.execute("select id, receipt from queue_lease('apples')").fetchone()
    conn.execute("select queue_release('apples', %s, %s)", [id, receipt])
    assert sent(observer, conn) == 0
    listen(database.connect())
    conn.execute(PUT)
    conn.execute("select queue_put('pears', '1')")
    assert sent(observer, conn) == 1


def test_after_unlisten_nothing_is_sent(database, conn, observer):
    sleeper = database.connect()
    listen(sleeper)
    conn.execute(PUT)
    assert sent(observer, conn) == 1
    sleeper.execute("select queue_unlisten('apples')")
    conn.execute(PUT)
    assert sent(observer, conn) == 0
    assert locks_of(conn, sleeper) == 0
    assert value(sleeper, "select count(*) from pg_listening_channels()") == 0


def test_after_a_sleepers_death_nothing_is_sent(database, conn, observer):
    sleeper = database.connect()
    listen(sleeper)
    conn.execute("select pg_terminate_backend(%s, 10000)", [sleeper.info.backend_pid])
    conn.execute(PUT)
    assert sent(observer, conn) == 0


def test_after_discard_all_nothing_is_sent_until_it_listens_again(database, conn, observer):
    sleeper = database.connect()
    listen(sleeper)
    sleeper.execute("discard all")
    conn.execute(PUT)
    assert sent(observer, conn) == 0
    listen(sleeper)
    conn.execute(PUT)
    assert woken(sleeper)


def test_a_session_that_listens_notifies_itself(conn):
    listen(conn)
    conn.execute(PUT)
    assert woken(conn, timeout=1)


def test_to_listen_twice_is_to_listen_once(database, conn, observer):
    sleeper = database.connect()
    assert listen(sleeper) == listen(sleeper)
    conn.execute(PUT)
    assert sent(observer, conn) == 1
    sleeper.execute("select queue_unlisten('apples')")
    conn.execute(PUT)
    assert sent(observer, conn) == 0
    assert locks_of(conn, sleeper) == 0


@pytest.mark.parametrize("end", ["rollback", "rollback to savepoint s; commit"])
def test_a_queue_unlisten_that_was_rolled_back_does_not_keep_the_next_queue_listen_from_its_lock(database, conn, end):
    """What it lets go of stays let go: locks of sessions know no transactions."""
    sleeper = database.connect()
    listen(sleeper)
    sleeper.execute("begin; savepoint s")
    sleeper.execute("select queue_unlisten('apples')")
    sleeper.execute(end)
    listen(sleeper)
    conn.execute(PUT)
    assert woken(sleeper)
    sleeper.execute("select queue_unlisten('apples')")
    assert locks_of(conn, sleeper) == 0


def test_a_queue_listen_that_was_rolled_back_is_undone_by_queue_unlisten(database, conn):
    sleeper = database.connect()
    queues = [f"queue {n}" for n in range(40)]
    sleeper.execute("begin")
    sleeper.execute("select queue_listen(name) from unnest(%s::text[]) name", [queues])
    sleeper.execute("rollback")
    assert locks_of(conn, sleeper) == 17
    sleeper.execute("select queue_unlisten(name) from unnest(%s::text[]) name", [queues])
    assert locks_of(conn, sleeper) == 0


def test_sets_of_many_queues_are_woken_with_few_locks(database, conn):
    sleeper = database.connect()
    queues = [f"queue {n}" for n in range(40)]
    sleeper.execute("select queue_listen(name) from unnest(%s::text[]) name", [queues])
    assert locks_of(conn, sleeper) <= 17
    for queue in queues:
        conn.execute("select queue_put(%s, '1')", [queue])
        assert woken(sleeper)
    sleeper.execute("select queue_unlisten(name) from unnest(%s::text[]) name", [queues])
    assert locks_of(conn, sleeper) == 0
    assert value(sleeper, "select current_setting('pgq_py.listening') || current_setting('pgq_py.unsettled')") == ""


def test_a_transaction_that_puts_into_ten_thousand_queues_holds_64_locks(database, conn):
    one = database.connect(autocommit=False)
    one.execute("select queue_put('queue ' || n, '1') from generate_series(1, 10000) n")
    assert locks_of(conn, one) == 64
    one.rollback()
    assert locks_of(conn, one) == 0


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_whoever_sleeps_while_a_producer_is_not_done_looks_again_within_20_ms(database, conn, isolation):
    one, sleeper = database.connect(autocommit=False), database.connect()
    one.execute(f"set transaction isolation level {isolation}")
    one.execute(PUT)
    listen(sleeper)
    for _ in range(2):
        assert timedelta(0) < value(sleeper, "select queue_wait('apples')") <= timedelta(milliseconds=20)
        assert column(sleeper, GET) == []
    one.commit()
    settle(sleeper)
    assert column(sleeper, GET) == [1]


def test_it_settles_when_the_producers_of_before_are_done_though_there_are_always_others(database, conn):
    producers = [database.connect(autocommit=False) for _ in range(2)]
    sleeper = database.connect()
    producers[0].execute(PUT)
    listen(sleeper)
    assert value(sleeper, "select queue_wait('apples')") is not None
    producers[1].execute(PUT)
    producers[0].commit()
    settle(sleeper)
    producers[1].commit()
    assert woken(sleeper)


def test_a_prepared_put_wakes_within_20_ms_of_its_commit(database, conn):
    sleeper = database.connect()
    conn.execute("begin")
    conn.execute(PUT)
    conn.execute("prepare transaction 'wake'")
    try:
        listen(sleeper)
        assert value(sleeper, "select queue_wait('apples')") <= timedelta(milliseconds=20)
    finally:
        conn.execute("commit prepared 'wake'")
    settle(sleeper)
    assert column(sleeper, GET) == [1]


# Strangers that hold our locks

BUCKET = "_queue_class(), (hashtextextended('apples', 0) & 63)::integer"
LOCKS = {"one": "_queue_key('apples')", "many": "_queue_class(), 64", "producers": BUCKET}


@pytest.mark.parametrize("mode", ["", "_shared"])
@pytest.mark.parametrize("lock", LOCKS)
def test_a_stranger_who_holds_our_locks_makes_nobody_wait_and_no_wake_up_lost(database, conn, observer, lock, mode):
    stranger, sleeper = database.connect(), database.connect()
    conn.execute("set statement_timeout = '5s'")
    sleeper.execute("set statement_timeout = '5s'")
    stranger.execute(f"select pg_advisory_lock{mode}({LOCKS[lock]})")
    conn.execute(PUT)
    # Needlessly, unless it is the lock that producers share.
    assert sent(observer, conn) == (0 if (lock, mode) == ("producers", "_shared") else 1)
    assert column(sleeper, GET) == [1]
    listen(sleeper)
    pause = value(sleeper, "select queue_wait('apples')")
    stranger.execute("select pg_advisory_unlock_all()")
    conn.execute(PUT)
    # Where it could not get its lock, it polls.
    assert pause == timedelta(milliseconds=20) if (lock, mode) == ("one", "") else woken(sleeper)
    assert column(sleeper, GET) == [1]
    listen(sleeper)
    settle(sleeper)
    conn.execute(PUT)
    assert woken(sleeper)

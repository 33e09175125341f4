"""The order in which jobs come: higher priority, then earlier expected_at with none last, then lower id."""

import random

import pytest
from sql_sessions import column


def fill(conn, seed, due):
    """60 jobs at random; with `due`, about half of them have been waiting for their time."""
    pick = random.Random(seed)
    jobs = []
    for n in range(60):
        priority = pick.choice([-1, 0, 0, 2])
        expected = pick.choice([None, None, "-1h", "1h", "2h"])
        waiting = due and pick.random() < 0.5
        conn.execute(
            """
            select queue_put('apples', to_jsonb(%s::integer), priority => %s, schedule_in => %s,
                expected_at => timestamptz '2030-01-01 00:00Z' + %s::interval)
            """,
            [n, priority, "1us" if waiting else None, expected],
        )
        rank = {"-1h": 0, "1h": 1, "2h": 2, None: 3}[expected]
        jobs.append((-priority, rank, n))
    return [n for *_, n in sorted(jobs)]


@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize("promote", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_one_by_one(conn, due, promote, seed):
    expected = fill(conn, seed, due)
    query = "select data from queue_get('apples', promote => %s)"
    assert [n for _ in range(60) for n in column(conn, query, promote)] == expected


@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize("promote", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_in_batches(conn, due, promote, seed):
    expected = fill(conn, seed, due)
    query = "select data from queue_get('apples', 7, promote => %s)"
    assert [n for _ in range(10) for n in column(conn, query, promote)] == expected


@pytest.mark.parametrize("due", [False, True])
def test_listed_in_the_order_of_taking(conn, due):
    expected = fill(conn, 3, due)
    assert column(conn, "select data from queue_list('apples')") == expected
    assert column(conn, "select data from queue_list('apples', count => 9)") == expected[:9]
    assert column(conn, "select data from queue_get('apples', 60)") == expected


def test_two_takers_share_the_order(database):
    one, two = database.connect(autocommit=False), database.connect(autocommit=False)
    with database.connect() as conn:
        expected = fill(conn, 4, due=True)
    taken = []
    for n in range(60):
        taken += column((one, two)[n % 2], "select data from queue_get('apples')")
    assert taken == expected


def test_of_many_due_jobs_no_ready_one_is_overtaken(database, conn):
    """Others hold all ready jobs that a first look reads; the next ready one still comes before the due ones."""
    one = database.connect(autocommit=False)
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[300]), priority => 1)")
    conn.execute("select queue_put('apples', '2', schedule_in => '1us')")
    assert column(one, "select data from queue_get('apples', 200)") == [1] * 200
    assert column(conn, "select data from queue_get('apples', 101)") == [1] * 100 + [2]


def test_a_batch_with_keys_comes_in_the_order_of_the_array(conn):
    conn.execute(
        """
        select queue_put_many('apples', array['1', '2', '3', '4']::jsonb[],
            dedupe_keys => array['z', null, 'm', 'a'])
        """
    )
    assert column(conn, "select data from queue_get('apples', 9)") == [1, 2, 3, 4]

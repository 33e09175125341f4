"""Takers while an old snapshot keeps the dead rows of jobs that were taken: they go around them, and what they pass
over meanwhile is given when the time that the session has noted is over.

How much is read is counted in pages, which are the same on every machine.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sql_sessions import column, refused, value

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

Connection = psycopg.Connection[Any]

# No machine walks over so many in a millisecond, from which on a head is far away.
DEAD = 30_000
# What a call reads that goes around them. From the start they are more than 400.
PAGES = 120

PAGES_READ = """
    select sum(pg_stat_get_xact_blocks_fetched(oid))
    from pg_class
    where oid = 'queue_job'::regclass
        or oid in (select indexrelid from pg_index where indrelid = 'queue_job'::regclass)
"""
GET = "select id from queue_get('{queue}')"
GET_7 = "select id from queue_get('{queue}', 7)"
GET_DUE = "select id from queue_get('{queue}', promote => true)"
LEASE = "select id from queue_lease('{queue}', lease => '1 day')"
LEASE_AND_COMPLETE = """
    select j.id from queue_lease('{queue}') j, lateral queue_complete('{queue}', j.id, j.receipt)
"""


@pytest.fixture
def held(database) -> Connection:
    """A transaction that is open, and sees the database as it was."""
    conn = database.connect(autocommit=False)
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.execute("select count(*) from queue_job")
    return conn


def put_many(conn: Connection, number: int, queue: str = "apples", **options: Any) -> list[int]:
    given = "".join(f", {name} => '{to}'" for name, to in options.items())
    query = f"select id from queue_put_many('{queue}', array_fill('1'::jsonb, array[{number}]){given})"
    return column(conn, query)


def take_all(conn: Connection, queue: str = "apples") -> None:
    assert value(conn, f"select count(*) from queue_get('{queue}', {DEAD}, promote => true)") == DEAD


def noted(conn: Connection, kind: str = "head", queue: str = "apples") -> list[str]:
    """What the session remembers: until when, and the rest."""
    query = "select current_setting(format('pgq_py.%s_%s', %s::text, to_hex(hashtextextended(%s, {}))), true)"
    query = query.replace("%s_%s", "%%s_%%s").format("'queue_job'::regclass::oid::bigint")
    return (value(conn, query, kind, queue) or "").split()


def now(conn: Connection) -> float:
    return float(value(conn, "select extract(epoch from clock_timestamp())"))


def go_far(conn: Connection, queue: str = "apples") -> None:
    """Take jobs until the session remembers where the head is."""
    for _ in range(3):
        column(conn, GET.format(queue=queue))
        if noted(conn, queue=queue):
            until, cost = map(float, noted(conn, queue=queue)[:2])
            assert cost > 0.001
            assert until - now(conn) < min(max(20 * cost, 0.1), 30) + cost
            return
    raise AssertionError("the dead rows were not noticed")


def pages_of(conn: Connection, query: str) -> tuple[int, list[Any]]:
    with conn.transaction():
        before = value(conn, PAGES_READ)
        rows = column(conn, query)
        return int(value(conn, PAGES_READ) - before), rows


def flat(
    conn: Connection, rounds: Callable[[], list[tuple[int, list[Any]]]], queues: int = 1, pages: int = PAGES
) -> None:
    """Most calls read little; a look from the start is made when the last one's time is over, and not before.

    That is so for each of the QUEUES that a call goes through and that have dead rows.
    """
    for _ in range(3):
        rounds()
    began = time.monotonic()
    seen = [one for _ in range(300) for one in rounds()]
    looks = [read for read, _ in seen if read > pages]
    assert len(looks) <= queues * (2 + 2 * (time.monotonic() - began) / 0.1)
    assert len(looks) < len(seen) / 2
    assert all(rows for _, rows in seen)


@pytest.mark.parametrize("take", [GET, GET_7, LEASE, LEASE_AND_COMPLETE])
def test_a_take_reads_as_little_as_without_dead_rows(database, conn, held, take):
    put_many(conn, DEAD)
    take_all(conn)
    one = database.connect()

    def rounds():
        put_many(conn, 7)
        return [pages_of(one, take.format(queue="apples"))]

    flat(one, rounds)


@pytest.mark.parametrize("take", [GET, LEASE])
def test_a_head_that_was_expected_before_christ_is_remembered(database, conn, held, take):
    put_many(conn, DEAD, expected_in="-4500 years")
    take_all(conn)
    ids = put_many(conn, 300, expected_in="-4000 years")
    one = database.connect()
    taken = column(one, take.format(queue="apples")) + column(one, take.format(queue="apples"))
    assert noted(one)
    while found := column(one, take.format(queue="apples")):
        taken += found
    assert taken == ids


def test_two_queues_in_turn_are_both_remembered(database, conn, held):
    put_many(conn, DEAD)
    take_all(conn)
    one = database.connect()

    def rounds():
        put_many(conn, 2)
        put_many(conn, 2, "pears")
        return [pages_of(one, GET.format(queue=queue)) for queue in ("apples", "pears")]

    flat(one, rounds)
    assert noted(one)
    assert not noted(one, queue="pears")


@pytest.mark.parametrize("kind", ["ready", "due"])
@pytest.mark.parametrize("take", ["get", "lease"])
def test_a_set_goes_around_the_dead_rows_of_each_of_its_queues(database, conn, held, take, kind):
    """Also in a large one, where so many pages are read that those of one queue don't stand out."""
    emptied, bloated = "apples", "pears"
    for queue in (emptied, bloated):
        put_many(conn, DEAD, queue, **({"schedule_in": "1us"} if kind == "due" else {}))
        take_all(conn, queue)
    one = database.connect()
    empty = [f"never used {n}" for n in range(150)]
    names = [*empty[:1], emptied, *empty[1:], bloated]
    query = f"select id from queue_{take}_any(array[{', '.join(repr(name) for name in names)}], promote => true)"

    def rounds():
        put_many(conn, 1, bloated)
        return [pages_of(one, query)]

    flat(one, rounds, queues=2, pages=8 * len(names) + PAGES)


def test_jobs_that_came_due_are_gone_around_as_well(database, conn, held):
    put_many(conn, DEAD, schedule_in="1us")
    take_all(conn)
    one = database.connect()

    def rounds():
        put_many(conn, 1, schedule_in="1us")
        return [pages_of(one, GET_DUE.format(queue="apples"))]

    flat(one, rounds)


def test_dead_rows_of_leases_are_gone_around_when_their_time_has_come(database, conn, held):
    put_many(conn, DEAD)
    one = database.connect()
    query = "select count(*) from queue_lease('apples', %s, lease => '1us') j, lateral "
    for _ in range(DEAD // 500):
        value(one, query + "queue_cancel('apples', j.id)", 500)

    def rounds():
        put_many(conn, 1)
        return [pages_of(one, LEASE.format(queue="apples"))]

    flat(one, rounds)


def given_in_time(conn: Connection, id: int, take: str = GET, also: int | None = None) -> None:
    """The job is taken by when the session said that it would look from the start, asleep as long as it is told.

    On a slow machine the other may be due before it is looked for, and come first.
    """
    left = {id, also} - {None}
    while left:
        began = now(conn)
        until = max([began, *(float(noted(conn, kind)[0]) for kind in ("head", "due") if noted(conn, kind))])
        is_there = value(conn, "select queue_count('apples')") > 0
        taken = column(conn, take.format(queue="apples"))
        left -= set(taken)
        if left and not taken:
            assert until > began or not is_there, "empty, though nothing was passed over"
            wait = value(conn, "select extract(epoch from queue_wait('apples'))")
            assert wait is not None, "asleep until somebody polls"
            assert began + float(wait) < max(until, began) + 1
            # What a consumer does: that no more time than this is lost is what the tests find out.
            time.sleep(max(float(wait), 0))


def released(conn, other):
    job = other.execute("select id, receipt from queue_lease('apples')").fetchone()
    return job[0], lambda: other.execute("select queue_release('apples', %s, %s)", job)


def redriven(conn, other):
    job = other.execute("select id, receipt from queue_lease('apples')").fetchone()
    other.execute("select queue_error('apples', %s, %s, 'no', bury => true)", job)
    return job[0], lambda: other.execute("select queue_redrive('apples')")


def rolled_back(conn, other):
    other.execute("begin")
    return value(other, "select id from queue_get('apples')"), lambda: other.execute("rollback")


def put_late(conn, other):
    other.execute("begin")
    return value(other, "select queue_put('apples', '1')"), lambda: other.execute("commit")


@pytest.mark.parametrize("take", [GET, LEASE])
@pytest.mark.parametrize("held_by", [released, redriven, rolled_back, put_late])
def test_what_comes_back_before_the_head_is_given_when_the_time_is_over(database, conn, held, held_by, take):
    one, other = database.connect(), database.connect()
    put_many(conn, DEAD)
    take_all(conn)
    put_many(conn, 1)
    id, come_back = held_by(conn, other)
    put_many(conn, 5)
    go_far(one)
    come_back()
    given_in_time(one, id, take)


@pytest.mark.parametrize("take", [GET, LEASE])
@pytest.mark.parametrize("better", [{"priority": 3}, {"expected_in": "1h"}, {"priority": 1, "expected_in": "-1h"}])
def test_what_ranks_before_the_head_is_given_at_once(database, conn, held, better, take):
    put_many(conn, DEAD)
    take_all(conn)
    one = database.connect()
    put_many(conn, 50)
    go_far(one)
    # While it is not known yet whether it is cheap to see what ranks before the head.
    (id,) = put_many(conn, 1, **better)
    assert column(one, take.format(queue="apples")) == [id]
    for _ in range(3):
        column(one, take.format(queue="apples"))  # that nothing ranks before the head is cheap to see
        (id,) = put_many(conn, 1, **better)
        assert column(one, take.format(queue="apples")) == [id]


def test_jobs_that_come_due_are_given_in_their_place(database, conn, held):
    put_many(conn, DEAD)
    take_all(conn)
    one = database.connect()
    ready = put_many(conn, 10)
    late = put_many(conn, 3, schedule_in="1us", priority=-1)
    early = put_many(conn, 2, schedule_in="1us", priority=1)
    taken = column(one, "select id from queue_get('apples', 2, promote => true)")
    assert taken == early
    go_far(one)
    early = put_many(conn, 2, schedule_in="1us", priority=1)
    late += put_many(conn, 2, schedule_in="1us", priority=-1)
    taken = column(one, "select id from queue_get('apples', 5, promote => true)")
    assert taken[:2] == early
    assert set(taken[2:]) < set(ready)
    assert set(column(one, "select id from queue_get('apples', 100, promote => true)")[-5:]) == set(late)


@pytest.mark.parametrize("promote", [False, True])
def test_leases_and_schedules_of_now_come_with_old_dead_rows(database, conn, held, promote):
    take = f"select id from queue_get('{{queue}}', promote => {promote})"
    put_many(conn, DEAD, schedule_in="1us")
    take_all(conn)
    one = database.connect()
    (leased,) = put_many(conn, 1)
    column(conn, "select id from queue_lease('apples', lease => '300 ms')")
    (scheduled,) = put_many(conn, 1, schedule_in="200 ms")
    given_in_time(one, scheduled, take, also=leased)


def test_a_schedule_put_late_is_given_when_the_time_is_over(database, conn, held):
    put_many(conn, DEAD, schedule_in="1us")
    one, other = database.connect(), database.connect()
    other.execute("begin")
    (id,) = put_many(other, 1, schedule_in="1us")
    take_all(conn)
    for _ in range(3):
        put_many(conn, 1, schedule_in="1us")
        column(one, GET_DUE.format(queue="apples"))
    assert noted(one, "due")
    other.execute("commit")
    given_in_time(one, id, GET_DUE)


def test_the_rollback_of_a_get_gives_back_where_the_head_was(database, conn, held):
    put_many(conn, DEAD)
    take_all(conn)
    one = database.connect()
    put_many(conn, 1000)
    go_far(one)
    before = noted(one)
    (first,) = value_of_rolled_back(one, "select id from queue_get('apples')")
    assert noted(one) == before
    with one.transaction():
        with one.transaction(force_rollback=True):
            taken = column(one, "select id from queue_get('apples', 900)")
            column(one, GET.format(queue="apples"))
            assert taken[0] == first
            assert noted(one) != before
        assert noted(one) == before
        assert column(one, GET.format(queue="apples")) == [first]


def value_of_rolled_back(conn: Connection, query: str) -> list[Any]:
    with conn.transaction(force_rollback=True):
        return column(conn, query)


def test_without_dead_rows_the_order_is_exact(database, conn):
    pick = random.Random(4)
    for _ in range(40):
        expected = pick.choice([{}, {"expected_in": f"{pick.randrange(100)}m"}])
        put_many(conn, 50, priority=pick.randrange(-3, 4), **expected)
    right = column(conn, "select id from queue_job order by rank, expected_at, id")
    take = "select id from queue_{}('apples', {}) with ordinality order by ordinality"
    taken = []
    while batch := column(conn, take.format(pick.choice(["get", "lease"]), pick.choice([1, 1, 1, 7, 30]))):
        taken += batch
    assert taken == right


def test_a_clock_that_is_put_back_hides_nothing_for_longer(database, conn, held):
    put_many(conn, DEAD)
    take_all(conn)
    one = database.connect()
    put_many(conn, 50)
    go_far(one)
    kept = noted(one)
    # As if an hour had passed since it was noted, and the clock were put back by it.
    name = "'pgq_py.head_' || to_hex(hashtextextended('apples', 'queue_job'::regclass::oid::bigint))"
    wrong = " ".join([str(float(kept[0]) + 3600), *kept[1:4], "1000000000", "t"])
    one.execute(f"select set_config({name}, %s, false)", [wrong])
    assert column(one, GET.format(queue="apples"))


def test_nonsense_in_the_settings_stays_in_the_session(database, conn):
    one = database.connect()
    put_many(conn, 2)
    for kind in ("head", "due"):
        name = f"'pgq_py.{kind}_' || to_hex(hashtextextended('apples', 'queue_job'::regclass::oid::bigint))"
        one.execute(f"select set_config({name}, 'x', false), set_config('pgq_py.has_head', '1 apples', false)")
        refused(one, "22P02", GET.format(queue="apples"))
        one.execute(f"select set_config({name}, '', false)")
    one.execute("set pgq_py.has_head = 'x'")
    refused(one, "22P02", GET.format(queue="apples"))
    assert len(column(conn, GET.format(queue="apples"))) == 1
    one.execute("reset all")
    assert len(column(one, GET.format(queue="apples"))) == 1

"""What a get reads of 1,000,000 waiting jobs: as much as of 1,000, however wrong the statistics are.

Time is not measured here but pages and rows, which are the same on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from conftest import install
from servers import Server
from sql_sessions import column, value

MANY = 1_000_000
# Pages of a get of one job: 14 with 1,000 jobs, and a level more in each index with 1,000,000.
PAGES = 22
# Rows that its index scans return: one to lock, the same one to delete, and one waiting at most.
ROWS = 4


@dataclass
class Seen:
    """What one call read and wrote."""

    pages: int
    rows: int
    deleted: int
    result: int


COUNTERS = """
    select
        sum(pg_stat_get_xact_tuples_returned(oid)) filter (where relkind = 'i')
            + sum(pg_stat_get_xact_tuples_returned(oid)) filter (where relkind = 'r'),
        sum(pg_stat_get_xact_tuples_deleted(oid))
    from pg_class
    where oid = 'queue_job'::regclass
        or oid in (select indexrelid from pg_index where indrelid = 'queue_job'::regclass)
"""


def look(conn: psycopg.Connection, call: str) -> Seen:
    """Run a call, undo it, and tell what it read."""
    with conn.transaction(force_rollback=True):
        rows, deleted = conn.execute(COUNTERS).fetchone()
        explain = f"explain (analyze, buffers, timing off, format json) select * from {call}"
        (explained,) = conn.execute(explain).fetchone()
        rows_after, deleted_after = conn.execute(COUNTERS).fetchone()
    plan = (explained if isinstance(explained, list) else json.loads(explained))[0]["Plan"]
    return Seen(
        pages=plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
        rows=int(rows_after - rows),
        deleted=int(deleted_after - deleted),
        result=int(plan["Actual Rows"]),
    )


CALLS = {
    "get": "queue_get('{}')",
    "get 10": "queue_get('{}', 10)",
    "get, promoting": "queue_get('{}', promote => true)",
    "wait": "queue_wait('{}')",
    "list 10": "queue_list('{}', scheduled => true, count => 10)",
    "cancel": "queue_cancel('{}', {})",
    "update": "queue_update('{}', {}, '1')",
    "put known key": "queue_put('{}', dedupe_key => 'known')",
    "put many known keys": "queue_put_many('{}', array['1']::jsonb[], dedupe_keys => array['known'])",
}


def look_at_all(conn: psycopg.Connection, queue: str) -> dict[str, Seen]:
    # On another queue first, so that the pages of the system catalogues are not counted.
    for call in CALLS.values():
        look(conn, call.format("nobody", 1))
    id = value(conn, "select coalesce(max(id), 1) from queue_job where queue = %s", queue)
    return {name: look(conn, call.format(queue, id)) for name, call in CALLS.items()}


FUNCTIONS = r"""
    select format('alter function %s set plan_cache_mode = {}', oid::regprocedure)
    from pg_proc where pronamespace = 'public'::regnamespace and proname ~ '^_?queue_'
        and prolang = (select oid from pg_language where lanname = 'plpgsql')
"""


@pytest.fixture(scope="module")
def seen(version: str, request: pytest.FixtureRequest) -> Iterator[dict[str, dict[str, Seen]]]:
    """All that is measured, by situation: it goes from stale statistics to true ones, and there is no way back."""
    server: Server = request.getfixturevalue(f"server_{version}")
    name = f"plans{version}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"drop database if exists {name}")
        admin.execute(f"create database {name}")
    install(server.host, server.port, server.user, name)

    opened = []

    def connect() -> psycopg.Connection:
        opened.append(psycopg.connect(server.dsn(name), autocommit=True))
        return opened[-1]

    def fill(queue: str, ready: int, waiting: int) -> None:
        query = "select queue_put_many(%s, array(select to_jsonb(i) from generate_series(1, %s) i), schedule_in => %s)"
        for in_, number in ((None, ready), ("1d", waiting)):
            for first in range(0, number, 100_000):
                conn.execute(f"select count(*) from ({query}) x", [queue, min(100_000, number - first), in_])
        conn.execute("select queue_put(%s, dedupe_key => 'known')", [queue])

    situations = {}
    try:
        conn = connect()
        conn.execute("alter table queue_job set (autovacuum_enabled = off)")
        conn.execute("analyze queue_job")
        # A session whose plans are made, and kept, while the table is empty and known to be.
        early = connect()
        for _ in range(10):
            look_at_all(early, "nobody")

        fill("few", 1000, 0)
        situations["few"] = look_at_all(connect(), "few")
        fill("many", MANY, 200_000)
        situations["plans kept from the empty table"] = look_at_all(early, "many")
        situations["statistics of the empty table"] = look_at_all(connect(), "many")
        generic = column(conn, FUNCTIONS.format("force_generic_plan"))
        custom = column(conn, FUNCTIONS.format("force_custom_plan"))
        kept = column(
            conn,
            r"""
            select format('alter function %s set plan_cache_mode = force_generic_plan', oid::regprocedure)
            from pg_proc where 'plan_cache_mode=force_generic_plan' = any (proconfig)
            """,
        )
        reset = [line.replace("set plan_cache_mode = force_generic_plan", "reset plan_cache_mode") for line in generic]
        for when in ("statistics of the empty table", "analyzed"):
            if when == "analyzed":
                conn.execute("analyze queue_job")
                situations["analyzed"] = look_at_all(connect(), "many")
                situations["analyzed, an old session"] = look_at_all(early, "many")
            for kind, lines in (("custom", custom), ("generic", generic), ("as the server chooses", reset)):
                for line in lines:
                    conn.execute(line)
                situations[f"{when}, {kind} plans"] = look_at_all(connect(), "many")
            for line in [*reset, *kept]:
                conn.execute(line)
        conn.execute("vacuum queue_job")
        situations["vacuumed"] = look_at_all(connect(), "many")
        yield situations
    finally:
        for conn in opened:
            conn.close()
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(f"drop database {name}")


SITUATIONS = [
    "few",
    "plans kept from the empty table",
    "statistics of the empty table",
    "statistics of the empty table, custom plans",
    "statistics of the empty table, generic plans",
    "statistics of the empty table, as the server chooses plans",
    "analyzed",
    "analyzed, an old session",
    "analyzed, custom plans",
    "analyzed, generic plans",
    "analyzed, as the server chooses plans",
    "vacuumed",
]


def test_no_situation_is_forgotten(seen):
    assert list(seen) == SITUATIONS


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", ["get", "get, promoting"])
def test_a_get_reads_a_few_pages(seen, situation, name):
    got = seen[situation][name]
    assert got.pages <= PAGES
    assert got.rows <= ROWS
    assert (got.result, got.deleted) == (1, 1)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_get_of_ten_reads_ten_times_as_much_at_most(seen, situation):
    got = seen[situation]["get 10"]
    assert got.pages <= 10 * PAGES
    assert got.rows <= 10 * ROWS
    assert (got.result, got.deleted) == (10, 10)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize(
    ("name", "pages", "rows"),
    [
        ("wait", 10, 1),
        ("list 10", 120, 30),
        ("cancel", 40, 5),
        ("update", 40, 5),
        ("put known key", 40, 5),
        ("put many known keys", 40, 5),
    ],
)
def test_the_other_calls_read_little_as_well(seen, situation, name, pages, rows):
    got = seen[situation][name]
    assert got.pages <= pages
    assert got.rows <= rows


@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize("promote", [False, True])
def test_with_stale_statistics_no_more_is_locked_than_taken(database, due, promote):
    conn, one = database.connect(), database.connect()
    conn.execute("alter table queue_job set (autovacuum_enabled = off)")
    conn.execute("select queue_put('apples', '1')")
    conn.execute("analyze queue_job")
    get = f"queue_get('apples', 7, promote => {promote})"
    look(one, get)
    conn.execute(
        "select queue_put_many('apples', array_fill('1'::jsonb, array[3000]), schedule_in => %s)",
        ["1ms" if due else None],
    )
    conn.execute("select pg_sleep(0.002)")
    for session in (one, database.connect()):
        assert look(session, get).deleted == 7
        with session.transaction(force_rollback=True):
            assert len(column(session, f"select id from {get}")) == 7
            free = value(
                conn,
                "select count(*) from (select from queue_job where queue = 'apples' for update skip locked) x",
            )
            # What was promoted beyond that is locked until the end of the caller's transaction.
            assert free == (3001 - 7 if not (due and promote) else 3001 - 101)

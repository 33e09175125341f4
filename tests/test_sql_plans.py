"""What a get or a lease reads of 1,000,000 waiting jobs: as much as of 1,000, however wrong the statistics are.

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

# Filling the tables takes a minute, more on a machine that is busy.
pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

MANY = 1_000_000
# Pages of a get of one job: 17 with 1,000 jobs (3 of them to count it in the totals), and a level more in each index
# with 1,000,000.
PAGES = 25
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


RECEIPT = "3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0"
ONE = f"'{{queue}}', {{leased}}, '{RECEIPT}'"
SOME = f"'{{queue}}', '{{{{{{leased}}, 1, 2}}}}', array_fill('{RECEIPT}'::uuid, array[3])"
CALLS = {
    "get": "queue_get('{queue}')",
    "get 10": "queue_get('{queue}', 10)",
    "get, promoting": "queue_get('{queue}', promote => true)",
    # For so long that what these leave behind when they are undone lies behind all other jobs.
    "lease": "queue_lease('{queue}', lease => '10 days')",
    "lease any": "queue_lease_any(array['nothing', '{queue}'], lease => '10 days')",
    "get any of 101": "queue_get_any(array(select 'nothing ' || n from generate_series(1, 100) n) || '{queue}'::text)",
    "lease 10": "queue_lease('{queue}', 10, lease => '10 days')",
    "complete": f"queue_complete({ONE})",
    "error": f"queue_error({ONE}, retry_in => '10 days')",
    "error without a receipt": "queue_error('{queue}', {id}, null, retry_in => '10 days')",
    "bury": f"queue_error({ONE}, bury => true)",
    "release": f"queue_release({ONE})",
    "progress": f"queue_progress({ONE})",
    "complete many": f"queue_complete_many({SOME})",
    "error many": f"queue_error_many({SOME}, retry_in => '10 days')",
    "release many": f"queue_release_many({SOME})",
    "progress many": f"queue_progress_many({SOME})",
    "wait": "queue_wait('{queue}')",
    "list 10": "queue_list('{queue}', scheduled => true, count => 10)",
    "cancel": "queue_cancel('{queue}', {id})",
    "update": "queue_update('{queue}', {id}, '1')",
    "update with a receipt": f"queue_update({ONE.rpartition(',')[0]}, '1', receipt => '{RECEIPT}')",
    "put": "queue_put('{queue}', '1')",
    "put many": "queue_put_many('{queue}', array_fill('1'::jsonb, array[100]))",
    "get 100": "queue_get('{queue}', 100)",
    "lease 100": "queue_lease('{queue}', 100, lease => '10 days')",
    "put known key": "queue_put('{queue}', dedupe_key => 'known')",
    "put many known keys": "queue_put_many('{queue}', array['1']::jsonb[], dedupe_keys => array['known'])",
    "redrive one": "queue_redrive('{queue}', ids => '{{{leased}}}')",
}


def look_at_all(conn: psycopg.Connection, queue: str) -> dict[str, Seen]:
    # On another queue first, so that the pages of the system catalogues are not counted.
    for call in CALLS.values():
        look(conn, call.format(queue="nobody", id=1, leased=1))
    id = value(conn, "select coalesce(max(id), 1) from queue_job where queue = %s", queue)
    # The last but one, see below. A first error, for the functions that only a failed job needs.
    look(conn, CALLS["error"].format(queue=queue, leased=id - 1))
    # Twice: where the pages that have room are full by now, a call that writes looks at many, once.
    return {
        name: min((look(conn, call.format(queue=queue, id=id, leased=id - 1)) for _ in range(2)), key=lambda s: s.pages)
        for name, call in CALLS.items()
    }


# Where the head is, for half a minute.
REMEMBER_LONGER = """
    select set_config(
        name,
        regexp_replace(current_setting(name), '^[0-9.]+', (extract(epoch from clock_timestamp()) + 30)::text),
        false
    )
    from concat('pgq_py.head_', to_hex(hashtextextended('many', 'queue_job'::regclass::oid::bigint))) as name
"""
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
        # One call in 200 also adds up totals: not here.
        opened.append(psycopg.connect(server.dsn(name), autocommit=True, options="-c pgq_py.fold_after=never"))
        return opened[-1]

    def fill(queue: str, ready: int, waiting: int, leased: int) -> None:
        query = "select queue_put_many(%s, array(select to_jsonb(i) from generate_series(1, %s) i), schedule_in => %s)"
        for in_, number in ((None, ready), ("1d", waiting)):
            for first in range(0, number, 100_000):
                conn.execute(f"select count(*) from ({query}) x", [queue, min(100_000, number - first), in_])
        conn.execute(
            """
            insert into queue_job (queue, enqueued_at, ready_at, lease_until, receipt, attempts, data)
            select %s, now(), now() + interval '1 day', now() + interval '2 days', %s, 1, '1'
            from generate_series(1, %s)
            """,
            [queue, RECEIPT, leased],
        )
        conn.execute("select queue_put(%s, dedupe_key => 'known')", [queue])

    situations = {}
    try:
        conn = connect()
        # Of any of them it would make the sessions read the catalogues again, which would count.
        for table in ("queue_job", "queue_dead", "queue_setting", "queue_tally", "queue_total"):
            conn.execute(f"alter table {table} set (autovacuum_enabled = off)")
        conn.execute("analyze queue_job")
        # A session whose plans are made, and kept, while the table is empty and known to be.
        early = connect()
        for _ in range(10):
            look_at_all(early, "nobody")

        fill("few", 1000, 0, 100)
        situations["few"] = look_at_all(connect(), "few")
        fill("many", MANY, 200_000, 100_000)
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
        # The dead rows of the jobs that were at the head stay.
        opened.append(psycopg.connect(server.dsn(name)))
        opened[-1].isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        opened[-1].execute("select count(*) from queue_setting")
        conn.execute("select count(*) from queue_get('many', 30000)")
        conn.execute("analyze queue_job")
        behind = connect()
        for _ in range(3):
            behind.execute("select queue_get('many')")
        (until,) = behind.execute(REMEMBER_LONGER).fetchone()
        assert until, "the dead rows were not noticed"
        situations["bloated"] = look_at_all(behind, "many")
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
    "bloated",
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
        ("put", 25, 1),
        ("put many", 1500, 1),
        ("get 100", 100 * PAGES, 100 * ROWS),
        ("lease 100", 2500, 100 * ROWS),
        ("put known key", 40, 5),
        ("put many known keys", 40, 5),
        ("lease", 45, ROWS + 2),
        ("lease 10", 250, 10 * ROWS),
        ("lease any", 45, ROWS + 2),
        ("get any of 101", 100 * 8 + PAGES, ROWS + 1),
        ("complete", 15, 3),
        ("error", 45, 7),
        ("error without a receipt", 45, 7),
        ("bury", 45, 7),
        ("release", 25, 4),
        ("progress", 25, 4),
        ("complete many", 25, 3),
        ("error many", 50, 7),
        ("release many", 35, 4),
        ("progress many", 35, 6),
        ("update with a receipt", 40, 5),
        ("redrive one", 30, 1),
    ],
)
def test_the_other_calls_read_little_as_well(seen, situation, name, pages, rows):
    if (situation, name) == ("bloated", "list 10"):
        pages, rows = 1500, 31_000  # who lists jobs looks from the start, over 30,000 dead rows
    got = seen[situation][name]
    assert got.pages <= pages
    assert got.rows <= rows


DELETED = {
    "get 100": 100,
    "complete": 1,
    "complete many": 1,
    "bury": 1,
    "get": 1,
    "get 10": 10,
    "get, promoting": 1,
    "get any of 101": 1,
    "cancel": 1,
}
RESULTS = {"get 10": 10, "lease 10": 10, "list 10": 10, "put many": 100, "get 100": 100, "lease 100": 100} | {
    f"{verb} many": 3 for verb in ("complete", "error", "release", "progress")
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_call_did_what_it_is_measured_for(seen, situation):
    for name, got in seen[situation].items():
        assert (name, got.deleted, got.result) == (name, DELETED.get(name, 0), RESULTS.get(name, 1))


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
        ["1us" if due else None],
    )
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


@pytest.mark.parametrize("due", [False, True])
def test_with_stale_statistics_no_more_is_locked_than_leased(database, due):
    conn, one = database.connect(), database.connect()
    conn.execute("alter table queue_job set (autovacuum_enabled = off)")
    conn.execute("select queue_put('apples', '1')")
    conn.execute("analyze queue_job")
    look(one, "queue_lease('apples', 7)")
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[3000]))")
    if due:
        conn.execute("select count(*) from queue_lease('apples', 3001)")
        conn.execute("update queue_job set ready_at = now() - interval '1 s', lease_until = now() - interval '1 s'")
    free = "select count(*) from (select from queue_job where queue = 'apples' for update skip locked) x"
    for session in (one, database.connect()):
        with session.transaction(force_rollback=True):
            assert len(column(session, "select id from queue_lease('apples', 7)")) == 7
            assert value(conn, free) == 3001 - (100 if due else 7)


@pytest.mark.parametrize("dead", [False, True])
def test_with_stale_statistics_an_export_takes_no_square_of_its_jobs(conn, dead):
    conn.execute("alter table queue_job set (autovacuum_enabled = off)")
    conn.execute("alter table queue_dead set (autovacuum_enabled = off)")
    conn.execute("analyze queue_job, queue_dead")
    call = f"select count(*) from queue_export('apples', count => 100000, dead => {dead}, take => true)"
    assert value(conn, call) == 0
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[100000]))")
    if dead:
        conn.execute("select queue_bury('apples', id, 'rotten') from queue_get('apples', 100000)")
    # A second; before PostgreSQL 17 it was a minute.
    conn.execute("set statement_timeout = '20s'")
    assert value(conn, call) == 100000

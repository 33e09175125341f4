"""Show what queue_get does, statement by statement: EXPLAIN (ANALYZE, BUFFERS) with few and many jobs.

    python tools/show_plans.py "host=... dbname=..." > docs/design/plans.md

Makes a schema `show_plans` in that database and drops it again. The role must be a superuser, and the
server must have auto_explain.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psycopg

SQL = Path(__file__).parent.parent / "sql"
MANY = 1_000_000

Connection = psycopg.Connection[Any]


def connect(dsn: str) -> Connection:
    """An autocommit connection to the installation."""
    conn = psycopg.connect(dsn, autocommit=True)
    conn.execute("set search_path to show_plans, pg_temp")
    return conn


def install(conn: Connection) -> None:
    """Load the queue, with vacuum and analyze left to this script."""
    conn.execute("drop schema if exists show_plans cascade")
    conn.execute("create schema show_plans")
    for file in [SQL / "schema.sql", *sorted((SQL / "functions").glob("*.sql"))]:
        conn.execute(file.read_bytes())
    conn.execute("alter table queue_job set (autovacuum_enabled = off)")
    conn.execute("analyze queue_job")


def fill(conn: Connection, queue: str, number: int, schedule_in: str | None = None) -> None:
    """Put jobs in batches of 100,000."""
    for first in range(0, number, 100_000):
        conn.execute(
            """
            select count(*)
            from queue_put_many(%s, array(select to_jsonb(i) from generate_series(1, %s) i), schedule_in => %s)
            """,
            [queue, min(100_000, number - first), schedule_in],
        )


def plans(conn: Connection, call: str) -> list[str]:
    """The plan of each statement inside a call that is undone; a first call has filled the caches."""
    found: list[str] = []
    conn.execute("load 'auto_explain'")
    for setting, to in {
        "log_min_duration": "0",
        "log_nested_statements": "on",
        "log_analyze": "on",
        "log_buffers": "on",
        "log_timing": "off",
    }.items():
        conn.execute(f"set auto_explain.{setting} = {to}")
    conn.add_notice_handler(lambda notice: found.append(notice.message_primary or ""))
    for shown in (False, True):
        found.clear()
        with conn.transaction(force_rollback=True):
            conn.execute(f"set local client_min_messages = {'log' if shown else 'warning'}")
            conn.execute(f"select id from {call}").fetchall()
    conn.execute("set auto_explain.log_min_duration = -1")
    return [text.partition("plan:\n")[2] for text in found if "plan:\n" in text]


def show(title: str, conn: Connection, call: str) -> None:
    """One section: the call, then statement and plan of everything it ran."""
    print(f"\n## {title}\n\n`{call}`\n\n```")
    print("\n\n".join(plan.rstrip() for plan in plans(conn, call)))
    print("```")


def main(dsn: str) -> None:
    """Go through the situations; the order matters, since statistics only become better."""
    conn = connect(dsn)
    install(conn)
    try:
        early = connect(dsn)
        early.execute("select queue_get('nobody')")
        fill(conn, "few", 1000)
        print("# What a get reads\n")
        print("Made by `python tools/show_plans.py DSN > docs/design/plans.md`.")
        print("tests/test_sql_plans.py holds the figures on all versions.")
        print(f"PostgreSQL {conn.info.parameter_status('server_version')}.")
        show("1,000 jobs, table never analyzed since it was empty", connect(dsn), "queue_get('few')")
        fill(conn, "many", MANY)
        fill(conn, "many", 200_000, "1d")
        jobs = "1,000,000 jobs, 200,000 scheduled for tomorrow"
        show(f"{jobs}: plans kept from the empty table", early, "queue_get('many')")
        show(f"{jobs}: new session, statistics of the empty table", connect(dsn), "queue_get('many')")
        conn.execute("alter function queue_get set plan_cache_mode = force_custom_plan")
        show(f"{jobs}: the same with custom plans", connect(dsn), "queue_get('many')")
        conn.execute("analyze queue_job")
        show(f"{jobs}: analyzed, custom plans", connect(dsn), "queue_get('many')")
        conn.execute("alter function queue_get set plan_cache_mode = force_generic_plan")
        show(f"{jobs}: analyzed, generic plans", connect(dsn), "queue_get('many')")
        fill(conn, "many", 300, "1us")
        show(f"{jobs}, 300 due: transactional", connect(dsn), "queue_get('many')")
        conn.execute("select count(*) from queue_get('many', 1000, promote => true)")
        held = connect(dsn)
        held.execute("begin isolation level repeatable read")
        held.execute("select 1 from queue_setting")
        conn.execute("select count(*) from queue_get('many', 30000)")
        behind = connect(dsn)
        for _ in range(3):
            behind.execute("select queue_get('many')")
        show("Behind the dead rows of 30,000 jobs that an old snapshot keeps", behind, "queue_get('many')")
        held.execute("rollback")
    finally:
        conn.execute("drop schema show_plans cascade")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/show_plans.py DSN")
    main(sys.argv[1])

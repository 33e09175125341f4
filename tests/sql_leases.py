"""Help for the tests of leases: a job that is leased, a lease that has run out, all that is stored."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row
from sql_sessions import value

NOBODYS = UUID("3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0")


def put(conn: psycopg.Connection[Any], data: str = "1", queue: str = "apples", **options: Any) -> int:
    given = "".join(f", {name} => '{to}'" for name, to in options.items())
    return int(value(conn, f"select queue_put('{queue}', '{data}'{given})"))


def rows(conn: psycopg.Connection[Any], query: str, *params: Any) -> list[Any]:
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(query, params or None).fetchall()


def row(conn: psycopg.Connection[Any], query: str, *params: Any) -> Any:
    (found,) = rows(conn, query, *params)
    return found


def lease(conn: psycopg.Connection[Any], queue: str = "apples", count: int = 1, **options: Any) -> list[Any]:
    given = "".join(f", {name} => '{to}'" for name, to in options.items())
    return rows(conn, f"select * from queue_lease(%s, %s{given})", queue, count)


def lease_one(conn: psycopg.Connection[Any], queue: str = "apples", **options: Any) -> Any:
    (job,) = lease(conn, queue, **options)
    return job


def run_out(conn: psycopg.Connection[Any], hours: int = 24) -> None:
    """Let time pass for every lease and pause, as if the server's clock had been put forward."""
    conn.execute(
        """
        update queue_job
        set ready_at = ready_at - make_interval(hours => %(hours)s),
            lease_until = lease_until - make_interval(hours => %(hours)s)
        where ready_at is not null
        """,
        {"hours": hours},
    )


def jobs(conn: psycopg.Connection[Any]) -> list[Any]:
    """The rows of all jobs, but for 'infinity', which Python doesn't know."""
    query = """
        select id, queue, attempts, receipt, consumer, lease_until, ready_at, last_error, progress_count, history
        from queue_job order by id
    """
    return rows(conn, query)


TABLES = ("queue_job", "queue_dead", "queue_setting")


def contents(conn: psycopg.Connection[Any]) -> list[Any]:
    """All rows of all tables."""
    return [
        conn.execute(f"select to_jsonb(t) from {table} t order by to_jsonb(t)::text").fetchall() for table in TABLES
    ]


def everything(conn: psycopg.Connection[Any]) -> list[Any]:
    """All rows of all tables, with what the server keeps of who wrote and locked them."""
    query = "select t.ctid, t.xmin::text, t.xmax::text, to_jsonb(t) from {} t order by t.ctid"
    return [conn.execute(query.format(table)).fetchall() for table in TABLES]

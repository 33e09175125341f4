"""What it costs to ask for rights: processor time of the server's process for each call, in microseconds.

    python tools/show_rights.py DSN [OTHERS]

DSN is of a database for this alone, on this machine, as a superuser. Three copies of the queue are installed into
schemas of their own: one that asks nobody, the same again (what differs between these two is chance), and the real
one, called by its owner and by a role that was granted its rights. The least of many interleaved rounds: other work on
the machine can only add. OTHERS is how many roles more get the same rights, each of which the role may be a member of.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, CALLS = 200, 200
ROLE = "show_rights"
DATA = '{"kind": "Cox", "pad": "' + "x" * 77 + '"}'
# The test in each of the functions that are called most.
ASKS = re.compile(r"\n        and \(\s*session_user = current_user.*?_queue_may\([^)]*\)\s*\)", re.S)
WHO = {
    "asks nobody": ("bare", None),
    "the same again": ("again", None),
    "owner": ("real", None),
    "role with the right": ("real", ROLE),
}


def install(conn: psycopg.Connection[Any], schema: str, asks: bool) -> None:
    """A copy of the queue, with the tests or without."""
    files = [ROOT / "sql" / "schema.sql", *sorted((ROOT / "sql" / "functions").glob("*.sql"))]
    texts = [file.read_text() for file in files]
    if not asks:
        bare = [ASKS.sub("", text) for text in texts]
        assert sum(one != other for one, other in zip(texts, bare, strict=True)) == 4
        texts = bare
    with conn.transaction():
        name = sql.Identifier(schema)
        conn.execute(sql.SQL("drop schema if exists {0} cascade; create schema {0}").format(name))
        conn.execute(sql.SQL("set local search_path to {}, pg_temp").format(name))
        for text in texts:
            conn.execute(text.encode())


def spent(conn: psycopg.Connection[Any]) -> int:
    """Nanoseconds that the server's process has run."""
    return int(Path(f"/proc/{conn.info.backend_pid}/schedstat").read_text().split()[0])


class Caller:
    """Calls the functions of one schema as one role, and keeps what it cost."""

    def __init__(self, dsn: str, schema: str, role: str | None) -> None:
        where = make_conninfo(dsn, user=role) if role else dsn
        self.conn = psycopg.connect(where, autocommit=True, prepare_threshold=0)
        self.conn.execute(sql.SQL("set search_path to {}").format(sql.Identifier(schema)))
        self.costs: dict[str, list[float]] = {}

    def measure(self, name: str, statement: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        """Run a statement with each of these arguments; the rows."""
        begun = spent(self.conn)
        rows = [self.conn.execute(statement.encode(), values).fetchone() for values in arguments]
        self.costs.setdefault(name, []).append((spent(self.conn) - begun) / len(arguments) / 1000)
        return rows

    def round(self) -> None:
        """As many jobs are taken as are put."""
        put = "select queue_put('apples', %s::jsonb)"
        self.measure("queue_put", put, [(DATA,)] * CALLS)
        self.measure("queue_get", "select id, data from queue_get('apples')", [()] * CALLS)
        self.measure("queue_put", put, [(DATA,)] * CALLS)
        leased = self.measure("queue_lease", "select id, receipt from queue_lease('apples')", [()] * CALLS)
        self.measure("queue_complete", "select queue_complete('apples', %s::bigint, %s)", leased)


def main(dsn: str, others: int = 0) -> None:
    """Measure, and print a line for each function."""
    names = [f"{ROLE}_{n}" for n in range(others)]
    with psycopg.connect(dsn, autocommit=True) as conn:
        try:
            for name in [*names, ROLE]:  # whose rights are looked at last
                conn.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
            for schema in ("bare", "again", "real"):
                install(conn, schema, asks=schema == "real")
            rights = "unnest('{put, get}'::text[]) as p"
            # As by queue_grant, which looks at the rights of each function anew for each: minutes for thousands.
            conn.execute(
                f"insert into real.queue_right (queue, role, privilege) "
                f"select 'apples', n::regrole, p from unnest(%s::text[]) as n, {rights}",
                [names],
            )
            conn.execute(f"select real.queue_grant('apples', %s, p) from {rights}", [ROLE])
            conn.execute("select real.queue_maintain()")
            callers = {name: Caller(dsn, *who) for name, who in WHO.items()}
            order = list(callers.values())
            for _ in range(ROUNDS if others == 0 else ROUNDS // 10):
                for schema in ("bare", "again", "real"):
                    tables = ("queue_job", "queue_tally", "queue_total")
                    parts = sql.SQL(", ").join(sql.Identifier(schema, table) for table in tables)
                    conn.execute(sql.SQL("truncate {}").format(parts))
                order.append(order.pop(0))
                for caller in order:
                    caller.round()
            print(" " * 16 + "".join(f"{name:>20}" for name in callers))
            for function in order[0].costs:
                cells = (min(caller.costs[function]) for caller in callers.values())
                print(f"{function:16}" + "".join(f"{cell:20.1f}" for cell in cells))
            for caller in order:
                caller.conn.close()
        finally:
            for schema in ("bare", "again", "real"):
                conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))
            for name in [*names, ROLE]:
                conn.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(name)))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

"""Bring a schema to a version of the queue, and back: the migrations, run over psycopg or by alembic.

Both runners execute the same files in the same order, and keep the version in the same table,
so one can go on where the other stopped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from . import resources
from .errors import BadAddress, Error
from .links import with_keepalives

VERSION_TABLE = "queue_migration"
"""Where a schema's version is kept: one row, or none when nothing is installed."""

HEAD = resources.versions()[-1][:4]
"""The newest version that this package knows: what `queue_version()` should say."""

BASE = "base"

_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT", "PGUSER")

# What alembic makes of its version table, so that either runner may come first.
_CREATE_TABLE = """\
create table if not exists queue_migration (
    version_num varchar(32) not null,
    constraint queue_migration_pkc primary key (version_num)
);
"""


class MigrationError(Error):
    """A migration that could not be done. Nothing of it was: it may be run again."""


def named_dsn(given: str | None = None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The database somebody named: `given`, PGQ_PY_DSN, DATABASE_URL, or libpq's PG* (then the DSN is empty).

    None if nobody named any. A driver in the URL (`postgresql+asyncpg://`) is left out.
    """
    for dsn in (given, environ.get("PGQ_PY_DSN"), environ.get("DATABASE_URL")):
        if dsn is not None and (dsn or dsn is given):
            return re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", dsn)
    return "" if any(environ.get(name) for name in _LIBPQ) else None


def connect(conninfo: str | Mapping[str, Any]) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection of our own to the database that a DSN, a URL or libpq's parameters name.

    Raises MigrationError for a DSN that can't be read, and psycopg.OperationalError for a server
    that can't be reached.
    """
    try:
        parameters = with_keepalives(conninfo)
    except BadAddress as error:
        raise MigrationError(str(error)) from None
    conn = psycopg.connect(**parameters)
    # In a higher level the snapshot would be older than the wait for another migration's end.
    conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return conn


def before(schema: str) -> str:
    """SQL for the transaction's beginning: wait for others, refuse an extension's schema, make the schema.

    Raises MigrationError for a name that PostgreSQL would not take as it is.
    """
    if not 1 <= len(schema.encode()) <= 63 or "\0" in schema or schema == "$user":
        raise MigrationError(f"{schema!r} can't be the name of a schema")
    name = sql.Literal(schema).as_string(None)
    return f"set local pgq_py.schema to {name};\n\n" + _text("before.sql")


def after() -> str:
    """SQL for the transaction's end: take away our notes if nothing of the queue is left."""
    return _text("after.sql")


def run_file(name: str) -> None:
    """Run one file of migrations/versions, from a migration, in the schema that alembic is migrating."""
    from alembic import op

    run_text(op.get_context(), _text(f"versions/{name}"))


def run_text(context: Any, text: str) -> None:
    """Run SQL as it is in alembic's MigrationContext: no bind parameters, no percent signs. Offline: print it."""
    if context.as_sql:
        context.impl.static_output(text)
    else:
        context.connection.exec_driver_sql(text, execution_options={"no_parameters": True})


def script(schema: str = "public", revision: str = "head", since: str = BASE) -> str:
    """The SQL that brings a schema from version `since` to `revision`, to be run in one transaction.

    Forwards or backwards, as the two say. Raises MigrationError for an unknown version.
    """
    return "\n".join([before(schema), *_steps(_known(since), _known(revision)), after()])


def standalone(schema: str = "public", revision: str = "head", since: str = BASE) -> str:
    """The same with BEGIN and COMMIT around it, as a file for psql."""
    return f"begin;\n\n{script(schema, revision, since)}\ncommit;\n"


def upgrade(conninfo: str | Mapping[str, Any], schema: str = "public", revision: str = "head") -> None:
    """Install the queue into a schema, or bring it to a newer version; if it is there already, do nothing.

    All in one transaction. Several processes may do it at once: one does, the others wait for it.
    Raises MigrationError with the reason, chained to the database's error if there was one.
    """
    _move(conninfo, schema, _known(revision), forwards=True)


def downgrade(conninfo: str | Mapping[str, Any], schema: str = "public", revision: str = BASE) -> None:
    """Take a schema back to an older version; to "base": remove the queue with all its jobs.

    Raises MigrationError as `upgrade` does.
    """
    _move(conninfo, schema, _known(revision), forwards=False)


def current(conninfo: str | Mapping[str, Any], schema: str = "public") -> str | None:
    """The version that migrations have brought a schema to; None if they never ran there.

    Raises MigrationError if the database can't be asked.
    """
    with _errors(), connect(conninfo) as conn:
        return _installed(conn, schema)


def include_name(name: str | None, kind: str, parents: Mapping[str, Any]) -> bool:
    """Alembic's hook of this name: keeps a host's autogenerate from dropping the queue's tables.

    `context.configure(..., include_name=pgq_py.migrate.include_name)` in the host's env.py.
    """
    ours = {"queue_job", "queue_dead", "queue_setting", "queue_tally", "queue_total", "queue_right", VERSION_TABLE}
    return not (kind == "table" and name in ours)


def _text(path: str) -> str:
    return (resources.migrations() / path).read_text(encoding="utf-8")


def _known(revision: str) -> str:
    """The number that a revision means: "" for "base", which sorts before all others."""
    if revision == "head":
        return HEAD
    if revision == BASE:
        return ""
    if revision not in {name[:4] for name in resources.versions()}:
        raise MigrationError(f"there is no version {revision!r} in this package, which goes up to {HEAD}")
    return revision


def _steps(since: str, target: str) -> list[str]:
    """The SQL of each migration on the way, each followed by a note of the version reached."""
    names = resources.versions()
    if since <= target:
        return [
            f"-- To {name[:4]}\n" + _text(f"versions/{name}.sql") + _note(name[:4])
            for name in names
            if since < name[:4] <= target
        ]
    reached = dict(zip(names, ["", *names], strict=False))
    return [
        f"-- Back from {name[:4]}\n" + _text(f"versions/{name}.down.sql") + _note(reached[name][:4])
        for name in reversed(names)
        if target < name[:4] <= since
    ]


def _note(number: str) -> str:
    insert = f"insert into {VERSION_TABLE} (version_num) values ('{number}');\n" if number else ""
    return f"\n{_CREATE_TABLE}delete from {VERSION_TABLE};\n{insert}"


def _installed(conn: psycopg.Connection[Any], schema: str) -> str | None:
    table = sql.Identifier(schema, VERSION_TABLE)
    row = conn.execute("select to_regclass(%s)", [table.as_string(conn)]).fetchone()
    if row is None or row[0] is None:
        return None
    row = conn.execute(sql.SQL("select version_num from {}").format(table)).fetchone()
    return str(row[0]) if row else None


def _move(conninfo: str | Mapping[str, Any], schema: str, target: str, forwards: bool) -> None:
    beginning = before(schema)
    with _errors(), connect(conninfo) as conn:
        conn.execute(beginning.encode())
        since = _installed(conn, schema) or ""
        if since > HEAD:
            raise MigrationError(
                f'the queue in schema "{schema}" has version {since}, this package goes up to {HEAD}: '
                "install a newer pgq-py"
            )
        if (since < target) == forwards:
            for step in _steps(since, target):
                conn.execute(step.encode())
        conn.execute(after().encode())


@contextmanager
def _errors() -> Iterator[None]:
    """Turn the database's errors into MigrationError: one line, with the hint if the server gave one."""
    try:
        yield
    except psycopg.Error as error:
        message = error.diag.message_primary or str(error).strip().replace("\n", " ")
        hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
        raise MigrationError(message + (f".{hint}" if hint else "")) from error

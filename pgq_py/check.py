"""Whether a database is one that the queue can live in: version, schema, rights, and settings that hurt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

from . import migrate
from ._sync.client import PQ
from .errors import Error, NotAllowed

OLDEST = 150000
"""The oldest PostgreSQL that the queue works on, as `server_version_num` writes it."""

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was looked at.

    Attributes:
        what: in a word or two.
        state: "ok"; "warning" for what may hurt; "problem" for what keeps the queue from working, or loses jobs.
        detail: what was found.
        remedy: what to do about it; "" where it is ok.
    """

    what: str
    state: State
    detail: str
    remedy: str = ""


# Settings that hurt, beyond those that queue_health looks at: the values that do, what then is, and why and what to do.
_SETTINGS: dict[str, tuple[tuple[str, ...], State, str]] = {
    "default_transaction_isolation": (
        ("repeatable read", "serializable"),
        "warning",
        "calls fail with 40001 when two take jobs at once, and waiting in a transaction is refused: "
        "take jobs in READ COMMITTED",
    ),
    "log_statement": (("all",), "warning", "the data of jobs is in the server's log: set it to ddl"),
    "session_replication_role": (("replica",), "warning", "this session does not fire triggers: set it to origin"),
}
# Lengths of time that end sessions or statements; 0 is never.
_TIMEOUTS = {
    "statement_timeout": "clearing or exporting a long queue takes longer: raise it for those who do",
    "idle_session_timeout": "consumers that sleep are disconnected, and connect again: set it to 0 for them",
    "transaction_timeout": "work in a transaction that takes longer is rolled back: lease long jobs",
}


def check(conninfo: str | Mapping[str, Any], schema: str = "public") -> list[Check]:
    """Look at a database with the eyes of the role that connects.

    Raises:
        MigrationError: the DSN can't be read.
        psycopg.OperationalError: the server can't be reached.
    """
    with migrate.connect(conninfo) as conn:
        conn.autocommit = True
        found = [_server(conn), _primary(conn), *_pooler(conn)]
        installed = _installed(conn, schema)
        found += [installed, *_settings(conn)]
        if installed.state == "ok":
            pq = PQ(conn, schema=schema)
            found += [_rights(conn, pq, schema), *_health(pq)]
        return found


def installed_version(conn: psycopg.Connection[Any], schema: str) -> str | None:
    """What `queue_version()` says, "" where the role may not ask, None where there is no such function."""
    call = sql.SQL("select {}()").format(sql.Identifier(schema, "queue_version"))
    try:
        row = conn.execute(call).fetchone()
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
        conn.rollback()
        return None
    except psycopg.errors.InsufficientPrivilege:
        conn.rollback()
        return ""
    return str(row[0]) if row else None


def _server(conn: psycopg.Connection[Any]) -> Check:
    version = conn.info.parameter_status("server_version") or "?"
    if conn.info.server_version < OLDEST:
        return Check("server", "problem", f"PostgreSQL {version}", f"PostgreSQL {OLDEST // 10000} or later is needed")
    return Check("server", "ok", f"PostgreSQL {version}")


def _primary(conn: psycopg.Connection[Any]) -> Check:
    standby, read_only = _row(conn, "select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'")
    if standby:
        return Check("writing", "problem", "the server is a standby", "connect to the primary")
    if read_only:
        return Check("writing", "problem", "transactions are read-only", "set default_transaction_read_only to off")
    return Check("writing", "ok", "the server can be written to")


def _pooler(conn: psycopg.Connection[Any]) -> Iterator[Check]:
    (pid,) = _row(conn, "select pg_backend_pid()")
    if pid != conn.info.backend_pid:
        yield Check(
            "pooler",
            "warning",
            "the connection goes through a pooler such as PgBouncer",
            "consumers look for jobs every half second here: give them the address of the server itself",
        )


def _installed(conn: psycopg.Connection[Any], schema: str) -> Check:
    version = installed_version(conn, schema)
    if version is None:
        return Check("schema", "problem", f"no queue in the schema {schema!r}", "run pgq-py migrate")
    if version == "":
        role = conn.info.user
        return Check(
            "schema",
            "problem",
            f"the role {role!r} has no right on any queue",
            "ask the owner for pgq-py grant",
        )
    if version < migrate.HEAD:
        detail = f"version {version} in the schema {schema!r}, and this package needs {migrate.HEAD}"
        return Check("schema", "problem", detail, "run pgq-py migrate")
    if version > migrate.HEAD:
        detail = f"version {version} in the schema {schema!r}, newer than {migrate.HEAD}, which this package knows"
        return Check("schema", "problem", detail, "run pip install --upgrade pgq-py")
    return Check("schema", "ok", f"version {version} in the schema {schema!r}")


def _settings(conn: psycopg.Connection[Any]) -> Iterator[Check]:
    names = [*_SETTINGS, *_TIMEOUTS]
    rows = conn.execute("select name, setting, unit from pg_settings where name = any(%s)", [names]).fetchall()
    is_fine = True
    for name, setting, unit in sorted(rows):
        if name in _SETTINGS:
            values, state, remedy = _SETTINGS[name]
            hurts = setting in values
        else:
            state, remedy, hurts = "warning", _TIMEOUTS[name], setting != "0"
        if hurts:
            is_fine = False
            yield Check("setting", state, f"{name} is {setting}{f' {unit}' if unit else ''}", remedy)
    if is_fine:
        yield Check("settings", "ok", "none that hurts")
    (encoding,) = _row(conn, "select current_setting('server_encoding')")
    if encoding != "UTF8":
        yield Check(
            "encoding",
            "warning",
            f"the database is in {encoding}",
            "text that it can't hold is refused: put the queue into a database in UTF8",
        )


def _rights(conn: psycopg.Connection[Any], pq: PQ, schema: str) -> Check:
    (owns,) = _row(
        conn,
        "select pg_has_role(current_user, p.proowner, 'usage') from pg_proc p "
        "join pg_namespace n on n.oid = p.pronamespace where n.nspname = %s and p.proname = 'queue_put'",
        schema,
    )
    (role,) = _row(conn, "select current_user::text")
    if owns:
        return Check("rights", "ok", f"the role {role!r} may do everything with all queues")
    rights = sorted(
        {f"{right.privilege} on {'all queues' if right.queue is None else right.queue}" for right in pq.rights()}
    )
    return Check("rights", "ok", f"the role {role!r} may: {', '.join(rights)}")


def _health(pq: PQ) -> Iterator[Check]:
    try:
        findings = pq.health()
    except NotAllowed:
        yield Check("health", "ok", "not asked: it takes the right to observe all queues")
        return
    except Error as error:
        yield Check("health", "warning", f"it can't be asked: {error}", "see pgq-py health")
        return
    for finding in findings:
        state: State = "problem" if finding.severity == "critical" else "warning"
        yield Check(finding.what, state, f"{finding.subject}: {finding.detail}", finding.remedy)
    if not findings:
        yield Check("health", "ok", "nothing hurts the queues")


def _row(conn: psycopg.Connection[Any], query: str, *params: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = conn.execute(query.encode(), params).fetchone()
    assert row is not None
    return row

"""queue_health: each thing that hurts a queue is made for real, is named, and goes away by what the remedy says.

Sessions, slots and notifications of a whole server are no business of tests that run on it at the same time. What
needs settings of its own runs on a server of this module, `ours`.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from conftest import Database, install
from psycopg.rows import class_row
from servers import Server
from sql_sessions import Running, column, value

pytestmark = pytest.mark.long

Connection = psycopg.Connection[Any]
FILES = sorted((Path(__file__).parent.parent / "sql" / "functions").glob("*.sql"))
SCHEMA = Path(__file__).parent.parent / "sql" / "schema.sql"


class Row(NamedTuple):
    what: str
    severity: str
    subject: str
    detail: str
    remedy: str


def health(
    conn: Connection,
    what: str = "",
    subject: str = "",
    older_than: str | None = "0",
    transactions: int | None = 100_000,
) -> list[Row]:
    """What is found, of this kind and about this subject."""
    cursor = conn.cursor(row_factory=class_row(Row))
    found = cursor.execute("select * from queue_health(%s::interval, %s)", [older_than, transactions]).fetchall()
    return [row for row in found if what in (row.what, "") and subject in (row.subject, "")]


def one(conn: Connection, what: str, subject: str = "", **options: Any) -> Row:
    found = health(conn, what, subject, **options)
    assert len(found) == 1, found or health(conn)
    return found[0]


def until(condition: Callable[[], Any]) -> Any:
    """Ask until it is so. What another process does can't be waited for in another way."""
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline, "it does not come about"
    return found


def run(conn: Connection, remedy: str, pattern: str) -> None:
    """Run the commands that the remedy names."""
    found = re.search(pattern, remedy)
    assert found, remedy
    for command in found[0].split("; "):
        conn.execute(command)


def write(conn: Connection, count: int = 1) -> None:
    """So many transactions that write."""
    conn.execute(f"do $$ begin for i in 1..{count} loop perform pg_current_xact_id(); commit; end loop; end $$")


def pid(conn: Connection) -> str:
    return f"pid {conn.info.backend_pid}"


def install_again(conn: Connection) -> None:
    """A second installation, in a schema that has to be quoted."""
    conn.execute('create schema "Billing queue"')
    with conn.transaction():
        conn.execute('set local search_path to "Billing queue", pg_temp')
        for file in [SCHEMA, *FILES]:
            conn.execute(file.read_bytes())


# All is well. The servers of the tests run with fsync = off, and that is found.

FSYNC = [("crash may lose jobs", "setting fsync")]


def names(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.what, row.subject) for row in rows]


def test_a_healthy_database_gives_no_row(database, conn):
    conn.execute("select queue_put('apples', '1')")
    conn.execute("select queue_put('apples', '1', schedule_in => '1h')")
    conn.execute("select queue_put('pears', '1', schedule_in => '1us')")
    conn.execute("select queue_pause('plums')")
    conn.execute("select queue_pause('figs'), queue_put('figs', '1'), queue_put('figs', '1', schedule_in => '1us')")
    # A transaction that has just begun hurts nobody yet.
    other = database.connect(autocommit=False)
    other.execute("select pg_current_xact_id()")
    write(conn, 10)
    assert names(health(conn, older_than="1 minute")) == FSYNC
    assert names(conn.cursor(row_factory=class_row(Row)).execute("select * from queue_health()").fetchall()) == FSYNC


def test_null_arguments_are_the_defaults(database, conn):
    other = database.connect(autocommit=False)
    other.execute("select pg_current_xact_id()")
    write(conn)
    assert names(health(conn, older_than=None, transactions=None)) == FSYNC
    leased(conn, ago="30s")
    leased(conn, queue="pears", ago="61s")
    assert names(health(conn, older_than=None)) == [("leases overdue", "queue pears"), *FSYNC]


def test_thresholds_beyond_all_measure_find_little_and_break_nothing(conn):
    leased(conn, ago="10 years")
    leased(conn, queue="pears", ago="-1h")
    for older_than in ("178000000 years", "1000000 days", "1001 years"):
        assert names(health(conn, older_than=older_than, transactions=2**63 - 1)) == FSYNC
    assert one(conn, "leases overdue", older_than="-178000000 years", transactions=-(2**63))


def test_it_reads_only(conn):
    leased(conn)
    conn.execute("set default_transaction_read_only = on")
    assert one(conn, "leases overdue")


# Vacuum held back: sessions


@pytest.mark.parametrize(
    ("statements", "held"),
    [
        (["begin isolation level repeatable read", "select 1"], True),
        (["begin", "select pg_current_xact_id()"], True),
        (["begin", "declare c cursor for select 1 from pg_class", "fetch c"], True),
        # The snapshot of a statement is gone with it.
        (["begin", "select 1"], False),
        (["select pg_current_xact_id()"], False),
    ],
)
def test_an_idle_transaction_holds_back_vacuum_if_it_has_a_snapshot_or_wrote(database, conn, statements, held):
    other = database.connect(application_name="report's")
    for statement in statements:
        other.execute(statement)
    write(conn)
    found = health(conn, "vacuum held back", pid(other))
    assert len(found) == held
    if held:
        assert (
            "user postgres, application 'report''s', idle in transaction, in a transaction for 00:0" in found[0].detail
        )
        assert re.search(r"; transactions since its snapshot or its first write: [1-9]\d*$", found[0].detail)
        run(conn, found[0].remedy, r"select pg_terminate_backend\(\d+\)")
        until(lambda: not health(conn, "vacuum held back", pid(other)))


def test_a_transaction_since_which_no_other_wrote_holds_nothing_back(ours):
    # On a server of our own: elsewhere somebody always writes.
    conn, reader, writer = ours.connect(), ours.connect(), ours.connect()
    reader.execute("begin isolation level repeatable read")
    reader.execute("select 1")
    assert health(conn, "vacuum held back") == []
    writer.execute("begin")
    writer.execute("select pg_current_xact_id()")
    assert one(conn, "vacuum held back", pid(reader))
    assert health(conn, "vacuum held back", pid(writer)) == []
    write(conn)
    assert one(conn, "vacuum held back", pid(reader))
    assert one(conn, "vacuum held back", pid(writer))


def test_a_statement_that_runs_for_long_holds_back_vacuum(database, conn):
    other = database.connect()
    running = Running(other, "select pg_sleep(100)")
    backend = "select count(*) from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
    until(lambda: value(conn, backend, other.info.backend_pid))
    write(conn)
    row = one(conn, "vacuum held back", pid(other))
    assert ", active, " in row.detail
    run(conn, row.remedy, r"select pg_terminate_backend\(\d+\)")
    running.thread.join(20)
    assert isinstance(running.error, psycopg.errors.AdminShutdown)
    until(lambda: not health(conn, "vacuum held back", pid(other)))


# With thresholds between the ages of its statement and its transaction.
BETWEEN = """
    select h.*
    from pg_stat_activity a,
        queue_health(clock_timestamp() - a.query_start + (a.query_start - a.xact_start) / 2, %s) h
    where a.pid = %s and h.subject = 'pid ' || a.pid
"""


def test_a_new_statement_in_an_old_transaction_is_judged_by_transactions(database, conn):
    # Its snapshot may be new: nothing but the transactions since tells.
    other = database.connect(autocommit=False)
    other.execute("select 1")
    old = "select clock_timestamp() - xact_start > '300ms' from pg_stat_activity where pid = %s"
    until(lambda: value(conn, old, other.info.backend_pid))
    running = Running(other, "select pg_sleep(100)")
    until(
        lambda: value(
            conn, "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s", other.info.backend_pid
        )
    )
    write(conn, 20)
    assert column(conn, BETWEEN, 100_000, other.info.backend_pid) == []
    assert column(conn, BETWEEN, 10, other.info.backend_pid) == ["vacuum held back"]
    conn.execute("select pg_terminate_backend(%s)", [other.info.backend_pid])
    running.thread.join(20)


def test_a_snapshot_that_is_held_between_statements_is_as_old_as_the_transaction(database, conn):
    other = database.connect(autocommit=False)
    other.execute("set transaction isolation level repeatable read")
    other.execute("select 1")
    old = "select clock_timestamp() - xact_start > '300ms' from pg_stat_activity where pid = %s"
    until(lambda: value(conn, old, other.info.backend_pid))
    write(conn)
    other.execute("select 1")
    assert column(conn, BETWEEN, 100_000, other.info.backend_pid) == ["vacuum held back"]


def test_ten_times_as_old_is_critical(database, conn):
    other = database.connect(autocommit=False)
    other.execute("select pg_current_xact_id()")
    write(conn, 1)
    until(lambda: value(conn, AGE, other.info.backend_pid).total_seconds() > 0.3)
    part = f"select h.severity from queue_health(({AGE}) / %s) h where h.subject = %s"
    for least in (2, 7):
        assert column(conn, part, other.info.backend_pid, least, pid(other)) == ["warning"]
    assert column(conn, part, other.info.backend_pid, 11, pid(other)) == ["critical"]
    assert health(conn, "vacuum held back", pid(other), older_than="1h") == []


AGE = "select clock_timestamp() - xact_start from pg_stat_activity where pid = %s"


def test_the_callers_own_transaction_counts_too(database, conn):
    conn.execute("begin")
    conn.execute("select pg_current_xact_id()")
    write(database.connect())
    assert one(conn, "vacuum held back", pid(conn))


def test_a_session_in_another_database_does_not_hold_back_vacuum(server, conn):
    with psycopg.connect(server.dsn()) as other:
        other.execute("select pg_current_xact_id()")
        write(conn)
        assert health(conn, "vacuum held back", pid(other)) == []


def test_a_vacuum_does_not_hold_back_another(database, conn):
    conn.execute("create table big as select repeat('x', 1000) as x from generate_series(1, 20000)")
    conn.execute("delete from big")
    other = database.connect()
    for name, to in {"vacuum_cost_delay": "100", "vacuum_cost_limit": "1"}.items():
        other.execute(f"set {name} = {to}")
    running = Running(other, "vacuum big")
    seen = (
        "select backend_xmin is not null from pg_stat_activity join pg_stat_progress_vacuum using (pid) where pid = %s"
    )
    until(lambda: column(conn, seen, other.info.backend_pid) == [True])
    write(conn, 10)
    assert health(conn, "vacuum held back", pid(other), transactions=1) == []
    assert column(conn, seen, other.info.backend_pid) == [True], "it ended too early"
    conn.execute("select pg_terminate_backend(%s)", [other.info.backend_pid])
    running.thread.join(20)


# Vacuum held back: prepared transactions


@pytest.mark.parametrize("end", ["commit prepared '.*?'(?=,)", "rollback prepared '.*'$"])
def test_a_prepared_transaction_holds_back_vacuum(database, conn, end):
    other = database.connect()
    other.execute("begin")
    other.execute("select pg_current_xact_id()")
    other.execute("prepare transaction 'it''s mine'")
    other.close()
    row = one(conn, "vacuum held back", "prepared transaction it's mine")
    assert row.severity == "critical"
    assert f"in database {database.name}: " in row.remedy
    assert "user postgres" in row.detail
    assert health(conn, "vacuum held back", older_than="1 minute") == []
    run(conn, row.remedy, end)
    assert health(conn, "vacuum held back") == []


def test_a_prepared_transaction_of_another_database_does_not(server, conn):
    with psycopg.connect(server.dsn(), autocommit=True) as other:
        other.execute("begin")
        other.execute("select pg_current_xact_id()")
        other.execute("prepare transaction 'elsewhere'")
        try:
            assert health(conn, "vacuum held back", "prepared transaction elsewhere") == []
        finally:
            other.execute("rollback prepared 'elsewhere'")


# Vacuum held back: slots and standbys


@contextlib.contextmanager
def server_with(like: Server, **settings: str) -> Iterator[Server]:
    server = Server(like.version, like.programs)
    try:
        server.create()
        install(server.host, server.port, server.user, "postgres")
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            for name, to in settings.items():
                conn.execute(f"alter system set {name} = {to}")
        server.stop()
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def ours_of(version: str, request: pytest.FixtureRequest) -> Iterator[Server]:
    settings = {"wal_level": "logical", "fsync": "on", "autovacuum_naptime": "86400"}
    if int(version) >= 17:
        settings["max_notify_queue_pages"] = "64"
    with server_with(request.getfixturevalue(f"server_{version}"), **settings) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("create database other")
        yield server


@pytest.fixture
def ours(ours_of: Server) -> Iterator[Database]:
    """The database postgres on a server of our own, whose settings a test may change if it changes them back."""
    database = Database(ours_of, "postgres")
    yield database
    database.close()
    with psycopg.connect(ours_of.dsn(), autocommit=True) as conn:
        conn.execute("truncate queue_job, queue_dead, queue_setting")


def test_a_healthy_server_gives_no_row_at_all(ours):
    assert health(ours.connect(), older_than="1 minute") == []


@pytest.fixture
def standby(ours: Database) -> Iterator[Server]:
    """A hot standby of our own server that feeds its oldest snapshot back, through a slot."""
    made = Server(ours.server.version, ours.server.programs)
    conn = ours.connect()
    conn.execute("select pg_create_physical_replication_slot('standby')")
    try:
        made.run(
            "pg_basebackup", "-h", ours.server.host, "-U", ours.server.user, "-D", str(made.data),
            "-R", "-S", "standby", "-c", "fast", "-X", "stream", "--no-sync",
        )  # fmt: skip
        with (made.data / "postgresql.conf").open("a") as conf:
            conf.write(f"unix_socket_directories = '{made.folder}'\n")
            conf.write("hot_standby_feedback = on\nwal_receiver_status_interval = 1s\n")
        made.start()
        yield made
    finally:
        made.remove()
        until(lambda: not column(conn, "select 1 from pg_replication_slots where active"))
        conn.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")


def snapshot_on(standby: Server, conn: Connection) -> Connection:
    """A transaction on the standby with a snapshot that the primary knows of, and that is old."""
    there = psycopg.connect(standby.dsn(), autocommit=True)
    there.execute("begin isolation level repeatable read")
    there.execute("select 1")
    xmin = "select age(xmin) from pg_replication_slots where xmin is not null union all " + (
        "select age(backend_xmin) from pg_stat_replication where backend_xmin is not null"
    )
    write(conn, 50)
    until(lambda: [held for held in column(conn, xmin) if held >= 50])
    return there


def test_a_standby_holds_back_vacuum_through_its_slot(ours, standby):
    conn = ours.connect()
    there = snapshot_on(standby, conn)

    # The time is unknown, so it is judged by transactions.
    assert health(conn, "vacuum held back") == []
    row = one(conn, "vacuum held back", "replication slot standby", transactions=40)
    assert row.severity == "warning"
    assert re.match(r"physical slot, active \(pid \d+\); transactions since its xmin: \d+$", row.detail)
    assert one(conn, "vacuum held back", transactions=5).severity == "critical"

    # The first remedy: end the transaction there.
    there.close()
    until(lambda: not health(conn, "vacuum held back", transactions=40))

    # The second: no feedback.
    there = snapshot_on(standby, conn)
    row = one(conn, "vacuum held back", "replication slot standby", transactions=40)
    with psycopg.connect(standby.dsn(), autocommit=True) as admin:
        run(admin, row.remedy, r"alter system set hot_standby_feedback = off; select pg_reload_conf\(\)")
    until(lambda: not health(conn, "vacuum held back", transactions=40))
    with psycopg.connect(standby.dsn(), autocommit=True) as admin:
        assert health(admin, "vacuum held back") == []
    there.close()


def test_the_slot_of_a_standby_that_is_gone_holds_back_vacuum(version, ours, standby):
    conn = ours.connect()
    there = snapshot_on(standby, conn)
    standby.stop("immediate")
    there.close()
    until(lambda: not value(conn, "select active from pg_replication_slots"))
    row = one(conn, "vacuum held back", "replication slot standby", transactions=40)
    assert row.detail.startswith("physical slot, not active")
    # From PostgreSQL 17 on the time is known.
    assert len(health(conn, "vacuum held back")) == (int(version) >= 17)
    assert health(conn, "vacuum held back", older_than="1h") == []
    if int(version) >= 17:
        assert "not active for 00:0" in row.detail
        assert one(conn, "vacuum held back").severity == "critical"
    run(conn, row.remedy, r"select pg_drop_replication_slot\('standby'\)")
    assert health(conn, "vacuum held back", transactions=1) == []


def test_a_standby_without_a_slot_holds_back_vacuum(ours, standby):
    conn = ours.connect()
    with psycopg.connect(standby.dsn(), autocommit=True) as admin:
        admin.execute("alter system set primary_slot_name = ''")
        admin.execute("select pg_reload_conf()")
    until(lambda: not value(conn, "select active from pg_replication_slots"))
    conn.execute("select pg_drop_replication_slot('standby')")
    until(lambda: column(conn, "select 1 from pg_stat_replication where state = 'streaming'"))
    there = snapshot_on(standby, conn)
    assert health(conn, "vacuum held back") == []
    row = one(conn, "vacuum held back", "standby walreceiver", transactions=40)
    assert row.severity == "warning"
    assert one(conn, "vacuum held back", transactions=5).severity == "critical"
    with psycopg.connect(standby.dsn(), autocommit=True) as admin:
        run(admin, row.remedy, r"alter system set hot_standby_feedback = off; select pg_reload_conf\(\)")
    until(lambda: not health(conn, "vacuum held back", transactions=40))
    there.close()


@pytest.mark.parametrize("dbname", ["postgres", "other"])
def test_a_logical_slot_of_any_database_holds_back_the_catalogues(version, ours, dbname):
    conn = ours.connect()
    with psycopg.connect(ours.server.dsn(dbname), autocommit=True) as there:
        there.execute("select pg_create_logical_replication_slot('reader', 'pgoutput')")
    write(conn, 50)
    row = one(conn, "vacuum held back", "replication slot reader", transactions=40)
    assert "logical slot, not active" in row.detail
    assert "in the system catalogues, not in the queue's tables" in row.detail
    assert one(conn, "vacuum held back", transactions=2).severity == "warning"
    assert len(health(conn, "vacuum held back")) == (int(version) >= 17)
    with psycopg.connect(ours.server.dsn(dbname), autocommit=True) as there:
        run(there, row.remedy, r"select pg_drop_replication_slot\('reader'\)")
    assert health(conn, "vacuum held back", transactions=1) == []


def test_on_a_standby_it_says_who_is_there_and_what_the_queue_suffers_from(ours, standby):
    conn = ours.connect()
    leased(conn, ago="1h")
    there = snapshot_on(standby, conn)
    with psycopg.connect(standby.dsn(), autocommit=True) as admin:
        until(lambda: health(admin, "leases overdue"))
        row = until(lambda: health(admin, "vacuum held back", pid(there)))[0]
        run(admin, row.remedy, r"select pg_terminate_backend\(\d+\)")
        until(lambda: not health(admin, "vacuum held back", pid(there)))
        there.close()
        write(conn)
        assert {row.what for row in health(admin)} <= {"leases overdue", "vacuum held back"}


# Dead rows


def die(conn: Connection, table: str, count: int) -> None:
    """So many rows that nobody will see: of a put that was rolled back."""
    columns = {"queue_job": "queue, enqueued_at", "queue_dead": "queue, died_at, reason, id"}[table]
    values = {"queue_job": "'apples', now()", "queue_dead": "'apples', now(), 'broken', i"}[table]
    conn.execute(f"alter table {table} set (autovacuum_enabled = off)")
    with conn.transaction(force_rollback=True):
        conn.execute(f"insert into {table} ({columns}) select {values} from generate_series(1, {count}) i")
    flush(conn, f"select n_dead_tup >= {count} from pg_stat_user_tables where relname = '{table}'")


def flush(conn: Connection, condition: str) -> None:
    """Have the statistics of this session told to the others."""
    conn.execute("select pg_stat_force_next_flush()")
    until(lambda: value(conn, condition))


@pytest.mark.parametrize("table", ["queue_job", "queue_dead"])
def test_dead_rows_are_found_and_a_vacuum_removes_them(conn, table):
    die(conn, table, 50_000)
    assert health(conn, "dead rows") == []
    die(conn, table, 1)
    row = one(conn, "dead rows", f"table public.{table}")
    assert row.severity == "warning"
    assert row.detail == "50001 dead rows and 0 live ones; last vacuum: never, last autovacuum: never"
    run(conn, row.remedy, rf"vacuum public\.{table}$")
    assert health(conn, "dead rows") == []


def test_half_a_million_dead_rows_are_critical(conn):
    die(conn, "queue_dead", 500_001)
    assert one(conn, "dead rows").severity == "critical"


def test_dead_rows_among_many_live_ones_are_no_trouble(conn):
    conn.execute("insert into queue_job (queue, enqueued_at) select 'apples', now() from generate_series(1, 10010)")
    die(conn, "queue_job", 50_001)
    flush(conn, "select n_live_tup = 10010 from pg_stat_user_tables where relname = 'queue_job'")
    assert health(conn, "dead rows") == []
    conn.execute("delete from queue_job where id <= 100")
    flush(conn, "select n_live_tup = 9910 from pg_stat_user_tables where relname = 'queue_job'")
    assert one(conn, "dead rows").detail.startswith("50101 dead rows and 9910 live ones; ")


# The notification queue


def notify(conn: Connection, count: int) -> None:
    """A page of the notification queue each."""
    conn.execute(
        f"select count(pg_notify('x', i || repeat('x', 7990 - length(i::text)))) from generate_series(1, {count}) i"
    )


# Before PostgreSQL 17 a tenth of the notification queue is 800 MB.
@pytest.mark.timeout(600)
def test_a_stuck_listener_fills_the_notification_queue(version, ours):
    conn = ours.connect()
    usage = "select pg_notification_queue_usage()"
    # In another database: the queue is one for all of them.
    listener = psycopg.connect(ours.server.dsn("other"), autocommit=True, application_name="listener")
    listener.execute("listen x")
    listener.execute("begin")
    listener.execute("select 1")
    idle = psycopg.connect(ours.server.dsn("other"), autocommit=True)
    step = 1 if int(version) >= 17 else 5000
    assert health(conn, "notification queue filling") == health(conn, "listener stuck") == []
    while value(conn, usage) <= 0.1:
        notify(conn, step)
    row = one(conn, "notification queue filling", "notification queue")
    assert row.severity == "warning"
    assert re.match(r"1\d\.\d % full\. ", row.detail)
    assert "notify => false" in row.remedy

    # Who may be the cause, since nobody but itself knows what a session listens to.
    stuck = one(conn, "listener stuck", pid(listener))
    assert "database other, user postgres, application 'listener', idle in transaction" in stuck.detail
    assert "may" in stuck.detail
    assert health(conn, "listener stuck", pid(idle)) == health(conn, "listener stuck", pid(conn)) == []
    assert health(conn, "listener stuck", older_than="1h") == []
    # It holds no snapshot.
    assert health(conn, "vacuum held back", pid(listener)) == []

    # Before PostgreSQL 17 half of it is 4 GB.
    if int(version) >= 17:
        while value(conn, usage) <= 0.5:
            notify(conn, step)
        assert one(conn, "notification queue filling").severity == "critical"
        assert one(conn, "listener stuck", pid(listener)).severity == "critical"
    run(conn, stuck.remedy, r"select pg_terminate_backend\(\d+\)")
    until(lambda: value(conn, usage) == 0)
    assert health(conn, "notification queue filling") == health(conn, "listener stuck") == []
    idle.close()
    listener.close()


# Jobs that nobody takes


def leased(
    conn: Connection, count: int = 1, queue: str = "apples", ago: str = "2m", ends_ago: str | None = None
) -> None:
    """Leases that should have ended so long ago, and were perhaps extended."""
    conn.execute(
        """
        insert into queue_job (queue, enqueued_at, data, ready_at, lease_until, receipt, attempts, consumer)
        select %s, now() - '1 day'::interval, '1', now() - %s::interval, now() - %s::interval, gen_random_uuid(), 1, 'x'
        from generate_series(1, %s)
        """,
        [queue, ago, ends_ago or ago, count],
    )


def due(conn: Connection, count: int = 1, queue: str = "apples", ago: str = "2m") -> None:
    conn.execute(
        """
        insert into queue_job (queue, enqueued_at, data, ready_at, schedule_at)
        select %s, now() - '1 day'::interval, '1', now() - %s::interval, now() - %s::interval
        from generate_series(1, %s)
        """,
        [queue, ago, ago, count],
    )


def ready(conn: Connection, count: int = 1, queue: str = "apples", ago: str = "2m") -> None:
    conn.execute(
        """
        insert into queue_job (queue, enqueued_at, data)
        select %s, now() - %s::interval, '1' from generate_series(1, %s)
        """,
        [queue, ago, count],
    )


def counted(row: Row) -> str:
    """How many, and for how long, but for the last digit: the test takes some time itself."""
    return row.detail.split(": ", 1)[1][:-1]


@pytest.mark.parametrize(("make", "what"), [(leased, "leases overdue"), (due, "due jobs overdue")])
def test_jobs_that_nobody_takes_are_found_until_somebody_does(conn, make, what):
    make(conn, 2)
    make(conn, 1, ago="3m")
    make(conn, 1, ago="30s")
    make(conn, 1, ago="-1h")
    make(conn, 7, queue="Pears' \\", ago="11m")
    make(conn, 1, queue="zebras", ago="30s")
    found = health(conn, what, older_than="1 minute")
    assert [(row.subject, row.severity) for row in found] == [
        ("queue Pears' \\", "critical"),
        ("queue apples", "warning"),
    ]
    assert ", and nobody takes them: 3, the first for 00:03:0" in found[1].detail
    assert found[1].remedy == "start a worker for this queue, or: select public.queue_maintain()"
    assert len(health(conn, older_than="1 minute")) == 2 + len(FSYNC)
    # A worker starts.
    assert len(column(conn, "select id from queue_get('apples', 9)")) == 4
    assert [row.subject for row in health(conn, what, older_than="1 minute")] == ["queue Pears' \\"]


def test_leases_and_due_jobs_of_a_queue_are_told_apart(conn):
    leased(conn, 2)
    due(conn, 3, ago="4m")
    found = health(conn, subject="queue apples", older_than="1 minute")
    assert [(row.what, counted(row)) for row in found] == [
        ("leases overdue", "2, the first for 00:02:0"),
        ("due jobs overdue", "3, the first for 00:04:0"),
    ]


def test_a_lease_that_was_extended_is_not_overdue(conn):
    leased(conn, ago="1h", ends_ago="-1m")
    leased(conn, ago="1h", ends_ago="10s")
    assert health(conn, "leases overdue", older_than="1 minute") == []
    leased(conn, ago="1h", ends_ago="5m")
    row = one(conn, "leases overdue", older_than="1 minute")
    assert row.detail[:-1] == "jobs whose lease has run out, and nobody takes them: 1, the first for 00:05:0"


def test_no_more_than_a_thousand_are_counted(conn):
    leased(conn, 1000)
    due(conn, 1500, queue="pears")
    found = health(conn, older_than="1 minute")
    assert [re.findall(r": (.*),", row.detail)[0] for row in found[:2]] == ["1000 or more", "1000 or more"]
    # Nor is it said that there are exactly as many of a kind as were seen.
    conn.execute("delete from queue_job")
    leased(conn, 900)
    due(conn, 600, ago="1m 30s")
    found = health(conn, subject="queue apples", older_than="1 minute")
    assert [re.findall(r": (.*),", row.detail)[0] for row in found] == ["900 or more", "100 or more"]


@pytest.mark.parametrize("prepare", [False, True])
def test_a_job_that_is_being_taken_is_not_overdue(database, conn, prepare):
    due(conn)
    other = database.connect()
    other.execute("begin")
    assert len(column(other, "select id from queue_get('apples')")) == 1
    if prepare:
        other.execute("prepare transaction 'taking'")
    assert health(conn, "due jobs overdue", older_than="1 minute") == []
    other.execute("rollback prepared 'taking'" if prepare else "rollback")
    assert one(conn, "due jobs overdue", older_than="1 minute")


def test_a_paused_queue_with_jobs_that_wait_is_found(conn):
    for queue in ("ready", "due", "leased", "of today"):
        conn.execute("select queue_pause(%s)", [queue])
    ready(conn, 3, "ready")
    ready(conn, 1, "ready", ago="10s")
    due(conn, 2, "due", ago="11h")
    due(conn, 1, "due", ago="-1h")
    leased(conn, 1500, "leased")
    ready(conn, 1, "of today", ago="10s")
    ready(conn, 1, "not paused", ago="1h")
    found = health(conn, older_than="1 minute")
    assert names(found) == [
        *(("paused with jobs", f"queue {queue}") for queue in ("due", "leased", "ready")),
        *FSYNC,
    ]
    assert {row.severity for row in found[:3]} == {"warning"}
    assert [counted(row) for row in found[:3]] == [
        "2, the first for 11:00:0",
        "1000 or more, the first for 00:02:0",
        "3, the first for 00:02:0",
    ]
    for row in found[:3]:
        run(conn, row.remedy, r"select public\.queue_resume\('.*'\)$")
    assert health(conn, "paused with jobs", older_than="1 minute") == []


READ = """
    select
        sum(pg_stat_get_xact_tuples_returned(oid)) filter (where relkind = 'i')
            + sum(pg_stat_get_xact_tuples_returned(oid)) filter (where relkind = 'r')
    from pg_class
    where oid = 'queue_job'::regclass
        or oid in (select indexrelid from pg_index where indrelid = 'queue_job'::regclass)
"""


def test_it_reads_no_more_of_a_long_queue_than_of_a_short_one(database, conn):
    conn.execute("alter table queue_job set (autovacuum_enabled = off)")
    conn.execute("analyze queue_job")
    early = database.connect()

    def read(session: Connection) -> int:
        with session.transaction():
            before = value(session, READ)
            found = health(session, older_than="1 minute")
            assert len(found) == (2 + 1 + 1 + len(FSYNC) if stored else 1 + len(FSYNC))
            return int(value(session, READ) - before)

    stored = False
    assert read(early) == 0
    stored = True
    conn.execute("select queue_pause('plums')")
    for queue in ("apples", "pears", "plums"):
        for make, count in ((ready, 30_000), (due, 2000), (leased, 2000)):
            make(conn, count, queue, "30m" if make is leased else "31m")
        due(conn, 10_000, queue, "-1d")
    # Of each queue the first 1,000 that wait, of the paused one as many again, and the ready ones.
    few = 3 * 1001 + 2000
    for session in (early, database.connect()):
        assert read(session) <= few
    conn.execute("vacuum analyze queue_job")
    for session in (early, database.connect()):
        assert read(session) <= few


# Autovacuum


@pytest.mark.parametrize("setting", ["false", "off", "0"])
@pytest.mark.parametrize("table", ["queue_job", "queue_dead", "queue_setting"])
def test_autovacuum_that_is_off_for_a_table_is_found(conn, table, setting):
    conn.execute(f"alter table {table} set (autovacuum_enabled = '{setting}')")
    row = one(conn, "autovacuum off", f"table public.{table}")
    assert row.severity == ("critical" if table == "queue_job" else "warning")
    run(conn, row.remedy, rf"^alter table public\.{table} reset \(autovacuum_enabled\)$")
    assert health(conn, "autovacuum off") == []
    conn.execute(f"alter table {table} set (autovacuum_enabled = on)")
    assert health(conn, "autovacuum off") == []


def test_autovacuum_that_is_off_for_what_is_stored_out_of_line_is_found(conn):
    conn.execute("alter table queue_job set (toast.autovacuum_enabled = off)")
    run(conn, one(conn, "autovacuum off").remedy, r"alter table public\.queue_job reset \(toast\.autovacuum_enabled\)$")
    assert health(conn, "autovacuum off") == []


def test_commands_name_the_schema_of_the_installation(conn):
    install_again(conn)
    conn.execute('alter table "Billing queue".queue_job set (autovacuum_enabled = off)')
    conn.execute("""select "Billing queue".queue_pause('it''s'), "Billing queue".queue_put('it''s', '1')""")
    assert health(conn, "autovacuum off") == health(conn, "paused with jobs") == []
    found = (
        conn.cursor(row_factory=class_row(Row))
        .execute("""select * from "Billing queue".queue_health('0')""")
        .fetchall()
    )
    for what in ("autovacuum off", "paused with jobs"):
        (row,) = [row for row in found if row.what == what]
        conn.execute(row.remedy)
    found = (
        conn.cursor(row_factory=class_row(Row))
        .execute("""select * from "Billing queue".queue_health('0')""")
        .fetchall()
    )
    assert names(found) == FSYNC


# Settings


@pytest.mark.parametrize(
    ("name", "what", "severity"),
    [
        ("autovacuum", "autovacuum off", "critical"),
        ("track_counts", "autovacuum off", "critical"),
        ("fsync", "crash may lose jobs", "critical"),
        ("full_page_writes", "crash may lose jobs", "warning"),
        ("synchronous_commit", "crash may lose jobs", "warning"),
    ],
)
def test_a_setting_of_the_server_that_hurts_is_found(ours, name, what, severity):
    conn = ours.connect()
    conn.execute(f"alter system set {name} = off")
    conn.execute("select pg_reload_conf()")
    until(lambda: value(conn, f"show {name}") == "off")
    row = one(conn, what, f"setting {name}")
    assert row.severity == severity
    assert row.detail.startswith(f"{name} = off (source: configuration file): ")
    run(conn, row.remedy, rf"^alter system set {name} = on; select pg_reload_conf\(\)$")
    until(lambda: value(conn, f"show {name}") == "on")
    assert health(conn, what) == []
    conn.execute(f"alter system reset {name}" if name != "fsync" else "select 1")


@pytest.mark.parametrize(
    ("how", "source"),
    [
        ("set synchronous_commit = off", "session"),
        ("", "client"),
        ("alter role postgres set synchronous_commit = off", "user"),
        ("alter database postgres set synchronous_commit = off", "database"),
        ("alter role postgres in database postgres set synchronous_commit = off", "database user"),
    ],
)
def test_the_remedy_for_a_setting_is_where_it_was_made(ours, how, source):
    conn = ours.connect(options="-c synchronous_commit=off" if source == "client" else "")
    for statement in filter(None, [how]):
        conn.execute(statement)
    if source in ("user", "database", "database user"):
        conn = ours.connect()
    row = one(conn, "crash may lose jobs", "setting synchronous_commit")
    assert f"(source: {source})" in row.detail
    run(conn, row.remedy, "(set|alter) [a-z _=]+")
    if source in ("user", "database", "database user"):
        assert row.remedy.endswith("; then connect anew")
        conn = ours.connect()
    assert health(conn, "crash may lose jobs") == []


@pytest.mark.parametrize("value_", ["on", "local", "remote_write", "remote_apply"])
def test_commits_that_wait_for_less_or_more_are_safe(conn, value_):
    conn.execute(f"set synchronous_commit = {value_}")
    assert names(health(conn, "crash may lose jobs")) == FSYNC


# Wraparound


@pytest.mark.parametrize(("next_xid", "severity"), [(1_000_100_000, "warning"), (1_800_100_000, "critical")])
def test_wraparound_that_comes_near_is_found(server, next_xid, severity):
    with server_with(server, autovacuum="off", autovacuum_freeze_max_age="2000000000") as ours:
        with psycopg.connect(ours.dsn(), autocommit=True) as conn:
            assert health(conn, "wraparound near") == []
        ours.stop()
        # The transactions in between never were. The server looks for the page that notes the next one.
        segment = ours.data / "pg_xact" / f"{next_xid // (1 << 20):04X}"
        segment.write_bytes(bytes(256 * 1024))
        shutil.chown(segment, ours.data.stat().st_uid, ours.data.stat().st_gid)
        ours.run("pg_resetwal", "-x", str(next_xid), "-D", str(ours.data))
        ours.start()
        with psycopg.connect(ours.dsn(), autocommit=True) as conn:
            row = one(conn, "wraparound near", "database postgres")
            assert row.severity == severity
            assert f": {str(next_xid)[:4]}" in row.detail
            run(conn, row.remedy, r"vacuum \(freeze\)$")
            assert health(conn, "wraparound near") == []


# An owner without rights


def plain_owner(conn: Connection) -> None:
    """Give the queue to an ordinary role, in a transaction that will be undone."""
    conn.execute('create role "Plain"')
    objects = """
        select format('alter table %s owner to "Plain"', oid::regclass)
        from pg_class where relname ~ '^queue_' and relkind = 'r' and relnamespace = 'public'::regnamespace
        union all
        select format('alter function %s owner to "Plain"', oid::regprocedure)
        from pg_proc where proname ~ '^_?queue_' and pronamespace = 'public'::regnamespace
    """
    for statement in column(conn, objects):
        conn.execute(statement)


@pytest.fixture
def plain(database: Database) -> Iterator[Connection]:
    """A transaction in which the queue belongs to an ordinary role."""
    conn = database.connect(autocommit=False)
    plain_owner(conn)
    yield conn
    conn.rollback()


def test_an_owner_without_rights_is_told_which_it_needs(plain):
    row = one(plain, "limited view", "role Plain")
    assert row.severity == "warning"
    assert len(health(plain, older_than="1 minute")) == 1 + len(FSYNC)
    run(plain, row.remedy, 'grant pg_monitor to "Plain"$')
    assert health(plain, "limited view") == []


def test_an_owner_that_may_see_all_sessions_is_not_told_so(plain):
    plain.execute('grant pg_read_all_stats to "Plain"')
    assert health(plain, "limited view") == []


def test_without_rights_sessions_are_judged_by_transactions(database, conn, plain):
    plain.rollback()
    reader, writer, late = (database.connect() for _ in range(3))
    reader.execute("begin isolation level repeatable read")
    reader.execute("select 1")
    write(conn, 50)
    writer.execute("begin")
    writer.execute("select pg_current_xact_id()")
    late.execute("begin isolation level repeatable read")
    late.execute("select 1")
    write(conn, 50)
    plain_owner(plain)

    # Within a transaction the view of the sessions stays as it is, if it is not cleared.
    def seen(transactions: int) -> dict[str, Row]:
        plain.execute("select pg_stat_clear_snapshot()")
        found = health(plain, "vacuum held back", transactions=transactions)
        return {row.subject: row for row in found if row.subject != pid(plain)}

    assert seen(100_000) == {}
    assert list(seen(90)) == [pid(reader)]
    # What the last one holds back, the second does anyway.
    assert set(seen(40)) == {pid(reader), pid(writer)}
    assert seen(40)[pid(reader)].severity == "warning"
    assert seen(9)[pid(reader)].severity == "critical"
    assert "state and time unknown" in seen(40)[pid(reader)].detail
    writer.execute("rollback")
    assert set(seen(40)) == {pid(reader), pid(late)}


def test_without_rights_100000_transactions_are_too_many(database, conn, plain):
    plain.rollback()
    reader = database.connect()
    reader.execute("begin isolation level repeatable read")
    reader.execute("select 1")
    write(conn, 100_001)
    plain_owner(plain)
    assert one(plain, "vacuum held back", pid(reader), transactions=None).severity == "warning"
    assert one(plain, "vacuum held back", pid(reader), older_than=None, transactions=None)


@pytest.mark.parametrize(
    ("relation", "lost", "seen"),
    [
        ("pg_stat_activity", "vacuum held back", "dead rows"),
        ("pg_replication_slots", "", "vacuum held back"),
        ("pg_prepared_xacts", "", "vacuum held back"),
        ("pg_stat_user_tables", "dead rows", "vacuum held back"),
        ("pg_settings", "crash may lose jobs", "vacuum held back"),
        ("pg_notification_queue_usage()", "", "vacuum held back"),
    ],
)
def test_what_was_taken_from_public_is_said_and_the_rest_is_seen(database, conn, plain, relation, lost, seen):
    plain.rollback()
    die(conn, "queue_job", 50_001)
    due(conn)
    other = database.connect(autocommit=False)
    other.execute("select pg_current_xact_id()")
    plain_owner(plain)
    plain.execute('grant pg_monitor to "Plain"')
    right, kind = ("execute", "function") if relation.endswith(")") else ("select", "table")
    plain.execute(f"revoke {right} on {kind} {relation} from public")
    found = {row.what for row in health(plain)}
    assert lost not in found
    assert {seen, "due jobs overdue", "autovacuum off", "limited view"} <= found
    row = one(plain, "limited view")
    assert relation.strip("()") in row.detail
    run(plain, row.remedy, 'grant pg_monitor to "Plain"')
    plain.execute(f'grant {right} on {kind} {relation} to "Plain"')
    assert health(plain, "limited view") == []


# Secrets


def test_neither_jobs_nor_queries_are_shown(database, conn):
    install_again(conn)
    other = database.connect(autocommit=False)
    other.execute("select pg_current_xact_id(), 'secret'")
    conn.execute("select queue_pause('pears')")
    for queue in ("apples", "pears"):
        due(conn, queue=queue)
        leased(conn, queue=queue)
    conn.execute("""update queue_job set data = '"secret"', headers = '{"a": "secret"}'""")
    conn.execute("update queue_job set last_error = 'secret', consumer = 'secret'")
    conn.execute("update queue_job set dedupe_key = 'secret' || id")
    found = health(conn)
    assert {"vacuum held back", "due jobs overdue", "leases overdue", "paused with jobs"} <= {row.what for row in found}
    assert "secret" not in str(found)

"""Migrations: the text is assembled, the released is frozen, and every way leads to the same catalogue."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from catalogue import everything, fingerprint
from checkout import ROOT, Checkout
from psycopg import sql
from servers import Server

from pgq_py import SCHEMA_VERSION, migrate
from pgq_py.migrate import MigrationError

SCHEMAS = ["public", "Billing queue"]
PGQ_PY = "from pgq_py.cli import main; main()"
Connection = psycopg.Connection[Any]


class Empty:
    """A database with nothing in it."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.dsn = server.dsn(name)

    def psql(self, script: str) -> str:
        program = self.server.programs / "psql"
        done = subprocess.run(
            [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.dsn], input=script, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def empty(server: Server) -> Iterator[Empty]:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("drop database if exists empty with (force)")
        admin.execute("create database empty template template0")
        yield Empty(server, "empty")
        admin.execute("drop database empty with (force)")


@pytest.fixture
def conn(empty: Empty) -> Iterator[Connection]:
    with psycopg.connect(empty.dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def copy(tmp_path: Path) -> Checkout:
    return Checkout.copy_to(tmp_path)


def load_sources(conn: Connection, root: Path, schema: str) -> None:
    """What `cat sql/…` makes of a database."""
    with conn.transaction():
        if schema != "public":
            conn.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        conn.execute(sql.SQL("set local search_path to {}, pg_temp").format(sql.Identifier(schema)))
        for file in [root / "sql" / "schema.sql", *sorted((root / "sql" / "functions").glob("*.sql"))]:
            conn.execute(file.read_bytes())


def put(conn: Connection, schema: str, *args: Any, **named: Any) -> int:
    given = [sql.SQL("%s")] * len(args) + [sql.SQL("{} => {}").format(sql.Identifier(n), v) for n, v in named.items()]
    function = sql.Identifier(schema.replace("%", "%%"), "queue_put")
    call = sql.SQL("select {}({})").format(function, sql.SQL(", ").join(given))
    row = conn.execute(call, args).fetchone()
    assert row is not None
    return int(row[0])


# The text


def test_migrations_are_up_to_date_with_the_sources() -> None:
    done = Checkout().make_sql("--check", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_notices_an_edited_function_and_make_sql_copies_it(copy: Checkout) -> None:
    copy.make_sql()
    copy.edit("sql/functions/queue_count.sql", "as $$\n", "as $$\n-- Edited.\n")
    done = copy.make_sql("--check", check=False)
    assert done.returncode == 1
    newest = migrate_files(copy)[-1]
    assert done.stdout == f"migrations/versions/{newest}.sql is out of date: run `make sql`\n"
    copy.make_sql()
    assert "-- Edited." in (copy.root / f"migrations/versions/{newest}.sql").read_text()
    copy.make_sql("--check")


def test_check_notices_a_migration_edited_below_the_mark(copy: Checkout) -> None:
    copy.make_sql()
    path = copy.root / f"migrations/versions/{migrate_files(copy)[-1]}.sql"
    path.write_text(path.read_text().replace("create or replace function queue_get(", "create function queue_get("))
    assert copy.make_sql("--check", check=False).returncode == 1


@pytest.mark.parametrize("suffix", [".sql", ".down.sql", ".py"])
def test_check_refuses_a_released_file_that_was_touched(copy: Checkout, suffix: str) -> None:
    copy.make_sql()
    copy.make_sql("release")
    copy.make_sql("--check")
    name = migrate_files(copy)[-1] + suffix
    with (copy.root / "migrations/versions" / name).open("a") as file:
        file.write("\n")
    done = copy.make_sql("--check", check=False)
    assert done.returncode == 1
    assert done.stderr == f"{name} is released and must not change: put the change into a new migration\n"


def test_after_a_release_a_changed_function_needs_a_new_migration(copy: Checkout) -> None:
    copy.make_sql()
    assert "is not released yet" in copy.make_sql("new", "too_early", check=False).stderr
    copy.make_sql("release")
    copy.edit("sql/functions/queue_count.sql", "as $$\n", "as $$\n-- Edited.\n")
    assert "make_sql.py new NAME" in copy.make_sql("--check", check=False).stderr
    copy.make_sql("new", "edited")
    copy.make_sql("--check")
    newest = migrate_files(copy)[-1]
    up = (copy.root / f"migrations/versions/{newest}.sql").read_text()
    # What changed, and the number, and nothing else.
    assert [line for line in up.splitlines() if line.startswith("-- functions/")] == [
        "-- functions/queue_count.sql",
        "-- functions/queue_version.sql",
    ]


def test_a_function_that_is_gone_must_be_dropped_by_hand(copy: Checkout) -> None:
    copy.make_sql()
    copy.make_sql("release")
    copy.make_sql("new", "less")
    (copy.root / "sql/functions/queue_pause.sql").unlink()
    assert "drop function queue_pause;" in copy.make_sql(check=False).stderr
    newest = migrate_files(copy)[-1]
    copy.edit(f"migrations/versions/{newest}.sql", "\n-- Below this", "\ndrop function queue_pause;\n\n-- Below this")
    copy.make_sql()
    down = (copy.root / f"migrations/versions/{newest}.down.sql").read_text()
    assert "create or replace function queue_pause(" in down
    # Once is enough: the version after that knows that it is gone.
    copy.make_sql("release")
    copy.make_sql("new", "later")
    copy.make_sql("--check")


def migrate_files(copy: Checkout) -> list[str]:
    return sorted(path.stem for path in (copy.root / "migrations" / "versions").glob("[0-9]*.py"))


def test_every_place_names_the_same_version(database: Any) -> None:
    with database.connect() as conn:
        installed = conn.execute("select queue_version()").fetchone()[0]
    control = (ROOT / "pgq_py.control").read_text()
    assert installed == migrate.HEAD == SCHEMA_VERSION == migrate_files(Checkout())[-1][:4]
    assert f"default_version = '{installed}'" in control


# The catalogue


def by_alembic(empty: Empty, checkout: Checkout, schema: str) -> None:
    checkout.alembic(empty.dsn, "upgrade", "head", schema=schema)


def by_alembic_offline(empty: Empty, checkout: Checkout, schema: str) -> None:
    empty.psql(checkout.alembic("", "upgrade", "head", "--sql", schema=schema).stdout)


def by_command(empty: Empty, checkout: Checkout, schema: str) -> None:
    checkout.command("migrate", "--dsn", empty.dsn, "--schema", schema)


def by_command_offline(empty: Empty, checkout: Checkout, schema: str) -> None:
    empty.psql(checkout.command("sql", "--schema", schema).stdout)


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("way", [by_alembic, by_alembic_offline, by_command, by_command_offline])
def test_every_way_to_install_leaves_the_catalogue_of_the_sources(
    empty: Empty, conn: Connection, way: Callable[[Empty, Checkout, str], None], schema: str
) -> None:
    load_sources(conn, ROOT, schema)
    wanted = fingerprint(conn, schema)
    assert len(wanted) > 80
    conn.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))
    if schema == "public":
        conn.execute("create schema public")

    way(empty, Checkout(), schema)
    assert fingerprint(conn, schema) == wanted
    assert migrate.current(empty.dsn, schema) == migrate.HEAD


def test_the_fingerprint_does_not_depend_on_the_schema_and_sees_what_matters(conn: Connection) -> None:
    for schema in SCHEMAS:
        load_sources(conn, ROOT, schema)
    before = fingerprint(conn)
    assert before == fingerprint(conn, SCHEMAS[1])
    for change in [
        "alter table queue_job alter attempts set default 1",
        "alter table queue_job add column extra text",
        "alter table queue_job set (fillfactor = 90)",
        "alter table queue_dead drop constraint queue_dead_pkey",
        "drop index queue_job_ready_idx",
        "comment on function queue_put is 'less'",
        "comment on table queue_job is 'less'",
        "grant execute on function queue_put to public",
        "grant select on queue_job to public",
        "alter function queue_put security invoker",
        "alter function queue_put reset search_path",
        "alter function queue_put cost 7",
        "create function more() returns int language sql as 'select 1'",
        "create type mood as enum ('good')",
    ]:
        with conn.transaction(force_rollback=True):
            conn.execute(change)
            assert fingerprint(conn) != before, change
        assert fingerprint(conn) == before


@pytest.mark.long
@pytest.mark.parametrize("schema", SCHEMAS)
def test_up_down_and_up_again(empty: Empty, conn: Connection, schema: str) -> None:
    here = Checkout()
    nothing = everything(conn)
    here.alembic(empty.dsn, "upgrade", "head", schema=schema)
    first = fingerprint(conn, schema)
    put(conn, schema, "apples", "1")
    here.alembic(empty.dsn, "downgrade", "base", schema=schema)
    assert everything(conn) == nothing
    here.alembic(empty.dsn, "upgrade", "head", schema=schema)
    assert fingerprint(conn, schema) == first
    # The other runner finds what the first one left.
    migrate.upgrade(empty.dsn, schema)
    migrate.downgrade(empty.dsn, schema)
    assert everything(conn) == nothing


@pytest.mark.long
def test_several_installations_side_by_side_do_not_meet(empty: Empty, conn: Connection) -> None:
    names = ["public", "Billing queue", 'quo"te', "100%s", "dot.ted", "it's $1"]
    for name in names:
        migrate.upgrade(empty.dsn, name)
        assert [put(conn, name, "apples", "1"), put(conn, name, "apples", "2")] == [1, 2]
    for name in names[1:]:
        Checkout().alembic(empty.dsn, "downgrade", "base", schema=name)
    assert put(conn, "public", "apples", "3") == 3


def test_a_schema_made_or_used_by_others_stays(empty: Empty, conn: Connection) -> None:
    conn.execute("create schema theirs")
    for schema in ("theirs", "ours"):
        migrate.upgrade(empty.dsn, schema)
    conn.execute("create table ours.invoice (id int)")
    for schema in ("theirs", "ours"):
        migrate.downgrade(empty.dsn, schema)
    assert {"schema theirs", "schema ours", "relation ours.invoice"} <= everything(conn)


@pytest.mark.parametrize("schema", ["", "$user", "x" * 64, "nul\0"])
def test_a_name_that_postgresql_would_take_for_another_is_refused(empty: Empty, conn: Connection, schema: str) -> None:
    before = everything(conn)
    with pytest.raises(MigrationError, match="can't be the name of a schema"):
        migrate.upgrade(empty.dsn, schema)
    assert everything(conn) == before


def test_reading_the_version_makes_nothing(empty: Empty, conn: Connection) -> None:
    before = everything(conn)
    assert migrate.current(empty.dsn, "new") is None
    Checkout().alembic(empty.dsn, "current", schema="new")
    assert everything(conn) == before


# Two at once, locks, errors


@pytest.mark.long
@pytest.mark.parametrize("schema", SCHEMAS)
def test_migrating_from_several_processes_at_once(empty: Empty, conn: Connection, schema: str) -> None:
    commands = [
        [sys.executable, "-m", "alembic", "-x", f"dsn={empty.dsn}", "-x", f"schema={schema}", "upgrade", "head"],
        [
            sys.executable,
            "-c",
            "import sys; from pgq_py.migrate import upgrade; upgrade(*sys.argv[1:])",
            empty.dsn,
            schema,
        ],
    ] * 2
    lock = "hashtextextended('pgq_py migrates ' || %s, 0)"
    # All four stand at the lock before the first may go.
    conn.execute(f"select pg_advisory_lock({lock})".encode(), [schema])
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for command in commands]
    wait_for_waiting(conn, len(running))
    conn.execute(f"select pg_advisory_unlock({lock})".encode(), [schema])
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert put(conn, schema, "apples", "1") == 1
    table = sql.Identifier(schema, migrate.VERSION_TABLE)
    assert conn.execute(sql.SQL("select * from {}").format(table)).fetchall() == [(migrate.HEAD,)]


def wait_for_waiting(conn: Connection, count: int) -> None:
    """Until so many sessions wait for a lock; the test's timeout ends a wait in vain."""
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    while conn.execute(query).fetchone() != (count,):
        conn.execute("select pg_stat_clear_snapshot()")


@pytest.mark.long
def test_lock_timeout_aborts_the_whole_migration_which_can_be_run_again(
    empty: Empty, conn: Connection, second: Checkout
) -> None:
    migrate.upgrade(empty.dsn)
    before = fingerprint(conn)
    job = put(conn, "public", "apples", "1")
    with conn.transaction():
        conn.execute("select queue_get('apples')")
        # The transaction that took the job holds up the new column.
        with pytest.raises(AssertionError, match=r"LockNotAvailable|canceling statement due to lock timeout"):
            second.alembic(f"{empty.dsn} options='-c lock_timeout=100ms'", "upgrade", "head")
        failed = second.command("migrate", "--dsn", f"{empty.dsn} options='-c lock_timeout=100ms'", check=False)
        assert (failed.returncode, failed.stderr) == (1, "Error: canceling statement due to lock timeout\n")
    assert fingerprint(conn) == before
    second.command("migrate", "--dsn", empty.dsn)
    assert migrate.current(empty.dsn) == f"{int(migrate.HEAD) + 1:04}"
    assert job == 1


@pytest.mark.long
@pytest.mark.parametrize("arguments", [["-m", "alembic", "upgrade", "head"], ["-c", PGQ_PY, "migrate"]])
def test_a_higher_isolation_level_by_default_does_not_hide_the_other_migration(
    empty: Empty, conn: Connection, arguments: list[str]
) -> None:
    conn.execute("alter database empty set default_transaction_isolation = 'serializable'")
    lock = "hashtextextended('pgq_py migrates public', 0)"
    conn.execute(f"select pg_advisory_lock({lock})".encode())
    environ = {**os.environ, "DATABASE_URL": empty.dsn, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    wait_for_waiting(conn, 2)
    conn.execute(f"select pg_advisory_unlock({lock})".encode())
    ended = [(process.communicate()[1], process.returncode) for process in running]
    assert [code for _, code in ended] == [0, 0], ended


def test_a_temporary_table_of_the_same_name_is_not_taken_for_ours(empty: Empty, conn: Connection) -> None:
    migrate.upgrade(empty.dsn)
    conn.execute("create temp table queue_job (like queue_job)")
    put(conn, "public", "apples", "1")
    assert conn.execute("select count(*) from pg_temp.queue_job").fetchone() == (0,)
    assert conn.execute("select count(*) from public.queue_job").fetchone() == (1,)


def test_errors_say_what_happened_and_never_the_password(empty: Empty) -> None:
    with pytest.raises(MigrationError, match="goes up to") as unknown:
        migrate.upgrade(empty.dsn, revision="9999")
    assert "9999" in str(unknown.value)
    with pytest.raises(MigrationError) as unreadable:
        migrate.upgrade("postgresql//me:secret@host/db")
    assert "secret" not in str(unreadable.value)
    assert unreadable.value.__cause__ is None
    with pytest.raises(MigrationError, match="does not exist") as missing:
        migrate.upgrade(f"{empty.server.dsn('nowhere')} password=secret")
    assert isinstance(missing.value.__cause__, psycopg.OperationalError)
    assert "secret" not in str(missing.value)


def test_a_schema_newer_than_the_package_is_left_alone(empty: Empty, conn: Connection, second: Checkout) -> None:
    second.command("migrate", "--dsn", empty.dsn)
    before = fingerprint(conn)
    for move in (migrate.upgrade, migrate.downgrade):
        with pytest.raises(MigrationError, match="install a newer pgq-py"):
            move(empty.dsn)
    assert fingerprint(conn) == before


# From version to version, with jobs


def put_jobs_in_every_state(conn: Connection) -> list[int]:
    """Ready, scheduled, retrying, leased; of each kind of data; and a dead one, which is not in the result."""
    ids = [
        put(conn, "public", "apples", '{"kind": "Cox"}'),
        put(conn, "public", "apples", '"first"', priority=5, headers='{"a": 1}', max_attempts=3),
        put(conn, "public", "apples", data_text="text", dedupe_key="once"),
        put(conn, "public", "apples", data_bytes=b"\0\1"),
        put(conn, "public", "apples", "1", schedule_in="1 day", expected_in="2 days"),
        put(conn, "public", "apples", "2"),
        put(conn, "public", "apples", "3"),
        put(conn, "public", "apples", "4"),
    ]
    retrying, leased, dead = ids[-3:]
    conn.execute(
        "update queue_job set attempts = 1, last_error = 'oh', ready_at = now() + '1 hour' where id = %s", [retrying]
    )
    conn.execute(
        "update queue_job set attempts = 1, receipt = gen_random_uuid(), lease_until = now() + '1 hour', "
        "ready_at = now() + '1 hour', consumer = 'me' where id = %s",
        [leased],
    )
    conn.execute(
        "with gone as (delete from queue_job where id = %s returning *) "
        "insert into queue_dead (id, died_at, queue, reason, data) select id, now(), queue, 'why not', data from gone",
        [dead],
    )
    conn.execute("select queue_pause('pears')")
    return ids[:-1]


def contents(conn: Connection) -> list[Any]:
    """All rows of the three tables, as they are."""
    tables = ("queue_job", "queue_dead", "queue_setting")
    return [
        sorted(str(row[0]) for row in conn.execute(f"select jsonb_strip_nulls(to_jsonb(t)) from {table} t".encode()))
        for table in tables
    ]


def take_all(conn: Connection) -> list[int]:
    """Let time pass for the waiting, then take job after job."""
    conn.execute(
        "update queue_job set ready_at = now() - interval '1 second', lease_until = now() - interval '1 second' "
        "where ready_at is not null"
    )
    taken: list[int] = []
    while rows := conn.execute("select id from queue_get('apples', 3)").fetchall():
        taken.extend(row[0] for row in rows)
    return sorted(taken)


def run_by_alembic(checkout: Checkout, dsn: str, forwards: bool, revision: str) -> None:
    checkout.alembic(dsn, "upgrade" if forwards else "downgrade", revision)


def run_by_command(checkout: Checkout, dsn: str, forwards: bool, revision: str) -> None:
    checkout.command("migrate", "--dsn", dsn, "--revision", revision, *([] if forwards else ["--down", "--yes"]))


@pytest.mark.long
@pytest.mark.parametrize("run", [run_by_alembic, run_by_command])
def test_from_the_oldest_version_to_a_newer_one_and_back_with_all_jobs(
    empty: Empty, conn: Connection, second: Checkout, run: Callable[[Checkout, str, bool, str], None]
) -> None:
    load_sources(conn, second.root, "public")
    newest = fingerprint(conn)
    conn.execute("drop schema public cascade; create schema public")

    run(second, empty.dsn, True, "0001")
    oldest = fingerprint(conn)
    ids = put_jobs_in_every_state(conn)
    jobs = contents(conn)

    run(second, empty.dsn, True, "head")
    assert fingerprint(conn) == newest != oldest
    assert contents(conn) == jobs
    assert conn.execute("select queue_shout(), queue_version()").fetchone() == ("AHA", f"{int(migrate.HEAD) + 1:04}")
    # Dropped and made anew, a function would be everybody's again.
    assert conn.execute("select bool_or(has_function_privilege('public', oid, 'execute')) from pg_proc "
                        "where pronamespace = 'public'::regnamespace").fetchone() == (False,)  # fmt: skip

    run(second, empty.dsn, False, "0001")
    assert fingerprint(conn) == oldest
    assert contents(conn) == jobs

    run(second, empty.dsn, True, "head")
    assert fingerprint(conn) == newest
    assert take_all(conn) == ids
    # Ids go on where they were.
    assert put(conn, "public", "apples", "1") > max(ids)


@pytest.mark.long
def test_the_printed_script_goes_from_version_to_version(empty: Empty, conn: Connection, second: Checkout) -> None:
    nothing = everything(conn)
    head = f"{int(migrate.HEAD) + 1:04}"
    load_sources(conn, second.root, "public")
    newest = fingerprint(conn)
    conn.execute("drop schema public cascade; create schema public")
    empty.psql(second.command("sql", "--revision", migrate.HEAD).stdout)
    empty.psql(second.command("sql", "--since", migrate.HEAD).stdout)
    assert fingerprint(conn) == newest
    empty.psql(second.alembic("", "downgrade", f"{head}:base", "--sql").stdout)
    empty.psql(second.alembic("", "upgrade", "head", "--sql").stdout)
    assert fingerprint(conn) == newest
    empty.psql(second.command("sql", "--since", head, "--revision", "base").stdout)
    assert everything(conn) == nothing


# In a host's own alembic history

HOST_ENV = """
from alembic import context
from sqlalchemy import MetaData, create_engine
from pgq_py.migrate import include_name

def configure(**where):
    context.configure(target_metadata=MetaData(), include_name=include_name, **where)
    with context.begin_transaction():
        context.run_migrations()

if context.is_offline_mode():
    configure(dialect_name="postgresql")
else:
    import psycopg
    dsn = context.get_x_argument(as_dictionary=True)["dsn"]
    with create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn)).connect() as connection:
        configure(connection=connection)
"""

HOST_REVISION = """
from alembic import op
revision = "{revision}"
down_revision = {down_revision}
def upgrade():
    op.execute("create table {before} (id int)")
    op.pgq_py_upgrade("0001", schema="{schema}")
    op.execute("create table {after} (id int)")
def downgrade():
    op.execute("drop table {before}")
    op.pgq_py_downgrade("base", schema="{schema}", since="0001")
    op.execute("drop table {after}")
"""


@pytest.fixture
def host(tmp_path: Path) -> Checkout:
    """An application with migrations of its own, of which two install the queue."""
    versions = tmp_path / "history" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "history" / "env.py").write_text(HOST_ENV)
    (tmp_path / "history" / "script.py.mako").write_text(
        'revision = "${up_revision}"\ndown_revision = ${repr(down_revision)}\n'
        "def upgrade():\n    ${upgrades if upgrades else 'pass'}\n"
    )
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/history\npath_separator = os\n")
    for revision, down, schema in [("a", None, "public"), ("b", "a", "Billing queue")]:
        (versions / f"{revision}.py").write_text(
            HOST_REVISION.format(
                revision=revision, down_revision=repr(down), schema=schema, before=f"{revision}1", after=f"{revision}2"
            )
        )
    return Checkout(tmp_path)


def host_alembic(host: Checkout, dsn: str, *args: str) -> str:
    # An editable install has the entry point; with the checkout on the path alone alembic can't know of it.
    start = (
        "import sys, alembic.runtime.plugins as plugins, pgq_py.alembic_plugin as ours\n"
        "if 'pgq_py' not in plugins._all_plugins:\n"
        "    plugins.Plugin.setup_plugin_from_module(ours, 'pgq_py')\n"
        "from alembic.config import main; main(sys.argv[1:])"
    )
    return host.python("-c", start, "-x", f"dsn={dsn}", *args, PYTHONPATH=str(ROOT)).stdout


@pytest.mark.long
def test_a_host_installs_the_queue_in_its_own_history(empty: Empty, conn: Connection, host: Checkout) -> None:
    load_sources(conn, ROOT, "Billing queue")
    wanted = fingerprint(conn, "Billing queue")
    conn.execute('drop schema "Billing queue" cascade')
    nothing = everything(conn)

    host_alembic(host, empty.dsn, "upgrade", "head")
    made = everything(conn)
    # Before and after ours: the directive leaves the host's search_path as it was.
    assert {f"relation {name}" for name in ("a1", "a2", "b1", "b2")} <= made
    assert fingerprint(conn, "Billing queue") == wanted
    assert [migrate.current(empty.dsn, schema) for schema in SCHEMAS] == [migrate.HEAD] * 2

    host_alembic(host, empty.dsn, "downgrade", "base")
    assert {line for line in everything(conn) - nothing if "alembic_version" not in line} == set()

    conn.execute("drop table alembic_version")
    empty.psql(host_alembic(host, "", "upgrade", "head", "--sql"))
    assert fingerprint(conn, "Billing queue") == wanted


@pytest.mark.long
def test_a_hosts_autogenerate_leaves_our_tables_alone(empty: Empty, conn: Connection, host: Checkout) -> None:
    host_alembic(host, empty.dsn, "upgrade", "head")
    host_alembic(host, empty.dsn, "revision", "--autogenerate", "-m", "x")
    (made,) = (host.root / "history" / "versions").glob("*_x.py")
    assert "'a1'" in made.read_text()
    assert "queue" not in made.read_text()


def test_the_directive_is_announced_to_alembic() -> None:
    assert (
        '[project.entry-points."alembic.plugins"]\npgq_py = "pgq_py.alembic_plugin"\n'
        in (ROOT / "pyproject.toml").read_text()
    )

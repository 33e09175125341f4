"""CREATE EXTENSION: from the same bytes, for ordinary users, upgraded and dumped with its jobs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from catalogue import everything, fingerprint
from checkout import ROOT, Checkout
from psycopg import sql
from servers import Server
from test_migrations import contents, load_sources, put, put_jobs_in_every_state, take_all

from pgq_py import migrate
from pgq_py.migrate import MigrationError

Connection = psycopg.Connection[Any]
NEXT = f"{int(migrate.HEAD) + 1:04}"


def relocated(programs: Path, target: Path) -> Path:
    """A server's programs at another place, with a share folder of their own; the folder of the programs.

    PostgreSQL finds its files relative to its programs. So extensions can be installed for a test by any
    user, without touching the server that the machine has.
    """
    answer = subprocess.run([programs / "pg_config"], capture_output=True, text=True, check=True).stdout
    config = dict(line.split(" = ", 1) for line in answer.splitlines())
    bindir, share, library = (Path(config[name]) for name in ("BINDIR", "SHAREDIR", "PKGLIBDIR"))
    if library.is_relative_to(config["LIBDIR"]):
        library = Path(config["LIBDIR"])
    base = Path(os.path.commonpath([bindir, share, library]))
    home = target / base.parent.name / base.name

    # Copied, because a link would lead back to the original's place.
    (home / bindir.relative_to(base)).mkdir(parents=True)
    for name in ("postgres", "initdb", "pg_ctl", "pg_config", "pg_dump", "psql"):
        shutil.copy(bindir / name, home / bindir.relative_to(base))
    # The libraries that wheels bring along stand beside the package.
    wheel = f"{base.parent.name}.libs"
    if (base.parent.parent / wheel).exists():
        (target / wheel).symlink_to(base.parent.parent / wheel)
    (home / library.relative_to(base)).parent.mkdir(parents=True, exist_ok=True)
    (home / library.relative_to(base)).symlink_to(library)
    for folder, original in [(share, share.iterdir()), (share / "extension", (share / "extension").iterdir())]:
        (home / folder.relative_to(base)).mkdir(parents=True)
        for path in original:
            if path != share / "extension":
                (home / path.relative_to(base)).symlink_to(path)
    return home / bindir.relative_to(base)


@pytest.fixture(scope="module")
def installed(version: str, request: pytest.FixtureRequest, second: Checkout) -> Iterator[Server]:
    """A server into which `make install` has put the extension, with one version more than there is."""
    original: Server = request.getfixturevalue(f"server_{version}")
    folder = Path(tempfile.mkdtemp(prefix="relocated-"))
    folder.chmod(0o755)
    try:
        programs = relocated(original.programs, folder)
        second.run("make", "-s", "-f", "extension.mk", "install", f"PG_CONFIG={programs / 'pg_config'}")
        server = Server(version, programs)
        try:
            server.create()
            yield server
        finally:
            server.remove()
    finally:
        shutil.rmtree(folder)


class Databases:
    """Makes databases on a server, and drops them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.admin = psycopg.connect(server.dsn(), autocommit=True)
        self.opened: list[Connection] = []
        self.names: list[str] = []

    def make(self, name: str) -> Connection:
        self.admin.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        self.names.append(name)
        return self.connect(name)

    def connect(self, name: str, user: str = "postgres") -> Connection:
        conn = psycopg.connect(self.server.dsn(name), user=user, autocommit=True)
        self.opened.append(conn)
        return conn

    def close(self) -> None:
        for conn in self.opened:
            conn.close()
        for name in self.names:
            self.admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
        self.admin.execute("drop role if exists bob")
        self.admin.close()


@pytest.fixture
def databases(installed: Server) -> Iterator[Databases]:
    databases = Databases(installed)
    yield databases
    databases.close()


@pytest.fixture
def conn(databases: Databases) -> Connection:
    return databases.make("one")


def dump_and_restore(server: Server, source: str, target: str) -> None:
    dump = server.run("pg_dump", "-d", server.dsn(source))
    psql = [server.programs / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", server.dsn(target)]
    done = subprocess.run(psql, input=dump.stdout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("schema", ["public", "Billing queue"])
def test_the_extension_leaves_the_catalogue_of_the_migrations(conn: Connection, schema: str) -> None:
    name = sql.Identifier(schema)
    conn.execute(sql.SQL("create schema if not exists {}").format(name))
    conn.execute(sql.SQL(f"create extension pgq_py version '{migrate.HEAD}' schema {{}}").format(name))
    made = fingerprint(conn, schema)
    conn.execute("drop extension pgq_py")
    assert fingerprint(conn, schema) == []
    migrate.upgrade(conn.info.dsn, schema)
    assert made == fingerprint(conn, schema)


def test_the_script_is_the_migration_and_a_trailer(second: Checkout) -> None:
    second.python("tools/make_extension.py")
    for script, start in [("0001", "0001_"), (f"{migrate.HEAD}--{NEXT}", f"{NEXT}_")]:
        (up,) = (
            path for path in (second.root / "migrations/versions").glob(f"{start}*.sql") if ".down" not in path.name
        )
        built = (second.root / f"build/extension/pgq_py--{script}.sql").read_bytes()
        assert built == up.read_bytes() + (ROOT / "tools" / "extension.sql").read_bytes()


@pytest.mark.parametrize("schema", ["public", "Billing queue"])
def test_the_oldest_extension_updated_is_the_newest(conn: Connection, second: Checkout, schema: str) -> None:
    load_sources(conn, second.root, schema)
    newest = fingerprint(conn, schema)
    name = sql.Identifier(schema)
    conn.execute(sql.SQL("drop schema {0} cascade; create schema {0}").format(name))

    conn.execute(sql.SQL("create extension pgq_py version '0001' schema {}").format(name))
    assert fingerprint(conn, schema) != newest
    conn.execute("alter extension pgq_py update")
    assert fingerprint(conn, schema) == newest

    conn.execute("drop extension pgq_py")
    conn.execute(sql.SQL("create extension pgq_py schema {}").format(name))
    assert fingerprint(conn, schema) == newest


def test_an_update_keeps_the_jobs(conn: Connection) -> None:
    conn.execute("create extension pgq_py version '0001'")
    ids = put_jobs_in_every_state(conn)
    jobs = contents(conn)
    conn.execute("alter extension pgq_py update")
    assert conn.execute("select queue_version()").fetchone() == (NEXT,)
    assert contents(conn) == jobs
    assert take_all(conn) == ids
    assert put(conn, "public", "apples", "1") > max(ids)


def test_dropping_the_extension_leaves_nothing(conn: Connection) -> None:
    before = everything(conn)
    conn.execute("create extension pgq_py")
    put(conn, "public", "apples", "1")
    conn.execute("drop extension pgq_py")
    assert everything(conn) == before


@pytest.mark.parametrize("updated", [False, True])
def test_a_dump_holds_the_jobs_and_where_the_ids_are(databases: Databases, conn: Connection, updated: bool) -> None:
    schema = "Billing queue"
    name = sql.Identifier(schema)
    conn.execute(sql.SQL("create schema {0}; create extension pgq_py version '0001' schema {0}").format(name))
    if updated:
        conn.execute("alter extension pgq_py update")
    conn.execute(sql.SQL("set search_path = {}").format(sql.Identifier(schema)))
    for number in range(3):
        put(conn, schema, "apples", str(number))
    conn.execute("delete from queue_job where id = 3")
    conn.execute("select queue_pause('pears')")
    jobs = contents(conn)

    restored = databases.make("two")
    dump_and_restore(databases.server, "one", "two")
    restored.execute(sql.SQL("set search_path = {}").format(sql.Identifier(schema)))
    assert contents(restored) == jobs
    assert put(restored, schema, "apples", "3") == 4
    # A dump names no version: restored, the extension has the newest.
    assert (fingerprint(restored, schema) == fingerprint(conn, schema)) == updated
    assert restored.execute("select extname from pg_extension where extname = 'pgq_py'").fetchone() == ("pgq_py",)


def test_rights_outlive_an_update_and_a_dump(databases: Databases, conn: Connection) -> None:
    conn.execute("create role bob login")
    conn.execute("create extension pgq_py version '0001' schema public")
    conn.execute("select queue_grant('apples', 'bob', 'put'), queue_grant('apples', 'bob', 'get')")
    conn.execute("alter extension pgq_py update")
    bob = databases.connect("one", user="bob")
    bob.execute("select queue_put('apples', '1')")
    # The update has dropped this function and made it anew. What it would grant itself, dumps would leave out.
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        bob.execute("select queue_channel('apples')")
    conn.execute("select queue_maintain()")
    bob.execute("select queue_channel('apples')")

    databases.make("two")
    dump_and_restore(databases.server, "one", "two")
    bob = databases.connect("two", user="bob")
    bob.execute("select queue_channel('apples')")
    assert bob.execute("select data from queue_get('apples')").fetchall() == [(1,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="role bob has no right to put on queue pears"):
        bob.execute("select queue_put('pears', '1')")


def test_an_ordinary_user_creates_and_owns_it(databases: Databases, conn: Connection) -> None:
    conn.execute("create role bob login")
    conn.execute("grant create on database one to bob")
    bob = databases.connect("one", user="bob")
    bob.execute("create schema billing")
    bob.execute("create extension pgq_py version '0001' schema billing")
    assert owners(conn) == {"bob"}
    assert put(bob, "billing", "apples", "1") == 1
    # What an update by a superuser adds is bob's as well: the functions run with their owner's rights.
    conn.execute("alter extension pgq_py update")
    assert conn.execute("select billing.queue_shout()").fetchone() == ("AHA",)
    assert owners(conn) == {"bob"}
    assert put(bob, "billing", "apples", "1") == 2


def owners(conn: Connection) -> set[str]:
    rows = conn.execute(
        "select relowner::regrole::text from pg_class where relnamespace = 'billing'::regnamespace "
        "union select proowner::regrole::text from pg_proc where pronamespace = 'billing'::regnamespace"
    )
    return {row[0] for row in rows.fetchall()}


def by_alembic(dsn: str) -> None:
    try:
        Checkout().alembic(dsn, "upgrade", "head")
    except AssertionError as error:
        raise MigrationError(str(error)) from error


@pytest.mark.parametrize("move", [migrate.upgrade, migrate.downgrade, by_alembic])
def test_a_migration_refuses_what_belongs_to_the_extension(conn: Connection, move: Callable[[str], None]) -> None:
    conn.execute("create extension pgq_py version '0001'")
    before = everything(conn)
    with pytest.raises(MigrationError, match="ALTER EXTENSION pgq_py UPDATE"):
        move(conn.info.dsn)
    assert everything(conn) == before
    # Another schema is free.
    migrate.upgrade(conn.info.dsn, "beside")
    assert put(conn, "beside", "apples", "1") == put(conn, "public", "apples", "1") == 1


def test_install_respects_destdir_and_uninstall_takes_it_away(
    installed: Server, second: Checkout, tmp_path: Path
) -> None:
    make = ["make", "-s", "-f", "extension.mk", f"PG_CONFIG={installed.programs / 'pg_config'}", f"DESTDIR={tmp_path}"]
    second.run(*make, "install")
    names = ["pgq_py--0001.sql", f"pgq_py--{migrate.HEAD}--{NEXT}.sql", "pgq_py.control"]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set(names)
    second.run(*make, "uninstall")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_install_without_pg_config_says_what_to_give(second: Checkout) -> None:
    done = second.run("make", "-s", "-f", "extension.mk", "install", "PG_CONFIG=/nowhere/pg_config", check=False)
    assert done.returncode != 0
    assert "give PG_CONFIG=" in done.stdout


def test_postgresql_18_takes_it_straight_from_a_folder(server: Server, version: str, tmp_path: Path) -> None:
    copy = Checkout.copy_to(tmp_path / "copy")
    copy.python("tools/make_extension.py")
    # The server is another user, whom pytest keeps out of its folders.
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.owner() == tmp_path.owner() and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o055)
    databases = Databases(server)
    try:
        conn = databases.make("straight")
        if int(version) < 18:
            # Older ones have no such setting: there it is `make install` alone, as in the tests above.
            with pytest.raises(psycopg.errors.UndefinedObject):
                conn.execute("set extension_control_path = '$system'")
            return
        conn.execute(sql.SQL("set extension_control_path = {}").format(sql.Literal(f"{copy.root / 'build'}:$system")))
        conn.execute("create extension pgq_py")
        made = fingerprint(conn)
        conn.execute("drop extension pgq_py")
        migrate.upgrade(conn.info.dsn)
        assert fingerprint(conn) == made
    finally:
        databases.close()

"""Fixtures: servers, and for each test an empty database, cloned from a template or cleaned after the last test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
from checkout import Checkout, with_second_version
from psycopg import sql
from pytest_postgresql import factories
from pytest_postgresql.janitor import DatabaseJanitor
from servers import Server, find_servers

ROOT = Path(__file__).parent.parent
FOUND = find_servers()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pg",
        action="append",
        choices=sorted(FOUND),
        help="test on this version of PostgreSQL (may be repeated); by default on all that are present",
    )


def pytest_configure() -> None:
    # A shell starts what it runs in the background with Control-C ignored, and so would be our
    # children and the tests of KeyboardInterrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Where useradd is; a plain `su` to root leaves it out.
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def pytest_report_header(config: pytest.Config) -> str:
    return "PostgreSQL: " + ", ".join(versions(config))


def versions(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--pg") or sorted(FOUND, reverse=True)
    return [version for version in FOUND if version in chosen]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "version" in metafunc.fixturenames:
        since = metafunc.definition.get_closest_marker("since")
        only = metafunc.definition.get_closest_marker("on")
        found = [v for v in versions(metafunc.config) if since is None or int(v) >= since.args[0]]
        found = [v for v in found if only is None or int(v) == only.args[0]]
        if found and not metafunc.config.getoption("--pg"):
            newest, oldest = max(found, key=int), min(found, key=int)
            name = metafunc.definition.path.name
            if name.startswith("test_py_"):
                # What Python does with the answers hardly depends on who gives them; and the documents,
                # the command line and the demo run on all.
                found = [newest]
            elif metafunc.definition.get_closest_marker("long") or (
                # Those in the middle differ by how they plan, and by what their catalogues hold.
                name.startswith(("test_sql_", "test_isolation"))
                and name not in ("test_sql_plans.py", "test_sql_head.py", "test_sql_audit.py")
            ):
                found = [v for v in found if v in (newest, oldest)]
        metafunc.parametrize("version", found, ids=[f"pg{v}" for v in found], scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The torture first: of several processes one would be at it for minutes when the others are done."""
    items.sort(key=lambda item: item.path.name != "test_soak.py")


def install(host: str, port: int, user: str, dbname: str, password: str | None = None, **_: Any) -> None:
    """Load the queue into the template, from the text of sql/ (that migrations do the same is a test)."""
    files = [ROOT / "sql" / "schema.sql", *sorted((ROOT / "sql" / "functions").glob("*.sql"))]
    with psycopg.connect(host=host, port=port, user=user, dbname=dbname) as conn:
        conn.execute("set local search_path to public, pg_temp")
        for file in files:
            conn.execute(file.read_bytes())


def _fixtures_for(version: str) -> None:
    """pytest-postgresql makes fixtures by name: a server, a template database on it, a clone for each test."""

    @pytest.fixture(scope="session")
    def running() -> Iterator[Server]:
        server = Server(version, FOUND[version])
        try:
            server.create()
            yield server
        finally:
            server.remove()

    globals()[f"server_{version}"] = running
    globals()[f"template_{version}"] = factories.postgresql_noproc(
        depends_on=f"server_{version}", dbname=f"queue{version}", load=[install]
    )

    @pytest.fixture(scope="session")
    def clones(request: pytest.FixtureRequest) -> Iterator[Clones]:
        kept = Clones(request.getfixturevalue(f"template_{version}"))
        yield kept
        kept.drop()

    globals()[f"clones_{version}"] = clones


for _version in FOUND:
    _fixtures_for(_version)


@pytest.fixture
def server(version: str, request: pytest.FixtureRequest) -> Server:
    """A running server, shared by the tests of the session: don't stop it."""
    found: Server = request.getfixturevalue(f"server_{version}")
    return found


class Database:
    """A database of one test: where it is, and connections that are closed with it."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.dsn = server.dsn(name)
        self._opened: list[psycopg.Connection[Any]] = []

    def connect(self, autocommit: bool = True, **options: Any) -> psycopg.Connection[Any]:
        conn = psycopg.connect(self.dsn, autocommit=autocommit, **options)
        self._opened.append(conn)
        return conn

    def close(self) -> None:
        for conn in self._opened:
            conn.close()


# What a test may have left in the catalogue: anything but rows in the queue's tables. Of pg_class what a
# truncate does not change.
CATALOGUE = " union all ".join(
    f"select concat_ws(' ', '{table}', {columns}) from {table} where {rows}"
    for table, columns, rows in [
        (
            "pg_class",
            "oid, relname, relnamespace, relowner, relacl, reloptions, relhasindex, relhastriggers, relrowsecurity",
            "oid >= 16384 and relpersistence <> 't'",
        ),
        ("pg_attribute", "attrelid, attnum, xmin", "attrelid >= 16384 and attrelid::regclass::text !~ '^pg_temp'"),
        ("pg_attrdef", "oid, xmin", "oid >= 16384"),
        ("pg_constraint", "oid, xmin", "oid >= 16384"),
        ("pg_index", "indexrelid, xmin", "indexrelid >= 16384 and indexrelid::regclass::text !~ '^pg_temp'"),
        ("pg_statistic_ext", "oid, xmin", "true"),
        ("pg_publication", "oid, xmin", "true"),
        ("pg_policy", "oid, xmin", "true"),
        ("pg_proc", "oid, xmin", "oid >= 16384"),
        ("pg_operator", "oid, xmin", "oid >= 16384"),
        ("pg_namespace", "oid, xmin", "nspname !~ '_temp_'"),
        ("pg_extension", "oid, xmin", "true"),
        ("pg_trigger", "oid, xmin", "true"),
        ("pg_type", "oid, xmin", "oid >= 16384 and typnamespace::regnamespace::text !~ '_temp_'"),
    ]
)
LEFT = f"""
    select
        (select count(*) from pg_prepared_xacts where database = current_database())
            + (select count(*) from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
               where datname = current_database()),
        (select md5(string_agg(x, ',' order by x)) from ({CATALOGUE}) as c (x))
"""
# The tables that are not as they were made, or whose ids have begun. To truncate one takes some milliseconds, and
# most tests leave all but one or two alone.
USED = """
    select string_agg(oid::regclass::text, ', ')
    from pg_class
    where relname in ('queue_job', 'queue_dead', 'queue_setting', 'queue_tally', 'queue_total', 'queue_right')
        and relkind = 'r'
        and relnamespace = 'public'::regnamespace
        and (
            pg_relation_size(oid) > 0 or reltuples <> -1
            or relname = 'queue_job' and (select is_called or last_value > 1 from queue_job_id_seq)
            or relname = 'queue_total' and (select is_called or last_value > 1 from queue_total_id_seq)
        )
"""
OTHERS = """
    select pid from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""


def disconnect_others(conn: psycopg.Connection[Any]) -> None:
    """Until nobody else is connected. Those that were closed just now end by themselves, in milliseconds."""
    patient_until = monotonic() + 0.1
    while others := conn.execute(OTHERS).fetchall():
        if monotonic() > patient_until:
            conn.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) pid", [[pid for (pid,) in others]])


class Clones:
    """Gives out a clone of the template, the same one again as long as the tests left nothing but jobs in it.

    A clone takes 0.1 to 0.4 s, emptying the tables a tenth of that, and there are thousands of tests.
    """

    def __init__(self, template: Any) -> None:
        self.name = f"{template.dbname}_clone"
        self.janitor = DatabaseJanitor(
            user=template.user,
            host=template.host,
            port=template.port,
            dbname=self.name,
            template_dbname=template.template_dbname,
        )
        # As it was when it was made; None where it is to be made anew.
        self._catalogue: Any = None

    def get(self, server: Server) -> Database:
        """An empty database with the queue installed."""
        database = Database(server, self.name)
        if self._catalogue is None:
            self.janitor.drop()
            self.janitor.init()
            with psycopg.connect(database.dsn, autocommit=True) as conn:
                self._catalogue = conn.execute(LEFT).fetchone()
        return database

    def put_back(self, database: Database) -> None:
        """Empty it; throw it away if the test left more than jobs."""
        database.close()
        with psycopg.connect(database.dsn, autocommit=True) as conn:
            disconnect_others(conn)
            if conn.execute(LEFT).fetchone() == self._catalogue:
                (used,) = conn.execute(USED).fetchone() or [None]
                if used is not None:
                    conn.execute(f"truncate {used} restart identity")
                # As if nobody had ever analyzed them.
                conn.execute(
                    "delete from pg_statistic where starelid >= 16384; delete from pg_statistic_ext_data; "
                    "select pg_stat_reset()"
                )
            else:
                self._catalogue = None

    def drop(self) -> None:
        """At the end of the session."""
        self.janitor.drop()


@pytest.fixture
def database(version: str, server: Server, request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database with the queue installed in the schema public."""
    clones: Clones = request.getfixturevalue(f"clones_{version}")
    database = clones.get(server)
    yield database
    clones.put_back(database)


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    """An autocommit connection to the test's database."""
    return database.connect()


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the repository with one version more. To be read only."""
    return with_second_version(tmp_path_factory.mktemp("second"))


class Roles:
    """Makes roles, which all databases of a server share, and takes them away with all that they were given."""

    def __init__(self, database: Database) -> None:
        self._conn = database.connect()
        self._database = database
        self._made: list[str] = []

    def make(self, *names: str, options: str = "login") -> None:
        for name in names:
            self._conn.execute(sql.SQL("create role {} {}").format(sql.Identifier(name), sql.SQL(options)))
            self._made.append(name)

    def connect(self, name: str, **options: Any) -> psycopg.Connection[Any]:
        """A connection of this role."""
        return self._database.connect(user=name, **options)

    def drop(self) -> None:
        for name in reversed(self._made):
            known = self._conn.execute("select from pg_roles where rolname = %s", [name]).fetchone()
            if known is not None:
                self._conn.execute(sql.SQL("drop owned by {0} cascade; drop role {0}").format(sql.Identifier(name)))


@pytest.fixture
def roles(database: Database) -> Iterator[Roles]:
    """Roles for the time of one test."""
    roles = Roles(database)
    yield roles
    roles.drop()
